"""YCSB's properties: names, types and defaults, and the files that contain them.

A property file has one `name=value` a line (also `name: value` and `name value`).  `#` and `!`
begin comments, a backslash at the end continues a line.  Later files override earlier ones, and `-p
name=value` overrides files.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from rfp.core.choices import MODES
from rfp.core.limits import WORKERS_MAX
from rfp.errors import InvalidArgument, either

WORKLOADS = Path(__file__).parent / "workloads"


def boolean(text: str) -> bool:
    """Parse `true` or `false` in any case, as Java does; any other text is an error."""
    if text.lower() not in ("true", "false"):
        raise ValueError("must be true or false")
    return text.lower() == "true"


COUNT_MAX = 2**62  # record numbers and sums of two counts fit into 64 bits
THREADS_MAX = 1024  # clients of one process: the server accepts no more
PREDRAW_MAX = 10**7  # requests of a thread, 64 bytes each


def between(least: int, most: int) -> Callable[[str], int]:
    """Return a parser of whole numbers from `least` to `most`; it accepts underscores and k, M, G
    (decimal)."""

    def parse(text: str) -> int:
        scale = {"k": 10**3, "m": 10**6, "g": 10**9}.get(text[-1:].lower(), 1)
        try:
            number = int(text[:-1] if scale > 1 else text) * scale
        except ValueError:
            raise ValueError("must be a whole number") from None
        if not least <= number <= most:
            raise ValueError(f"must be between {least} and {most}")
        return number

    return parse


count = between(0, COUNT_MAX)
positive = between(1, COUNT_MAX)
length = between(0, 2**31 - 1)


def real(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError("must be a number") from None


def share(text: str) -> float:
    number = real(text)
    if not 0 <= number <= 1:
        raise ValueError("must be between 0 and 1")
    return number


def weight(text: str) -> float:
    number = real(text)
    if not 0 <= number < float("inf"):
        raise ValueError("must not be negative")
    return number


def above_zero(text: str) -> float:
    number = real(text)
    if not 0 < number < float("inf"):
        raise ValueError("must be more than 0")
    return number


def percentage(text: str) -> float:
    number = real(text)
    if not 0 < number < 100:
        raise ValueError("must be between 0 and 100")
    return number


def percentiles(text: str) -> tuple[float, ...]:
    numbers = tuple(real(part) for part in text.split(","))
    if not all(0 <= number <= 100 for number in numbers):
        raise ValueError("must be numbers between 0 and 100, separated by commas")
    return numbers


def choice(*names: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in names:
            raise ValueError(f"expected {either(names)}")
        return text

    return parse


def core_workload(text: str) -> str:
    """Parse YCSB's class name, with or without its package, or go-ycsb's name of it."""
    if text.rpartition(".")[2] not in ("CoreWorkload", "core"):
        raise ValueError("expected CoreWorkload, the only one built in")
    return "CoreWorkload"


def exporter(text: str) -> str:
    """Parse YCSB's class names, with or without their package, or text, json, jsonarray."""
    short = text.rpartition(".")[2]
    names = {
        "TextMeasurementsExporter": "text",
        "JSONMeasurementsExporter": "json",
        "JSONArrayMeasurementsExporter": "jsonarray",
    }
    return choice("text", "json", "jsonarray")(names.get(short, text))


@dataclass(frozen=True)
class Property:
    name: str
    default: str | None
    parse: Callable[[str], Any]
    meaning: str


def _table(*rows: tuple[str, str | None, Callable[[str], Any], str]) -> dict[str, Property]:
    return {row[0]: Property(*row) for row in rows}


