"""Back-ends with small pools on shared memory."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import rnvm


@contextlib.contextmanager
def backend(size: str = "32MiB", **options: object) -> Iterator[rnvm.Backend]:
    folder = tempfile.mkdtemp(dir=os.environ["TESTS_MEMORY"])
    try:
        with rnvm.Backend(
            Path(folder) / "pool", size=size, assume_persistent=True, **options
        ) as served:
            yield served
    finally:
        shutil.rmtree(folder)
