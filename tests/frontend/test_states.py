"""Every public call of a front-end and of its structures, in every state, with every end.

Each test states the outcome of the call and the contents afterwards.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import os
import random
import threading
import time
import traceback
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import rfp.errors
import rnvm
from rfp.errors import ConnectionFailed
from rnvm import pools
from rnvm.testing.sample_structure import Sample

from .conftest import new_path, open_backend
from .mortals import Mortals

# The outcome of each call: done, or the class of the error (see error_of).
# `lost`: a transaction whose session has ended.  `busy`: another thread has an open batch or
# transaction.
TABLE = """
call                 free         batch        transaction  lost         closed  busy      forked
change named         done         done         done         Connection   Closed  Deadline  Forked
read named           done         done         done         Connection   Closed  Deadline  Forked
check named          done         done         done         Connection   Closed  Deadline  Forked
change unnamed       done         done         CallerError  Connection   Closed  Deadline  Forked
read unnamed         done         done         CallerError  Connection   Closed  Deadline  Forked
check unnamed        done         done         CallerError  Connection   Closed  Deadline  Forked
too large            TooLarge     TooLarge     TooLarge     Connection   Closed  Deadline  Forked
fails half way       Damaged      Damaged      Damaged      Connection   Closed  Deadline  Forked
list names           done         done         done         Connection   Closed  Deadline  Forked
drop                 done         done         CallerError  Connection   Closed  Deadline  Forked
drop an open one     CallerError  CallerError  CallerError  CallerError  Closed  Deadline  Forked
drop a missing one   NotFound     NotFound     CallerError  Connection   Closed  Deadline  Forked
make                 done         done         CallerError  Connection   Closed  Deadline  Forked
open                 done         done         done         Connection   Closed  Deadline  Forked
open a missing one   NotFound     NotFound     NotFound     Connection   Closed  Deadline  Forked
open twice           Exists       Exists       Exists       Exists       Closed  Deadline  Forked
delete the object    done         done         done         done         done    done      done
use and delete it    done         done         CallerError  Connection   Closed  Deadline  Forked
begin batch          done         CallerError  CallerError  CallerError  Closed  Deadline  Forked
begin transaction    done         done         CallerError  CallerError  Closed  Deadline  Forked
discard transaction  done         done         CallerError  CallerError  Closed  Deadline  Forked
end another batch    CallerError  CallerError  CallerError  CallerError  Closed  Deadline  Forked
end another one      CallerError  CallerError  CallerError  CallerError  Closed  Deadline  Forked
release              done         done         CallerError  Connection   Closed  Deadline  Forked
close                done         done         done         done         done    done      done
read properties      done         done         done         done         done    done      done
"""
COLUMNS, *ROWS = (
    [cell.strip() for cell in [line[:20], *line[20:].split()]]
    for line in TABLE.strip().splitlines()
)
EXPECTED = {
    (row[0], column): answer
    for row in ROWS
    for column, answer in zip(COLUMNS[1:], row[1:], strict=True)
}


class Discarded(Exception):
    """Ends a transaction."""


def connected(backend: rnvm.Backend, **options: Any) -> rnvm.FrontEnd:
    """Connect with ample time: a short time-out is meant for calls that wait for another thread."""
    for _ in range(100):
        with contextlib.suppress(rfp.errors.DeadlineExceeded):
            return rnvm.connect(backend.address, **options)
    return rnvm.connect(backend.address, **options)


class Case:
    """A front-end with structures of its own, and the contents that they must have in the end.

    count: the acknowledged additions to `named`; pending: those of the open transaction.
    """

    def __init__(self, backend: rnvm.Backend, admin: Any, key: str, **options: Any) -> None:
        self.backend, self.admin, self.key = backend, admin, key
        for name in ("named", "unnamed", "spare", "other", "gone"):
            Sample(admin, self.name(name)).add(1)
        self.fe = connected(backend, **options)
        self.named, self.unnamed, self.let = (
            Sample(self.fe, self.name(name), timeout=20) for name in ("named", "unnamed", "gone")
        )
        self.count, self.pending, self.unnamed_count = 1, 0, 1
        self.dropped = self.closed = False

    def name(self, name: str) -> str:
        return f"{self.key} {name}"

    def add(self, timeout: float | None = None) -> None:
        assert self.named.add(1, timeout=timeout) == self.count + self.pending + 1
        self.did(1)

    def did(self, n: int) -> None:
        if self.fe_transacting:
            self.pending += n
        else:
            self.count += n

    fe_transacting = False

    def verify(self) -> None:
        found = {
            name: Sample(self.admin, self.name(name), create=False)
            for name in ("named", "unnamed", "other")
        }
        for each in found.values():
            each.check()  # takes the lock: waits until the death of a process is detected
        assert {name: each.numbers()[0] for name, each in found.items()} == {
            "named": self.count,
            "unnamed": self.unnamed_count,
            "other": 1,
        }
        assert (self.name("spare") in self.admin.names()) != self.dropped
        assert found["named"].add(1) == self.count + 1


def change_unnamed(case: Case) -> None:
    assert case.unnamed.add(1) == case.unnamed_count + 1
    case.unnamed_count += 1


def use_and_delete(case: Case) -> None:
    del case.unnamed
    gc.collect()
    Sample(case.fe, case.name("unnamed")).add(1)
    gc.collect()
    case.unnamed_count += 1


def drop(case: Case) -> None:
    case.fe.drop(case.name("spare"))
    case.dropped = True


def transact(case: Case, discard: bool) -> None:
    with contextlib.suppress(Discarded), case.fe.transaction(case.named, case.unnamed):
        assert case.named.add(1) == case.count + 1
        if discard:
            raise Discarded
    case.count += not discard


def begin_batch(case: Case) -> None:
    with case.fe.batch():
        case.add()


def delete_object(case: Case) -> None:
    del case.let
    gc.collect()


def close(case: Case) -> None:
    case.fe.close()
    case.fe.close()
    case.closed = True


def read_properties(case: Case) -> None:
    assert case.fe.figures["epoch"] >= 0
    assert bool(case.fe.promise)
    assert repr(case.fe) != ""
    assert case.named.name == case.name("named")
    assert case.named.codec_name == ""
    assert repr(case.named)


CALLS: dict[str, Callable[[Case], Any]] = {
    "change named": Case.add,
    "read named": lambda case: (
        case.named.numbers()[0] == case.count + case.pending or pytest.fail("read another value")
    ),
    "check named": lambda case: case.named.check(),
    "change unnamed": change_unnamed,
    "read unnamed": lambda case: (
        case.unnamed.numbers()[0] == case.unnamed_count or pytest.fail("read another value")
    ),
    "check unnamed": lambda case: case.unnamed.check(),
    "too large": lambda case: case.named.put(0, bytes(1 << 20)),
    "fails half way": lambda case: case.named.fail(0),
    "list names": lambda case: (
        {case.name("named"), case.name("other")} <= set(case.fe.names()) or pytest.fail("missing")
    ),
    "drop": drop,
    "drop an open one": lambda case: case.fe.drop(case.name("named")),
    "drop a missing one": lambda case: case.fe.drop(case.name("none")),
    "make": lambda case: Sample(case.fe, case.name("new")).add(1),
    "open": lambda case: Sample(case.fe, case.name("other")),
    "open a missing one": lambda case: Sample(case.fe, case.name("none"), create=False),
    "open twice": lambda case: Sample(case.fe, case.name("named")),
    "delete the object": delete_object,
    "use and delete it": use_and_delete,
    "begin batch": begin_batch,
    "begin transaction": lambda case: transact(case, False),
    "discard transaction": lambda case: transact(case, True),
    "end another batch": lambda case: case.fe.batch().__exit__(None, None, None),
    "end another one": lambda case: case.fe.transaction(case.named).__exit__(None, None, None),
    "release": lambda case: case.fe.release(),
    "close": close,
    "read properties": read_properties,
}
assert set(CALLS) == {row[0] for row in ROWS}


# --- States: each yields the column of the table that applies in it


def cut_off(case: Case) -> None:
    """Fence it: another front-end waits for the lock for longer than a lease."""
    assert Sample(case.admin, case.name("named")).add(100, timeout=20) == case.count + 100
    case.count += 100


@contextlib.contextmanager
def idle(case: Case) -> Iterator[str]:
    yield "free"


@contextlib.contextmanager
def batch(case: Case) -> Iterator[str]:
    with case.fe.batch():
        case.add()
        change_unnamed(case)
        yield "batch"


@contextlib.contextmanager
def batch_of_which_a_part_is_written(case: Case) -> Iterator[str]:
    with case.fe.batch():
        case.add()
        case.fe.release()
        case.add()
        yield "batch"


@contextlib.contextmanager
def batch_cut_off(case: Case) -> Iterator[str]:
    with case.fe.batch():
        case.add()
        change_unnamed(case)
        cut_off(case)
        yield "batch"


@contextlib.contextmanager
def transaction(case: Case) -> Iterator[str]:
    with case.fe.transaction(case.named):
        case.fe_transacting = True
        try:
            case.add()
            yield "transaction"
        except BaseException:
            case.pending = 0
            raise
        finally:
            case.fe_transacting = False
    case.count, case.pending = case.count + case.pending, 0


@contextlib.contextmanager
def transaction_in_a_batch(case: Case) -> Iterator[str]:
    with batch(case):
        with transaction(case) as column:
            yield column
        if not case.closed:
            case.add()


@contextlib.contextmanager
def transaction_cut_off(case: Case) -> Iterator[str]:
    with case.fe.transaction(case.named):
        assert case.named.add(1) == 2
        cut_off(case)
        with pytest.raises(ConnectionFailed):
            case.fe.names()
        yield "lost"


@contextlib.contextmanager
def closed(case: Case) -> Iterator[str]:
    case.fe.close()
    yield "closed"


def in_another_thread(case: Case, kind: Callable[[], Any], end: bool) -> Iterator[str]:
    """Begin it in another thread, which waits inside, or ends without ending it."""
    begun, over = threading.Event(), threading.Event()

    def hold() -> None:
        context = kind()
        context.__enter__()
        case.named.add(1, timeout=20)
        begun.set()
        if not end:
            over.wait(60)
            with contextlib.suppress(rfp.errors.Closed, rfp.errors.Forked):
                context.__exit__(None, None, None)

    thread = threading.Thread(target=hold)
    thread.start()
    begun.wait(60)
    try:
        if end:
            thread.join()
        yield "free" if end else "busy"
    finally:
        over.set()
        thread.join()


@contextlib.contextmanager
def batch_of_another_thread(case: Case) -> Iterator[str]:
    case.count += 1
    yield from in_another_thread(case, case.fe.batch, False)


@contextlib.contextmanager
def transaction_of_another_thread(case: Case) -> Iterator[str]:
    yield from in_another_thread(case, lambda: case.fe.transaction(case.named, timeout=20), False)
    case.count += not case.closed


@contextlib.contextmanager
def batch_of_a_thread_that_has_ended(case: Case) -> Iterator[str]:
    case.count += 1
    yield from in_another_thread(case, case.fe.batch, True)


@contextlib.contextmanager
def transaction_of_a_thread_that_has_ended(case: Case) -> Iterator[str]:
    yield from in_another_thread(case, lambda: case.fe.transaction(case.named), True)


STATES = [
    idle,
    batch,
    batch_of_which_a_part_is_written,
    batch_cut_off,
    transaction,
    transaction_in_a_batch,
    transaction_cut_off,
    closed,
    batch_of_another_thread,
    transaction_of_another_thread,
    batch_of_a_thread_that_has_ended,
    transaction_of_a_thread_that_has_ended,
]
OPTIONS: dict[str, dict[str, Any]] = {
    "sticky": {},
    "cas": {"lock": "cas"},
    "naive": {"cache": 0, "oplog": False, "lock": "each"},
}


def error_of(name: str) -> type[BaseException]:
    short = {
        "Connection": "ConnectionFailed",
        "Damaged": "StructureDamaged",
        "Deadline": "DeadlineExceeded",
        "Exists": "AlreadyExists",
    }
    return getattr(rfp.errors, short.get(name, name))


def call(case: Case, action: str, column: str) -> None:
    answer = EXPECTED[action, column]
    if answer == "done":
        CALLS[action](case)
    else:
        with pytest.raises(error_of(answer)):
            CALLS[action](case)


@pytest.fixture
def served(request: pytest.FixtureRequest) -> Iterator[rnvm.Backend]:
    with (
        new_path("direct") as path,
        open_backend(path, lease=0.05 if "cut_off" in request.node.name else 2.0) as backend,
    ):
        yield backend


@pytest.fixture
def admin(served: rnvm.Backend) -> Iterator[Any]:
    """Yield a front-end that makes structures and reads their final contents."""
    with rnvm.connect(served.address, timeout=20) as fe:
        yield fe


def options_of(state: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Return options with a short time-out if a call waits for another thread."""
    return {"timeout": 0.1 if "of_another_thread" in state.__name__ else 20, **options}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
