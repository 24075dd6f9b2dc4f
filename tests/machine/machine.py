"""A state machine of front-ends, their batches, transactions, structures and handles, and crashes.

The model is the acknowledged data. `worlds` are all possible contents of all structures: one,
unless the outcome of a call is unknown. Each answer leaves the worlds to which it fits. Every
change takes a structure's writer lock, so it applies to the latest content of any front-end. Other
front-ends see the changes of an open batch later, in their order: `behind` has the contents that a
reader may still find.
"""

from __future__ import annotations

import functools
import gc
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import hypothesis.strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule
from structure_kinds import NAMES, ORDERED

import rnvm
from rfp.errors import (
    AlreadyExists,
    CallerError,
    ConnectionFailed,
    DeadlineExceeded,
    NotFound,
    OutcomeUnknown,
    OutOfMemory,
    RfpError,
    TooLarge,
)

from . import calls
from .calls import EMPTY, UNKNOWN, Call, Content

World = dict[str, Content]
FAILED = object()

WORLDS_MAX = 256
UNCERTAIN_WORLDS_MAX = 9  # with more of them no call is made whose outcome may stay unknown
WIDE = 70  # more structures than a record has parts for
# Time-outs of calls: if another front-end keeps the lock for longer; of other calls of an impatient
# machine; of all calls of a patient one.
CONTENDED_SECONDS, IMPATIENT_SECONDS, PATIENT_SECONDS = 0.03, 5.0, 20.0
KIND_OF = {
    "q": "queue",
    "s": "stack",
    "h": "table",
    "t": "tree",
    "l": "skips",
    "b": "bst",
    "v": "versions",
    "m": "mvbst",
}


class Wrong(AssertionError):
    """An answer or a content contradicts the acknowledged data."""

    def __init__(self, message: str) -> None:
        super().__init__(re.sub(r"(\\x00)+", "..", message))


class Discarded(Exception):
    """Discards a transaction."""


@dataclass
class Handle:
    """An open structure. incarnation: a number, since several structures may have had its name."""

    structure: Any
    incarnation: int


@dataclass
class Front:
    """A front-end.

    touched: structures that the open batch has changed, or that the open transaction is over.
    inside: contents that the transaction has changed.
    doomed: the transaction must fail, because another front-end has changed one of its structures.
    suspect: the transaction may fail.
    """

    number: int
    fe: rnvm.FrontEnd
    remote: bool
    handles: dict[str, Handle] = field(default_factory=dict)
    batch: Any = None
    transaction: Any = None
    named: set[str] = field(default_factory=set)
    touched: set[str] = field(default_factory=set)
    inside: World = field(default_factory=dict)
    doomed: bool = False
    suspect: bool = False

    def __repr__(self) -> str:
        return f"front-end {self.number}"


class Driver:
    """Calls the package. The tests of the state machine replace it by drivers with a fault."""

    def open(self, front: Front, name: str) -> Any:
        return NAMES[kind_of(name)](front.fe, name)

    def let_go(self, front: Front, name: str) -> None:
        front.handles.pop(name, None)
        gc.collect()

    def call(self, front: Front, name: str, call: Call, timeout: float | None) -> Any:
        return call.answer(front.handles[name].structure, timeout)

    def end_batch(self, front: Front) -> None:
        front.batch.__exit__(None, None, None)

    def end_transaction(self, front: Front, hold: bool) -> None:
        if hold:
            front.transaction.__exit__(None, None, None)
        else:
            front.transaction.__exit__(Discarded, Discarded(), None)

    def release(self, front: Front) -> None:
        front.fe.release()


Rule = TypeVar("Rule", bound=Callable[..., Any])


def step(function: Rule) -> Rule:
    """Mark a rule: if it fails, the teardown verifies nothing."""

    @functools.wraps(function)
    def run(self: Machine, *arguments: Any, **named: Any) -> Any:
        sound, self.sound = self.sound, False
        result = function(self, *arguments, **named)
        self.sound = sound
        return result

    return run  # type: ignore[return-value]


def kind_of(name: str) -> str:
    return KIND_OF[name[0]]


