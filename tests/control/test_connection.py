"""Messages arrive whole, or the connection ends with the reason; conftest checks for leaks."""

import contextlib
import itertools
import os
import resource
import select
import signal
import socket
import subprocess
import threading
import time

import pytest
import python_programs
import time_bounds
from control_tools import (
    attach,
    attached,
    hello,
    memory,
    packed,
    pair,
    raw_pair,
    send_raw,
    soon,
    welcome,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from slower import examples

from rfp.address import EMBEDDED, parse
from rfp.control import (
    Attached,
    Detach,
    GetStats,
    Hello,
    Refused,
    Stats,
    UnixListener,
    Welcome,
    connect,
    deadline_in,
    frame,
)
from rfp.errors import (
    Closed,
    ConnectionFailed,
    DeadlineExceeded,
    Forked,
    HandshakeFailed,
    OutOfMemory,
)


def test_messages_travel_both_ways():
    a, b = pair()
    with a, b:
        a.send(hello(), soon())
        assert b.receive(soon()) == hello()
        b.send(welcome(), soon())
        assert a.receive(soon()) == welcome()


def test_file_descriptors_travel_with_their_message():
    a, b = pair()
    fd = memory()
    os.pwrite(fd, b"seen by both", 0)
    with a, b:
        a.send(attach(fd), soon())
        os.close(fd)
        with b.receive(soon()) as message:
            theirs = message.reply.fd
            assert os.pread(theirs, 12, 0) == b"seen by both"
            assert not os.get_inheritable(theirs)


def test_consecutive_messages_keep_their_own_file_descriptors():
    a, b = pair()
    fds = [memory() for _ in range(5)]
    with a, b:
        for i, fd in enumerate(fds):
            os.pwrite(fd, b"%d" % i, 0)
            a.send(attach(fd), soon())
            a.send(Detach(i), soon())
        for i in range(5):
            with b.receive(soon()) as message:
                assert os.pread(message.reply.fd, 1, 0) == b"%d" % i
            assert b.receive(soon()) == Detach(i)
    for fd in fds:
        os.close(fd)


def test_a_message_that_arrives_byte_by_byte_is_received_when_it_is_complete():
    raw, connection = raw_pair()
    data = packed(hello())
    with raw, connection:
        for byte in data[:-1]:
            raw.send(bytes([byte]))
            assert connection.try_receive() is None
        raw.send(data[-1:])
        assert connection.try_receive() == hello()
        assert connection.try_receive() is None


def test_a_receive_past_its_deadline_loses_no_bytes():
    raw, connection = raw_pair()
    data = packed(hello())
    with raw, connection:
        raw.send(data[:20])
        with pytest.raises(DeadlineExceeded):
            connection.receive(deadline_in(0.01))
        raw.send(data[20:])
        assert connection.receive(soon()) == hello()


def send_until_it_fails(connection, message):
    for _ in range(10_000):
        connection.send(message, 0)


def test_a_peer_that_does_not_read_blocks_a_sender_only_until_its_deadline():
    raw, connection = raw_pair()
    big = Stats({"a": ["x" * 1000] * 50})
    with raw, connection:
        with time_bounds.soon(), pytest.raises(DeadlineExceeded):
            send_until_it_fails(connection, big)


@pytest.mark.parametrize("items", [1, 20, 40, 60])
def test_a_connection_ends_if_and_only_if_a_part_of_a_message_was_sent(items):
    raw, connection = raw_pair()
    message = Stats({"a": ["x" * 1000] * items})
    with raw, connection:
        with pytest.raises(DeadlineExceeded):
            send_until_it_fails(connection, message)
        ended = connection.closed
        connection.close()
        data = b"".join(iter(lambda: raw.recv(1 << 16), b""))
    assert ended == (len(data) % len(packed(message)) != 0)


# A hostile peer

PREFACE = frame.PREFACE
GOOD = packed(hello())


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "does not speak RFP.*GET"),
        (b"\0" * 16, "does not speak RFP"),
        (PREFACE.pack(frame.MAGIC, 1, 0, 1, 0, 0, frame.BODY_LIMIT + 1), "65537 bytes"),
        (PREFACE.pack(frame.MAGIC, 1, 0, 1, 0, 0, 2**32 - 1), "4294967295 bytes"),
        (PREFACE.pack(frame.MAGIC, 1, 0, 1, 200, 0, 2) + b"{}", "200 file descriptors"),
        (
            PREFACE.pack(frame.MAGIC, 1, 0, 1, 1, 0, 2) + b"{}",
            "announced 1 file descriptors and sent 0",
        ),
        (PREFACE.pack(frame.MAGIC, 2, 7, 1, 0, 0, 2) + b"{}", r"RFP 2\.7"),
        (PREFACE.pack(frame.MAGIC, 1, 0, 99, 0, 0, 2) + b"{}", "unknown kind 99"),
        (PREFACE.pack(frame.MAGIC, 1, 0, 1, 0, 0, 0), "not JSON"),
        (PREFACE.pack(frame.MAGIC, 1, 0, 1, 0, 0, 2) + b"[]", "JSON list"),
        (PREFACE.pack(frame.MAGIC, 1, 0, 1, 0, 0, 2) + b"{}", "'hello'.*features is missing"),
        (GOOD[:7], "in the middle"),
        (GOOD[:16], "in the middle"),
        (GOOD[:-1], "in the middle"),
    ],
)
def test_an_invalid_message_ends_the_connection_with_the_reason(data, reason):
    raw, connection = raw_pair()
    with connection:
        raw.send(data)
        raw.close()
        with pytest.raises(HandshakeFailed, match=reason):
            connection.receive(soon())
        assert connection.closed
        assert connection.fileno() == -1
        with pytest.raises(ConnectionFailed, match=f"closed: .*{reason}"):
            connection.send(hello(), soon())


