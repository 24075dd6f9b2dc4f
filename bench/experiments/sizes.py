"""Cost per operation of each structure against its number of entries."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import blake2b
from math import log
from pathlib import Path
from typing import Any

import rnvm
from bench.databases.rnvm import MEMORY
from bench.experiments.other_process import OtherProcess
from bench.experiments.pool import BATCH, VALUE, folder_on
from bench.experiments.rows import Figures, Row, Setting, number
from bench.experiments.timing import clock
from bench.kinds import CONSTANT_TIME, STRUCTURES, Kind, kind_of
from rfp import address as addresses
from rfp.errors import DeadlineExceeded, RfpError, StructureDamaged

QUESTION = (
    "How do time and memory of load, operations, check and recovery of each structure grow with "
    "its number of entries?"
)
ENTRIES_MOST = 1_000_000
DECADES = 3  # from a thousandth of the entries to all of them
ENTRIES_LEAST = 100  # entries
TIMED = 20_000  # operations at each size, at most
KEYS_AT_ONCE = 10_000  # keys that are made before they are used
ENTRY_BYTES = 400  # bytes of a pool for each entry, an upper bound
LOG_BYTES = 128 << 20
LEVEL_FACTOR = 500  # of structures/layout.h

# Stated bounds, which the rows hold the figures to.
SHAPE_SLACK = 1.25  # nodes read per operation, over those in theory
LOAD_S = 20e-6  # per entry
CHECK_S = 10e-6  # per entry
RECOVER_S = 10.0  # at any size: the logs bound it
MEMORY_BYTES = 256 << 20  # of a process at any size, and so many more for each entry
MEMORY_PER_ENTRY = 8

PATIENCE_S = 3600.0  # for one step of a process
SAMPLE_S = 0.01  # between two samples of a process's memory


def key_of(place: int) -> bytes:
    """Return the key of 16 bytes of the entry at this place in the order of insertion; keys are in
    random order."""
    return blake2b(b"%d" % place, digest_size=16).digest()


# The process with the back-end

BACKEND = "from bench.experiments.sizes import serve; serve()"


def serve() -> None:
    """Serve a pool until the input ends; print the seconds that opening it took."""
    path, address, size, cpu = sys.argv[1:]
    began = clock()
    backend = rnvm.Backend(
        path,
        int(size),
        address=address,
        assume_persistent=True,
        force_flush=True,
        cpus=[int(cpu)] if cpu else None,
    )
    with backend:
        print(json.dumps({"seconds": (clock() - began) / 1e9}), flush=True)
        sys.stdin.read()


# The process with the front-end

FRONT_END = "from bench.experiments.sizes import work; work()"


def work() -> None:
    """Do with a structure as the lines of the standard input say; print the figures of each."""
    address, name = sys.argv[1:]
    kind = kind_of(name)
    with rnvm.connect(address, timeout=PATIENCE_S, reconnect=False) as fe:
        structure = kind.structure(fe, name)
        print(json.dumps({"entries": len(structure)}), flush=True)
        for line in sys.stdin:
            what, *arguments = json.loads(line)
            try:
                answer: dict[str, Any] = {**SIZE_STEPS[what](kind, fe, structure, *arguments)}
            except RfpError as error:
                answer = {"error": f"{what}: {error}"}
            print(json.dumps(answer), flush=True)
        del structure


def load(kind: Kind, fe: Any, structure: Any, first: int, last: int) -> Figures:
    """Add the entries from `first` to `last`, 100 in a batch."""
    add = kind.adder(structure, VALUE)
    elapsed = 0
    for begin in range(first, last, KEYS_AT_ONCE):
        keys = [key_of(place) for place in range(begin, min(begin + KEYS_AT_ONCE, last))]
        began = clock()
        for at in range(0, len(keys), BATCH):
            with fe.batch():
                for key in keys[at : at + BATCH]:
                    add(key)
        elapsed += clock() - began
    return {"seconds": elapsed / 1e9, "entries": len(structure)}


def operate(kind: Kind, fe: Any, structure: Any, seconds: float) -> Figures:
    """Time lookups (of a kind without keys: removals) at random, and single durable additions (of
    a mapping: updates); count the nodes that the lookups read."""
    entries = len(structure)
    places = random.Random(1).choices(range(entries), k=min(TIMED, max(entries // 2, 1)))
    keys = [key_of(place) for place in places]
    look = kind.looker(structure) if kind.mapping else kind.taker(structure)
    add = kind.adder(structure, VALUE)
    before = nodes_read(fe)
    looks, look_s = repeat(look, keys, seconds)
    nodes = (nodes_read(fe) - before) / looks
    adds, add_s = repeat(add, keys if kind.mapping else keys[:looks], seconds)
    if not kind.mapping:
        load(kind, fe, structure, len(structure), entries)
    return {"look": look_s / looks, "add": add_s / adds, "nodes": nodes}


def nodes_read(fe: Any) -> int:
    """Return the number of nodes that this front-end has read, from its cache or the pool."""
    figures = fe.figures
    return int(figures["hits"] + figures["misses"])


def repeat(act: Any, keys: list[bytes], seconds: float) -> tuple[int, float]:
    """Call act(key) with the keys; return the number of calls and their seconds."""
    began = now = clock()
    until = began + int(seconds * 1e9)
    done = 0
    while done < len(keys) and now < until:
        for key in keys[done : done + BATCH]:
            act(key)
        done = min(done + BATCH, len(keys))
        now = clock()
    return done, (now - began) / 1e9


def check(kind: Kind, fe: Any, structure: Any) -> Figures:
    """Time check()."""
    began = clock()
    structure.check()
    return {"seconds": (clock() - began) / 1e9}


def write_until_lost(kind: Kind, fe: Any, structure: Any) -> Figures:
    """Update entries, or add and remove one by turns, until the back-end is lost."""
    add = kind.adder(structure, VALUE)
    take = kind.taker(structure)
    entries = len(structure)
    place = 0
    with contextlib.suppress(RfpError):
        while True:
            add(key_of(place))
            if not kind.mapping:
                take(b"")
            place = (place + 1) % entries
            if place == ENTRIES_LEAST // 2:
                print(json.dumps({}), flush=True)  # it is writing
    return {}


SIZE_STEPS: dict[str, Callable[..., Figures]] = {
    "load": load,
    "operate": operate,
    "check": check,
    "write": write_until_lost,
}


# The experiment


@dataclass
class Watched:
    """A process whose answers are lines of JSON, and the most private memory that it had."""

    process: OtherProcess
    bytes: int = 0

    def order(self, *what: Any) -> Figures:
        """Send an order and return the answer."""
        self.process.send(json.dumps(what))
        return self.answer()

    def answer(self) -> Figures:
        """Return the next answer."""
        until = time.monotonic() + PATIENCE_S
        while True:
            line = self.process.said(SAMPLE_S)
            self.bytes = max(self.bytes, private_bytes(self.process.pid))
            if line is not None:
                found: dict[str, Any] = json.loads(line)
                if "error" in found:
                    raise RfpError(found["error"])
                return found
            if time.monotonic() > until:
                raise DeadlineExceeded(f"timed out waiting {PATIENCE_S:g} s for a process")


def private_bytes(pid: int) -> int:
    """Return the bytes of memory that only this process has; 0 if it has ended."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) << 10
    return 0


