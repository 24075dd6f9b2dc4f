"""The applications of the papers on persistent structures: workers in processes and threads.

Each worker thread has a front-end.  It draws transactions until its time is over and records the
latency of each type.  With `kill`, processes are killed with SIGKILL meanwhile and replaced.  Each
thread keeps a journal, a file to which it appends a line before it ends a transaction that changes
a total, and another one when the transaction is acknowledged.  So the check at the end knows the
changes that must hold, and for each killed thread the one that may hold or not.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import random
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import click

import rnvm
from bench._histogram import Histogram
from bench.databases.rnvm import MEMORY
from bench.experiments.other_process import OtherProcess
from bench.exporters import check_writable, write_file
from bench.placement import Placement
from bench.plot import COLOURS, check_picture, pyplot, save
from rfp import address as addresses
from rfp.cli.group import Program
from rfp.cli.text import grouped, plural, table
from rfp.errors import (
    ConnectionFailed,
    DeadlineExceeded,
    InvalidArgument,
    OutcomeUnknown,
    RfpError,
)
from rnvm import pools
from rnvm.format.partitions import MAPPING_PARTS_MAX

KILLS_PER_SECOND = 4
PERCENTILES = (50.0, 99.0)
WORKER = "from bench.experiments.application import work; work()"
STARTED_S = 120  # until a worker has connected


@dataclass(frozen=True)
class Run:
    """The options of a run; `application` is the module's name.

    Attributes:
        skew: theta of the zipfian distribution of accounts or subscribers; 0: that of the paper.
        mix: weight of each type of transaction.
    """

    application: str
    records: int
    processes: int = 2
    threads: int = 1
    seconds: float = 5.0
    skew: float = 0.0
    partitions: int = 8
    mix: dict[str, float] = field(default_factory=dict)
    kill: bool = False
    seed: int = 1
    address: str = ""
    folder: str = ""
    timeout: float = 30.0
    lock: str = "sticky"


class Aborted(Exception):
    """The application ends a transaction without an effect: no such row, too little money."""


class Drawn:
    """Records 0 to n - 1: uniform, or zipfian with the hot ones scattered."""

    def __init__(self, records: int, theta: float, rng: random.Random) -> None:
        self.records, self.theta, self.rng = records, theta, rng
        if not theta:
            return
        # Gray et al., "Quickly generating billion-record synthetic databases".
        self.zeta = sum(1 / (n + 1) ** theta for n in range(records))
        self.alpha = 1 / (1 - theta)
        two = 1 + 0.5**theta
        self.eta = (1 - (2 / records) ** (1 - theta)) / (1 - two / self.zeta) if records > 2 else 1
        self.two = two

    def draw(self) -> int:
        """Return a record."""
        if not self.theta:
            return self.rng.randrange(self.records)
        place = self.rng.random() * self.zeta
        if place < 1:
            rank = 0
        elif place < self.two:
            rank = 1
        else:
            part = self.eta * place / self.zeta - self.eta + 1
            rank = min(int(self.records * part**self.alpha), self.records - 1)
        return rank * 2654435761 % self.records if self.records % 2654435761 else rank


class Journal:
    """What a thread is about to commit and what was acknowledged, in order; it survives SIGKILL."""

    def __init__(self, path: Path) -> None:
        self.file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)

    @contextlib.contextmanager
    def commit(self, change: int) -> Iterator[None]:
        """Note a change before the transaction ends in this context, and its end."""
        os.write(self.file, b"? %d\n" % change)
        try:
            yield
        except (OutcomeUnknown, DeadlineExceeded):
            os.write(self.file, b"u\n")
            raise
        except BaseException:
            os.write(self.file, b"-\n")
            raise
        os.write(self.file, b"+\n")

    def close(self) -> None:
        """Close the file."""
        os.close(self.file)


def journalled(folder: Path) -> tuple[int, list[int]]:
    """Return the sum of the acknowledged changes, and the changes of unknown outcome."""
    total, unknown = 0, []
    for path in sorted(folder.glob("*.journal")):
        open_change: int | None = None
        for line in path.read_bytes().splitlines():
            if line.startswith(b"? "):
                open_change = int(line[2:])
            elif open_change is not None:
                if line == b"+":
                    total += open_change
                elif line == b"u":
                    unknown.append(open_change)
                open_change = None
        if open_change is not None:
            unknown.append(open_change)
    return total, [change for change in unknown if change]


def possible(total: int, unknown: Sequence[int]) -> set[int]:
    """Return all totals that are possible: each unknown change has happened or not."""
    found = {total}
    for change in unknown:
        found |= {each + change for each in found}
        if len(found) > 1_000_000:
            raise RfpError("too many transactions of unknown outcome to check the total")
    return found


class Application:
    """One front-end with the application's tables; a module's `Tables` is derived from this."""

    def __init__(self, fe: Any, run: Run, rng: random.Random, journal: Journal | None) -> None:
        self.fe, self.run, self.rng, self._journal = fe, run, rng, journal
        self.drawn = Drawn(run.records, run.skew, rng)

    @contextlib.contextmanager
    def transaction(self, *structures: Any, change: list[int] | None = None) -> Iterator[None]:
        """Run a transaction; change: one number that the body sets, for the journal."""
        scope = self.fe.transaction(*structures)
        scope.__enter__()
        try:
            yield
        except BaseException:
            scope.__exit__(*sys.exc_info())
            raise
        if change is None or self._journal is None:
            scope.__exit__(None, None, None)
            return
        with self._journal.commit(sum(change)):
            scope.__exit__(None, None, None)


# A worker process


def drive(application: Any, run: Run, until: float, tally: dict[str, Any]) -> None:
    """Run transactions until a moment of the monotonic clock."""
    types = dict.fromkeys(application.MIX, 0.0) | (run.mix or application.MIX)
    names, weights = list(types), list(types.values())
    functions = {name: getattr(application, name) for name in names}
    clock = time.perf_counter_ns
    while time.monotonic() < until:
        for name in application.rng.choices(names, weights, k=16):
            began = clock()
            try:
                functions[name]()
            except Aborted:
                tally["aborted"][name] += 1
            except (ConnectionFailed, DeadlineExceeded):
                tally["failed"][name] += 1  # fenced, or locks held too long: the next one goes on
                continue
            tally["latencies"][name].record(clock() - began)


def work() -> None:
    """Run a worker process: the run as JSON in argument 1, the worker's number in argument 2."""
    run, number = Run(**json.loads(sys.argv[1])), int(sys.argv[2])
    module = importlib.import_module(f"bench.experiments.{run.application}")
    tallies: list[dict[str, Any]] = []
    ready = threading.Barrier(run.threads + 1)
    errors: list[BaseException] = []
    moment: list[float] = []

    def thread(at: int) -> None:
        tally: dict[str, Any] = {
            "aborted": dict.fromkeys(module.Tables.MIX, 0),
            "failed": dict.fromkeys(module.Tables.MIX, 0),
            "latencies": {name: Histogram() for name in module.Tables.MIX},
        }
        tallies.append(tally)
        journal = Journal(Path(run.folder) / f"{number}-{at}.journal")
        try:
            with rnvm.connect(run.address, timeout=run.timeout, lock=run.lock) as fe:
                rng = random.Random(f"{run.seed} {number} {at}")
                application = module.Tables(fe, run, rng, journal)
                ready.wait(STARTED_S)
                ready.wait(STARTED_S)
                drive(application, run, moment[0], tally)
        except BaseException as error:  # noqa: BLE001 - the main thread raises it
            errors.append(error)
            ready.abort()
        finally:
            journal.close()

    threads = [threading.Thread(target=thread, args=(at,)) for at in range(run.threads)]
    for each in threads:
        each.start()
    with contextlib.suppress(threading.BrokenBarrierError):
        ready.wait(STARTED_S)
        print("ready", flush=True)
        moment.append(time.monotonic() + float(sys.stdin.readline()))
        ready.wait(STARTED_S)
    for each in threads:
        each.join()
    if errors:
        raise errors[0]
    found = {
        name: {
            "aborted": sum(tally["aborted"][name] for tally in tallies),
            "failed": sum(tally["failed"][name] for tally in tallies),
            "latencies": [b for tally in tallies for b in tally["latencies"][name].buckets()],
        }
        for name in module.Tables.MIX
    }
    print(json.dumps(found), flush=True)


