"""Over TCP both sides prove that they know the secret; without the proof a peer gets no further."""

import contextlib
import os
import resource
import select
import socket
import ssl
import struct
import threading
import time

import pytest
import trustme
from control_tools import attach, hello, memory, packed, soon, welcome
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polling import until

from rfp.address import parse
from rfp.control import Credentials, GetStats, Stats, connect, deadline_in, frame, tcp_listener
from rfp.control.authentication import CLIENT, SERVER, proof
from rfp.control.message import Challenge, Greet, Prove, Proven
from rfp.control.tcp_listener import TcpListener
from rfp.errors import (
    AddressInUse,
    ConnectionFailed,
    DeadlineExceeded,
    FabricError,
    HandshakeFailed,
    InvalidAddress,
    InvalidArgument,
    WrongType,
)

SECRET = Credentials(secret=b"the same on both sides")
OTHER = Credentials(secret=b"another on this side..")
NO_CREDENTIALS = Credentials()
LOOPBACK = parse("rdma://127.0.0.1:0")


@contextlib.contextmanager
def serving(credentials=NO_CREDENTIALS, address=LOOPBACK, **options):
    """A listener with a thread that accepts; yields it and the list of accepted connections."""
    accepted = []
    over = threading.Event()

    def accept():
        while not over.is_set():
            connection = listener.accept(deadline_in(0.02))
            if connection is not None:
                accepted.append(connection)

    with TcpListener(address, credentials, **options) as listener:
        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield listener, accepted
        finally:
            over.set()
            thread.join()
            for connection in accepted:
                connection.close()


def raw(listener):
    sock = socket.create_connection((listener.address.host, listener.address.port), 5)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def take(sock):
    """Return the next message on a raw socket, as bytes; b"" at the end."""
    data = b""
    with contextlib.suppress(ConnectionError):
        while len(data) < 16 or len(data) < 16 + struct.unpack("<I", data[12:16])[0]:
            more = sock.recv(
                1 if len(data) < 16 else 16 + struct.unpack("<I", data[12:16])[0] - len(data)
            )
            if not more:
                return b""
            data += more
    return data


@pytest.mark.parametrize(
    "credentials", [NO_CREDENTIALS, SECRET], ids=["without a secret", "with a secret"]
)
@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_messages_travel_both_ways(host, credentials):
    address = parse(f"rdma://[{host}]:0" if ":" in host else f"rdma://{host}:0")
    with (
        serving(credentials, address) as (listener, accepted),
        connect(listener.address, soon(), credentials) as client,
    ):
        client.send(hello(), soon())
        until(lambda: accepted)
        (server,) = accepted
        assert server.receive(soon()) == hello()
        server.send(welcome(), soon())
        assert client.receive(soon()) == welcome()
        assert client.local == server.remote
        assert client.remote == server.local


def test_a_tcp_connection_has_no_pidfd_and_sends_no_file_descriptors():
    with serving() as (listener, _), connect(listener.address, soon()) as client:
        assert client.pidfd() == -1
        fd = memory()
        with pytest.raises(InvalidArgument, match="cannot send file descriptors"):
            client.send(attach(fd), soon())
        os.close(fd)
        with pytest.raises(HandshakeFailed, match="1 file descriptors"):
            frame.unpack_preface(
                frame.PREFACE.pack(frame.MAGIC, 1, 0, 1, 1, 0, 2), fds=client.FD_LIMIT
            )


def test_the_sockets_have_keepalive_and_user_timeout_and_no_delay():
    with serving() as (listener, accepted), connect(listener.address, soon()) as client:
        until(lambda: accepted)
        for connection in (client, *accepted):
            sock = connection._socket
            for option in (
                socket.TCP_NODELAY,
                socket.TCP_USER_TIMEOUT,
                socket.TCP_KEEPIDLE,
                socket.TCP_KEEPINTVL,
            ):
                assert 0 < sock.getsockopt(socket.IPPROTO_TCP, option) <= 3000
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


def test_a_close_of_one_side_ends_the_other_side():
    with serving(SECRET) as (listener, accepted):
        client = connect(listener.address, soon(), SECRET)
        until(lambda: accepted)
        client.close()
        with pytest.raises(ConnectionFailed):
            accepted[0].receive(soon())


