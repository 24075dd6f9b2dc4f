"""Random histories of structures on the crash model, and conditions after a crash.

They run through front-ends and a back-end on the model.  Every operation is acknowledged before the
next one begins, so the contents after a crash are those after the last acknowledged operation, or
after the one that was in flight: of all structures together, whichever front-end executed it.
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
    block=1024, names=8, sessions=4, operation_ring=2 * PAGE, memory_ring=16 * PAGE, group_map=1024
)
LENGTH = -(-(SIZES.groups_at + SIZES.group_map + 512 * SIZES.block) // PAGE) * PAGE


class Wrong(AssertionError):
    """The contents after a crash contradict the acknowledged operations."""


@contextlib.contextmanager
def served(model: Model) -> Iterator[Callable[[], Handles]]:
    """Yield a function that makes front-ends of a back-end on the model."""
    with contextlib.ExitStack() as stack:
        for module in (structures.hash_table, structures.skip_list):
            stack.enter_context(mock.patch.object(module, "os", SimpleNamespace(urandom=bytes)))
        backend = stack.enter_context(rnvm.Backend(Pool(model)))
        yield lambda: Handles(stack.enter_context(rnvm.connect(backend.address, timeout=30)))


class History:
    """The operations on a pool, and the model's events at which each began and was acknowledged.

    Args:
        plant: Is called with the model, to plant a bug after the structures were created.
        sessions: Front-ends that take turns; one that is alone changes nodes in place.
    """

    def __init__(
        self,
        rng: random.Random,
        kind: str,
        steps: int,
        plant: Callable[[Model], None] | None = None,
        sessions: int = 2,
    ) -> None:
        self.rng = rng
        self.model = Model(LENGTH, kind, shared=True)
        self.begun: list[int] = []
        self.after: list[Contents] = []
        self.acknowledged: list[int] = []
        format_medium(self.model, SIZES)
        with served(self.model) as connect:
            handles = [connect() for _ in range(sessions)]
            self.begin(Contents())
            self.end()
            if plant:
                plant(self.model)
            plan = Plan(rng)
            for _ in range(steps):
                plan.step().run(rng.choice(handles), self.begin, self.end)
        # Of the operation that would have come next.
        self.acknowledged.append(self.acknowledged[-1] + 1)

    def begin(self, contents: Contents) -> None:
        self.begun.append(self.model.events_so_far)
        self.after.append(contents)

    def end(self) -> None:
        self.acknowledged.append(self.model.events_so_far)

    def crash(self, points: int, *, again: int = 0) -> int:
        """Inspect the states that crashes at so many points leave.

        Args:
            again: Crashes of each recovery.

        Returns:
            The number of inspected crashes.
        """
        crashes, inspected = Crashes(self.model), 0
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
            inspected += self.inspect_crash(
                crashes.at_point(point, self.rng.getrandbits(64)),
                allowed,
                f"after event {point}",
                again,
            )
        return inspected

    def inspect_crash(self, image: bytes, allowed: list[Seen], when: str, again: int) -> int:
        """Recover, compare, and execute a put; then crash the recovery up to the comparison."""
        model = Model(LENGTH, self.model.kind, content=image, shared=True)
        try:
            with served(model) as connect:
                at = connect()
                found = at.seen()
                at.check()
                if found not in allowed:
                    raise Wrong(f"a crash {when} left {found}, expected one of {allowed}")
                recovered = model.events_so_far
                at.queue.put(b"still here")
                if list(at.queue) != [*found["queue"], b"still here"]:
                    raise Wrong(f"a crash {when}: the queue does not work after recovery")
        except RfpError as error:
            raise Wrong(f"a crash {when}: {error}") from error
        inspected, crashes = 1, Crashes(model)
        for point in sorted(self.rng.choices(range(recovered + 1), k=again)):
            inspected += self.inspect_crash(
                crashes.at_point(point, self.rng.getrandbits(64)),
                allowed,
                f"{when}, and {point} later again",
                0,
            )
        return inspected
