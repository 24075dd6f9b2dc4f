"""What processes do in a run over structures: serve a pool, change and read structures and record it, disturb."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable
from typing import Any

import rnvm
import structures
from rfp.errors import (
    ConnectionFailed,
    DeadlineExceeded,
    Empty,
    LeaseEnded,
    OutcomeUnknown,
    RfpError,
    TooLarge,
)

from .gate import SECONDS, Gate
from .group_model import DONE, NOTHING
from .history import UNKNOWN
from .recorder import NOT, Recorder, name_of, value_of

KINDS = {"queue": structures.Queue, "table": structures.HashTable, "tree": structures.BPlusTree}
LEASE = 600.0  # seconds, of a reservation: it does not end during a run


class Aborted(Exception):
    """A transaction was given up on purpose."""


def classes(error: Exception) -> Any:
    """What an exception says of the call (docs/errors.md); None: it may not come here."""
    if isinstance(error, (Empty, LeaseEnded, KeyError)):
        return NOTHING
    if isinstance(error, (OutcomeUnknown, DeadlineExceeded)):
        return UNKNOWN
    if isinstance(error, (ConnectionFailed, TooLarge)):
        return NOT
    return None


def backend(path: str, address: str, record: str, size: str, lease: float) -> None:
    ended: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: ended.append(number))
    recorder = Recorder(record)
    with rnvm.Backend(path, size=size, assume_persistent=True, address=address, lease=lease):
        recorder.note("r")
        while not ended:
            signal.sigtimedwait([], 0.02)


def connect(
    address: str, names: list[str], options: dict[str, Any]
) -> tuple[rnvm.FrontEnd, dict[str, Any]]:
    """Also while a back-end is being started again."""
    deadline = time.monotonic() + SECONDS
    while True:
        fe = None
        try:
            fe = rnvm.connect(address, **options)
            return fe, {name: KINDS[name.rstrip("0123456789")](fe, name) for name in names}
        except (ConnectionFailed, DeadlineExceeded):
            if fe is not None:
                fe.close()
            if time.monotonic() > deadline:
                raise
            time.sleep(0.002)


class Worker:
    """A process that draws its calls from its own seed, whatever the answers are."""

    def __init__(
        self,
        record: str,
        names: list[str],
        who: str,
        seed: str,
        mix: dict[str, Any],
        sizes: list[int],
    ) -> None:
        self.recorder = Recorder(record)
        self.names, self.who, self.sizes, self.mix = names, who, sizes, mix
        self.rng = random.Random(seed)
        self.count = 0
        self.tokens: dict[str, list[str]] = {name: [] for name in names}
        self.fe: Any = None
        self.objects: dict[str, Any] = {}
        self.trouble: Exception | None = None
        self.planted = random.Random(f"{seed} planted")  # a fault of ours
        self.last: dict[tuple[str, str], str] = {}

    def new(self) -> str:
        self.count += 1
        return f"{self.who}-{self.count}"

    def classes(self, error: Exception) -> Any:
        answer = classes(error)
        if answer in (UNKNOWN, NOT):
            self.trouble = error
        return answer

    def decode(self, value: bytes) -> str:
        return name_of(value, self.sizes)

    def one(self, name: str) -> Any:
        """One call of the structure, drawn; the draws do not depend on any answer."""
        queue = name.startswith("queue")
        weights = self.mix["queue" if queue else "mapping"]
        what = self.rng.choices(list(weights), list(weights.values()))[0]
        key = f"k{self.rng.randrange(self.mix['keys'])}"
        return self.act(name, what, key, self.new())

    def act(self, name: str, what: str, key: str, value: str) -> Any:
        s = self.objects[name]
        raw = value_of(value, self.sizes)
        decode = self.decode
        arguments: tuple[Any, ...] = (name,)
        if what in ("ack", "nack"):
            if not self.tokens[name]:
                what = "reserve"
            else:
                token = self.tokens[name].pop(0)
                return self.recorder.call(
                    what,
                    (name, token),
                    lambda: getattr(s, what)(bytes.fromhex(token)) or DONE,
                    self.classes,
                )
        calls = {
            "put": lambda: s.put(raw),
            "get": (lambda: decode(s.get()))
            if name.startswith("queue")
            else lambda: self.found(name, key, s.get(key.encode())),
            "peek": lambda: decode(s.peek()),
            "reserve": lambda: _reserved(*s.reserve(lease=LEASE), decode),
            "set": lambda: s.__setitem__(key.encode(), raw),
            "pop": lambda: decode(s.pop(key.encode())),
            "delete": lambda: s.__delitem__(key.encode()) or DONE,
            "setdefault": lambda: decode(s.setdefault(key.encode(), raw)),
            "popitem": lambda: _item(*s.popitem(), decode),
            "in": lambda: key.encode() in s,
            "len": lambda: len(s),
        }
        if what in ("set", "setdefault"):
            arguments = (name, key, value)
        elif what == "put":
            arguments = (name, value)
        elif what in ("pop", "delete", "in") or (what == "get" and not name.startswith("queue")):
            arguments = (name, key)
        answer = self.recorder.call(what, arguments, calls[what], self.classes)
        if what == "reserve" and answer not in (UNKNOWN, NOT, NOTHING):
            self.tokens[name].append(answer[0])
        return answer

    def found(self, name: str, key: str, raw: bytes | None) -> str:
        value = NOTHING if raw is None else self.decode(raw)
        if self.planted.random() < self.mix.get("plant", 0):
            value = self.last.get((name, key), value)
        self.last[name, key] = value
        return value

    def block(self, kind: str) -> None:
        """A batch or a transaction of some calls, perhaps with a stop in its midst."""
        rng, mix = self.rng, self.mix
        over = rng.sample(self.names, min(len(self.names), rng.choice(mix[kind + "_over"])))
        calls = rng.randrange(2, 5)
        stop = self.stop(calls)
        aborts = kind == "transaction" and rng.random() < 0.1
        looks = rng.random() < mix["looks"]  # it only reads, or takes what may not be there

        def body() -> None:
            for number in range(calls):
                name = over[number % len(over)] if rng.random() < 0.7 else rng.choice(over)
                if looks:
                    what = "peek" if name.startswith("queue") else rng.choice(("get", "pop"))
                    self.act(name, what, f"k{rng.randrange(mix['keys'])}", "")
                else:
                    self.one(name)
                self.go_on(number == stop)
            if aborts:
                raise Aborted

        self.whole(kind, over, body)

    def across(self, moves: bool) -> None:
        """A transaction that moves what a key has from one mapping to the other, or looks into both, perhaps with a stop between."""
        first, second = self.rng.sample(
            [name for name in self.names if not name.startswith("queue")], 2
        )
        key, new, stop = f"k{self.rng.randrange(self.mix['keys'])}", self.new(), self.stop(1) == 0
        what = (
            "pop" if moves or self.rng.random() < 0.6 else "get"
        )  # that finds nothing changes nothing

        def body() -> None:
            found = self.act(first, what, key, "")
            self.go_on(stop)
            other = self.act(second, what, key, "")
            self.go_on(False)
            if moves:
                self.act(
                    second if found != NOTHING and other == NOTHING else first, "set", key, new
                )
                self.go_on(False)

        self.whole("transaction", [first, second], body)

    def stop(self, calls: int) -> int:
        """After which call this process stops itself; -1: after none."""
        number = self.rng.randrange(calls)
        return number if self.rng.random() < self.mix["hold"] else -1

    def go_on(self, stop: bool) -> None:
        if self.trouble is not None:
            raise self.trouble
        if stop:
            os.kill(
                os.getpid(), signal.SIGSTOP
            )  # the runner lets it go on, after more or less than a lease

    def whole(self, kind: str, over: list[str], body: Callable[[], None]) -> None:
        """Runs the body as a batch or a transaction, and records what became of it."""
        tokens = {name: list(held) for name, held in self.tokens.items()}
        self.trouble = None
        self.recorder.note("b", kind)
        before = self.session()
        context = (
            self.fe.batch()
            if kind == "batch"
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
        self.recorder.note("e", outcome, self.session() == before)

    def session(self) -> list[int]:
        figures = self.fe.figures
        return [figures["session"], figures["epoch"]]

    def turn(self) -> None:
        what = self.rng.choices(list(self.mix["turns"]), list(self.mix["turns"].values()))[0]
        if what == "one":
            self.one(self.rng.choice(self.names))
        elif what == "in order":  # reads one structure after another, without a transaction
            for name in self.names:
                self.act(
                    name,
                    "peek" if name.startswith("queue") else "get",
                    f"k{self.rng.randrange(self.mix['keys'])}",
                    "",
                )
        elif what in ("move", "look"):
            self.across(what == "move")
        else:
            self.block(what)


def worker(address: str, record: str, gate: str, names: list[str], who: str, seed: str, calls: int, mix: dict[str, Any],
           sizes: list[int], options: dict[str, Any]) -> None:  # fmt: skip
    """Calls until it was enough, or until the run ends."""
    begin = Gate(gate)
    self = Worker(record, names, who, seed, mix, sizes)
    self.fe, self.objects = connect(address, names, options)
    self.recorder.note("r")
    begin.wait()
    while calls and not begin.ended:
        calls -= 1
        self.turn()
    with contextlib.suppress(ConnectionFailed, DeadlineExceeded):
        self.fe.close()


def churner(address: str, gate: str, names: list[str], seed: str, options: dict[str, Any]) -> None:
    """Puts and removes other keys, so that buckets and pages split and join, until the run ends."""
    begin = Gate(gate)
    rng = random.Random(seed)
    fe, objects = connect(address, names, options)
    begin.wait()
    while not begin.ended:
        for name in names:
            for act in ("set", "pop"):
                for number in rng.sample(range(400), 150):
                    if begin.ended:
                        break
                    with contextlib.suppress(ConnectionFailed, DeadlineExceeded):
                        key = b"beside %d" % number
                        if act == "set":
                            objects[name].set(key, bytes(rng.randrange(200)))
                        else:
                            objects[name].pop(key, None)
    with contextlib.suppress(ConnectionFailed, DeadlineExceeded):
        fe.close()


def reader(
    address: str, record: str, names: list[str], sizes: list[int], keys: int, churned: bool
) -> None:
    """At the end: everything, read by a new front-end that takes all locks; and each structure's own check."""
    self = Worker(record, names, "end", "end", {}, sizes)
    self.fe, self.objects = connect(address, names, {"timeout": SECONDS})
    for name, s in self.objects.items():
        if name.startswith("queue"):
            while self.act(name, "get", "", "") != NOTHING:
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
