"""The command that runs the experiments: also `make bench`, `python -m bench.experiments`."""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

import click

from bench.experiments.rows import Row, Setting, machine, table
from bench.exporters import check_writable, write_file
from bench.kinds import STRUCTURES
from bench.plot import check_picture
from rfp.cli.group import Program
from rfp.cli.text import plural
from rfp.errors import RfpError

# In the order of the table.
NAMES = (
    "direct_reads", "views", "event_loop", "busy_put", "python_get", "python_get_many", "window",
    "large_values", "large_put", "idle", "capacity", "growth", "durable_writes",
    "replicated_writes", "inserts",
    "large_working_set", "cached_read", "disk_file", "ablation", "concurrency", "sizes",
)  # fmt: skip
# Those with a picture.
DRAWN = ("growth", "ablation", "concurrency", "sizes")


def run(name: str, setting: Setting, **options: Any) -> list[Row]:
    """Return the rows of one experiment; if it cannot be measured here, one row with the reason."""
    module = importlib.import_module(f"bench.experiments.{name}")
    try:
        found: list[Row] = module.measure(setting, **options)
    except RfpError as error:
        return [Row(name, None, "", bar=0, why=str(error))]
    return found


APPLICATIONS = ("tatp", "smallbank")


class Experiments(Program):
    """The table's command; an application's name as the first argument selects its own command."""

    program = "rfp-experiments"

    def main(self, args: Sequence[str] | None = None, *rest: Any, **options: Any) -> Any:
        """Run the command of an application, or this one."""
        given = list(sys.argv[1:] if args is None else args)
        if given and given[0] in APPLICATIONS:
            module = importlib.import_module(f"bench.experiments.{given[0]}")
            options["prog_name"] = f"rfp-experiments {given[0]}"
            return module.main.main(given[1:], **options)
        return super().main(args, *rest, **options)


@click.command(
    cls=Experiments,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.argument("names", nargs=-1, type=click.Choice(NAMES), metavar="[NAME]...")
@click.option(
    "--json",
    "json_file",
    type=click.Path(dir_okay=False, writable=True),
    help="File for rows, setting and machine as JSON.",
)
@click.option(
    "--rounds",
    type=click.IntRange(1),
    default=5,
    show_default=True,
    help="Number of rounds; medians are reported.",
)
@click.option(
    "--scale",
    type=click.FloatRange(0, 1, min_open=True),
    default=1.0,
    show_default=True,
    help="Factor for all counts, for a quick run.",
)
@click.option(
    "--curve",
    metavar="FILE",
    help="Picture of the `growth` curve to draw (PNG, SVG or PDF; needs matplotlib).",
)
@click.option(
    "--bars",
    metavar="FILE",
    help="Picture of the `ablation` steps to draw (PNG, SVG or PDF; needs matplotlib).",
)
@click.option(
    "--pictures",
    type=click.Path(file_okay=False),
    metavar="FOLDER",
    help=f"Folder for a picture of each of {', '.join(DRAWN)}: NAME.png (needs matplotlib).",
)
@click.option(
    "--readers",
    type=click.IntRange(1, 256),
    help="Highest number of readers of `concurrency`.  [default: CPUs - 2, at least 2]",
)
@click.option(
    "--entries",
    type=click.IntRange(100, 100_000_000),
    help="Largest number of entries of `sizes`.  [default: 1000000, scaled]",
)
@click.option(
    "--kind",
    "kinds",
    multiple=True,
    type=click.Choice([kind.name for kind in STRUCTURES]),
    help="A structure of `sizes`; repeat it for several.  [default: all]",
)
@click.option("--list", "listing", is_flag=True, help="Print the experiments and their questions.")
def main(
    names: Sequence[str],
    json_file: str | None,
    rounds: int,
    scale: float,
    curve: str | None,
    bars: str | None,
    pictures: str | None,
    readers: int | None,
    entries: int | None,
    kinds: tuple[str, ...],
    listing: bool,
) -> None:
    """Measure the speed table, or single experiments: measured, peer, ratio, bar, met or MISSED.

    The whole table takes some minutes; use an otherwise idle machine.  The applications `tatp` and
    `smallbank` are not part of it: `rfp-experiments tatp --help`.

    \b
    Examples:
      rfp-experiments
      rfp-experiments window python_get --json out/speed.json
      rfp-experiments --scale 0.05 --rounds 1
      rfp-experiments ablation concurrency sizes --pictures out
      rfp-experiments sizes --entries 10000000 --kind BPlusTree
    """
    if listing:
        for name in (*NAMES, *APPLICATIONS):
            click.echo(
                f"{name:<17} {importlib.import_module(f'bench.experiments.{name}').QUESTION}"
            )
        return
    drawn = {name: os.path.join(pictures, f"{name}.png") if pictures else None for name in DRAWN}
    drawn["growth"], drawn["ablation"] = curve or drawn["growth"], bars or drawn["ablation"]
    for name in names or NAMES:
        if picture := drawn.get(name):
            check_picture(picture)
    if json_file:
        check_writable(json_file)
    setting = Setting(rounds=rounds, scale=scale)
    before = machine()
    if before["load"] > 0.5:
        click.echo(
            f"warning: this machine is busy (load {before['load']}), which distorts the figures",
            err=True,
        )
    if setting.placement is None:
        click.echo("warning: client and server share one CPU, for which no bar is set", err=True)
    rows: list[Row] = []
    began = time.monotonic()
    options: dict[str, dict[str, Any]] = {
        "concurrency": {"readers": readers},
        "sizes": {"entries": entries, "kinds": kinds},
    }
    for name in names or NAMES:
        click.echo(f"{name} ...", err=True)
        given = {"picture": drawn[name]} if name in DRAWN else {}
        rows += run(name, setting, **given, **options.get(name, {}))
    click.echo(table(rows))
    promised = [row for row in rows if row.bar is not None]
    met = sum(row.met is True for row in promised)
    scaled = f", counts scaled by {scale:g}" if scale != 1 else ""
    counted = f"medians of {plural(rounds, 'round')}{scaled}"
    click.echo(f"\n{met} of {len(promised)} bars met; {counted}; "
               f"{time.monotonic() - began:.0f} s; "
               f"{before['cpu']}, {before['cpus']} CPUs, load before {before['load']}")  # fmt: skip
    if json_file:
        found = {
            "machine": before,
            "rounds": rounds,
            "scale": scale,
            "rows": [row.as_json() for row in rows],
        }
        write_file(json_file, json.dumps(found, indent=1))
    sys.exit(0)
