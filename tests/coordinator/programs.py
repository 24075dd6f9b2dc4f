"""Processes that share a group: `python -m tests.coordinator.programs ROLE ADDRESS ...`.

Each prints one line of JSON for each event.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time

from rfp.errors import CoordinatorUnavailable, OutcomeUnknown, VersionMismatch
from rnvm.coordinator.opening import open_coordinator


def report(**event) -> None:
    os.write(1, json.dumps(event).encode() + b"\n")


def change(address: str, seconds: float, seed: int) -> None:
    """Read and change the state again and again; print the history of it (history.py)."""
    rng = random.Random(seed)
    with open_coordinator(address, timeout=1.5) as coordinator:
        coordinator.read(timeout=20)
        report(ready=os.getpid())
        sys.stdin.readline()
        end = time.monotonic() + seconds
        old, changes = None, 0
        while time.monotonic() < end or not changes:  # a busy machine may hold it up that long
            begin = time.monotonic_ns()
            if old is None or rng.random() < 0.5:
                try:
                    old = coordinator.read()
                except CoordinatorUnavailable:
                    continue
                arguments, answer, name = (), old.id, "read"
            else:
                new = old.next(old.value)
                arguments, name = (old.id, new.id), "set"
                try:
                    old = coordinator.compare_and_set(old, new)
                    answer = True
                except VersionMismatch:
                    answer, old = False, None
                except CoordinatorUnavailable:
                    continue
                except OutcomeUnknown:
                    answer, old = "unknown", None
                changes += 1
            report(name=name, arguments=arguments, answer=answer,
                   begin=begin, end=time.monotonic_ns())  # fmt: skip


def member(address: str, name: str, lease: float) -> None:
    """Register, and report each lapse of the lease, until the input ends."""
    with open_coordinator(address) as coordinator:
        with coordinator.register(name, b"data", lease=lease, timeout=20) as registration:
            report(instance=registration.member.instance, pid=os.getpid())
            known = 0
            for _ in sys.stdin:
                deadline = time.monotonic() + 20
                while registration.lapses == known or not registration.registered:
                    assert time.monotonic() < deadline
                    time.sleep(0.005)
                known = registration.lapses
                report(lapses=known)


if __name__ == "__main__":
    role, *arguments = sys.argv[1:]
    if role == "change":
        change(arguments[0], float(arguments[1]), int(arguments[2]))
    else:
        member(arguments[0], arguments[1], float(arguments[2]))
