"""Authentication by a shared secret: each side proves that it knows it, over the whole exchange.

    client                                server
    Greet (nonce)             ->
                              <-          Challenge (nonce, whether a secret is required)
    Prove (proof)             ->                                              if it is
                              <-          Proven (proof)
    Hello ...                             as over a Unix socket

A proof is HMAC-SHA256, keyed with the secret, over the role of the prover, the SHA-256 of the
server's certificate (TLS; else 32 zero bytes) and all bytes that have passed on this connection in
both directions, in the order of the protocol.  So it is worthless on another connection, in the
other direction, behind another certificate, or after either side was shown another version.  The
client proves itself first: a client that does not know the secret receives nothing to guess it
from.
"""

from __future__ import annotations

import hmac
import os
from enum import Enum, auto

from rfp.control import frame
from rfp.control.connection import ControlConnection
from rfp.control.message import NONCE, Challenge, Greet, M, Message, Prove, Proven, Refused
from rfp.errors import HandshakeFailed

CLIENT, SERVER = b"rfp-rnvm client", b"rfp-rnvm server"
UNBOUND = bytes(32)  # in place of the certificate's hash, without TLS


def proof(secret: bytes, role: bytes, binding: bytes, transcript: bytes | bytearray) -> bytes:
    """Return the HMAC by which a side shows that it knows the secret.

    >>> proof(b"0123456789abcdef", CLIENT, b"", b"what was said").hex()[:16]
    '2c259530f8e96ec0'
    """
    return hmac.digest(secret, role + b"\0" + (binding or UNBOUND) + transcript, "sha256")


def introduce(
    connection: ControlConnection, secret: bytes | None, binding: bytes, deadline: int
) -> None:
    """Run the client's part.

    Raises:
        HandshakeFailed: one side does not satisfy the other.
    """
    connection.transcript = bytearray()
    connection.limit = frame.STRANGER_LIMIT
    connection.send(Greet(nonce=os.urandom(NONCE)), deadline)
    challenge = _expect(connection, Challenge, deadline)
    if challenge.secret and secret is None:
        raise HandshakeFailed(
            "the server requires a secret", hint="give secret= or secret_file= (--secret-file)"
        )
    if not challenge.secret and secret is not None:
        # The server at this address must know it too, or any process could answer here.
        raise HandshakeFailed(
            "the server cannot prove that it knows the secret: it has none",
            hint="start the server with the same secret, or connect without one",
        )
    if secret is not None:
        connection.send(
            Prove(proof=proof(secret, CLIENT, binding, connection.transcript)), deadline
        )
        expected = proof(secret, SERVER, binding, connection.transcript)
        if not hmac.compare_digest(_expect(connection, Proven, deadline).proof, expected):
            raise HandshakeFailed(
                "the server does not know the secret", hint="check the address and the secret"
            )
    connection.transcript = None
    connection.limit = frame.BODY_LIMIT


def _expect(connection: ControlConnection, kind: type[M], deadline: int) -> M:
    message = connection.receive(deadline)
    if isinstance(message, Refused):
        raise message.exception()
    if not isinstance(message, kind):
        raise HandshakeFailed(f"the server sent {message.title()!r} instead of {kind.title()!r}")
    return message


class State(Enum):
    GREET = auto()  # the next message expected
    PROVE = auto()
    TRUSTED = auto()


class Examination:
    """The server's part, one message at a time, so that no client can block the server."""

    def __init__(self, connection: ControlConnection, secret: bytes | None, binding: bytes) -> None:
        self.connection = connection
        self.secret = secret
        self.binding = binding
        self.state = State.GREET
        connection.transcript = bytearray()
        connection.limit = frame.STRANGER_LIMIT

    @property
    def greeted(self) -> bool:
        """Whether a complete Greet has arrived."""
        return self.state is not State.GREET

    def advance(self) -> bool:
        """Process the bytes that have arrived; return whether the client is authenticated now.

        Raises:
            HandshakeFailed: it never will be.
        """
        while self.state is not State.TRUSTED:
            message = self.connection.try_receive()
            if message is None:
                return False
            with message:
                self._take(message)
        return True

    def _take(self, message: Message) -> None:
        if self.state is State.GREET and isinstance(message, Greet):
            self._answer(Challenge(nonce=os.urandom(NONCE), secret=self.secret is not None))
            self.state = State.PROVE
            if self.secret is None:
                self._trust()
        elif self.state is State.PROVE and isinstance(message, Prove) and self.secret is not None:
            assert self._heard is not None
            if not hmac.compare_digest(
                message.proof, proof(self.secret, CLIENT, self.binding, self._heard)
            ):
                raise HandshakeFailed(
                    "this client does not know the secret", hint="give it the server's secret"
                )
            self._answer(
                Proven(
                    proof=proof(
                        self.secret, SERVER, self.binding, self.connection.transcript or b""
                    )
                )
            )
            self._trust()
        else:
            raise HandshakeFailed(
                f"this client may not send {message.title()!r} before it is authenticated"
            )

    def _answer(self, message: Message) -> None:
        self.connection.send(message, 0)
        self._heard = bytes(self.connection.transcript or b"")  # covered by the client's proof

    def _trust(self) -> None:
        self.state = State.TRUSTED
        self.connection.transcript = None
        self.connection.limit = frame.BODY_LIMIT
