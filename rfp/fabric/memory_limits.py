"""The memory that this process may still allocate or pin.

It is checked first, so that an oversized region raises an error instead of triggering the OOM
killer.
"""

from __future__ import annotations

import os
import resource

UNLIMITED = 1 << 62
_CAP_IPC_LOCK = 14


def available() -> int:
    """Return the bytes that can be allocated now, within the limits of machine and control group.

    An estimate; never negative.
    """
    return max(0, min(_machine(), _group_v2(), _group_v1()))


def _text(path: str | os.PathLike[str]) -> str | None:
    """Return the content of a file under /proc or /sys; None if it cannot be read."""
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return None


def _fields(path: str) -> dict[str, int]:
    """Return the `name value` lines of a file under /proc or /sys; empty if it cannot be read."""
    lines = (_text(path) or "").splitlines()
    pairs = (line.replace(":", " ").split()[:2] for line in lines)
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def _number(path: str) -> int | None:
    text = (_text(path) or "").strip()
    return int(text) if text.isdigit() else None


def _machine() -> int:
    meminfo = _fields("/proc/meminfo")
    return meminfo["MemAvailable"] * 1024 if "MemAvailable" in meminfo else UNLIMITED


def _group(controller: str) -> str | None:
    """Return the path of this process's control group; controller "" means version 2."""
    for line in (_text("/proc/self/cgroup") or "").splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            return path.strip("/")
    return None


def _room(
    root: str, controller: str, limit_file: str, used_fields: tuple[str, ...], kernel_file: str = ""
) -> int:
    """Return the least free memory of this process's group and the groups that contain it.

    Free memory is the limit less the memory that cannot be reclaimed.  kernel_file: contains the
    kernel's memory of the group, for versions whose memory.stat does not.
    """
    path = _group(controller)
    if path is None:
        return UNLIMITED
    group, room = os.path.join(root, path) if path else root, UNLIMITED
    while True:
        limit = _number(f"{group}/{limit_file}")
        if limit is not None:
            usage = _fields(f"{group}/memory.stat")
            kernel = (_number(f"{group}/{kernel_file}") or 0) if kernel_file else 0
            if "kernel" in used_fields and "kernel" not in usage:  # before Linux 5.18
                kernel = sum(usage.get(name, 0) for name in _KERNEL)
            room = min(room, limit - kernel - sum(usage.get(name, 0) for name in used_fields))
        if group == root:
            return room
        group = os.path.dirname(group)


# The parts of `kernel`.
_KERNEL = ("kernel_stack", "pagetables", "percpu", "sock", "slab_unreclaimable")


def _group_v2() -> int:
    return _room("/sys/fs/cgroup", "", "memory.max", ("anon", "shmem", "kernel"))


def _group_v1() -> int:
    used = ("total_rss", "total_shmem")
    return _room(
        "/sys/fs/cgroup/memory",
        "memory",
        "memory.limit_in_bytes",
        used,
        "memory.kmem.usage_in_bytes",
    )


def lockable(status: str | os.PathLike[str] = "/proc/self/status") -> int:
    """Return the bytes that this process may still pin for a device.

    Computed from its limit (`ulimit -l`) and the memory that it has pinned.
    """
    text = _text(status)
    if text is None:
        return UNLIMITED
    said = {
        name: value.split()
        for name, _, value in (line.partition(":") for line in text.splitlines())
    }
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if soft == resource.RLIM_INFINITY or int(said.get("CapEff", ["0"])[0], 16) >> _CAP_IPC_LOCK & 1:
        return UNLIMITED
    return max(0, soft - int(said.get("VmPin", ["0"])[0]) * 1024)
