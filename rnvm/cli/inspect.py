"""`rnvm info`, `check`, `ls` and `dump`: they change nothing (but for `check --repair`)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from datetime import datetime, timezone
from typing import Any

import click

from rfp import units
from rfp.cli.text import grouped, plural, table
from rfp.errors import PoolDamaged
from rnvm import pools
from rnvm.check import against as comparing
from rnvm.check import check as checking
from rnvm.check import dump as dump_module
from rnvm.cli.create import POOL
from rnvm.cli.kinds import WITH, load, with_kind_name
from rnvm.format import partitions
from rnvm.media import identity, wal
from rnvm.media.medium import VolatileMemory
from rnvm.pool.inspect import Inspection
from rnvm.sizes import Sizes


def when(seconds: int) -> str:
    """Return a wall-clock time as people read it."""
    try:
        return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, ValueError, OSError):  # written by a faulty program
        return f"{seconds} s after 1970"


LINES_MAX = 1000  # of findings that are printed


def text(value: bytes) -> str:
    """Return a name for a terminal: control characters, undecodable bytes and backslashes are
    escaped as in Python.
    """
    return "".join(
        each if each.isprintable() and each != "\\" else each.encode("unicode_escape").decode()
        for each in value.decode(errors="surrogateescape")
    )


def figures(path: str) -> dict[str, Any]:
    """Return the output of `rnvm info`."""
    with pools.view(path) as (view, media):
        inspection = Inspection(view)
        inspection.run()
        sessions = dump_module.sessions(inspection)
        about = dump_module.description(inspection)
        parts = Sizes(about["block"], about["names"], len(sessions), about["operation_log"],
                      about["memory_log"], about["group_map"], about["write_ahead"])  # fmt: skip
        return {
            "pool": path,
            **about,
            "largest_value": parts.largest_value,
            "medium": media.kind,
            "mode": media.mode,
            "promise": media.promise,
            "free_blocks": dump_module.counts(inspection).get("free", 0),
            "structures": len(inspection.names),
            "attached": sum(session["state"] != "free" for session in sessions),
            "frames": (wal.describe(view) or {}).get("frames", 0),
            "findings": len(inspection.findings),
            "copy": copy_of(view),
        }


def copy_of(view: VolatileMemory) -> dict[str, Any] | None:
    """Return what a copy (a mirror's, or a member's of a group) knows about itself, or None."""
    found = identity.read(view)
    if found is None or found["state"] == "none":
        return None
    return {name: value.hex() if isinstance(value, bytes) else value
            for name, value in found.items()}  # fmt: skip


@click.command()
@POOL
@click.option("--json", "as_json", is_flag=True, help="Print all fields as JSON.")
def info(pool: str, as_json: bool) -> None:
    """Print the properties of a pool and the durability of its medium.

    \b
    Examples:
      rnvm info orders.pool
      rnvm info orders.pool --json
    """
    found = figures(pool)
    if as_json:
        click.echo(json.dumps(found))
        return
    logs = (
        f"{units.show_size(found['operation_log'])} and "
        f"{units.show_size(found['memory_log'])} of logs each"
    )
    rows = [
        ["pool", f"{found['uuid']}, format {found['format']}, back-end {found['backend']}"],
        ["created", when(found["created"])],
        ["medium", f"{found['medium']}, {found['mode']} mode"],
        ["durability", found["promise"]],
        [
            "state",
            "closed cleanly"
            if found["closed"]
            else "not closed cleanly: the next opening recovers it",
        ],
        ["size", units.show_size(found["size"])],
        [
            "blocks",
            "{} of {}, {} free".format(
                grouped(found["blocks"]),
                units.show_size(found["block"]),
                grouped(found["free_blocks"]),
            ),
        ],
        ["structures", f"{found['structures']} of at most {grouped(found['names'])}"],
        ["front-ends", f"{found['attached']} of at most {grouped(found['front_ends'])}, {logs}"],
    ]
    rows.append(["values", f"up to {units.show_size(found['largest_value'])} always fit"])
    if found["write_ahead"]:
        waiting = plural(found["frames"], "frame")
        rows.append(
            ["write-ahead", f"{units.show_size(found['write_ahead'])}, {waiting} not written back"]
        )
    if found["copy"]:
        about = found["copy"]
        # In a group each member has a copy, also the primary.
        in_group = bool(int(about["group"], 16))
        owner = f"member {about['member']} of a group" if in_group else "a mirror"
        rows.append(["copy", f"of {owner}, {about['state']}, epoch {about['epoch']}"])
    if found["findings"]:
        rows.append(["findings", f"{found['findings']}: rnvm check {pool}"])
    click.echo("\n".join(table(None, rows, "<<")))


@click.command()
@POOL
@click.option(
    "--repair",
    is_flag=True,
    help="Repair all damage that can be repaired, and report the rest.  Copy the pool first.",
)
@click.option(
    "--against",
    metavar="OTHER",
    type=click.Path(),
    help="Compare it with another copy of this pool (a mirror's, a backup): what each holds.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@WITH
def check(
    pool: str, repair: bool, against: str | None, as_json: bool, modules: tuple[str, ...]
) -> None:
    """Check a pool for damage and leaks.  Without --repair nothing is changed.

    Walks the structures of known kinds: all nodes that they have allocated must be reachable from
    their roots.

    --against compares what recovery finds in both copies, so no process may have them open: their
    bytes may differ where they do not count.

    Exits with status 1 if anything is damaged or leaked, was lost in the repair, or differs.

    \b
    Examples:
      rnvm check orders.pool
      rnvm check orders.pool --repair
      rnvm check orders.pool --against /backup/orders.pool
    """
    load(modules)
    mended: list[str] = []
    lost: list[str] = []
    if repair:
        mended, lost = checking.repair(pool)
    found = checking.check(pool)
    compared = comparing.against(pool, against) if against is not None else None
    if as_json:
        findings = [
            {"kind": each.kind, "where": each.where, "what": each.what, "mend": each.mend}
            for each in found.findings[:LINES_MAX]
        ]
        structures = [{"name": plain(name), **found.figures["reached"].get(name, {}), "used": used}
                      for name, used in found.figures.get("used", {}).items()]  # fmt: skip
        left_out = max(0, len(found.findings) - LINES_MAX)
        click.echo(json.dumps({"findings": findings, "findings_left_out": left_out,
                               "mended": mended, "lost": lost, "sound": found.sound,
                               "structures": structures, **comparison(compared)}))  # fmt: skip
    else:
        print_some([f"repaired: {line}" for line in mended])
        print_some([f"LOST: {line}" for line in lost])
        print_some(
            f"{finding}\n  --repair: {finding.mend}"
            if finding.mend and finding.kind != "doubt"
            else str(finding)
            for finding in found.findings
        )
        for line in found.figures.get("recovered", []):
            if not line.startswith(("doubt", "damage")):
                click.echo(f"note: {line}")
        if found.figures.get("used"):
            click.echo("\n".join(reached(found)))
        if not found.sound and not found.closed:
            click.echo("note: the pool was not closed; a copy made "
                       "while a pool is open is inconsistent"
                       " and cannot be repaired")  # fmt: skip
        click.echo(summary(found))
        if compared is not None:
            print_some(str(finding) for finding in compared.findings)
            state = "the copies hold the same" if compared.same else "the copies DIFFER"
            click.echo(f"{state}: {grouped(compared.figures['compared'])} bytes of blocks compared")
    if not found.sound or lost or not (compared is None or compared.same):
        raise click.exceptions.Exit(1)


def comparison(compared: comparing.Compared | None) -> dict[str, object]:
    """Return the part of the JSON that --against adds."""
    if compared is None:
        return {}
    differences = [{"where": each.where, "what": each.what} for each in compared.findings]
    return {
        "same": compared.same,
        "differences": differences[:LINES_MAX],
        "differences_left_out": max(0, len(differences) - LINES_MAX),
    }


def print_some(lines: Iterable[str]) -> None:
    """Print lines, of which there may be very many."""
    count = 0
    for count, line in enumerate(lines, 1):
        if count <= LINES_MAX:
            click.echo(line)
    if count > LINES_MAX:
        click.echo(f"... and {grouped(count - LINES_MAX)} more")


def reached(found: checking.Checked) -> list[str]:
    """Return a table: the reachable counts and the blocks of each structure."""
    rows = []
    for name, used in found.figures["used"].items():
        counts = found.figures["reached"].get(name)
        cells = (
            [grouped(counts[each]) for each in ("nodes", "bytes", "blocks")]
            if counts
            else ["not walked", "-", "-"]
        )
        rows.append([text(partition_text(name)), *cells, grouped(used)])
    return table(["structure", "nodes", "bytes", "blocks reached", "owned"], rows, "<>>>>")


def partition_text(name: bytes) -> bytes:
    """Return the name of a structure, with the number of a partition in words."""
    base, partition, number = partitions.parsed(name)
    return b"%b (partition %d of %d)" % (base, partition, number) if number else name


def summary(found: checking.Checked) -> str:
    """Return the last line of a check."""
    if not found.figures:
        return "cannot open the pool without repair"
    blocks = found.figures
    used = sum(blocks["used"].values())
    walked = f"{len(blocks['reached'])} of {plural(len(blocks['used']), 'structure')} walked"
    counts = (
        f"{grouped(used)} of {grouped(blocks['blocks'])} blocks used, "
        f"{grouped(blocks['granted'])} granted, {walked}"
    )
    return ("sound" if found.sound else "NOT sound") + f": {counts}"


@click.command()
@POOL
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@WITH
def ls(pool: str, as_json: bool, modules: tuple[str, ...]) -> None:
    """List the structures of a pool.  A kind that no module defines is a number.

    \b
    Examples:
      rnvm ls orders.pool
      rnvm ls orders.pool --with my_structures --json
    """
    load(modules)
    with pools.view(pool) as (view, _):
        inspection = Inspection(view)
        names = dump_module.names(inspection)
        blocks = dump_module.counts(inspection)
    for each in names:
        each["blocks"] = blocks.get(f"used by entry {each['entry']}", 0)
    names = [with_kind_name(each) for each in merged(names)]
    if as_json:
        click.echo(json.dumps(plain(names)))
        return
    rows = [
        [
            text(each["name"]), each["kind_name"] or str(each["kind"]), str(each["format"]),
            text(each["codec"]) or "-", str(each.get("partitions", "-")), grouped(each["blocks"]),
            "?" if each["transaction"] is None else grouped(each["transaction"]),
            when(each["created"]), each["state"],
        ]
        for each in names
    ]  # fmt: skip
    head = ["name", "kind", "format", "codec", "partitions", "blocks", "transactions", "created",
            "state"]  # fmt: skip
    click.echo("\n".join(table(head, rows, "<<><>>><<")))


def merged(names: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return naming entries with those of a mapping with partitions as one."""
    found: dict[tuple[bytes, int], dict[str, Any]] = {}
    for each in names:
        name, partition, number = partitions.parsed(each["name"])
        if not number:
            found[each["name"], 0] = each
        elif (name, number) not in found:
            entries = {partition: each["entry"]}
            found[name, number] = {**each, "name": name, "partitions": number, "entries": entries}
        else:
            whole = found[name, number]
            whole["entries"][partition] = each["entry"]
            whole["blocks"] += each["blocks"]
            if None not in (whole["transaction"], each["transaction"]):
                whole["transaction"] += each["transaction"]
            if each["state"] != whole["state"]:
                whole["state"] = f"{whole['state']}, {each['state']}"
    return list(found.values())


