"""Diagnosis of RDMA on this machine: one finding per question, each with a remedy.

All data is read from the file system below a root that tests replace; only the last findings open
the library and the device.
"""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from rfp.address import RdmaOptions
from rfp.errors import FabricError, RfpError
from rfp.fabric import memory_limits
from rfp.fabric.verbs import select_device as device
from rfp.fabric.verbs.select_device import AUTOMATIC, V2, Port
from rfp.units import show_size

GOOD, LIMITED, NOT_OK, NOT_RUN = "ok", "warning", "NOT_OK", "not run"
# Bytes that a client should be able to pin: one chunk of a server's memory.
WANTED_LOCKED = 64 << 20
FULL_MTU = 4200  # of a network interface, so that an RDMA packet carries 4096 bytes
SOFT_ROCE = "to use a software device: modprobe rdma_rxe && rdma link add rxe0 type rxe netdev eth0"


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    question: str
    state: str  # GOOD, LIMITED (works, with limits), NOT_OK, NOT_RUN (an earlier check failed)
    answer: str
    remedy: str = ""


def _provider() -> ModuleType:
    return importlib.import_module("rfp.fabric.verbs.device")


def _lockable() -> int:
    return memory_limits.lockable()


@dataclass(frozen=True)
class Machine:
    """The machine to examine."""

    root: Path = Path("/")
    provider: Callable[[], Any] = _provider  # the module that opens libibverbs
    lockable: Callable[[], int] = _lockable  # bytes
    access: Callable[[Path], bool] = field(default=lambda path: os.access(path, os.R_OK | os.W_OK))
    choose: Callable[[str, RdmaOptions], device.Choice] = device.choose

    @property
    def sys(self) -> Path:
        return self.root / "sys"

    def text(self, *parts: str) -> str:
        try:
            return self.root.joinpath(*parts).read_text().strip()
        except OSError:
            return ""

    @property
    def container(self) -> bool:
        """Whether this process seems to run in a container."""
        marks = (self.root / ".dockerenv", self.root / "run" / ".containerenv")
        return any(mark.exists() for mark in marks) or "container" in self.text(
            "run", "systemd", "container"
        )


def examine(
    host: str = "",
    options: RdmaOptions = AUTOMATIC,
    machine: Machine = Machine(),
    self_test: Callable[[str, RdmaOptions], str] | None = None,
) -> Iterator[Finding]:
    """Yield all findings, in an order in which each explains the next.

    Args:
        host: check a route to this host; "": to none in particular.
        options: the device to examine.
        machine: replaced by tests.
        self_test: run on the device if nothing has failed; None: loopback().
    """
    ports = device.ports(machine.sys)
    broken = False
    for check in (kernel, library, plugins, devices, links, gids, mtu, nodes, memlock, huge_pages):
        finding = check(machine, ports)
        broken |= finding.state == NOT_OK
        yield finding
    last: list[tuple[str, Callable[[], str]]] = [
        ("choice", lambda: str(machine.choose(host, options))),
        ("self-test", lambda: (self_test or loopback)(host, options)),
    ]
    for question, act in last:
        if broken:
            yield Finding(question, NOT_RUN, "correct the failures above first")
            continue
        try:
            yield Finding(question, GOOD, act())
        except RfpError as error:
            broken = True
            yield Finding(question, NOT_OK, Exception.__str__(error), error.hint or "")


def kernel(machine: Machine, ports: list[Port]) -> Finding:
    """Check that the kernel's RDMA modules are loaded."""
    modules = machine.sys / "module"
    missing = [name for name in ("ib_core", "ib_uverbs") if not (modules / name).exists()]
    if missing:
        remedy = f"run `modprobe {' '.join(missing)}` as root"
        if machine.container:
            remedy += ", on the host of this container"
        return Finding("kernel modules", NOT_OK, f"not loaded: {', '.join(missing)}", remedy)
    return Finding("kernel modules", GOOD, "ib_core and ib_uverbs are loaded")


def library(machine: Machine, ports: list[Port]) -> Finding:
    """Check that libibverbs can be loaded."""
    try:
        return Finding("library", GOOD, machine.provider().library())
    except RfpError as error:
        return Finding("library", NOT_OK, Exception.__str__(error), error.hint or "")


