"""Calls that wait until a structure changes: they wake in time, poll nothing and lose nothing."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from polling import until
from time_bounds import LONG, in_some_try, soon

import rnvm
from rfp.errors import (
    Closed,
    ConnectionFailed,
    DeadlineExceeded,
    Empty,
    InvalidArgument,
    WrongType,
)
from structures import Queue

from .conftest import new_path, open_backend
from .test_operations import waiting as threads_that_wait

MISSED = 0.5  # seconds after which a sleeper polls, if nothing has woken it
NETWORKS = ("emulated", "reorder")


class Caller(threading.Thread):
    """A call in a thread of its own; its result, or the exception that it raised."""

    def __init__(self, function: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self.function = function
        self.start()

    def run(self) -> None:
        began, cpu = time.monotonic(), time.thread_time()
        try:
            self.value: Any = self.function()
        except Exception as error:
            self.value = error
        self.seconds, self.cpu = time.monotonic() - began, time.thread_time() - cpu

    def result(self) -> Any:
        self.join(60)
        assert not self.is_alive()
        return self.value


def requests(fe: rnvm.FrontEnd) -> int:
    return fe.figures["calls"] + fe.figures["reads"]


def waiting_call(fe: rnvm.FrontEnd, function: Callable[[], Any]) -> Caller:
    """Start a call of a front-end that has no other calls; return when it has begun to wait."""
    before = requests(fe)
    caller = Caller(function)
    until(lambda: requests(fe) > before + 1)
    return caller


@pytest.mark.parametrize("lock", ["sticky", "cas"])
def test_each_put_wakes_a_waiting_get(backend, connect, medium, lock):
    """A lost wake-up shows as a round that takes half a second."""
    there, here = connect(backend, lock=lock), connect(backend, lock=lock)
    questions, answers = Queue(there, "questions"), Queue(there, "answers")
    rounds = 300 if medium == "direct" else 30

    def answer() -> None:
        asked, answered = Queue(here, "questions"), Queue(here, "answers")
        while (question := asked.get(timeout=LONG)) != b"end":
            answered.put(question)

    def ask() -> int:
        """Return how many rounds were late."""
        late = 0
        for i in range(rounds):
            began = time.monotonic()
            questions.put(b"%d" % i)
            assert answers.get(timeout=LONG) == b"%d" % i
            late += time.monotonic() - began > MISSED * 0.8
        return late

    other = Caller(answer)
    # Also if the machine holds the threads up for a while.
    assert any(ask() <= rounds // 20 for _ in range(4))
    questions.put(b"end")
    assert other.result() is None


@pytest.mark.anywhere
def test_reserve_waits_too(backend, connect):
    there, here = connect(backend), connect(backend)
    queue, mine = Queue(there, "q"), Queue(here, "q")
    waiting = waiting_call(here, lambda: mine.reserve(lease=LONG, timeout=LONG))
    queue.put(b"job")
    token, value = waiting.result()
    assert value == b"job"
    mine.ack(token)


@pytest.mark.anywhere
def test_a_wait_ends_with_its_time(backend, connect):
    queue = Queue(connect(backend), "q")
    began = time.monotonic()
    with pytest.raises(Empty):
        queue.get(timeout=0.05)
    with pytest.raises(Empty):
        queue.reserve(timeout=0.05)
    assert queue.get(None, timeout=0.05) is None
    assert 0.15 <= time.monotonic() - began < LONG
    for timeout in (-1, float("nan"), "soon", True, False):
        for scope in (contextlib.nullcontext(), queue.fe.batch(), queue.fe.transaction(queue)):
            with scope, pytest.raises((InvalidArgument, WrongType), match="timeout must be"):
                queue.get(timeout=timeout)
            with scope, pytest.raises((InvalidArgument, WrongType), match="timeout must be"):
                queue.reserve(timeout=timeout)
    with pytest.raises(Empty):
        queue.reserve(timeout=0)
    queue.put(b"value")
    assert queue.get(timeout=0) == b"value"


@contextlib.contextmanager
def held(scope: Any) -> Iterator[None]:
    """Keep a batch or a transaction open in another thread."""
    entered, over = threading.Event(), threading.Event()

    def hold() -> None:
        with scope:
            entered.set()
            over.wait(2 * LONG)

    holder = Caller(hold)
    try:
        assert entered.wait(LONG)
        yield
    finally:
        over.set()
    assert holder.result() is None


class Impatient(Queue):
    """The queries of its waits have so much time, whatever the wait and the front-end have."""

    query_seconds = 0.1

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.gave_up = threading.Event()

    def _seconds_to_next(self, timeout: float) -> Any:
        try:
            return super()._seconds_to_next(self.query_seconds)
        except (ConnectionFailed, DeadlineExceeded):
            self.gave_up.set()
            raise


@pytest.mark.parametrize("medium", ["direct"])
def test_the_time_of_a_wait_does_not_end_the_operation_that_takes_a_value(backend, connect):
    queue, there = Impatient(connect(backend), "q"), connect(backend)
    queue.query_seconds = LONG  # it finds the value, also on a busy machine
    theirs = Queue(there, "q")
    for take in (queue.get, queue.reserve):
        queue.put(b"value")
        with held(there.transaction(theirs)):
            taking = Caller(lambda take=take: take(timeout=0.1))
            until(lambda: backend.figures()["pool"]["waiting"])
            time.sleep(0.1)  # its time is over
        assert taking.result()[-1:] in (b"e", (b"value",))
        assert len(theirs) == 0


@pytest.mark.parametrize("medium", ["direct"])
def test_a_wait_behind_a_batch_of_another_thread_ends_in_time_and_goes_on(backend):
    with rnvm.connect(backend.address, timeout=LONG) as fe:
        queue = Queue(fe, "q")
        with held(fe.batch()), soon(least=0.2):
            assert queue.get(None, timeout=0.2) is None
        del queue
        queue = Impatient(fe, "q")
        with held(fe.batch()):
            waiting = Caller(lambda: queue.get(timeout=LONG))
            assert queue.gave_up.wait(LONG)
        queue.query_seconds = LONG
        queue.put(b"value")
        assert waiting.result() == b"value"


@pytest.mark.parametrize("medium", ["direct"])
def test_a_lease_begins_when_the_value_is_reserved(backend, connect):
    fe = connect(backend)
    queue = Queue(fe, "q")
    queue.put(b"job")
    with held(fe.batch()):
        reserving = Caller(lambda: queue.reserve(lease=4))
        until(lambda: threads_that_wait(fe))
        time.sleep(1)  # more than an eighth of the lease
        end = time.monotonic() + 4  # of a lease that began now
    reserving.result()
    [reservation] = queue.reservations()
    assert reservation.left > end - time.monotonic() - 0.5
    assert reservation.deliveries == 1


@pytest.mark.parametrize("medium", ["direct"])
def test_a_reservation_whose_lease_cannot_begin_again_returns_its_token(backend, connect):
    """Batches of other threads delay the reservation, and then its second lease for too long."""
    fe = connect(backend, timeout=2)
    names = iter("abcdefghijklmnop")

    def hold(end: threading.Event, entered: threading.Event) -> None:
        with fe.batch():
            entered.set()
            assert end.wait(LONG)

    def reserve_late() -> None:
        queue = Queue(fe, next(names), timeout=LONG)
        queue.put(b"job", timeout=LONG)
        go_on, entered, over = threading.Event(), threading.Event(), threading.Event()
        first = Caller(lambda: hold(go_on, entered))
        assert entered.wait(LONG)
        try:
            reserving = Caller(lambda: queue.reserve(lease=4))
            until(lambda: threads_that_wait(fe) == 1)
            second = Caller(lambda: hold(over, entered))
            until(lambda: threads_that_wait(fe) == 2)
            time.sleep(0.55)  # more than an eighth of the lease
            go_on.set()
            found = reserving.result()
        finally:
            go_on.set()
            over.set()
        assert (first.result(), second.result()) == (None, None)
        assert isinstance(found, tuple), found
        assert reserving.seconds > 2
        token, job = found
        assert job == b"job"
        queue.ack(token, timeout=LONG)

    # The calls of the threads have little time.
    in_some_try(reserve_late)


@pytest.mark.parametrize("medium", ["direct"])
def test_front_ends_that_close_do_not_make_a_waiter_poll(backend, connect):
    queue = Queue(connect(backend), "q")
    other = connect(backend)
    theirs = Queue(other, "q")
    steps = queue._getting(timeout=float("inf"))
    watch, *_ = next(steps)
    waiting = Caller(lambda: watch.wait(0.3))
    other.close()
    assert waiting.result() is False  # nobody waits there: it wakes nobody
    for _ in range(12):
        other = connect(backend)
        theirs = Queue(other, "q")
        sleeper = waiting_call(other, lambda queue=theirs: queue.get(timeout=LONG))
        waiting = Caller(lambda watch=watch: watch.wait(LONG))
        until(lambda two=(sleeper, waiting): all(map(asleep, two)))
        other.close()
        assert isinstance(sleeper.result(), Closed)
        waiting.result()
        watch, *_ = next(steps)
        assert not watch.polls
    steps.close()


def asleep(caller: Caller) -> bool:
    with open(f"/proc/self/task/{caller.native_id}/wchan") as wchan:
        return "futex" in wchan.read()


def test_a_waiting_call_polls_nothing(backend, connect, medium):
    fe = connect(backend)
    queue = Queue(fe, "q")
    queue.get(None, timeout=0.01)
    before = fe.figures

    def get() -> tuple[int, object]:
        switches = voluntary_switches()
        return queue.get(None, timeout=1.2), voluntary_switches() - switches

    value, switches = (waiting := Caller(get)).result()
    assert value is None
    sent = sum(fe.figures[each] - before[each] for each in ("reads", "calls", "writes"))
    if medium in NETWORKS:
        assert sent < 200  # one READ or two for each 20 ms
    else:
        # It sleeps three times, for half a second at most.
        assert switches < 30
        assert fe.figures["calls"] - before["calls"] <= 6
        assert waiting.cpu < 0.1


def voluntary_switches() -> int:
    with open(f"/proc/self/task/{threading.get_native_id()}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("voluntary"))


def test_the_end_of_a_lease_and_of_a_delay_wake(backend, connect):
    queue, other = Queue(connect(backend), "q"), Queue(connect(backend), "q")
    queue.put(b"leased")
    with soon(least=0.1):
        queue.reserve(lease=0.2)
        assert other.reserve(timeout=LONG)[1] == b"leased"
    with soon(least=0.1):
        queue.put(b"late", delay=0.2)
        assert other.get(timeout=LONG) == b"late"


@pytest.mark.parametrize("act", ["nack", "earlier delay", "transaction", "batch", "many"])
@pytest.mark.parametrize("medium", ["direct", "image"])
def test_every_change_that_brings_a_value_wakes(backend, connect, act):
    fe, here = connect(backend), connect(backend)
    queue, mine = Queue(fe, "q"), Queue(here, "q")
    queue.put(b"value")
    token, _ = queue.reserve(lease=3600)
    queue.put(b"in an hour", delay=3600)
    waiting = waiting_call(here, lambda: mine.get(timeout=LONG))
    if act == "nack":
        queue.nack(token)
    elif act == "earlier delay":
        queue.put(b"value", delay=0.01)
    elif act == "many":
        queue.put_many([b"value", b"and", b"more"])
    else:
        with fe.transaction(queue) if act == "transaction" else fe.batch():
            queue.put(b"value")
    assert waiting.result() == b"value"
    assert waiting.seconds < LONG / 2


def test_threads_of_one_front_end_put_while_one_waits(backend, connect):
    queue = Queue(connect(backend), "q")
    waiting = [Caller(lambda: queue.get(timeout=LONG)) for _ in range(3)]
    for i in range(3):
        queue.put(b"%d" % i)
    assert sorted(each.result() for each in waiting) == [b"0", b"1", b"2"]


@pytest.mark.parametrize("medium", ["direct"])
def test_one_value_wakes_two_of_six(backend, connect):
    """The second one, by the transaction with which the first one takes the value."""
    fes = [connect(backend) for _ in range(6)]
    queues = [Queue(fe, "q") for fe in fes]
    producer = Queue(connect(backend), "q")

    def wait(i: int) -> Caller:
        return waiting_call(fes[i], lambda: queues[i].get(timeout=LONG))

    callers = [wait(i) for i in range(6)]
    calls = []
    for _ in range(5):
        before = sum(fe.figures["calls"] for fe in fes)
        producer.put(b"value")
        until(lambda waiting=tuple(callers): not all(each.is_alive() for each in waiting))
        calls.append(sum(fe.figures["calls"] for fe in fes) - before)
        callers = [each if each.is_alive() else wait(i) for i, each in enumerate(callers)]
    producer.put_many([b"end"] * 6)
    assert {caller.result() for caller in callers} == {b"end"}
    # The lock for the one, and an announcement for the other.  All of them poll twice a second.
    assert min(calls) <= 4


@pytest.mark.parametrize("medium", ["direct", "emulated"])
def test_a_batch_and_a_transaction_do_not_wait(backend, connect):
    fe = connect(backend)
    queue = Queue(fe, "q")
    began = time.monotonic()
    with fe.batch(), pytest.raises(Empty):
        queue.get(timeout=LONG)
    with fe.transaction(queue), pytest.raises(Empty):
        queue.reserve(timeout=LONG)
    assert time.monotonic() - began < LONG / 2


@pytest.mark.parametrize("medium", ["direct", "emulated"])
def test_closing_the_front_end_ends_a_wait(backend, connect):
    fe = connect(backend)
    queue = Queue(fe, "q")
    waiting = waiting_call(fe, lambda: queue.get(timeout=LONG))
    fe.close()
    assert isinstance(waiting.result(), Closed)
    assert waiting.seconds < LONG / 2


@pytest.mark.parametrize("medium", ["direct", "emulated"])
def test_a_signal_handler_may_end_a_wait(backend, connect):
    queue = Queue(connect(backend), "q")

    def ring(*_: object) -> None:
        raise KeyError("rung")

    before = signal.signal(signal.SIGALRM, ring)
    try:
        with pytest.raises(KeyError, match="rung"):
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            queue.get(timeout=LONG)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    queue.put(b"still usable")
    assert queue.get() == b"still usable"


@pytest.mark.parametrize("medium", ["direct", "emulated"])
def test_a_wait_survives_a_restart_of_the_back_end_and_not_its_death(medium):
    with new_path(medium) as path, contextlib.ExitStack() as stack:
        backend = open_backend(path, medium)
        fe = stack.enter_context(rnvm.connect(backend.address, timeout=15))
        queue = Queue(fe, "q")
        waiting = waiting_call(fe, lambda: queue.get(timeout=LONG))
        address = backend.address
        backend.close()
        with open_backend(path, medium, address=address) as backend:
            with rnvm.connect(address) as other:
                Queue(other, "q").put(b"value")
            assert waiting.result() == b"value"

        def die_during_a_wait() -> None:
            with open_backend(path, medium, address=address) as dying:
                with rnvm.connect(address, timeout=LONG) as patient:
                    queue = Queue(patient, "q")
                    waiting = waiting_call(patient, lambda: queue.get(timeout=1))
                    dying.close()
                    assert isinstance(waiting.result(), ConnectionFailed)
                    assert 0.9 < waiting.seconds < LONG / 2

        in_some_try(die_during_a_wait)  # else the wait has ended before


@pytest.mark.parametrize("medium", ["direct", "emulated"])
def test_a_wait_outlives_a_back_end_that_is_away_for_longer_than_a_call_may_take(medium):
    with new_path(medium) as path, contextlib.ExitStack() as stack:
        backend = open_backend(path, medium)
        address = backend.address
        fe = stack.enter_context(rnvm.connect(address, timeout=20))
        queue = Impatient(fe, "q")
        queue.query_seconds = LONG
        waiting = waiting_call(fe, lambda: queue.get(timeout=LONG))
        away = waiting_call_of_a_fixed_front_end(stack, address)
        queue.query_seconds = 0.2  # as long as a call may take
        backend.close()
        assert isinstance(away.result(), ConnectionFailed)
        assert queue.gave_up.wait(LONG)
        queue.query_seconds = LONG
        with open_backend(path, medium, address=address):
            with rnvm.connect(address) as other:
                Queue(other, "q").put(b"value")
            assert waiting.result() == b"value"
            fe.close()


def waiting_call_of_a_fixed_front_end(stack: contextlib.ExitStack, address: str) -> Caller:
    fe = stack.enter_context(rnvm.connect(address, reconnect=False))
    queue = Queue(fe, "fixed")
    return waiting_call(fe, lambda: queue.get(timeout=LONG))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("medium", ["direct", "image"])
def test_operations_of_a_killed_writer_wake(medium):
    """A batch has logged a put and not written its change: the next holder executes it."""
    with new_path(medium) as path, open_backend(path, medium, lease=0.3) as backend:
        with rnvm.connect(backend.address) as fe:
            queue = Queue(fe, "q")
            done, ready = os.pipe()
            if not (pid := os.fork()):
                writer = rnvm.connect(backend.address)
                theirs = Queue(writer, "q")
                writer.batch().__enter__()
                theirs.put(b"orphan")
                os.write(ready, b"!")
                signal.pause()
            os.read(done, 1)
            waiting = Caller(lambda: queue.get(timeout=LONG))
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            os.close(done)
            os.close(ready)
            assert waiting.result() == b"orphan"
            assert waiting.seconds < LONG / 2


def test_many_waiters_share_many_values(backend, connect, medium):
    """Each value is taken once, and no waiter sleeps while there are values."""
    fes = [connect(backend) for _ in range(4)]
    producer = Queue(connect(backend), "q")

    def work(fe: rnvm.FrontEnd) -> list[bytes]:
        queue, taken = Queue(fe, "q"), []
        while (value := queue.get(timeout=LONG)) != b"end":
            taken.append(value)
        return taken

    workers = [Caller(lambda fe=fe: work(fe)) for fe in fes]
    count = 400 if medium == "direct" else 40
    began = time.monotonic()
    for i in range(0, count, 4):
        producer.put(b"%d" % i)
        producer.put_many(b"%d" % (i + k) for k in (1, 2, 3))
    producer.put_many([b"end"] * len(workers))
    taken = [worker.result() for worker in workers]
    assert sorted(int(value) for some in taken for value in some) == list(range(count))
    assert time.monotonic() - began < LONG


@pytest.mark.parametrize("medium", ["direct"])
def test_a_wait_keeps_nothing_alive(backend, connect):
    fe = connect(backend)
    queue = Queue(fe, "q")
    gc.disable()
    try:
        with pytest.raises(Empty):
            queue.reserve(timeout=0.01)
        queue.put(b"value")
        queue.reserve(timeout=LONG)
        queue.get(None, timeout=0.01)
        del queue
        assert "q" not in fe.structures
    finally:
        gc.enable()
