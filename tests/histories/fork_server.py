"""Starts a process within milliseconds: it forks one for each line of JSON that it reads.

`python -m tests.histories.fork_server` has imported everything and has no threads. It reports
{"started": pid}, {"stopped": pid} and {"ended": pid, "status": status}. At the end of its input it
kills the processes that are left.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import sys
import traceback
from typing import Any

from . import group_roles, store_roles, structure_roles

ROLES = {**store_roles.ROLES, **structure_roles.ROLES, **group_roles.ROLES}
PR_SET_PDEATHSIG = 1


def child(order: dict[str, Any]) -> None:
    status = 1
    try:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        os.close(0)
        os.open(os.devnull, os.O_RDONLY)
        ROLES[order.pop("role")](**order)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def report(**message: Any) -> None:
    os.write(1, json.dumps(message).encode() + b"\n")


def reap(children: set[int]) -> None:
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
        if not pid:
            return
        if os.WIFSTOPPED(status):
            report(stopped=pid)
        else:
            children.discard(pid)
            report(ended=pid, status=os.waitstatus_to_exitcode(status))


def main() -> None:
    children: set[int] = set()
    data = b""
    while True:
        reap(children)
        if not select.select([0], [], [], 0.002 if children else None)[0]:
            continue
        more = os.read(0, 1 << 16)
        if not more:
            break
        *orders, data = (data + more).split(b"\n")
        for order in orders:
            pid = os.fork()
            if not pid:
                child(json.loads(order))
            children.add(pid)
            report(started=pid)
    for pid in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