def test_a_peer_that_closes_between_messages_is_a_lost_connection():
    raw, connection = raw_pair()
    raw.send(GOOD)
    raw.close()
    assert connection.receive(soon()) == hello()
    with pytest.raises(ConnectionFailed, match="closed the connection"):
        connection.receive(soon())
    with pytest.raises(ConnectionFailed):
        connection.send(hello(), soon())


def test_a_send_to_a_peer_that_closed_is_a_lost_connection():
    a, b = pair()
    b.close()
    with pytest.raises(ConnectionFailed, match="lost"):
        a.send(hello(), soon())
    assert a.closed


@pytest.mark.parametrize("count", [1, 2, 127])
def test_file_descriptors_that_were_not_announced_are_closed(count):
    raw, connection = raw_pair()
    fd = memory()
    with raw, connection:
        send_raw(raw, GOOD, [fd] * count)
        with pytest.raises(HandshakeFailed, match=f"announced 0 file descriptors and sent {count}"):
            connection.receive(soon())
    os.close(fd)


def test_more_file_descriptors_than_one_message_may_carry_are_closed():
    fd = memory()
    raw, connection = raw_pair()
    with raw, connection:
        send_raw(raw, GOOD, [fd] * 250)  # beyond the ancillary buffer: the kernel truncates
        with pytest.raises(HandshakeFailed, match="lost"):
            connection.receive(soon())
    raw, connection = raw_pair()
    with raw, connection:
        for i in range(16):  # 100 descriptors with each byte
            send_raw(raw, GOOD[i : i + 1], [fd] * 100)
        with pytest.raises(HandshakeFailed, match="more than 128"):
            connection.receive(soon())
    os.close(fd)


def test_file_descriptors_are_closed_if_a_field_is_invalid():
    raw, connection = raw_pair()
    r, w = os.pipe()
    with raw, connection:
        send_raw(raw, packed(attach(r)), [r])
        with pytest.raises(HandshakeFailed, match="not memory"):
            connection.receive(soon())
    os.close(r)
    os.close(w)


def test_the_error_of_a_process_without_free_file_descriptors_names_ulimit():
    raw, connection = raw_pair()
    fds = [memory() for _ in range(8)]
    send_raw(raw, packed(welcome(fds)), fds)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with raw, connection:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(fds) + 3, hard))
        try:
            with pytest.raises(HandshakeFailed, match="ulimit"):
                connection.receive(soon())
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    for fd in fds:
        os.close(fd)