# Every property, with its default and a description.  `rfp-ycsb properties` prints this.
# fmt: off
KNOWN = _table(
    ("workload", "CoreWorkload", core_workload, "the workload class, for YCSB's files"),
    ("recordcount", "1000", positive, "records in the database before the run"),
    ("operationcount", "1000", count,
     "operations of the run, in all threads (0: until maxexecutiontime)"),
    ("insertstart", "0", count, "number of the first record of this load"),
    ("insertcount", None, count, "records of this load (default: recordcount - insertstart)"),
    ("fieldcount", "10", between(1, 2**28), "fields of a record"),
    ("fieldlength", "100", length, "bytes of a field, or their maximum"),
    ("minfieldlength", "1", length,
     "minimum bytes of a field, unless fieldlengthdistribution is constant"),
    ("fieldlengthdistribution", "constant", choice("constant", "uniform", "zipfian"),
     "distribution of field lengths"),
    ("readallfields", "true", boolean, "a read takes the whole record, not one field of it"),
    ("writeallfields", "false", boolean, "an update writes the whole record, not one field of it"),
    ("dataintegrity", "false", boolean,
     "values follow from their keys, and reads verify them (also while loading)"),
    ("readproportion", "0.95", weight, "share of reads"),
    ("updateproportion", "0.05", weight, "share of updates"),
    ("insertproportion", "0", weight, "share of inserts"),
    ("scanproportion", "0", weight,
     "share of scans: only for a database that keeps its keys in order"),
    ("readmodifywriteproportion", "0", weight, "share of read-modify-writes"),
    ("minscanlength", "1", between(1, 2**31 - 1), "minimum records of a scan"),
    ("maxscanlength", "1000", between(1, 2**31 - 1), "maximum records of a scan"),
    ("scanlengthdistribution", "uniform", choice("uniform", "zipfian"),
     "distribution of scan lengths"),
    (
        "requestdistribution",
        "uniform",
        choice("uniform", "zipfian", "zipfian_exact", "latest", "hotspot", "sequential",
               "exponential"),
        "distribution of requested records; zipfian is YCSB's scrambled zipfian",
    ),
    ("hotspotdatafraction", "0.2", share, "hotspot: share of the records that are hot"),
    ("hotspotopnfraction", "0.8", share, "hotspot: share of the requests that go to them"),
    ("exponential.percentile", "95", percentage,
     "exponential: this percentage of the requests ..."),
    ("exponential.frac", "0.8571428571", above_zero,
     "... goes to this fraction of the records, the newest"),
    ("insertorder", "hashed", choice("hashed", "ordered"),
     "key names from hashed or from plain record numbers"),
    ("zeropadding", "1", count, "minimum digits of a key name"),
    ("threadcount", "1", between(1, THREADS_MAX), "client threads (-threads)"),
    ("target", "0", count, "target operations per second, in all threads (-target; 0: unlimited)"),
    ("maxexecutiontime", "0", weight, "seconds after which the run ends (0: after its operations)"),
    ("measurement.interval", None, choice("op", "intended", "both"), (
        "latency since the operation began, or since its intended start by target "
        "(default: both if there is a target, else op)"
    )),
    ("hdrhistogram.percentiles", "50,95,99", percentiles, "percentiles to print"),
    ("hdrhistogram.fileoutput", "false", boolean, "write one NAME.hdr per kind of operation"),
    ("hdrhistogram.output.path", "", str, "prefix of NAME.hdr"),
    ("measurement.histogram.verbose", "false", boolean, "print every bucket of the histograms"),
    ("exporter", "text", exporter,
     "format of the results: text, json, jsonarray, or YCSB's class names of these"),
    ("exportfile", None, str, "file for the results (default: standard output)"),
    ("status", "false", boolean, "print a line on progress to standard error (-s)"),
    ("status.interval", "10", above_zero, "seconds between status lines"),
    ("label", "", str, "prefix of status lines (-l)"),
    ("core_workload_insertion_retry_limit", "0", count,
     "maximum retries of a failed insert (Python drivers)"),
    ("core_workload_insertion_retry_interval", "3", above_zero,
     "approximate seconds between these retries"),
    # This driver's own properties.
    ("rfp.address", None, str, (
        "rfp server (default: a private server with bench and compare; with load and run the local "
        "default); rdma://HOST:0 is a private server over RDMA"
    )),
    ("rfp.secret_file", None, str,
     "file with the secret of a server over RDMA (default: $RFP_SECRET_FILE)"),
    ("rfp.tls_ca", None, str, "CA certificate (PEM) to verify a server over RDMA with"),
    ("rfp.api", "native", choice("native", "python"),
     "native: a loop in C; python: rfp.connect() and its methods"),
    ("rfp.window", "1", positive, "native: operations in flight per thread"),
    ("rfp.predraw", "0", between(0, PREDRAW_MAX),
     "native: requests that each thread draws before the clock starts, and repeats"),
    ("rfp.timeout", "10", above_zero, "seconds without any response after which a thread fails"),
    ("rfp.seed", "1", between(0, 2**64 - 1), "seed of all random numbers"),
    ("rfp.memory", None, str,
     "private server: memory for records (default: twice the workload's need, at least 256MiB)"),
    ("rfp.network", None, str,
     "private server: emulated network, such as rtt=2us&in_iops=1M (see docs/addresses.md)"),
    ("rfp.workers", "1", between(1, WORKERS_MAX), "private server: worker threads"),
    ("rfp.mode", "auto", choice(*MODES),
     "mode in which clients get results"),
    ("rnvm.address", None, str, "back-end of a pool (default: a private back-end in this process)"),
    ("rnvm.pool", None, str,
     "pool, created if it does not exist, or folder for a temporary pool (default: /dev/shm)"),
    ("rnvm.size", None, str,
     "bytes of a created pool (default: three times the need of the workload)"),
    ("rnvm.durability", "persistent", choice("volatile", "persistent", "replicated"),
     "durability of a write when it returns"),
    ("rnvm.batch", "1", positive,
     "writes of a thread that become visible to others together; each is durable by itself"),
    ("rnvm.cache", "64MiB", str, "bytes of nodes that a front-end caches; 0: none"),
    ("rnvm.timeout", "10", above_zero, "seconds for one call"),
    ("rnvm.secret_file", None, str,
     "file with the secret of a back-end over RDMA (default: $RFP_SECRET_FILE)"),
    ("redis.host", "127.0.0.1", str, "host of the Redis server"),
    ("redis.port", "6379", between(1, 65535), "port of the Redis server"),
    ("redis.socket", None, str, "Unix socket of the Redis server, instead of host and port"),
    ("redis.timeout", "10", above_zero, "seconds for one response"),
    ("memcached.hosts", "127.0.0.1:11211", str,
     "memcached server: HOST:PORT, or the path of its Unix socket"),
    ("memcached.client", None, choice("pylibmc", "pymemcache"),
     "Python client (default: pylibmc, else pymemcache)"),
    ("memcached.timeout", "10", above_zero, "seconds for one response"),
    ("memcached.memory", "1024", between(1, 2**31 - 1), "private server: MiB for records"),
    ("lmdb.path", None, str,
     "directory of the environment (default with bench and compare: a temporary one)"),
    ("lmdb.mapsize", "4G", count, "maximum bytes of the environment"),
    ("lmdb.sync", "false", boolean, "sync to disk at every commit"),
    ("rocksdb.path", None, str,
     "directory of the database (default with bench and compare: a temporary one)"),
    ("rocksdb.sync", "false", boolean, "sync the log to disk at every write"),
    ("sqlite.path", None, str,
     "file of the database (default with bench and compare: a temporary one)"),
    ("sqlite.sync", "false", boolean, "sync the log to disk at every commit"),
    ("redis.sync", "false", boolean,
     "private server: an append-only file, synced to disk before every response"),
)
# fmt: on