def plain(value: Any) -> Any:
    """Return the value for JSON: bytes as UTF-8 text, undecodable ones as Python's
    "surrogateescape" has them.
    """
    if isinstance(value, bytes):
        return value.decode(errors="surrogateescape")
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, (list, tuple)) else value


@click.command()
@POOL
@WITH
def dump(pool: str, modules: tuple[str, ...]) -> None:
    """Print the content of a pool, except the blocks, as JSON: one object for each part.

    Log records that were applied and checkpointed are not shown.

    \b
    Examples:
      rnvm dump orders.pool
      rnvm dump orders.pool | grep '"part": "record"'
    """
    load(modules)
    with pools.view(pool) as (view, _):
        try:
            inspection = Inspection(view)
        except PoolDamaged as error:
            click.echo(json.dumps({"part": "finding", "what": str(error)}))
            raise
        for each in parts(view, inspection):
            click.echo(json.dumps(plain(each)))


def parts(view: VolatileMemory, inspection: Inspection) -> Iterator[dict[str, Any]]:
    """Yield the output of `rnvm dump`, part by part."""
    yield {"part": "pool", **dump_module.description(inspection)}
    for name in dump_module.names(inspection):
        base, partition, number = partitions.parsed(name["name"])
        split = {"name": base, "partition": partition, "partitions": number} if number else {}
        yield {"part": "name", **with_kind_name(name), **split}
    for session in dump_module.sessions(inspection):
        yield {"part": "session", **session}
        for which in ("operations", "memory"):
            for record in dump_module.records(inspection, session["session"], which):
                yield {"part": "record", "log": which, "session": session["session"], **record}
    if area := wal.describe(view):
        yield {"part": "write-ahead area", **area}
    for first, count, whose in dump_module.owners(inspection):
        yield {"part": "blocks", "first": first, "count": count, "owner": whose}
    for each in inspection.run():
        yield {"part": "finding", "kind": each.kind, "where": each.where, "what": each.what}