# Authentication


@pytest.mark.parametrize(
    ("server", "client", "reason"),
    [
        (SECRET, OTHER, "does not know the secret"),
        (SECRET, NO_CREDENTIALS, "requires a secret"),
        (NO_CREDENTIALS, SECRET, "cannot prove that it knows"),
    ],
)
def test_sides_without_the_same_secret_do_not_connect(server, client, reason):
    with serving(server) as (listener, accepted):
        with pytest.raises(HandshakeFailed, match=reason):
            connect(listener.address, soon(), client)
        with connect(listener.address, soon(), server):
            until(lambda: accepted)
        # A server without a secret has accepted the client that required one.
        assert len(accepted) <= 2


def test_a_client_is_refused_before_the_server_sends_its_proof():
    """A peer could use the server's proof to try secrets, so only a proven client gets it."""
    with serving(SECRET) as (listener, accepted), raw(listener) as sock:
        sock.sendall(packed(Greet(nonce=bytes(32))))
        assert take(sock)[6] == Challenge.KIND
        sock.sendall(packed(Prove(proof=bytes(32))))
        refusal = take(sock)
        assert refusal[6] == 255
        assert b"does not know the secret" in refusal
        assert take(sock) == b""
        assert not accepted
        assert listener.rejected == 1


def rogue(answers):
    """A server that computes each answer with one of `answers` from all messages so far."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve():
        with contextlib.suppress(OSError), listening.accept()[0] as sock:
            messages = b""
            for answer in answers:
                messages += take(sock)
                reply = packed(answer(messages))
                messages += reply
                sock.sendall(reply)
            sock.recv(1)

    thread = threading.Thread(target=serve)
    thread.start()
    return listening, thread, parse(f"rdma://127.0.0.1:{listening.getsockname()[1]}")


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        (
            [lambda _: Challenge(nonce=bytes(32), secret=True), lambda _: Proven(proof=bytes(32))],
            "server does not know",
        ),
        # The client's own proof, sent back.
        (
            [
                lambda _: Challenge(nonce=bytes(32), secret=True),
                lambda messages: Proven(
                    proof=proof(b"the same on both sides", CLIENT, b"", messages)
                ),
            ],
            "server does not know",
        ),
        ([lambda _: Challenge(nonce=bytes(32), secret=False)], "cannot prove"),
        ([lambda _: welcome()], "'welcome' instead of 'challenge'|1024"),
        (
            [lambda _: Challenge(nonce=bytes(32), secret=True), lambda _: hello()],
            "'hello' instead of 'proven'",
        ),
    ],
)
def test_a_client_refuses_a_server_that_does_not_know_the_secret(answers, reason):
    listening, thread, address = rogue(answers)
    with listening:
        with pytest.raises(HandshakeFailed, match=reason):
            connect(address, soon(), SECRET)
        thread.join()


def test_a_client_accepts_a_server_that_knows_the_secret():
    secret = SECRET.secret
    listening, thread, address = rogue(
        [
            lambda _: Challenge(nonce=bytes(32), secret=True),
            lambda messages: Proven(proof=proof(secret, SERVER, b"", messages)),
        ]
    )
    with listening:
        connect(address, soon(), SECRET).close()
        thread.join()


@contextlib.contextmanager
def in_the_middle(listener, change=lambda index, message: message):
    """A proxy that forwards changed messages; yields its address and the client's messages."""
    listening = socket.create_server(("127.0.0.1", 0))
    sent = []

    def serve():
        with contextlib.suppress(OSError), listening.accept()[0] as client, raw(listener) as server:
            for index in range(4):
                message = take((client, server)[index % 2])
                if index % 2 == 0:
                    sent.append(message)
                (server, client)[index % 2].sendall(change(index, message))
            client.recv(1)

    thread = threading.Thread(target=serve)
    thread.start()
    with listening:
        yield parse(f"rdma://127.0.0.1:{listening.getsockname()[1]}"), sent
        thread.join()


def test_a_recorded_proof_is_invalid_on_another_connection():
    with serving(SECRET) as (listener, accepted):
        with in_the_middle(listener) as (address, sent), connect(address, soon(), SECRET):
            until(lambda: accepted)
        greet, prove = sent
        with raw(listener) as sock:
            sock.sendall(greet)
            take(sock)
            sock.sendall(prove)
            assert take(sock)[6] == 255
        assert len(accepted) == 1


