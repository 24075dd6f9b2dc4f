"""Checking a pool: what is wrong with it, and mending what can be mended.

`check()` looks at a private copy of the pool, so the pool does not change.  It looks at all that is doubled or checksummed, then
recovers the copy as opening would, and walks the structures whose kinds this process knows: each invariant, and that the blocks
that a structure owns are those that it reaches.
"""

from __future__ import annotations

import collections
import contextlib
import os
from collections.abc import Iterator
from typing import Any

from rfp.errors import PoolDamaged
from rnvm import _ahead, _offline, pools
from rnvm._persistence import Private
from rnvm.findings import Finding
from rnvm.pool import _drive, _mend
from rnvm.pool._inspect import LOSSES, Inspection
from rnvm.pool._pool import Pool

NOBODY, GRANTED, USED, UNKNOWN = 0, 0x4000, 0x8000, 0xC000
PIECE = 1 << 16


class Checked:
    """What a check found.  findings: Finding each.  figures: counts of blocks by owner, and of what waits in the logs."""

    def __init__(self, findings: list[Finding], figures: dict[str, Any]) -> None:
        self.findings = findings
        self.figures = figures

    @property
    def sound(self) -> bool:
        """Nothing is damaged or leaked (a doubt does no harm)."""
        return all(finding.kind == "doubt" for finding in self.findings)


def check(path: str | os.PathLike[str]) -> Checked:
    """Look at a pool that nobody has open; it is not changed.

    Raises NotAPool, PoolTooNew or PoolInUse; what is wrong with a pool is returned.
    """
    with pools.view(path) as (view, _):
        return check_copy(view)


def check_copy(view: Private) -> Checked:
    """Look at the bytes of a pool, which this may change."""
    try:
        inspection = Inspection(view)
    except PoolDamaged as error:
        return Checked([Finding("damage", "pool", str(error), None, "fatal")], {})
    findings = list(inspection.run())
    if inspection.fatal:
        return Checked(findings, {})
    try:
        with Pool(view, accept_loss=True) as pool:
            findings += pool.losses + pool.torn
            reached, wrong = walk(pool)
            return Checked(findings + wrong, {**account(pool), "reached": reached})
    except PoolDamaged as error:
        return Checked([*findings, Finding("damage", "pool", str(error), None, "fatal")], {})


def walk(pool: Pool) -> tuple[dict[bytes, dict[str, int]], list[Finding]]:
    """What can be reached of each structure of a kind that this process knows, and what is wrong with them."""
    reached: dict[bytes, dict[str, int]] = {}
    findings = []
    for name in pool.names:
        if not _offline.known(pool, name):
            continue
        wrong, at, reached[name] = _offline.examine(pool, name)
        blocks, slots, first = (reached[name].pop("lost_" + what) for what in ("blocks", "slots", "at"))
        if first:
            what = f"{blocks} blocks and {slots} slots in others are its own and cannot be reached; the first at {first:#x}"
            findings.append(Finding("leak", f"structure {name!r}", what))
        if wrong is not None:
            mend = "one flipped bit is turned back" if at else None
            findings.append(Finding("damage", f"structure {name!r}", wrong, mend, "node", at, pool.names[name]))
    return reached, findings


def account(pool: Pool) -> dict[str, Any]:
    """Counts of blocks by owner.  Those of structures that are gone were freed when it was opened."""
    owners = _drive.owners(pool)
    of = collections.Counter(owner - USED - 1 for owner in owners if owner & UNKNOWN == USED)
    return {
        "blocks": len(owners),
        "free": owners.count(NOBODY),
        "granted": sum(owner & UNKNOWN == GRANTED for owner in owners),
        "unknown": owners.count(UNKNOWN),
        "used": {name: of[index] for name, index in pool.names.items()},
        "recovered": pool.recovered,
    }


# Repair


def mend_copy(view: Private) -> tuple[list[str], list[str]]:
    """Mend the bytes of a pool: what was mended, and what was lost for good.  Raises PoolDamaged where nothing can be done."""
    mended: list[str] = []
    lost: list[str] = []
    try:
        mend_area(view, mended, lost)
        inspection = Inspection(view)
    except PoolDamaged:
        if _mend.header(view):
            mended.append("header: one bit was turned back")
            mend_area(view, mended, lost)
        if _mend.superblock(view):
            mended.append("superblock: one bit was turned back")
        inspection = Inspection(view)
    for finding in inspection.run():
        if finding.kind != "damage":
            mended.append(f"{finding.where}: {finding.mend}")
        elif _mend.bit(view, inspection, finding.part, finding.at):
            mended.append(f"{finding.where}: one bit was turned back")
    # The rest is given up; what became whole may show more.
    for _ in range(3):
        inspection = Inspection(view)
        damage = [finding for finding in inspection.run() if finding.kind == "damage"]
        for finding in damage:
            _mend.lose(view, inspection, finding.part, finding.at, finding.number)
            lost.append(f"{finding.where}: {finding.what}: {LOSSES[finding.part]}")
        if not damage:
            break
    mend_logs(view, mended, lost)
    return mended, lost