# YCSB's properties that have no effect here.
WITHOUT_EFFECT = {
    "db": "the database is an argument of the command",
    "dotransactions": "load and run are commands",
    "table": "a key-value store has one table",
    "readallfieldsbyname": "records are single values",
    "fieldnameprefix": "fields of a record are identified by their position",
    "measurementtype": "every latency goes into a histogram of three significant digits",
    "histogram.buckets": "every latency goes into a histogram of three significant digits",
    "measurement.raw.output_file": "every latency goes into a histogram of three significant "
    "digits",
    "timeseries.granularity": "status lines and .hdr files contain the time series",
    "reportlatencyforeacherror": "failed operations are one metric, NAME-FAILED",
    "latencytrackederrors": "failed operations are one metric, NAME-FAILED",
    "measurement.trackjvm": "there is no JVM",
}


class Properties(Mapping[str, Any]):
    """Typed properties: `properties["recordcount"]` is an int, and its default if it was not given.

    Unknown names cause a warning on standard error, once per name.

    Args:
        given: names and texts.

    Raises:
        InvalidArgument: a value does not match its type.

    >>> Properties({"recordcount": "5k"})["recordcount"]
    5000
    """

    _warned: ClassVar[set[str]] = set()

    def __init__(self, given: Mapping[str, str] | None = None) -> None:
        self.given = dict(given or {})
        self._values: dict[str, Any] = {}
        for name, text in self.given.items():
            known = KNOWN.get(name)
            if known is None:
                self._warn(name)
                continue
            try:
                self._values[name] = known.parse(text)
            except ValueError as error:
                why = str(error)[:200]
                raise InvalidArgument(
                    f"invalid property {name}={text[:100]!r}: {why} ({known.meaning})"
                ) from None
        for known in KNOWN.values():
            if known.name not in self._values:
                self._values[known.name] = (
                    None if known.default is None else known.parse(known.default)
                )

    def _warn(self, name: str) -> None:
        if name in self._warned:
            return
        self._warned.add(name)
        if name in WITHOUT_EFFECT:
            message = f"property {name} has no effect: {WITHOUT_EFFECT[name]}"
        else:
            close = difflib.get_close_matches(name, KNOWN, 1)
            message = f"unknown property {name}" + (f"; did you mean {close[0]}?" if close else "")
        print(f"rfp-ycsb: {message}", file=sys.stderr)

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def with_(self, **changes: object) -> Properties:
        """Return a copy with other values; a dot in a name is written `__`."""
        return Properties(
            self.given | {name.replace("__", "."): _text(value) for name, value in changes.items()}
        )


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def parse(text: str) -> dict[str, str]:
    """Return the names and values of a property file's text.

    >>> parse("a=1\\n# no\\nb : 2 \\\\\\n  3\\n")
    {'a': '1', 'b': '2 3'}
    """
    found = {}
    for line in _logical_lines(text):
        end = 0
        while end < len(line) and line[end] not in "=: \t\f":
            end += 2 if line[end] == "\\" else 1
        rest = line[end:].lstrip(" \t\f")
        if rest[:1] in ("=", ":"):
            rest = rest[1:].lstrip(" \t\f")
        found[_unescape(line[:end])] = _unescape(rest).rstrip()
    return found


