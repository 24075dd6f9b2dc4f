"""`rfp top`: live figures of a server."""

from __future__ import annotations

import shutil
import sys
import time
from dataclasses import dataclass
from typing import Any

import click

import rfp
from rfp.cli.options import DURATION_TYPE, Target, connected
from rfp.cli.stats import OPERATIONS, fetch, heading
from rfp.cli.text import bar, clock, grouped, share, short, size, table

# The terminal: the alternate screen and no cursor while it runs; each picture overwrites the last,
# so that nothing flickers.
ENTER, LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
HOME, END_OF_LINE, END_OF_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"

RATES_SHOWN = ("all", "hit rate", "refused", "evicted", "expired")  # beside the operations


@dataclass(frozen=True)
class Sample:
    """The server's counters at one moment."""

    time: float  # seconds
    figures: dict[str, Any]

    @classmethod
    def take(cls, kv: rfp.Client, timeout: float) -> Sample:
        return cls(time.monotonic(), fetch(kv, timeout))


@click.command()
@click.option(
    "--interval",
    "-i",
    type=DURATION_TYPE,
    default="1s",
    show_default=True,
    help="Refresh interval.",
)
@click.option(
    "--once", is_flag=True, help="Print one sample and exit (default if stdout is not a terminal)."
)
@connected
def top(target: Target, interval: float, once: bool) -> None:
    """Watch a server: rates, hits, memory, workers, clients.  Press Ctrl-C to quit.

    \b
    Examples:
      rfp top
      rfp top --interval 200ms
      rfp top --once | mail -s "the cache today" ops
    """
    with target.connect(reconnect=True) as kv:
        label = target.emulated
        if once or not sys.stdout.isatty():
            before = Sample.take(kv, target.timeout)
            time.sleep(interval)
            click.echo("\n".join(render(before, Sample.take(kv, target.timeout), label)))
            return
        sys.stdout.write(ENTER)
        try:
            watch(kv, target.timeout, interval, label)
        except KeyboardInterrupt:
            pass
        finally:
            sys.stdout.write(LEAVE)
            sys.stdout.flush()


def watch(kv: rfp.Client, timeout: float, interval: float, label: str) -> None:
    """Draw until interrupted."""
    before = Sample.take(kv, timeout)
    pause = min(interval, 0.2)  # the first picture comes soon
    while True:
        time.sleep(pause)
        now = Sample.take(kv, timeout)
        # Before Python 3.11 a terminal without a size is reported as 0 x 0.
        width, height = (
            given or usual
            for given, usual in zip(shutil.get_terminal_size(), (80, 24), strict=True)
        )
        lines = [line[:width] for line in render(before, now, label)][: height - 1]
        sys.stdout.write(
            HOME + "".join(line + END_OF_LINE + "\n" for line in lines) + END_OF_SCREEN
        )
        sys.stdout.flush()
        before, pause = now, interval


def render(before: Sample, now: Sample, label: str = "") -> list[str]:
    """Return the picture: the changes between two samples, and the state at the second."""
    figures = now.figures
    rate = Rates(before, now)
    first, *rest = heading(figures["server"])
    used, total = figures["bytes_used"], figures["bytes_total"]
    rates = [
        *(short(rate(name)) for name in OPERATIONS),
        short(sum(rate(name) for name in OPERATIONS)),
        share(rate("hits"), rate("hits") + rate("misses")),
        *(short(rate(name)) for name in ("refused", "evictions", "expirations")),
    ]
    return [
        first + label,
        *rest,
        *table(
            ["a second:", *OPERATIONS, "all", "hit rate", "refused", "evicted", "expired"],
            [["", *rates]],
            "<" + ">" * len(rates),
        ),
        "",
        (
            f"memory {bar(used, total, 30)} {share(used, total)} of {size(total)}, "
            f"index {size(figures['index_bytes'])}"
        ),
        (
            f"{grouped(figures['records'])} records, {figures['pins']} pins, "
            f"{figures['uploads']} uploads"
        ),
        "",
        *table(
            ["worker", "busy", "requests/s", "sleeps/s", "records", "memory"],
            rate.workers(),
            "<>>>>>",
        ),
        "",
        *table(["client", "process", "threads", "connected"], clients(figures["server"]), "<>>>"),
    ]


def clients(server: dict[str, Any]) -> list[list[str]]:
    """Return a row for each client process."""
    now = time.time()
    return [
        # An older server reports the start instead, by a clock that may have been set since.
        [
            each["name"] or "-",
            str(each["pid"]),
            str(each["threads"]),
            clock(max(0.0, each.get("connected", now - each["since"]))),
        ]
        for each in server["clients"]
    ]


class Rates:
    """Counts per second between two samples; from zero, if the first was of another server."""

    def __init__(self, before: Sample, now: Sample) -> None:
        self.same = before.figures["server"]["pid"] == now.figures["server"]["pid"]
        self.before, self.now = before.figures, now.figures
        self.seconds = max(
            now.time - before.time if self.same else now.figures["server"]["uptime"], 1e-9
        )

    def between(self, earlier: float, later: float) -> float:
        return max(0.0, later - (earlier if self.same else 0)) / self.seconds

    def __call__(self, name: str) -> float:
        return self.between(self.before[name], self.now[name])

    def workers(self) -> list[list[str]]:
        """Return a row for each worker."""
        rows = []
        workers, partitions = self.now["server"]["workers"], self.now["partitions"]
        earlier = self.before["server"]["workers"] if self.same else [{} for _ in workers]
        for i, (worker, old, partition) in enumerate(
            zip(workers, earlier, partitions, strict=False)
        ):
            busy, served, sleeps = (
                self.between(old.get(name, 0), worker[name])
                for name in ("busy", "served", "sleeps")
            )
            used = share(partition["bytes_used"], partition["bytes_total"])
            rows.append(
                [
                    str(i),
                    share(busy, 1),
                    short(served),
                    short(sleeps),
                    grouped(partition["records"]),
                    used,
                ]
            )
        return rows