def bumped(message):
    return message[:5] + bytes([message[5] + 1]) + message[6:]  # the minor version


@pytest.mark.parametrize("changed", [0, 1])
def test_a_version_that_a_proxy_changed_makes_the_handshake_fail(changed):
    """A proxy cannot make two sides agree on a lower version than both know."""
    with serving(SECRET) as (listener, accepted):
        with in_the_middle(
            listener, lambda i, message: bumped(message) if i == changed else message
        ) as (address, _):
            with pytest.raises((HandshakeFailed, ConnectionFailed)):
                connect(address, soon(), SECRET)
        assert not accepted


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        packed(hello()),
        packed(GetStats()),
        packed(Prove(proof=bytes(32))),
        packed(Greet(nonce=bytes(32))) + packed(hello()),
        packed(Greet(nonce=bytes(32))) + packed(Greet(nonce=bytes(32))),
        frame.PREFACE.pack(frame.MAGIC, 1, 1, Greet.KIND, 0, 0, frame.STRANGER_LIMIT + 1),
        frame.PREFACE.pack(frame.MAGIC, 1, 1, Greet.KIND, 1, 0, 2) + b"{}",
        frame.PREFACE.pack(frame.MAGIC, 2, 0, Greet.KIND, 0, 0, 2) + b"{}",
        frame.pack(Greet.KIND, 0, {"nonce": "AAAA"}, 0),
        frame.pack(Greet.KIND, 0, {"nonce": 7}, 0),
    ],
)
def test_a_peer_with_an_invalid_first_message_is_rejected(data):
    with serving(SECRET) as (listener, accepted), raw(listener) as sock:
        sock.sendall(data)
        while take(sock):
            pass
        assert not accepted
        until(lambda: listener.rejected == 1)


def test_a_slow_peer_is_rejected_and_does_not_delay_clients(monkeypatch):
    monkeypatch.setattr(tcp_listener, "PROOF_S_MAX", 0.3)
    with serving(SECRET) as (listener, accepted), raw(listener) as silent, raw(listener) as slow:
        data = packed(Greet(nonce=bytes(32)))
        for byte in data[:-1]:
            slow.sendall(bytes([byte]))
        with connect(listener.address, soon(), SECRET):
            until(lambda: accepted)
        for sock in (silent, slow):
            sock.settimeout(5)
            assert sock.recv(1) == b""
        assert listener.rejected == 2


def test_the_listener_has_the_time_at_which_its_first_peer_expires():
    with TcpListener(LOOPBACK, SECRET) as listener:
        assert listener.expires is None
        with raw(listener):
            assert listener.accept(deadline_in(0.05)) is None
            assert 0 < listener.expires - time.monotonic_ns() <= tcp_listener.PROOF_S_MAX * 1e9


def test_the_oldest_of_too_many_unproven_peers_is_rejected(monkeypatch):
    monkeypatch.setattr(tcp_listener, "STRANGERS_MAX", 4)
    with serving(SECRET) as (listener, accepted), contextlib.ExitStack() as stack:
        strangers = [stack.enter_context(raw(listener)) for _ in range(7)]
        until(lambda: listener.rejected == 3)
        for sock in strangers[:3]:
            assert sock.recv(1) == b""
        with connect(listener.address, soon(), SECRET):
            until(lambda: accepted)
        assert not any(select.select(strangers[4:], [], [], 0))


def test_one_accept_takes_at_most_16_of_many_waiting_connections():
    """A flood does not end, and the control thread has other work between two calls of accept()."""
    with TcpListener(LOOPBACK, SECRET) as listener, contextlib.ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(raw(listener)).sendall(b"R")
        calls, before = 0, 0
        while before < 100:
            assert listener.accept(0) is None
            now = len(listener._strangers) + listener.rejected
            assert now - before <= 16
            calls, before = calls + 1, now
            assert calls < 1000
        assert len(listener._strangers) == tcp_listener.STRANGERS_MAX


