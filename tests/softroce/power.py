"""What test_power.py runs in the machine: power.py load | look, on the two pools of that machine.

`load` puts numbers into a queue of each pool, as many as the machine lives, and says each when that was acknowledged; `look` says what is
there.  Each pool is served and used in this process, the one on the device over RDMA and the one in the file over shared memory.
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
BATCH = 5  # every so many operations a batch of so many


def say(*words: object) -> None:
    os.write(1, " ".join(map(str, words)).encode() + b"\n")


class Side:
    """A pool, a queue of the numbers that were put, and a table with the same: both change together, or neither."""

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
            say(self.name, n)
        elif n % BATCH == 0:
            with self.fe.batch():
                for each in range(n, n + BATCH):
                    self.table[b"%d" % each] = b"%d" % each
                    self.queue.put(b"%d" % each)
                    say(self.name, each)

    def look(self) -> None:
        """Everything is checked, and then said: the numbers in the queue, and how many of the table have none there."""
        self.queue.check()
        self.table.check()
        numbers = [int(each) for each in self.queue]
        assert all(self.table[b"%d" % n] == b"%d" % n for n in numbers)
        say("found", self.name, len(self.table) - len(numbers), *numbers)


with contextlib.ExitStack() as stack:
    sides = [Side(path, stack) for path in (DEVICE, FILE)]
    for side in sides:
        side.look()
    if sys.argv[1] == "load":
        first = max(len(side.queue) for side in sides) // 10 * 10 + 10
        for side in (
            sides
        ):  # up to the same round number on both sides, so that the batches begin where they should
            for n in range(len(side.queue), first):
                with side.fe.transaction(side.queue, side.table):
                    side.queue.put(b"%d" % n)
                    side.table[b"%d" % n] = b"%d" % n
                say(side.name, n)
        for n in itertools.count(first):
            for side in sides:
                side.put(n)