def plugins(machine: Machine, ports: list[Port]) -> Finding:
    """Check that libibverbs has a plugin for each device of the kernel."""
    there = sorted({port.device for port in ports})
    try:
        known = machine.provider().devices()
    except RfpError as error:
        return Finding(
            "provider plugins",
            NOT_RUN,
            f"cannot list the devices of libibverbs: {Exception.__str__(error)}",
        )
    unknown = [name for name in there if name not in known]
    if unknown:
        return Finding("provider plugins", NOT_OK,
                       f"libibverbs has no plugin for {', '.join(unknown)}",
                       "run `apt install ibverbs-providers` or `dnf install "
                       "libibverbs`, of the library's release")  # fmt: skip
    none = "none needed: there is no device"
    return Finding("provider plugins", GOOD, f"for {', '.join(there)}" if there else none)


def devices(machine: Machine, ports: list[Port]) -> Finding:
    """Check that there is a device."""
    if not ports:
        return Finding(
            "devices",
            NOT_OK,
            "there is no RDMA device",
            f"check that the adapter's driver is loaded (lspci -k); {SOFT_ROCE}",
        )
    return Finding("devices", GOOD, ", ".join(sorted({port.device for port in ports})))


def links(machine: Machine, ports: list[Port]) -> Finding:
    """Check that a port is up, and of a supported kind."""
    if not ports:
        return Finding("ports", NOT_RUN, "there is no device")
    shown = ", ".join(f"{port.name} {port.state} ({port.link})" for port in ports)
    if any(port.usable for port in ports):
        return Finding("ports", GOOD, shown)
    interfaces = sorted(
        {gid.interface for port in ports for gid in port.gids if gid.interface}
    ) or ["INTERFACE"]
    return Finding("ports", NOT_OK, "; ".join(port.complaint for port in ports),
                   f"run `ip link set {interfaces[0]} up`, and check cable and switch")  # fmt: skip


def gids(machine: Machine, ports: list[Port]) -> Finding:
    """Check that a port has an address by which peers reach it."""
    usable = [port for port in ports if port.usable]
    if not usable:
        return Finding("GIDs", NOT_RUN, "no port is usable")
    shown = ", ".join(
        f"{port.name} {gid.index}: {gid.address} ({gid.kind})"
        for port in usable
        for gid in port.gids
    )
    roce = [gid for port in usable for gid in port.gids if port.link == device.ETHERNET]
    if roce and not any(gid.kind == V2 for gid in roce):
        return Finding(
            "GIDs",
            LIMITED,
            shown,
            "use RoCE v2 (cma_roce_mode, or another adapter): routers do not forward RoCE v1",
        )
    if roce and all(gid.address.is_link_local for gid in roce):
        return Finding(
            "GIDs",
            LIMITED,
            shown,
            "give the interface an IP address (ip addr add), which peers need to connect",
        )
    return Finding("GIDs", GOOD, shown)


def mtu(machine: Machine, ports: list[Port]) -> Finding:
    """Check that RDMA packets can have their full size."""
    names = sorted(
        {gid.interface for port in ports if port.usable for gid in port.gids if gid.interface}
    )
    sizes = {
        name: int(text)
        for name in names
        if (text := machine.text("sys", "class", "net", name, "mtu"))
    }
    if not sizes:
        return Finding("MTU", NOT_RUN, "no usable port has a network interface")
    shown = ", ".join(f"{name} {size}" for name, size in sizes.items())
    low = [name for name, size in sizes.items() if size < FULL_MTU]
    if low:
        return Finding(
            "MTU",
            LIMITED,
            f"{shown}: packets of at most 1024 or 2048 bytes",
            f"run `ip link set {low[0]} mtu {FULL_MTU}`, if the whole path supports it",
        )
    return Finding("MTU", GOOD, shown)


