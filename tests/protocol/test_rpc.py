"""Calls through the whole stack.

Deadlines, signals, threads, forks, modes, and servers and clients that die.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import threading
import time
from collections.abc import Iterator

import pytest
from polling import until
from stopping import stop
from time_bounds import LONG, SOON, in_some_try, soon

import rfp
from rfp.errors import (
    Busy,
    CallerError,
    Closed,
    ConnectionFailed,
    DeadlineExceeded,
    Forked,
    HandlerFailed,
    HandshakeFailed,
    InvalidArgument,
    OutcomeUnknown,
    TooLarge,
    WrongType,
)
from rfp.rpc.server import RpcServer

from .services import CLIENT, SERVER, started, wait_for_word

pytestmark = pytest.mark.anywhere


class Gate:
    """A handler that answers "wait" only when it is opened, and records that it was entered."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.open = threading.Event()

    def __call__(self, request: bytes) -> bytes:
        if request == b"wait":
            self.entered.release()
            assert self.open.wait(60)
        return request


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open.set()


@pytest.fixture
def slow(gate) -> Iterator[RpcServer]:
    with rfp.RpcServer(gate, slots=3) as server:
        try:
            yield server
        finally:
            gate.open.set()


@pytest.fixture
def echo() -> Iterator[RpcServer]:
    with rfp.RpcServer(bytes) as server:
        yield server


def counters(client: rfp.RpcClient) -> dict:
    """Return the counters of this thread's channel, the only one in these tests."""
    (channel,) = client.connection.channels
    return channel.counters


# --- Messages and handlers


@pytest.mark.parametrize("mode", ["auto", "fetch", "reply"])
def test_messages_of_every_length_are_returned(mode, rng):
    with rfp.RpcServer(lambda request: request[::-1], max_message="300KiB") as server:
        with rfp.RpcClient(server.address, mode=mode) as client:
            for length in (
                0,
                1,
                31,
                32,
                33,
                40,
                100,
                231,
                232,
                233,
                511,
                1000,
                4096,
                65536,
                300 << 10,
            ):
                message = rng.randbytes(length)
                assert client.call(message) == message[::-1]
                assert client.call(memoryview(bytearray(message))) == message[::-1]


def test_a_message_or_a_response_beyond_the_limit_is_refused_and_the_next_call_works():
    with (
        rfp.RpcServer(lambda request: b"x" * int(request), max_message=1000) as server,
        rfp.RpcClient(server.address) as client,
    ):
        with pytest.raises(TooLarge, match="message of 2000 bytes"):
            client.call(b"0" * 2000)
        with pytest.raises(TooLarge, match="5000 bytes"):
            client.call(b"5000")
        assert len(client.call(b"1000")) == 1000
        with pytest.raises(WrongType):
            client.call("text")


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    ("handler", "text"),
    [
        (lambda request: 1 / 0, "ZeroDivisionError: division by zero"),
        (lambda request: exec("raise SystemExit(3)"), "SystemExit: 3"),
        (lambda request: (_ for _ in ()).throw(KeyboardInterrupt), "KeyboardInterrupt"),
        (lambda request: (_ for _ in ()).throw(Unprintable), "Unprintable"),
        (lambda request: (_ for _ in ()).throw(ValueError("\ud800")), "ValueError"),
        (lambda request: (_ for _ in ()).throw(ValueError("x" * 9999)), "xxx"),
        (lambda request: "text", "str"),
        (lambda request: None, "NoneType"),
        (lambda request: memoryview(bytearray(8))[::2].cast, "builtin_function_or_method"),
    ],
)
@pytest.mark.parametrize("max_message", [1, 1000])
def test_any_fault_of_a_handler_fails_its_call_and_no_other(handler, text, max_message):
    with rfp.RpcServer(
        lambda request: handler(request) if request else b"well", max_message=max_message
    ) as server:
        with rfp.RpcClient(server.address) as client:
            for _ in range(3):
                with pytest.raises(HandlerFailed, match=text[: min(len(text), 20)]):
                    client.call(b"!")
                assert client.call(b"") == b"well"


def test_a_handler_fails_its_call_even_if_the_error_cannot_be_printed(monkeypatch):
    monkeypatch.setattr("sys.stderr", None)
    with rfp.RpcServer(lambda request: 1 / 0) as server, rfp.RpcClient(server.address) as client:
        with pytest.raises(HandlerFailed, match="division"):
            client.call(b"!")


