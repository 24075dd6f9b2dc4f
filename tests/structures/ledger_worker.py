"""A producer or a consumer of the ledger test, in a process of its own.

usage: python ledger_worker.py ROLE ADDRESS NUMBER LEDGER

A producer writes each number to its ledger before it puts it ("t") and after the put was
acknowledged ("a"). A consumer moves jobs to `done` in one transaction, or by reservation, and
writes when it was delivered ("d", with the times of the day, in ns, before and after the call),
when it extended the lease ("x", with the time before the call), and before it gives a job back
("n"). Both end at SIGTERM, and continue after any error of a failing connection.
"""

from __future__ import annotations

import os
import signal
import sys
import time

import rnvm
import structures
from rfp.errors import Empty, LeaseEnded, RfpError

LEASE = 0.5  # seconds of a reservation

stopping = False


def stop(*_: object) -> None:
    global stopping
    stopping = True


def note(ledger: int, entry: str) -> None:
    os.write(ledger, f"{entry}\n".encode())


def produce(jobs: structures.Queue, number: int, ledger: int) -> None:
    serial = 0
    while not stopping:
        some = []
        for _ in range(3 if serial % 8 == 0 else 1):
            serial += 1
            some.append(f"{number}.{serial}")
            note(ledger, f"t {some[-1]}")
        values = [job.encode() + b" " * (serial % 7 * 100) for job in some]
        if len(some) > 1:
            jobs.put_many(values)
        else:
            jobs.put(values[0], delay=0.02 if serial % 5 == 0 else 0)
        for job in some:
            note(ledger, f"a {job}")
        time.sleep(0.0005)


def consume(
    fe: rnvm.FrontEnd,
    jobs: structures.Queue,
    done: structures.BPlusTree,
    number: int,
    ledger: int,
) -> None:
    """Move jobs; each adds one to its count in `done`."""
    turn = number
    while not stopping:
        turn += 1
        try:
            if turn % 2:
                with fe.transaction(jobs, done):
                    job = jobs.get().rstrip()
                    done[job] = b"%d" % (int(done.get(job, b"0")) + 1)
            else:
                called = time.time_ns()
                token, value = jobs.reserve(lease=LEASE, timeout=0.05)
                job = value.rstrip()
                note(ledger, f"d {job.decode()} {called} {time.time_ns()}")
                if turn % 12 == 0:
                    note(ledger, f"n {job.decode()}")
                    jobs.nack(token)
                    continue
                if turn % 16 == 0:
                    called = time.time_ns()
                    jobs.extend(token, LEASE)
                    note(ledger, f"x {job.decode()} {called}")
                with fe.transaction(jobs, done):
                    jobs.ack(token)
                    done[job] = b"%d" % (int(done.get(job, b"0")) + 1)
        except Empty:
            time.sleep(0.002)
        except LeaseEnded:
            pass


def main(role: str, address: str, number: int, path: str) -> None:
    signal.signal(signal.SIGTERM, stop)
    ledger = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    fe = None
    while not stopping:
        try:
            fe = rnvm.connect(address, timeout=20)
            jobs, done = structures.Queue(fe, "jobs"), structures.BPlusTree(fe, "done")
            note(ledger, "r")
            if role == "producer":
                produce(jobs, number, ledger)
            else:
                consume(fe, jobs, done, number, ledger)
        except RfpError as error:
            note(ledger, f"e {error!r}")
            number += 1000000  # a new life: its jobs have other names
        finally:
            if fe is not None:
                fe.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])
