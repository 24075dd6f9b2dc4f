"""The control channel over TCP, as docs/protocol.md describes it."""

import base64
import hashlib
import hmac
import json
import os
import socket
import struct

PREFACE = struct.Struct("<4sBBBBII")
HELLO, WELCOME, ATTACH, ATTACHED, GREET, CHALLENGE, PROVE, PROVEN, MAP, MAPPED, REFUSED = (
    1,
    2,
    3,
    4,
    8,
    9,
    10,
    11,
    12,
    13,
    255,
)


def text(data):
    return base64.b64encode(data).decode()


class Refused(Exception):
    pass


class Control:
    """A connection whose two sides have proved to each other that they know the secret."""

    def __init__(self, host, port, secret):
        self.socket = socket.create_connection((host, port), timeout=20)
        self.transcript = b""
        self.number = 0
        self.send(GREET, {"nonce": text(os.urandom(32))})
        if self.receive(CHALLENGE)["secret"]:
            self.send(PROVE, {"proof": text(self.proof(secret, b"rfp-rnvm client"))})
            expected = self.proof(secret, b"rfp-rnvm server")
            assert base64.b64decode(self.receive(PROVEN)["proof"]) == expected, (
                "the server does not know the secret"
            )

    @property
    def address(self):
        """Return this client's address, as the server sees it."""
        return self.socket.getsockname()[0]

    def proof(self, secret, role):
        return hmac.new(secret, role + b"\0" + bytes(32) + self.transcript, hashlib.sha256).digest()

    def call(self, kind, body, answer):
        self.number += 1
        self.send(kind, body, self.number)
        return self.receive(answer)

    def send(self, kind, body, number=0):
        data = json.dumps(body).encode()
        data = PREFACE.pack(b"RFP1", 1, 1, kind, 0, number, len(data)) + data
        self.transcript += data
        self.socket.sendall(data)

    def receive(self, expected):
        preface = self.exactly(PREFACE.size)
        magic, major, _minor, kind, fds, _number, length = PREFACE.unpack(preface)
        assert (magic, major, fds) == (b"RFP1", 1, 0), preface
        data = self.exactly(length)
        self.transcript += preface + data
        body = json.loads(data)
        if kind == REFUSED:
            raise Refused(f"{body['error']}: {body['message']}")
        assert kind == expected, (kind, expected)
        return body

    def exactly(self, length):
        data = b""
        while len(data) < length:
            more = self.socket.recv(length - len(data))
            assert more, "the server has closed the connection"
            data += more
        return data


def memory(field):
    """Return the descriptor of a region in a message."""
    return base64.b64decode(field["descriptor"])