def test_one_accept_examines_at_most_32_of_the_unproven_peers_that_send(monkeypatch):
    with TcpListener(LOOPBACK, SECRET) as listener, contextlib.ExitStack() as stack:
        strangers = [stack.enter_context(raw(listener)) for _ in range(60)]
        while len(listener._strangers) < 60:
            listener.accept(0)
        for sock in strangers:
            sock.sendall(packed(Greet(nonce=bytes(32))))
        examined = []
        examine = listener._examine
        monkeypatch.setattr(
            listener, "_examine", lambda stranger: (examined.append(stranger), examine(stranger))[1]
        )
        listener.accept(0.0)
        assert 0 < len(examined) <= 32
        while not all(stranger.examination.greeted for stranger in listener._strangers.values()):
            listener.accept(0.0)  # later calls examine the rest
        assert len(examined) < 60 + tcp_listener.EVENTS_MAX


def test_peers_that_send_no_greeting_do_not_displace_one_that_did(monkeypatch):
    monkeypatch.setattr(tcp_listener, "STRANGERS_MAX", 8)
    with TcpListener(LOOPBACK, SECRET) as listener, contextlib.ExitStack() as stack:
        honest = stack.enter_context(raw(listener))
        honest.sendall(packed(Greet(nonce=bytes(32))))
        while not any(stranger.examination.greeted for stranger in listener._strangers.values()):
            listener.accept(0)
        for _ in range(50):
            stack.enter_context(raw(listener)).sendall(b"R")
        while listener.rejected < 43:
            listener.accept(0)
        assert take(honest)[6] == Challenge.KIND
        assert any(stranger.examination.greeted for stranger in listener._strangers.values())


def test_of_unproven_peers_those_of_the_most_frequent_origin_are_rejected_first(monkeypatch):
    monkeypatch.setattr(tcp_listener, "STRANGERS_MAX", 4)
    with (
        TcpListener(parse("rdma://localhost:0"), SECRET) as listener,
        contextlib.ExitStack() as stack,
    ):
        lone = stack.enter_context(socket.socket())
        lone.bind(("127.0.0.2", 0))
        lone.connect(("127.0.0.1", listener.address.port))
        while not listener._strangers:
            listener.accept(0)
        for _ in range(20):
            flood = stack.enter_context(
                socket.create_connection(("127.0.0.1", listener.address.port), 5)
            )
            flood.sendall(packed(Greet(nonce=bytes(32))))
        while listener.rejected < 17:
            listener.accept(0)
        assert "127.0.0.2" in {stranger.origin for stranger in listener._strangers.values()}


def test_addresses_of_one_ipv6_network_are_one_origin():
    origin = tcp_listener._origin
    assert origin("2001:db8::1") == origin("2001:db8:0:0:ffff::2") != origin("2001:db8:0:1::1")
    assert origin("10.0.0.1") != origin("10.0.0.2")


@pytest.mark.parametrize("which", ["system", "the system's file"])
def test_a_server_refuses_the_systems_authorities_for_clients(tmp_path, monkeypatch, which):
    """They sign certificates for anyone, and the name in a client's certificate is not checked."""
    authority = trustme.CA()
    mine = authority.issue_cert("127.0.0.1")
    for name, pem in (
        ("bundle", authority.cert_pem),
        ("key", mine.private_key_pem),
        ("cert", mine.cert_chain_pems[0]),
    ):
        pem.write_to_path(tmp_path / name)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "bundle"))
    ca = "system" if which == "system" else tmp_path / "bundle"
    for secret in (None, b"the same on both sides"):
        credentials = Credentials.of(secret, None, tmp_path / "cert", tmp_path / "key", ca)
        with pytest.raises(InvalidArgument, match="public authority.*for these clients only"):
            TcpListener(LOOPBACK, credentials, allow_anyone=True)
    # A client may use them to verify a server.
    assert Credentials.of(None, None, None, None, ca).client_context() is not None


def test_a_missing_certificate_is_an_error_with_its_name(tmp_path):
    with pytest.raises(InvalidArgument, match="tls_cert=.*nowhere"):
        TcpListener(
            LOOPBACK, Credentials.of(None, None, tmp_path / "nowhere", tmp_path / "nowhere", None)
        )


