"""A back-end on the crash model, whose power fails at any moment."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any
from unittest import mock

import rnvm
import structures
from rfp import address as addresses
from rnvm import check
from rnvm._crash import Crashes, Model
from rnvm._persistence import Private
from rnvm.pool._pool import Pool, format_medium
from rnvm.sizes import Sizes

PAGE = 4096
PIECE = 1 << 16


def sizes(ring: int) -> Sizes:
    """With logs of so many bytes."""
    return Sizes(block=1024, names=128, sessions=8, operation_ring=ring, memory_ring=ring, group_map=1024)


class Power:
    """Serves a model of memory or of a disk.  kind: of model; ring: bytes of each log; lease: seconds; blocks: for data."""

    def __init__(self, kind: str, ring: int, lease: float, blocks: int = 1500) -> None:
        self.kind, self.lease = kind, lease
        parts = sizes(ring)
        self.length = -(-(parts.groups_at + parts.group_map + blocks * parts.block) // PAGE) * PAGE
        self.address = str(addresses.unique())
        self.stack = contextlib.ExitStack()
        self.stack.enter_context(mock.patch.object(structures._hashtable, "os", SimpleNamespace(urandom=bytes)))
        self.model = Model(self.length, kind, shared=True)
        format_medium(self.model, parts)
        self.serve()

    def serve(self) -> None:
        self.backend = rnvm.Backend(Pool(self.model), address=self.address, lease=self.lease)

    def connect(self, far: bool, **options: Any) -> rnvm.FrontEnd:
        return rnvm.connect(self.address + "?rtt=2us" * far, **options)

    @property
    def moment(self) -> int:
        return self.model.events_so_far

    def fail(self, begun: int, part: float, seed: int) -> bytes:
        """What is left when the power fails, a part of what happened since then."""
        point = begun + round(part * (self.moment - begun))
        return Crashes(self.model).at_point(point, seed)

    def go_on(self, image: bytes) -> None:
        """Serves what a crash has left; no front-end is there any more."""
        self.backend.close()
        self.model = Model(self.length, self.kind, content=image, shared=True)
        self.serve()

    def restart(self) -> None:
        """Ends the back-end in order, and begins it again."""
        self.backend.close()
        self.go_on(Crashes(self.model).at_point(self.moment, 0))

    def end(self) -> check.Checked:
        """What `rnvm check` finds in the end."""
        self.backend.close()
        image = Crashes(self.model).at_point(self.moment, 0)
        with contextlib.closing(Private(self.length)) as view:
            for at in range(0, self.length, PIECE):
                view.poke(at, image[at : at + PIECE])
            return check.check_copy(view)

    def close(self) -> None:
        self.backend.close()
        self.stack.close()
