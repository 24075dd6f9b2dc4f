"""Producers and workers share a queue; workers are killed, and every job is done exactly once.

    python docs/howto/work_queue.py [JOBS [WORKERS]]

Each process connects by itself.  Workers wait for jobs without polling, and enter each result in
the same transaction as the acknowledgement of its job.  Some workers are killed with -9 while they
work.  Some jobs kill every worker that takes them: after three deliveries they are in the
dead-letter queue, and the others go on.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time

import rnvm
import structures
from rfp.errors import LeaseEnded

PRODUCERS = 2
DELIVERIES = 3
LEASE = 0.5  # seconds; short, because the jobs are
SECONDS = 120  # time-out of the whole run
DEADLY = 50  # each 50th job kills its worker


def queue_of(fe: rnvm.FrontEnd) -> structures.Queue:
    failed = structures.Queue(fe, "failed", codec="json")
    return structures.Queue(fe, "jobs", codec="json", dead_letter=failed, max_deliveries=DELIVERIES)


def produce(address: str, first: int, jobs: int) -> None:
    """Put every PRODUCERS-th job from the first one on; some of them are due a little later."""
    with rnvm.connect(address) as fe:
        queue = queue_of(fe)
        mine = [{"number": number} for number in range(first, jobs, PRODUCERS)]
        queue.put_many(mine[::2])
        for job in mine[1::2]:
            queue.put(job, delay=0.05 if job["number"] % 8 == 1 else 0)


def work(address: str) -> None:
    """Do jobs until this process is killed, or told to end by a job without a number."""
    with rnvm.connect(address, timeout=30) as fe:
        queue, results = queue_of(fe), structures.HashTable(fe, "results")
        while True:
            token, job = queue.reserve(lease=LEASE, timeout=float("inf"))
            if job["number"] is None:
                queue.ack(token)
                return
            if job["number"] % DEADLY == DEADLY - 1:
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(random.random() * 0.004)
            try:
                with fe.transaction(queue, results):  # both or none
                    queue.ack(token)
                    results[b"%d" % job["number"]] = b"%d" % job["number"] ** 2
            except LeaseEnded:
                pass  # it took too long, and another worker does the job


def start(*arguments: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, __file__, *map(str, arguments)])


def main(jobs: int, workers: int) -> None:
    deadline = time.monotonic() + SECONDS
    with (
        tempfile.TemporaryDirectory() as folder,
        rnvm.Backend(os.path.join(folder, "pool"), "64MiB", assume_persistent=True) as backend,
        rnvm.connect(backend.address) as fe,
    ):
        queue, results = queue_of(fe), structures.HashTable(fe, "results")
        failed = queue.dead_letter
        assert failed is not None
        deadly = [number for number in range(jobs) if number % DEADLY == DEADLY - 1]
        running = [start("work", backend.address) for _ in range(workers)]
        producers = [start("produce", backend.address, i, jobs) for i in range(PRODUCERS)]
        killed = 0
        try:
            while len(results) + len(failed) < jobs:
                if time.monotonic() > deadline:
                    raise SystemExit(f"{len(results)} of {jobs} jobs were done in {SECONDS} s")
                if killed < workers and len(results) > jobs // (workers + 1) * (killed + 1):
                    running[killed].kill()
                    killed += 1
                for i, each in enumerate(running):
                    if each.poll() is not None:  # by us, or by a deadly job
                        running[i] = start("work", backend.address)
                time.sleep(0.005)
            for each in producers:
                each.wait(SECONDS)
            while queue.reserved:  # a worker that was killed has the lease of the last job
                time.sleep(0.01)
            queue.put_many([{"number": None}] * workers)
            for each in running:
                each.wait(SECONDS)
        finally:
            for each in running + producers:
                each.kill()
                each.wait()
        numbers = sorted(job["number"] for job in failed)
        if numbers != deadly or len(results) != jobs - len(deadly):
            raise SystemExit(f"{len(results)} results of {jobs} jobs; dead letters: {numbers}")
        print(f"{len(results)} jobs done once each; {killed} workers were killed at work, and")
        print(f"{len(numbers)} jobs that killed their workers are in the dead-letter queue")


if __name__ == "__main__":
    if sys.argv[1:2] == ["work"]:
        work(sys.argv[2])
    elif sys.argv[1:2] == ["produce"]:
        produce(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    else:
        main(*(int(each) for each in (sys.argv[1:] + ["400", "4"][len(sys.argv) - 1 :])))