def test_a_secret_that_is_not_utf_8_raises_invalid_argument():
    with pytest.raises(InvalidArgument, match="UTF-8"):
        Credentials.of(secret="\ud800" * 20)
    with pytest.raises(InvalidArgument, match="cannot read the secret"):
        Credentials.of(secret_file="a\0b")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.binary(max_size=200),
    cuts=st.lists(st.integers(0, 200), max_size=4),
    begin=st.booleans(),
)
def test_a_peer_that_sends_random_bytes_is_rejected(data, cuts, begin):
    data = (packed(Greet(nonce=bytes(32))) if begin else b"") + data
    with TcpListener(LOOPBACK, SECRET) as listener, raw(listener) as sock:
        at = 0
        for cut in sorted({*cuts, len(data)}):
            with contextlib.suppress(ConnectionError):
                sock.sendall(data[at:cut])
            at = cut
            assert listener.accept(0.0) is None
        with contextlib.suppress(OSError):  # the listener may have closed it already
            sock.shutdown(socket.SHUT_WR)
        until(lambda: listener.accept(0) is None and listener.rejected == 1)


# TLS


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """PEM files of two authorities and of servers and clients.

    ca and others are the authorities. server and second are for 127.0.0.1, elsewhere for another
    name, client for a client, all signed by ca; stranger is signed by others.
    """
    folder = tmp_path_factory.mktemp("tls")
    ours, others = trustme.CA(), trustme.CA()

    def write(name, authority, *names):
        certificate = authority.issue_cert(*names)
        certificate.private_key_pem.write_to_path(str(folder / f"{name}.key"))
        certificate.cert_chain_pems[0].write_to_path(str(folder / f"{name}.pem"))

    ours.cert_pem.write_to_path(str(folder / "ca.pem"))
    others.cert_pem.write_to_path(str(folder / "others.pem"))
    write("server", ours, "127.0.0.1")
    write("second", ours, "127.0.0.1")
    write("elsewhere", ours, "example.org")
    write("client", ours, "client@example.org")
    write("stranger", others, "client@example.org")
    return folder


def tls(folder, name=None, authorities=None, secret=b"the same on both sides"):
    return Credentials.of(
        secret=secret,
        tls_cert=folder / f"{name}.pem" if name else None,
        tls_key=folder / f"{name}.key" if name else None,
        tls_ca=folder / f"{authorities}.pem" if authorities else None,
    )


@pytest.mark.parametrize(
    "secret", [None, b"the same on both sides"], ids=["without a secret", "with a secret"]
)
def test_over_tls_messages_travel_both_ways(certificates, secret):
    with (
        serving(tls(certificates, "server", secret=secret)) as (listener, accepted),
        connect(
            listener.address, soon(), tls(certificates, authorities="ca", secret=secret)
        ) as client,
    ):
        assert client._socket.version() in ("TLSv1.2", "TLSv1.3")
        until(lambda: accepted)
        (server,) = accepted
        big = Stats({"a": ["x" * 1000] * 50})
        for _ in range(20):
            client.send(big, soon())
            assert server.receive(soon()) == big


@pytest.mark.parametrize(
    ("server", "server_ca", "client", "client_ca", "reason"),
    [
        ("server", None, None, "others", "cannot verify the peer's certificate"),
        ("elsewhere", None, None, "ca", "cannot verify the peer's certificate"),
        ("server", None, None, None, "closed|lost|began with"),  # the client speaks no TLS
        (None, None, None, "ca", "TLS"),  # the server speaks no TLS
        ("server", "ca", None, "ca", "TLS|lost|closed"),  # the server wants a certificate
        ("server", "ca", "stranger", "ca", "TLS|lost|closed"),
    ],
)
def test_over_tls_a_peer_without_a_valid_certificate_does_not_connect(
    certificates, server, server_ca, client, client_ca, reason
):
    with serving(tls(certificates, server, server_ca)) as (listener, accepted):
        with pytest.raises(ConnectionFailed, match=reason):
            connect(listener.address, soon(), tls(certificates, client, client_ca))
        until(lambda: listener.rejected == 1)
        assert not accepted


def test_a_client_with_a_valid_certificate_is_accepted(certificates):
    with serving(tls(certificates, "server", "ca", secret=None)) as (listener, accepted):
        with connect(listener.address, soon(), tls(certificates, "client", "ca", secret=None)):
            until(lambda: accepted)


