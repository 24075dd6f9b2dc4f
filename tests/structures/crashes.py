"""Random histories of structures, through front-ends and a back-end on the crash model, and what has to be true after a crash.

Every operation is acknowledged before the next one begins, so the contents after a crash are those after the last operation that
had been acknowledged, or after the one that was under way: of all structures together, whichever front-end did what.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from unittest import mock

import rnvm
import structures
from rfp.errors import RfpError
from rnvm.pool.pool import Pool, format_medium
from rnvm.sizes import Sizes
from rnvm.testing.crash_model import Crashes, Model

from .workload import Contents, Handles, Plan, Seen

PAGE = 4096
SIZES = Sizes(
    block=1024, names=8, sessions=4, operation_ring=2 * PAGE, memory_ring=8 * PAGE, group_map=1024
)
LENGTH = -(-(SIZES.groups_at + SIZES.group_map + 512 * SIZES.block) // PAGE) * PAGE


class Wrong(AssertionError):
    """What was there after a crash contradicts what had been acknowledged."""


@contextlib.contextmanager
def served(model: Model) -> Iterator[Callable[[], Handles]]:
    """A back-end on the model, and a way to make front-ends."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(
            mock.patch.object(structures.hash_table, "os", SimpleNamespace(urandom=bytes))
        )
        backend = stack.enter_context(rnvm.Backend(Pool(model)))
        yield lambda: Handles(stack.enter_context(rnvm.connect(backend.address, timeout=30)))


class History:
    """What was done to a pool, and when it was begun and acknowledged, in events of the model.

    plant: called with the model, to plant a bug in what follows the making of the structures.
    """

    def __init__(
        self,
        rng: random.Random,
        kind: str,
        steps: int,
        plant: Callable[[Model], None] | None = None,
    ) -> None:
        self.rng = rng
        self.model = Model(LENGTH, kind, shared=True)
        self.begun: list[int] = []
        self.after: list[Contents] = []
        self.acknowledged: list[int] = []
        format_medium(self.model, SIZES)
        with served(self.model) as connect:
            both = [connect(), connect()]
            self.begin(Contents())
            self.end()
            if plant:
                plant(self.model)
            plan = Plan(rng)
            for _ in range(steps):
                plan.step().run(rng.choice(both), self.begin, self.end)
        self.acknowledged.append(self.acknowledged[-1] + 1)  # of what would have come next

    def begin(self, contents: Contents) -> None:
        self.begun.append(self.model.events_so_far)
        self.after.append(contents)

    def end(self) -> None:
        self.acknowledged.append(self.model.events_so_far)

    def crash(self, points: int, *, again: int = 0) -> int:
        """Looks at what crashes at so many points leave, and at `again` crashes of each recovery; returns how many were looked at."""
        crashes, looked = Crashes(self.model), 0
        for point in sorted(
            self.rng.choices(range(self.begun[0], self.acknowledged[-1]), k=points)
        ):
            allowed = [
                contents.seen()
                for contents, begun, following in zip(
                    self.after, self.begun, self.acknowledged[1:], strict=True
                )
                if begun <= point < following
            ]
            looked += self.look(
                crashes.at_point(point, self.rng.getrandbits(64)),
                allowed,
                f"after event {point}",
                again,
            )
        return looked

    def look(self, image: bytes, allowed: list[Seen], when: str, again: int) -> int:
        """Recovers, compares, and goes on; then crashes what it has just done up to the comparison."""
        model = Model(LENGTH, self.model.kind, content=image, shared=True)
        try:
            with served(model) as connect:
                at = connect()
                found = at.seen()
                at.check()
                if found not in allowed:
                    raise Wrong(f"a crash {when} left {found}, and not one of {allowed}")
                recovered = model.events_so_far
                at.queue.put(b"it goes on")
                if list(at.queue) != [*found[0], b"it goes on"]:
                    raise Wrong(f"a crash {when}: after its recovery the queue does not go on")
        except RfpError as error:
            raise Wrong(f"a crash {when}: {error}") from error
        looked, crashes = 1, Crashes(model)
        for point in sorted(self.rng.choices(range(recovered + 1), k=again)):
            looked += self.look(
                crashes.at_point(point, self.rng.getrandbits(64)),
                allowed,
                f"{when}, and {point} later again",
                0,
            )
        return looked
