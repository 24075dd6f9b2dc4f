"""A group on two machines, with front-ends on one of them and on a third, whose network is cut.

The network loses packets (network.py): no link goes down, and no call returns an error for it.  A
ledger decides: the front-ends print their calls, and all answers must agree with one order of them.
"""

from __future__ import annotations

import asyncio
import subprocess
import time
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.group.running import Call, check_times

from .hosts import Output, machine, secret_file
from .network import CLOCK_PORT, Network

HOSTS, CALLING = "abc", "ac"
ETCD_PORT = 2379
SOON = 200  # seconds
CALL_S, SLACK_S = 20, 5  # time-out of a call, and how much later a slow machine may return
ALL_LEASES_S = 7  # longer than the registration's lease, and than all promises
PAUSED_S = 10  # longer than all promises, and than the registration's lease
MAY_BE_DONE = ("OutcomeUnknown", "DeadlineExceeded")


class Caller:
    """The calls of a front-end, by the clock of this process.

    A call began after the last time that its machine had received from the network.
    """

    def __init__(self, adds):
        self.adds = adds
        self.calls: list[Call] = []
        self.failed: list[tuple[int, float, str]] = []  # begin, seconds, error
        self.at = 0.0  # when the last call began, by the machine's clock
        self.paused: list[tuple[float, int]] = []  # how long, and when it ended

    def note(self, begin, at, took, answer, *text):
        begin, at, now = int(begin), float(at), time.monotonic_ns()
        if self.paused and at - self.at > self.paused[0][0] / 2:
            begin = self.paused.pop()[1]  # times that were received later may be older
        self.at = at
        if answer.isdigit():
            self.calls.append(Call(begin, now, int(answer)))
            return
        self.failed.append((begin, float(took), " ".join((answer, *text))))
        if self.adds and answer in MAY_BE_DONE:  # else nothing was added
            self.calls.append(Call(begin, now, None))

    def answered(self, since):
        return sum(call.begin >= since and call.answer is not None for call in self.calls)


class Group:
    """The machines of a group, and what they print."""

    def __init__(self, folder):
        self.network = Network(folder, HOSTS)
        self.errors = bytearray()
        self.epoch, self.primary, self.in_sync = 0, "", ""
        self.role = dict.fromkeys("ab", "")
        self.callers = {(name, kind): Caller(kind == "add")
                        for name in CALLING for kind in ("add", "read")}  # fmt: skip
        secret = secret_file(folder)
        self.machines = {
            name: machine(self.network.link(name), Output(self._noting(name)), self.errors.extend,
                          "cut_host.py", name, secret, CLOCK_PORT)
            for name in HOSTS
        }  # fmt: skip

    @asynccontextmanager
    async def running(self):
        """Run the machines; at first a is the primary, and b is in sync."""
        async with self.network.running():
            self.runs = [asyncio.ensure_future(each.run()) for each in self.machines.values()]
            try:
                await self.until_in_sync()
                await self.until_answered(CALLING)
                yield
                self.check_answers()
            finally:
                for each in self.machines.values():
                    each.kill()
                await asyncio.gather(*self.runs, return_exceptions=True)

    def _noting(self, name):
        def note(*words):
            print(f"{time.monotonic():.2f}", name, *words)  # for the report of a failure
            match words:
                case ("add" | "read" as kind, *rest):
                    self.callers[name, kind].note(*rest)
                case ("role", *role):
                    self.role[name] = " ".join(role)
                case ("state", epoch, primary, in_sync):
                    self.epoch, self.primary, self.in_sync = int(epoch), primary, in_sync

        return note

    def of(self, hosts):
        return [each for (name, _), each in self.callers.items() if name in hosts]

    async def until(self, fact):
        end = time.monotonic() + SOON
        while not fact():
            assert time.monotonic() < end, self.errors.decode()
            assert not any(run.done() for run in self.runs), self.errors.decode()
            await asyncio.sleep(0.05)

    async def until_answered(self, hosts):
        """Wait until all front-ends of these hosts have answers to calls that begin now."""
        now = time.monotonic_ns()
        await self.until(lambda: all(each.answered(now) >= 2 for each in self.of(hosts)))

    async def until_in_sync(self, names="a,b"):
        await self.until(lambda: self.in_sync == names)

    async def for_longer_than_all_leases(self, fact):
        end = time.monotonic() + ALL_LEASES_S
        while time.monotonic() < end:
            assert fact()
            await asyncio.sleep(0.05)

    def check_answers(self):
        """All answers agree with one order: nothing is lost, stale, or there twice."""
        for adding, reading in ("ac", "ca"):
            adds, reads = self.callers[adding, "add"].calls, self.callers[reading, "read"].calls
            answers = [call.answer for call in adds if call.answer is not None]
            assert answers == sorted(set(answers)), "an acknowledged addition was lost"
            in_progress = Call(adds[-1].begin, 1 << 62, None)
            check_times([*adds, in_progress], reads)


