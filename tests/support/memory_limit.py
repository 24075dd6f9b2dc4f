"""A limit on the memory of a process."""

import resource

from slower import SANITIZED

OVERHEAD = 3 if SANITIZED else 1  # memory of a process, as a multiple of that without sanitizers


def set_limit(kind: int, size: int) -> None:
    """Limit the memory of this process to `size` bytes.

    There is no limit under the sanitizers, which reserve terabytes of addresses. The run without
    them proves that the limit suffices.
    """
    if not SANITIZED:
        resource.setrlimit(kind, (size, size))
