"""Cost per operation from ten thousand to ten million records."""

from __future__ import annotations

from pathlib import Path

from bench._ring_baseline import load_latency
from bench.databases import open_database
from bench.experiments import store
from bench.experiments.keys import properties
from bench.experiments.rows import Figures, Row, Setting, take_turns
from bench.placement import pinned

QUESTION = (
    "Does the cost per operation grow from 10^4 to 10^7 records by more than cache misses explain?"
)
RECORD_COUNTS = (10_000, 100_000, 1_000_000, 10_000_000)
BYTES = 128  # of memory per record, including the index
MISSES = 4  # dependent misses per operation: bucket, record, and the TLB entry of each one's page


def cost(setting: Setting, records: int, window: int) -> Figures:
    """Return the ns per uniform 95/5 operation on this many records, and of a dependent load within
    their memory."""
    memory = max(int(1.25 * BYTES * records), 64 << 20)
    p = properties(records, requestdistribution="uniform", rfp__window=window, rfp__memory=memory,
                   rfp__mode="fetch")  # fmt: skip
    with open_database("rfp", p, private=True, placement=setting.placement) as database:
        store.load(setting, database, p)

        def side() -> Figures:
            rate = store.drive(setting, database, p)["rate"]
            return {"op": 1e9 / rate, "load": load(setting, records)}

        return take_turns({"ours": side}, setting.rounds)["ours"]


def load(setting: Setting, records: int) -> float:
    """Return the ns of a dependent load at random within the memory of this many records, on the
    server's CPU."""
    with pinned(setting.server):
        return load_latency(BYTES * records)


def measure(setting: Setting, picture: str | Path | None = None) -> list[Row]:
    """Return one row per size beyond the first: ns per operation, against the first plus four more
    misses."""
    sizes = [setting.count(records, 1000) for records in RECORD_COUNTS]
    found = {records: cost(setting, records, window=32) for records in sizes}
    first = found[sizes[0]]
    rows = []
    for records in sizes[1:]:
        figures = found[records]
        explained = first["op"] + MISSES * max(figures["load"] - first["load"], 0.0)
        note = (
            f"a dependent load takes {figures['load']:.0f} ns here, {first['load']:.0f} ns "
            f"within {sizes[0]:,} records"
        )
        rows.append(
            Row(f"time per op, {records:,} records", figures["op"] / 1e9, "s", explained / 1e9,
                f"{sizes[0]:,} records + {MISSES} misses", 1, at_least=False, note=note)
        )  # fmt: skip
    if picture:
        draw(found, picture)
    return rows


def draw(found: dict[int, Figures], path: str | Path) -> None:
    """Draw the curve."""
    from bench.plot import COLOURS, pyplot, save, short

    plt = pyplot()
    figure, axes = plt.subplots(figsize=(7, 4.4))
    sizes = sorted(found)
    first = found[sizes[0]]
    axes.plot(
        sizes,
        [found[n]["op"] for n in sizes],
        "o-",
        color=COLOURS[0],
        linewidth=2,
        label="time per operation, window 32",
    )
    explained = [first["op"] + MISSES * max(found[n]["load"] - first["load"], 0.0) for n in sizes]
    axes.plot(
        sizes,
        explained,
        ":",
        color=COLOURS[2],
        linewidth=2,
        label=f"the first, and {MISSES} misses more",
    )
    axes.plot(
        sizes,
        [found[n]["load"] for n in sizes],
        "s--",
        color=COLOURS[6],
        label="one dependent load within their memory",
    )
    axes.set_xscale("log")
    axes.set_ylim(0)
    axes.set_xticks(sizes, [short(n) for n in sizes])
    axes.set_xlabel("records")
    axes.set_ylabel("ns")
    axes.grid(color="#dddddd", linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.tight_layout()
    save(figure, path)
