"""A network of machines, in this process, that loses the packets between any two of them.

Each machine has a cable to a switch.  What is cut is lost without an error: both links stay up, and
neighbours are still found (ARP), so that a sender learns nothing but that no answer comes.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

from vm.link import Link

CABLE_BYTES_MAX = 1 << 20  # that wait for a machine
CLOCK_PORT = 9000
CLOCK_S = 0.1  # between two times that are sent to all machines
EVERYBODY = b"\xff" * 6
ARP, IPV4, TCP, UDP = 0x0806, 0x0800, 6, 17
MAC = bytes.fromhex("5254000000")  # and a machine's number


class Network:
    """The machines of `names`: 10.2.0.1, 10.2.0.2 ...

    Their links are for `vm.job.Job`.  To be used by the thread of an event loop.

    Args:
        folder: In which the sockets of the cables are made.

    Attributes:
        lost: packets that were cut.
    """

    def __init__(self, folder: Path, names: str) -> None:
        self.folder, self.names, self.lost = folder, names, 0
        self._cables: dict[str, asyncio.StreamWriter] = {}
        self._cut: dict[frozenset[str], int] = {}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for name in self.names:
                serve = partial(self._forward, name)
                await stack.enter_async_context(
                    await asyncio.start_unix_server(serve, self._place(name))
                )
            clock = asyncio.ensure_future(self._send_times())
            stack.callback(clock.cancel)
            yield

    def link(self, name: str) -> Link:
        """Return a machine's end of its cable."""
        number = self._number(name)
        netdev = f"stream,id=cable,server=off,addr.type=unix,addr.path={self._place(name)}"
        device = f"virtio-net-pci,netdev=cable,romfile=,mac={(MAC + bytes([number])).hex(':')}"
        return Link(name, "eth0", (f"10.2.0.{number}",), ("-netdev", netdev, "-device", device))

    def cut(self, one: str, other: str, *, but_port: int = 0) -> None:
        """Lose all packets between two machines, in both directions.

        Args:
            but_port: TCP from and to this port still passes.
        """
        self._cut[frozenset((one, other))] = but_port

    def mend(self) -> None:
        self._cut.clear()

    def _place(self, name: str) -> str:
        return f"{self.folder}/{name}.cable"

    def _number(self, name: str) -> int:
        return self.names.index(name) + 1

    async def _forward(
        self, name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Forward what a machine sends, each frame behind its length."""
        self._cables[name] = writer
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                length = int.from_bytes(await reader.readexactly(4), "big")
                frame = await reader.readexactly(length)
                for other in self.names:
                    to_it = frame[:6] in (EVERYBODY, MAC + bytes([self._number(other)]))
                    if other != name and to_it and self._passes(frame, name, other):
                        self._send(other, frame)
        writer.close()

    def _passes(self, frame: bytes, name: str, other: str) -> bool:
        kind = int.from_bytes(frame[12:14], "big")
        but_port = self._cut.get(frozenset((name, other)))
        if kind == ARP or (kind == IPV4 and but_port is None):
            return True
        if kind == IPV4 and but_port:
            ports = struct.unpack_from("!HH", frame, 14 + 4 * (frame[14] & 15))
            if frame[14 + 9] == TCP and but_port in ports:
                return True
        self.lost += kind == IPV4
        return False

    def _send(self, name: str, frame: bytes) -> None:
        cable = self._cables.get(name)
        # A machine that is paused takes nothing.
        if cable is not None and cable.transport.get_write_buffer_size() < CABLE_BYTES_MAX:
            cable.write(len(frame).to_bytes(4, "big") + frame)

    async def _send_times(self) -> None:
        """Send this process's time to all machines: what they do after it was received is later."""
        while True:
            for name in self.names:
                self._send(name, _broadcast(str(time.monotonic_ns()).encode()))
            await asyncio.sleep(CLOCK_S)


def _broadcast(data: bytes) -> bytes:
    """Return a frame with a datagram from 10.2.0.254 to all."""
    udp = struct.pack("!HHHH", CLOCK_PORT, CLOCK_PORT, 8 + len(data), 0) + data
    addresses = socket.inet_aton("10.2.0.254") + socket.inet_aton("255.255.255.255")
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, UDP, 0) + addresses
    folded = sum(struct.unpack("!10H", ip))
    while folded >> 16:
        folded = (folded & 0xFFFF) + (folded >> 16)
    ip = ip[:10] + struct.pack("!H", folded ^ 0xFFFF) + ip[12:]
    return EVERYBODY + MAC + b"\0" + struct.pack("!H", IPV4) + ip + udp
