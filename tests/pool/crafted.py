"""Pools in which every checksum is right and some value is wrong, and commands that use them.

As a program: `python -m tests.pool.crafted FOLDER SEED COUNT` tries so many of them, in a process
of its own, since a fault may end it.
"""

from __future__ import annotations

import os
import random
import re
import resource
import struct
import sys
from pathlib import Path

import click.testing
import crc32c
from memory_limit import set_limit
from structure_kinds import KINDS, add

import rnvm
import structures
from rfp.errors import RfpError
from rnvm import pools
from rnvm.cli import main

HEADER = struct.Struct("<QHHIQQQ16sQHHIIIQQQQQQQQQ12QI")  # without its CRC, in its last 4 bytes
WILD = [0, 1, 7, 8, 63, 64, 4095, 4096, 1 << 16, 1 << 20, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 47,
        (1 << 48) - 8, 1 << 48, 1 << 63, (1 << 64) - 1]  # fmt: skip


def make(path: Path) -> bytes:
    """Return the bytes of a pool with each kind of content, as left by a killed back-end."""
    pools.create(path, "2MiB", block=512, front_ends=1, names=16, assume_persistent=True)
    with rnvm.Backend(path) as backend, rnvm.connect(backend.address) as fe:
        every = [kind(fe, kind.__name__) for kind in KINDS]
        for structure in every:
            for i in range(60):
                add(structure, b"%d" % i, b"value of %d" % i)
            add(structure, b"long", bytes(5000))
            if isinstance(structure, structures.Queue):
                structure.reserve(lease=1000)
        fe.release()
        with fe.batch():
            for structure in every:
                add(structure, b"last", b"only in the logs")
            return path.read_bytes()


