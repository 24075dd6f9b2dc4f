"""Crashes of a file whose sectors survive in any order.

All drained bytes are there, and no byte that was never sent.  test_crashes tests the pool's code on
a model of the contract; this file tests the medium of files on a model of a disk.
"""

from __future__ import annotations

import errno
import math
import random
import time

import pytest

from rfp.errors import StorageFailed
from rnvm import sizes
from rnvm.media import wal
from rnvm.media.file import File, FileMedium
from rnvm.pool.pool import format_medium
from rnvm.testing.crash_model import Model
from rnvm.testing.recording_file import RecordingFile

from .disk import Disk

PAGE, WORD = 4096, 8
SIZES = sizes.Sizes(
    block=512,
    names=1,
    sessions=1,
    operation_ring=4096,
    memory_ring=4096,
    group_map=512,
    wal=10 * PAGE,
)
LENGTH = SIZES.groups_at + 10 * PAGE
DATA = SIZES.groups_at  # bytes that only the test uses
AREA = (SIZES.wal_at, SIZES.wal_at + SIZES.wal)
PLACES = LENGTH - DATA


def fresh() -> bytes:
    model = Model(LENGTH, "sectors")
    format_medium(model, SIZES)
    return model.crash(model.events_so_far, 0)


FRESH = fresh()


class Wrong(AssertionError):
    pass


