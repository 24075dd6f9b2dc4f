"""A model of a disk, whose sectors survive a crash in any order."""

from __future__ import annotations

import random

from rnvm.testing.recording_file import RecordingFile

SECTOR = 512


class Disk:
    """The state that a crash of a tape can leave.

    Each sector that was written since the last sync is as a write left it, or as before.
    """

    def __init__(self, tape: RecordingFile, area: tuple[int, int]) -> None:
        self.tape = tape
        self.area = area
        self.at = 0
        self.durable = bytearray(tape.content)
        self.view = bytearray(tape.content)
        self.pending: dict[int, list[bytes]] = {}

    def advance(self, point: int) -> None:
        while self.at < point:
            event = self.tape.events[self.at]
            self.at += 1
            if event is None:
                for sector, versions in self.pending.items():
                    self.durable[sector : sector + SECTOR] = versions[-1]
                self.pending.clear()
                continue
            place, data = event
            self.view[place : place + len(data)] = data
            for sector in range(place // SECTOR * SECTOR, place + len(data), SECTOR):
                self.pending.setdefault(sector, []).append(
                    bytes(self.view[sector : sector + SECTOR])
                )

    def crash(self, rng: random.Random) -> bytes:
        left = bytearray(self.durable)
        likely = rng.choice([0, 0.2, 0.5, 0.8, 1])
        for sector, versions in self.pending.items():
            if rng.random() < likely:
                left[sector : sector + SECTOR] = rng.choice(versions[-1:] + versions)
            elif self.area[0] <= sector < self.area[1] and rng.random() < 0.1:
                # A sector of the log may also be lost while it is written: none may be needed.
                left[sector : sector + SECTOR] = rng.randbytes(SECTOR)
        return bytes(left)