def test_each_call_has_the_outcome_of_the_table_and_acknowledged_operations_are_kept(
    served: rnvm.Backend, admin: Any, state: Any, options: dict[str, Any]
) -> None:
    for action in CALLS:
        case = Case(served, admin, action, **options_of(state, options))
        with contextlib.ExitStack() as ends:
            # The end of a transaction raises if its session or its front-end was lost before.
            ends.enter_context(contextlib.suppress(rfp.errors.Closed))
            if state is transaction_cut_off:
                ends.enter_context(
                    contextlib.suppress(ConnectionFailed)
                    if action == "close"
                    else pytest.raises(ConnectionFailed)
                )
            with state(case) as column:
                call(case, action, column)
        if not case.closed and state is not closed:
            case.add(timeout=20)
        case.fe.close()
        case.verify()
        # The back-end may still be ending the session of an attempt to connect that timed out.
        end = time.monotonic() + 20
        while served.figures()["pool"]["attached"] != 1:
            assert time.monotonic() < end, action
            time.sleep(0.001)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize(
    "state",
    [batch, transaction, transaction_in_a_batch, batch_of_which_a_part_is_written],
    ids=lambda state: state.__name__,
)
def test_an_exception_after_each_call_discards_a_transaction_and_no_batch(
    served: rnvm.Backend, admin: Any, state: Any, options: dict[str, Any]
) -> None:
    for action in CALLS:
        case = Case(served, admin, action, **options_of(state, options))
        with contextlib.suppress(Discarded, rfp.errors.Closed), state(case) as column:
            call(case, action, column)
            raise Discarded
        if not case.closed:
            for _ in range(3):
                case.add()
        case.fe.close()
        case.verify()