class Crafted:
    """The bytes of a pool in which numbers are changed, with the checksums to match."""

    def __init__(self, content: bytes, chance: random.Random) -> None:
        self.bytes = bytearray(content)
        self.chance = chance
        self.fields = HEADER.unpack_from(content)
        self.seed = crc32c.crc32c(content[48:64])
        self.block, self.names, self.sessions = self.fields[11:14]
        self.names_at, self.sessions_at, self.rings_at, self.groups_at, self.map = self.fields[
            16:21
        ]

    def wild(self) -> int:
        """Return a number at a limit, or a random one."""
        near = self.chance.choice(
            [*WILD, len(self.bytes), self.groups_at, self.rings_at, self.chance.getrandbits(48)]
        )
        return (near + self.chance.choice([0, 0, -8, 8, -1, 1, 4096])) % (1 << 64)

    def wild_address(self) -> int:
        """Return a number that resembles an address of this pool."""
        near = self.chance.choice(
            [
                len(self.bytes),
                len(self.bytes) - 8,
                self.groups_at,
                (1 << 48) - 8,
                self.chance.getrandbits(48),
            ]
        )
        return (1 << 48) + (near + self.chance.choice([0, -32, 8, -4096, 4096, 1])) % (1 << 48)

    def header(self) -> None:
        at = self.chance.choice([*range(72, 96, 4), *range(88, 152, 8)])
        size = 4 if at in (76, 80, 84) else 8
        for copy in (0, 4096):
            struct.pack_into(
                "<I" if size == 4 else "<Q", self.bytes, copy + at, self.wild() % (1 << 8 * size)
            )
            self.sum(copy, 252, copy + 252)
        self.bytes[4096 : 4096 + 256] = self.bytes[:256]

    def superblock(self) -> None:
        struct.pack_into("<Q", self.bytes, 8192 + self.chance.choice([8, 16, 24]), self.wild())
        self.sum(8192, 60, 8252)
        self.bytes[12288 : 12288 + 64] = self.bytes[8192 : 8192 + 64]

    def name(self) -> None:
        at = self.names_at + 512 * self.chance.randrange(4)
        struct.pack_into(
            "<Q",
            self.bytes,
            at + 8 * self.chance.randrange(2, 31),
            self.chance.choice([self.wild, self.wild_address])(),
        )
        struct.pack_into(
            "<I",
            self.bytes,
            at + 8,
            self.crc(struct.pack("<Q", at) + self.bytes[at + 12 : at + 256]),
        )

    def register(self) -> None:
        places = [self.names_at + 512 * i + at for i in range(4) for at in (320, 384)]
        places += [
            self.sessions_at + 256 * i + at for i in range(self.sessions) for at in (0, 64, 128)
        ]
        at = self.chance.choice(places)
        struct.pack_into("<Q", self.bytes, at + 8 + 8 * self.chance.randrange(3), self.wild())
        struct.pack_into(
            "<I",
            self.bytes,
            at + 4,
            self.crc(
                struct.pack("<Q", at) + self.bytes[at : at + 4] + self.bytes[at + 8 : at + 32]
            ),
        )
        self.bytes[at + 32 : at + 64] = self.bytes[at : at + 32]

    def owners(self) -> None:
        at = self.groups_at + 8 * self.chance.randrange(self.map // 8)
        value = self.wild() % (1 << 48)
        crc = self.crc(struct.pack("<QQ", at, value))
        struct.pack_into("<Q", self.bytes, at, ((crc ^ crc >> 16) & 0xFFFF) << 48 | value)

    def nodes(self) -> list[int]:
        """Return the offsets of nodes."""
        found = []
        for at in range(self.groups_at + self.map, len(self.bytes) - 32, 8):
            _, length, structure, _, _, address = struct.unpack_from("<IIIHHQ", self.bytes, at)
            if address == (1 << 48) + at and 32 <= length <= len(self.bytes) - at and structure:
                found.append(at)
        return found

    def node(self) -> None:
        at = self.chance.choice(self.nodes())
        length = struct.unpack_from("<I", self.bytes, at + 4)[0]
        for _ in range(self.chance.choice([1, 1, 3])):
            offset = self.chance.randrange(16, max(17, min(length, 200)), 4)
            struct.pack_into(
                "<Q",
                self.bytes,
                at + min(offset, length - 8),
                self.chance.choice([self.wild, self.wild_address])(),
            )
        struct.pack_into("<I", self.bytes, at, self.crc(self.bytes[at + 4 : at + length]))

    def record(self) -> None:
        """Change one word of a log record, and the fields that have to match it."""
        found = []
        for ring in range(2 * self.sessions):
            at = self.rings_at + ring // 2 * self.rings() + ring % 2 * self.fields[14]
            size = self.fields[14 + ring % 2]
            for place in range(at, at + size, 64):
                crc, length, _, _, _, _, payload = struct.unpack_from("<IIQQHHI", self.bytes, place)
                seed = crc32c.crc32c(struct.pack("<Q", at), self.seed)
                body = self.bytes[place + 4 : place + 32 + payload]
                if (
                    length
                    and payload <= at + size - place - 32
                    and crc32c.crc32c(bytes(body), seed) == crc
                ):
                    found.append((place, payload, seed))
        if not found:
            return
        place, payload, seed = self.chance.choice(found)
        if payload:
            struct.pack_into(
                "<I",
                self.bytes,
                place + 32 + 4 * self.chance.randrange(payload // 4),
                self.wild() % (1 << 32),
            )
        else:
            struct.pack_into("<I", self.bytes, place + 28, self.wild() % (1 << 32))
        struct.pack_into(
            "<I",
            self.bytes,
            place,
            crc32c.crc32c(bytes(self.bytes[place + 4 : place + 32 + payload]), seed),
        )

    def rings(self) -> int:
        return -(-(self.fields[14] + self.fields[15]) // 65536) * 65536

    def crc(self, covered: bytes | bytearray) -> int:
        return crc32c.crc32c(bytes(covered), self.seed)

    def sum(self, begin: int, length: int, to: int) -> None:
        struct.pack_into(
            "<I", self.bytes, to, crc32c.crc32c(bytes(self.bytes[begin : begin + length]))
        )


PARTS = [
    Crafted.header,
    Crafted.superblock,
    Crafted.name,
    Crafted.register,
    Crafted.owners,
    Crafted.node,
    Crafted.node,
    Crafted.node,
    Crafted.record,
]
COMMANDS = [
    ["info"],
    ["ls"],
    ["ls", "--json"],
    ["dump"],
    ["check"],
    ["check", "--repair", "--json"],
    ["info", "--json"],
    ["recover"],
]


def craft(content: bytes, seed: int) -> bytes:
    chance = random.Random(seed)
    pool = Crafted(content, chance)
    for part in chance.choices(PARTS, k=chance.choice([1, 1, 1, 2, 4])):
        part(pool)
    return bytes(pool.bytes)


def use(path: Path, command: list[str]) -> None:
    """Run a command of `rnvm` in this process; raise errors that are not of this package."""
    result = click.testing.CliRunner().invoke(main, [command[0], str(path), *command[1:]])
    error = result.exception
    if error is not None and not isinstance(error, (SystemExit, RfpError)):
        raise error
    if len(result.output) > 2 << 20:
        raise AssertionError(f"{command} printed {len(result.output)} bytes")


def run(folder: Path, seed: int, count: int) -> None:
    path = folder / "crafted.pool"
    content = make(path)
    for each in range(seed, seed + count):
        for command in COMMANDS:
            print(each, *command, flush=True)
            path.write_bytes(craft(content, each))
            use(path, command)
            if command[0] == "check" and "--repair" in command:
                use(path, ["check"])
        path.unlink()
    # Not ru_maxrss: that starts at the peak of the parent process.
    peak = re.search(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.M)
    assert peak
    print("peak", int(peak[1]) >> 10)


if __name__ == "__main__":
    set_limit(resource.RLIMIT_AS, 8 << 30)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.chdir("/")
    run(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