def feed(data: bytes, cuts: list[int], fds: list[int]) -> None:
    """Send data in pieces with file descriptors; each receive gives a message or our error."""
    raw, connection = raw_pair()
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    with raw, connection:
        for start, end in itertools.pairwise(edges):
            send_raw(raw, data[start:end], fds)
        raw.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionFailed):
            while True:
                connection.receive(soon()).close()
        assert connection.closed


@settings(
    max_examples=examples(200),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=3), st.booleans())
def test_random_bytes_at_most_end_the_connection(data, cuts, with_fd):
    fd = memory()
    feed(data, cuts, [fd] if with_fd else [])
    os.close(fd)


@settings(
    max_examples=examples(300),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.data())
def test_a_damaged_message_at_most_ends_the_connection(data):
    messages = [hello(), welcome(), attach(), attached(), Detach(1), Refused("x", "y", None)]
    good = bytearray(packed(data.draw(st.sampled_from(messages))))
    for _ in range(data.draw(st.integers(0, 4))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    feed(bytes(good), data.draw(st.lists(st.integers(0, 1000), max_size=2)), [])


@settings(max_examples=examples(50), deadline=None)
@given(
    st.integers(0, 255),
    st.integers(0, 4),
    st.integers(0, 4),
    st.integers(0, 2**32 - 1),
    st.binary(max_size=100),
)
def test_any_preface_with_any_file_descriptors_leaks_none(kind, announced, sent, number, body):
    before = len(os.listdir("/proc/self/fd"))
    fd = memory()
    raw, connection = raw_pair()
    with raw, connection:
        send_raw(
            raw,
            PREFACE.pack(frame.MAGIC, 1, 0, kind, announced, number, len(body)) + body,
            [fd] * sent,
        )
        with pytest.raises(HandshakeFailed):
            connection.receive(soon())
    os.close(fd)
    assert len(os.listdir("/proc/self/fd")) == before


# Calls


def serve(connection, answers):
    """Answer each message with answers(message) in a thread, until the connection ends."""

    def run():
        with contextlib.suppress(ConnectionFailed, Closed):
            while True:
                question = connection.receive(soon())
                answer = answers(question)
                if answer is not None:
                    connection.answer(question, answer, soon())

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_a_call_returns_its_answer():
    client, server = pair()
    thread = serve(
        server, lambda question: welcome() if isinstance(question, Hello) else Stats({"n": 1})
    )
    with client, server:
        assert client.call(hello(), Welcome, soon()) == welcome()
        assert client.call(GetStats(), Stats, soon()).figures == {"n": 1}
    thread.join()


def test_many_threads_share_a_connection_and_each_gets_its_own_answer():
    client, server = pair()
    thread = serve(server, lambda question: Stats({"name": question.name}))
    wrong = []

    def ask(name):
        for i in range(50):
            if client.call(hello(name=f"{name}-{i}"), Stats, soon()).figures != {
                "name": f"{name}-{i}"
            }:
                wrong.append(name)

    with client, server:
        threads = [threading.Thread(target=ask, args=(n,)) for n in range(4)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    thread.join()
    assert not wrong


def test_a_refusal_is_raised_and_the_connection_continues():
    client, server = pair()
    thread = serve(
        server,
        lambda q: (
            Refused.of(OutOfMemory("full", hint="wait")) if isinstance(q, Hello) else Stats({})
        ),
    )
    with client, server:
        with pytest.raises(OutOfMemory, match=r"full \(wait\)"):
            client.call(hello(), Welcome, soon())
        assert client.call(GetStats(), Stats, soon()) == Stats({})
    thread.join()


def test_a_refusal_of_the_whole_connection_is_raised_by_the_call_that_waits():
    raw, client = raw_pair()
    with raw, client:
        raw.send(packed(Refused("HandshakeFailed", "the server stops", None)))
        with pytest.raises(HandshakeFailed, match="stops"):
            client.call(hello(), Welcome, soon())


def test_the_resources_in_an_answer_after_the_deadline_are_detached():
    client, server = pair()
    fds = [memory() for _ in range(3)]
    with client, server:
        with pytest.raises(DeadlineExceeded):
            client.call(attach(), Attached, deadline_in(0.01))
        late = server.receive(soon())
        server.answer(late, attached(fds), soon())
        thread = serve(
            server, lambda q: detached.append(q.channel) if isinstance(q, Detach) else Stats({})
        )
        detached = []
        assert client.call(GetStats(), Stats, soon()) == Stats({})
        # The server was notified that the rings are unused. conftest checks that their descriptors
        # are closed.
        assert client.call(GetStats(), Stats, soon()) == Stats({})
        assert detached == [7]
    thread.join()
    for fd in fds:
        os.close(fd)


def test_a_call_may_be_begun_and_finished_later():
    a, b = pair()
    with a, b:
        first, second = a.begin(GetStats()), a.begin(GetStats())
        assert a.finish(first) is None and a.finish(second) is None
        questions = [b.receive(soon()) for _ in range(2)]
        assert [each.number for each in questions] == [first, second]
        b.answer(questions[1], Stats({"call": 2}), soon())
        assert a.finish(first) is None, "the answer to another call is kept for it"
        b.answer(questions[0], Stats({"call": 1}), soon())
        assert a.finish(second).figures == {"call": 2}
        assert a.finish(first).figures == {"call": 1}
        refused = a.begin(GetStats())
        b.answer(b.receive(soon()), Refused.of(OutOfMemory("no room")), soon())
        with pytest.raises(OutOfMemory, match="no room"):
            a.finish(refused)


def test_a_call_keeps_the_answers_to_calls_begun_before_it():
    a, b = pair()
    with a, b:
        number = a.begin(GetStats())
        begun = b.receive(soon())

        def reply():
            question = b.receive(soon())
            b.answer(begun, Stats({"call": "begun"}), soon())
            b.answer(question, Stats({"call": "now"}), soon())

        thread = threading.Thread(target=reply)
        thread.start()
        assert a.call(GetStats(), Stats, soon()).figures == {"call": "now"}
        thread.join()
        assert a.finish(number).figures == {"call": "begun"}


def test_a_begun_call_waits_for_no_other_thread():
    a, b = pair()

    def wait():
        with contextlib.suppress(DeadlineExceeded):
            a.call(GetStats(), Stats, deadline_in(0.3))

    with a, b:
        thread = threading.Thread(target=wait)
        thread.start()
        b.receive(soon())  # the other thread is inside call() now
        with pytest.raises(DeadlineExceeded):
            a.begin(GetStats())
        thread.join()


def test_the_file_descriptors_of_an_answer_that_is_never_finished_are_closed():
    a, b = pair()
    fds = [memory() for _ in range(3)]
    with a, b:
        a.begin(attach())
        begun = b.receive(soon())
        b.answer(begun, attached(fds), soon())
        thread = serve(b, lambda question: Stats({}))
        assert a.call(GetStats(), Stats, soon()) == Stats({})
    thread.join()
    for fd in fds:  # conftest checks that the others are closed
        os.close(fd)


def test_an_answer_to_an_unknown_call_ends_the_connection():
    raw, client = raw_pair()
    with raw, client:
        raw.send(packed(Stats({}), number=77))
        with pytest.raises(HandshakeFailed, match="call 77"):
            client.call(GetStats(), Stats, soon())
        assert client.closed


def test_an_answer_of_the_wrong_kind_ends_the_connection():
    client, server = pair()
    fd = memory()
    thread = serve(server, lambda question: attach(fd))
    with client, server:
        with pytest.raises(HandshakeFailed, match="'getstats' with 'attach', not 'stats'"):
            client.call(GetStats(), Stats, soon())
        assert client.closed
    thread.join()
    os.close(fd)


# The end


def test_a_closed_connection_raises_closed_and_may_be_closed_again():
    a, b = pair()
    b.close()
    a.close()
    a.close()
    talk = (
        lambda: a.send(hello(), soon()),
        lambda: a.receive(soon()),
        lambda: a.call(hello(), Welcome, soon()),
    )
    for use in (*talk, a.try_receive, a.pidfd):
        with pytest.raises(Closed):
            use()


def test_close_wakes_the_waiting_thread():
    a, b = pair()
    caught = []

    def wait():
        started.set()
        try:
            a.receive(deadline_in(30))
        except (Closed, ConnectionFailed) as error:
            caught.append(type(error))

    started = threading.Event()
    thread = threading.Thread(target=wait)
    thread.start()
    started.wait(5)
    a.close()
    thread.join(5)
    b.close()
    assert not thread.is_alive()
    assert caught == [Closed]


def test_close_in_a_signal_handler_ends_the_wait():
    a, b = pair()
    before = signal.signal(signal.SIGALRM, lambda *_: a.close())
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(Closed):
            a.receive(soon())
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    b.close()


def test_shutdown_keeps_the_sockets_descriptor_open():
    a, b = pair()
    fd = a.fileno()
    a.shutdown()
    assert a.fileno() == fd
    with pytest.raises(ConnectionFailed, match="closed"):
        b.receive(soon())
    a.close()
    assert a.fileno() == -1


def test_a_connection_without_references_closes_its_socket():
    a, b = pair()
    del a
    with pytest.raises(ConnectionFailed):
        b.receive(soon())


def in_child(act) -> int:
    """Run act() in a forked child; return its result, or 99 for an exception, as exit status."""
    pid = os.fork()
    if pid == 0:
        status = 99
        try:
            status = act()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_cannot_use_the_connection():
    a, b = pair()
    fd = a.fileno()

    def child():
        try:
            a.send(hello(), soon())
        except Forked:
            return 0 if a.fileno() == -1 and not os.path.exists(f"/proc/self/fd/{fd}") else 2
        return 1

    assert in_child(child) == 0
    with a, b:  # the parent's connection continues
        a.send(hello(), soon())
        assert b.receive(soon()) == hello()


def test_the_peers_process_is_known_by_number_and_by_pidfd(private):
    address = parse(f"shm://{private}/s")
    script = (
        "import sys; from rfp.address import EMBEDDED, parse\n"
        "from rfp.control import connect, deadline_in;"
        "c = connect(parse(sys.argv[1]), deadline_in(5)); sys.stdin.read()"
    )
    with UnixListener(address) as listener:
        process = python_programs.start("-c", script, address, stdin=subprocess.PIPE)
        with process, listener.accept(soon()) as connection:
            assert connection.pid == process.pid
            assert connection.uid == os.geteuid()
            pidfd = connection.pidfd()
            assert connection.pidfd() == pidfd
            assert not os.get_inheritable(pidfd)
            poller = select.poll()
            poller.register(pidfd, select.POLLIN)
            assert not poller.poll(0)
            process.kill()
            assert poller.poll(5000)
            with pytest.raises(ConnectionFailed):
                connection.receive(soon())


def test_without_peer_pidfd_the_pid_of_an_exited_peer_is_not_used(monkeypatch):
    import rfp.control.unix as module

    monkeypatch.setattr(module, "_SO_PEERPIDFD", 9999)  # as before Linux 6.5: ENOPROTOOPT
    a, b = pair()
    assert a.pidfd() >= 0
    a.close()
    with pytest.raises(ConnectionFailed, match="has exited"):
        b.pidfd()
    b.close()


def test_waiting_uses_no_processor_time():
    a, b = pair()
    with a, b:
        before = time.thread_time()
        with pytest.raises(DeadlineExceeded):
            a.receive(deadline_in(0.2))
        assert time.thread_time() - before < 0.1


def test_the_hint_of_connect_without_a_server_is_to_start_one(private):
    address = parse(f"shm://{private}/s")
    with pytest.raises(ConnectionFailed, match=r"no server at shm.*rfp serve --address"):
        connect(address, soon())
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(address.path)
    with pytest.raises(ConnectionFailed, match="no longer runs"):
        connect(address, soon())


def test_the_hint_of_connect_to_an_ended_embedded_server_is_to_start_the_program(private):
    with pytest.raises(ConnectionFailed, match=r"no server at shm.*start the program again"):
        connect(parse(f"shm://{private}/{EMBEDDED}1-2"), soon())


def test_connect_to_a_full_queue_ends_at_its_deadline(private):
    address = parse(f"shm://{private}/s")
    with socket.socket(socket.AF_UNIX) as busy:
        busy.bind(address.path)
        busy.listen(0)
        first = connect(address, soon())
        with pytest.raises(DeadlineExceeded, match="too busy"):
            connect(address, deadline_in(0.05))
        first.close()


def test_a_server_of_another_user_is_refused(private, monkeypatch):
    address = parse(f"shm://{private}/s")
    with UnixListener(address):
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
        with pytest.raises(HandshakeFailed, match="same user"):
            connect(address, soon())
        monkeypatch.undo()
