"""Producers and consumers are killed and stopped at any moment; no job is lost or done twice."""

from __future__ import annotations

import math
import random
import signal
import subprocess
import sys
import time
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import pytest
from polling import until

import rnvm
import structures

from .backends import backend
from .ledger_worker import LEASE as JOB_LEASE

WORKER = Path(__file__).with_name("ledger_worker.py")
LEASE = 0.3
JOB_LEASE_NS = int(JOB_LEASE * 1e9)


class Workers:
    """Processes that are started again when they are killed, each life with a ledger of its own."""

    def __init__(self, address: str, folder: Path) -> None:
        self.address, self.folder = address, folder
        self.lives = 0
        self.running: list[tuple[str, subprocess.Popen[bytes], Path]] = []
        self.ledgers: list[Path] = []

    def start(self, role: str) -> None:
        self.lives += 1
        path = self.folder / f"{role}.{self.lives}"
        command = [sys.executable, str(WORKER), role, self.address, str(self.lives), str(path)]
        self.running.append((role, subprocess.Popen(command), path))
        self.ledgers.append(path)

    def ready(self, path: Path) -> bool:
        return path.exists() and b"r\n" in path.read_bytes()

    def wait_ready(self) -> None:
        deadline = time.monotonic() + 60
        while not all(self.ready(path) for _, _, path in self.running):
            assert time.monotonic() < deadline, "a worker did not become ready"
            assert all(process.poll() is None for _, process, _ in self.running), (
                "a worker ended by itself"
            )
            time.sleep(0.005)

    def kill(self, rng: random.Random) -> None:
        role, process, _ = self.running.pop(rng.randrange(len(self.running)))
        process.kill()
        process.wait()
        self.start(role)

    def hold(self, rng: random.Random) -> None:
        _, process, _ = rng.choice(self.running)
        process.send_signal(signal.SIGSTOP)
        time.sleep(rng.uniform(0, 2 * LEASE))
        process.send_signal(signal.SIGCONT)

    def end(self, role: str) -> None:
        ending = [item for item in self.running if item[0] == role]
        for _, process, _ in ending:
            process.terminate()
        for _, process, _ in ending:
            assert process.wait(60) == 0
        self.running = [item for item in self.running if item[0] != role]

    def close(self) -> None:
        for _, process, _ in self.running:
            process.kill()
            process.wait()

    def noted(self, mark: str) -> set[bytes]:
        return {
            line[2:]
            for path in self.ledgers
            if path.exists()
            for line in path.read_bytes().splitlines()
            if line.startswith(mark.encode() + b" ")
        }


def run(rounds: int, rng: random.Random, folder: Path, run_ends: float = math.inf) -> None:
    with backend("64MiB", lease=LEASE) as served:
        workers = Workers(served.address, folder)
        try:
            for role in ("producer", "producer", "consumer", "consumer"):
                workers.start(role)
            workers.wait_ready()
            for _ in range(rounds):
                time.sleep(rng.uniform(0, 0.05))
                (workers.kill if rng.random() < 0.7 else workers.hold)(rng)
                if rng.random() < 0.5:
                    workers.wait_ready()
                if time.monotonic() > run_ends:
                    break
            workers.wait_ready()
            until(lambda: workers.noted("a") and workers.noted("d"))  # however short they lived
            workers.end("producer")
            with rnvm.connect(served.address, timeout=20) as fe:
                jobs, done = structures.Queue(fe, "jobs"), structures.BPlusTree(fe, "done")
                deadline = time.monotonic() + 60
                while (len(jobs) or jobs.reserved or jobs.delayed) and time.monotonic() < deadline:
                    time.sleep(0.02)
                workers.end("consumer")
                assert (len(jobs), jobs.reserved, jobs.delayed) == (0, 0, 0)
                jobs.check()
                done.check()
                counts = dict(done)
        finally:
            workers.close()
    acknowledged, tried = workers.noted("a"), workers.noted("t")
    assert acknowledged, workers.noted("e")
    twice = {job: count for job, count in counts.items() if count != b"1"}
    assert not twice
    assert not acknowledged - counts.keys(), "acknowledged jobs are lost"
    assert not counts.keys() - tried, "jobs were done that no producer has put"
    check_leases(workers)


def check_leases(workers: Workers) -> None:
    """No job is delivered while another reservation of it lasts.

    A lease begins after the call of reserve() or extend(), and a delivery is made before reserve()
    returns.  A job that was given back may be delivered at once.
    """
    times: dict[bytes, list[tuple[int, int]]] = defaultdict(list)  # from the call, to the return
    extended: dict[bytes, list[int]] = defaultdict(list)
    back = workers.noted("n")
    for job, called, returned in map(bytes.split, workers.noted("d")):
        times[job].append((int(returned), int(called)))
    for job, called in map(bytes.split, workers.noted("x")):
        extended[job].append(int(called))
    assert times
    for job in times.keys() - back:
        for (_, began), (again, _) in pairwise(sorted(times[job])):
            begins = [began, *(called for called in extended[job] if called < again)]
            assert again >= max(begins) + JOB_LEASE_NS, f"{job!r} was delivered within a lease"


def test_killed_workers_lose_no_job_and_do_none_twice(rng, tmp_path):
    run(8, rng, tmp_path)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_thousand_killed_workers_lose_no_job_and_do_none_twice(rng, tmp_path, run_ends):
    run(1000, rng, tmp_path, run_ends)
