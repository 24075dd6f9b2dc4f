"""Starts processes within milliseconds: `python -m tests.histories.nursery` forks one for each line of JSON that it reads.

It has imported everything and has no threads.  Says {"started": pid}, {"stopped": pid}, {"ended": pid, "status": status}; kills what is
left when nobody writes to it any more.
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

from . import store_roles, structure_roles

ROLES = {**store_roles.ROLES, **structure_roles.ROLES}
DEATH = 1  # prctl's PR_SET_PDEATHSIG


def child(order: dict[str, Any]) -> None:
    status = 1
    try:
        ctypes.CDLL(None).prctl(DEATH, signal.SIGKILL)
        os.close(0)
        os.open(os.devnull, os.O_RDONLY)
        ROLES[order.pop("role")](**order)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def say(**what: Any) -> None:
    os.write(1, json.dumps(what).encode() + b"\n")


def reap(living: set[int]) -> None:
    while living:
        pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
        if not pid:
            return
        if os.WIFSTOPPED(status):
            say(stopped=pid)
        else:
            living.discard(pid)
            say(ended=pid, status=os.waitstatus_to_exitcode(status))


def main() -> None:
    living: set[int] = set()
    data = b""
    while True:
        reap(living)
        if not select.select([0], [], [], 0.002 if living else None)[0]:
            continue
        more = os.read(0, 1 << 16)
        if not more:
            break
        *orders, data = (data + more).split(b"\n")
        for order in orders:
            pid = os.fork()
            if not pid:
                child(json.loads(order))
            living.add(pid)
            say(started=pid)
    for pid in living:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
