"""Members and writers of a real group, in processes of their own, and what is checked of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from polling import until
from slower import SLOWER

import rnvm
from rnvm.group import admin
from rnvm.group.state import GroupState
from rnvm.testing.sample_structure import Sample
from tests.frontend.processes import Process

SOON = 40 * SLOWER  # seconds

MEMBER = """
import signal, sys, rnvm
from rfp.testing.reordering_fabric import ReorderFabric
path, group, name, address, *seed = sys.argv[1:]
with rnvm.GroupMember(path, group=group, member=name, address=address,
                      fabric=ReorderFabric(seed=int(seed[0])) if seed else None,
                      on_change=lambda role: print(role, flush=True)):
    signal.pause()
"""

# Prints each number that was acknowledged, and "?" for each outcome that is not known.
WRITER = """
import os, sys, rnvm
from rfp.errors import OutcomeUnknown
from rnvm.testing.sample_structure import Sample
with rnvm.connect(sys.argv[1], timeout=SOON) as fe:
    sample = Sample(fe, "s")
    while True:
        try:
            os.write(1, b"%d\\n" % sample.add(1))
        except OutcomeUnknown:
            os.write(1, b"?\\n")
""".replace("SOON", str(SOON))


@contextlib.contextmanager
def member(folder: Path, group: str, name: str, reordering: int | None = None) -> Iterator[Process]:
    """Yield a member's process.

    Args:
        reordering: The seed of a network as bad as the contract allows.
    """
    address = f"shm://{folder}/{name}.socket"
    seed = [] if reordering is None else [reordering]
    with Process(MEMBER, folder / f"{name}.pool", group, name, address, *seed) as process:
        yield process


@contextlib.contextmanager
def writer(group: str) -> Iterator[Process]:
    with Process(WRITER, group) as process:
        yield process


def check_ledger(group: str, process: Process) -> None:
    """Nothing that was acknowledged is lost, and nothing was applied twice; ends the writer."""
    process.wait_for(10)
    process.kill()
    lines = process.printed().split()
    acked = [int(line) for line in lines if line != b"?"]
    assert acked == sorted(set(acked))
    with rnvm.connect(group, timeout=SOON) as fe:
        count = Sample(fe, "s").numbers()[0]
    assert count >= acked[-1]
    # One more may have been under way when it was killed.
    assert count <= len(acked) + lines.count(b"?") + 1


def state_of(group: str) -> GroupState:
    return admin.group_status(group, timeout=SOON).state


def until_in_sync(group: str, *names: str) -> None:
    until(lambda: in_sync(group) == sorted(names), SOON)


def until_primary(group: str, name: str) -> None:
    until(lambda: state_of(group).primary == name, SOON)


def primary_of(group: str) -> str | None:
    return state_of(group).primary


def in_sync(group: str) -> list[str]:
    return sorted(each.member for each in state_of(group).in_sync)
