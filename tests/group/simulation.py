"""Members of a group, a coordinator, networks and clients, simulated; and what must hold of them.

Time is that of the simulation, in nanoseconds.  Each host's clock has a rate of its own within the
bound.  The coordinator is linearizable; requests and answers are late or lost, and a request may
take effect long after its sender has died.  Registrations lie at times: they are hints.  Processes
are paused, killed and started again at any moment; frames and acknowledgements are late.
"""

from __future__ import annotations

import collections
import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from rnvm.group import events as ev
from rnvm.group.events import Copy, Seen
from rnvm.group.member import Member, Role, Times
from rnvm.group.serving import Serving
from rnvm.group.state import GroupState, Listed

MS = 1_000_000
S = 1000 * MS
DRIFT = 20_000  # millionths between two clocks: much more than real ones, so that it matters
GROUP = "a" * 32
LEASE = 2 * S


class Violation(AssertionError):
    """What must hold did not."""


def check(holds: bool, text: str) -> None:
    if not holds:
        raise Violation(text)


@dataclass
class Pool:
    """What survives the process: the pool of one member."""

    copy: Copy
    log: list[int] = field(default_factory=list)  # operations
    there: bool = True  # its file is at its path: not moved away
    opened: bool = False  # it was open as primary when its process ended


class Coordinator:
    """One state under compare-and-set, and registrations."""

    def __init__(self, sim: Simulation, first: GroupState) -> None:
        self.sim = sim
        self.ids = itertools.count(2)
        self.seen = Seen(1, 1, first)
        self.past: dict[object, Seen] = {}  # changes that were made, by (process, serial)
        self.registered: dict[int, Listed] = {}  # by process

    def change(self, key: object, old: Seen, new: GroupState) -> ev.Event | None:
        """Apply a change; the answer says what became of it, also at the second time."""
        if key in self.past:
            return ev.ChangeMade(0, self.past[key])
        if self.seen.token != old.token:
            return ev.ChangeRefused(0)
        check(new.epoch >= self.seen.state.epoch, "the epoch fell")
        check(len(new.in_sync) > 0, "nobody is in sync")
        GroupState(**vars(new))  # checks itself
        self.seen = self.past[key] = Seen(next(self.ids), self.seen.number + 1, new)
        self.sim.state_changed()
        return ev.ChangeMade(0, self.seen)


@dataclass
class Stream:
    """One mirror's place at its primary."""

    slot: int
    mirror: Process
    primary: Process
    level: bool = False
    broken: bool = False
    acked: int = 0  # as the mirror wrote it
    lost: bool = False  # as the primary's service thread found it


class Front:
    """What the back-end's process has in memory while it is primary; front-ends map it."""

    def __init__(self, process: Process, epoch: int, min_mirrors: int) -> None:
        self.process, self.epoch, self.min_mirrors = process, epoch, min_mirrors
        self.log = process.pool.log
        self.serving = process.sim.serving_class(S, DRIFT)
        self.lengths = {0: 0}  # of the log, by frame
        self.streams: dict[int, Stream] = {}
        self.asked: list[ev.Slots] = []
        self.required: frozenset[int] = frozenset()
        self.times: dict[int, int] = {}  # of publication, by frame
        self.ended = False  # sessions end visibly
        self.waiting: list[tuple[int, int]] = []  # (frame, operation) of replicated writes
        self.publish()

    def publish(self) -> None:
        number = self.serving.publish()
        self.lengths[number] = len(self.log)
        self.times[number] = self.process.sim.now

    def serves(self, until: int) -> bool:
        return self.process.host.clock() < until

    def frame_of_log(self) -> int:
        """The frame that has all of the log, perhaps the next one."""
        published = self.serving.published
        return published if self.lengths[published] == len(self.log) else published + 1


