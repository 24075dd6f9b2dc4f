"""A client of the store that shares only one page with the project: docs/protocol.md.

It runs on Debian's own Python with python3-pyverbs and python3-xxhash, imports nothing of rfp, and
follows that page; if the client cannot be written from the page, the page is incomplete.  One
thread, one request at a time.

usage: client.py HOST PORT SECRET-FILE
    then one command a line, one JSON answer a line; keys and values in hexadecimal:
    get KEY | get-reply KEY | put KEY VALUE | delete KEY | ping | figures
"""

import base64
import json
import struct
import sys
import time

import xxhash
from checksum import crc32c
from control import ATTACH, ATTACHED, HELLO, MAP, MAPPED, WELCOME, Control, memory, text
from endpoint import REMOTE_WRITE, Device, Memory, Pair, Remote

# crc, wait, sequence, length, opcode, mode, count, flags, release
REQUEST = struct.Struct("<IIIIBBHIQ")
RESPONSE = struct.Struct("<IIIHBBQ")  # crc, sequence, length, time, status, kind, result
PUT = struct.Struct("<IIQQ")  # key length, value length, ttl, version
# upload, offset in the value, length, crc, offset in the staging region
PIECE = struct.Struct("<QQIIQ")
REFERENCE = struct.Struct("<QQQQ")  # offset, length, pin, lease
FETCH, REPLY = 0, 1
PING, GET, STORE, DELETE, BEGIN, SEND = 2, 17, 19, 20, 26, 27
CHECK_CRC = 4
OK, NOT_FOUND, DEFERRED = 0, 1, 10
RESPONSE_CRC = 1
REPLIES = 128  # offset of the reply slots in the reply region
FIRST = 256  # F: bytes of the first READ of a response
PIECE_MAX = 64 << 10


class Ring:
    """The slots between this client and one worker."""

    def __init__(self, device, slots, slot_size):
        self.slots, self.slot_size = slots, slot_size
        self.pair = Pair(device)
        self.memory = Memory(device, 2 * slot_size)  # a request, then the data of READs
        self.count = 0
        self.release = 0
        self.reads = self.writes = 0

    def call(self, opcode, payload, flags=0, mode=FETCH):
        """Send a request and return (status, kind, result, payload) of its response."""
        sequence = self.count % (2**32 - 1) + 1  # after the largest number, 1 is next
        slot = self.count % self.slots * self.slot_size
        self.count += 1
        rest = (
            struct.pack("<IIBBHIQ", sequence, len(payload), opcode, mode, 0, flags, self.release)
            + payload
        )
        self.release = 0
        self.memory.write(0, struct.pack("<II", crc32c(rest), 0) + rest)
        # The notification may be in the same WRITE as the request.
        self.pair.write(
            self.memory, 0, self.requests, self.request_offset + slot, 8 + len(rest), notify=True
        )
        self.writes += 1
        return self.reply(slot, sequence) if mode == REPLY else self.fetch(slot, sequence)

    def fetch(self, slot, sequence):
        place, deadline = self.response_offset + slot, time.monotonic() + 20
        while time.monotonic() < deadline:
            self.pair.read(
                self.memory, self.slot_size, self.responses, place, min(FIRST, self.slot_size)
            )
            self.reads += 1
            head = self.memory.read(self.slot_size, RESPONSE.size)
            length = RESPONSE.unpack(head)[2]
            if RESPONSE.unpack(head)[1] != sequence or length > self.slot_size - RESPONSE.size:
                continue
            if (more := RESPONSE.size + length - FIRST) > 0:
                self.pair.read(
                    self.memory, self.slot_size + FIRST, self.responses, place + FIRST, more
                )
                self.reads += 1
            if answer := self.whole(
                self.memory.read(self.slot_size, RESPONSE.size + length), sequence
            ):
                return answer
        raise TimeoutError("no response")

    def reply(self, slot, sequence):
        for _ in range(2):  # the reply of the first notification may have been seen already
            self.pair.notified()
            data = self.replies.read(self.reply_offset + slot, self.slot_size)
            length = RESPONSE.unpack_from(data)[2]
            if answer := self.whole(data[: RESPONSE.size + length], sequence):
                return answer
        raise TimeoutError("no reply")

    @staticmethod
    def whole(data, sequence):
        """Return the response if it is of this request and not partly of an earlier one."""
        crc, number, _length, _time, status, kind, result = RESPONSE.unpack_from(data)
        if number == sequence and crc == crc32c(data[4:]):
            return status, kind, result, data[RESPONSE.size :]
        return None