def test_old_versions_of_tls_are_refused(certificates):
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    with serving(tls(certificates, "server")) as (listener, _), raw(listener) as sock:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            old.wrap_socket(sock)


def test_a_proof_is_bound_to_the_certificate(certificates):
    """A host whose certificate the client accepts cannot forward its proof to the server."""
    with serving(tls(certificates, "server")) as (listener, accepted):
        outer = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        outer.load_cert_chain(certificates / "second.pem", certificates / "second.key")
        inner = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        inner.check_hostname, inner.verify_mode = False, ssl.CERT_NONE
        listening = socket.create_server(("127.0.0.1", 0))

        def relay():
            with contextlib.suppress(OSError):
                client = outer.wrap_socket(listening.accept()[0], server_side=True)
                server = inner.wrap_socket(raw(listener))
                with client, server:
                    for index in range(4):
                        (server, client)[index % 2].sendall(take((client, server)[index % 2]))

        thread = threading.Thread(target=relay)
        thread.start()
        with listening:
            with pytest.raises(HandshakeFailed, match="does not know the secret"):
                connect(
                    parse(f"rdma://127.0.0.1:{listening.getsockname()[1]}"),
                    soon(),
                    tls(certificates, authorities="ca"),
                )
            thread.join()
        assert not accepted


def test_messages_that_tls_has_already_read_from_the_socket_are_pending(certificates):
    with (
        serving(tls(certificates, "server")) as (listener, accepted),
        connect(listener.address, soon(), tls(certificates, authorities="ca")) as client,
    ):
        until(lambda: accepted)
        (server,) = accepted
        client._socket.sendall(packed(hello()) * 3)  # one record
        assert server.receive(soon()) == hello()
        assert server.pending
        assert [server.try_receive() for _ in range(3)] == [hello(), hello(), None]
        assert not server.pending


def test_connect_to_a_silent_peer_ends_at_its_deadline(certificates):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = parse(f"rdma://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(DeadlineExceeded):
            connect(address, deadline_in(0.05), tls(certificates, authorities="ca"))
        with pytest.raises(DeadlineExceeded):
            connect(address, deadline_in(0.05), SECRET)


def test_the_error_of_an_unusable_certificate_names_it(certificates, tmp_path):
    (tmp_path / "bad.pem").write_text("no certificate")
    with pytest.raises(InvalidArgument, match="tls_cert without tls_key"):
        Credentials.of(tls_cert="c")
    with pytest.raises(InvalidArgument, match="cannot use tls_ca='.*bad.pem'"):
        Credentials.of(tls_ca=tmp_path / "bad.pem").client_context()
    with pytest.raises(InvalidArgument, match="cannot use tls_cert='.*bad.pem'"):
        Credentials.of(
            tls_cert=tmp_path / "bad.pem", tls_key=certificates / "server.key"
        ).server_context()
    with pytest.raises(InvalidArgument, match="cannot use tls_cert="):
        tls(certificates, "missing").server_context()
    with pytest.raises(InvalidArgument, match="give tls_ca too"):
        tls(certificates, "client").client_context()
    with pytest.raises(InvalidArgument, match="needs a certificate itself"):
        tls(certificates, None, "ca").server_context()
    assert tls(certificates, authorities="ca").client_context().check_hostname
    assert Credentials.of(tls_ca="system").client_context().verify_mode == ssl.CERT_REQUIRED


# Secrets


def test_a_secret_is_read_from_a_file_that_only_this_user_can_access(tmp_path, monkeypatch):
    file = tmp_path / "secret"
    file.write_bytes(b"0123456789abcdef\n")
    file.chmod(0o600)
    assert Credentials.of(secret_file=file).secret == b"0123456789abcdef"
    assert Credentials.of().secret is None
    monkeypatch.setenv("RFP_SECRET_FILE", str(file))
    assert Credentials.of().secret == b"0123456789abcdef"
    assert Credentials.of("another, given here").secret == b"another, given here"
    for mode in (0o640, 0o604, 0o620):
        file.chmod(mode)
        with pytest.raises(InvalidArgument, match=rf"mode {mode:04o}.*chmod 600"):
            Credentials.of()


def test_the_error_of_an_unusable_secret_states_the_fault(tmp_path, monkeypatch):
    with pytest.raises(InvalidArgument, match="cannot read.*No such file.*create one"):
        Credentials.of(secret_file=tmp_path / "missing")
    with pytest.raises(InvalidArgument, match="not a regular file"):
        Credentials.of(secret_file=tmp_path)
    with pytest.raises(InvalidArgument, match="got 15"):
        Credentials.of("x" * 15)
    with pytest.raises(InvalidArgument, match="got 4097"):
        Credentials.of(b"x" * 4097)
    with pytest.raises(WrongType):
        Credentials.of(1234567890123456)
    with pytest.raises(InvalidArgument, match="cannot use both"):
        Credentials.of("x" * 16, tmp_path)
    empty = tmp_path / "empty"
    empty.touch(0o600)
    with pytest.raises(InvalidArgument, match="got 0"):
        Credentials.of(secret_file=empty)
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    if owner != 0:
        with pytest.raises(InvalidArgument, match="belongs to user"):
            Credentials.of(secret_file=empty)


def test_a_secret_is_not_in_the_repr_of_credentials():
    assert "same" not in repr(SECRET)


# The address


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]"])
def test_without_a_secret_a_server_listens_beyond_loopback_only_with_no_auth(host):
    address = parse(f"rdma://{host}:0")
    with pytest.raises(InvalidArgument, match="not on loopback.*--no-auth"):
        TcpListener(address, NO_CREDENTIALS)
    with serving(NO_CREDENTIALS, address, allow_anyone=True) as (listener, _):
        connect(parse(f"rdma://127.0.0.1:{listener.address.port}"), soon()).close()
    TcpListener(address, SECRET).close()