class Run:
    """An image at work, and for each of its words the values that a crash may leave."""

    def __init__(
        self, content: bytes, may: dict[int, set[bytes]], rng: random.Random, deaf: bool = False
    ) -> None:
        self.rng = rng
        self.tape = RecordingFile(content, AREA, deaf)
        self.image = FileMedium(LENGTH, file=self.tape)
        self.may = {word: set(values) for word, values in may.items()}
        # (events so far, the values that are allowed from here on)
        self.history: list[tuple[int, dict[int, set[bytes]]]] = []
        for word, values in self.may.items():
            if (now := self.word(word)) not in values:
                raise Wrong(f"the word at {word} is {now!r}, and not of {values!r}")
        others = bytearray(self.image.read(0, LENGTH))
        for word in self.may:
            others[word : word + WORD] = FRESH[word : word + WORD]
        if others[DATA:] != FRESH[DATA:] or others[: AREA[0]] != FRESH[: AREA[0]]:
            raise Wrong("a byte changed that was never sent")
        self.remember()

    def word(self, at: int) -> bytes:
        return self.image.read(at, WORD)

    def remember(self) -> None:
        self.history.append(
            (len(self.tape.events), {word: set(values) for word, values in self.may.items()})
        )

    def store(self, at: int, data: bytes, how: str) -> None:
        """Store and send: a crash may now leave the new bytes, and the old ones until a drain."""
        words = range(at // WORD * WORD, at + len(data), WORD)
        for word in words:
            self.may.setdefault(word, {self.word(word)})
        if how == "flush":
            self.image.poke(at, data)
            self.image.flush(at, len(data))
        elif how == "word":
            self.image.write64(at, int.from_bytes(data, "little"))
        else:
            self.image.write(at, data)
        for word in words:
            self.may[word].add(self.word(word))
        self.remember()

    def drain(self) -> None:
        # The writes of the drain itself may have survived, and need not: that is allowed.
        self.image.drain()
        for word in self.may:
            self.may[word] = {self.word(word)}
        self.remember()

    def step(self) -> None:
        rng = self.rng
        kind = rng.choices(
            ["write", "word", "flush", "large", "many", "drain"], [10, 6, 6, 1, 0.3, 12]
        )[0]
        if kind == "drain":
            self.drain()
        elif kind == "word":
            self.store(DATA + rng.randrange(PLACES // WORD) * WORD, rng.randbytes(WORD), "word")
        elif kind == "many":
            for _ in range(40):
                self.store(
                    DATA + rng.randrange(PLACES - 100), rng.randbytes(rng.randrange(1, 40)), "write"
                )
        else:
            most = 3 * PAGE if kind == "large" else rng.choice([8, 64, 600])
            n = rng.randrange(1, most)
            self.store(
                DATA + rng.randrange(PLACES - n),
                rng.randbytes(n),
                "write" if kind == "large" else kind,
            )

    def all_points(self, again: int, each: int = 1) -> int:
        """Crash after every event; open, check and use the remains, and crash again.

        Returns:
            The number of crashes.
        """
        disk, number, done = Disk(self.tape, AREA), 0, 0
        for point in range(len(self.tape.events) + 1):
            while number + 1 < len(self.history) and self.history[number + 1][0] <= point:
                number += 1
            disk.advance(point)
            # A drain that has returned by this event is binding; one in progress is not yet.
            allowed = self.history[number][1] if self.history[number][0] <= point else {}
            for _ in range(each):
                run = Run(disk.crash(self.rng), allowed, self.rng, self.tape.deaf)
                done += 1
                if again:
                    run.recover()
                    for _ in range(self.rng.randrange(6)):
                        run.step()
                    done += run.all_points(again - 1)
                run.image.close()
        return done

    def recover(self) -> None:
        """Make the recovered bytes durable, as the pool does."""
        for word in self.may:
            self.may[word] = {self.word(word)}
        # Until that is drained, a second crash may still leave what the first one could have left.
        for word, values in self.history[0][1].items():
            self.may[word] |= values
        self.history[0] = (0, {word: set(values) for word, values in self.may.items()})
        self.image.flush(DATA, PLACES)
        self.drain()


def run_many(
    seed: int, runs: int, steps: int = 60, deaf: bool = False, run_ends: float = math.inf
) -> int:
    done = 0
    for number in range(runs):
        if time.monotonic() > run_ends:
            break
        rng = random.Random(seed * 1000 + number)
        run = Run(FRESH, {}, rng, deaf)
        for _ in range(steps):
            run.step()
        done += run.all_points(again=1)
        run.image.close()
    return done


def test_drained_bytes_survive_a_crash_at_any_moment(seed):
    assert run_many(seed % 100_000, 3) > 500


@pytest.mark.long
@pytest.mark.timeout(900)
def test_drained_bytes_survive_each_of_very_many_crashes(seed, run_ends):
    run_many(seed % 100_000, 40, 150, run_ends=run_ends)


BUGS = ["no CRC", "same generation", "no padding", "reused before it was written back"]


@pytest.mark.planted
@pytest.mark.parametrize("bug", BUGS)
def test_the_disk_model_catches(bug):
    try:
        wal.plant(*[bug] if bug in wal.bugs else [])
        for seed in range(40):
            try:
                run_many(seed, 1, deaf=bug == BUGS[3])
            except Wrong:
                return
    finally:
        wal.plant()
    pytest.fail("no check failed")


# --- One after the other


def frames(content: bytes) -> int:
    area = wal.describe(FileMedium(LENGTH, file=RecordingFile(content)))
    assert area is not None
    return area["frames"]


def written(tape: RecordingFile) -> bytes:
    """Return the file with all writes applied."""
    disk = Disk(tape, AREA)
    disk.advance(len(tape.events))
    return bytes(disk.view)


def test_a_drain_is_one_write_and_one_sync_however_much_was_sent():
    tape = RecordingFile(FRESH, AREA)
    image = FileMedium(LENGTH, file=tape)
    image.write(DATA, b"first")
    image.drain()  # the log starts again
    for number in range(5):
        before = len(tape.events)
        for place in range(0, 10 * PAGE, PAGE):
            image.write(DATA + place, b"%d" % number)
        image.drain()
        assert [event and event[0] for event in tape.events[before:]] == [
            AREA[0] + (2 + number) * PAGE,
            None,
        ]
        image.drain()  # without changes
        assert len(tape.events) == before + 2
    assert frames(written(tape)) == 5


def test_a_closed_file_is_complete_without_its_write_ahead_log():
    tape = RecordingFile(FRESH, AREA)
    image = FileMedium(LENGTH, file=tape)
    for _ in range(3):
        image.write(DATA + 100, random.Random(1).randbytes(5000))
        image.drain()
    image.write(DATA + 9000, b"not drained")
    image.close()
    left = written(tape)
    assert frames(left) == 0
    assert left[DATA + 100 : DATA + 5100] == random.Random(1).randbytes(5000)
    assert left[DATA + 9000 : DATA + 9011] == b"not drained"


@pytest.mark.parametrize("direct", [True, False])
def test_frames_reach_a_real_file_past_the_page_cache_or_through_it(tmp_path, direct):
    path = tmp_path / "file"
    path.write_bytes(FRESH)
    with open(path, "r+b") as opened:
        image = FileMedium(LENGTH, file=File(opened.fileno(), direct))
    for number in range(20):  # the log starts again in the meantime
        image.write(DATA + 100 * number, b"%04d" % number)
        image.drain()
        again = FileMedium(LENGTH, file=RecordingFile(path.read_bytes()))
        assert again.read(DATA + 100 * number, 4) == b"%04d" % number
    assert image.counters["frames"] > 10
    image.close()
    left = path.read_bytes()
    assert all(left[DATA + 100 * number :][:4] == b"%04d" % number for number in range(20))


def test_a_file_without_sent_bytes_is_not_changed():
    tape = RecordingFile(FRESH, AREA)
    image = FileMedium(LENGTH, file=tape)
    for number in range(3):
        image.write(DATA, b"%d" % number)
        image.drain()
    left = written(tape)
    assert frames(left) == 2
    again = RecordingFile(left, AREA)
    image = FileMedium(LENGTH, file=again)
    assert image.read(DATA, 1) == b"2"
    image.close()
    assert again.events == []


def test_a_failed_medium_stays_failed_and_its_log_has_all_acknowledged_bytes():
    tape = RecordingFile(FRESH, AREA)
    image = FileMedium(LENGTH, file=tape)
    for number in range(3):
        image.write(DATA, b"%d" % number)
        image.drain()
    image.break_sync(errno.EIO)
    image.write(DATA + 8, b"lost")
    with pytest.raises(StorageFailed):
        image.drain()
    image.break_sync(0)
    with pytest.raises(StorageFailed):
        image.drain()
    before = len(tape.events)
    image.close()
    assert len(tape.events) == before
    assert FileMedium(LENGTH, file=RecordingFile(written(tape))).read(DATA, 1) == b"2"


def test_closing_raises_if_the_file_fails_then():
    tape = RecordingFile(FRESH, AREA)
    image = FileMedium(LENGTH, file=tape)
    for _ in range(2):
        image.write(DATA, b"kept")
        image.drain()
    image.break_sync(errno.EIO)
    with pytest.raises(StorageFailed):
        image.close()
    image.close()
    assert FileMedium(LENGTH, file=RecordingFile(written(tape))).read(DATA, 4) == b"kept"