def call_in_a_state(
    address: str, action: str, state_name: str, option_name: str
) -> tuple[int, int, bool]:
    """Execute it in a process that then dies; return the acknowledged contents."""
    served: Any = types.SimpleNamespace(address=address)
    (state,) = (each for each in STATES if each.__name__ == state_name)
    with rnvm.connect(address) as mine:
        case = Case(served, mine, action, **options_of(state, OPTIONS[option_name]))
    case.admin = rnvm.connect(address)
    context = state(case)
    KEPT.append(context)  # the process dies before it ends
    call(case, action, context.__enter__())
    if not case.closed and not case.fe_transacting:
        case.add()
    return case.count, case.unnamed_count, case.dropped


KEPT: list[object] = []


@pytest.fixture(scope="module")
def mortals() -> Iterator[Mortals]:
    mortals = Mortals()
    yield mortals
    mortals.close()


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize(
    "state",
    [batch, transaction, transaction_in_a_batch, batch_of_which_a_part_is_written, batch_cut_off],
    ids=lambda state: state.__name__,
)
def test_a_process_that_is_killed_after_each_call_loses_no_acknowledged_operation(
    mortals: Mortals, served: rnvm.Backend, admin: Any, state: Any, option: str
) -> None:
    for action in CALLS:
        case = Case.__new__(Case)
        case.admin, case.key = admin, action
        case.count, case.unnamed_count, case.dropped = mortals.die(
            "call_in_a_state", served.address, action, state.__name__, option
        )
        case.verify()


