"""Persistent memory for a machine: a file on this computer.

It survives the machine's sudden end as an NVDIMM survives a power failure.

It can show recovery, ordering and reopening.  It cannot show a missing flush: the emulated
processor has no cache to lose, so a store that was never flushed survives too.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .errors import MachineError

MODES = ("fsdax", "devdax")
UNITS = {"MiB": 1 << 20, "GiB": 1 << 30}


@dataclass
class Image:
    """One NVDIMM: its file, its size in bytes, and its mode.

    The guest mounts it (fsdax) or uses it as a device (devdax).
    """

    path: Path
    size: int
    mode: str = "fsdax"
    new: bool = False  # not formatted yet

    @property
    def file(self) -> Path:
        """Return the present file.

        It has another name until it is formatted, so that a run which dies before leaves no image.
        """
        return self.path.with_name(self.path.name + ".new") if self.new else self.path

    @contextmanager
    def inserted(self) -> Iterator[None]:
        """Hold the image for a machine.

        It is created if it is missing, and locked, since two machines would destroy it.
        """
        self.new = not self.path.exists()
        descriptor = os.open(self.file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise MachineError(f"{self.path} is in use by another machine") from None
            if self.new:
                os.ftruncate(descriptor, 0)
                os.ftruncate(descriptor, self.size)
            elif os.fstat(descriptor).st_size != self.size:
                raise MachineError(
                    f"{self.path} has {os.fstat(descriptor).st_size} bytes, not {self.size}"
                )
            try:
                yield
            finally:
                if self.new:
                    self.file.unlink()
        finally:
            os.close(descriptor)

    def formatted(self) -> None:
        """Record that the guest has formatted it."""
        if self.new:
            self.file.rename(self.path)
            self.new = False


def parse(text: str) -> Image:
    """Parse `IMAGE:SIZE` or `IMAGE:SIZE:MODE`, as in `pool.img:256MiB:devdax`.

    A bare number is in MiB.
    """
    found = re.fullmatch(
        r"(?P<path>.+?):(?P<number>[0-9]+)(?P<unit>MiB|GiB)?(:(?P<mode>\w+))?", text
    )
    if not found or (found["mode"] or "fsdax") not in MODES:
        raise MachineError(
            f"invalid --pmem {text} (expected IMAGE:SIZE or "
            "IMAGE:SIZE:MODE, as in pool.img:256MiB:devdax)"
        )
    size = int(found["number"]) * UNITS[found["unit"] or "MiB"]
    if size < 64 << 20 or size % (2 << 20):
        raise MachineError(
            f"invalid --pmem {text}: the size must be at least 64 MiB and a multiple of 2 MiB"
        )
    return Image(Path(found["path"]).resolve(), size, found["mode"] or "fsdax")
