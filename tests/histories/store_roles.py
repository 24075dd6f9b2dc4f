"""The processes of a run over a store: a server, clients that record calls, background load."""

from __future__ import annotations

import contextlib
import random
import sys
import threading
from typing import Any

import rfp
from rfp.errors import (
    Busy,
    Conflict,
    ConnectionFailed,
    DeadlineExceeded,
    NotANumber,
    OutcomeUnknown,
    OutOfMemory,
    QuotaExceeded,
    RfpError,
)

from .gate import SECONDS, Gate
from .history import UNKNOWN
from .key_model import MISMATCH, NOTHING
from .recorder import NOT, Recorder, name_of, value_of
from .roles import draw, retry, serve


def classes(error: Exception) -> Any:
    """Return the answer that an exception means (docs/errors.md); None: it must not be raised."""
    if isinstance(error, Conflict):
        return (MISMATCH, error.version)
    if isinstance(error, NotANumber):
        return "not a number"
    if isinstance(error, (OutcomeUnknown, DeadlineExceeded)):
        return UNKNOWN
    if isinstance(error, (ConnectionFailed, Busy, OutOfMemory, QuotaExceeded)):
        return NOT
    return None


def server(address: str, record: str, options: dict[str, Any]) -> None:
    serve(record, lambda: rfp.Server(address=address, **options))


def connect(address: str, options: dict[str, Any]) -> rfp.Client:
    """Connect, also while a server restarts."""
    return retry(lambda: rfp.connect(address, **options), ConnectionFailed, DeadlineExceeded)


class Client:
    """A thread that draws its calls from its own seed; the draws do not depend on any answer."""

    def __init__(
        self,
        kv: rfp.Client,
        record: str,
        caller: str,
        seed: str,
        mix: dict[str, Any],
        sizes: list[int],
    ) -> None:
        self.kv, self.caller, self.mix, self.sizes = kv, caller, mix, sizes
        self.recorder = Recorder(record)
        self.rng = random.Random(seed)
        self.count = 0
        self.seen: dict[str, int] = {}  # versions
        self.planted = random.Random(f"{seed} planted")  # draws the planted faults
        self.last: dict[str, str] = {}

    def new(self) -> str:
        self.count += 1
        return f"{self.caller}-{self.count}"

    def decode(self, value: bytes | memoryview | None) -> str:
        return NOTHING if value is None else name_of(value, self.sizes)

    def turn(self) -> None:
        rng, mix, kv = self.rng, self.mix, self.kv
        call = draw(rng, mix["calls"])
        key = f"k{rng.randrange(mix['keys'])}"
        many = [
            f"k{number}"
            for number in rng.sample(range(mix["keys"]), min(mix["keys"], rng.randrange(2, 5)))
        ]
        ttl = rng.choice(mix.get("ttl", [None]))
        number, amount = rng.random(), rng.randrange(-3, 10)
        new = str(rng.randrange(100)) if number < mix.get("numbers", 0) else self.new()
        raw = value_of(new, self.sizes) if not new.isdigit() else new.encode()
        name = key.encode()
        version = self.seen.get(key, 1)
        if call == "get_into":
            buffer = bytearray(max(self.sizes) + 100)

            def get_into() -> str:
                length = kv.get_into(name, buffer)
                return self.decode(None if length is None else memoryview(buffer)[:length])

        def items() -> list[tuple[str, str]]:
            return [(each, self.new()) for each in many]

        if call == "put_many":
            pairs = items()
            self.many(
                call,
                [(each, value, ttl) for each, value in pairs],
                lambda: kv.put_many(
                    [(each.encode(), value_of(value, self.sizes)) for each, value in pairs], ttl=ttl
                ),
                lambda answer: classes(answer) if isinstance(answer, Exception) else answer,
            )
            return
        if call == "get_many":
            self.many(
                call,
                [(each,) for each in many],
                lambda: kv.get_many([each.encode() for each in many]),
                self.decode,
            )
            return
        if call == "delete_many":
            self.many(
                call,
                [(each,) for each in many],
                lambda: kv.delete_many([each.encode() for each in many]),
                bool,
            )
            return
        calls = {
            "get": ((key,), lambda: self.found(key, kv.get(name))),
            "get_into": ((key,), lambda: get_into()),
            "item": ((key,), lambda: self.item(kv.item(name))),
            "exists": ((key,), lambda: kv.exists(name)),
            "delete": ((key,), lambda: kv.delete(name)),
            "incr": ((key, amount), lambda: kv.incr(name, amount)),
            "touch": ((key, ttl), lambda: kv.touch(name, ttl)),
            "put": ((key, new, ttl), lambda: kv.put(name, raw, ttl=ttl)),
            "put_if_absent": ((key, new, ttl), lambda: kv.put(name, raw, ttl=ttl, if_absent=True)),
            "put_if_version": (
                (key, new, ttl, version),
                lambda: kv.put(name, raw, ttl=ttl, if_version=version),
            ),
        }
        arguments, act = calls[call]
        answer = self.recorder.call("get" if call == "get_into" else call, arguments, act, classes)
        if call.startswith("put") and isinstance(answer, int):
            self.seen[key] = answer
        elif isinstance(answer, tuple) and isinstance(answer[-1], int):
            # The version of an item, or of the value that a refused put found.
            self.seen[key] = answer[1]

    def found(self, key: str, raw: bytes | None) -> str:
        value = self.decode(raw)
        if self.planted.random() < self.mix["plant"]:
            value = self.last.get(key, value)
        self.last[key] = value
        return value

    def item(self, found: Any) -> Any:
        return NOTHING if found is None else (self.decode(found.value), found.version)

    def many(self, call: str, each: list[Any], act: Any, answer_of: Any) -> None:
        """Do a call for many keys, and record the known result of each key."""
        self.recorder.note("m", call.removesuffix("_many"), each)
        try:
            answers = [answer_of(answer) for answer in act()]
        except RfpError as error:
            rest = classes(error)
            assert rest is not None, error
            results = error.results or [None] * len(each)
            if rest == NOT:  # some of its requests may have been sent all the same
                rest = UNKNOWN if any(result is not None for result in results) else NOT
            answers = [rest if result is None else answer_of(result) for result in results]
        self.recorder.note("n", answers)