@pytest.mark.parametrize(
    "state", [idle, batch, transaction, batch_of_another_thread], ids=lambda state: state.__name__
)
def test_each_call_raises_in_a_forked_child_and_the_parent_still_works(
    served: rnvm.Backend, admin: Any, state: Any
) -> None:
    case = Case(served, admin, "s", timeout=20)
    with state(case):
        child = os.fork()
        if not child:
            try:
                for action in CALLS:
                    call(copy.copy(case), action, "forked")
                os._exit(0)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        if state is not batch_of_another_thread:
            case.add()
    case.fe.close()
    case.verify()


class History:
    """Random calls of one front-end.

    The acknowledged state, and the state that another front-end reads, are compared with a model at
    each step.
    """

    def __init__(self, address: str, rng: random.Random, key: str) -> None:
        self.rng, self.key = rng, key
        options = rng.choice([*OPTIONS.values(), {"cache": "64KiB"}])
        self.fe, self.reader = (
            rnvm.connect(address, timeout=20, **options),
            rnvm.connect(address, timeout=20),
        )
        self.open: dict[str, Sample] = {}
        self.acknowledged: dict[str, int] = {}
        # The additions of the open transaction to the structures that it names.
        self.pending: dict[str, int] | None = None
        self.seen: dict[str, int] = {}  # by the reader
        self.contexts: list[Any] = []
        # The structures whose locks it may hold until the contexts end: other front-ends wait.
        self.inside: set[str] = set()

    def step(self) -> None:
        adds = [self.add] * 4 + [self.others_add] * 2
        objects = [self.put, self.make, self.delete_object, self.drop, self.release]
        contexts = [self.begin_batch, self.begin_transaction, self.end, self.end]
        self.rng.choice([*adds, *objects, *contexts, self.read, self.check])()

    def allowed(self, name: str) -> contextlib.AbstractContextManager[Any]:
        named = self.pending is None or name in self.pending
        return contextlib.nullcontext() if named else pytest.raises(rfp.errors.CallerError)

    def value(self, name: str) -> int:
        return self.acknowledged[name] + (self.pending or {}).get(name, 0)

    def add(self) -> None:
        for name in self.rng.sample(list(self.open), self.rng.randint(0, len(self.open))):
            self.inside.add(name)
            with self.allowed(name):
                assert self.open[name].add(1) == self.value(name) + 1
                if self.pending is None:
                    self.acknowledged[name] += 1
                else:
                    self.pending[name] += 1

    def others_add(self) -> None:
        for name in self.rng.sample(list(self.acknowledged), min(len(self.acknowledged), 5)):
            if not self.contexts or name not in self.inside:
                assert Sample(self.reader, name, create=False).add(1) == self.acknowledged[name] + 1
                self.acknowledged[name] += 1
                self.seen[name] = self.acknowledged[name]

    def put(self) -> None:
        for name in list(self.open)[:2]:
            self.inside.add(name)
            value = b"v" * self.rng.choice([10, 1000, 9000, 24_000])
            with self.allowed(name), contextlib.suppress(rfp.errors.TooLarge):
                self.open[name].put(3, value)
                assert self.open[name].get(3) == value

    def make(self) -> None:
        for _ in range(self.rng.choice([1, 1, 40])):
            name = f"{self.key} {self.rng.randrange(90)}"
            if name not in self.open:
                with (
                    contextlib.nullcontext()
                    if name in self.acknowledged or self.pending is None
                    else pytest.raises(rfp.errors.CallerError)
                ):
                    self.open[name] = Sample(self.fe, name)
                    self.acknowledged.setdefault(name, 0)

    def delete_object(self) -> None:
        for name in list(self.open)[: self.rng.choice([1, 30])]:
            if self.pending is None or name not in self.pending:
                del self.open[name]

    def drop(self) -> None:
        name = f"{self.key} {self.rng.randrange(90)}"
        if name in self.acknowledged:
            allowed = self.pending is None and name not in self.open
            with contextlib.nullcontext() if allowed else pytest.raises(rfp.errors.CallerError):
                self.fe.drop(name)
                del self.acknowledged[name]
                self.seen.pop(name, None)

    def release(self) -> None:
        with (
            contextlib.nullcontext()
            if self.pending is None
            else pytest.raises(rfp.errors.CallerError)
        ):
            self.fe.release()
            self.seen = dict(self.acknowledged)
            self.inside.clear()

    def begin_batch(self) -> None:
        with (
            contextlib.nullcontext() if not self.contexts else pytest.raises(rfp.errors.CallerError)
        ):
            context = self.fe.batch()
            context.__enter__()
            self.inside.clear()
            self.contexts.append(context)
            self.seen = dict(self.acknowledged)

    def begin_transaction(self) -> None:
        if self.open:
            most = min(64, len(self.open))  # that a transaction may change
            names = self.rng.sample(list(self.open), self.rng.randint(1, most))
            with (
                contextlib.nullcontext()
                if self.pending is None
                else pytest.raises(rfp.errors.CallerError)
            ):
                context = self.fe.transaction(*(self.open[name] for name in names))
                context.__enter__()
                self.contexts.append(context)
                self.pending = dict.fromkeys(names, 0)
                self.seen = dict(self.acknowledged)
                self.inside = set(names)

    def end(self) -> None:
        if self.contexts:
            discard = self.rng.random() < 0.5
            self.contexts.pop().__exit__(
                *((Discarded, Discarded(), None) if discard else (None, None, None))
            )
            for name, n in (self.pending or {}).items():
                self.acknowledged[name] += 0 if discard else n
            self.pending = None
            if not self.contexts:
                self.seen = dict(self.acknowledged)

    def read(self) -> None:
        for name in self.rng.sample(list(self.acknowledged), min(len(self.acknowledged), 3)):
            found = Sample(self.reader, name, create=False).numbers()[0]
            assert self.seen.get(name, 0) <= found <= self.acknowledged[name]
            assert self.contexts or found == self.acknowledged[name]
            self.seen[name] = found

    def check(self) -> None:
        for name in list(self.open)[-1:]:
            self.inside.add(name)
            with self.allowed(name):
                self.open[name].check()
                assert self.open[name].numbers()[0] == self.value(name)