def test_a_handler_may_return_any_buffer():
    answers = iter([bytearray(b"a"), memoryview(b"bc"), memoryview(b"d-e-f")[::2]])
    with (
        rfp.RpcServer(lambda request: next(answers)) as server,
        rfp.RpcClient(server.address) as client,
    ):
        assert [client.call(b"") for _ in range(3)] == [b"a", b"bc", b"def"]


def test_a_handler_cannot_close_its_own_server():
    with (
        rfp.RpcServer(lambda request: server.close() or b"") as server,
        rfp.RpcClient(server.address) as client,
    ):
        with pytest.raises(HandlerFailed, match="cannot close its own server"):
            client.call(b"")
        assert not server.closed


# --- Deadlines


def fill_slots(client: rfp.RpcClient) -> None:
    """Make each slot wait for a late answer."""
    client.ping()  # attaches the thread, so that a call is submitted at once
    for _ in range(3):
        with pytest.raises(DeadlineExceeded):
            client.call(b"wait", timeout=0.1)


def test_a_call_ends_at_its_deadline_and_its_slot_is_free_once_answered(slow, gate):
    with rfp.RpcClient(slow.address) as client:
        client.ping()
        with soon(least=0.15), pytest.raises(DeadlineExceeded):
            client.call(b"wait", timeout=0.15)
        gate.open.set()
        for i in range(10):
            assert client.call(bytes([i])) == bytes([i])


@pytest.mark.shm
def test_calls_are_busy_when_all_slots_wait_for_late_answers_and_work_again_after_them(slow, gate):
    with rfp.RpcClient(slow.address) as client:
        fill_slots(client)
        with pytest.raises(Busy):
            client.call(b"no slot", timeout=0.02)
        with pytest.raises(Busy):
            client.ping(timeout=0.02)
        gate.open.set()
        assert client.call(b"again") == b"again"
        assert client.ping() > 0


def test_a_call_waits_for_a_slot_until_its_own_deadline(slow, gate):
    with rfp.RpcClient(slow.address) as client:
        fill_slots(client)
        threading.Timer(0.05, gate.open.set).start()
        assert client.call(b"patient", timeout=SOON) == b"patient"


@pytest.mark.parametrize("timeout", [0, -1, float("inf"), float("nan"), 1e10])
def test_an_invalid_timeout_is_refused_before_the_request_is_sent(echo, timeout):
    with pytest.raises(InvalidArgument):
        rfp.RpcClient(echo.address, timeout=timeout)
    with rfp.RpcClient(echo.address) as client:
        with pytest.raises(InvalidArgument):
            client.call(b"x", timeout=timeout)
        client.call(b"x")
        assert counters(client)["submitted"] == 9 + 1


# --- Signals


def test_an_interrupt_ends_a_call_at_once_and_the_handle_stays_usable(slow, gate):
    with rfp.RpcClient(slow.address) as client:
        client.ping()

        def interrupt() -> None:
            assert gate.entered.acquire(timeout=20)
            os.kill(os.getpid(), signal.SIGINT)

        thread = threading.Thread(target=interrupt)
        thread.start()
        with soon(), pytest.raises(KeyboardInterrupt):
            client.call(b"wait", timeout=LONG)
        thread.join()
        gate.open.set()
        assert client.call(b"next") == b"next"


def on_signal(gate: Gate, act) -> None:
    """Run act() in a signal handler that interrupts the call which has entered the gate."""
    signal.signal(signal.SIGUSR1, lambda *_: act())

    def send() -> None:
        assert gate.entered.acquire(timeout=20)
        os.kill(os.getpid(), signal.SIGUSR1)

    threading.Thread(target=send).start()


@pytest.fixture
def signals_as_before():
    before = signal.getsignal(signal.SIGUSR1)
    yield
    signal.signal(signal.SIGUSR1, before)


def test_a_signal_handler_may_close_the_handle_that_it_interrupted(slow, gate, signals_as_before):
    client = rfp.RpcClient(slow.address)
    on_signal(gate, client.close)
    with pytest.raises(Closed):
        client.call(b"wait", timeout=50)
    client.close()
    with pytest.raises(Closed):
        client.ping()


