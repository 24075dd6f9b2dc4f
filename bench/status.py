"""The progress of a run: YCSB's periodic status line, and a live line on a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from datetime import datetime
from typing import TextIO

from bench._histogram import Histogram
from bench._tally import METRIC_NAMES, Tally
from bench.results import TALLY_KINDS, total_of

WAIT_MAX = 3600.0  # seconds


def remaining(seconds: float) -> str:
    """Format a time in the two greatest units that it has.

    >>> remaining(3725)
    '1 hour 2 minutes'
    """
    parts, left = [], max(int(seconds + 0.999), 0)
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60), ("second", 1)):
        n, left = divmod(left, length)
        if n:
            parts.append(f"{n} {unit}" + "s" * (n != 1))
    return " ".join(parts[:2]) or "0 seconds"


class Status:
    """Reports the tallies of a phase.

    Args:
        total: operations to do, 0 if only time ends the phase.
        every: seconds between status lines, 0 for none.
        progress: whether to show a live line on the terminal.
    """

    def __init__(
        self,
        tallies: Sequence[Tally],
        total: int,
        *,
        every: float = 0,
        progress: bool = False,
        label: str = "",
        what: str = "",
        out: TextIO | None = None,
    ) -> None:
        self.tallies, self.total, self.every, self.progress, self.label, self.what = (
            tallies,
            total,
            every,
            progress,
            label,
            what,
        )
        self.out = out or sys.stderr
        self.intervals: list[tuple[float, float, dict[str, Histogram]]] = []
        self._seen: dict[str, Histogram] = {}
        self._begin = self._line_at = self._shown_at = time.monotonic()
        self._line_count = self._shown_count = 0
        self._shown = False

    def next(self) -> float:
        """Return the seconds until tick() has something to do."""
        now = time.monotonic()
        waits = [0.25 - (now - self._shown_at)] if self.progress else []
        waits += [self.every - (now - self._line_at)] if self.every else []
        # status.interval may be longer than the system can wait
        return max(min([*waits, WAIT_MAX]), 0.0)

    def tick(self, *, last: bool = False) -> None:
        """Print the lines that are due."""
        now = time.monotonic()
        count = sum(tally.operations for tally in self.tallies)
        if self.every and (last or now - self._line_at >= self.every):
            self._clear()
            print(self._line(now, count), file=self.out, flush=True)
            self._line_at, self._line_count = now, count
        if self.progress and last:
            self._clear()
        elif self.progress and now - self._shown_at >= 0.25:
            self._show(now, count)

    def _line(self, now: float, count: int) -> str:
        rate = (count - self._line_count) / max(now - self._line_at, 1e-9)
        stamp = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S:%f")[:-3]
        line = (
            f"{self.label + ' ' if self.label else ''}{stamp} {int(now - self._begin)} sec: "
            f"{count} operations; "
        )
        if count:
            line += f"{rate:.2f} current ops/sec; "
        if self.total and count and count < self.total:
            left = (self.total - count) * (now - self._begin) / count
            line += f"est completion in {remaining(left)} "
        pieces = {}
        for name, piece in self._since():
            pieces[name] = piece
            shown = ", ".join(
                f"{p}={piece.percentile(p) / 1e3:.2f}" for p in (50, 90, 99, 99.9, 99.99)
            )
            line += (
                f"[{name}: Count={piece.count}, Max={piece.maximum / 1e3:.2f}, "
                f"Min={piece.minimum / 1e3:.2f}, Avg={piece.mean / 1e3:.2f}, {shown}]"
            )
        self.intervals.append((self._line_at - self._begin, now - self._begin, pieces))
        return line

    def _since(self) -> list[tuple[str, Histogram]]:
        """Return the measurements since the last line, by the name that the line prints."""
        found = []
        for what, name in enumerate(METRIC_NAMES):
            for kind, shown in zip(TALLY_KINDS, (name, f"Intended-{name}"), strict=False):
                total = total_of(self.tallies, what, kind)
                piece = total.since(self._seen.get(shown, Histogram()))
                self._seen[shown] = total
                if piece.count:
                    found.append((shown, piece))
        return found

    def _show(self, now: float, count: int) -> None:
        rate = (count - self._shown_count) / max(now - self._shown_at, 1e-9)
        share = (
            f"{100 * count / self.total:3.0f} %  " if self.total else f"{now - self._begin:.0f} s  "
        )
        print(
            f"\r\x1b[K{self.what}  {share}{count:,} operations  {rate:,.0f}/s",
            end="",
            file=self.out,
            flush=True,
        )
        self._shown, self._shown_at, self._shown_count = True, now, count

    def _clear(self) -> None:
        if self._shown:
            print("\r\x1b[K", end="", file=self.out, flush=True)
            self._shown = False
