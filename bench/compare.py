"""Several databases side by side: alternating rounds, medians, ratios."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from bench import phases
from bench.databases import Database, open_database, settings
from bench.peers.process import PeerMissing
from bench.placement import Placement, pinned
from bench.properties import Properties, find_workload, parse, read
from bench.results import Result

POINTS = (50.0, 95.0, 99.0, 99.9)


@dataclass(frozen=True)
class Contestant:
    """A database with settings of its own: `rfp`, or `rfp,rfp.window=32`."""

    label: str
    name: str
    given: dict[str, str]

    @classmethod
    def parse(cls, text: str) -> Contestant:
        """Parse a contestant of the command line.

        Raises:
            InvalidArgument: unknown database, or invalid setting.
        """
        name, *own = text.split(",")
        given = settings(name)
        for setting in own:
            given |= read((), [setting]).given
        return cls(text, name, given)


@dataclass
class Standing:
    """The rounds of one contestant on one workload."""

    contestant: Contestant
    client: str
    emulated: str
    rounds: list[Result] = field(default_factory=list)

    @property
    def throughput(self) -> float:
        """Operations per second: the median of the rounds."""
        return statistics.median(result.throughput for result in self.rounds)

    def latency(self, metric: str, p: float) -> float | None:
        """Return a percentile in us: the median of the rounds; None if the metric has no
        measurement."""
        found = [result.metric(metric) for result in self.rounds]
        values = [each.done.percentile(p) / 1e3 for each in found if each and each.done.count]
        return statistics.median(values) if values else None

    @property
    def failures(self) -> int:
        """Number of operations that did not end with OK, in all rounds, including those of
        VERIFY."""
        return sum(
            times
            for result in self.rounds
            for metric in result.metrics
            for how, times in metric.returns.items()
            if how != "OK"
        )


@dataclass
class Comparison:
    """One workload."""

    workload: str
    standings: list[Standing]

    def ratio(self, standing: Standing) -> float:
        """Return the first contestant's throughput divided by this one's."""
        return (
            self.standings[0].throughput / standing.throughput
            if standing.throughput
            else float("inf")
        )


def compare(
    contestants: Sequence[Contestant],
    workloads: Sequence[str],
    properties: Properties,
    *,
    rounds: int = 3,
    seconds: float = 1.0,
    pin: bool = True,
    say: Callable[[str], None] = lambda line: None,
    skipped: Callable[[Contestant, PeerMissing], None] | None = None,
    progress: bool = False,
) -> list[Comparison]:
    """Load each database once per workload, then run them alternately, `rounds` times, each turn at
    most `seconds` long.

    A run that inserts passes the new number of records to the next run of the same database.

    Args:
        skipped: called for a database whose program or package is missing, which is then left out
            (None: raise).

    Raises:
        PeerMissing: a program or package is missing, and `skipped` is None.
        InvalidArgument: invalid properties, or a database that cannot run a workload.
        Any error of the databases.
    """
    placement = Placement.choose() if pin else None
    found = []
    left_out: set[str] = set()
    for workload in workloads:
        path = find_workload(workload)
        given = parse(path.read_text(encoding="utf-8")) | properties.given
        name = path.name
        standings: list[tuple[Standing, Database, Properties]] = []
        with ExitStack() as stack:
            for contestant in contestants:
                if contestant.label in left_out:
                    continue
                own = Properties(given | contestant.given)
                try:
                    database = open_database(
                        contestant.name, own, private=True, placement=placement
                    )
                except PeerMissing as missing:
                    if skipped is None:
                        raise
                    skipped(contestant, missing)
                    left_out.add(contestant.label)
                    continue
                stack.enter_context(database)
                standings.append(
                    (Standing(contestant, database.client, database.emulated), database, own)
                )
            stack.enter_context(pinned(placement.client if placement else None))
            _alternate(standings, name, rounds, seconds, say, progress)
        found.append(Comparison(name, [standing for standing, _, _ in standings]))
    return found


def _alternate(
    standings: Sequence[tuple[Standing, Database, Properties]],
    workload: str,
    rounds: int,
    seconds: float,
    say: Callable[[str], None],
    progress: bool,
) -> None:
    known = {}
    for standing, database, own in standings:
        say(f"{workload}: load {own['recordcount']:,} records into {standing.contestant.label}")
        known[standing.contestant.label] = phases.load(
            database, own.with_(target=0), workload=workload, progress=progress
        ).records
    for turn in range(rounds):
        for standing, database, own in standings:
            say(f"{workload}: round {turn + 1} of {rounds}, {standing.contestant.label}")
            result = phases.run(
                database,
                own,
                workload=workload,
                known=known[standing.contestant.label],
                seconds=seconds,
                progress=progress,
            )
            known[standing.contestant.label] = result.records
            standing.rounds.append(result)
            if result.interrupted:
                raise KeyboardInterrupt


def metric_of(comparison: Comparison) -> str:
    """Return the metric whose latency represents a workload: reads or scans if there are any."""
    for metric in ("READ", "SCAN", "UPDATE", "INSERT"):
        if any(standing.latency(metric, 50) is not None for standing in comparison.standings):
            return metric
    return "READ"


def table(comparison: Comparison) -> str:
    """Return a comparison as aligned text: throughput, ratio of the first contestant, latency in
    us."""
    metric = metric_of(comparison)
    first = comparison.standings[0].contestant.label if comparison.standings else ""
    head = [
        "database",
        "client",
        "ops/s",
        f"{first} does",
        *(f"{metric} p{p:g}" for p in POINTS),
        "failed",
    ]
    lines = [head]
    for standing in comparison.standings:
        label = standing.contestant.label + (
            f" (emulated {standing.emulated})" if standing.emulated else ""
        )
        latencies = [standing.latency(metric, p) for p in POINTS]
        lines.append(
            [
                label,
                standing.client,
                f"{standing.throughput:,.0f}",
                f"{comparison.ratio(standing):.3g} x",
                *("-" if value is None else f"{value:,.2f}" for value in latencies),
                f"{standing.failures}",
            ]
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    texts = []
    for line in lines:
        sized = enumerate(zip(line, widths, strict=True))
        cells = [
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in sized
        ]
        texts.append("  ".join(cells).rstrip())
    return "\n".join([texts[0], "  ".join("-" * width for width in widths), *texts[1:]])


def as_json(comparisons: Sequence[Comparison]) -> list[dict[str, Any]]:
    """Return every number of the tables, and those of the single rounds."""
    return [
        {
            "workload": comparison.workload,
            "database": standing.contestant.label,
            "client": standing.client,
            "emulated": standing.emulated,
            "throughput": standing.throughput,
            "first_does_times_as_much": comparison.ratio(standing),
            "latency_us": {
                metric: {f"{p:g}": standing.latency(metric, p) for p in POINTS}
                for metric in ("READ", "UPDATE", "INSERT", "READ-MODIFY-WRITE", "SCAN")
                if standing.latency(metric, 50) is not None
            },
            "failed": standing.failures,
            "rounds": [round(result.throughput, 3) for result in standing.rounds],
        }
        for comparison in comparisons
        for standing in comparison.standings
    ]