class Process:
    """A member's process: the state machine, and what stands for its driver."""

    def __init__(self, sim: Simulation, host: Host) -> None:
        self.sim, self.host, self.pool = sim, host, host.pool
        self.id = next(sim.ids)
        self.slots = itertools.count(1)
        self.alive = True
        self.paused_until = 0
        self.told: collections.deque[tuple[Front | None, ev.Event]] = collections.deque()
        self.told_at = 0
        self.front: Front | None = None
        self.opening: ev.Open | None = None  # of the pool that is open
        self.stream: Stream | None = None
        self.following: ev.Follow | None = None
        self.promised = 0
        self.proposals: dict[int, object] = {}
        self.machine = sim.member_class(self.pool.copy, host.clock(), sim.times)
        self.tell(self.machine.begin(host.clock()))
        self.tick()
        self.service()

    # Running

    def later(self, delay: int, act: Callable[[], None]) -> None:
        """Do something in this process later, unless it is dead by then; not while it is paused."""

        def run() -> None:
            if not self.alive:
                return
            if self.sim.now < self.paused_until:
                self.sim.at(min(self.paused_until, self.sim.now + 100 * MS), run)
                return
            act()

        self.sim.at(self.sim.now + delay, run)

    def event(self, event: ev.Event) -> None:
        if self.alive:
            self.tell(self.machine.take(event, self.host.clock()))

    def tell(self, actions: list[ev.Action]) -> None:
        for action in actions:
            if not self.alive:
                return
            if self.sim.random.random() < self.sim.crash_within:
                self.kill()
                return
            if getattr(self, "do_" + type(action).__name__.lower())(action) is False:
                return  # what follows relied on it

    def tick(self) -> None:
        self.event(ev.Tick())
        if self.stream is not None and not self.stream.broken:
            self.event(ev.Heard())
        self.later(self.sim.draw(40, 100), self.tick)

    def kill(self) -> None:
        """SIGKILL: the memory that front-ends mapped stays as it is."""
        self.alive = False
        self.pool.opened = self.front is not None
        for front in [self.front] if self.front else []:
            for stream in front.streams.values():
                stream.broken = True
        if self.stream is not None:
            self.stream.broken = True
        self.sim.at(
            self.sim.now + self.sim.draw(0, 2500),
            lambda: self.sim.coordinator.registered.pop(self.id, None),
        )

    # Actions

    def do_register(self, action: ev.Register) -> None:
        self.copy = action.copy  # one registration after the other: the last one counts

        def register() -> None:
            if self.alive:
                self.sim.coordinator.registered[self.id] = self.copy
                self.sim.hint()

        self.sim.at(self.sim.now + self.sim.draw(1, 50), register)

    def do_unregister(self, _: ev.Unregister) -> None:
        self.sim.coordinator.registered.pop(self.id, None)
        self.sim.hint()

    def do_read(self, action: ev.Read) -> None:
        delay, back = self.sim.network(self.host), self.sim.network(self.host)
        if delay is None or back is None:
            self.later(self.sim.draw(100, 1500), lambda: self.event(
                ev.ReadFailed(action.serial, "the coordinator does not answer")))  # fmt: skip
            return

        def read() -> None:
            # A linearizable read of the state, and a later one of the members, which are hints.
            seen = self.sim.coordinator.seen
            registered = sorted(self.sim.coordinator.registered.values())
            if self.sim.chaos and self.sim.random.random() < 0.1:
                registered = [each for each in registered if self.sim.random.random() < 0.5]
            answer = ev.StateRead(action.serial, seen, frozenset(registered))
            self.later(back, lambda: self.event(answer))

        self.sim.at(self.sim.now + delay, read)

    def do_change(self, action: ev.Change) -> None:
        known = self.proposals.setdefault(action.serial, (action.old.token, action.new))
        check(known == (action.old.token, action.new), "a change was sent again as another one")
        delay, back = self.sim.network(self.host), self.sim.network(self.host)

        def change() -> None:
            answer = self.sim.coordinator.change((self.id, action.serial), action.old, action.new)
            if back is not None:
                self.later(back, lambda: self.event(replace(answer, serial=action.serial)))

        if delay is not None:
            self.sim.at(self.sim.now + delay, change)
        if delay is None or back is None:
            if delay is None and self.sim.random.random() < 0.5:
                # It waits in the queue of a node that was cut off, and takes effect later.
                self.sim.at(self.sim.now + self.sim.draw(100, 6000), change)
            self.later(self.sim.draw(100, 1500), lambda: self.event(
                ev.ChangeUnknown(action.serial, "the coordinator does not answer")))  # fmt: skip

    def do_keep(self, action: ev.Keep) -> bool:
        if self.pool.copy.identity and not self.pool.there:
            self.event(ev.KeepFailed("there is no file", gone=True))
            return False
        if self.sim.chaos and self.sim.random.random() < self.sim.keep_fails:
            self.later(0, lambda: self.event(ev.KeepFailed("the file is in use", gone=False)))
            return False
        self.pool.copy = replace(self.pool.copy, epoch=action.epoch)
        return True

    def do_open(self, action: ev.Open) -> None:
        def opened() -> None:
            if self.sim.chaos and self.sim.random.random() < self.sim.open_fails:
                self.event(ev.OpenFailed("damaged"))
                return
            check(self.pool.there, "a file that was moved away was opened")
            self.sim.opened(self)
            self.pool.log.append(next(self.sim.operations))  # its own writes
            self.opening = action
            self.event(ev.Opened())

        self.later(self.sim.draw(5, 100), opened)

    def do_serve(self, _: ev.Serve) -> None:
        assert self.opening is not None
        if self.sim.chaos and self.sim.random.random() < self.sim.open_fails:
            self.opening = None
            failed = ev.OpenFailed("no thread can be started")
            self.later(self.sim.draw(5, 1000), lambda: self.event(failed))  # it closes the pool
            return
        self.sim.serving(self, self.opening.epoch)
        self.front = self.sim.front_class(self, self.opening.epoch, self.opening.min_mirrors)
        self.sim.fronts.append(self.front)
        self.later(0, lambda: self.event(ev.Served()))

    def do_slots(self, action: ev.Slots) -> None:
        if self.front is not None:
            self.front.asked.append(action)

    def do_drop(self, action: ev.Drop) -> None:
        if self.front is not None and action.slot in self.front.streams:
            self.end_stream(self.front, self.front.streams[action.slot])

    def end_stream(self, front: Front, stream: Stream) -> None:
        front.streams.pop(stream.slot, None)
        stream.broken = True

    def do_stop(self, _: ev.Stop) -> None:
        front = self.front

        def stopped() -> None:
            if front is not None:
                front.ended = True
                for stream in list(front.streams.values()):
                    self.end_stream(front, stream)
            self.front = self.opening = None
            self.pool.log = list(self.pool.log)  # another image than the one that was mapped
            self.event(ev.Stopped())

        self.later(self.sim.draw(1, 100), stopped)

    def do_unfollow(self, _: ev.Unfollow) -> None:
        if self.stream is not None:
            self.stream.broken = True
        self.stream = self.following = None
        self.later(self.sim.draw(0, 20), lambda: self.event(ev.Unfollowed(self.promised)))

    def do_follow(self, action: ev.Follow) -> None:
        self.following = action
        self.later(self.sim.draw(1, 50), lambda: self.connect(action))

    # A mirror

    def connect(self, action: ev.Follow) -> None:
        if self.following is not action:
            return
        primary = self.sim.process_of(action)
        if (
            primary is None
            or not self.sim.connected(self.host, primary.host)
            or action.resume  # never possible: each connection begins with a comparison
        ):
            self.later(
                self.sim.draw(20, 200),
                lambda: self.following is action and self.event(ev.FollowEnded("no stream")),
            )
            return
        front = primary.front
        assert front is not None
        self.stream = Stream(next(primary.slots), self, primary)
        front.streams[self.stream.slot] = self.stream
        self.erase()
        self.later(self.sim.draw(20, 800), lambda: self.copied(action, front))

    def erase(self) -> None:
        # The state that it read last does not list it; a join under way may do so afterwards.
        seen = self.machine.seen
        check(
            not self.pool.copy.identity
            or seen is None
            or self.pool.copy.listed not in seen.state.in_sync,
            "a listed copy was overwritten",
        )
        self.pool.copy = replace(self.pool.copy, identity="")
        self.pool.log = []
        self.pool.there = True  # a new file
        self.event(ev.CopyChanged(""))

    def copied(self, action: ev.Follow, front: Front) -> None:
        stream = self.stream
        if self.following is not action or stream is None or self.lost(stream):
            return
        published = front.serving.published
        self.take_frame(front, published)
        identity = f"{self.sim.random.getrandbits(128):032x}"
        self.pool.copy = replace(self.pool.copy, identity=identity)
        self.event(ev.CopyChanged(identity))
        if not self.alive or self.following is not action:
            return
        stream.level, stream.acked = True, published
        primary, slot, listed = stream.primary, stream.slot, self.pool.copy.listed
        primary.later(self.sim.draw(1, 30), lambda: primary.level(front, slot, listed))
        self.follow(action, front)

    def lost(self, stream: Stream) -> bool:
        if stream.broken or not self.sim.connected(self.host, stream.primary.host):
            stream.broken = True
            following = self.following
            self.later(
                self.sim.draw(1, 300),
                lambda: self.following is following and self.event(ev.FollowEnded("lost")),
            )
            return True
        return False

    def take_frame(self, front: Front, number: int) -> None:
        self.pool.log = front.log[: front.lengths[number]]

    def follow(self, action: ev.Follow, front: Front) -> None:
        """READ; then note the promise, apply, and make durable; then acknowledge."""
        stream = self.stream
        if self.following is not action or stream is None or self.lost(stream):
            return
        number = front.serving.published
        sim = self.sim

        def apply() -> None:
            if self.following is action:
                sim.promise(self, self.host.clock())
                self.take_frame(front, number)
                self.later(sim.draw(0, 40), acknowledge)

        def acknowledge() -> None:
            if self.following is action:
                # The write of the acknowledgement may arrive after the mirror has died.
                sim.at(sim.now + sim.draw(0, 30), lambda: written(number))
                self.later(sim.draw(0, 120), lambda: self.follow(action, front))

        def written(number: int) -> None:
            if not stream.broken:
                stream.acked = max(stream.acked, number)

        self.later(sim.draw(0, 40), apply)

    # A primary

    def level(self, front: Front, slot: int, listed: Listed) -> None:
        if self.front is front and slot in front.streams and not front.streams[slot].lost:
            self.to_machine(ev.MirrorLevel(slot, listed))

    def service(self) -> None:
        """One turn of the service thread.  The state machine's thread is another one."""
        front = self.front
        if front is not None:
            self.serve(front)
        self.later(self.sim.draw(5, 40), self.service)

    def serve(self, front: Front) -> None:
        sim, serving, now = self.sim, front.serving, self.host.clock()
        for slots in front.asked:
            frame = serving.require(slots.required, now, in_sync=len(slots.in_sync))
            front.required = slots.required
            self.to_machine(ev.InForce(slots.serial, frame))
        front.asked.clear()
        if front.lengths[serving.published] != len(front.log) or (
            sim.now - front.times[serving.published] > 100 * MS
        ):
            front.publish()
        for stream in list(front.streams.values()):
            acked = stream.acked
            serving.ack(stream.slot, acked, now)
            late = acked < serving.published and sim.now - front.times[acked + 1] > S
            if not stream.lost and (stream.broken or (stream.level and late)):
                stream.lost = stream.broken = True
                self.to_machine(ev.MirrorLost(stream.slot))
            if stream.slot in front.required:
                self.to_machine(ev.Acked(stream.slot, acked))
        before = serving.until
        serving.poll(now, min_mirrors=front.min_mirrors)
        check(serving.until >= before, "until fell")
        for frame, operation in list(front.waiting):
            if serving.acked >= frame:
                front.waiting.remove((frame, operation))
                sim.acknowledged(front, operation)

    def to_machine(self, event: ev.Event) -> None:
        """In the order in which they are given."""
        front, sim = self.front, self.sim
        self.told_at = max(self.told_at, sim.now + sim.draw(0, 60))
        sim.at(self.told_at, self.deliver)
        self.told.append((front, event))

    def deliver(self) -> None:
        if not self.alive:
            return
        if self.sim.now < self.paused_until:
            self.sim.at(min(self.paused_until, self.sim.now + 100 * MS), self.deliver)
            return
        front, event = self.told.popleft()
        if self.front is front:
            self.event(event)


