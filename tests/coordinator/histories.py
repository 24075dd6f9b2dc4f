"""Histories of processes that change one group's state, and the model of it."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.histories.checker import Verdict, check
from tests.histories.history import UNKNOWN, Call, Step, single
from tests.support import python_programs

ROOT = Path(__file__).parents[2]


class Register:
    """One state, known by its id."""

    def __init__(self, first: str) -> None:
        self.first = first

    def begin(self) -> list[str]:
        return [self.first]

    def changes(self, call: Call) -> bool:
        return call.name == "set" and call.answer is not False

    def after(self, state: str, call: Call) -> list[str]:
        if call.name == "read":
            return [state] if call.answer == state else []
        old, new = call.arguments
        if call.answer is True:
            return [new] if state == old else []
        if call.answer is False:
            return [] if state == old else [state]
        return [new] if state == old else [state]


def start(*arguments: object) -> subprocess.Popen[bytes]:
    """Start a process of programs.py."""
    return python_programs.start(
        "-m", "tests.coordinator.programs", *arguments,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT,
    )  # fmt: skip


def next_event(process: subprocess.Popen[bytes]) -> dict:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, "the process has ended"
    return json.loads(line)


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
    process.wait()


def record(
    address: str, first: str, *, processes: int, seconds: float, seed: int,
    disturb: Callable[[], None] = lambda: None,
) -> tuple[list[Step], Verdict]:  # fmt: skip
    """Let processes change the state for some seconds, and check the history of it."""
    running = [start("change", address, seconds, seed + n) for n in range(processes)]
    try:
        for process in running:
            assert next_event(process)["ready"] == process.pid
        for process in running:
            assert process.stdin is not None
            process.stdin.write(b"go\n")
            process.stdin.flush()
        disturb()
        steps = []
        for number, process in enumerate(running):
            assert process.stdout is not None
            for event in map(json.loads, process.stdout):
                answer = UNKNOWN if event["answer"] == "unknown" else event["answer"]
                steps.append(
                    single(f"p{number}", event["name"], tuple(event["arguments"]), answer,
                           event["begin"], event["end"])
                )  # fmt: skip
            assert process.wait(30) == 0
    finally:
        for process in running:
            end(process)
    return steps, check(steps, Register(first))