# The run


@dataclass
class Result:
    """What a run has measured.

    Attributes:
        latencies: of each type of transaction, aborted ones included.
        kills: worker processes that were killed.
        unknown: transactions whose outcome only the pool knows.
    """

    run: Run
    latencies: dict[str, Histogram]
    aborted: dict[str, int]
    failed: dict[str, int]
    seconds: float
    kills: int = 0
    unknown: int = 0
    checked: str = ""

    @property
    def rate(self) -> float:
        """Transactions per second, of the workers that lived to the end."""
        return sum(each.count for each in self.latencies.values()) / self.seconds


def play(run: Run, medium: str | None = MEMORY, size: str = "256MiB", rtt: str = "") -> Result:
    """Load the tables into a new pool, run the workers, and check the tables.

    Raises:
        RfpError: the tables are not consistent at the end, with the first problem.
    """
    module = importlib.import_module(f"bench.experiments.{run.application}")
    placement = Placement.choose()
    folder = Path(tempfile.mkdtemp(prefix="rfp-application-", dir=medium))
    try:
        pool = folder / "pool"
        sessions = run.processes * run.threads * (4 if run.kill else 1) + 4
        pools.create(pool, size, front_ends=min(sessions, 256), names=512, assume_persistent=True)
        address = f"{addresses.unique()}{f'?rtt={rtt}' if rtt else ''}"
        cpus = sorted(placement.server) if placement else None
        with rnvm.Backend(pool, address=address, cpus=cpus, lease=0.5) as backend:
            run = Run(**{**asdict(run), "address": backend.address, "folder": str(folder)})
            with rnvm.connect(backend.address, timeout=120) as fe:
                module.Tables(fe, run, random.Random(run.seed), None).load()
            result = drive_workers(run, module)
            total, unknown = journalled(folder)
            result.unknown = len(unknown)
            with rnvm.connect(backend.address, timeout=120) as fe:
                tables = module.Tables(fe, run, random.Random(run.seed), None)
                result.checked = tables.verify(possible(total, unknown))
                for each in tables.structures:
                    each.check(timeout=120)
        return result
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def drive_workers(run: Run, module: Any) -> Result:
    """Run the worker processes, with kills if they are wanted."""
    rng = random.Random(run.seed)
    text, number, kills = json.dumps(asdict(run)), 0, 0
    latencies = {name: Histogram() for name in module.Tables.MIX}
    aborted, failed = dict.fromkeys(module.Tables.MIX, 0), dict.fromkeys(module.Tables.MIX, 0)
    with contextlib.ExitStack() as stack:

        def start() -> OtherProcess:
            nonlocal number
            number += 1
            return stack.enter_context(OtherProcess(WORKER, text, str(number)))

        workers = [start() for _ in range(run.processes)]
        for each in workers:
            each.hear(STARTED_S)
        began = time.monotonic()
        until = began + run.seconds
        for each in workers:
            each.send(str(run.seconds))
        if run.kill:
            pause = threading.Event()
            while time.monotonic() < until - 1 / KILLS_PER_SECOND or not kills:
                pause.wait(1 / KILLS_PER_SECOND)
                at = rng.randrange(len(workers))
                workers[at]._process.kill()
                workers[at]._process.wait()
                kills += 1
                workers[at] = start()
                workers[at].hear(STARTED_S)
                workers[at].send(str(max(until - time.monotonic(), 0.1)))
        found = [json.loads(each.hear(run.seconds + STARTED_S)) for each in workers]
        seconds = max(run.seconds, 1e-9)
    for each in found:
        for name, figures in each.items():
            aborted[name] += figures["aborted"]
            failed[name] += figures["failed"]
            for nanoseconds, times in figures["latencies"]:
                latencies[name].record(nanoseconds, times)
    return Result(run, latencies, aborted, failed, seconds, kills)