class Host:
    """A machine with a clock, a pool and at most one process."""

    def __init__(self, sim: Simulation, name: str, copy: Copy) -> None:
        self.sim, self.name, self.pool = sim, name, Pool(copy)
        self.rate = 1 + sim.random.choice((-1, 0, 1)) * DRIFT / 2 / 1_000_000
        self.offset = sim.random.randrange(1000 * S)
        self.process: Process | None = None
        self.cut = False  # from the coordinator

    def clock(self) -> int:
        return self.offset + int(self.sim.now * self.rate)

    def start(self) -> None:
        if self.process is None or not self.process.alive:
            self.process = self.sim.process_class(self.sim, self)


class Simulation:
    """Some seconds in the life of a group.

    Args:
        seed: of everything random.
        members: how many.
    """

    member_class = Member
    serving_class = Serving
    front_class = Front
    process_class = Process
    crash_within = 0.0

    def __init__(self, seed: int, members: int = 3) -> None:
        self.random = random.Random(seed)
        self.now = 0
        self.heap: list[tuple[int, int, Callable[[], None]]] = []
        self.order = itertools.count()
        self.operations = itertools.count(1)
        self.ids = itertools.count(1)
        self.quick = self.random.random() < 0.5
        self.calm = self.random.choice((0.5, 2, 5))  # seconds between two faults, at most
        short = self.random.choice((1, 10))
        self.times = Times(patience=S // short, absence=S // 2 // short)
        self.chaos = True
        self.open_fails = self.random.choice((0, 0, 0.2))
        self.keep_fails = self.random.choice((0, 0, 0.1))
        self.slow = self.random.choice((1, 1, 4))
        self.loss = self.random.choice((0.0, 0.1, 0.3))
        self.fronts: list[Front] = []
        self.acked: set[int] = set()  # operations acknowledged as replicated
        self.losses = 0  # of media
        self.answered = 0  # the highest epoch that was served
        self.counts = dict.fromkeys(("acked", "read", "opened", "served", "lapsed"), 0)
        names = "abcde"[:members]
        self.hosts = {
            name: Host(self, name, Copy(GROUP, name, "1" * 32 if name == "a" else "", 1))
            for name in names
        }
        first = GroupState(GROUP, 1, None, (Listed("a", "1" * 32),), self.random.choice((0, 0, 1)))
        self.coordinator = Coordinator(self, first)
        self.cuts: set[frozenset[str]] = set()
        self.observed: list[int] = []  # the longest list that a replicated reader has seen

    # Time

    def at(self, time: int, act: Callable[[], None]) -> None:
        heapq.heappush(self.heap, (max(time, self.now), next(self.order), act))

    def draw(self, low: int, high: int) -> int:
        """Milliseconds; now and then much more than `high`, while there is chaos."""
        if self.quick and high <= 100:
            low, high = low // 10, high // 4
        if self.chaos and self.random.random() < 0.02:
            high = max(high, min(high * 5 * self.slow, 5000))
        return self.random.randrange(low * MS, high * MS + 1)

    def run(self, seconds: float) -> None:
        end = self.now + int(seconds * S)
        for turns in itertools.count():
            if not self.heap or self.heap[0][0] > end:
                break
            check(turns < 20_000 * seconds, "more events than time allows")
            self.now, _, act = heapq.heappop(self.heap)
            act()
        self.now = end

    # Networks

    def network(self, host: Host) -> int | None:
        if self.chaos and (host.cut or self.random.random() < self.loss):
            return None
        return self.draw(1, 30)

    def connected(self, one: Host, other: Host) -> bool:
        return frozenset((one.name, other.name)) not in self.cuts

    def process_of(self, follow: ev.Follow) -> Process | None:
        """The process at the address of the primary, if it is open in the epoch to follow."""
        process = self.hosts[follow.primary.member].process
        if process is None or not process.alive or process.front is None:
            return None
        return process if process.front.epoch == follow.epoch else None

    def hint(self) -> None:
        for host in self.hosts.values():
            process = host.process
            if process is not None and process.alive and self.random.random() < 0.8:
                process.later(self.draw(1, 50), lambda p=process: p.event(ev.Hint()))

    # A mirror's promise

    def promise(self, process: Process, now: int) -> None:
        process.promised = max(process.promised, now + self.times.promise)

    # What must hold

    def state_changed(self) -> None:
        in_sync = self.coordinator.seen.state.in_sync
        pools = {each: self.hosts[each.member].pool for each in in_sync}
        check(
            self.losses > 0
            or any(
                pools[each].copy.identity == each.identity and pools[each].there for each in pools
            ),
            f"no listed copy is there: {in_sync}",
        )
        for each in self.coordinator.seen.state.in_sync:
            pool = self.hosts[each.member].pool
            if pool.copy.identity == each.identity:
                self.must_have(pool, f"{each.member}, listed in {self.coordinator.seen.state}")
        self.hint()

    def must_have(self, pool: Pool, what: str) -> None:
        missing = self.acked - set(pool.log)
        check(not missing, f"{what}, lacks acknowledged operations {sorted(missing)}")

    def acknowledged(self, front: Front, operation: int) -> None:
        self.acked.add(operation)
        self.counts["acked"] += 1
        state = self.coordinator.seen.state
        copies = sum(operation in host.pool.log for host in self.hosts.values())
        check(copies > state.min_mirrors or self.losses > 0, "fewer mirrors than asked for have it")
        for each in state.in_sync:
            pool = self.hosts[each.member].pool
            if pool.copy.identity == each.identity:
                check(operation in pool.log, f"{operation} was acknowledged without {each.member}")

    def opened(self, process: Process) -> None:
        check(process.pool.copy.identity != "", "a copy without identity was opened")
        self.counts["opened"] += 1

    def serving(self, process: Process, epoch: int) -> None:
        check(epoch > self.answered, f"epoch {epoch} was served after {self.answered}")
        self.answered = epoch
        self.counts["served"] += 1
        self.must_have(process.pool, f"{process.host.name}, served in epoch {epoch}")
        log = process.pool.log
        check(log[: len(self.observed)] == self.observed, "what a reader has seen is gone")

    def answer(self, front: Front) -> None:
        """A read, or an acknowledgement as persistent, is answered by this primary now."""
        check(
            front.epoch >= self.answered,
            f"epoch {front.epoch} answered when {self.answered} was served",
        )

    # Clients, on their primary's host: they go on while its process is paused or dead

    def client(self) -> None:
        live = [front for front in self.fronts if not front.ended][-4:]
        if live:
            front = self.random.choice(live)
            act = self.random.random()
            if act < 0.4:
                self.write(front)
            elif act < 0.5:
                self.write_persistent(front)
            else:
                self.read(front, replicated=act < 0.8)
        self.at(self.now + self.random.randrange(20 * MS), self.client)

    def write(self, front: Front) -> None:
        process = front.process
        if not process.alive or self.now < process.paused_until:
            return
        operation = next(self.operations)
        front.log.append(operation)
        front.waiting.append((front.frame_of_log(), operation))

    def write_persistent(self, front: Front) -> None:
        process = front.process
        if not process.alive or self.now < process.paused_until:
            return
        front.log.append(next(self.operations))

        def flushed() -> None:
            if not front.ended and front.serves(front.serving.until):
                self.answer(front)

        self.at(self.now + self.draw(0, 20), flushed)

    def read(self, front: Front, *, replicated: bool) -> None:
        """Load; wait until it is replicated; check the word that was read at the beginning."""
        acked, before = set(self.acked), len(self.observed)
        known = front.serving.until  # a remote reader's
        length, frame = len(front.log), front.frame_of_log()
        seen = front.log[:length]
        near = self.random.random() < 0.5
        tries = itertools.count()

        def finish() -> None:
            if front.ended or next(tries) > 20:
                return
            until = front.serving.until if near else known
            if not front.serves(until):
                self.counts["lapsed"] += 1
                return
            if replicated and front.serving.acked < frame:
                self.at(self.now + self.draw(1, 40), finish)
                return
            self.answer(front)
            self.counts["read"] += 1
            if replicated:
                check(
                    seen[:before] == self.observed[:before],
                    "a reader saw less than an earlier one",
                )
                if len(seen) > len(self.observed):
                    check(seen[: len(self.observed)] == self.observed, "two histories were seen")
                    self.observed = seen
                late = acked - set(seen)
                check(not late, f"a reader did not see {late}, acknowledged before it began")

        self.at(self.now + self.draw(0, 20), finish)

    # What goes wrong

    def nemesis(self) -> None:
        if not self.chaos:
            return
        host = self.random.choice(list(self.hosts.values()))
        primary = self.coordinator.seen.state.primary
        if primary is not None and self.random.random() < 0.5:
            host = self.hosts[primary]
        process = host.process
        if process is None or not process.alive:
            host.start()
        else:
            kinds = ("kill", "pause", "cut", "cut_between", "lapse", "fail", "lose", "hesitate")
            (kind,) = self.random.choices(kinds, (14, 20, 12, 20, 10, 8, 3, 20))
            getattr(self, kind)(host, process)
        self.at(self.now + self.random.randrange(int(self.calm * S)), self.nemesis)

    def hesitate(self, _: Host, process: Process) -> None:
        """Pause a primary or a winner so long that a mirror is about to be elected, or to open."""
        winner = process.machine.role in (Role.ELECTED, Role.OPENING, Role.CLAIMING)
        if process.front is not None or winner:
            lag = self.times.patience + self.times.absence + self.random.randrange(600 * MS)
            process.paused_until = self.now + lag
            self.lapsed(process, self.now + lag)

    def kill(self, host: Host, process: Process) -> None:
        process.kill()
        self.at(self.now + self.draw(1, self.random.choice((500, 6000))), host.start)

    def pause(self, _: Host, process: Process) -> None:
        process.paused_until = self.now + self.draw(10, self.random.choice((1000, 5000)))
        if process.paused_until - self.now > LEASE:
            self.at(self.now + LEASE, lambda: self.lapsed(process, process.paused_until))

    def cut(self, host: Host, process: Process) -> None:
        """Cut a host from the coordinator."""
        host.cut = True
        until = self.now + self.draw(100, 5000)
        self.at(until, lambda: setattr(host, "cut", False))
        if until - self.now > LEASE:
            self.at(self.now + LEASE, lambda: self.lapsed(process, until))

    def cut_between(self, host: Host, _: Process) -> None:
        other = self.random.choice([h for h in self.hosts.values() if h is not host])
        cut = frozenset((host.name, other.name))
        self.cuts.add(cut)
        self.at(self.now + self.draw(50, 4000), lambda: self.cuts.discard(cut))

    def lapse(self, _: Host, process: Process) -> None:
        self.lapsed(process, self.now + self.draw(100, 2000))

    def fail(self, host: Host, process: Process) -> None:
        process.event(ev.MediumFailed("the medium failed"))
        self.at(self.now + self.draw(500, 3000), lambda: (process.kill(), host.start()))

    def lose(self, host: Host, process: Process) -> None:
        """Its medium is replaced by an empty one, if another copy is listed."""
        state = self.coordinator.seen.state
        others = [each for each in state.in_sync if each.member != host.name]
        if any(self.hosts[o.member].pool.copy.identity == o.identity for o in others):
            process.kill()
            self.losses += 1
            host.pool = Pool(Copy(GROUP, host.name, "", 1))
            self.at(self.now + self.draw(1, 3000), host.start)

    def lapsed(self, process: Process, until: int) -> None:
        """The lease of a living process has ended, until it has noticed."""
        if self.coordinator.registered.pop(process.id, None) is not None:
            self.hint()
            self.at(until + self.draw(0, 300), lambda: self.again(process))

    def again(self, process: Process) -> None:
        if process.alive and process.machine.role is not Role.FAILED:
            self.coordinator.registered[process.id] = process.machine.copy.listed
            self.hint()

    # Lives

    def live(self, seconds: float) -> None:
        """Run with chaos."""
        for host in self.hosts.values():
            self.at(self.draw(0, 500), host.start)
        self.at(100 * MS, self.client)
        self.at(2 * S, self.nemesis)
        self.run(seconds)

    def heal(self, seconds: float) -> None:
        """Everything works again: all become members in sync, and work goes on."""
        self.chaos = False
        self.cuts.clear()
        for host in self.hosts.values():
            host.cut = False
            process = host.process
            if process is not None and process.alive:
                process.paused_until = 0
                if process.machine.role in (Role.FAILED, Role.FAILING):
                    process.kill()
            host.start()
        self.run(seconds)
        state = self.coordinator.seen.state
        there = [self.hosts[e.member].pool.copy.identity == e.identity for e in state.in_sync]
        if not any(there):  # all media of listed copies were replaced: only `force` helps
            return
        state = self.coordinator.seen.state
        roles = {name: self.role(name) for name in self.hosts}
        trouble = {name: host.process.machine.trouble for name, host in self.hosts.items()}
        check(list(roles.values()).count(Role.PRIMARY) == 1, f"{roles} {trouble} {state}")
        check(len(state.in_sync) == len(self.hosts), f"{roles} {trouble} {state}")
        before = self.counts["acked"]
        self.run(3)
        check(self.counts["acked"] > before, f"nothing is acknowledged: {roles} {state}")

    def role(self, name: str) -> Role:
        process = self.hosts[name].process
        assert process is not None
        return process.machine.role
