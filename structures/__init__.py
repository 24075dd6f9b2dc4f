"""Persistent shared data structures.

They are in the memory of a back-end (`rnvm.Backend`), and are used through a front-end
(`rnvm.connect()`).

>>> jobs = structures.Queue(fe, "jobs")
>>> index = structures.BPlusTree(fe, "index")
>>> with fe.transaction(jobs, index):
...     jobs.put(b"job")
...     index[b"job"] = b"waiting"
"""

import os
from typing import TYPE_CHECKING

if not TYPE_CHECKING and os.path.exists(os.path.join(__path__[0], "meson.build")):
    from rfp.core.source_tree import import_installed

    import_installed(__name__)
else:
    from structures.bptree import BPlusTree
    from structures.bst import BST
    from structures.hash_table import HashTable
    from structures.mvbptree import MVBPlusTree
    from structures.mvbst import MVBST
    from structures.queue import Queue
    from structures.skip_list import SkipList
    from structures.snapshot import Snapshot, snapshots_of
    from structures.stack import Stack

__all__ = [
    "BST",
    "MVBST",
    "BPlusTree",
    "HashTable",
    "MVBPlusTree",
    "Queue",
    "SkipList",
    "Snapshot",
    "Stack",
    "snapshots_of",
]