def nodes(machine: Machine, ports: list[Port]) -> Finding:
    """Check that this user may open the devices."""
    folder = machine.root / "dev" / "infiniband"
    container = "; in a container: --device=/dev/infiniband" if machine.container else ""
    found = sorted(folder.glob("uverbs*")) if folder.is_dir() else []
    if not found:
        remedy = (
            "run `modprobe ib_uverbs`"
            if not machine.container
            else "start the container with --device=/dev/infiniband"
        )
        return Finding("rights", NOT_OK, f"there is no {folder}/uverbs*", remedy)
    closed = [path for path in found if not machine.access(path)]
    if len(closed) == len(found):
        return Finding("rights", NOT_OK, f"this user may not open {closed[0]}",
                       "add the user to the group that owns it, or set "
                       f"mode 0666 with a udev rule{container}")  # fmt: skip
    return Finding("rights", GOOD, ", ".join(str(path) for path in found if path not in closed))


def memlock(machine: Machine, ports: list[Port]) -> Finding:
    """Check that this user may pin memory for a device."""
    lockable = machine.lockable()
    if lockable >= memory_limits.UNLIMITED:
        return Finding("locked memory", GOOD, "no limit")
    shown = f"{show_size(lockable)} may be pinned"
    if lockable < WANTED_LOCKED:
        return Finding("locked memory", NOT_OK, shown, MEMLOCK)
    return Finding("locked memory", LIMITED,
                   f"{shown}; a server pins its memory once for each client",
                   MEMLOCK)  # fmt: skip


MEMLOCK = (
    "add the line `* - memlock unlimited` to /etc/security/limits.conf and log in again; "
    "for a service LimitMEMLOCK=infinity, for a container --ulimit memlock=-1 or --cap-add IPC_LOCK"
)


def huge_pages(machine: Machine, ports: list[Port]) -> Finding:
    """Check that the kernel backs large regions with huge pages, for fewer address translations."""
    text = machine.text("sys", "kernel", "mm", "transparent_hugepage", "enabled")
    if "[never]" in text or not text:
        return Finding(
            "huge pages",
            LIMITED,
            "disabled in the kernel: large values are slower",
            "run `echo madvise > /sys/kernel/mm/transparent_hugepage/enabled`",
        )
    return Finding("huge pages", GOOD, "on request" if "[madvise]" in text else "always")


def loopback(host: str, options: RdmaOptions) -> str:
    """Run WRITE, READ, an atomic operation and a notify from the device to itself.

    Returns:
        Their durations, as text.

    Raises:
        FabricError: one of them failed.
    """
    fabric_module = importlib.import_module("rfp._verbs")
    contract = importlib.import_module("rfp.fabric.fabric")
    took: dict[str, float] = {}
    with fabric_module.VerbsFabric(host, options) as fabric:
        rights = contract.REMOTE_READ | contract.REMOTE_WRITE | contract.REMOTE_ATOMIC
        with (
            fabric.register(4096, rights) as memory,
            fabric.event_channel(None, 0) as channel,
            fabric.queue_pair(channel, -1, -1) as here,
            fabric.queue_pair(channel, -1, -1) as there,
        ):
            here.connect(there.descriptor(), None)
            there.connect(here.descriptor(), None)
            with fabric.attach(memory.descriptor()) as remote:
                memory.write(64, b"doctor")
                memory.write(512, (41).to_bytes(8, "little"))
                armed = channel.prepare_wait()
                for name, opcode, local, offset, length in (
                    ("WRITE", contract.WRITE, 64, 128, 6),
                    ("READ", contract.READ, 256, 128, 6),
                    ("FETCH_ADD", contract.FETCH_ADD, 320, 512, 8),
                    ("WRITE_NOTIFY", contract.WRITE_NOTIFY, 64, 192, 6),
                ):
                    began = time.perf_counter()
                    here.execute(
                        opcode, memory, local, remote, offset, length, operand=1, check=True
                    )
                    took[name] = time.perf_counter() - began
                woken = channel.wait(armed, 5.0)
                if memory.read(256, 6) != b"doctor" or memory.read(512, 1) != b"\x2a" or not woken:
                    raise FabricError(
                        "operations on the device succeeded, but their data is wrong",
                        hint="install driver and plugin of the same release",
                    )
    return ", ".join(f"{name} {seconds * 1e6:.0f} us" for name, seconds in took.items())
