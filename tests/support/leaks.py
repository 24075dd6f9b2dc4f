"""The resources that this process holds, and those that it did not hold before a test.

An inventory is a dict from a resource, (kind, identity), to its amount: 1, or bytes for mappings.
It counts descriptors, mappings of shared memory, threads (also those of C code), child processes,
shared-memory files and files in the runtime folder, from /proc and not from the code under test.
"""

from __future__ import annotations

import gc
import os
import re
import time
from collections import Counter
from pathlib import Path

Inventory = Counter[tuple[str, str]]

SHARED = ("/memfd:", "/dev/shm/", "/dev/zero")
# matplotlib keeps used fonts open on purpose.
KEPT = re.compile(r"/mpl-data/fonts/|/fonts/.*\.(ttf|otf|ttc)$")

POOLS = ("rocksdb:",)  # threads that a foreign library keeps until the process ends


def inventory() -> Inventory:
    """Count the resources that this process holds now."""
    held: Inventory = Counter()
    for fd in set(os.listdir("/proc/self/fd")) - {"0", "1", "2"}:  # pytest redirects those
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:  # the descriptor that listed the folder
            continue
        if not KEPT.search(target):
            held["descriptor", f"{fd} -> {target}"] += 1
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, _, _, _, inode, *path = line.split(maxsplit=5)
        if path and path[0].startswith(SHARED):
            first, last = (int(address, 16) for address in span.split("-"))
            held["mapping", f"{path[0]} (inode {inode})"] += last - first
    for tid in os.listdir("/proc/self/task"):
        if not _read(f"/proc/self/task/{tid}/comm").startswith(POOLS):
            held["thread", tid] += 1
        try:
            children = Path(f"/proc/self/task/{tid}/children").read_text()
        except FileNotFoundError:  # the thread has ended
            continue
        held.update(("process", pid) for pid in children.split())
    # Only folders of this run: other programs of this machine have files beside them.
    for kind, variable in (
        ("shared-memory file", "TESTS_MEMORY"),
        ("runtime file", "XDG_RUNTIME_DIR"),
    ):
        folder = Path(os.environ[variable])
        held.update(
            (kind, str(path.relative_to(folder))) for path in folder.rglob("*") if not path.is_dir()
        )
    return held


def left_behind(before: Inventory, *, seconds: float) -> list[str]:
    """Name the resources held beyond `before`.

    Waits up to `seconds` until they are freed by themselves (threads end, sockets close).
    """
    deadline = time.monotonic() + seconds
    more = inventory() - before
    while more:
        gc.collect()
        more = inventory() - before
        if time.monotonic() > deadline:
            break
        time.sleep(0.005)
    return [describe(kind, name, amount) for (kind, name), amount in sorted(more.items())]


def describe(kind: str, name: str, amount: int) -> str:
    """Describe one entry of an inventory."""
    if kind == "mapping":
        return f"{amount} bytes mapped of {name}"
    if kind == "thread":
        return f"thread {name} {_read(f'/proc/self/task/{name}/comm')!r}"
    if kind == "process":
        return f"child process {name} {_read(f'/proc/{name}/cmdline')!r}"
    if kind == "descriptor" and (socket := re.search(r"socket:\[(\d+)\]", name)):
        for line in _read("/proc/net/unix").splitlines():
            if line.split()[6:7] == [socket[1]]:
                return f"descriptor {name}, a Unix socket {' '.join(line.split()[7:])}".rstrip()
    return f"{kind} {name}"


def _read(path: str) -> str:
    try:
        return Path(path).read_text().replace("\0", " ").strip()
    except OSError:
        return "no longer there"