class Store:
    def __init__(self, host, port, secret):
        self.control = Control(host, port, secret)
        self.device = device = Device(self.control.address)
        hello = {"features": RESPONSE_CRC, "name": "interop", "pid": 1}
        self.welcome = welcome = self.control.call(HELLO, hello, WELCOME)
        assert (welcome["service"], welcome["hash"]) == ("kv", "xxh3-64")
        assert welcome["features"] & RESPONSE_CRC
        workers, slots, slot_size = welcome["partitions"], welcome["slots"], welcome["slot_size"]
        self.rings = [Ring(device, slots, slot_size) for _ in range(workers)]
        replies = Memory(device, REPLIES + workers * slots * slot_size, REMOTE_WRITE)
        attach = {
            "reply": {"descriptor": text(replies.descriptor)},
            "pairs": [text(ring.pair.descriptor) for ring in self.rings],
        }
        attached = self.control.call(ATTACH, attach, ATTACHED)
        for i, ring in enumerate(self.rings):
            ring.requests, ring.request_offset = (
                Remote(memory(attached["request"])),
                attached["request_offsets"][i],
            )
            ring.responses, ring.response_offset = (
                Remote(memory(attached["response"])),
                attached["response_offsets"][i],
            )
            ring.replies, ring.reply_offset = replies, attached["reply_offsets"][i]
            ring.staging_offset = attached["staging_offsets"][i]
            ring.pair.connect(base64.b64decode(attached["pairs"][i]))
        self.staging = Remote(memory(attached["staging"]))
        self.staging_size = min(welcome["staging_size"], self.staging.length)
        self.buffer = Memory(device, 1 << 20)
        self.chunks = {}

    def worker(self, key):
        return (xxhash.xxh3_64_intdigest(key, seed=self.welcome["seed"]) & 0xFFFF) * len(
            self.rings
        ) >> 16

    def ping(self):
        return [ring.call(PING, b"")[0] for ring in self.rings]

    def get(self, key, mode=FETCH):
        """Return the value and its kind, or None if the key is absent."""
        worker = self.worker(key)
        ring = self.rings[worker]
        for _ in range(5):
            started = time.monotonic()
            status, kind, _version, payload = ring.call(GET, key, mode=mode)
            if status == NOT_FOUND:
                return None
            assert status == OK, status
            if kind == 0:
                return {"value": payload.hex(), "by": "value"}
            offset, length, pin, lease = REFERENCE.unpack(payload)
            value = self.read_arena(worker, ring, offset, length)
            ring.release = pin  # with the next request
            # After that, the memory may belong to another value.
            if time.monotonic() - started < min(lease, self.welcome["lease_ns"]) / 1e9:
                return {"value": value.hex(), "by": "reference"}
        raise TimeoutError("the lease is too short to read the value")

    def read_arena(self, worker, ring, offset, length):
        value = b""
        size = self.welcome["chunk_size"]
        while length:
            index, place = divmod(offset, size)
            if (worker, index) not in self.chunks:
                answer = self.control.call(MAP, {"partition": worker, "chunk": index}, MAPPED)
                self.chunks[worker, index] = Remote(memory(answer["memory"]))
            count = min(length, size - place, 1 << 20)
            ring.pair.read(self.buffer, 0, self.chunks[worker, index], place, count)
            value += self.buffer.read(0, count)
            offset, length = offset + count, length - count
        return value

    def put(self, key, value):
        """Put a value; return its version and the kind of transfer."""
        ring = self.rings[self.worker(key)]
        whole = PUT.pack(len(key), len(value), 0, 0) + key + value
        if len(whole) <= ring.slot_size - REQUEST.size:
            status, _kind, version, _payload = ring.call(STORE, whole)
            assert status == OK, status
            return {"version": version, "by": "value"}
        status, deadline = DEFERRED, time.monotonic() + 20
        while status == DEFERRED and time.monotonic() < deadline:
            status, _kind, upload, _payload = ring.call(
                BEGIN, PUT.pack(len(key), len(value), 0, 0) + key
            )
        assert status == OK, status
        most = min(PIECE_MAX, self.staging_size)
        for at in range(0, len(value), most):
            piece = value[at : at + most]
            self.buffer.write(0, piece)
            ring.pair.write(self.buffer, 0, self.staging, ring.staging_offset, len(piece))
            announced = PIECE.pack(upload, at, len(piece), crc32c(piece), ring.staging_offset)
            status, _kind, version, _payload = ring.call(SEND, announced, flags=CHECK_CRC)
            assert status == OK, status
        return {"version": version, "by": "staging"}

    def delete(self, key):
        status = self.rings[self.worker(key)].call(DELETE, key)[0]
        assert status in (OK, NOT_FOUND), status
        return status == OK

    def figures(self):
        return {
            "requests": sum(ring.count for ring in self.rings),
            "reads": sum(ring.reads for ring in self.rings),
            "writes": sum(ring.writes for ring in self.rings),
            "slot_size": self.welcome["slot_size"],
        }


def main():
    host, port, secret = sys.argv[1:]
    with open(secret, "rb") as file:
        store = Store(host, int(port), file.read().strip())
    commands = {
        "get": store.get,
        "get-reply": lambda key: store.get(key, mode=REPLY),
        "put": store.put,
        "delete": store.delete,
        "ping": store.ping,
        "figures": store.figures,
    }
    for line in sys.stdin:
        word, *rest = line.rstrip("\n").split(" ")
        try:
            answer = {"answer": commands[word](*map(bytes.fromhex, rest))}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
