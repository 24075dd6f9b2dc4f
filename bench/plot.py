"""Charts of results: throughput as bars, latency percentiles, both on logarithmic scales."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.exporters import check_writable
from rfp.errors import InvalidArgument

if TYPE_CHECKING:
    from bench.compare import Comparison
    from bench.results import Result

# Also distinct for colour-blind readers (Okabe and Ito), the first for the first database named.
COLOURS = ("#0072B2", "#56B4E9", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#666666")
MARKS = {
    50.0: ("o", 7.5, "median"),
    95.0: ("_", 9, "p95"),
    99.0: ("D", 4.5, "p99"),
    99.9: ("^", 5.5, "p99.9"),
}


def pyplot() -> Any:
    """Return matplotlib.pyplot, set up to draw to files.

    Raises:
        InvalidArgument: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError:
        raise InvalidArgument(
            "pictures need matplotlib", hint="run `pip install matplotlib`, or omit --plot"
        ) from None
    matplotlib.use("Agg")
    import matplotlib.pyplot

    return matplotlib.pyplot


def check_picture(path: str | Path) -> None:
    """Verify, before any measurement, that a picture can be drawn.

    Raises:
        InvalidArgument: matplotlib is not installed, has no format of this suffix, or the file
            cannot be written.
    """
    figure = pyplot().figure()
    formats = figure.canvas.get_supported_filetypes()
    pyplot().close(figure)
    suffix = Path(path).suffix[1:].lower()
    if suffix not in formats:
        raise InvalidArgument(
            f"cannot draw {path}: its suffix must be one of {', '.join(sorted(formats))}, "
            f"got {suffix!r}",
            hint="give a path that ends in .png, .svg or .pdf",
        )
    check_writable(path)


