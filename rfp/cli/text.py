"""Formatting of numbers and tables for display."""

from __future__ import annotations

from collections.abc import Sequence


def grouped(number: int) -> str:
    """Return 1234567 as 1,234,567."""
    return f"{number:,}"


def plural(number: int, noun: str) -> str:
    """Return 1 worker, 2 workers, 2 processes."""
    ending = "es" if noun.endswith("s") else "s"
    return f"{number} {noun}{'' if number == 1 else ending}"


def short(number: float) -> str:
    """Return 1234567 as 1.23M: three significant digits."""
    for scale, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= 0.9995 * scale:
            value = number / scale
            return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f}{unit}"
    return f"{number:.0f}"


def size(number: float) -> str:
    """Return 1536 as 1.5 KiB."""
    for scale, unit in ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if number >= scale:
            return f"{number / scale:.1f} {unit}"
    return f"{number:.0f} B"


def share(part: float, whole: float) -> str:
    """Return a ratio in per cent, or a dash if `whole` is 0."""
    return f"{100 * part / whole:.1f} %" if whole > 0 else "-"


def clock(seconds: float) -> str:
    """Return 3723 as 1:02:03."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return (f"{days}d " if days else "") + f"{hours}:{minutes:02}:{rest:02}"


def bar(part: float, whole: float, width: int) -> str:
    """Return a bar that shows a filling level: [####----]."""
    filled = min(width, max(0, round(width * part / whole))) if whole > 0 else 0
    return f"[{'#' * filled}{'-' * (width - filled)}]"


def table(head: Sequence[str] | None, rows: Sequence[Sequence[str]], align: str) -> list[str]:
    """Return lines with columns as wide as their longest text; align: < or > for each column."""
    lines = [*([head] if head else []), *rows]
    widths = [max((len(line[i]) for line in lines), default=0) for i in range(len(align))]
    cells = (
        [f"{text:{side}{width}}" for text, side, width in zip(line, align, widths, strict=True)]
        for line in lines
    )
    return ["  ".join(line).rstrip() for line in cells]
