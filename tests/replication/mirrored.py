"""Random histories of a pool that is mirrored, and crashes of the mirrors at each of their events.

Primary and mirrors run in one thread, step by step.  The number of events of the primary's crash
model is the time of all of them: each step of a mirror adds a mark there.  An operation counts as
acknowledged (promise `replicated`) when all mirrors that counted had acknowledged the frame that
was published last when the back-end answered; so does what a reader has seen.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from rfp.errors import NotAPool, PoolDamaged, PoolRefused
from rnvm.media import identity
from rnvm.media.file import FileMedium
from rnvm.media.medium import Medium
from rnvm.pool.pool import Pool
from rnvm.sizes import Sizes
from rnvm.testing import log_driver
from rnvm.testing.crash_model import Crashes, Model
from rnvm.testing.recording_file import RecordingFile
from rnvm.testing.replication_driver import Follower, Geometry, Link, Replication

from ..pool import history
from ..pool.disk import Disk
from ..pool.history import GRANTED, NEVER, History, Structure, Wrong, length_of

SIZES = Sizes(
    block=512,
    names=4,
    sessions=2,
    operation_ring=4096,
    memory_ring=4096,
    group_map=512,
    wal=8 * 4096,
)
AREA = (SIZES.wal_at, SIZES.wal_at + SIZES.wal)
CHUNK = 1 << 15
KINDS = ["words", "lines", "sectors", "file"]


class Mirror:
    """A mirror of a history's pool, and the time of each event of its medium.

    Args:
        past: The history.
        kind: That of its crash model, or "file".
        content: What its medium contains before the catch-up.
    """

    def __init__(self, past: MirroredHistory, kind: str, content: bytes) -> None:
        self.past = past
        self.kind = kind
        self.medium = self.open(content)
        self.begins = self.replicated_parts(self.medium)
        self.link: Link = past.replication.add()
        self.follower = Follower(self.medium, self.link, past.parts)
        self.times: list[int] = []
        self.whole = NEVER  # number of its events when it was marked as whole
        self.level = NEVER  # the time from which it must hold what is acknowledged
        self.ended = NEVER
        self.chunks = list(range(0, past.length, CHUNK))
        self.follower.begin_copy()
        self.touch()

    def open(self, content: bytes) -> Medium:
        if self.kind == "file":
            self.tape = RecordingFile(content, AREA)
            return FileMedium(len(content), file=self.tape)
        return Model(len(content), self.kind, content)

    @property
    def events(self) -> int:
        medium = self.medium
        return len(self.tape.events) if isinstance(medium, FileMedium) else medium.events_so_far

    def touch(self) -> None:
        """Give the events since the last call the present time, and let time go on."""
        self.times += [self.past.now] * (self.events - len(self.times))
        self.past.model.mark()

    def follow(self, most: int) -> None:
        self.follower.step(most)
        self.touch()

    def copy(self) -> None:
        """Take the next step of the catch-up: frames first, then a chunk that is READ slowly."""
        past = self.past
        if not self.chunks:
            self.follow(1 << 30)
            self.follower.end_copy(past.rng.randbytes(16))
            self.touch()
            self.whole = self.events
            self.follower.acknowledge()
            past.poll()
            past.replication.set_state(self.link.slot, "joining")
            past.poll()
            return
        at = self.chunks.pop(0)
        if not past.stale_chunks:
            self.follow(1 << 30)
        # The primary works on while the chunk is READ.
        data, end = b"", min(at + CHUNK, past.length)
        while at + len(data) < end:
            n = min(past.rng.choice([64, 512, 4096, CHUNK]), end - at - len(data))
            data += past.model.read(at + len(data), n)
            if past.rng.random() < 0.3:
                past.work()
        if past.stale_chunks:
            self.follow(1 << 30)
        self.follower.copy(data, at)
        self.touch()

    # --- Crashes

    def images(self, points: list[int], seed: int) -> list[tuple[int, bytes]]:
        """Return what crashes after this many events leave."""
        if self.kind == "file":
            disk, chance = Disk(self.tape, AREA), random.Random(seed)
            found = []
            for point in points:
                disk.advance(point)
                found.append((point, disk.crash(chance)))
            return found
        cursor = Crashes(self.medium)
        return [(point, cursor.at_point(point, seed)) for point in points]

    def crashes(self, seed: int, most: int | None = None) -> int:
        """Open the mirror after crashes at its events, and compare it with the history.

        Args:
            most: Number of points; default: all.
        """
        every = list(range(len(self.times) + 1))
        points = every if most is None or most >= len(every) else sorted(
            random.Random(seed).sample(every, most)
        )  # fmt: skip
        for point, image in self.images(points, seed):
            # The latest moment of this crash: its next event has not happened.
            time = self.times[point] if point < len(self.times) else min(self.past.now, self.ended)
            where = f"seed {seed}, crash of a mirror ({self.kind}) after event {point}: "
            if time <= self.level:
                self.verify_copy(image, point, where)
            else:
                try:
                    self.past.verify(self.open_again(image), time, seed, image)
                except Wrong as error:
                    raise Wrong(where + str(error)) from None
        return len(points)

    def open_again(self, image: bytes) -> Medium:
        if self.kind == "file":
            return FileMedium(len(image), file=RecordingFile(image, AREA))
        return Model(len(image), self.kind, image)

    def verify_copy(self, image: bytes, point: int, where: str) -> None:
        """A copy that is not level yet is refused, or whole."""
        medium = self.open_again(image)
        found = self.replicated_parts(medium)
        state = identity.read(medium)
        try:
            pool = Pool(medium)
        except (NotAPool, PoolRefused) as error:
            if isinstance(error, PoolDamaged) or point >= self.whole:
                raise Wrong(where + f"it cannot be opened: {error!r}") from None
            return
        # Before its mark was durable nothing had changed; after the last one it is whole.
        if found != self.begins and (state is None or state["state"] != "whole"):
            raise Wrong(where + "a copy in catch-up was opened")
        pool.close()

    def replicated_parts(self, medium: Medium) -> list[bytes]:
        runs = self.past.parts.replicated(8192, self.past.length)
        return [medium.read(at, end - at) for at, end in runs]


class MirroredHistory(History):
    """A history whose pool has mirrors.

    Args:
        kinds: Those of the mirrors' media.
        group: Joining and leaving mirrors are moved as a group does: after some time.
        stale_chunks: Plant a catch-up that READs a chunk before it applies the frames.
    """

    replication: Replication

    def __init__(
        self,
        rng: random.Random,
        kind: str,
        kinds: list[str],
        group: bool = False,
        stale_chunks: bool = False,
    ) -> None:
        self.stale_chunks = stale_chunks
        self.published: list[tuple[int, int]] = []
        self.acked: list[tuple[int, int]] = []
        self.mirrors: list[Mirror] = []
        # (time, structure, transaction, frame) of what a reader saw
        self.seen: list[tuple[int, Structure, int, int]] = []
        self.group = group
        self.releases: dict[int, int] = {}  # local ones, of ID of a session
        super().__init__(rng, kind, sizes=SIZES)
        self.content = self.model.read(0, self.length)
        self.parts = Geometry(self.content, self.length)
        self.replication = Replication(self.pool, opening=rng.randbytes(16), policy=group)
        self.steps_, self.weights = zip(*super().choices(), strict=True)
        for _ in range(20):
            self.work()
        for each in kinds:
            self.mirror(each)

    @property
    def now(self) -> int:
        time = self.model.events_so_far
        replication = getattr(self, "replication", None)
        if replication and (not self.published or self.published[-1][1] != replication.published):
            self.published.append((time, replication.published))
        return time

    def mirror(self, kind: str) -> None:
        old = self.rng.choice([self.content, self.model.read(0, self.length)])
        if self.rng.random() < 0.5:
            old = bytes(self.length)
        self.mirrors.append(Mirror(self, kind, old))

    # --- Steps

    def choices(self) -> list[tuple[Callable[[], None], int]]:
        return [(self.work, 56), (self.follow, 30), (self.look, 8), (self.restart, 1)]

    def work(self) -> None:
        self.rng.choices(self.steps_, self.weights)[0]()

    def poll(self) -> None:
        """Read acknowledgements, and remember when which frame was acknowledged by all."""
        self.replication.poll()
        self.model.mark()
        if not self.acked or self.acked[-1][1] != self.replication.acked:
            self.acked.append((self.now, self.replication.acked))
        for mirror in self.mirrors:
            state = self.replication.slot(mirror.link.slot)["state"]
            if mirror.level == NEVER and mirror.ended == NEVER and (
                state == "in sync" or (state == "joining" and self.group)
            ):  # fmt: skip
                mirror.level = self.now

    def living_mirrors(self) -> list[Mirror]:
        return [mirror for mirror in self.mirrors if mirror.ended == NEVER]

    def follow(self) -> None:
        mirror = self.rng.choice(self.living_mirrors())
        if mirror.whole == NEVER:
            mirror.copy()
            return
        mirror.follow(self.rng.randint(1, 4))
        if self.rng.random() < 0.8:
            mirror.follower.acknowledge()
        self.poll()
        slot = mirror.link.slot
        if self.replication.slot(slot)["state"] == "joining" and self.rng.random() < 0.05:
            self.replication.set_state(slot, "in sync")

    def look(self) -> None:
        """A reader of promise `replicated` sees the state that is applied."""
        for structure in self.living():
            if structure.acknowledged != NEVER and structure.id:
                number = log_driver.progress(self.pool, structure.name)[1]
                # It loads the frame word last, and answers when that frame is replicated.
                frame = self.replication.frame_word(structure.name)
                self.seen.append((self.now, structure, number, frame))

    def restart(self) -> None:
        """A mirror's machine stops; its medium comes back, and is compared again."""
        mirror = self.rng.choice(self.living_mirrors())
        if mirror.whole == NEVER:
            return
        image = mirror.images([mirror.events], self.rng.randrange(1 << 30))[0][1]
        mirror.ended = self.now
        self.replication.remove(mirror.link.slot)
        self.poll()
        self.mirrors.append(Mirror(self, mirror.kind, image))

    # --- What was acknowledged, and when

    def end(self) -> None:
        """Turn the times of local acknowledgements into those of replicated ones."""
        self.work()
        self.model.mark()
        _ = self.now
        for structure in self.structures:
            structure.acknowledged = self.replicated(structure.acknowledged)
            structure.dropped = self.replicated(structure.dropped)
            structure.durable = [(self.replicated(t), n) for t, n in structure.durable]
            structure.durable += [
                (self.answered(t, frame), n) for t, each, n, frame in self.seen if each is structure
            ]
            structure.durable_operations = [
                (self.replicated(t), n) for t, n in structure.durable_operations
            ]
        for session in self.sessions:
            session.acknowledged = self.replicated(session.acknowledged)
            self.releases[id(session)] = session.released
            session.released = self.replicated(session.released)
            for grant in session.grants:
                grant.acknowledged = self.replicated(grant.acknowledged)

    def compare_session(self, pool, point, session, owners, expected, maybe) -> None:
        if self.releases.get(id(session), NEVER) <= point < session.released:
            # The mirror may not have seen that it ended; its successor is checked.
            maybe.update(
                (log_driver.block_of(pool, grant.address + 512 * i), GRANTED | session.index)
                for grant in session.grants
                for i in range(grant.count)
            )
            return
        super().compare_session(pool, point, session, owners, expected, maybe)

    def replicated(self, time: int) -> int:
        if time == NEVER:
            return NEVER
        return self.answered(time, next((n for t, n in reversed(self.published) if t <= time), 0))

    def answered(self, time: int, number: int) -> int:
        """Return when what was known at this time may be answered: if this frame is replicated."""
        if not number or any(t <= time and n >= number for t, n in self.acked):
            return time
        return next((t for t, n in self.acked if n >= number and t >= time), NEVER)


def run(
    seed: int,
    kind: str = "words",
    kinds: list[str] | None = None,
    steps: int = 250,
    most: int | None = 150,
    **options: bool,
) -> int:
    """Run a history, then crash its mirrors; return the number of crashes."""
    past = MirroredHistory(random.Random(seed), kind, kinds or ["words"], **options)
    past.run(steps)
    past.end()
    return sum(mirror.crashes(seed, most) for mirror in past.mirrors)


__all__ = ["KINDS", "SIZES", "Mirror", "MirroredHistory", "history", "length_of", "run"]
