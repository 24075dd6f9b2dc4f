"""rfp-ycsb: the core workloads of the Yahoo! Cloud Serving Benchmark, against this package's store
and other databases."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import click

import rfp
import rfp.cli.group
from rfp.cli.group import UNREACHABLE, WRONG, Failed
from rfp.cli.text import plural
from rfp.errors import RfpError

WRONG_DATA = 1  # in addition to the statuses of rfp.cli.group


class Commands(rfp.cli.group.Commands):
    program = "rfp-ycsb"
    refused = UNREACHABLE  # a database that refuses a workload's operations cannot be measured


def workload_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of YCSB's commands, with YCSB's spelling."""
    options = [
        click.option(
            "-P",
            "files",
            multiple=True,
            metavar="FILE",
            help="Property file, or built-in workload: a b c d e f.",
        ),
        click.option(
            "-p",
            "settings",
            multiple=True,
            metavar="NAME=VALUE",
            help="Single property; overrides files.",
        ),
        click.option(
            "-threads",
            "--threads",
            type=click.IntRange(1, 1024),
            metavar="N",
            help="Number of client threads.  [default: 1]",
        ),
        click.option(
            "-target",
            "--target",
            type=click.IntRange(0),
            metavar="OPS",
            help="Target operations per second; latency is then also measured from the intended "
            "start.  [default: unlimited]",
        ),
        click.option(
            "-s", "status", is_flag=True, help="Print a status line every status.interval seconds."
        ),
        click.option("-l", "label", metavar="LABEL", help="Prefix of status lines."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def properties_of(
    name: str | None,
    files: Sequence[str],
    settings: Sequence[str],
    threads: int | None = None,
    target: int | None = None,
    status: bool = False,
    label: str | None = None,
) -> Any:
    """Return the properties that the options set: the database name's settings first, the options
    last."""
    from bench import databases
    from bench.properties import Properties, read

    given = databases.settings(name) if name else {}
    given |= read(files, settings).given
    options = {
        "threadcount": threads,
        "target": target,
        "label": label,
        "status": "true" if status else None,
    }
    given |= {option: str(value) for option, value in options.items() if value is not None}
    return Properties(given)


@click.group(
    cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(rfp.__version__, message="rfp-ycsb %(version)s")
def main() -> None:
    """Run YCSB's core workloads against this package and other databases.

    The store and the persistent mappings, Redis, memcached, LMDB, RocksDB and SQLite.

    \b
    Without setup, with private servers:
      rfp-ycsb bench rfp -P a
      rfp-ycsb compare rfp rfp-python redis memcached -w a -w c --plot comparison.png

    \b
    Against a running server, as with YCSB:
      rfp-ycsb load rfp -P workloada -p recordcount=1000000 -p rfp.address=shm:///run/rfp/default
      rfp-ycsb run  rfp -P workloada -p recordcount=1000000 -p rfp.address=shm:///run/rfp/default \\
                    -p operationcount=5000000 -threads 4 -target 200000 -s

    Databases: rfp, rfp-python, rnvm-hashtable, rnvm-skiplist, rnvm-bst, rnvm-bptree, rnvm-mvbst,
    rnvm-mvbptree, redis, memcached, lmdb, rocksdb, sqlite, dict, inproc (`rfp-ycsb databases`
    describes each).

    Exit status: 0 done; 1 reads returned wrong data; 2 invalid command, or a program is not
    installed; 3 the connection failed; 130 Ctrl-C.
    """


def one_phase(name: str, phase: str, options: dict[str, Any]) -> None:
    from bench import phases
    from bench.databases import open_database
    from bench.exporters import check_outputs, export
    from bench.placement import Placement, pinned

    pin, plot = options.pop("pin", False), options.pop("plot", None)
    workload = ", ".join(options["files"])
    properties = properties_of(name, **options)
    check_outputs(properties)
    if plot:
        from bench.plot import check_picture

        check_picture(plot)
    placement = Placement.choose() if pin else None
    progress = sys.stderr.isatty() and not properties["status"]
    known = None
    client = placement.client if placement else None
    with (
        open_database(name, properties, private=phase == "bench", placement=placement) as database,
        pinned(client),
    ):
        if phase == "bench":
            phases.check(database, properties, loading=False)
        if phase in ("load", "bench"):
            # The target is for the measured phase: a load before it runs as fast as it can.
            loading = properties.with_(target=0) if phase == "bench" else properties
            result = phases.load(database, loading, workload=workload, progress=progress)
            known = result.records
            if phase == "bench":
                # The run may request the records that this load has inserted, also if insertcount
                # is below recordcount.
                properties = properties.with_(recordcount=known)
                click.echo(
                    f"loaded {result.operations:,} records in {result.runtime / 1e9:.2f} s",
                    err=True,
                )
        if phase in ("run", "bench") and not (phase == "bench" and result.interrupted):
            result = phases.run(
                database, properties, workload=workload, known=known, progress=progress
            )
    export(result, properties)
    if plot:
        from bench.plot import plot_result

        plot_result(result, plot)
    if result.interrupted:
        raise KeyboardInterrupt
    verified = result.metric("VERIFY")
    if verified and set(verified.returns) != {"OK"}:
        raise Failed(
            "reads returned wrong data: see the VERIFY lines", Commands.program, WRONG_DATA
        )


plot_option = click.option(
    "--plot",
    metavar="FILE",
    help="Picture of throughput and latency percentiles to "
    "draw (PNG, SVG or PDF; needs matplotlib).",
)
pin_option = click.option(
    "--pin/--no-pin",
    default=True,
    help="Keep clients and server on different CPUs.",
    show_default=True,
)


@main.command()
@click.argument("db")
@workload_options
@plot_option
def load(db: str, **options: Any) -> None:
    """Insert the records of a workload into DB.

    \b
    Example:
      rfp-ycsb load redis -P workloada -p recordcount=100000 -p redis.host=127.0.0.1
    """
    one_phase(db, "load", options)


@main.command()
@click.argument("db")
@workload_options
@plot_option
def run(db: str, **options: Any) -> None:
    """Run the requests of a workload against DB, loaded earlier.

    \b
    Examples:
      rfp-ycsb run redis -P workloada -p operationcount=100000 -threads 4 -s
      rfp-ycsb run rfp -P b -p maxexecutiontime=10 -p operationcount=0 -p rfp.window=32
    """
    one_phase(db, "run", options)


@main.command()
@click.argument("db")
@workload_options
@pin_option
@plot_option
def bench(db: str, **options: Any) -> None:
    """Start a private server of DB if it needs one, load, and run.

    \b
    Examples:
      rfp-ycsb bench rfp -P a -p recordcount=100000 -p operationcount=1000000
      rfp-ycsb bench rfp -P c -p rfp.window=32 -p fieldcount=1 -p fieldlength=32
      rfp-ycsb bench rnvm-bptree -P e -p rnvm.pool=/data -p rnvm.batch=100
      rfp-ycsb bench redis -P a -p operationcount=50000 -target 5000 --plot redis.png
      rfp-ycsb bench memcached -P f -p exporter=json -p dataintegrity=true
    """
    one_phase(db, "bench", options)


@main.command()
@click.argument("dbs", nargs=-1, required=True, metavar="DB...")
@click.option(
    "-w",
    "workloads",
    multiple=True,
    default=("a",),
    metavar="FILE",
    help="Workload; repeatable.",
    show_default=True,
)
@click.option(
    "-P",
    "files",
    multiple=True,
    metavar="FILE",
    help="Property file for all; overrides the workloads.",
)
@click.option(
    "-p",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
    help="Single property for all; overrides files.",
)
@click.option(
    "-threads",
    "--threads",
    type=click.IntRange(1),
    metavar="N",
    help="Number of client threads.  [default: 1]",
)
@click.option(
    "--rounds",
    type=click.IntRange(1),
    default=3,
    show_default=True,
    help="Number of rounds per database.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0, min_open=True),
    default=1.0,
    show_default=True,
    help="Maximum duration of a round in seconds.",
)
@click.option(
    "--json",
    "json_file",
    metavar="FILE",
    help="File for all results as JSON, including single rounds.",
)
@plot_option
@pin_option
def compare(
    dbs: Sequence[str],
    workloads: Sequence[str],
    files: Sequence[str],
    settings: Sequence[str],
    threads: int | None,
    rounds: int,
    seconds: float,
    json_file: str | None,
    plot: str | None,
    pin: bool,
) -> None:
    """Measure several databases in alternating rounds and print medians and ratios.

    Each gets a private server, all of them the same CPUs; a ratio is the throughput of the first
    database over that of the other.  A database whose program or package is missing is skipped,
    with the command that installs it.  A DB may have properties of its own: NAME,PROPERTY=VALUE.

    \b
    Examples:
      rfp-ycsb compare rfp rfp-python redis memcached -w a -w b -w c -w d -w f --plot out/demo.png
      rfp-ycsb compare rfp rfp,rfp.window=32 inproc -w c -p fieldcount=1 -p fieldlength=32
    """
    import json

    from bench import compare as comparing
    from bench.exporters import check_writable, write_file

    contestants = [comparing.Contestant.parse(text) for text in dbs]
    properties = properties_of(None, files, settings, threads)
    properties = type(properties)(
        {"recordcount": "10000", "operationcount": "500000"} | properties.given
    )
    if plot:
        from bench.plot import check_picture

        check_picture(plot)
    if json_file:
        check_writable(json_file)
    moving = sys.stderr.isatty()

    def skipped(contestant: comparing.Contestant, missing: RfpError) -> None:
        click.echo(f"skipped {contestant.label}: {missing}", err=True)

    comparisons = comparing.compare(
        contestants,
        workloads,
        properties,
        rounds=rounds,
        seconds=seconds,
        pin=pin,
        say=(lambda line: None) if moving else (lambda line: click.echo(line, err=True)),
        skipped=skipped,
        progress=moving,
    )
    for comparison in comparisons:
        if not comparison.standings:
            raise Failed("cannot measure any of these databases here", Commands.program, WRONG)
        click.echo(
            f"\n{comparison.workload}   (medians of {plural(rounds, 'round')}, latency in us)\n"
            f"{comparing.table(comparison)}"
        )
    if json_file:
        write_file(json_file, json.dumps(comparing.as_json(comparisons), indent=1) + "\n")
    if plot:
        from bench.plot import plot_comparisons

        plot_comparisons(comparisons, plot)
        click.echo(f"\npicture: {plot}")


@main.command()
def databases() -> None:
    """List the databases."""
    from bench.databases import DATABASES

    for name, entry in DATABASES.items():
        click.echo(f"{name:<14} {entry.meaning}")


@main.command()
def properties() -> None:
    """List the properties, with their defaults."""
    from bench.properties import KNOWN

    for known in KNOWN.values():
        default = "" if known.default is None else known.default
        click.echo(f"{known.name}={default}\n    {known.meaning}")
