"""The processes of a run over a group: members, and workers that find the primary by its name."""

from __future__ import annotations

import contextlib
import random
import time
from typing import Any

import rnvm
from rfp.errors import ConnectionFailed, DeadlineExceeded
from rnvm import connecting
from rnvm.frontend import promise

from .gate import Gate
from .history import UNKNOWN
from .recorder import NOT, value_of
from .roles import serve
from .structure_roles import Worker, connect

FAR = "?rtt=2us"


def member(path: str, group: str, name: str, address: str, record: str) -> None:
    serve(record, lambda: rnvm.GroupMember(path, group=group, member=name, address=address))


def connect_from_afar() -> None:
    """Let the front-ends of this process connect as if members were on other hosts."""
    near = connecting.Opener
    connecting.Opener = lambda address, *rest, **access: near(  # type: ignore[assignment,misc]
        f"{address}{FAR}", *rest, **access
    )


class _Twice(Worker):
    """Its fault: the first put of a session that replaced a lost one is done twice."""

    seen: list[int] | None = None

    def act(self, name: str, call: str, key: str, value: str) -> Any:
        answer = super().act(name, call, key, value)
        if call == "put" and answer not in (UNKNOWN, NOT) and self.session() != self.seen:
            if self.seen is not None:
                self.objects[name].put(value_of(value, self.sizes))
            self.seen = self.session()
        return answer


def worker(
    group: str,
    record: str,
    gate: str,
    names: list[str],
    caller: str,
    seed: str,
    mix: dict[str, Any],
    sizes: list[int],
    options: dict[str, Any],
    far: bool,
    fault: str,
    pause: float,
) -> None:
    """Take turns until the run ends.

    Args:
        fault: "": none; "unchecked": it reads without a look at the serving word; "twice".
        pause: seconds between two turns.
    """
    if far:
        connect_from_afar()
    if fault == "unchecked":
        promise._skip_steps(promise.PROMISE_SERVES)
    begin = Gate(gate)
    kind = _Twice if fault == "twice" else Worker
    self = kind(record, names, caller, seed, mix, sizes)
    self.fe, self.objects = connect(group, names, options)
    self.recorder.note("r")
    begin.wait()
    pauses = random.Random(f"{seed} pauses")
    while not begin.ended:
        self.turn()
        time.sleep(pauses.uniform(0.5, 1.5) * pause)
    with contextlib.suppress(ConnectionFailed, DeadlineExceeded):
        self.fe.close()


ROLES = {"group member": member, "group worker": worker}
