"""A fake /sys, /dev and /run of a machine with RDMA devices, for the code that reads them."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from pathlib import Path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")


def add_port(
    root: Path,
    device: str,
    number: int = 1,
    *,
    state: str = "4: ACTIVE",
    link: str = "Ethernet",
    node: str = "1: CA",
    gids: Mapping[int, tuple[str, str, str]] | None = None,
    table: int = 64,
) -> None:
    """Add a port.

    Args:
        gids: by index: address, kind as the kernel writes it, interface.
        table: number of entries of the GID table, most of them empty.
    """
    write(root / "sys/class/infiniband" / device / "node_type", node)
    port = root / "sys/class/infiniband" / device / "ports" / str(number)
    write(port / "state", state)
    write(port / "link_layer", link)
    for index in range(table):
        address, kind, interface = (gids or {}).get(index, ("::", "", ""))
        gid = ipaddress.ip_address(address)
        whole = gid if gid.version == 6 else ipaddress.IPv6Address(f"::ffff:{gid}")
        write(port / "gids" / str(index), whole.exploded)
        if kind:
            write(port / "gid_attrs/types" / str(index), kind)
            write(port / "gid_attrs/ndevs" / str(index), interface)


def add_machine(
    root: Path, *, modules: tuple[str, ...] = ("ib_core", "ib_uverbs"), nodes: int = 1
) -> None:
    """Add the loaded modules, device nodes and huge pages, but no device."""
    for module in modules:
        (root / "sys/module" / module).mkdir(parents=True, exist_ok=True)
    for i in range(nodes):
        write(root / f"dev/infiniband/uverbs{i}", "")
    write(root / "sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never")


def add_interface(
    root: Path, name: str, *, mtu: int = 4200, hardware: str = "02:00:00:00:00:01"
) -> None:
    write(root / "sys/class/net" / name / "mtu", str(mtu))
    write(root / "sys/class/net" / name / "address", hardware)
