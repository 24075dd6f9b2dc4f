"""The program of test_power.py in the machine: power.py load | inspect, on both of its pools.

`load` puts numbers into the structures of each pool, one of each kind, until the machine ends, and
prints each when it was acknowledged; `inspect` prints the contents.  Each pool is served and used
in this process, the one on the device over RDMA and the one in the file over shared memory.
"""

import contextlib
import itertools
import os
import sys

import rnvm
from rnvm import pools
from structures import BST, MVBST, BPlusTree, HashTable, MVBPlusTree, Queue, SkipList, Stack

DEVICE, FILE = "/dev/dax1.0", "/mnt/pmem0/pool"
ADDRESSES = {DEVICE: "rdma://10.0.0.1:7002", FILE: None}
MEDIA = {DEVICE: "devdax", FILE: "fsdax"}
KINDS = [Queue, Stack, HashTable, BPlusTree, SkipList, BST, MVBPlusTree, MVBST]
BATCH = 5  # operations of a batch, and operations between two batches


def report(*words: object) -> None:
    os.write(1, " ".join(map(str, words)).encode() + b"\n")


class Side:
    """A pool with structures of the same numbers: they change together, or in this order."""

    def __init__(self, path: str, stack: contextlib.ExitStack) -> None:
        self.name = MEDIA[path]
        if not os.path.exists(path) or (path == DEVICE and "FIRST" in os.environ):
            pools.create(path, "32MiB")
        backend = stack.enter_context(rnvm.Backend(path, address=ADDRESSES[path], no_auth=True))
        with open(path, "r+b", buffering=0) as file:
            assert pools.media(file.fileno()).kind == self.name
        self.fe = stack.enter_context(rnvm.connect(backend.address, timeout=60))
        assert self.fe.promise == "persistent"
        self.structures = [kind(self.fe, kind.__name__) for kind in KINDS]
        self.least = self.structures[-1]  # the last one that is changed
        self.found = [len(structure) for structure in self.structures]

    def add(self, n: int) -> None:
        """Add a number to each structure, one after another.

        The machine may have ended when some of them had the number.
        """
        value = b"%d" % n
        for structure, found in zip(self.structures, self.found):
            if n < found:
                continue
            if isinstance(structure, Queue):
                structure.put(value)
            elif isinstance(structure, Stack):
                structure.push(value)
            else:
                structure[value] = value

    def add_at_once(self, n: int) -> None:
        with self.fe.transaction(*self.structures):
            self.add(n)
        report(self.name, n)

    def put(self, n: int) -> None:
        if n % (2 * BATCH) < BATCH:
            self.add_at_once(n)
        elif n % BATCH == 0:
            with self.fe.batch():
                for each in range(n, n + BATCH):
                    self.add(each)
                    report(self.name, each)

    def report_contents(self) -> None:
        """Check all structures, then print the numbers in the one that is changed last.

        The count before them is that of numbers which only the first structures have.
        """
        counts = []
        for structure in self.structures:
            structure.check()
            numbers = [int(each) for each in structure]
            if isinstance(structure, Stack):
                numbers.reverse()
            elif not isinstance(structure, Queue):
                assert all(int(value) == int(key) for key, value in structure.items())
                numbers.sort()
            assert numbers == list(range(len(numbers)))
            counts.append(len(numbers))
        assert counts == sorted(counts, reverse=True)
        report("found", self.name, counts[0] - counts[-1], *range(counts[-1]))


with contextlib.ExitStack() as stack:
    sides = [Side(path, stack) for path in (DEVICE, FILE)]
    for side in sides:
        side.report_contents()
    if sys.argv[1] == "load":
        first = max(len(side.least) for side in sides) // 10 * 10 + 10
        # Up to the same round number on both sides, so that the batches begin at their numbers.
        for side in sides:
            for n in range(len(side.least), first):
                side.add_at_once(n)
        for n in itertools.count(first):
            for side in sides:
                side.put(n)
