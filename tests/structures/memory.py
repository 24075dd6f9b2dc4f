"""The structures, loaded a second time on structures.testing.harness.

It replaces rnvm.frontend.structure for tests that need to be fast and to inject faults.
"""

from __future__ import annotations

import importlib
import importlib.util
import shutil
import sys
import tempfile
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

from structures.testing import harness
from structures.testing.harness import Fault, Memory

__all__ = [
    "AGAIN",
    "BST",
    "DAMAGED",
    "FULL",
    "LOST",
    "MAPPINGS",
    "MVBST",
    "NO_MEMORY",
    "ORDERED",
    "TOO_LONG",
    "VERSIONED",
    "BPlusTree",
    "Fault",
    "HashTable",
    "MVBPlusTree",
    "Memory",
    "Queue",
    "SkipList",
    "Stack",
]

AGAIN, DAMAGED, FULL, TOO_LONG, NO_MEMORY, LOST = -1, -2, -3, -4, -5, -6


loaded: dict[str, ModuleType] = {"rnvm.frontend.structure": harness}


def load(name: str) -> ModuleType:
    """Load a module of the structures, bound to the harness.

    It is loaded from a copy: an extension can be loaded only once from one file.
    """
    name = f"structures.{name}"
    origin = Path(importlib.util.find_spec(name).origin)
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(sys.modules, loaded):
        sys.modules.pop(name, None)
        copy = shutil.copy(origin, Path(folder) / origin.name)
        spec = importlib.util.spec_from_file_location(name, copy)
        loaded[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(loaded[name])
        return loaded[name]


for below in (
    "arguments",
    "value_structure",
    "queue_segments",
    "queue_reservations",
    "queue_operations",
    "queue_queries",
    "queue_walk",
    "queue_contents",
    "mapping",
    "ordered_mapping",
    "multi_version",
    "snapshot",
    "hash_buckets",
    "hash_operations",
    "hash_walk",
    "bptree_pages",
    "bptree_operations",
    "bptree_ranges",
    "bptree_walk",
    "skip_list_nodes",
    "skip_list_operations",
    "skip_list_walk",
    "stack_layers",
    "stack_operations",
    "stack_walk",
    "bst_nodes",
    "bst_operations",
    "bst_ranges",
    "bst_walk",
    "mvbptree_operations",
    "mvbst_operations",
):
    load(below)
Queue = load("queue").Queue
HashTable = load("hash_table").HashTable
# The same order of keys in every run.
loaded["structures.hash_table"].os = SimpleNamespace(urandom=bytes)
BPlusTree = load("bptree").BPlusTree
SkipList = load("skip_list").SkipList
loaded["structures.skip_list"].os = SimpleNamespace(urandom=bytes)
Stack = load("stack").Stack
BST = load("bst").BST
MVBPlusTree = load("mvbptree").MVBPlusTree

MVBST = load("mvbst").MVBST
VERSIONED: list[Any] = [MVBPlusTree, MVBST]
ORDERED: list[Any] = [BPlusTree, SkipList, BST, *VERSIONED]
MAPPINGS: list[Any] = [HashTable, *ORDERED]
