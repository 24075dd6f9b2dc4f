"""Persistent shared data structures, in the memory of a back-end (`rnvm.Backend`), used through a front-end (`rnvm.connect()`).

>>> jobs = structures.Queue(fe, "jobs")
>>> index = structures.BPlusTree(fe, "index")
>>> with fe.transaction(jobs, index):
...     jobs.put(b"job")
...     index[b"job"] = b"waiting"
"""

import rfp  # noqa: F401  its ImportError explains what a checkout's folder shadows
from structures.bptree import BPlusTree
from structures.hash_table import HashTable
from structures.queue import Queue

__all__ = ["BPlusTree", "HashTable", "Queue"]