@pytest.fixture
def tools():
    """`make test-roce` installs them; these tests are not among its tests."""
    script = Path(__file__).parents[2] / "scripts" / "bootstrap-deps"
    subprocess.run([script, "softroce"], check=True)


@pytest.mark.long(300)
@pytest.mark.timeout(700)
def test_a_group_survives_each_cut_of_its_network(tmp_path, tools):
    """One test, for its machines take as long to start as a cut takes."""

    async def story():
        group = Group(tmp_path)
        async with group.running():
            await _cut_front_ends_from_the_primary(group)
            await _cut_the_primary_from_its_mirror(group)
            await _cut_the_primary_from_all(group)

    asyncio.run(story())


async def _cut_front_ends_from_the_primary(group):
    """No failover happens; calls end with an error by their deadline, and go on afterwards."""
    before = group.epoch, group.primary
    cut, lost = time.monotonic_ns(), group.network.lost
    group.network.cut("a", "c", but_port=ETCD_PORT)
    cut_off = group.of("c")
    await group.until(
        lambda: all(any(begin >= cut for begin, *_ in each.failed) for each in cut_off)
    )
    assert group.network.lost > lost
    for each in cut_off:
        assert not each.answered(cut)
        for _, took, error in each.failed:
            assert took < CALL_S + SLACK_S
            assert error.startswith(("ConnectionFailed the session", *MAY_BE_DONE)), error
    await group.until_answered("a")
    group.network.mend()
    await group.until_answered(CALLING)
    assert (group.epoch, group.primary) == before


async def _cut_the_primary_from_its_mirror(group):
    """The mirror is removed, and the primary goes on; later the mirror comes back by itself."""
    before = group.epoch, group.primary
    group.network.cut("a", "b")
    await group.until_in_sync("a")
    await group.for_longer_than_all_leases(
        lambda: (group.epoch, group.primary, group.in_sync) == (*before, "a")
    )
    await group.until_answered(CALLING)
    group.network.mend()
    await group.until_in_sync()
    assert (group.epoch, group.primary) == before


async def _cut_the_primary_from_all(group):
    """The mirror, which was cut before, takes over with everything; the old primary steps down."""
    group.network.cut("a", "b")
    group.network.cut("a", "c")
    await group.until(lambda: group.role["b"] == "primary")
    await group.until_answered("c")
    assert group.role["a"] == "primary"  # it does not know
    group.network.mend()
    await group.until_in_sync()
    assert (group.primary, group.role["a"]) == ("b", "mirror")
    await group.until_answered(CALLING)


@pytest.mark.long(200)
@pytest.mark.timeout(500)
def test_a_primary_whose_machine_was_paused_answers_nothing_old(tmp_path, tools):
    """The machine's clocks go on meanwhile, as after a suspension or a live migration."""

    async def story():
        group = Group(tmp_path)
        async with group.running():
            group.machines["a"].pause()
            paused = time.monotonic()
            at = {each: each.at for each in group.of("a")}
            await group.until(lambda: group.role["b"] == "primary")
            await group.until_answered("c")
            while time.monotonic() < paused + PAUSED_S:
                await asyncio.sleep(0.1)
            took = time.monotonic() - paused
            for each in at:
                each.paused.append((took, time.monotonic_ns()))
            group.machines["a"].resume()
            await group.until_in_sync()
            assert (group.primary, group.role["a"]) == ("b", "mirror")
            await group.until_answered(CALLING)
            for each, before in at.items():
                assert not each.paused and each.at > before + took  # its clock has counted

    asyncio.run(story())