@contextlib.contextmanager
def served(setting: Setting, pool: Path, entries: int) -> Iterator[tuple[Watched, str, Figures]]:
    """Yield a back-end in a process of its own, its address, and the figures of its start."""
    address = str(addresses.unique())
    cpu = str(min(setting.server)) if setting.server else ""
    size = LOG_BYTES + ENTRY_BYTES * entries
    with OtherProcess(BACKEND, str(pool), address, str(size), cpu) as process:
        backend = Watched(process)
        yield backend, address, backend.answer()


@contextlib.contextmanager
def connected(setting: Setting, address: str, kind: Kind) -> Iterator[tuple[Watched, int]]:
    """Yield a front-end in a process of its own, and the number of entries that it found."""
    with OtherProcess(FRONT_END, address, kind.name, cpus=setting.client) as process:
        front_end = Watched(process)
        yield front_end, int(front_end.answer()["entries"])


def grow(setting: Setting, kind: Kind, entry_counts: list[int]) -> dict[int, Figures]:
    """Return the figures of a structure at each number of entries; the back-end is killed at each,
    while the front-end writes, and the next one serves the same pool.

    Raises:
        StructureDamaged: entries are missing, or check() found something.
    """
    found: dict[int, Figures] = {}
    before = 0
    with folder_on(MEMORY) as folder:
        pool = folder / "pool"
        for entries in entry_counts:
            figures = found[entries] = {}
            with ExitStack() as stack:
                backend, address, _ = stack.enter_context(served(setting, pool, entry_counts[-1]))
                front_end, there = stack.enter_context(connected(setting, address, kind))
                expect(kind, there, before)
                loaded = front_end.order("load", there, entries)
                expect(kind, int(loaded["entries"]), entries)
                figures["load"] = loaded["seconds"] / max(entries - there, 1)
                figures.update(front_end.order("operate", setting.seconds))
                figures["load bytes"] = front_end.bytes
                figures["check"] = front_end.order("check")["seconds"]
                figures["check bytes"] = front_end.bytes
                front_end.order("write")
                os.kill(backend.process.pid, signal.SIGKILL)
                front_end.answer()
            figures["pool"] = bytes_used(pool)
            with served(setting, pool, entry_counts[-1]) as (backend, address, start):
                figures["recover"] = start["seconds"]
                figures["recover bytes"] = backend.bytes
                with connected(setting, address, kind) as (front_end, there):
                    expect(kind, there, entries)
                    front_end.order("check")
            before = entries
    return found


