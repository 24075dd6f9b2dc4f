"""The gain of each of the paper's techniques, over an emulated network."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import rnvm
from bench.experiments import pool
from bench.experiments.keys import drawn
from bench.experiments.pool import BATCH, VALUE
from bench.experiments.rows import Figures, Row, Setting, Side, number, take_turns
from bench.experiments.timing import clock
from bench.kinds import STRUCTURES, Kind
from bench.placement import pinned

QUESTION = (
    "How much do lock, operation log, cache and batches gain over an emulated round trip "
    "of 3 us (AsymNVM, evaluation)?"
)
RTT = "3us"
NAIVE: dict[str, Any] = {"cache": 0, "oplog": False, "lock": "each"}
ABLATION_STEPS: dict[str, dict[str, Any]] = {
    "naive": NAIVE,
    "+ lock kept": {"cache": 0, "oplog": False},
    "+ operation log": {"cache": 0},
    "+ cache": {},
    "+ batch": {},
}
ABLATION_RECORDS = 20_000
TURN = 0.4  # fraction of another experiment's turn: there are many turns


def turn(setting: Setting, address: str, kind: Kind, step: str, keys: list[bytes]) -> Figures:
    """Measure a front-end without the techniques of later steps: {"rate"}."""
    together = step == "+ batch"
    with rnvm.connect(address, timeout=30, **ABLATION_STEPS[step]) as fe, pinned(setting.client):
        act = kind.adder(kind.structure(fe, kind.name), VALUE)
        done, began = 0, clock()
        now, until = began, began + int(TURN * setting.seconds * 1e9)
        while now < until:
            at = done % len(keys)
            with fe.batch() if together else contextlib.nullcontext():
                for key in keys[at : at + BATCH]:
                    act(key)
            done += BATCH
            now = clock()
        del act
        if not kind.mapping:
            fe.drop(kind.name)  # it would grow from turn to turn
    return {"rate": done * 1e9 / (now - began)}


@contextlib.contextmanager
def sides(setting: Setting) -> Iterator[dict[str, Side]]:
    """Yield all steps of all structures, on one back-end that never sleeps: only the network must
    count."""
    records = setting.count(ABLATION_RECORDS, 2000)
    keys = drawn(ABLATION_RECORDS, records)
    with pool.served(setting, address=pool.emulated(RTT), idle="spin", size=1 << 30) as backend:
        with rnvm.connect(backend.address, timeout=30) as fe:
            for kind in STRUCTURES:
                if kind.mapping:
                    pool.fill(fe, kind.structure(fe, kind.name), records)
        yield {
            f"{kind.name}, {step}": partial(turn, setting, backend.address, kind, step, keys)
            for kind in STRUCTURES
            for step in ABLATION_STEPS
        }


def measure(setting: Setting, picture: str | Path | None = None) -> list[Row]:
    """Return a row for each structure, with its steps in the note."""
    with sides(setting) as all_sides:
        measured = take_turns(all_sides, setting.rounds)
    found = {
        kind.adding: {step: measured[f"{kind.name}, {step}"]["rate"] for step in ABLATION_STEPS}
        for kind in STRUCTURES
    }
    if picture:
        draw(found, picture)
    return [
        Row(
            f"{name}, emulated {RTT}",
            rates["+ batch"],
            "op/s",
            rates["naive"],
            "naive, emulated",
            6,
            note=steps(rates),
        )
        for name, rates in found.items()
    ]


def steps(rates: dict[str, float]) -> str:
    """Return a structure's line of the paper's table: the rate with each further technique, and its
    ratio to naive's."""
    return "; ".join(
        f"{step} {number(rate, 'op/s')} ({rate / rates['naive']:.2f} x)"
        for step, rate in rates.items()
    )


def draw(found: dict[str, dict[str, float]], path: str | Path) -> None:
    """Draw the same figures as bars."""
    from bench.plot import COLOURS, pyplot, save

    plt = pyplot()
    figure, axes = plt.subplots(figsize=(2.4 + 1.9 * len(found), 4.8))
    width = 0.8 / len(ABLATION_STEPS)
    for i, step in enumerate(ABLATION_STEPS):
        places = [
            group + (i - (len(ABLATION_STEPS) - 1) / 2) * width for group in range(len(found))
        ]
        rates = [found[name][step] / 1e3 for name in found]
        axes.bar(places, rates, width * 0.95, color=COLOURS[i], label=step)
        for place, rate, name in zip(places, rates, found):
            axes.annotate(
                f"{rate * 1e3 / found[name]['naive']:.1f}x",
                (place, rate),
                ha="center",
                va="bottom",
                fontsize=7,
            )
    axes.set_xticks(range(len(found)), list(found))
    axes.set_ylabel("thousand durable operations per second")
    axes.set_title(
        f"one front-end, emulated network with a round trip of {RTT}",
        fontsize=10,
        loc="left",
        pad=24,
    )
    axes.grid(axis="y", color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(
        frameon=False,
        fontsize=8.5,
        ncols=len(ABLATION_STEPS),
        loc="lower left",
        bbox_to_anchor=(0, 1.0),
        borderaxespad=0.2,
    )
    figure.tight_layout()
    save(figure, path)