names = st.sampled_from(["q0", "h0", "t0", "q1", "h1", "s0", "l0", "b0", "v0", "m0"])
queues, mappings, ordered = (
    st.sampled_from(["q0", "q1"]),
    st.sampled_from(["h0", "t0", "h1", "l0", "b0", "v0", "m0"]),
    st.sampled_from(["t0", "l0", "b0", "v0", "m0"]),
)
keys = st.integers(0, 20).map(lambda n: b"k%02d" % n)
lengths = st.sampled_from([0, 3, 40, 200, 600, 1500])
numbers = st.integers(0, 9)
"""The index of a front-end, modulo their number."""

OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "lock": st.sampled_from(["sticky", "cas", "each"]),
        "oplog": st.booleans(),
        "cache": st.sampled_from([0, "8KiB"]),
    },
)


class Machine(RuleBasedStateMachine):
    """The rules for every place; a subclass makes `place` and defines the effect of its crashes."""

    place: Any
    driver = Driver()
    drops_open = True  # whether a structure is also dropped while other front-ends have it open
    lossy = False  # whether a back-end may die at any moment

    def __init__(self) -> None:
        super().__init__()
        self.sound = True
        self.worlds: list[World] = [{}]
        self.before: list[World] = [{}]
        self.behind: dict[str, list[Content]] = {}
        self.incarnations: dict[str, int] = {}
        self.fronts: list[Front] = []
        self.serial = 0
        self.moment = 0
        self.may_fill = self.full = False
        self.clogged = False
        """The remains of an unfinished batch need room, so other calls may get OutOfMemory."""
        self.impatient = False

    # Possible contents

    def begin(self) -> None:
        """Begin a change that may, or may not, have happened at the next crash."""
        self.before = self.worlds
        self.moment = self.place.moment

    def contents(self, name: str) -> list[Content]:
        return [world[name] for world in self.worlds if name in world]

    def shrink(self, worlds: list[World], fault: str) -> None:
        """Make these the possible worlds; `fault` is the error if there are none."""
        if not worlds:
            raise Wrong(fault)
        unique: list[World] = []
        for world in worlds:
            if world not in unique:
                unique.append(world)
        assert len(unique) <= WORLDS_MAX
        self.worlds = unique

    def exists(self, name: str) -> bool | None:
        """Whether the structure exists; None: it differs between the possible worlds."""
        found = {name in world for world in self.worlds}
        return found.pop() if len(found) == 1 else None

    # Contention between front-ends

    def front(self, number: int) -> Front:
        return self.fronts[number % len(self.fronts)]

    def rivals(self, front: Front, wanted: set[str]) -> list[Front]:
        """Return the other front-ends whose batch or transaction uses one of these structures."""
        return [
            other
            for other in self.fronts
            if other is not front and (other.batch or other.transaction) and other.touched & wanted
        ]

    def lock_taken(self, front: Front, rivals: list[Front], name: str) -> None:
        """Note that a front-end has had the structure's writer lock.

        It made the changes of other front-ends visible, and their transactions fail.
        """
        for other in rivals:
            if other.transaction:
                other.doomed = True
            else:
                # It has lost its lock, so from now on it reads as the other front-ends do.
                other.touched.discard(name)
        if rivals or name not in front.touched:
            self.behind.pop(name, None)

    def contended(self, rivals: list[Front]) -> None:
        """Note that a front-end waited for them, perhaps for a lease."""
        for other in rivals:
            self.may_lose_session(other)

    def may_lose_session(self, front: Front) -> None:
        """Note that the front-end may have lost its session."""
        front.suspect = True
        self.clogged |= bool(front.batch and front.touched)

    def timeout(self, rivals: list[Front]) -> float | None:
        return CONTENDED_SECONDS if rivals and self.impatient else None

    # One call

    def call(self, front: Front, name: str, call: Call) -> Any:
        """Do a call and compare its outcome with the model.

        Returns: its answer, or FAILED.
        """
        handle = self.open(front, name)
        if handle is None:
            return FAILED
        rivals = self.rivals(front, {name})
        unknown = call.changes and (self.lossy or (rivals and self.impatient))
        if unknown and not front.transaction and len(self.worlds) > UNCERTAIN_WORLDS_MAX:
            return FAILED
        self.begin()
        if call.several and not front.transaction:
            self.before = self.any_of(name, call)
        self.contended(rivals)
        if front.remote:
            front.suspect = True
        try:
            answer = self.driver.call(front, name, call, self.timeout(rivals))
        except RfpError as error:
            self.failed(front, name, call, error, rivals)
            return FAILED
        if handle.incarnation != self.incarnations[name] and not front.doomed:
            raise Wrong(
                f"{front}: {name}.{call.text} answered {answer!r}, and the structure was dropped"
            )
        if front.transaction:
            self.answered_inside(front, name, call, answer, rivals)
        else:
            self.answered(front, name, call, answer, rivals)
        return answer

    def answered(
        self, front: Front, name: str, call: Call, answer: Any, rivals: list[Front]
    ) -> None:
        here = f"{front}: {name}.{call.text} answered {answer!r}"
        if call.changes:
            self.shrink(
                [
                    {**world, name: after}
                    for world in self.worlds
                    for after in call.follow(world[name], answer)
                ],
                f"{here}, and it contains {self.contents(name)}",
            )
            self.lock_taken(front, rivals, name)
            if front.batch:
                front.touched.add(name)
                self.behind.setdefault(name, [world[name] for world in self.before]).extend(
                    self.contents(name)
                )
            return
        owners = [other for other in self.fronts if other.batch and name in other.touched]
        if name in self.behind and front not in owners:
            seen = self.behind[name]
            for at, content in enumerate(seen):
                if call.follow(content, answer):
                    del seen[:at]  # no later read may see an earlier content
                    return
            raise Wrong(f"{here}, and it contained {seen}")
        self.shrink(
            [world for world in self.worlds if call.follow(world[name], answer)],
            f"{here}, and it contains {self.contents(name)}",
        )

    def answered_inside(
        self, front: Front, name: str, call: Call, answer: Any, rivals: list[Front]
    ) -> None:
        """Check an answer in a transaction. A transaction that must fail may read any content."""
        if call.changes:
            self.lock_taken(front, rivals, name)
        if front.doomed:
            return
        if name in front.inside:
            contents = [front.inside[name]]
        elif call.changes or name in front.named:
            contents = self.contents(name)
        else:
            contents = self.behind.get(name, self.contents(name))
        after = [after for content in contents for after in call.follow(content, answer)]
        if not after:
            if not front.suspect:
                raise Wrong(
                    f"{front}: in a transaction {name}.{call.text} answered {answer!r}, "
                    f"and it contains {contents}"
                )
            front.doomed = True
        elif call.changes:
            front.inside[name] = after[0]
            front.touched.add(name)

    def failed(
        self, front: Front, name: str, call: Call, error: RfpError, rivals: list[Front]
    ) -> None:
        """Check the error of a call; it may have had only the effect that the class describes."""
        here = f"{front}: {name}.{call.text} raised {type(error).__name__}: {error}"
        if (
            isinstance(error, NotFound)
            and front.handles[name].incarnation != self.incarnations[name]
        ):
            del front.handles[name]
        elif isinstance(error, OutOfMemory):
            if not (self.full and (call.grows or self.clogged)):
                raise Wrong(here) from error
            if call.several and front.transaction:
                # It is not known how many of its operations were done.
                self.leave_transaction(front, False)
            elif call.several:
                self.perhaps(front, name, call)
        elif isinstance(error, TooLarge):
            if not front.transaction:
                raise Wrong(here) from error
        elif (
            isinstance(error, DeadlineExceeded) and ((rivals and self.impatient) or self.lossy)
        ) or (isinstance(error, OutcomeUnknown) and ((rivals and self.impatient) or self.lossy)):
            self.perhaps(front, name, call)
        elif isinstance(error, ConnectionFailed) and not isinstance(error, OutcomeUnknown):
            if front.transaction and (front.suspect or self.lossy):
                front.doomed = True
            elif not self.lossy and not (rivals and self.impatient):
                raise Wrong(here) from error
        elif isinstance(error, CallerError) and front.transaction and name not in front.named:
            pass  # the structure is not a part of the transaction
        else:
            raise Wrong(here) from error

    def perhaps(self, front: Front, name: str, call: Call) -> None:
        """Note a call of which it is unknown whether it happened."""
        if front.transaction or not call.changes:
            return
        self.shrink([*self.worlds, *self.any_of(name, call)], "")
        if self.exists(name) is False:
            return
        if name in self.behind:
            self.behind[name].extend(self.contents(name))
        else:
            self.behind[name] = self.contents(name)

    def any_of(self, name: str, call: Call) -> list[World]:
        """Return the possible worlds after a call with an unknown outcome.

        They are the same as before if the structure was dropped and only a handle is left.
        """
        worlds = [
            {**world, name: after}
            for world in self.worlds
            if name in world
            for after in call.follow(world[name], UNKNOWN)
        ]
        return worlds or self.worlds

    # Structures and their handles

    def open(self, front: Front, name: str) -> Handle | None:
        """Return a handle; create the structure if it does not exist. None: opening failed."""
        if name in front.handles:
            return front.handles[name]
        self.begin()
        new = self.exists(name) is not True
        try:
            structure = self.driver.open(front, name)
        except RfpError as error:
            self.not_opened(front, name, error, new)
            return None
        if new:
            self.incarnations[name] = self.incarnations.get(name, 0) + 1
            self.shrink(
                [{**world, name: world.get(name, EMPTY[kind_of(name)])} for world in self.worlds],
                "",
            )
            if front.batch or front.transaction:
                front.touched.add(name)  # its creator is inside
        front.handles[name] = Handle(structure, self.incarnations[name])
        return front.handles[name]

    def not_opened(self, front: Front, name: str, error: RfpError, new: bool) -> None:
        here = f"{front}: opening {name} raised {type(error).__name__}: {error}"
        if isinstance(error, OutOfMemory) and new and self.full:
            return
        if isinstance(error, CallerError) and new and front.transaction:
            return
        if isinstance(error, AlreadyExists) and name in front.named:
            return  # the transaction keeps it open
        if isinstance(error, (ConnectionFailed, DeadlineExceeded)) and (
            self.lossy
            or (front.transaction and (front.suspect or front.doomed))
            or (isinstance(error, DeadlineExceeded) and self.impatient)
        ):
            if front.transaction and isinstance(error, ConnectionFailed):
                front.doomed = True
            if new:
                self.incarnations[name] = self.incarnations.get(name, 0) + 1
                self.shrink(
                    [
                        *self.worlds,
                        *(
                            {**world, name: world.get(name, EMPTY[kind_of(name)])}
                            for world in self.worlds
                        ),
                    ],
                    "",
                )
            return
        raise Wrong(here) from error

    def value(self, length: int) -> bytes:
        self.serial += 1
        return b"%d " % self.serial + bytes(length)

    @rule(number=numbers, name=names)
    @step
    def open_it(self, number: int, name: str) -> None:
        self.open(self.front(number), name)

    @rule(number=numbers, name=names)
    @step
    def let_go(self, number: int, name: str) -> None:
        """Destroy the handle."""
        self.driver.let_go(self.front(number), name)

    @rule(number=numbers, name=names)
    @step
    def drop(self, number: int, name: str) -> None:
        front = self.front(number)
        if front.transaction and name in front.named:
            return
        for other in [front] if self.drops_open else self.fronts:
            if not other.transaction:
                other.handles.pop(name, None)
        self.begin()
        try:
            front.fe.drop(name)
        except NotFound:
            self.shrink(
                [world for world in self.worlds if name not in world],
                f"{front}: {name} was not found",
            )
        except CallerError:
            assert front.transaction or any(
                name in other.handles for other in self.fronts if other is not front
            ), f"{name} is not in use"
        except (ConnectionFailed, DeadlineExceeded) as error:
            if front.transaction and front.suspect and not isinstance(error, DeadlineExceeded):
                return
            if not self.lossy:
                raise
            for other in self.fronts:  # it is unknown which handles still work
                other.handles.pop(name, None)
            self.incarnations[name] = self.incarnations.get(name, 0) + 1
            self.shrink(
                [
                    *self.worlds,
                    *({n: c for n, c in world.items() if n != name} for world in self.worlds),
                ],
                "",
            )
        else:
            if self.exists(name) is False or (front.transaction and not front.doomed):
                raise Wrong(f"{front}: dropped {name}, which is absent, or in a transaction")
            self.lock_taken(front, self.rivals(front, {name}), name)
            for other in self.fronts:
                other.touched.discard(name)
                other.inside.pop(name, None)
            self.incarnations[name] = self.incarnations.get(name, 0) + 1
            self.shrink(
                [{n: c for n, c in world.items() if n != name} for world in self.worlds], ""
            )

    # Calls of queues and mappings

    @rule(number=numbers, name=queues, length=lengths)
    @step
    def put(self, number: int, name: str, length: int) -> None:
        self.call(self.front(number), name, calls.put(self.value(length)))

    @rule(number=numbers, name=queues, lengths=st.lists(st.integers(0, 60), max_size=5))
    @step
    def put_many(self, number: int, name: str, lengths: list[int]) -> None:
        values = [self.value(length) for length in lengths]
        if values:
            self.call(self.front(number), name, calls.put_many(values))

    @rule(number=numbers, name=queues, length=lengths)
    @step
    def put_later(self, number: int, name: str, length: int) -> None:
        self.call(self.front(number), name, calls.put_later(self.value(length)))

    @rule(number=numbers, name=queues, way=st.sampled_from([calls.get, calls.peek, calls.reserve]))
    @step
    def take(self, number: int, name: str, way: Callable[[], Call]) -> None:
        self.call(self.front(number), name, way())

    @rule(number=numbers, name=queues, back=st.booleans(), which=st.integers(0, 5))
    @step
    def settle(self, number: int, name: str, back: bool, which: int) -> None:
        self.reserved(number, name, which, calls.nack if back else calls.ack)

    @rule(number=numbers, name=queues, which=st.integers(0, 5))
    @step
    def extend(self, number: int, name: str, which: int) -> None:
        self.reserved(number, name, which, calls.extend)

    def reserved(self, number: int, name: str, which: int, way: Callable[[bytes], Call]) -> None:
        """Do a call on one of the known reservations, if there is any."""
        front = self.front(number)
        content = front.inside.get(name) or self.worlds[0].get(name) or ((), (), ())
        tokens = [token for token, _ in content[2] if token]
        if tokens:
            self.call(front, name, way(tokens[which % len(tokens)]))

    @rule(number=numbers, name=mappings, key=keys, length=lengths)
    @step
    def store(self, number: int, name: str, key: bytes, length: int) -> None:
        self.call(self.front(number), name, calls.store(key, self.value(length)))

    @rule(
        number=numbers,
        name=mappings,
        key=keys,
        way=st.sampled_from([calls.delete, calls.pop, calls.look_up]),
    )
    @step
    def by_key(self, number: int, name: str, key: bytes, way: Callable[[bytes], Call]) -> None:
        self.call(self.front(number), name, way(key))

    @rule(number=numbers, name=mappings, key=keys, length=lengths)
    @step
    def setdefault(self, number: int, name: str, key: bytes, length: int) -> None:
        self.call(self.front(number), name, calls.setdefault(key, self.value(length)))

    @rule(number=numbers, name=mappings)
    @step
    def popitem(self, number: int, name: str) -> None:
        self.call(self.front(number), name, calls.popitem(NAMES[kind_of(name)] in ORDERED))

    @rule(
        number=numbers,
        lengths=st.lists(lengths, min_size=1, max_size=4),
        way=st.sampled_from([calls.pop_top, calls.peek_top, calls.clear, None, None]),
    )
    @step
    def on_stack(self, number: int, lengths: list[int], way: Callable[[], Call] | None) -> None:
        if way:
            self.call(self.front(number), "s0", way())
        elif len(lengths) == 1:
            self.call(self.front(number), "s0", calls.push(self.value(lengths[0])))
        else:
            self.call(self.front(number), "s0", calls.push_many([self.value(n) for n in lengths]))

    @rule(number=numbers, name=mappings)
    @step
    def clear(self, number: int, name: str) -> None:
        self.call(self.front(number), name, calls.clear())

    @rule(
        number=numbers, name=mappings, found=st.dictionaries(keys, lengths, min_size=1, max_size=5)
    )
    @step
    def update(self, number: int, name: str, found: dict[bytes, int]) -> None:
        self.call(
            self.front(number),
            name,
            calls.update({key: self.value(length) for key, length in found.items()}),
        )

    @rule(
        number=numbers,
        name=ordered,
        found=st.dictionaries(keys, st.integers(0, 100), min_size=1, max_size=5),
    )
    @step
    def bulk_load(self, number: int, name: str, found: dict[bytes, int]) -> None:
        items = {key: self.value(length) for key, length in sorted(found.items())}
        self.call(self.front(number), name, calls.bulk_load(items))

    @rule(number=numbers, name=ordered, lo=keys, hi=keys, reverse=st.booleans())
    @step
    def order(self, number: int, name: str, lo: bytes, hi: bytes, reverse: bool) -> None:
        self.call(self.front(number), name, calls.range_of(lo, hi, reverse))
        self.call(self.front(number), name, calls.both_ends())
        self.call(self.front(number), name, calls.neighbours(lo))

    @rule(number=numbers, name=names)
    @step
    def read_all(self, number: int, name: str) -> None:
        self.call(self.front(number), name, calls.read_all(kind_of(name)))

    @rule(number=numbers, name=names)
    @step
    def check(self, number: int, name: str) -> None:
        front = self.front(number)
        if not front.transaction and not self.rivals(front, {name}):
            self.call(front, name, calls.check())

    @rule(number=numbers)
    @step
    def use_many(self, number: int) -> None:
        """Put into more structures than a record has parts for."""
        front = self.front(number)
        for i in range(WIDE):
            if self.call(front, f"q{100 + i}", calls.put(self.value(3))) is FAILED:
                break

    @precondition(lambda self: self.may_fill)
    @rule(number=numbers, name=st.sampled_from(["q0", "h0", "t0", "s0", "l0", "b0", "v0", "m0"]))
    @step
    def fill(self, number: int, name: str) -> None:
        """Use all blocks of the pool; from then on only calls that need one may fail."""
        front = self.front(number)
        if front.transaction or front.remote:
            return
        self.full = True
        for length in (60_000, 5_000, 900, 200):
            for i in range(500):
                value = self.value(length)
                call = (
                    calls.put(value)
                    if name == "q0"
                    else calls.push(value)
                    if name == "s0"
                    else calls.store(b"full %d %d" % (length, i), value)
                )
                if self.call(front, name, call) is FAILED:
                    break

    # Batches and transactions

    @rule(number=numbers)
    @step
    def begin_batch(self, number: int) -> None:
        front = self.front(number)
        if not front.batch and not front.transaction:
            self.enter_batch(front)

    def enter_batch(self, front: Front) -> None:
        batch = front.fe.batch()
        with self.expected(front):
            batch.__enter__()
            front.batch, front.touched = batch, set()

    @contextmanager
    def expected(self, front: Front) -> Iterator[None]:
        """Allow the errors of a lossy place around calls that change no content."""
        try:
            yield
        except (ConnectionFailed, DeadlineExceeded) as error:
            if not self.lossy:
                raise Wrong(f"{front}: {error}") from error

    def shown(self, front: Front) -> None:
        """Note that a batch has ended: its changes are visible, except under another open batch."""
        for name in front.touched:
            if not any(
                other.batch and name in other.touched for other in self.fronts if other is not front
            ):
                self.behind.pop(name, None)
        front.touched = set()

    @rule(number=numbers)
    @step
    def end_batch(self, number: int) -> None:
        front = self.front(number)
        if front.batch and not front.transaction:
            self.leave_batch(front)

    def leave_batch(self, front: Front) -> None:
        self.begin()
        try:
            self.driver.end_batch(front)
        except (ConnectionFailed, DeadlineExceeded) as error:
            # Each operation holds. It is unknown when others see them.
            if not self.lossy and not (self.impatient and isinstance(error, DeadlineExceeded)):
                raise Wrong(f"{front}: the end of a batch raised {error}") from error
            front.touched = set()
        except RfpError as error:
            if not (self.clogged and isinstance(error, OutOfMemory)):
                raise Wrong(
                    f"{front}: the end of a batch raised {type(error).__name__}: {error}"
                ) from error
            front.touched = set()
        else:
            self.shown(front)
        front.batch = None

    @rule(number=numbers, wanted=st.lists(names, min_size=1, max_size=3, unique=True))
    @step
    def begin_transaction(self, number: int, wanted: list[str]) -> None:
        front = self.front(number)
        if front.transaction or len(self.worlds) != 1:
            return
        for name in wanted:
            if (
                self.open(front, name) is None
                or front.handles[name].incarnation != self.incarnations[name]
            ):
                return
        self.enter_transaction(front, set(wanted))

    @rule(number=numbers)
    @step
    def begin_wide_transaction(self, number: int) -> None:
        """Begin a transaction over more structures than a record has parts for."""
        front = self.front(number)
        wanted = {
            name
            for name, handle in front.handles.items()
            if len(name) == 4 and handle.incarnation == self.incarnations[name]
        }
        if wanted and not front.transaction and len(self.worlds) == 1:
            self.enter_transaction(front, wanted)

    @rule(
        number=numbers,
        wanted=st.lists(names, min_size=1, max_size=3, unique=True),
        repeats=st.booleans(),
    )
    @step
    def read_at_one_moment(self, number: int, wanted: list[str], repeats: bool) -> None:
        """Read structures in a read transaction: one world explains all answers."""
        front = self.front(number)
        if front.transaction:
            return
        for name in wanted:
            if (
                self.open(front, name) is None
                or front.handles[name].incarnation != self.incarnations[name]
            ):
                return
        if any(name in self.behind for name in wanted):
            return
        self.begin()
        rivals = self.rivals(front, set(wanted))
        self.contended(rivals)
        opened = [front.handles[name].structure for name in wanted]
        asked = [calls.read_all(kind_of(name)) for name in wanted]

        def read(*_: Any) -> list[Any]:
            return [call.answer(each, None) for call, each in zip(asked, opened)]

        try:
            if repeats:
                found = front.fe.read(read, *opened, timeout=self.timeout(rivals))
            else:
                with front.fe.read_transaction(*opened, timeout=self.timeout(rivals)):
                    found = read()
        except (ConnectionFailed, DeadlineExceeded) as error:
            if not self.lossy and not front.suspect and not (rivals and self.impatient):
                raise Wrong(f"{front}: a read transaction raised {error}") from error
            return
        except NotFound as error:
            if not self.lossy:
                raise Wrong(f"{front}: a read transaction raised {error}") from error
            return
        if front.batch:
            self.shown(front)
        self.shrink(
            [
                world
                for world in self.worlds
                if all(
                    call.follow(world[name], answer)
                    for call, name, answer in zip(asked, wanted, found)
                )
            ],
            f"{front}: a read transaction over {wanted} answered {found}",
        )

    def enter_transaction(self, front: Front, wanted: set[str]) -> None:
        self.begin()
        rivals = self.rivals(front, wanted)
        self.contended(rivals)
        transaction = front.fe.transaction(
            *(front.handles[name].structure for name in wanted), timeout=self.timeout(rivals)
        )
        try:
            transaction.__enter__()
        except (ConnectionFailed, DeadlineExceeded) as error:
            if not self.lossy and not (rivals and self.impatient):
                raise Wrong(f"{front}: a transaction could not begin: {error}") from error
            return
        if front.batch:
            self.shown(front)
        for name in wanted:
            self.lock_taken(front, self.rivals(front, {name}), name)
        front.transaction, front.named, front.touched, front.inside = (
            transaction,
            set(wanted),
            set(wanted),
            {},
        )
        front.doomed, front.suspect = False, front.remote

    @rule(number=numbers, hold=st.booleans())
    @step
    def end_transaction(self, number: int, hold: bool) -> None:
        front = self.front(number)
        if front.transaction:
            self.leave_transaction(front, hold)

    def leave_transaction(self, front: Front, hold: bool) -> None:
        self.begin()
        error: BaseException | None = None
        try:
            self.driver.end_transaction(front, hold)
        except RfpError as raised:
            error = raised
        inside, front.inside, front.touched, front.named = front.inside, {}, set(), set()
        front.transaction = None
        if error is None:
            if hold and front.doomed:
                raise Wrong(
                    f"{front}: a transaction committed, although others changed its structures"
                )
            if hold:
                self.shrink([{**world, **inside} for world in self.worlds], "")
                for name in inside:
                    self.behind.pop(name, None)
            return
        here = f"{front}: the end of a transaction raised {type(error).__name__}: {error}"
        if (isinstance(error, OutcomeUnknown) and self.lossy) or (
            isinstance(error, DeadlineExceeded) and self.lossy
        ):
            self.shrink([*self.worlds, *({**world, **inside} for world in self.worlds)], "")
            for name in inside:
                self.behind[name] = self.contents(name)
        elif (
            (isinstance(error, TooLarge) and len(inside) > 64)
            or (isinstance(error, OutOfMemory) and self.full)
            or (
                isinstance(error, ConnectionFailed)
                and (self.lossy or front.doomed or front.suspect)
            )
        ):
            pass
        else:
            raise Wrong(here) from error

    @rule(number=numbers)
    @step
    def release(self, number: int) -> None:
        front = self.front(number)
        self.begin()
        try:
            self.driver.release(front)
        except CallerError:
            assert front.batch or front.transaction
        except (ConnectionFailed, DeadlineExceeded) as error:
            if not self.lossy and not (front.transaction and front.suspect):
                raise Wrong(f"{front}: release() raised {error}") from error

    # Front-ends

    # A process may have five front-ends, and read_everything() needs one.
    @precondition(lambda self: len(self.fronts) < 4)
    @rule(options=OPTIONS, remote=st.booleans())
    @step
    def connect(self, options: dict[str, Any], remote: bool) -> None:
        self.add_front(
            options,
            remote and not self.impatient and not any(front.remote for front in self.fronts),
        )

    def add_front(self, options: dict[str, Any], remote: bool) -> None:
        self.serial += 1
        options = {"timeout": IMPATIENT_SECONDS if self.impatient else PATIENT_SECONDS, **options}
        self.fronts.append(Front(self.serial, self.place.connect(remote, **options), remote))

    @precondition(lambda self: len(self.fronts) > 2)
    @rule(number=numbers)
    @step
    def close(self, number: int) -> None:
        """Close a front-end, also in a batch, which holds, or in a transaction, which does not."""
        front = self.front(number)
        self.begin()
        self.fronts.remove(front)
        front.fe.close()
        if not front.transaction:
            self.shown(front)

    # The end

    def leave_all(self) -> None:
        for front in self.fronts:
            if front.transaction:
                self.leave_transaction(front, True)
            if front.batch:
                self.leave_batch(front)

    def read_everything(self) -> None:
        """Read all structures in a new front-end, compare them with the model, and check() them."""
        self.add_front({"timeout": PATIENT_SECONDS}, False)
        fresh = self.fronts.pop()
        there = fresh.fe.names()
        self.shrink(
            [world for world in self.worlds if world.keys() == there.keys()],
            f"expected the names {[sorted(world) for world in self.worlds]}, got {sorted(there)}",
        )
        for name in there:
            self.call(fresh, name, calls.read_all(kind_of(name)))
            self.call(fresh, name, calls.check())
        fresh.handles.clear()
        fresh.fe.close()

    def close_all(self) -> None:
        """Close all front-ends."""
        for front in self.fronts:
            front.fe.close()
        self.fronts = []
        self.behind = {}

    def teardown(self) -> None:
        try:
            if self.sound and hasattr(self, "place"):
                self.leave_all()
                self.read_everything()
                self.close_all()
                checked = self.place.end()
                assert not checked.findings, checked.findings
        finally:
            for front in self.fronts:
                front.fe.close()
            if hasattr(self, "place"):
                self.place.close()
