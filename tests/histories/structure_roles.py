"""The processes of a run over structures: a back-end, workers that record calls, other load."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from structure_kinds import MAPPINGS, NAMES, ORDERED, VERSIONED

import rnvm
import structures
from rfp.errors import (
    ConnectionFailed,
    DeadlineExceeded,
    Empty,
    LeaseEnded,
    OutcomeUnknown,
    ReadConflict,
    RfpError,
    SnapshotTooOld,
    TooLarge,
)

from .gate import SECONDS, Gate
from .group_model import DONE, NOTHING
from .history import UNKNOWN
from .recorder import NOT, Recorder, name_of, value_of
from .roles import draw, retry, serve

LEASE_SECONDS = 600.0  # of a reservation: it does not end during a run
DELAYS_SECONDS = (1e-9, 1e-4, 2e-3)


def kind_of(name: str) -> str:
    return name.rstrip("0123456789")


def is_mapping(name: str) -> bool:
    return NAMES[kind_of(name)] in MAPPINGS


def is_ordered(name: str) -> bool:
    return NAMES[kind_of(name)] in ORDERED


class Same:
    """A codec, so that calls decode what they will remove, and then remove it."""

    name = "same"

    def encode(self, value: bytes) -> bytes:
        return value

    def decode(self, data: bytes) -> bytes:
        return data


class Aborted(Exception):
    """Aborts a transaction on purpose."""


def classes(error: Exception) -> Any:
    """Return the answer that an exception means (docs/errors.md); None: it must not be raised."""
    if isinstance(error, (Empty, LeaseEnded, KeyError)):
        return NOTHING
    if isinstance(error, (OutcomeUnknown, DeadlineExceeded)):
        return UNKNOWN
    if isinstance(error, (ConnectionFailed, TooLarge, ReadConflict, SnapshotTooOld)):
        return NOT
    return None


def backend(path: str, address: str, record: str, size: str, lease: float) -> None:
    serve(
        record,
        lambda: rnvm.Backend(path, size=size, assume_persistent=True, address=address, lease=lease),
    )


def connect(
    address: str, names: list[str], options: dict[str, Any], form: dict[str, Any] | None = None
) -> tuple[rnvm.FrontEnd, dict[str, Any]]:
    """Connect and open the structures, also while a back-end restarts.

    Args:
        form: partitions; codec: whether there is one; dead: {queue: its dead-letter queue};
            deliveries.
    """
    form = form or {}

    def opened(fe: rnvm.FrontEnd, name: str) -> Any:
        more: dict[str, Any] = {"codec": Same() if form.get("codec") else None}
        if is_mapping(name):
            more["partitions"] = form.get("partitions")
        elif name in form.get("dead", {}):
            more |= {"dead_letter": form["dead"][name], "max_deliveries": form["deliveries"]}
        return NAMES[kind_of(name)](fe, name, **more)

    def attempt() -> tuple[rnvm.FrontEnd, dict[str, Any]]:
        fe = rnvm.connect(address, **options)
        try:
            return fe, {name: opened(fe, name) for name in sorted(names, reverse=True)}
        except (ConnectionFailed, DeadlineExceeded):
            fe.close()
            raise

    return retry(attempt, ConnectionFailed, DeadlineExceeded)


class Worker:
    """A process that draws its calls from its own seed, independently of the answers."""

    def __init__(
        self,
        record: str,
        names: list[str],
        caller: str,
        seed: str,
        mix: dict[str, Any],
        sizes: list[int],
    ) -> None:
        self.recorder = Recorder(record)
        self.names, self.caller, self.sizes, self.mix = names, caller, sizes, mix
        self.rng = random.Random(seed)
        self.count = 0
        self.tokens: dict[str, list[str]] = {name: [] for name in names}
        self.fe: Any = None
        self.logged = True  # operations are: without, each of a batch writes its changes
        self.objects: dict[str, Any] = {}
        self.failure: Exception | None = None
        self.planted = random.Random(f"{seed} planted")  # draws the planted faults
        self.last: dict[tuple[str, str], str] = {}

    def new(self) -> str:
        self.count += 1
        return f"{self.caller}-{self.count}"

    def classes(self, error: Exception) -> Any:
        answer = classes(error)
        if answer in (UNKNOWN, NOT):
            self.failure = error
        return answer

    def decode(self, value: bytes) -> str:
        return name_of(value, self.sizes)

    def one(self, name: str) -> Any:
        """Do one drawn call of the structure; the draws do not depend on any answer."""
        sort = "ordered" if is_ordered(name) else "mapping" if is_mapping(name) else kind_of(name)
        call = draw(self.rng, self.mix[sort])
        key = f"k{self.rng.randrange(self.mix['keys'])}"
        return self.act(name, call, key, self.new())

    def act(self, name: str, call: str, key: str, value: str) -> Any:
        s = self.objects[name]
        raw = value_of(value, self.sizes)
        decode = self.decode
        arguments: tuple[Any, ...] = (name,)
        if call in ("ack", "nack", "extend"):
            if not self.tokens[name]:
                call = "reserve"
            else:
                token = self.tokens[name].pop(0)
                if call == "extend":
                    self.tokens[name].append(token)
                return self.recorder.call(
                    call,
                    (name, token),
                    lambda: getattr(s, call)(bytes.fromhex(token)) or DONE,
                    self.classes,
                )
        calls = {
            "put": lambda: s.put(raw),
            "later": lambda: s.put(raw, delay=DELAYS_SECONDS[self.count % len(DELAYS_SECONDS)]),
            "drain": lambda: decode(s.get()),
            "push": lambda: s.push(raw),
            "take": lambda: decode(s.pop()),
            "get": (lambda: decode(s.get()))
            if name.startswith("queue")
            else lambda: self.found(name, key, s.get(key.encode())),
            "peek": lambda: decode(s.peek()),
            "reserve": lambda: _reserved(*s.reserve(lease=LEASE_SECONDS), decode),
            "set": lambda: s.__setitem__(key.encode(), raw),
            "pop": lambda: decode(s.pop(key.encode())),
            "delete": lambda: s.__delitem__(key.encode()) or DONE,
            "setdefault": lambda: decode(s.setdefault(key.encode(), raw)),
            "popitem": lambda: _item(*s.popitem(), decode),
            "popfirst": lambda: _item(*s.popitem(), decode),
            "poplast": lambda: _item(*s.popitem(last=not self.plant("ends")), decode),
            "in": lambda: key.encode() in s,
            "len": lambda: len(s),
        }
        if call in ("set", "setdefault"):
            arguments = (name, key, value)
        elif call in ("put", "push", "later"):
            arguments = (name, value)
        elif call in ("pop", "delete", "in") or (call == "get" and not name.startswith("queue")):
            arguments = (name, key)
        act = calls[call]
        if call in ("put", "push", "later", "set") and self.plant("lost"):
            act = lambda: None  # noqa: E731
        answer = self.recorder.call(call, arguments, act, self.classes)
        if call == "reserve" and answer not in (UNKNOWN, NOT, NOTHING):
            self.tokens[name].append(answer[0])
        return answer

    def plant(self, fault: str) -> bool:
        """Draw whether to plant this fault now."""
        return self.planted.random() < self.mix.get(fault, 0)

    def found(self, name: str, key: str, raw: bytes | None) -> str:
        value = NOTHING if raw is None else self.decode(raw)
        if self.planted.random() < self.mix.get("plant", 0):
            value = self.last.get((name, key), value)
        self.last[name, key] = value
        return value

    def block(self, kind: str) -> None:
        """Do a batch or a transaction of some calls, perhaps with a stop in the middle."""
        rng, mix = self.rng, self.mix
        over = rng.sample(self.names, min(len(self.names), rng.choice(mix[kind + "_over"])))
        calls = rng.randrange(2, 5)
        stop = self.stop(calls)
        aborts = kind == "transaction" and rng.random() < 0.1
        reads = rng.random() < mix["reads"]  # it only reads, or pops keys that may be absent

        def body() -> None:
            for number in range(calls):
                name = over[number % len(over)] if rng.random() < 0.7 else rng.choice(over)
                if reads:
                    call = rng.choice(("get", "pop")) if is_mapping(name) else "peek"
                    self.act(name, call, f"k{rng.randrange(mix['keys'])}", "")
                else:
                    self.one(name)
                self.go_on(number == stop)
            if aborts:
                raise Aborted

        self.whole(kind, over, body)

    def across(self, moves: bool) -> None:
        """Move a key's value from one mapping to another in a transaction, or read both.

        The process perhaps stops itself in between.
        """
        first, second = self.rng.sample([name for name in self.names if is_mapping(name)], 2)
        key, new, stop = f"k{self.rng.randrange(self.mix['keys'])}", self.new(), self.stop(1) == 0
        # A pop that finds no value changes nothing.
        call = "pop" if moves or self.rng.random() < 0.6 else "get"

        def body() -> None:
            found = self.act(first, call, key, "")
            self.go_on(stop)
            other = self.act(second, call, key, "")
            self.go_on(False)
            if moves:
                self.act(
                    second if found != NOTHING and other == NOTHING else first, "set", key, new
                )
                self.go_on(False)

        self.whole("transaction", [first, second], body)

    def moment(self) -> None:
        """Read several structures in a read transaction, some places twice; perhaps with a stop.

        Also the answers before a conflict, or before the session was lost, are of one moment.
        """
        rng, mix = self.rng, self.mix
        over = rng.sample(self.names, min(len(self.names), rng.choice(mix["transaction_over"])))
        places = [(name, f"k{rng.randrange(mix['keys'])}") for name in over * 2]
        rng.shuffle(places)
        stop, repeats = self.stop(len(places)), rng.random() < 0.5
        torn = self.planted.random() < mix.get("torn", 0)

        def body(*_: Any) -> None:
            self.failure = None
            self.recorder.note("b", "transaction")  # instead of the attempt before
            for number, (name, key) in enumerate(places):
                self.act(name, "get" if is_mapping(name) else "peek", key, "")
                self.go_on(number == stop)

        objects = [self.objects[name] for name in over]
        with contextlib.suppress(ConnectionFailed, DeadlineExceeded, ReadConflict):
            if torn:  # a planted fault: it is no read transaction
                body()
            elif repeats:
                self.fe.read(body, *objects)
            else:
                with self.fe.read_transaction(*objects):
                    body()
        self.recorder.note("e", "well", True)

    def snapshot(self) -> None:
        """Read snapshots of one moment, some places twice, while others write."""
        rng, mix = self.rng, self.mix
        names = [name for name in self.names if NAMES[kind_of(name)] in VERSIONED]
        over = rng.sample(names, rng.randrange(1, len(names) + 1))
        places = [(name, f"k{rng.randrange(mix['keys'])}", "get") for name in over * 2]
        if not mix["churn"]:
            places += [(name, "", rng.choice(("items", "len"))) for name in over]
        rng.shuffle(places)
        stop, alone = self.stop(len(places)), rng.random() < 0.5
        newer = self.plant("newer")  # a planted fault: they are no snapshots
        objects = [self.objects[name] for name in over]
        self.failure = None
        self.recorder.note("b", "snapshot")
        try:
            if len(over) == 1 and alone:
                opened = [objects[0].snapshot()]
            else:
                opened = structures.snapshots_of(objects)
        except (ConnectionFailed, DeadlineExceeded):
            self.recorder.note("x")
            self.recorder.note("e", "not", True)
            return
        self.recorder.note("x")
        read = dict(zip(over, objects if newer else opened))
        try:
            for number, (name, key, call) in enumerate(places):
                arguments = (name, key) if call == "get" else (name,)
                act = partial(self.read, read[name], call, key)
                self.recorder.call(call, arguments, act, self.classes)
                self.go_on(number == stop)
        except (ConnectionFailed, DeadlineExceeded, SnapshotTooOld):
            pass
        finally:
            for each in opened:
                each.close()
        self.recorder.note("e", "well", True)

    def read(self, mapping: Any, call: str, key: str) -> Any:
        if call == "len":
            return len(mapping)
        if call == "items":
            return [_item(*each, self.decode) for each in mapping.items()]
        raw = mapping.get(key.encode())
        return NOTHING if raw is None else self.decode(raw)

    def stop(self, calls: int) -> int:
        """Draw the call after which this process stops itself; -1: none."""
        number = self.rng.randrange(calls)
        return number if self.rng.random() < self.mix["hold"] else -1

    def go_on(self, stop: bool) -> None:
        if self.failure is not None:
            raise self.failure
        if stop:
            # The runner continues the process after more or less than a lease.
            os.kill(os.getpid(), signal.SIGSTOP)

    def whole(self, kind: str, over: list[str], body: Callable[[], None]) -> None:
        """Run the body as a batch or a transaction, and record the outcome."""
        tokens = {name: list(held) for name, held in self.tokens.items()}
        self.failure = None
        self.recorder.note("b", kind)
        before = self.session()
        context: Any = (
            self.fe.batch()
            if kind == "batch"
            else contextlib.nullcontext()  # a planted fault: its calls are alone
            if self.plant("loose")
            else self.fe.transaction(*(self.objects[name] for name in over))
        )
        outcome, inside = "well", True
        try:
            with context:
                body()
                inside = False
                self.recorder.note("x")
        except Aborted:
            outcome = "not"
        except RfpError as error:
            answer = classes(error)
            assert answer is not None, error
            if kind == "batch":
                outcome = "cut"
            else:
                outcome = "unknown" if answer == UNKNOWN and not inside else "not"
        if kind == "transaction" and outcome != "well":
            self.tokens = tokens
        self.recorder.note("e", outcome, self.session() == before and self.logged)

    def session(self) -> list[int]:
        figures = self.fe.figures
        return [figures["session"], figures["epoch"]]

    def turn(self) -> None:
        turn = draw(self.rng, self.mix["turns"])
        if turn == "one":
            self.one(self.rng.choice(self.names))
        elif turn == "in order":  # reads one structure after another, without a transaction
            for name in self.names:
                self.act(
                    name,
                    "get" if is_mapping(name) else "peek",
                    f"k{self.rng.randrange(self.mix['keys'])}",
                    "",
                )
        elif turn in ("move", "read both"):
            self.across(turn == "move")
        elif turn == "moment":
            self.moment()
        elif turn == "snapshot":
            self.snapshot()
        else:
            self.block(turn)


def worker(
    address: str,
    record: str,
    gate: str,
    names: list[str],
    caller: str,
    seed: str,
    calls: int,
    mix: dict[str, Any],
    sizes: list[int],
    options: dict[str, Any],
    form: dict[str, Any],
    threads: int,
) -> None:
    """Do so many turns in each thread, or take turns until the run ends; all share a front-end."""
    begin = Gate(gate)
    fe, objects = connect(address, names, options, form)
    failures: list[BaseException] = []

    def turns(number: int) -> None:
        try:
            each = all_workers[number]
            left = calls
            while left and not begin.ended and not failures:
                left -= 1
                each.turn()
        except BaseException as error:
            failures.append(error)
            raise

    all_workers = [
        Worker(
            f"{record}.{number}" if number else record,
            names,
            f"{caller}.{number}" if number else caller,
            f"{seed}.{number}" if number else seed,
            mix,
            sizes,
        )
        for number in range(threads)
    ]
    for each in all_workers:
        each.fe, each.objects = fe, objects
        each.logged = options.get("oplog", True)
    all_workers[0].recorder.note("r")
    begin.wait()
    others = [threading.Thread(target=turns, args=(number,)) for number in range(1, threads)]
    for thread in others:
        thread.start()
    turns(0)
    for thread in others:
        thread.join()
    assert not failures, failures
    with contextlib.suppress(ConnectionFailed, DeadlineExceeded):
        fe.close()


def churner(
    address: str,
    gate: str,
    names: list[str],
    seed: str,
    options: dict[str, Any],
    form: dict[str, Any],
) -> None:
    """Put and remove other keys, so that buckets and pages split and join, until the run ends."""
    begin = Gate(gate)
    rng = random.Random(seed)
    fe, objects = connect(address, names, options, form)
    begin.wait()
    while not begin.ended:
        for name in names:
            for act in ("set", "pop"):
                for number in rng.sample(range(400), 150):
                    if begin.ended:
                        break
                    with contextlib.suppress(ConnectionFailed, DeadlineExceeded):
                        key = b"other %d" % number
                        if act == "set":
                            objects[name].set(key, bytes(rng.randrange(200)))
                        else:
                            objects[name].pop(key, None)
    with contextlib.suppress(ConnectionFailed, DeadlineExceeded):
        fe.close()


def reader(
    address: str,
    record: str,
    names: list[str],
    sizes: list[int],
    keys: int,
    churned: bool,
    form: dict[str, Any],
) -> None:
    """Read everything in a new front-end that takes all locks, and check() each structure."""
    self = Worker(record, names, "end", "end", {}, sizes)
    self.fe, self.objects = connect(address, names, {"timeout": SECONDS}, form)
    deadline = time.monotonic() + SECONDS
    for name, s in self.objects.items():
        if not is_mapping(name):
            while kind_of(name) == "queue" and s.delayed:
                assert time.monotonic() < deadline, "a delay has no end"
            take = "take" if kind_of(name) == "stack" else "drain"
            while self.act(name, take, "", "") != NOTHING:
                pass
        else:
            for key in range(keys):
                self.act(name, "pop", f"k{key}", "")
            if not churned:
                self.act(name, "len", "", "")
        s.check()
    self.recorder.note("r")
    self.fe.close()


def _reserved(token: bytes, value: bytes, decode: Any) -> tuple[str, str]:
    return token.hex(), decode(value)


def _item(key: bytes, value: bytes, decode: Any) -> tuple[str, str]:
    return key.decode(), decode(value)


ROLES = {"backend": backend, "worker": worker, "churner": churner, "reader": reader}
