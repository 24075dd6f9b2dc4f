"""The program of test_power.py in the machine: power.py load | inspect, on both of its pools.

`load` puts numbers into a queue of each pool until the machine ends, and prints each when it was
acknowledged; `inspect` prints the contents.  Each pool is served and used in this process, the one
on the device over RDMA and the one in the file over shared memory.
"""

import contextlib
import itertools
import os
import sys

import rnvm
from rnvm import pools
from structures import HashTable, Queue

DEVICE, FILE = "/dev/dax1.0", "/mnt/pmem0/pool"
ADDRESSES = {DEVICE: "rdma://10.0.0.1:7002", FILE: None}
KINDS = {DEVICE: "devdax", FILE: "fsdax"}
BATCH = 5  # operations of a batch, and operations between two batches


def report(*words: object) -> None:
    os.write(1, " ".join(map(str, words)).encode() + b"\n")


class Side:
    """A pool with a queue of numbers and a table of the same: both change together, or neither."""

    def __init__(self, path: str, stack: contextlib.ExitStack) -> None:
        self.name = KINDS[path]
        if not os.path.exists(path) or (path == DEVICE and "FIRST" in os.environ):
            pools.create(path, "32MiB")
        backend = stack.enter_context(rnvm.Backend(path, address=ADDRESSES[path], no_auth=True))
        with open(path, "r+b", buffering=0) as file:
            assert pools.media(file.fileno()).kind == self.name
        self.fe = stack.enter_context(rnvm.connect(backend.address, timeout=60))
        assert self.fe.promise == "persistent"
        self.queue = Queue(self.fe, "jobs")
        self.table = HashTable(self.fe, "done")

    def put(self, n: int) -> None:
        if n % (2 * BATCH) < BATCH:
            with self.fe.transaction(self.queue, self.table):
                self.queue.put(b"%d" % n)
                self.table[b"%d" % n] = b"%d" % n
            report(self.name, n)
        elif n % BATCH == 0:
            with self.fe.batch():
                for each in range(n, n + BATCH):
                    self.table[b"%d" % each] = b"%d" % each
                    self.queue.put(b"%d" % each)
                    report(self.name, each)

    def report_contents(self) -> None:
        """Check both structures, then print the numbers in the queue.

        The count before them is that of table entries without a number in the queue.
        """
        self.queue.check()
        self.table.check()
        numbers = [int(each) for each in self.queue]
        assert all(self.table[b"%d" % n] == b"%d" % n for n in numbers)
        report("found", self.name, len(self.table) - len(numbers), *numbers)


with contextlib.ExitStack() as stack:
    sides = [Side(path, stack) for path in (DEVICE, FILE)]
    for side in sides:
        side.report_contents()
    if sys.argv[1] == "load":
        first = max(len(side.queue) for side in sides) // 10 * 10 + 10
        # Up to the same round number on both sides, so that the batches begin at their numbers.
        for side in sides:
            for n in range(len(side.queue), first):
                with side.fe.transaction(side.queue, side.table):
                    side.queue.put(b"%d" % n)
                    side.table[b"%d" % n] = b"%d" % n
                report(side.name, n)
        for n in itertools.count(first):
            for side in sides:
                side.put(n)