def bytes_used(pool: Path) -> int:
    """Return the bytes of a pool's blocks that are not free; no back-end serves it."""
    from rnvm.cli.inspect import figures  # not in the processes that are measured

    about = figures(str(pool))
    used: int = about["block"] * (about["blocks"] - about["free_blocks"])
    return used


def expect(kind: Kind, found: int, entries: int) -> None:
    """Raise StructureDamaged unless a structure has its entries; the kill may have kept one more
    in a kind without keys, or one less in the next size's start."""
    if not entries <= found <= entries + (not kind.mapping):
        raise StructureDamaged(f"{kind.name} has {found:,} entries instead of {entries:,}")


def sizes_of(entries: int) -> list[int]:
    """Return the numbers of entries, each ten times the one before."""
    counts = [entries // 10**power for power in range(DECADES + 1)]
    return sorted(count for count in counts if count >= ENTRIES_LEAST) or [entries]


def theory(kind: Kind, nodes: float, smallest: int, entries: int) -> float:
    """Return the nodes that an operation reads in theory, from those at the smallest size.

    O(1) includes the directory (structures/directory.pxd), which has a level more for each factor
    of its fan-out.
    """
    if kind.growth == CONSTANT_TIME:
        return nodes + log(entries / smallest) / log(LEVEL_FACTOR)
    return nodes * log(entries) / log(smallest)


def measure(
    setting: Setting,
    picture: str | Path | None = None,
    entries: int | None = None,
    kinds: tuple[str, ...] = (),
) -> list[Row]:
    """Return rows for each structure at its largest size.

    Args:
        entries: the largest number of entries [default: a million, scaled]
        kinds: names of classes [default: all]
    """
    entry_counts = sizes_of(entries or setting.count(ENTRIES_MOST, 10 * ENTRIES_LEAST))
    chosen = [kind for kind in STRUCTURES if not kinds or kind.name in kinds]
    found: dict[Kind, dict[int, Figures]] = {}
    rows = []
    for kind in chosen:
        try:
            found[kind] = grow(setting, kind, entry_counts)
        except RfpError as error:  # the others are measured
            rows.append(Row(f"{kind.name}, sizes", None, "", bar=0, why=str(error)))
        else:
            rows += rows_of(kind, found[kind])
    if picture and found:
        draw(found, picture)
    return rows


def rows_of(kind: Kind, figures: dict[int, Figures]) -> list[Row]:
    """Return the rows of one structure."""
    smallest, entries = min(figures), max(figures)
    first, last = figures[smallest], figures[entries]
    at = f"{kind.name}, {entries:,} entries"
    memory = MEMORY_BYTES + MEMORY_PER_ENTRY * entries
    most = max(last["load bytes"], last["check bytes"], last["recover bytes"])

    def below(what: str, value: float, unit: str, bar: float, note: str = "") -> Row:
        return Row(f"{at}: {what}", value, unit, bar=bar, at_least=False, note=note)

    return [
        Row(
            f"{at}: nodes per {'lookup' if kind.mapping else 'removal'}",
            last["nodes"],
            "",
            theory(kind, first["nodes"], smallest, entries),
            f"{kind.growth} from {smallest:,}",
            SHAPE_SLACK,
            at_least=False,
            note=steps(figures),
        ),
        below("load, per entry", last["load"], "s", LOAD_S),
        below("check, per entry", last["check"] / entries, "s", CHECK_S),
        below("recovery after a kill", last["recover"], "s", RECOVER_S),
        below(
            "memory of a process",
            most,
            "B",
            memory,
            note="; ".join(
                f"{name} {number(last[f'{name} bytes'], 'B')}"
                for name in ("load", "check", "recover")
            )
            + f"; the pool {last['pool'] / entries:.0f} B per entry",
        ),
    ]


def steps(figures: dict[int, Figures]) -> str:
    """Return a structure's figures at each size, in one line."""
    return "; ".join(
        f"{entries:,}: lookup {number(each['look'], 's')} ({each['nodes']:.2f} nodes), "
        f"durable add {number(each['add'], 's')}, load {number(each['load'], 's')}, "
        f"check {number(each['check'] / entries, 's')} per entry, "
        f"recovery {number(each['recover'], 's')}"
        for entries, each in figures.items()
    )


def draw(found: dict[Kind, dict[int, Figures]], path: str | Path) -> None:
    """Draw the figures against the number of entries."""
    from bench.plot import COLOURS, microseconds, pyplot, save, short

    plt = pyplot()
    panels = (
        ("nodes", "nodes read per lookup", None),
        ("look", "time of a lookup (Queue, Stack: of a removal)", microseconds),
        ("add", "time of a durable update (Queue, Stack: addition)", microseconds),
        ("load", "time of an entry's load, in batches of 100", microseconds),
        ("check", "time of check() per entry", microseconds),
        ("recover", "recovery after kill -9 of the back-end", microseconds),
    )
    figure, all_axes = plt.subplots(2, 3, figsize=(15, 8))
    for axes, (name, label, form) in zip(all_axes.flat, panels):
        for i, (kind, figures) in enumerate(found.items()):
            counts = sorted(figures)
            values = [figures[n][name] / (n if name == "check" else 1) for n in counts]
            scaled = [1e6 * value for value in values] if form else values
            style = "o-" if i < len(COLOURS) else "s--"
            axes.plot(counts, scaled, style, color=COLOURS[i % len(COLOURS)], label=kind.name)
            if name == "nodes":
                expected = [theory(kind, values[0], counts[0], n) for n in counts]
                axes.plot(counts, expected, ":", color=COLOURS[i % len(COLOURS)])
        axes.set_xscale("log")
        axes.set_ylim(0)
        ticks = sorted({n for figures in found.values() for n in figures})
        axes.set_xticks(ticks, [short(n) for n in ticks])
        if form:
            axes.yaxis.set_major_formatter(form)
        axes.set_xlabel("entries")
        axes.set_title(label, fontsize=10, loc="left")
        axes.grid(color="#dddddd", linewidth=0.7)
        axes.spines[["top", "right"]].set_visible(False)
    all_axes.flat[0].legend(frameon=False, fontsize=8.5, title="dotted: theory")
    figure.tight_layout()
    save(figure, path)
