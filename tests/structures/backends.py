"""Back-ends with small pools on shared memory."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import rnvm
from rfp import address as addresses


@contextlib.contextmanager
def backend(size: str = "32MiB", **options: object) -> Iterator[rnvm.Backend]:
    if str(addresses.unique()).startswith("rdma:"):
        # Over a network an idle front-end keeps its locks for a part of the lease.
        options = {"lease": 0.5, **options}
    folder = tempfile.mkdtemp(dir=os.environ["TESTS_MEMORY"])
    try:
        with rnvm.Backend(
            Path(folder) / "pool", size=size, assume_persistent=True, **options
        ) as served:
            yield served
    finally:
        shutil.rmtree(folder)
