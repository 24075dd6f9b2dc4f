"""The measurements of a phase, and the rows that every output format prints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from bench._histogram import Histogram
from bench._tally import METRIC_NAMES, Tally

Row = tuple[str, str, "int | float | str"]
Kind = Literal["done", "intended", "failed"]
TALLY_KINDS: tuple[Kind, ...] = ("done", "intended", "failed")


@dataclass
class Metric:
    """One kind of operation: its latencies, and the status of its operations."""

    name: str
    done: Histogram
    intended: Histogram
    failed: Histogram
    returns: dict[str, int]


@dataclass
class Result:
    """One phase of one database.  runtime: ns; verbs: the counters of the clients' rings, if they
    count."""

    database: str
    client: str
    phase: str
    workload: str
    threads: int
    window: int
    runtime: int
    operations: int
    metrics: list[Metric]
    emulated: str = ""
    interrupted: bool = False
    records: int = 0
    intervals: list[tuple[float, float, dict[str, Histogram]]] = field(default_factory=list)
    verbs: dict[str, int] = field(default_factory=dict)

    @property
    def throughput(self) -> float:
        """Operations per second."""
        return self.operations * 1e9 / self.runtime if self.runtime else 0.0

    def metric(self, name: str) -> Metric | None:
        """Return the metric with this name, or None if it has no measurement."""
        return next((metric for metric in self.metrics if metric.name == name), None)

    def rows(
        self,
        percentiles: Sequence[float] = (50, 95, 99),
        *,
        interval: str = "op",
        verbose: bool = False,
    ) -> Iterator[Row]:
        """Return (metric, measure, value) as YCSB prints them, times in us with decimals.
        interval: op, intended or both."""
        yield "OVERALL", "RunTime(ms)", round(self.runtime / 1e6, 3)
        yield "OVERALL", "Throughput(ops/sec)", round(self.throughput, 3)
        if self.emulated:
            yield "OVERALL", "Network", f"emulated ({self.emulated})"
        if self.interrupted:
            yield "OVERALL", "Interrupted", 1
        if any(self.verbs.values()) and self.operations:
            # The paper's round trips per call (RFP, figure 10: 2.005): a WRITE, and READs until the
            # result is there.
            yield "VERBS", "CallsPerOperation", round(self.verbs["calls"] / self.operations, 3)
            yield "VERBS", "WritesPerOperation", round(self.verbs["writes"] / self.operations, 3)
            yield "VERBS", "ReadsPerOperation", round(self.verbs["reads"] / self.operations, 3)
            yield "VERBS", "ModeSwitches", self.verbs["switches"]
        for metric in self.metrics:
            first = metric.intended if interval == "intended" else metric.done
            yield from _latencies(metric.name, first, percentiles, verbose)
            for status, times in metric.returns.items():
                yield metric.name, f"Return={status}", times
            if interval == "both" and metric.intended.count:
                yield from _latencies(
                    f"Intended-{metric.name}", metric.intended, percentiles, verbose
                )
            if metric.failed.count:
                yield from _latencies(f"{metric.name}-FAILED", metric.failed, percentiles, verbose)


def _latencies(
    name: str, histogram: Histogram, percentiles: Sequence[float], verbose: bool
) -> Iterator[Row]:
    yield name, "Operations", histogram.count
    yield name, "AverageLatency(us)", round(histogram.mean / 1e3, 3)
    yield name, "MinLatency(us)", histogram.minimum / 1e3
    yield name, "MaxLatency(us)", histogram.maximum / 1e3
    for p in percentiles:
        yield name, f"{ordinal(p)}PercentileLatency(us)", histogram.percentile(p) / 1e3
    if verbose:
        for value, times in histogram.buckets():
            yield name, f"{value / 1e3}", times


def ordinal(p: float) -> str:
    """Format a percentile as YCSB does: 50 -> 50th, 91 -> 91st, 99.9 -> 99.9."""
    if p != int(p):
        return str(p)
    suffix = "th" if 10 <= p % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(int(p) % 10, "th")
    return f"{int(p)}{suffix}"


def merge(tallies: Sequence[Tally]) -> list[Metric]:
    """Return the metrics of all threads together; those without a count are left out."""
    metrics = []
    for what, name in enumerate(METRIC_NAMES):
        returns: dict[str, int] = {}
        for tally in tallies:
            for status, times in tally.returns(what).items():
                returns[status] = returns.get(status, 0) + times
        if returns:
            done, intended, failed = (total_of(tallies, what, kind) for kind in TALLY_KINDS)
            metrics.append(Metric(name, done, intended, failed, returns))
    return metrics


def total_of(tallies: Sequence[Tally], what: int, kind: Kind) -> Histogram:
    """Return one histogram of one metric, of all threads together."""
    total = Histogram()
    for tally in tallies:
        total.add(tally.histogram(what, kind))
    return total
