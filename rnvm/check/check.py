"""Check a pool and make the possible repairs.

`check()` works on a private copy of the pool, so the pool does not change.  It checks everything
that is doubled or checksummed, recovers the copy as opening would, and walks the structures whose
kinds this process knows: each invariant, and that the blocks a structure owns are the blocks
reachable from its root.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from rfp.core.log import Log
from rfp.errors import PoolDamaged
from rnvm import pools
from rnvm.check import offline_walk
from rnvm.format import partitions
from rnvm.format.layout import OWNER_GRANTED, OWNER_KIND, OWNER_NOBODY, OWNER_UNKNOWN, OWNER_USED
from rnvm.media import wal
from rnvm.media.medium import VolatileMemory
from rnvm.pool import repair as repair_module
from rnvm.pool.findings import Finding
from rnvm.pool.inspect import LOSSES, Inspection
from rnvm.pool.pool import Pool

log = Log("rnvm")

CHECKED_AT_ONCE = 1 << 16  # words, or bytes


class Checked:
    """The result of a check.

    Attributes:
        findings: A Finding for each problem.
        figures: Counts of blocks by owner, and of records waiting in the logs.
        closed: Whether the pool was closed in order, as far as is known.
    """

    def __init__(
        self, findings: list[Finding], figures: dict[str, Any], *, closed: bool = True
    ) -> None:
        self.findings = findings
        self.figures = figures
        self.closed = closed

    @property
    def sound(self) -> bool:
        """Return whether nothing is damaged or leaked (a doubt does no harm)."""
        return all(finding.kind == "doubt" for finding in self.findings)


def check(path: str | os.PathLike[str]) -> Checked:
    """Check a pool that no process has open, without changing it.

    Problems of the pool are returned, not raised.

    Raises:
        NotAPool, PoolTooNew, PoolTooOld: The pool cannot be read.
        PoolInUse: Another process has it open.
    """
    with pools.view(path) as (view, _):
        return check_copy(view)


def check_copy(view: VolatileMemory) -> Checked:
    """Check the bytes of a pool, which this function may change."""
    try:
        inspection = Inspection(view)
    except PoolDamaged as error:
        return Checked([Finding("damage", "pool", str(error), None, "fatal")], {})
    findings = list(inspection.run())
    if inspection.fatal:
        return Checked(findings, {}, closed=inspection.clean)
    try:
        with Pool(view, accept_loss=True) as pool:
            findings += pool.losses + pool.torn
            reached, wrong = walk(pool)
            return Checked(
                findings + wrong, {**account(pool), "reached": reached}, closed=inspection.clean
            )
    except PoolDamaged as error:
        return Checked(
            [*findings, Finding("damage", "pool", str(error), None, "fatal")],
            {},
            closed=inspection.clean,
        )


def walk(pool: Pool) -> tuple[dict[bytes, dict[str, int]], list[Finding]]:
    """Return the reachable counts of each structure of a known kind, and their findings."""
    reached: dict[bytes, dict[str, int]] = {}
    findings = []
    for name in pool.names:
        if not offline_walk.known(pool, name):
            continue
        wrong, at, reached[name] = offline_walk.examine(pool, name)
        blocks, slots, first = (
            reached[name].pop("lost_" + what) for what in ("blocks", "slots", "at")
        )
        if first:
            what = (
                f"{blocks} blocks, and {slots} slots of other blocks, belong to it and are "
                f"unreachable; the first at {first:#x}"
            )
            findings.append(Finding("leak", f"structure {partitions.label(name)}", what))
        if wrong is not None:
            mend = "one flipped bit corrected" if at else None
            findings.append(
                Finding(
                    "damage",
                    f"structure {partitions.label(name)}",
                    wrong,
                    mend,
                    "node",
                    at,
                    pool.names[name],
                )
            )
    return reached, findings


def account(pool: Pool) -> dict[str, Any]:
    """Return counts of blocks by owner.

    Blocks of dropped structures were freed when the pool was opened.
    """
    owners = pool.blocks_by_owner()
    return {
        "blocks": sum(owners.values()),
        "free": owners.get(OWNER_NOBODY, 0),
        "granted": sum(
            count for owner, count in owners.items() if owner & OWNER_KIND == OWNER_GRANTED
        ),
        "unknown": owners.get(OWNER_UNKNOWN, 0),
        "used": {name: owners.get(OWNER_USED + index + 1, 0) for name, index in pool.names.items()},
        "recovered": pool.recovered,
    }


# Repair


def repair_copy(view: VolatileMemory) -> tuple[list[str], list[str]]:
    """Repair the bytes of a pool; return the repairs and the losses.

    Raises:
        PoolDamaged: Nothing can be done.
    """
    mended: list[str] = []
    lost: list[str] = []
    try:
        repair_wal(view, mended, lost)
        inspection = Inspection(view)
    except PoolDamaged:
        if repair_module.header(view):
            mended.append("header: one flipped bit corrected")
            repair_wal(view, mended, lost)
        if repair_module.superblock(view):
            mended.append("superblock: one flipped bit corrected")
        inspection = Inspection(view)
    for finding in inspection.run():
        if finding.kind != "damage":
            mended.append(f"{finding.where}: {finding.mend}")
        elif finding.part == "owners":
            turned, _ = repair_owners(view, inspection, finding)
            if turned:
                words = f" in each of {turned} words" if turned > 1 else ""
                mended.append(f"{finding.where}: one flipped bit corrected{words}")
        elif repair_module.bit(view, inspection, finding.part, finding.at):
            mended.append(f"{finding.where}: one flipped bit corrected")
    # The rest is given up; parts that became whole may reveal more.
    for _ in range(3):
        inspection = Inspection(view)
        damage = [finding for finding in inspection.run() if finding.kind == "damage"]
        for finding in damage:
            if finding.part == "owners":
                repair_owners(view, inspection, finding, give_up=True)
            else:
                repair_module.lose(view, inspection, finding.part, finding.at, finding.number)
            lost.append(f"{finding.where}: {finding.what}: {LOSSES[finding.part]}")
        if not damage:
            break
    repair_logs(view, mended, lost)
    return mended, lost


def repair_owners(
    view: VolatileMemory, inspection: Inspection, finding: Finding, *, give_up: bool = False
) -> tuple[int, int]:
    """Turn bits back in damaged words of owners, and give up words that cannot be repaired.

    Return how many of each.
    """
    mended = lost = 0
    # may be millions of words: let Ctrl-C through
    for first in range(finding.number, finding.number + finding.words, CHECKED_AT_ONCE):
        turned, left = repair_module.owners(
            view,
            inspection,
            first,
            min(CHECKED_AT_ONCE, finding.number + finding.words - first),
            give_up,
        )
        mended, lost = mended + turned, lost + left
    return mended, lost


def repair_wal(view: VolatileMemory, mended: list[str], lost: list[str]) -> None:
    """Apply the frames that count in the write-ahead area, then empty the area."""
    while area := wal.describe(view):
        where = f"write-ahead area at {area['at']}"
        if not area["headers"]:
            if repair_module.area(view):
                mended.append(f"{where}: one flipped bit of its header corrected")
            else:
                wal.rebuild(view)
                lost.append(f"{where}: both copies of its header are damaged: {LOSSES['ahead']}")
        elif area["behind"] and repair_module.frame(view, area["frames"], area["end"]):
            mended.append(f"{where}: one flipped bit of frame {area['frames']} corrected")
        elif area["frames"] or area["behind"]:
            if area["behind"]:
                lost.append(f"{where}: frame {area['frames']} is damaged: {LOSSES['frame']}")
            wal.apply(view)
            wal.forget(view)
        else:
            return


def repair_logs(view: VolatileMemory, mended: list[str], lost: list[str]) -> None:
    """Turn bits of log records back, one record after the other, as long as that helps."""
    given_up: set[tuple[str, int]] = set()
    while True:
        with contextlib.closing(view.copy()) as copy, Pool(copy, accept_loss=True) as pool:
            losses = [
                loss for loss in pool.losses + pool.torn if (loss.part, loss.number) not in given_up
            ]
            if not losses:
                return
            for loss in losses:
                if repair_module.record(view, pool, loss.part, loss.number):
                    mended.append(f"{loss.where}: one flipped bit corrected")
                else:
                    given_up.add((loss.part, loss.number))
                    if loss.kind == "damage":
                        lost.append(f"{loss.where}: {loss.what}: {loss.mend}")


def repair_nodes(view: VolatileMemory, mended: list[str]) -> None:
    """Turn bits of nodes back, one node after the other, as long as that helps.

    A check still reports nodes that cannot be repaired.
    """
    while True:
        with contextlib.closing(view.copy()) as copy, Pool(copy) as pool:
            done = [
                f"{finding.where}: one flipped bit of the node at {finding.at} corrected"
                for finding in walk(pool)[1]
                if finding.at and repair_module.node(view, pool, finding.number, finding.at)
            ]
        if not done:
            return
        mended += done


def repair(path: str | os.PathLike[str]) -> tuple[list[str], list[str]]:
    """Repair a pool that no process has open; return the repairs and the losses.

    One flipped bit in anything that is checksummed is turned back.  Where more is damaged, the
    unknown part is given up so that the rest can be used: copy the pool first.  The sessions of
    front-ends that still have the pool of a dead back-end mapped are ended before the repair reads
    anything: records that they had acknowledged by then are in the logs and count.

    Raises:
        PoolDamaged: Nothing can be done; the pool is unchanged then.
    """
    with pools.claim(path) as claimed:
        with _changing(claimed) as view:
            mended, lost = repair_copy(view)
        # Opening repairs doubled copies and recovers.
        with claimed.pool(accept_loss=True) as pool:
            mended += [text for text in pool.recovered if not text.startswith(("doubt", "damage"))]
        with _changing(claimed) as view:
            repair_nodes(view, mended)
    for text in mended:
        log.warning("pool %s repaired: %s", os.fspath(path), text)
    for text in lost:
        log.error("pool %s repaired, with a loss: %s", os.fspath(path), text)
    return mended, lost


@contextlib.contextmanager
def changing(path: str | os.PathLike[str]) -> Iterator[VolatileMemory]:
    """Yield a private copy of a pool that no process has open; on exit write back its changes.

    No other process can open the pool in the meantime, and the sessions of front-ends that still
    have it mapped are ended first.
    """
    with pools.claim(path) as claimed, _changing(claimed) as view:
        yield view


@contextlib.contextmanager
def _changing(claimed: pools.Claim) -> Iterator[VolatileMemory]:
    with contextlib.closing(claimed.view()) as view:
        yield view
        with contextlib.closing(claimed.view()) as now:
            changes = [
                (at, new)
                for at in range(0, view.length, CHECKED_AT_ONCE)
                if (new := view.read(at, min(CHECKED_AT_ONCE, view.length - at)))
                != now.read(at, len(new))
            ]
        area = wal.describe(view) or {"at": 0, "bytes": 0}
    if not changes:
        return
    # Frames count until the header of their area says otherwise, so write the area last.  (In a
    # file the medium itself does that.)
    last = range(area["at"], area["at"] + area["bytes"])
    with contextlib.closing(claimed.raw()) as medium:
        for within in (False, True):
            for at, new in changes:
                for begin, end, inside in _cut(at, at + len(new), last):
                    if inside == within:
                        medium.write(begin, new[begin - at : end - at])
            medium.drain()


def _cut(begin: int, end: int, area: range) -> Iterator[tuple[int, int, bool]]:
    """Yield the parts of a range before, within and behind another one; and if they are within."""
    at, behind = max(begin, min(end, area.start)), max(begin, min(end, area.stop))
    for first, last, inside in ((begin, at, False), (at, behind, True), (behind, end, False)):
        if first < last:
            yield first, last, inside
