"""Back-ends that are started one after another on one pool.

usage: python restarting_backend.py POOL ADDRESS [LEASE]

Each input line is the persist point at which the next back-end is killed, or 0.  The output is its
process ID, and later its exit status.  Back-ends are forked from this process, which has imported
all modules and has no threads, so each starts within milliseconds.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from pathlib import Path

import rnvm
from rnvm import pools
from rnvm.pool.pool import Pool
from rnvm.testing.failpoint_medium import FailpointMedium

LEASE = 0.3  # seconds, the default


def live(path: Path, address: str, points: int, lease: float) -> None:
    ended = []
    signal.signal(signal.SIGTERM, lambda *_: ended.append(True))
    with rnvm.Backend(
        Pool(FailpointMedium(pools.open_medium(path), points)), address=address, lease=lease
    ):
        while not ended:
            signal.sigtimedwait([], 0.05)


def main(path: Path, address: str, lease: float) -> None:
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            status = 1
            try:
                live(path, address, int(line), lease)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], float((sys.argv[3:] or [LEASE])[0]))