# Results


def lines(result: Result) -> list[str]:
    """Return the result as a table, and a line about the check."""
    head = ["transaction", "count", "per second", "aborted", "failed", "p50 us", "p99 us"]
    rows = []
    for name, latencies in result.latencies.items():
        times = [latencies.percentile(p) / 1e3 for p in PERCENTILES] if latencies.count else [0, 0]
        rows.append(
            [
                name, grouped(latencies.count), grouped(round(latencies.count / result.seconds)),
                grouped(result.aborted[name]), grouped(result.failed[name]),
                *(f"{each:.0f}" for each in times),
            ]
        )  # fmt: skip
    run = result.run
    return [
        *table(head, rows, "<>>>>>>"),
        (
            f"{run.application}: {grouped(round(result.rate))} transactions/s, "
            f"{plural(run.processes, 'process')} x {plural(run.threads, 'thread')}, "
            f"{grouped(run.records)} records, {plural(run.partitions, 'partition')}, "
            f"skew {run.skew:g}, {run.seconds:g} s"
        ),
        (
            f"{plural(result.kills, 'process')} killed, "
            f"{plural(result.unknown, 'transaction')} of unknown outcome"
        ),
        f"consistent: {result.checked}",
    ]


def draw(result: Result, path: str | Path) -> None:
    """Draw the rate and the latencies of each type of transaction."""
    plt = pyplot()
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), sharey=True)
    names = list(result.latencies)
    for at, name in enumerate(names):
        latencies = result.latencies[name]
        left.barh(at, latencies.count / result.seconds, color=COLOURS[0], height=0.6)
        if latencies.count:
            low, high = (latencies.percentile(p) / 1e3 for p in PERCENTILES)
            right.plot([low, high], [at, at], color=COLOURS[1])
            right.plot([low], [at], "o", color=COLOURS[2])
            right.plot([high], [at], "D", color=COLOURS[2])
    left.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
    left.invert_yaxis()
    left.set_xlabel("transactions per second")
    right.set_xscale("log")
    right.set_xlabel("latency in us: median (circle) and p99 (diamond)")
    run = result.run
    left.set_title(
        f"{run.application}: {plural(run.processes, 'process')} x "
        f"{plural(run.threads, 'thread')}, "
        f"{grouped(run.records)} records, skew {run.skew:g}",
        fontsize=10,
        loc="left",
    )
    for axes in (left, right):
        axes.grid(axis="x", color="#dddddd", linewidth=0.7)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    save(figure, path)


