"""A back-end on the crash model, with power failures at any moment."""

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
PIECE_BYTES = 1 << 16
RING_BYTES = 192 << 10  # large enough for each operation, and small enough to be filled
SIZES = Sizes(
    block=1024,
    names=128,
    sessions=7,
    operation_ring=RING_BYTES,
    memory_ring=RING_BYTES,
    group_map=1024,
)
LENGTH = -(-(SIZES.groups_at + SIZES.group_map + 800 * SIZES.block) // PAGE) * PAGE


class Power:
    """Serves a model of memory or of a disk.

    Args:
        kind: of the crash model.
        lease: in seconds.
    """

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

    def connect(self, remote: bool, **options: Any) -> rnvm.FrontEnd:
        return rnvm.connect(self.address + "?rtt=2us" * remote, **options)

    @property
    def moment(self) -> int:
        return self.model.events_so_far

    def fail(self, begun: int, part: float, seed: int) -> bytes:
        """Return the content after a power failure in a part of the events since `begun`."""
        point = begun + round(part * (self.moment - begun))
        return Crashes(self.model).at_point(point, seed)

    def recover(self, image: bytes) -> None:
        """Serve the content that a crash left; all front-ends are closed."""
        self.backend.close()
        self.model = Model(LENGTH, self.kind, content=image, shared=True)
        self.serve()

    def restart(self) -> None:
        """Close the back-end in order, and start it again."""
        self.backend.close()
        self.recover(Crashes(self.model).at_point(self.moment, 0))

    def end(self) -> check.Checked:
        """Close the back-end, and return the findings of `rnvm check`."""
        self.backend.close()
        image = Crashes(self.model).at_point(self.moment, 0)
        with contextlib.closing(VolatileMemory(LENGTH)) as view:
            for at in range(0, LENGTH, PIECE_BYTES):
                view.poke(at, image[at : at + PIECE_BYTES])
            return check.check_copy(view)

    def close(self) -> None:
        self.backend.close()
        self.stack.close()
