"""One writer and some readers of each structure, each in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import rnvm
from bench.experiments import pool
from bench.experiments.ablation import RTT, TURN
from bench.experiments.keys import drawn
from bench.experiments.other_process import OtherProcess
from bench.experiments.pool import VALUE
from bench.experiments.rows import Figures, Row, Setting, Side, number, take_turns
from bench.experiments.timing import CHUNK, clock
from bench.kinds import STRUCTURES, Kind, kind_of
from rfp import address as addresses
from rfp.address import Address

QUESTION = (
    "How fast do readers in other processes read a structure that one process writes, and how many "
    "of their reads fail because of it, also over an emulated round trip of 3 us (AsymNVM, "
    "evaluation)?"
)
EMULATED = f", emulated {RTT}"
RECORDS_READ = 50_000
KEYS_DRAWN = 20_000
PAPER_PERCENT = 3  # of the reads fail in the paper, with 6 readers and 1 writer
PROCESS_S = 60  # of a process, or of the end of a turn: other processes may have all CPUs
CODE = "from bench.experiments.concurrency import work; work()"


# A process that reads or writes


def work() -> None:
    """Read and write as the lines of the standard input say (a reader's or writer's process); the
    arguments are the addresses of the back-ends."""
    with ExitStack() as stack:
        front_ends = {
            address: stack.enter_context(rnvm.connect(address, timeout=PROCESS_S))
            for address in sys.argv[1:]
        }
        opened: dict[tuple[str, str], Any] = {}
        stack.callback(opened.clear)
        for line in sys.stdin:
            order = json.loads(line)
            kind, address = kind_of(order["kind"]), order["address"]
            fe = front_ends[address]
            if (kind.name, address) not in opened:
                opened[kind.name, address] = kind.structure(fe, kind.name)
            act = ACTS[order["role"]](kind, opened[kind.name, address])
            keys = drawn(KEYS_DRAWN, order["records"])
            print("ready", flush=True)
            sys.stdin.readline()
            figures = repeat(fe, act, keys, order["seconds"])
            fe.release()  # over a network an idle front-end keeps its locks for a lease
            print(json.dumps(figures), flush=True)


def write(kind: Kind, structure: Any) -> Callable[[bytes], Any]:
    """Return the writer's operation: an update of a key; or an addition and a removal by turns, so
    that the structure keeps its size."""
    add = kind.adder(structure, VALUE)
    if kind.mapping:
        return add
    take = kind.taker(structure)
    adds = False

    def by_turns(key: bytes) -> None:
        nonlocal adds
        adds = not adds
        (add if adds else take)(key)

    return by_turns


ACTS: dict[str, Callable[[Kind, Any], Callable[[bytes], Any]]] = {
    "write": write,
    "read": Kind.looker,
}


def repeat(fe: Any, act: Callable[[bytes], Any], keys: list[bytes], seconds: float) -> Figures:
    """Call act(key) for this long: {"rate": per second, "done", "restarts": of queries}."""
    before = fe.figures["restarts"]
    began = now = clock()
    until = began + int(seconds * 1e9)
    done = 0
    while now < until:
        at = done % len(keys)
        some = keys[at : at + CHUNK]
        for key in some:
            act(key)
        done += len(some)
        now = clock()
    return {
        "rate": done * 1e9 / (now - began),
        "done": done,
        "restarts": fe.figures["restarts"] - before,
    }


# The experiment


def counts(most: int | None = None) -> list[int]:
    """Return the numbers of readers: 0, 1, 2, 4 ... and `most`, by default two fewer than there are
    CPUs, for the writer and the back-end, but at least 2."""
    most = most or max(len(os.sched_getaffinity(0)) - 2, 2)
    found = [0, 1]
    while found[-1] * 2 <= most:
        found.append(found[-1] * 2)
    return sorted({*found, most})


def turn(
    setting: Setting,
    address: str,
    writer: OtherProcess,
    readers: list[OtherProcess],
    kind: Kind,
    records: int,
) -> Figures:
    """Let the writer and the readers work side by side: {"write": op/s, "read": op/s of all
    readers, "failed": percent of their reads}."""
    workers = [writer, *readers]
    for worker, role in zip(workers, ["write"] + ["read"] * len(readers)):
        order = {"address": address, "kind": kind.name, "role": role, "records": records}
        worker.send(json.dumps({**order, "seconds": TURN * setting.seconds}))
    for worker in workers:
        worker.hear(2 * PROCESS_S)
    for worker in workers:
        worker.send("go")
    written, *read = (json.loads(worker.hear(2 * PROCESS_S)) for worker in workers)
    restarts = sum(each["restarts"] for each in read)
    tries = restarts + sum(each["done"] for each in read)
    return {
        "write": written["rate"],
        "read": sum(each["rate"] for each in read),
        "failed": 100 * restarts / tries if tries else 0.0,
    }


@contextlib.contextmanager
def sides(setting: Setting, readers: list[int]) -> Iterator[dict[str, Side]]:
    """Yield all numbers of readers of all structures, on one back-end, and the highest number on
    another one with an emulated network.  No process is pinned: there may be more of them than
    CPUs."""
    records = setting.count(RECORDS_READ, 1000)
    most = max(readers)
    with ExitStack() as stack:
        near, far = (
            stack.enter_context(filled(setting, records, most + 3, place))
            for place in (addresses.unique(), pool.emulated(RTT))
        )
        writer, *others = (
            stack.enter_context(OtherProcess(CODE, near, far)) for _ in range(1 + most)
        )
        yield {
            f"{kind.name}, {n}{where}": partial(
                turn, setting, address, writer, others[:n], kind, records
            )
            for kind in STRUCTURES
            for where, address, numbers in (("", near, readers), (EMULATED, far, [most]))
            for n in numbers
        }


@contextlib.contextmanager
def filled(setting: Setting, records: int, front_ends: int, place: Address) -> Iterator[str]:
    """Yield the address of a back-end with so many entries in a structure of each kind."""
    size = (1024 + 16 * front_ends) << 20  # logs take a part of it for each front-end
    unpinned = replace(setting, placement=None)
    with pool.served(
        unpinned,
        size=size,
        front_ends=max(16, front_ends),
        address=place,
        lease=PROCESS_S / 3,  # a process that waits for a CPU is not fenced
    ) as backend:
        with rnvm.connect(backend.address, timeout=PROCESS_S) as fe:
            for kind in STRUCTURES:
                structure = kind.structure(fe, kind.name)
                pool.add_all(fe, kind.adder(structure, VALUE), records)
                del structure
        yield str(backend.address)


def measure(
    setting: Setting, picture: str | Path | None = None, readers: int | None = None
) -> list[Row]:
    """Return three rows for each structure: the reads of all readers, the share that failed, and
    the same share over an emulated network.

    Args:
        readers: the highest number of readers [default: as the CPUs carry]
    """
    numbers = counts(readers)
    with sides(setting, numbers) as all_sides:
        measured = take_turns(all_sides, setting.rounds)
    found = {kind: {n: measured[f"{kind.name}, {n}"] for n in numbers} for kind in STRUCTURES}
    most = numbers[-1]
    far = {kind: measured[f"{kind.name}, {most}{EMULATED}"] for kind in STRUCTURES}
    if picture:
        draw(found, far, picture)
    rows = []
    for kind, figures in found.items():
        beside = f"1 writer, {most} readers"
        rows.append(
            Row(f"{kind.looking}, {beside}", figures[most]["read"], "op/s", note=steps(figures))
        )
        rows.append(
            Row(f"{kind.name}, failed reads, {beside}", figures[most]["failed"], "%",
                bar=0 if kind.versions else PAPER_PERCENT, at_least=False)
        )  # fmt: skip
        rows.append(
            Row(f"{kind.name}, failed reads, {beside}{EMULATED}", far[kind]["failed"], "%",
                None if kind.versions else PAPER_PERCENT,
                "" if kind.versions else "the paper, 6 readers",
                0 if kind.versions else None, at_least=False,
                note=f"{number(far[kind]['read'], 'op/s')}, "
                f"writer {number(far[kind]['write'], 'op/s')}")
        )  # fmt: skip
    return rows


def steps(figures: dict[int, Figures]) -> str:
    """Return a structure's line of the paper's table: for each number of readers the rates and the
    failed reads."""
    alone = figures[0]["write"]
    return "; ".join(
        f"{n} readers: {number(each['read'], 'op/s')}, {each['failed']:.2g} % failed, "
        f"writer {number(each['write'], 'op/s')} ({each['write'] / alone:.2f} x)"
        if n
        else f"writer alone {number(alone, 'op/s')}"
        for n, each in figures.items()
    )


def draw(found: dict[Kind, dict[int, Figures]], far: dict[Kind, Figures], path: str | Path) -> None:
    """Draw the readers' rates and the writer's against the number of readers, and the reads that
    failed beside the highest number."""
    from bench.plot import COLOURS, pyplot, save

    plt = pyplot()
    figure, (*panels, failed) = plt.subplots(1, 3, figsize=(15, 4.4))
    labels = {
        "read": "thousand reads per second, all readers",
        "write": "thousand operations per second, the writer",
    }
    numbers = sorted({n for figures in found.values() for n in figures})
    for axes, (name, label) in zip(panels, labels.items()):
        for i, (kind, figures) in enumerate(found.items()):
            shown = [n for n in numbers if n or name == "write"]
            style = "o-" if i < len(COLOURS) else "s--"
            axes.plot(
                shown,
                [figures[n][name] / 1e3 for n in shown],
                style,
                color=COLOURS[i % len(COLOURS)],
                label=kind.name,
            )
        axes.set_xticks(numbers)
        axes.set_ylim(0)
        axes.set_xlabel("readers")
        axes.set_title(label, fontsize=10, loc="left")
    panels[0].legend(frameon=False, fontsize=8.5)
    places = range(len(found))
    beside = f"{numbers[-1]} readers"
    near = [figures[numbers[-1]]["failed"] for figures in found.values()]
    failed.bar([x - 0.2 for x in places], near, 0.38, color=COLOURS[0], label=beside)
    emulated = [far[kind]["failed"] for kind in found]
    label = beside + EMULATED
    failed.bar([x + 0.2 for x in places], emulated, 0.38, color=COLOURS[4], label=label)
    failed.axhline(PAPER_PERCENT, color=COLOURS[6], linestyle=":", label="the paper, 6 readers")
    failed.set_xticks(places, [kind.name for kind in found], rotation=30, ha="right", fontsize=8.5)
    failed.set_title("reads that failed, percent", fontsize=10, loc="left")
    failed.legend(frameon=False, fontsize=8.5)
    for axes in (*panels, failed):
        axes.grid(color="#dddddd", linewidth=0.7)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    save(figure, path)
