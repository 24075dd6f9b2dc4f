"""A server without load."""

from __future__ import annotations

import os
import time
from pathlib import Path

import rfp
from bench.experiments.other_process import OtherProcess
from bench.experiments.rows import Row, Setting, medians

QUESTION = "How much of a core does an idle server use, with a client connected?"

SERVER_PROGRAM = (
    "import sys, rfp; server = rfp.Server('64MiB'); print(server.address, flush=True); "
    "sys.stdin.read(); server.close()"
)


def cpu_seconds(pid: int) -> float:
    """Return the CPU seconds that a process has used, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(setting: Setting) -> list[Row]:
    """Measure over some seconds after the last request, a few times."""
    seconds = max(4.0 * setting.scale, 0.5)
    found = []
    with (
        OtherProcess(SERVER_PROGRAM, cpus=setting.server) as server,
        rfp.connect(server.hear()) as kv,
    ):
        for _ in range(min(setting.rounds, 3)):
            kv.put(b"k", b"v")
            time.sleep(0.2)
            before, began = cpu_seconds(server.pid), time.monotonic()
            time.sleep(seconds)
            found.append({"share": (cpu_seconds(server.pid) - before) / (time.monotonic() - began)})
    return [
        Row(
            "idle server",
            100 * medians(found)["share"],
            "%",
            bar=1,
            at_least=False,
            note="of one core, one client connected",
        )
    ]
