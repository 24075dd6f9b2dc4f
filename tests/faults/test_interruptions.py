"""A signal handler raises at any line of the package's Python code: the next call works.

No descriptor and no ring is left open.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import takewhile
from typing import Any

import pytest
from polling import until

import rfp
from rfp.core import clock
from rfp.errors import CallerError

from .processes import Process

INTERRUPTED = "/rfp/"


class Interrupt(BaseException):
    """Only the tests' signal handler raises this."""


def interrupt_at(number: int, call: Callable[[], Any], handler: Callable[[], Any]) -> Any:
    """Run call(), and handler() at the number-th line of rfp's Python code, as a signal handler."""
    passed = 0

    def local(frame: Any, event: str, argument: object) -> Any:
        nonlocal passed
        if event == "line":
            passed += 1
            if passed == number:
                sys.settrace(None)
                handler()
        return local

    def trace(frame: Any, event: str, argument: object) -> Any:
        return local if INTERRUPTED in frame.f_code.co_filename else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        return call()
    finally:
        sys.settrace(before)


def places(call: Callable[[], Any], step: int) -> Iterator[int]:
    """Yield every step-th of the lines that a call passes; the first one depends on the process."""
    count = 0

    def local(frame: Any, event: str, argument: object) -> Any:
        nonlocal count
        count += event == "line"
        return local

    before = sys.gettrace()
    sys.settrace(
        lambda frame, event, argument: local if INTERRUPTED in frame.f_code.co_filename else None
    )
    try:
        call()
    finally:
        sys.settrace(before)
    assert count > 100, "the trace does not see the package"
    yield from range(1 + os.getpid() % step, count + 1, step)


def descriptors() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def interrupt() -> None:
    raise Interrupt


def first_call(address: str) -> None:
    with rfp.connect(address) as kv:
        kv.get(b"k")


def alone(kv: rfp.Client) -> bool:
    """Whether the server has exactly one client, with the rings of one thread."""
    return [
        each["threads"] for each in kv.connection.figures(clock.now_ns() + 10**10)["clients"]
    ] == [1]


def use(kv: rfp.Client, seen: set[str]) -> None:
    try:
        assert kv.get(b"k") == b"v"
        seen.add("fine")
    except CallerError as error:
        assert "inside another call" in str(error)
        seen.add("refused")


@pytest.fixture
def address(start: Callable[..., Process]) -> str:
    server = start("server")
    server.do("kv = rfp.connect(server.address); kv.put(b'k', b'v'); kv.close(); kv = None")
    return str(server.address)


@pytest.mark.parametrize(
    "step", [41, pytest.param(1, marks=[pytest.mark.long, pytest.mark.timeout(900)])]
)
def test_after_an_interrupt_in_a_first_call_the_next_call_works(
    address: str, step: int, run_ends: float
) -> None:
    with rfp.connect(address) as kv:
        lines = list(places(partial(kv.get, b"k"), step))
    for number in takewhile(lambda _: time.monotonic() < run_ends, lines):
        before = descriptors()
        with rfp.connect(address) as kv:
            try:
                assert interrupt_at(number, partial(kv.get, b"k"), interrupt) == b"v"
            except Interrupt:
                pass
            assert kv.get(b"k") == b"v", number
            assert kv.put(b"mine", b"%d" % number) and kv.get(b"mine") == b"%d" % number, number
            # The server has no unused rings.
            assert len(kv.connection.channels) == 1, number
            until(partial(alone, kv))
        assert descriptors() == before, number


@pytest.mark.parametrize(
    "step", [41, pytest.param(1, marks=[pytest.mark.long, pytest.mark.timeout(900)])]
)
def test_an_interrupt_in_connect_leaves_nothing_open(
    address: str, step: int, capfd: pytest.CaptureFixture[str], run_ends: float
) -> None:
    lines = list(places(lambda: rfp.connect(address).close(), step))
    for number in takewhile(lambda _: time.monotonic() < run_ends, lines):
        before = descriptors()
        try:
            interrupt_at(number, lambda: rfp.connect(address), interrupt).close()
        except Interrupt:
            pass
        assert descriptors() == before, number
    assert capfd.readouterr().err == ""  # no exception was ignored in a finalizer


@pytest.mark.parametrize(
    "step", [41, pytest.param(1, marks=[pytest.mark.long, pytest.mark.timeout(900)])]
)
def test_a_call_succeeds_although_a_handler_that_interrupts_it_uses_the_handle(
    address: str, step: int, run_ends: float
) -> None:
    """The handler's own call succeeds, or raises CallerError with the text for that."""
    with rfp.connect(address) as kv:
        lines = list(places(partial(kv.get, b"k"), step))
    seen: set[str] = set()
    for number in takewhile(lambda _: time.monotonic() < run_ends, lines):
        with rfp.connect(address) as kv:
            assert interrupt_at(number, partial(kv.get, b"k"), partial(use, kv, seen)) == b"v", (
                number
            )
            assert kv.get(b"k") == b"v", number
    assert seen == {"fine", "refused"} or time.monotonic() > run_ends


@pytest.mark.parametrize(
    "step", [41, pytest.param(1, marks=[pytest.mark.long, pytest.mark.timeout(900)])]
)
def test_a_handler_may_close_the_handle_in_its_first_call(
    address: str, step: int, run_ends: float
) -> None:
    with rfp.connect(address) as kv:
        lines = list(places(partial(kv.get, b"k"), step))
    for number in takewhile(lambda _: time.monotonic() < run_ends, lines):
        before = descriptors()
        with rfp.connect(address) as kv:
            try:
                assert interrupt_at(number, partial(kv.get, b"k"), kv.close) == b"v"
            except rfp.errors.RfpError as error:
                assert isinstance(error, rfp.errors.Closed), (number, repr(error))
        assert descriptors() == before, number


def test_a_first_call_that_its_handlers_error_ends_leaves_the_thread_no_removed_rings() -> None:
    """The handler finds the rings that are being set up, and raises CallerError.

    The error ends the first call, which removes its rings.
    """
    inside, go = threading.Event(), threading.Event()
    kept = []

    def busy(request: bytes) -> bytes:
        if request == b"busy":
            inside.set()
            go.wait()
        return request

    def handler(*_: object) -> None:
        kept.extend(client.connection.channels)  # or their memory might be used again
        client.call(b"within")

    old = signal.signal(signal.SIGALRM, handler)
    try:
        with (
            rfp.RpcServer(busy) as server,
            rfp.RpcClient(server.address) as other,
            rfp.RpcClient(server.address) as client,
        ):
            thread = threading.Thread(target=partial(other.call, b"busy", timeout=60))
            thread.start()
            inside.wait()
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.5)
                with pytest.raises(CallerError, match="inside another call"):
                    client.call(b"first", timeout=60)
            finally:
                go.set()
                thread.join()
            link = client.connection
            assert len(kept) == 1
            assert client.call(b"next") == b"next"
            assert client.connection is link, "the call used the removed rings"
            assert kept[0] not in link.channels
    finally:
        signal.signal(signal.SIGALRM, old)
