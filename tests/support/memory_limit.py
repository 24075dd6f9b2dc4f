"""A bound on what a process may take."""

import os
import resource

SANITIZED = "libasan" in os.environ.get("LD_PRELOAD", "")
OVERHEAD = 3 if SANITIZED else 1  # memory of a process, as a multiple of that without sanitizers


def set_limit(kind: int, size: int) -> None:
    """Bound the memory of this process to `size` bytes.

    Not under the sanitizers: they reserve terabytes of addresses.  The run without them proves the bound.
    """
    if not SANITIZED:
        resource.setrlimit(kind, (size, size))