def _logical_lines(text: str) -> Iterator[str]:
    pending = ""
    for line in text.splitlines():
        line = line.lstrip(" \t\f")
        if not pending and (not line or line[0] in "#!"):
            continue
        backslashes = len(line) - len(line.rstrip("\\"))
        if backslashes % 2:
            pending += line[:-1]
            continue
        yield pending + line
        pending = ""
    if pending:
        yield pending


def _unescape(text: str) -> str:
    if "\\" not in text:
        return text
    out, parts = [], iter(text)
    for c in parts:
        if c == "\\":
            c = next(parts, "")
            if c == "u":
                c = chr(int("".join(next(parts, "0") for _ in range(4)), 16))
            c = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}.get(c, c)
        out.append(c)
    return "".join(out)


def decoded(content: bytes) -> str:
    """Return the text of a property file: UTF-8, with or without a byte order mark, else ISO
    8859-1, Java's encoding."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def find_workload(name: str | Path) -> Path:
    """Return the property file called `name`: a path, or a built-in workload as `workloada` or `a`.

    Raises:
        InvalidArgument: there is no such file.
    """
    short = Path(name).name.lower()
    for path in (Path(name), WORKLOADS / short, WORKLOADS / f"workload{short}"):
        if path.is_file():
            return path
    names = ", ".join(sorted(path.name for path in WORKLOADS.glob("workload?")))
    raise InvalidArgument(
        f"cannot find the workload file {str(name)!r}", hint=f"give a path, or one of {names}"
    )


def read(files: Iterable[str | Path] = (), settings: Iterable[str] = ()) -> Properties:
    """Return properties from files, the later over the earlier, and `name=value` settings over all
    of them.

    Raises:
        InvalidArgument: a file or setting cannot be read.
    """
    given: dict[str, str] = {}
    for name in files:
        path = find_workload(name)
        try:
            given |= parse(decoded(path.read_bytes()))
        except (OSError, ValueError) as error:
            raise InvalidArgument(f"cannot read the properties of {path}: {error}") from None
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or not name.strip():
            raise InvalidArgument(
                f"invalid -p {setting!r} (expected NAME=VALUE)",
                hint="write it like -p recordcount=100000",
            )
        given[name.strip()] = value.strip()
    return Properties(given)
