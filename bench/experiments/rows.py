"""The parts of every experiment: a setting, sides that take turns, rows."""

from __future__ import annotations

import math
import os
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.placement import Placement

Figures = dict[str, float]
Side = Callable[[], Figures]


@dataclass(frozen=True)
class Setting:
    """The parameters of an experiment.  scale: reduces counts, for a quick run; rounds: number of
    rounds for the medians."""

    rounds: int = 5
    scale: float = 1.0
    placement: Placement | None = field(default_factory=Placement.choose)

    def count(self, number: int, least: int = 1) -> int:
        """Return a count, scaled."""
        return max(int(number * self.scale), least)

    @property
    def seconds(self) -> float:
        """The longest duration of one side's turn, so that a busy machine spoils figures and not
        the day."""
        return max(self.scale, 0.02)

    @property
    def records(self) -> int:
        """Number of records of a store, unless the experiment varies it."""
        return self.count(100_000, 2000)

    @property
    def client(self) -> frozenset[int] | None:
        """The CPUs of the clients, None for any."""
        return self.placement.client if self.placement else None

    @property
    def server(self) -> frozenset[int] | None:
        """The CPUs of the servers, None for any."""
        return self.placement.server if self.placement else None


@dataclass
class Row:
    """One line of the table.

    Attributes:
        ratio: the measured value divided by the peer's.
        bar: the bound of the ratio, `at_least` or at most; None if nothing is promised.
        peer: None: the bar is for the measured value itself.
        why: the reason, if nothing was measured.
    """

    name: str
    measured: float | None
    unit: str
    peer: float | None = None
    peer_name: str = ""
    bar: float | None = None
    at_least: bool = True
    note: str = ""
    why: str = ""

    @property
    def ratio(self) -> float | None:
        """The measured value over the peer's, or the value itself if there is no peer."""
        if self.measured is None or (self.peer_name and not self.peer):
            return None
        return self.measured / self.peer if self.peer else self.measured

    @property
    def met(self) -> bool | None:
        """Whether the bar is met; None if there is no bar, or no measurement."""
        if self.bar is None or self.ratio is None or math.isnan(self.ratio):
            return None
        return self.ratio >= self.bar if self.at_least else self.ratio <= self.bar

    def as_json(self) -> dict[str, Any]:
        """Return all fields and the values derived from them."""
        return {**vars(self), "ratio": self.ratio, "met": self.met}


def take_turns(sides: Mapping[str, Side], rounds: int) -> dict[str, Figures]:
    """Call the sides alternately, once more than `rounds` (the first warms up); return the median
    of each figure of each side."""
    seen: dict[str, list[Figures]] = {name: [] for name in sides}
    for turn in range(rounds + 1):
        for name, side in sides.items():
            figures = side()
            if turn:
                seen[name].append(figures)
    return {name: medians(found) for name, found in seen.items()}


def medians(found: Sequence[Figures]) -> Figures:
    """Return the median of each figure."""
    return {key: statistics.median(figures[key] for figures in found) for key in found[0]}


def number(value: float | None, unit: str) -> str:
    """Format a figure with its unit.

    >>> number(1234567, "op/s"), number(0.000000431, "s"), number(16.52e9, "B/s"), number(None, "s")
    ('1.23 Mop/s', '431 ns', '16.5 GB/s', '-')
    """
    if value is None:
        return "-"
    if value:
        prefixes = ("n", "µ", "m") if unit == "s" else ()
        for power, prefix in zip((-9, -6, -3), prefixes):
            if abs(value) < 10.0 ** (power + 3):
                return f"{value / 10.0**power:.3g} {prefix}{unit}"
        if unit != "s":
            for power, prefix in ((9, "G"), (6, "M"), (3, "k")):
                if abs(value) >= 10.0**power and unit not in ("%", "x", ""):
                    return f"{value / 10.0**power:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}".rstrip()


def table(rows: Sequence[Row]) -> str:
    """Return the rows as aligned text."""
    lines = [["what", "measured", "peer", "", "ratio", "bar", ""]]
    for row in rows:
        bar = "-" if row.bar is None else f"{'>=' if row.at_least else '<='} {_bar(row)}"
        ratio = "-" if row.ratio is None or not row.peer_name else f"{row.ratio:.3g} x"
        verdict = {True: "met", False: "MISSED", None: "" if row.bar is None else "not measured"}[
            row.met
        ]
        lines.append(
            [row.name, number(row.measured, row.unit), row.peer_name,
             number(row.peer, row.unit) if row.peer_name else "", ratio, bar, verdict]
        )  # fmt: skip
    widths = [max(len(line[column]) for line in lines) for column in range(7)]
    right = (1, 3, 4)
    texts = [
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths))
        )
        for line in lines
    ]
    notes = [f"{row.name}: {text}" for row in rows for text in (row.note, row.why) if text]
    return "\n".join(
        [
            texts[0].rstrip(),
            "  ".join("-" * width for width in widths),
            *(text.rstrip() for text in texts[1:]),
            *notes,
        ]
    )


def _bar(row: Row) -> str:
    return number(row.bar, row.unit) if not row.peer_name else f"{row.bar:g} x"


def machine() -> dict[str, Any]:
    """Return the properties of the machine that the figures depend on."""
    model = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith(("model name", "Model")):
            model = line.partition(":")[2].strip()
            break
    return {
        "cpu": model or platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 2),
    }
