"""`rfp stats`: the counters of a server."""

from __future__ import annotations

import json
from typing import Any

import click

import rfp
from rfp import units
from rfp.cli.options import Target, connected
from rfp.cli.text import clock, grouped, plural, share, size, table
from rfp.core.clock import deadline_in

OPERATIONS = ("gets", "puts", "deletes", "incrs", "touches")


def fetch(kv: rfp.Client, timeout: float) -> dict[str, Any]:
    """Return the store's counters, with the server's figures of workers and clients as "server"."""
    figures = kv.stats()  # first: it reconnects if need be
    return {**figures, "server": kv.connection.figures(deadline_in(timeout))}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print all counters as JSON.")
@connected
def stats(target: Target, as_json: bool) -> None:
    """Print the server's counters since it started.

    \b
    Examples:
      rfp stats
      rfp stats --json | python -m json.tool
    """
    with target.connect() as kv:
        figures = fetch(kv, target.timeout)
    click.echo(json.dumps(figures) if as_json else "\n".join(show(figures)))


def show(figures: dict[str, Any]) -> list[str]:
    """Return the counters as a table of text lines."""
    server = figures["server"]
    rows = [[name, grouped(figures[name])] for name in OPERATIONS]
    rows += [
        ["hit rate", share(figures["hits"], figures["hits"] + figures["misses"])],
        ["refused", grouped(figures["refused"])],
        ["evictions", grouped(figures["evictions"])],
        ["expirations", grouped(figures["expirations"])],
        ["records", grouped(figures["records"])],
        [
            "mean value",
            size(figures["value_bytes"] / figures["records"]) if figures["records"] else "-",
        ],
        ["memory", f"{size(figures['bytes_used'])} of {size(figures['bytes_total'])}"],
        ["index", size(figures["index_bytes"])],
        ["reserved", size(figures["bytes_reserved"])],
        ["pins", grouped(figures["pins"])],
        ["uploads", grouped(figures["uploads"])],
    ]
    direct = server.get("direct_memory")
    if direct and (direct["registered"] or direct["refused"]):
        used = f"{size(direct['registered'])} of {size(direct['limit'])}"
        refused = f", {grouped(direct['refused'])} refused" if direct["refused"] else ""
        rows += [["direct reads", used + refused]]
    if shares := server.get("shares"):
        rows += [
            ["clients' rings", f"{size(shares['memory'])} of {size(shares['most_memory'])}"],
            [
                "clients' files",
                f"{grouped(shares['descriptors'])} of {grouped(shares['most_descriptors'])}",
            ],
            ["refused clients", grouped(server["turned_away"])],
        ]
    return [*heading(server), *table(None, rows, "<>")]


def heading(server: dict[str, Any]) -> list[str]:
    """Return the lines that identify the server."""
    workers, clients = (
        plural(len(server["workers"]), "worker"),
        plural(len(server["clients"]), "client"),
    )
    return [
        f"{server['address']}  (process {server['pid']}, up {clock(server['uptime'])})",
        f"{units.show_size(server['memory'])}, eviction {server['eviction']}, {workers}, {clients}",
        "",
    ]