def short(number: float) -> str:
    """1530000 -> 1.53M, 17234 -> 17.2k."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:.3g}{unit}"
    return f"{number:.3g}"


def microseconds(us: float, _position: object = None) -> str:
    """0.5 -> 500 ns, 12 -> 12 us, 2500 -> 2.5 ms."""
    for limit, unit in ((1e6, "s"), (1e3, "ms"), (1, "µs")):
        if us >= limit:
            return f"{us / limit:g} {unit}"
    return f"{us * 1e3:g} ns"


def plot_comparisons(comparisons: Sequence[Comparison], path: str | Path) -> None:
    """Draw throughput above, latency below, one group per workload."""
    from bench.compare import metric_of

    plt = pyplot()
    named = {
        standing.contestant.label: standing
        for comparison in comparisons
        for standing in comparison.standings
    }
    labels = list(named.values())
    width = 0.8 / max(len(labels), 1)
    figure, (above, below) = plt.subplots(
        2,
        1,
        figsize=(max(8.0, 2.0 + 0.52 * len(labels) * len(comparisons)), 8.0),
        sharex=True,
        height_ratios=(1, 1.1),
    )
    for i, model in enumerate(labels):
        colour = COLOURS[i % len(COLOURS)]
        name = model.contestant.label + (f", emulated {model.emulated}" if model.emulated else "")
        first = True
        for group, comparison in enumerate(comparisons):
            standing = next(
                (s for s in comparison.standings if s.contestant.label == model.contestant.label),
                None,
            )
            if standing is None:
                continue
            x = group + (i - (len(labels) - 1) / 2) * width
            above.bar(
                x,
                standing.throughput,
                width * 0.9,
                color=colour,
                label=f"{name}  ({standing.client})" if first else None,
            )
            above.annotate(
                short(standing.throughput),
                (x, standing.throughput),
                (0, 3),
                textcoords="offset points",
                ha="center",
                fontsize=7.5,
            )
            _latency(below, x, standing, metric_of(comparison), colour)
            first = False
    _dress(above, below, comparisons, [metric_of(comparison) for comparison in comparisons])
    rounds = max(
        (len(standing.rounds) for comparison in comparisons for standing in comparison.standings),
        default=0,
    )
    figure.suptitle(
        f"YCSB core workloads, medians of {rounds} alternating rounds",
        x=0.01,
        ha="left",
        fontsize=13,
        fontweight="bold",
    )
    figure.tight_layout()
    save(figure, path)


def _latency(axes: Any, x: float, standing: Any, metric: str, colour: str) -> None:
    points = [(p, value) for p in MARKS if (value := standing.latency(metric, p)) is not None]
    if points:
        axes.plot(
            [x, x],
            [points[0][1], points[-1][1]],
            color=colour,
            linewidth=1.6,
            alpha=0.55,
            solid_capstyle="butt",
        )
    for p, value in points:
        mark, size, _ = MARKS[p]
        axes.plot(
            x,
            value,
            marker=mark,
            markersize=size,
            color=colour,
            markeredgewidth=2 if mark == "_" else 0,
        )


def _dress(
    above: Any, below: Any, comparisons: Sequence[Comparison], metrics: Sequence[str]
) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.ticker import FuncFormatter

    for axes in (above, below):
        axes.set_yscale("log")
        axes.grid(axis="y", color="#dddddd", linewidth=0.7)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(axis="x", length=0)
    rates = [
        standing.throughput
        for comparison in comparisons
        for standing in comparison.standings
        if standing.throughput > 0
    ]
    # From the power of ten below the least value, so that every bar has a length to compare.
    above.set_ylim(
        10 ** math.floor(math.log10(min(rates, default=1)) - 0.3), max(rates, default=1) * 3
    )
    above.set_ylabel("operations per second")
    above.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    above.legend(
        frameon=False,
        fontsize=8.5,
        ncols=2,
        loc="lower left",
        bbox_to_anchor=(0, 1.0),
        borderaxespad=0.2,
    )
    below.set_ylabel("latency")
    below.yaxis.set_major_formatter(FuncFormatter(microseconds))
    below.set_xticks(
        range(len(comparisons)),
        [
            f"{comparison.workload}\n({metric.lower()} latency)"
            for comparison, metric in zip(comparisons, metrics, strict=False)
        ],
    )
    marks = [
        Line2D(
            [],
            [],
            color="#444444",
            marker=mark,
            markersize=size,
            linestyle="",
            markeredgewidth=2 if mark == "_" else 0,
            label=label,
        )
        for mark, size, label in MARKS.values()
    ]
    below.legend(
        handles=marks,
        frameon=False,
        fontsize=8.5,
        ncols=4,
        loc="lower left",
        bbox_to_anchor=(0, 1.0),
        borderaxespad=0.2,
    )


def plot_result(result: Result, path: str | Path) -> None:
    """Draw the throughput of one phase, and its latencies by percentile, one line per kind of
    operation."""
    plt = pyplot()
    from matplotlib.ticker import FuncFormatter

    figure, (bar, curve) = plt.subplots(1, 2, figsize=(10, 4.6), width_ratios=(1, 3.2))
    bar.bar([0], [result.throughput], 0.5, color=COLOURS[0])
    bar.annotate(
        short(result.throughput),
        (0, result.throughput),
        (0, 3),
        textcoords="offset points",
        ha="center",
    )
    bar.set_xlim(-0.6, 0.6)
    bar.set_ylim(0, result.throughput * 1.15 or 1)
    bar.set_xticks(
        [0], [f"{result.threads} thread{'s' * (result.threads != 1)}, window {result.window}"]
    )
    bar.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    bar.set_ylabel("operations per second")
    nines = [0.0, 50.0, 90.0, 99.0, 99.9, 99.99, 99.999]
    shown = [metric for metric in result.metrics if metric.name not in ("VERIFY", "CLEANUP")]
    most = max((metric.done.count for metric in shown), default=0)
    # A percentile beyond the last value of a histogram has no meaning.
    reach = [p for p in nines if most * (1 - p / 100) >= 1] or [0.0]
    for i, metric in enumerate(shown):
        for kind, style in (("done", "-"), ("intended", ":")):
            histogram = getattr(metric, kind)
            if not histogram.count:
                continue
            points = [p for p in _between(reach) if histogram.count * (1 - p / 100) >= 1]
            name = metric.name.lower() + (", since intended" if kind == "intended" else "")
            curve.plot(
                [_depth(p) for p in points],
                [histogram.percentile(p) / 1e3 for p in points],
                style,
                color=COLOURS[i % len(COLOURS)],
                label=name,
                linewidth=2,
            )
    curve.set_yscale("log")
    curve.set_xticks([_depth(p) for p in reach], [f"{p:g} %" for p in reach])
    curve.yaxis.set_major_formatter(FuncFormatter(microseconds))
    curve.set_xlabel("share of the operations that took at most ...")
    curve.set_ylabel("latency")
    curve.grid(color="#dddddd", linewidth=0.7)
    curve.legend(frameon=False)
    for axes in (bar, curve):
        axes.spines[["top", "right"]].set_visible(False)
    emulated = f", emulated network {result.emulated}" if result.emulated else ""
    title = f"{result.database} ({result.client}), {result.phase} {result.workload}{emulated}"
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
    figure.tight_layout()
    save(figure, path)


def _depth(p: float) -> float:
    """Return the position of a percentile on the axis: each further nine takes the same room."""
    return -math.log10(1 - p / 100)


def _between(reach: Sequence[float]) -> list[float]:
    """Return percentiles at even steps of the axis, up to the last of `reach`."""
    steps = int(_depth(reach[-1]) * 20)
    return [100 * (1 - 10 ** (-step / 20)) for step in range(steps + 1)]


def save(figure: Any, path: str | Path) -> None:
    """Write a figure in the format of the path's suffix, and close it."""
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise InvalidArgument(
            f"cannot draw {path}: {error}", hint="give a path that ends in .png, .svg or .pdf"
        ) from None
    finally:
        pyplot().close(figure)