def client(
    address: str,
    record: str,
    gate: str,
    caller: str,
    seed: str,
    calls: int,
    mix: dict[str, Any],
    sizes: list[int],
    options: dict[str, Any],
    threads: int = 1,
) -> None:
    """Do so many calls in each thread, or call until the run ends."""
    begin = Gate(gate)
    kv = connect(address, options)
    errors: list[BaseException] = []

    def run(thread: int) -> None:
        try:
            self = Client(
                kv, f"{record}.{thread}", f"{caller}.{thread}", f"{seed} {thread}", mix, sizes
            )
            left = calls
            begin.wait()
            while left and not begin.ended:
                left -= 1
                self.turn()
        except BaseException as error:
            errors.append(error)

    Recorder(record).note("r")
    sys.setswitchinterval(0.0005)
    others = [threading.Thread(target=run, args=(number,)) for number in range(1, threads)]
    for thread in others:
        thread.start()
    run(0)
    for thread in others:
        thread.join()
    kv.close()
    if errors:
        raise errors[0]


def filler(address: str, gate: str, seed: str, keys: int, sizes: list[int], deletes: bool) -> None:
    """Put other keys, and perhaps delete them, until the run ends."""
    begin = Gate(gate)
    rng = random.Random(seed)
    kv = connect(address, {"timeout": SECONDS})
    begin.wait()
    count = 0
    while not begin.ended:
        some = [b"other %d" % ((count + number) % keys) for number in range(500)]
        count += 500
        with contextlib.suppress(ConnectionFailed, DeadlineExceeded):
            kv.put_many([(key, bytes(rng.choice(sizes))) for key in some])
            if deletes:
                kv.delete_many(rng.sample(some, 400))
    kv.close()


ROLES = {"server": server, "client": client, "filler": filler}