@pytest.fixture
def roomy() -> Iterator[rnvm.Backend]:
    with new_path("direct") as path:
        pools.create(
            path,
            "32MiB",
            front_ends=4,
            names=128,
            operation_log="320KiB",
            memory_log="320KiB",
            assume_persistent=True,
        )
        # Others sometimes wait until the front-end in a batch is fenced.
        with open_backend(path, lease=2.0) as backend:
            yield backend


def random_calls(address: str, key: str, seed: int) -> dict[str, int]:
    """Execute some; return the acknowledged contents."""
    rng = random.Random(seed)
    history = History(address, rng, key)
    KEPT.append(history)
    for _ in range(rng.randint(1, 80)):
        history.step()
    return history.acknowledged


@pytest.mark.timeout(300)
def test_acknowledged_random_calls_are_kept_whenever_their_process_is_killed(
    mortals: Mortals, roomy: rnvm.Backend, rng: random.Random
) -> None:
    with rnvm.connect(roomy.address, timeout=20) as fe:
        for n in range(40):
            acknowledged = mortals.die("random_calls", roomy.address, f"h{n}", rng.getrandbits(64))
            for name, value in acknowledged.items():
                sample = Sample(fe, name, create=False)
                sample.check()
                assert sample.numbers()[0] == value
                del sample
                fe.drop(name)
            for name in fe.names():
                fe.drop(name)


# What a child of the process of mortals.py executes.
LIVES = {"call_in_a_state": call_in_a_state, "random_calls": random_calls}
