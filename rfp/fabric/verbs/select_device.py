"""The choice of RDMA device, port and GID.

The chosen GID is the one that carries the address which routes to the peer.

All data is read from /sys, so the choice needs neither libibverbs nor the right to open a device,
and `rfp doctor` shows the same.

>>> show_gid(bytes(10) + b"\\xff\\xff" + bytes([10, 0, 0, 1]))
'10.0.0.1'
"""

from __future__ import annotations

import fcntl
import ipaddress
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rfp.address import RdmaOptions
from rfp.errors import ConnectionFailed, FabricError, InvalidArgument

SYS = Path("/sys")
AUTOMATIC = RdmaOptions()
ETHERNET, INFINIBAND = "Ethernet", "InfiniBand"
V2, V1 = "RoCE v2", "RoCE v1"
ANYWHERE = ("", "0.0.0.0", "::", "*")
# Entries of a table of up to 1024, which the kernel fills from the start: after so many empty ones
# none follows.
GAP = 32
_DOCTOR = "run `rfp doctor` to list devices and missing parts"

Addresses = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True)
class Gid:
    """One entry of a port's GID table."""

    index: int
    address: Addresses
    kind: str  # "RoCE v2", "RoCE v1" or "InfiniBand"
    interface: str = ""  # the network interface it belongs to

    @property
    def rank(self) -> tuple[int, int, int]:
        """Sort key, smaller is better: RoCE v2 first, and addresses that routers know.

        It decides if any GID would do.
        """
        kinds = {V2: 0, V1: 1}
        scope = 0 if self.address.version == 4 else 2 if self.address.is_link_local else 1
        return kinds.get(self.kind, 0), scope, self.index


@dataclass(frozen=True)
class Port:
    """A port of a device, as /sys/class/infiniband shows it."""

    device: str
    number: int
    state: str  # "ACTIVE", "DOWN", ...
    link: str  # "Ethernet" or "InfiniBand"
    iwarp: bool
    gids: tuple[Gid, ...]

    @property
    def name(self) -> str:
        return f"{self.device}:{self.number}"

    @property
    def usable(self) -> bool:
        return self.state == "ACTIVE" and not self.iwarp and bool(self.gids)

    @property
    def complaint(self) -> str:
        """Reason why the port cannot be used, or ""."""
        if self.iwarp:
            return (
                f"{self.name} is iWARP, which needs a connection manager; this release does not "
                "support it"
            )
        if self.state != "ACTIVE":
            return f"{self.name} is {self.state}"
        return "" if self.gids else f"{self.name} has no GID"


@dataclass(frozen=True)
class Choice:
    """The device, port and GID to open, and the reason."""

    device: str
    port: int
    gid_index: int
    gid: str
    reason: str

    def __str__(self) -> str:
        return f"{self.device} port {self.port}, GID {self.gid_index} ({self.gid}): {self.reason}"


def show_gid(gid: bytes) -> str:
    """Return a GID as the address that it contains, in text."""
    return str(_address(ipaddress.IPv6Address(gid)))


def _address(gid: ipaddress.IPv6Address) -> Addresses:
    return gid.ipv4_mapped or gid


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:  # a missing file, or an unused entry of the table
        return ""


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _gids(port: Path, link: str) -> Iterator[Gid]:
    index = last = -1
    while index - last < GAP:
        index += 1
        text = _text(port / "gids" / str(index))
        if not text.strip("0:"):
            continue
        last = index
        kind = _text(port / "gid_attrs" / "types" / str(index))
        kind = INFINIBAND if link == INFINIBAND else V2 if "v2" in kind else V1
        yield Gid(
            index,
            _address(ipaddress.IPv6Address(text)),
            kind,
            _text(port / "gid_attrs" / "ndevs" / str(index)),
        )


def ports(sysfs: Path = SYS) -> list[Port]:
    """Return all ports of all devices."""
    found = []
    for device in _entries(sysfs / "class" / "infiniband"):
        for port in sorted(_entries(device / "ports"), key=lambda path: int(path.name)):
            link = _text(port / "link_layer") or INFINIBAND
            found.append(
                Port(
                    device=device.name,
                    number=int(port.name),
                    state=_text(port / "state").partition(": ")[2],
                    link=link,
                    iwarp="RNIC" in _text(device / "node_type"),
                    gids=tuple(_gids(port, link)),
                )
            )
    return found


def route(host: str) -> Addresses | None:
    """Return the local address from which packets go to a host; None if any address will do.

    Raises:
        ConnectionFailed: no route to the host, or no such host.
    """
    if host in ANYWHERE:
        return None
    try:
        family, kind, _, _, place = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(place)  # sends nothing
            address = ipaddress.ip_address(probe.getsockname()[0].partition("%")[0])
    except OSError as error:
        raise ConnectionFailed(
            f"cannot find a route to {host}: {error}", hint="check the name and the network"
        ) from None
    return None if address.is_loopback else address


