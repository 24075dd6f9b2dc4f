"""A group of real processes: members that can be killed and stopped, and clients with records."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from polling import until
from slower import SLOWER

from rnvm.coordinator.opening import open_coordinator
from rnvm.group import state
from rnvm.group.state import GroupState
from tests.frontend.processes import Process

SOON = 40 * SLOWER  # seconds

# Prints each of its roles with the time.
MEMBER = """
import signal, sys, time, rnvm
path, group, name, address = sys.argv[1:]
def on_change(role):
    print(time.monotonic_ns(), role, flush=True)
with rnvm.GroupMember(path, group=group, member=name, address=address, on_change=on_change):
    signal.pause()
"""

# Adds to a counter, or reads it; prints the begin, the end and the answer of each call.
CLIENT = """
import os, sys, time, rnvm
from rfp.errors import OutcomeUnknown
from rnvm import connecting
from rnvm.testing.sample_structure import Sample
group, act, where, pause = sys.argv[1:]
if where == "far":
    near = connecting.Opener
    connecting.Opener = lambda address, *rest, **access: near(f"{address}?rtt=2us", *rest, **access)
with rnvm.connect(group, timeout=SOON) as fe:
    sample = Sample(fe, "s")
    call = (lambda: sample.add(1)) if act == "add" else (lambda: sample.numbers()[0])
    while True:
        begin = time.monotonic_ns()
        try:
            answer = call()
        except OutcomeUnknown:
            answer = "?"
        os.write(1, f"{begin} {time.monotonic_ns()} {answer}\\n".encode())
        time.sleep(float(pause))
""".replace("SOON", str(SOON))


@dataclass
class Call:
    """A call of a client; `answer` is None if its outcome is not known."""

    begin: int
    end: int
    answer: int | None


class Client(Process):
    """A process that calls again and again: it adds 1, or it reads."""

    def __init__(self, group: str, act: str, where: str, pause: float = 0.002) -> None:
        self.adds = act == "add"
        super().__init__(CLIENT, group, act, where, pause)

    def calls(self) -> list[Call]:
        found = []
        for line in self.printed().splitlines():
            begin, end, answer = line.split()
            found.append(Call(int(begin), int(end), None if answer == b"?" else int(answer)))
        return found


class Group:
    """The members of a group, each with its pool in `folder`."""

    def __init__(self, address: str, folder: Path) -> None:
        self.address, self.folder = address, folder
        self.members: dict[str, Process] = {}
        self._coordinator = open_coordinator(address)

    def start(self, name: str) -> None:
        self.members[name] = Process(MEMBER, *self.arguments(name, self.address))

    def arguments(self, name: str, group: str) -> tuple[object, ...]:
        """Return the arguments of a member that finds the group at this address."""
        return self.folder / f"{name}.pool", group, name, f"shm://{self.folder}/{name}.socket"

    def kill(self, name: str) -> None:
        with self.members.pop(name):
            pass

    def signal(self, name: str, number: int) -> None:
        self.members[name].signal(number)

    def roles(self, name: str) -> list[tuple[int, str]]:
        """Return the roles that a member has had, each with its time (ns)."""
        found = (line.split(None, 1) for line in self.members[name].printed().decode().splitlines())
        return [(int(when), role) for when, role in found]

    def state(self) -> GroupState:
        return state.decode(self._coordinator.read().value, "the group")

    def registered(self) -> set[str]:
        return {each.name for each in self._coordinator.members()}

    def until_in_sync(self, *names: str) -> None:
        wanted = sorted(names)
        until(lambda: sorted(each.member for each in self.state().in_sync) == wanted, SOON)

    def until_primary(self, name: str) -> None:
        until(lambda: self.state().primary == name, SOON)

    def close(self) -> None:
        for name in list(self.members):
            with contextlib.suppress(ProcessLookupError):
                self.signal(name, signal.SIGCONT)
            self.kill(name)
        self._coordinator.close()


@contextlib.contextmanager
def clients(address: str, *kinds: tuple[str, str]) -> Iterator[list[Client]]:
    """Run a client of each kind: ("add" or "read", "near" or "far")."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Client(address, *kind)) for kind in kinds]


def until_answered(*clients: Client, since: int, calls: int = 3) -> None:
    """Wait until each client has so many answers to calls that began after a time (ns)."""
    for each in clients:
        until(lambda each=each: answered(each, since) >= calls, SOON)


def answered(client: Client, since: int) -> int:
    assert client.running.poll() is None, client.printed()[-1000:]
    found = 0
    for line in reversed(client.printed().splitlines()):
        begin, _, answer = line.split()
        if int(begin) < since:
            break
        found += answer != b"?"
    return found


def check_counter(clients: list[Client], count: int) -> None:
    """Check the answers and the times of all calls against one order of them.

    An add returns the number of adds up to it, itself included; a read the number before it.  So
    there is an order if, and only if: no two adds have the same answer; no answer is less than one
    that was returned before the call began (for an add: nor equal to it); and no answer is greater
    than the number of adds that had begun.

    Args:
        count: of the counter when all clients have ended.
    """
    adds = [call for each in clients if each.adds for call in each.calls()]
    # Each was killed, perhaps within an addition that others have seen.
    killed = [
        Call(each.calls()[-1].end, 1 << 62, None) for each in clients if each.adds and each.calls()
    ]
    reads = [call for each in clients if not each.adds for call in each.calls()]
    answers = [call.answer for call in adds if call.answer is not None]
    assert len(answers) == len(set(answers)), "an acknowledged addition was lost"
    check_times(adds + killed, reads)
    unknown = len(adds) - len(answers)
    assert max(answers) <= count, "an acknowledged addition was lost"
    assert count <= len(answers) + unknown + len(killed), "an addition was applied twice"


def check_times(adds: list[Call], reads: list[Call]) -> None:
    calls = [(call, 1) for call in adds] + [(call, 0) for call in reads]
    # At one time, calls begin before others end.
    events = sorted(
        [(call.begin, 0, number) for number, (call, _) in enumerate(calls)]
        + [(call.end, 1, number) for number, (call, _) in enumerate(calls)]
    )
    most = begun = 0
    least: dict[int, int] = {}
    for _, ends, number in events:
        call, is_add = calls[number]
        if not ends:
            begun += is_add
            least[number] = most + is_add
        elif call.answer is not None:
            assert call.answer >= least[number], f"stale: {call}, after the answer {most}"
            assert call.answer <= begun, f"{call}, but only {begun} additions had begun"
            most = max(most, call.answer)