def test_two_servers_cannot_share_a_port_and_one_may_follow_another_at_once():
    with serving() as (listener, _):
        assert listener.address.port != 0
        with pytest.raises(AddressInUse, match="already listening"):
            TcpListener(listener.address, NO_CREDENTIALS)
        client = connect(listener.address, soon())
    with TcpListener(listener.address, NO_CREDENTIALS):
        client.close()


def test_an_address_of_another_host_is_refused():
    with pytest.raises(FabricError, match="an address of this host"):
        TcpListener(parse("rdma://192.0.2.1:0"), SECRET)
    with pytest.raises(InvalidAddress, match="cannot find the host"):
        TcpListener(parse("rdma://no.such.host.invalid:0"), SECRET)


def test_the_hint_of_connect_to_a_port_without_a_listener_is_to_start_a_server():
    with TcpListener(LOOPBACK, NO_CREDENTIALS) as listener:
        address = listener.address
    with pytest.raises(
        ConnectionFailed, match=rf"no server at {address}.*rfp serve --address {address}"
    ):
        connect(address, soon())
    with pytest.raises(ConnectionFailed, match="cannot find the host"):
        connect(parse("rdma://no.such.host.invalid:7001"), soon())


def test_close_ends_unproven_connections_and_may_be_repeated():
    listener = TcpListener(LOOPBACK, SECRET)
    with raw(listener) as sock:
        listener.accept(0)
        listener.close()
        listener.close()
        assert sock.recv(1) == b""
    assert listener.fileno() == -1
    assert listener.accept(soon()) is None


def test_without_free_file_descriptors_waiting_connections_are_dropped():
    with TcpListener(LOOPBACK, NO_CREDENTIALS) as listener, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(raw(listener)) for _ in range(3)]
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (clients[-1].fileno() + 1, hard))
        try:
            assert listener.accept(0) is None
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert listener.dropped == 3


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_does_not_keep_the_port_or_the_connections():
    with TcpListener(LOOPBACK, SECRET) as listener, raw(listener) as stranger:
        listener.accept(0)
        ready, go = os.pipe(), os.pipe()
        child = os.fork()
        if child == 0:
            os.write(ready[1], b"x")
            os.read(go[0], 1)
            os._exit(0 if listener.fileno() == -1 else 1)
        try:
            os.read(ready[0], 1)
            listener.close()
            assert stranger.recv(1) == b""
            TcpListener(listener.address, SECRET).close()
        finally:
            os.write(go[1], b"x")
            assert os.waitpid(child, 0)[1] == 0
            for fd in (*ready, *go):
                os.close(fd)