def test_a_signal_handler_cannot_call_through_the_handle_that_it_interrupted(
    slow, gate, signals_as_before
):
    with rfp.RpcClient(slow.address) as client:
        on_signal(gate, lambda: client.call(b"inside"))
        with pytest.raises(CallerError, match="inside another call"):
            client.call(b"wait", timeout=50)
        gate.open.set()
        assert client.call(b"after") == b"after"


def test_a_signal_handler_that_returns_does_not_change_the_call(slow, gate, signals_as_before):
    with rfp.RpcClient(slow.address) as client:
        on_signal(gate, gate.open.set)
        assert client.call(b"wait", timeout=50) == b"wait"


# --- Threads and handles


def test_each_of_many_threads_gets_its_own_responses(echo):
    failed = []
    with rfp.RpcClient(echo.address) as client:

        def work(name: int) -> None:
            for i in range(150):
                message = b"%d %d" % (name, i) * (i % 50)
                if client.call(message, timeout=50) != message:
                    failed.append((name, i))

        threads = [threading.Thread(target=work, args=(name,)) for name in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failed
        assert 1 <= len(client.connection.channels) <= 8


def test_a_thread_that_ends_leaves_its_channel_to_the_next(echo):
    with rfp.RpcClient(echo.address) as client:
        for _ in range(10):
            thread = threading.Thread(target=client.call, args=(b"x",))
            thread.start()
            thread.join()
        assert len(client.connection.channels) == 1
        (shown,) = echo.figures()["clients"]
        assert shown["threads"] == 1
        assert shown["served"] == 10 + 9


def test_two_handles_in_one_thread_are_independent(echo):
    with rfp.RpcServer(lambda request: b"other " + request) as other:
        with rfp.RpcClient(echo.address) as first, rfp.RpcClient(other.address) as second:
            for i in range(20):
                assert first.call(b"%d" % i) == b"%d" % i
                assert second.call(b"%d" % i) == b"other %d" % i


def test_closing_a_handle_ends_the_calls_of_other_threads(slow, gate):
    client = rfp.RpcClient(slow.address, timeout=50)
    raised = []
    together = threading.Barrier(4)

    def work() -> None:
        client.call(b"attach")  # while the worker is free to answer
        together.wait(20)
        try:
            client.call(b"wait")
        except Exception as error:
            raised.append(type(error))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert gate.entered.acquire(timeout=20)
    until(lambda: sum(channel.busy for channel in client.connection.channels) == 4)
    with soon():
        client.close()
        for thread in threads:
            thread.join()
    assert raised == [Closed] * 4


@pytest.mark.shm
def test_a_running_handler_prevents_no_client_from_connecting_or_disconnecting(slow, gate):
    """New and old rings wait for the worker; the control channel does not."""
    with rfp.RpcClient(slow.address) as client:
        client.ping()
        with pytest.raises(DeadlineExceeded):
            client.call(b"wait", timeout=0.05)
        assert gate.entered.acquire(timeout=20)
        for _ in range(3):
            with rfp.RpcClient(slow.address) as other:
                with pytest.raises(DeadlineExceeded):
                    other.call(b"x", timeout=0.1)
                assert other.connection.figures(time.monotonic_ns() + 10**10)["connected"] == 2
        until(lambda: slow.figures()["connected"] == 1)
        gate.open.set()
        assert client.call(b"x") == b"x"
        until(lambda: slow.figures()["workers"][0]["rings"] == 1)


def test_threads_that_call_while_the_handle_is_closed_get_responses_or_closed(echo):
    """Repeatedly, at every point of a call and of attaching."""
    for turn in range(30):
        client = rfp.RpcClient(echo.address, timeout=50)
        wrong = []

        def work(client=client, wrong=wrong) -> None:
            try:
                while True:
                    if client.call(b"x" * 100) != b"x" * 100:
                        wrong.append("answer")
            except Closed:
                pass
            except Exception as error:
                wrong.append(error)

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        time.sleep(turn * 0.0003)
        client.close()
        for thread in threads:
            thread.join(20)
            assert not thread.is_alive()
        assert not wrong


def test_a_closed_handle_raises_closed_and_closes_again(echo):
    client = rfp.RpcClient(echo.address)
    client.call(b"x")
    client.close()
    client.close()
    assert client.closed
    for call in (lambda: client.call(b"x"), client.ping):
        with pytest.raises(Closed):
            call()


def test_a_deleted_handle_leaves_nothing_behind(echo):
    client = rfp.RpcClient(echo.address)
    client.call(b"x")
    assert echo.figures()["connected"] == 1
    del client
    gc.collect()
    until(lambda: echo.figures()["connected"] == 0)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_cannot_use_the_handle_and_the_parent_still_can(echo):
    with rfp.RpcClient(echo.address) as client:
        client.call(b"x")
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                client.call(b"x")
            except Forked:
                try:
                    client.close()
                    echo.close()
                    with rfp.RpcClient(echo.address, timeout=20) as mine:
                        status = 0 if mine.call(b"mine") == b"mine" else 2
                except BaseException:
                    status = 3
            finally:
                os._exit(status)
        assert os.waitpid(pid, 0)[1] == 0
        assert client.call(b"y") == b"y"
        assert (
            echo.figures()["connected"] == 1
            or until(lambda: echo.figures()["connected"] == 1) is None
        )


# --- Modes


def test_fetch_mode_reads_and_reply_mode_writes(echo):
    for mode in ("fetch", "reply"):
        with rfp.RpcClient(echo.address, mode=mode) as client:
            client.call(b"x")
            before, sent = counters(client), echo.figures()["replied"]
            for _ in range(50):
                client.call(b"x")
            after = counters(client)
            assert after["mode"] == [mode]
            assert after["submitted"] - before["submitted"] == 50
            if mode == "reply":
                assert after["reads"] == before["reads"]
                assert after["writes"] - before["writes"] == 50
                assert echo.figures()["replied"] - sent == 50
            else:
                assert after["reads"] - before["reads"] >= 50
                assert after["writes"] - before["writes"] >= 50  # and a WAIT for each sleep
                assert echo.figures()["replied"] == sent


def test_auto_changes_to_reply_after_two_slow_calls_and_back_when_the_server_is_fast():
    slow = threading.Event()

    def check(client: rfp.RpcClient) -> None:
        slow.clear()
        for _ in range(100):  # however long a busy machine took for the first calls
            client.call(b"x")
            if counters(client)["mode"] == ["fetch"]:
                break
        switches = counters(client)["switches"]
        slow.set()
        modes = []
        for _ in range(6):
            client.call(b"x")
            modes.append(counters(client)["mode"][0])
        assert modes[1:] == ["reply"] * 5
        sent = server.figures()["replied"]
        client.call(b"x")
        assert server.figures()["replied"] == sent + 1
        slow.clear()
        for _ in range(30):
            client.call(b"x")
            if counters(client)["mode"] == ["fetch"]:
                break
        assert counters(client)["mode"] == ["fetch"]
        assert counters(client)["switches"] >= switches + 2

    # A client that the machine lets run late finds the response of a slow call at its first poll.
    with (
        rfp.RpcServer(lambda request: (slow.is_set() and time.sleep(0.003)) or request) as server,
        rfp.RpcClient(server.address, timeout=20) as client,
    ):
        in_some_try(lambda: check(client))


# --- Servers and clients that die


def address_in(tmp_path) -> str:
    folder = tmp_path / "s"
    folder.mkdir(mode=0o700)
    return f"shm://{folder}/s"


def test_a_killed_server_is_reported_within_a_second_and_reconnected_after_a_restart(tmp_path):
    address = address_in(tmp_path)

    def check() -> None:
        with started(SERVER, address) as process:
            assert client.call(b"abc") == b"cba"
            killed = []

            def kill() -> None:
                until(lambda: any(channel.busy for channel in client.connection.channels))
                time.sleep(0.05)
                killed.append(time.monotonic())
                process.kill()

            thread = threading.Thread(target=kill)
            thread.start()
            with pytest.raises(OutcomeUnknown, match="the server no longer runs"):
                client.call(b"sleep")
            reported = time.monotonic()
            thread.join()
            assert reported - killed[0] < 1.0

    with started(SERVER, address):
        client = rfp.RpcClient(address, timeout=LONG)
    in_some_try(check)
    with started(SERVER, address):
        assert client.call(b"abc") == b"cba"
        assert client.ping() > 0
        client.close()


def test_a_server_restarted_between_calls_leaves_no_outcome_unknown(tmp_path):
    """No request was sent to the dead server, so none is in doubt."""
    address = address_in(tmp_path)
    with started(SERVER, address) as process:
        client = rfp.RpcClient(address, timeout=30)
        assert client.call(b"abc") == b"cba"
        process.kill()
        process.wait()
    time.sleep(0.06)
    with started(SERVER, address):
        assert client.call(b"abc") == b"cba"
        client.close()


def test_a_lost_server_is_an_error_at_once_without_reconnecting(tmp_path):
    address = address_in(tmp_path)
    with (
        started(SERVER, address) as process,
        rfp.RpcClient(address, timeout=LONG, reconnect=False) as client,
    ):
        client.call(b"abc")
        process.kill()
        process.wait()
        time.sleep(0.06)
        with soon():
            for _ in range(3):
                with pytest.raises(ConnectionFailed) as failure:
                    client.call(b"abc")
                assert not isinstance(failure.value, OutcomeUnknown)


def test_a_server_that_is_not_restarted_is_an_error_at_the_deadline(tmp_path):
    address = address_in(tmp_path)
    with started(SERVER, address) as process, rfp.RpcClient(address) as client:
        client.call(b"abc")
        process.kill()
        process.wait()
        time.sleep(0.06)
        with soon(), pytest.raises(ConnectionFailed, match="did not come back"):
            client.call(b"abc", timeout=0.3)


def test_calls_to_a_stopped_server_end_at_their_deadline_and_it_continues_later(tmp_path):
    address = address_in(tmp_path)
    with started(SERVER, address) as process, rfp.RpcClient(address) as client:
        client.call(b"abc")
        stop(process.pid)
        try:
            with soon(least=0.2), pytest.raises(DeadlineExceeded):
                client.call(b"abc", timeout=0.2)
            errors = []

            def attach() -> None:
                try:
                    client.call(b"abc", timeout=0.2)
                except Exception as error:
                    errors.append(type(error))

            thread = threading.Thread(target=attach)  # it would need rings of its own
            thread.start()
            thread.join()
            assert errors == [DeadlineExceeded]
        finally:
            process.send_signal(signal.SIGCONT)
        assert client.call(b"abc", timeout=30) == b"cba"


def test_a_killed_client_leaves_no_rings_and_disturbs_no_other_client(echo):
    with rfp.RpcClient(echo.address, timeout=30) as other:
        with started(CLIENT, echo.address) as process:
            until(lambda: echo.figures()["connected"] == 2)
            other.call(b"x")
            assert echo.figures()["workers"][0]["rings"] == 2
            process.kill()
            for _ in range(100):
                assert other.call(b"y" * 500) == b"y" * 500
        until(lambda: echo.figures()["workers"][0]["rings"] == 1)
        assert [client["pid"] for client in echo.figures()["clients"]] == [os.getpid()]
        assert other.call(b"z") == b"z"


def test_a_server_whose_process_holds_the_gil_still_answers_pings(tmp_path):
    address = address_in(tmp_path)

    def check() -> None:
        process.stdin.write(b"hold\n")
        process.stdin.flush()
        wait_for_word(process, "holding")
        for _ in range(21):
            client.ping()
        still_held = not select.select([process.stdout], [], [], 0)[0]
        assert client.call(b"abc") == b"cba"  # as soon as the interpreter lets the handler run
        wait_for_word(process, "held")
        assert still_held

    with started(SERVER, address) as process, rfp.RpcClient(address, timeout=LONG) as client:
        client.ping()
        in_some_try(check)


def test_an_rpc_client_of_a_store_is_refused_with_the_reason():
    with (
        rfp.Server(memory="16MiB") as server,
        pytest.raises(HandshakeFailed, match="serves 'kv', not 'rpc'"),
    ):
        rfp.RpcClient(server.address)


def test_the_hint_without_an_rpc_server_names_its_program(tmp_path):
    with pytest.raises(ConnectionFailed) as caught:
        rfp.RpcClient(f"shm://{tmp_path}/socket", timeout=1, reconnect=False)
    assert caught.value.hint == "start the program that has the RpcServer"
