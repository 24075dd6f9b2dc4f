"""The network interface of a machine's soft-RoCE device: a dummy, or a cable to another machine.

The soft-RoCE driver does not reach from one network namespace into another, so two hosts are two
machines.  Datagrams over Unix sockets make the cable: either end may start first, and either may
vanish at any time, as with a real cable.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Link:
    """One machine's end of a link."""

    name: str  # the machine's host name
    interface: str
    addresses: tuple[str, ...]
    device: tuple[str, ...] = ()  # QEMU's arguments


# Two addresses are two GIDs, so that one machine can play both hosts.
LOOPBACK = Link("softroce", "dummy0", ("10.0.0.1", "10.0.0.2"))


def cable(folder: Path) -> tuple[Link, Link]:
    """Return both ends of a cable: the server's (10.2.0.1) and the client's (10.2.0.2).

    Their sockets are made in `folder`.
    """
    ends = []
    for number, name, other in ((1, "server", "client"), (2, "client", "server")):
        local, remote = f"{folder}/{name}", f"{folder}/{other}"
        sockets = f"local.type=unix,local.path={local},remote.type=unix,remote.path={remote}"
        netdev = f"dgram,id=cable,{sockets}"
        device = f"virtio-net-pci,netdev=cable,romfile=,mac=52:54:00:00:00:{number:02x}"
        ends.append(
            Link(name, "eth0", (f"10.2.0.{number}",), ("-netdev", netdev, "-device", device))
        )
    return ends[0], ends[1]
