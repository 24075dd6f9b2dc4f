"""Values in place and values of some kilobytes, beside LMDB in this process."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

from bench.experiments import store, timing
from bench.experiments.rows import Figures, Row, Setting, Side, take_turns
from bench.peers.process import PeerMissing, package
from bench.placement import pinned

QUESTION = (
    "How fast is a view of 1 MiB, compared with LMDB's buffers, and a get of 4 KiB and 64 KiB, "
    "compared with LMDB's copies?"
)
VALUE_KEYS = [b"value-%d" % at for at in range(16)]
VIEWED_BYTES = 1 << 20
GOT_BYTES = (4 << 10, 64 << 10)


def rates(setting: Setting, call: Callable[[bytes], Any]) -> Side:
    """Return a side: call(key) of all keys by turns: {"rate"}."""
    turns = VALUE_KEYS * setting.count(20_000 // len(VALUE_KEYS))

    def side() -> Figures:
        with pinned(setting.client):
            return {"rate": timing.rate_of(call, turns, setting.seconds)}

    return side


@contextlib.contextmanager
def lmdb_values(size: int) -> Iterator[Any]:
    """Yield an LMDB environment with the values."""
    lmdb = package("lmdb")
    path = tempfile.mkdtemp(prefix="rfp-experiment-lmdb-")
    try:
        with lmdb.open(path, map_size=1 << 30, sync=False, metasync=False, writemap=True) as found:
            with found.begin(write=True) as transaction:
                for key in VALUE_KEYS:
                    transaction.put(key, bytes(size))
            yield found
    finally:
        shutil.rmtree(path, ignore_errors=True)


def measure(setting: Setting) -> list[Row]:
    """Measure each size, and both sides by turns."""
    rows = []
    for size in (VIEWED_BYTES, *GOT_BYTES):
        ours, theirs, why = both(setting, size)
        if size == VIEWED_BYTES:
            name, peer, bar = "view of 1 MiB", "LMDB, buffers=True", 1.0
        else:
            name, peer, bar = f"direct get, {size >> 10} KiB", "LMDB, a transaction per get", 2.0
        rows.append(Row(name, ours, "op/s", theirs, peer, bar, why=why))
    return rows


def both(setting: Setting, size: int) -> tuple[float, float | None, str]:
    """Return the rates of this package and of LMDB, and the reason if LMDB is missing."""
    in_place = size == VIEWED_BYTES
    with ExitStack() as stack:
        _, kv = stack.enter_context(store.served(setting))
        for key in VALUE_KEYS:
            kv.put(key, bytes(size))

        def in_place_of(key: bytes) -> None:
            view = kv.view(key)
            assert view is not None
            memoryview(view)
            view.release()

        sides = {"ours": rates(setting, in_place_of if in_place else kv.get)}
        why = ""
        try:
            environment = stack.enter_context(lmdb_values(size))
        except PeerMissing as error:
            why = str(error)
        else:

            def get(key: bytes) -> Any:
                with environment.begin(buffers=in_place) as transaction:
                    return transaction.get(key)

            sides["lmdb"] = rates(setting, get)
        found = take_turns(sides, setting.rounds)
    return found["ours"]["rate"], found.get("lmdb", {}).get("rate"), why
