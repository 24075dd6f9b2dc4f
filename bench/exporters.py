"""Results in YCSB's formats: text, JSON (one object a line), a JSON array, and HdrHistogram
logs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from rfp.errors import InvalidArgument

if TYPE_CHECKING:
    from bench._histogram import Histogram
    from bench.properties import Properties
    from bench.results import Result, Row


def text(rows: Iterable[Row]) -> str:
    """Return `[METRIC], Measure, value` lines."""
    return "".join(f"[{metric}], {measure}, {value}\n" for metric, measure, value in rows)


def parse_text(lines: str) -> list[tuple[str, str, str]]:
    """Return the rows of text()'s output, values as text; all other lines are skipped.

    >>> parse_text("Starting test.\\n[READ], Operations, 3\\n")
    [('READ', 'Operations', '3')]
    """
    found = []
    for line in lines.splitlines():
        parts = line.split(", ", 2)
        if len(parts) == 3 and parts[0].startswith("[") and parts[0].endswith("]"):
            found.append((parts[0][1:-1], parts[1], parts[2]))
    return found


def json_lines(rows: Iterable[Row]) -> str:
    """Return one JSON object per line."""
    return "".join(json.dumps(item) + "\n" for item in _objects(rows))


def json_array(rows: Iterable[Row]) -> str:
    """Return one JSON array."""
    return json.dumps(list(_objects(rows)), indent=1) + "\n"


def _objects(rows: Iterable[Row]) -> Iterable[dict[str, Any]]:
    return (
        {"metric": metric, "measurement": measure, "value": value}
        for metric, measure, value in rows
    )


FORMATS = {"text": text, "json": json_lines, "jsonarray": json_array}


def export(result: Result, properties: Properties, out: TextIO | None = None) -> None:
    """Write a result as the properties define: exporter, exportfile, hdrhistogram.*."""
    interval = latency_interval(properties)
    rows = result.rows(
        properties["hdrhistogram.percentiles"],
        interval=interval,
        verbose=properties["measurement.histogram.verbose"],
    )
    written = FORMATS[properties["exporter"]](rows)
    if properties["exportfile"]:
        try:
            write_file(properties["exportfile"], written)
        except InvalidArgument:
            (out or sys.stdout).write(written)  # do not lose a finished measurement
            raise
    else:
        (out or sys.stdout).write(written)
    if properties["hdrhistogram.fileoutput"]:
        write_hdr(result, properties["hdrhistogram.output.path"], interval)


def check_outputs(properties: Properties) -> None:
    """Verify, before any measurement, that the results can be written; create missing directories.

    Raises:
        InvalidArgument: an output cannot be written.
    """
    if properties["exportfile"]:
        check_writable(properties["exportfile"])
    if properties["hdrhistogram.fileoutput"]:
        hdr_package()
        directory = Path(properties["hdrhistogram.output.path"] + "NAME.hdr").parent
        make_directory(directory, directory)


def check_writable(path: str | Path) -> None:
    """Open a file to append to it, and create its directory if necessary; raise InvalidArgument on
    failure."""
    make_directory(Path(path).parent, path)
    new = not Path(path).exists()
    try:
        with Path(path).open("a"):
            pass
        if new:
            Path(path).unlink()
    except OSError as error:
        raise _unwritable(path, error) from None


def make_directory(directory: Path, path: str | Path) -> None:
    """Create the directory of `path`; raise InvalidArgument on failure."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(path, error) from None


def _unwritable(path: str | Path, error: OSError) -> InvalidArgument:
    return InvalidArgument(
        f"cannot write {path}: {error.strerror}",
        hint="give a writable file on a disk with free space",
    )


def latency_interval(properties: Properties) -> str:
    """Return op, intended or both: as given, else both if there is a target."""
    return properties["measurement.interval"] or ("both" if properties["target"] else "op")


def write_file(path: str | Path, content: str) -> None:
    """Write a text file; raise InvalidArgument on failure."""
    make_directory(Path(path).parent, path)
    try:
        Path(path).write_text(content, encoding="utf-8")
    except OSError as error:
        raise _unwritable(path, error) from None


def hdr_package() -> Any:
    """Return the hdrh package; raise InvalidArgument if it is not installed."""
    try:
        import hdrh.histogram
        import hdrh.log
    except ImportError:
        raise InvalidArgument(
            ".hdr files need the package hdrhistogram",
            hint="run `pip install hdrhistogram`, or omit hdrhistogram.fileoutput",
        ) from None
    return hdrh


def write_hdr(result: Result, prefix: str, interval: str = "op") -> list[Path]:
    """Write PREFIX + NAME.hdr for each kind of operation, in HdrHistogram's V2 log format, values
    in ns.

    A file has one line per status interval, or one for all if no status was printed.

    Returns:
        The paths.
    """
    hdrh = hdr_package()
    paths = []
    for metric in result.metrics:
        kinds = {metric.name: metric.intended if interval == "intended" else metric.done}
        if interval == "both" and metric.intended.count:
            kinds[f"Intended-{metric.name}"] = metric.intended
        for name, total in kinds.items():
            path = Path(f"{prefix}{name}.hdr")
            pieces = [
                (begin, end, each[name])
                for begin, end, each in result.intervals
                if name in each and each[name].count
            ]
            try:
                with path.open("w", encoding="ascii") as file:
                    log = hdrh.log.HistogramLogWriter(file)
                    log.output_comment(f"[Logging for: {name}, values in nanoseconds]")
                    log.output_log_format_version()
                    log.output_legend()
                    for begin, end, piece in pieces or [(0.0, result.runtime / 1e9, total)]:
                        log.output_interval_histogram(
                            hdr_histogram(hdrh, piece), begin or 1e-6, end
                        )
            except OSError as error:
                raise InvalidArgument(
                    f"cannot write {path}: {error.strerror}",
                    hint="set hdrhistogram.output.path, the prefix of "
                    "the file name, to a writable place",
                ) from None
            paths.append(path)
    return paths


def hdr_histogram(hdrh: Any, histogram: Histogram) -> Any:
    """Return the same counts as an HdrHistogram of three significant digits."""
    converted = hdrh.histogram.HdrHistogram(1, 1 << 42, 3)
    for value, times in histogram.buckets():
        converted.record_value(value, times)
    return converted
