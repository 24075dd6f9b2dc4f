"""A back-end on the crash model, whose power fails at any moment."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any
from unittest import mock

import rnvm
import structures
from rfp import address as addresses
from rnvm.check import check
from rnvm.media.medium import VolatileMemory
from rnvm.pool.pool import Pool, format_medium
from rnvm.sizes import Sizes
from rnvm.testing.crash_model import Crashes, Model

PAGE = 4096
PIECE = 1 << 16


RING = 192 << 10
"""Enough for each operation of each structure, and little enough to be filled."""
SIZES = Sizes(
    block=1024, names=128, sessions=7, operation_ring=RING, memory_ring=RING, group_map=1024
)
LENGTH = -(-(SIZES.groups_at + SIZES.group_map + 800 * SIZES.block) // PAGE) * PAGE


class Power:
    """Serves a model of memory or of a disk.  kind: of model; lease: seconds."""

    def __init__(self, kind: str, lease: float) -> None:
        self.kind, self.lease = kind, lease
        self.address = str(addresses.unique())
        self.stack = contextlib.ExitStack()
        self.stack.enter_context(
            mock.patch.object(structures.hash_table, "os", SimpleNamespace(urandom=bytes))
        )
        self.model = Model(LENGTH, kind, shared=True)
        format_medium(self.model, SIZES)
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
        self.model = Model(LENGTH, self.kind, content=image, shared=True)
        self.serve()

    def restart(self) -> None:
        """Ends the back-end in order, and begins it again."""
        self.backend.close()
        self.go_on(Crashes(self.model).at_point(self.moment, 0))

    def end(self) -> check.Checked:
        """What `rnvm check` finds in the end."""
        self.backend.close()
        image = Crashes(self.model).at_point(self.moment, 0)
        with contextlib.closing(VolatileMemory(LENGTH)) as view:
            for at in range(0, LENGTH, PIECE):
                view.poke(at, image[at : at + PIECE])
            return check.check_copy(view)

    def close(self) -> None:
        self.backend.close()
        self.stack.close()
