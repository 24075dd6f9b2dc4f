"""Machines that run a program of this folder, and what it prints."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

from vm import kernel
from vm.job import Job
from vm.link import Link
from vm.machine import Machine, Sink

CACHE = Path.home() / ".cache" / "softroce"


def machine(link: Link, out: Sink, err: Sink, program: str, *arguments: object) -> Machine:
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONUNBUFFERED": "1",
    }
    path = Path(__file__).with_name(program)
    return Machine(
        Job(["python", str(path), *map(str, arguments)], environment=environment, limit=300,
            link=link),
        kernel.find(Path("/boot")), CACHE, out, err, cpus=1,
    )  # fmt: skip


def secret_file(folder: Path) -> Path:
    """Make the file of the secret that all hosts of the group have."""
    path = folder / "secret"
    path.write_text("of all hosts of the group")
    path.chmod(0o600)
    return path


class Output:
    """The lines of a host; `on_line` is called with the words of each."""

    def __init__(self, on_line: Callable[..., None] = lambda *words: None) -> None:
        self.lines: list[list[str]] = []
        self.partial, self.on_line = b"", on_line

    def __call__(self, data: bytes) -> None:
        *lines, self.partial = (self.partial + data).split(b"\n")
        for line in lines:
            self.lines.append(line.decode(errors="replace").split())
            self.on_line(*self.lines[-1])

    def of(self, kind: str) -> list[list[str]]:
        return [line[1:] for line in self.lines if line and line[0] == kind]
