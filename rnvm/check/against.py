"""Compare two copies of a pool: whether each holds what the other holds.

Copies that were level may differ in many bytes: what is behind the durable end of a log, free
blocks, the write-ahead area, live words, the identity of each copy, how often it was opened.  So
private copies of both are recovered, as opening would, and their content is compared: structures,
how far each has come, the owner of each block, the bytes of the blocks in use, and the operations
that no transaction covers yet.
"""

from __future__ import annotations

import os
from typing import Any

from rfp.errors import InvalidArgument
from rnvm import pools
from rnvm.check import differences
from rnvm.format import partitions
from rnvm.media import identity
from rnvm.media.medium import VolatileMemory
from rnvm.pool.findings import Finding
from rnvm.pool.inspect import Inspection, damaged
from rnvm.pool.pool import Pool

HEADER = 256  # bytes
LISTED = 20  # operations of a structure that are listed


class Compared:
    """The result of a comparison.

    Attributes:
        findings: A Finding of kind `"difference"` for each difference.
        figures: The bytes compared, and the identity of each copy (None: it has none).
    """

    def __init__(self, findings: list[Finding], figures: dict[str, Any]) -> None:
        self.findings = findings
        self.figures = figures

    @property
    def same(self) -> bool:
        """Return whether each holds what the other holds."""
        return not self.findings


def against(path: str | os.PathLike[str], other: str | os.PathLike[str]) -> Compared:
    """Compare two copies of a pool that no process has open, without changing them.

    Raises:
        NotAPool, PoolTooNew, PoolTooOld, PoolDamaged: One of them cannot be read.
        PoolRefused: One of them is a copy in catch-up.
        PoolInUse: Another process has one of them open.
        InvalidArgument: They are not two copies of one pool.
    """
    if os.path.exists(path) and os.path.exists(other) and os.path.samefile(path, other):
        raise InvalidArgument(
            f"cannot compare: {os.fspath(path)} and {os.fspath(other)} are one file",
            hint="give two copies of one pool",
        )
    with pools.view(path) as (one, _), pools.view(other) as (two, _):
        return against_copy(one, two)


def against_copy(one: VolatileMemory, two: VolatileMemory) -> Compared:
    """Compare the bytes of two copies, which this function may change."""
    inspections = [Inspection(one), Inspection(two)]
    for inspection in inspections:
        inspection.run()
        if inspection.fatal:
            raise damaged(inspection.fatal)
    same_pool(one, two, inspections)
    figures: dict[str, Any] = {"identities": [identity.read(one), identity.read(two)]}
    with Pool(one) as a, Pool(two) as b:
        findings = [*compare_structures(a, b), *compare_pending(a, b)]
        different, figures["compared"] = differences.blocks(a, b)
        names = {index: name for name, index in a.names.items()}
        for index, owners, contents, at in different:
            whose = "other blocks"
            if index is not None:
                whose = f"structure {partitions.label(names[index])}" if index in names else (
                    f"naming entry {index}"
                )  # fmt: skip
            if owners:
                what = f"{owners} of its blocks have another owner in the other copy"
                findings.append(difference(whose, f"{what}; the first at {at}"))
            if contents:
                what = f"{contents} of its blocks have other bytes in the other copy"
                findings.append(difference(whose, f"{what}; the first at {at}"))
    return Compared(findings, figures)


def same_pool(one: VolatileMemory, two: VolatileMemory, inspections: list[Inspection]) -> None:
    first, second = inspections
    if first.uuid != second.uuid:
        raise InvalidArgument(
            f"cannot compare: these are different pools ({first.uuid} and {second.uuid})",
            hint="give two copies of one pool",
        )
    if first.size != second.size:
        raise InvalidArgument(
            f"cannot compare: the copies have different sizes ({first.size} and {second.size} "
            "bytes)",
            hint="grow the smaller one: rnvm grow",
        )
    if one.read(0, HEADER) != two.read(0, HEADER):
        raise InvalidArgument(
            "cannot compare: the copies have different headers",
            hint="repair the damaged one: rnvm check --repair",
        )


def difference(where: str, what: str) -> Finding:
    return Finding("difference", where, what)


def compare_structures(a: Pool, b: Pool) -> list[Finding]:
    findings = []
    for name in sorted({*a.names, *b.names}):
        where = f"structure {partitions.label(name)}"
        if name not in a.names or name not in b.names:
            missing = "this copy" if name not in a.names else "the other copy"
            findings.append(difference(where, f"it does not exist in {missing}"))
            continue
        (id_, number, covers), (other_id, other_number, other_covers) = (
            differences.structure(pool, name) for pool in (a, b)
        )
        if id_ != other_id or a.names[name] != b.names[name]:
            findings.append(
                difference(where, "the copies have different structures of this name (one of them "
                                  "was dropped and created again)")
            )  # fmt: skip
        elif (number, covers) != (other_number, other_covers):
            findings.append(
                difference(where, f"it is at transaction {number}, in the other copy at "
                                  f"{other_number}; covered operations: {covers} and "
                                  f"{other_covers}")
            )  # fmt: skip
    return findings


def compare_pending(a: Pool, b: Pool) -> list[Finding]:
    mine, others = differences.pending(a), differences.pending(b)
    different = sorted(key for key in {*mine, *others} if mine.get(key) != others.get(key))
    findings = []
    for id_, number in different[:LISTED]:
        missing = [where for where, log in (("this copy", mine), ("the other copy", others))
                   if (id_, number) not in log]  # fmt: skip
        what = f"operation {number} of structure {id_:#x}, which waits for its execution"
        findings.append(
            difference("logs", f"{what}, is missing in {missing[0]}" if missing
                       else f"{what}, has other bytes in the other copy")
        )  # fmt: skip
    if len(different) > LISTED:
        findings.append(difference("logs", f"{len(different) - LISTED} more operations differ"))
    return findings
