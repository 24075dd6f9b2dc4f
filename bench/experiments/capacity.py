"""Many small records in little memory."""

from __future__ import annotations

from bench import phases
from bench.databases import open_database
from bench.databases.rfp import Rfp
from bench.experiments.keys import properties
from bench.experiments.rows import Row, Setting
from bench.placement import pinned

QUESTION = "Do 10 M records of 16 B + 32 B fit into 1.25 GiB?"
CAPACITY_RECORDS, CAPACITY_BYTES = 10_000_000, 1.25 * (1 << 30)


def measure(setting: Setting) -> list[Row]:
    """Load the records into a server with just this memory, then count the remaining records and
    the memory used."""
    records = setting.count(CAPACITY_RECORDS, 50_000)
    memory = int(CAPACITY_BYTES * records / CAPACITY_RECORDS)
    p = properties(records, rfp__window=64, rfp__memory=memory)
    with (
        open_database("rfp", p, private=True, placement=setting.placement) as database,
        pinned(setting.client),
    ):
        loaded = phases.load(database, p)
        assert isinstance(database, Rfp)
        stats = database.handle.stats()
    inserts = loaded.metric("INSERT")
    stored = inserts.returns.get("OK", 0) if inserts else 0
    held = stats["records"]
    used = stats["bytes_used"] + stats["index_bytes"]
    note = (
        f"{held:,} of {records:,} records held, {stats['evictions']:,} evicted, {stored:,} "
        f"stored, {used / records:.1f} B each"
    )
    name = f"{records / 1e6:g} M records of 16 + 32 B in {memory / (1 << 30):.3g} GiB: share held"
    return [Row(name, held / records, "x", bar=1, note=note)]