def mend_area(view: Private, mended: list[str], lost: list[str]) -> None:
    """The write-ahead area: what counts in it comes to its place, and then nothing in it counts any more."""
    while area := _ahead.look(view):
        where = f"write-ahead area at {area['at']}"
        if not area["headers"]:
            if _mend.area(view):
                mended.append(f"{where}: one bit of its header was turned back")
            else:
                _ahead.rebuild(view)
                lost.append(f"{where}: neither copy of its header is whole: {LOSSES['ahead']}")
        elif area["behind"] and _mend.frame(view, area["frames"], area["end"]):
            mended.append(f"{where}: one bit of frame {area['frames']} was turned back")
        elif area["frames"] or area["behind"]:
            if area["behind"]:
                lost.append(f"{where}: frame {area['frames']} is not whole: {LOSSES['frame']}")
            _ahead.apply(view)
            _ahead.forget(view)
        else:
            return


def copied(view: Private) -> Private:
    """The same bytes once more."""
    copy = Private(view.length)
    for at in range(0, view.length, PIECE):
        copy.poke(at, view.read(at, min(PIECE, view.length - at)))
    return copy


def mend_logs(view: Private, mended: list[str], lost: list[str]) -> None:
    """Turn bits of log records back, one record after the other, as long as that helps."""
    given_up: set[tuple[str, int]] = set()
    while True:
        with contextlib.closing(copied(view)) as copy, Pool(copy, accept_loss=True) as pool:
            losses = [loss for loss in pool.losses + pool.torn if (loss.part, loss.number) not in given_up]
            if not losses:
                return
            for loss in losses:
                if _mend.record(view, pool, loss.part, loss.number):
                    mended.append(f"{loss.where}: one bit was turned back")
                else:
                    given_up.add((loss.part, loss.number))
                    if loss.kind == "damage":
                        lost.append(f"{loss.where}: {loss.what}: {loss.mend}")


def mend_nodes(view: Private, mended: list[str]) -> None:
    """Turn bits of nodes back, one node after the other, as long as that helps.  What cannot be mended, a check still finds."""
    while True:
        with contextlib.closing(copied(view)) as copy, Pool(copy) as pool:
            done = [
                f"{finding.where}: one bit of the node at {finding.at} was turned back"
                for finding in walk(pool)[1]
                if finding.at and _mend.node(view, pool, finding.number, finding.at)
            ]
        if not done:
            return
        mended += done


def repair(path: str | os.PathLike[str]) -> tuple[list[str], list[str]]:
    """Mend a pool that nobody has open: what was mended, and what was lost for good.

    One flipped bit in anything that is checksummed is turned back.  Where more is damaged, what cannot be known is given up, so
    that the rest can be used: copy the pool first.  Raises PoolDamaged where nothing can be done; the pool is unchanged then.
    """
    with changing(path) as view:
        mended, lost = mend_copy(view)
    # Opening mends copies and recovers.
    with pools.open_pool(path, accept_loss=True) as pool:
        mended += [text for text in pool.recovered if not text.startswith(("doubt", "damage"))]
    with changing(path) as view:
        mend_nodes(view, mended)
    return mended, lost


@contextlib.contextmanager
def changing(path: str | os.PathLike[str]) -> Iterator[Private]:
    """A private copy of a pool that nobody has open; what has changed in it in the end is written to the pool."""
    with contextlib.ExitStack() as stack:
        view, _ = stack.enter_context(pools.view(path))
        before = stack.enter_context(contextlib.closing(copied(view)))
        yield view
        changes = [
            (at, new)
            for at in range(0, view.length, PIECE)
            if (new := view.read(at, min(PIECE, view.length - at))) != before.read(at, len(new))
        ]
    if changes:
        with contextlib.closing(pools.open_raw(path)) as medium:
            for at, new in changes:
                medium.write(at, new)
            medium.drain()