def parsed_mix(text: str, known: dict[str, float]) -> dict[str, float]:
    """Return the weights of NAME=WEIGHT,...; types that are not named get 0.

    Raises:
        InvalidArgument: a name is unknown, or a weight is no number of at least 0.
    """
    found = {}
    for part in filter(None, text.split(",")):
        name, _, weight = part.partition("=")
        try:
            found[name] = float(weight)
        except ValueError:
            found[name] = -1.0
        if name not in known or not found[name] >= 0:
            raise InvalidArgument(
                f"invalid mix {part!r} (expected NAME=WEIGHT, NAME one of {', '.join(known)})"
            )
    if found and not sum(found.values()):
        raise InvalidArgument("a mix must have a weight above 0")
    return found


class Command(Program):
    program = "rfp-experiments"


def command(name: str, records: int, noun: str, mix: dict[str, float]) -> click.Command:
    """Return the command of an application."""
    options: list[Callable[[Any], Any]] = [
        click.option(f"--{noun}", "records", type=click.IntRange(2), default=records,
                     show_default=True, help=f"Number of {noun}."),
        click.option("--processes", type=click.IntRange(1), default=2, show_default=True,
                     help="Number of worker processes."),
        click.option("--threads", type=click.IntRange(1), default=1, show_default=True,
                     help="Number of threads of each, each with a front-end."),
        click.option("--seconds", type=click.FloatRange(0, min_open=True), default=5.0,
                     show_default=True, help="Duration."),
        click.option("--skew", type=click.FloatRange(0, 1, max_open=True), default=0.0,
                     show_default=True, help="Theta of a zipfian distribution; 0: the paper's."),
        click.option("--mix", "mix_text", default="", metavar="NAME=WEIGHT,...",
                     help="Weights of the types of transaction.  [default: "
                          f"{','.join(f'{key}={value:g}' for key, value in mix.items())}]"),
        click.option("--partitions", type=click.IntRange(1, MAPPING_PARTS_MAX), default=8,
                     show_default=True, help="Number of partitions of each table."),
        click.option("--lock", type=click.Choice(["sticky", "cas", "each"]), default="sticky",
                     show_default=True, help="Kind of writer lock."),
        click.option("--rtt", default="", metavar="DURATION",
                     help="Emulated round trip, such as 3us."),
        click.option("--medium", default=MEMORY, show_default=True,
                     type=click.Path(exists=True, file_okay=False), help="Folder of the pool."),
        click.option("--size", default="256MiB", show_default=True, help="Size of the pool."),
        click.option("--kill", is_flag=True,
                     help=f"Kill {KILLS_PER_SECOND} worker processes a second with SIGKILL."),
        click.option("--seed", type=int, default=1, show_default=True, help="Seed of all draws."),
        click.option("--bars", metavar="FILE", help="Picture of rates and latencies to draw."),
        click.option("--json", "json_file", type=click.Path(dir_okay=False),
                     help="File for the figures as JSON."),
    ]  # fmt: skip

    def main(mix_text: str, rtt: str, medium: str, size: str, bars: str | None,
             json_file: str | None, **given: Any) -> None:  # fmt: skip
        run = Run(name, mix=parsed_mix(mix_text, mix), **given)
        if bars:
            check_picture(bars)
        if json_file:
            check_writable(json_file)
        result = play(run, medium, size, rtt)
        click.echo("\n".join(lines(result)))
        if bars:
            draw(result, bars)
        if json_file:
            figures = {
                each: {
                    "count": histogram.count,
                    "aborted": result.aborted[each],
                    "failed": result.failed[each],
                    **{f"p{p:g}_ns": histogram.percentile(p) for p in PERCENTILES if
                       histogram.count},
                }
                for each, histogram in result.latencies.items()
            }  # fmt: skip
            about = {"run": asdict(run), "rate": result.rate, "kills": result.kills,
                     "transactions": figures, "checked": result.checked}  # fmt: skip
            write_file(json_file, json.dumps(about, indent=1))

    main.__doc__ = f"""Run {name} on persistent structures, then check its tables.

    \b
    Examples:
      rfp-experiments {name}
      rfp-experiments {name} --processes 4 --skew 0.99 --kill
    """
    for option in reversed(options):
        main = option(main)
    return click.command(
        name,
        cls=Command,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    )(main)