def holder(address: Addresses, sysfs: Path = SYS) -> str:
    """Return the network interface that has an address, or ""."""
    for interface in _entries(sysfs / "class" / "net"):
        if address in _addresses(interface.name):
            return interface.name
    return ""


def _addresses(interface: str) -> set[Addresses]:
    found: set[Addresses] = set()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            # SIOCGIFADDR
            answer = fcntl.ioctl(any_socket, 0x8915, struct.pack("256s", interface.encode()))
            found.add(ipaddress.IPv4Address(answer[20:24]))
        except OSError:
            pass  # the interface has no IPv4 address
    for line in _text(Path("/proc/net/if_inet6")).splitlines():
        fields = line.split()
        if fields[-1] == interface:
            found.add(ipaddress.IPv6Address(bytes.fromhex(fields[0])))
    return found


def choose(
    host: str = "",
    options: RdmaOptions = AUTOMATIC,
    *,
    sysfs: Path = SYS,
    route: Callable[[str], Addresses | None] = route,
    holder: Callable[[Addresses, Path], str] = holder,
) -> Choice:
    """Return the device, port and GID for a peer (or for listening at an address), and the reason.

    Args:
        host: name or address of the peer, our own, or "" for no particular one.
        options: the device, port or GID that the caller requires.
        sysfs, route, holder: replaced by tests.

    Raises:
        FabricError: no device or port can be used.
        InvalidArgument: a required device, port or GID does not exist.
        ConnectionFailed: there is no such host.
    """
    there = ports(sysfs)
    if not there:
        raise FabricError("there is no RDMA device", hint=_DOCTOR)
    asked = [
        port
        for port in there
        if options.device in ("", port.device) and options.port in (0, port.number)
    ]
    if not asked:
        raise InvalidArgument(
            "there is no RDMA device "
            f"{options.device or 'with port'}{f' port {options.port}' if options.port else ''}",
            hint="choose one of " + ", ".join(port.name for port in there),
        )
    usable = [port for port in asked if port.usable]
    if not usable:
        raise FabricError(
            "no RDMA port is usable: " + "; ".join(port.complaint for port in asked), hint=_DOCTOR
        )
    named = "requested" if options.device or options.port else "the first active one"
    if options.gid_index >= 0:
        port = usable[0]
        for gid in port.gids:
            if gid.index == options.gid_index:
                return _choice(port, gid, f"requested GID, port {named}")
        raise InvalidArgument(
            f"{port.name} has no GID {options.gid_index}",
            hint="choose one of " + ", ".join(str(gid.index) for gid in port.gids),
        )
    address = route(host)
    if address is None:
        port = usable[0]
        where = (
            f"{host or 'no address'} is every address of this host"
            if host in ANYWHERE
            else f"{host} is this host"
        )
        return _choice(
            port, min(port.gids, key=lambda gid: gid.rank), f"{where}; the port is {named}"
        )
    carriers = [(gid, port) for port in usable for gid in port.gids if gid.address == address]
    if carriers:
        gid, port = min(carriers, key=lambda pair: pair[0].rank)
        return _choice(
            port, gid, f"{gid.kind}; it has {address}, the address that routes to {host}"
        )
    beneath = _infiniband(usable, holder(address, sysfs), sysfs)
    if beneath:
        port, gid = beneath
        return _choice(
            port, gid, f"InfiniBand beneath {address}, the address that routes to {host}"
        )
    if options.device or options.port:
        port = usable[0]
        gid = min(port.gids, key=lambda gid: gid.rank)
        return _choice(
            port,
            gid,
            f"requested port; none of its GIDs has the address {address}, which routes to {host}",
        )
    have = ", ".join(
        sorted(
            {
                str(gid.address)
                for port in usable
                for gid in port.gids
                if not gid.address.is_link_local
            }
        )
    )
    raise FabricError(
        f"no RDMA device has the address {address}, which routes to {host}",
        hint=f"use a name of the peer in a network of {have or 'an RDMA device'}, "
        "or choose a device with ?device=",
    )


def _infiniband(usable: list[Port], interface: str, sysfs: Path) -> tuple[Port, Gid] | None:
    """Return the port whose GID is the second part of an IPoIB interface's hardware address."""
    hardware = (
        _text(sysfs / "class" / "net" / interface / "address").replace(":", "") if interface else ""
    )
    if len(hardware) != 40:
        return None
    wanted = ipaddress.IPv6Address(bytes.fromhex(hardware[8:]))
    for port in usable:
        for gid in port.gids:
            if gid.address == wanted:
                return port, gid
    return None


def _choice(port: Port, gid: Gid, reason: str) -> Choice:
    return Choice(port.device, port.number, gid.index, str(gid.address), reason)
