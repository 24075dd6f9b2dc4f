"""YCSB's properties: their names, types and defaults, and the files they come from.

A property file has one `name=value` a line (also `name: value` and `name value`), `#` and `!` begin comments, a backslash
at the end continues a line.  Later files override earlier ones, and `-p name=value` overrides files.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from rfp.errors import InvalidArgument

WORKLOADS = Path(__file__).parent / "workloads"


def boolean(text: str) -> bool:
    """`true` or `false` in any case, as Java reads it, but anything else is an error."""
    if text.lower() not in ("true", "false"):
        raise ValueError("true or false")
    return text.lower() == "true"


COUNT_MAX = 2**62  # record numbers and sums of two counts fit into 64 bits
THREADS_MAX = 1024  # clients of one process, as the server lets them in
PREDRAW_MAX = 10**7  # requests of a thread, 64 bytes each


def between(least: int, most: int) -> Callable[[str], int]:
    """A whole number from `least` to `most`; underscores and k, M, G (decimal) are allowed."""

    def parse(text: str) -> int:
        scale = {"k": 10**3, "m": 10**6, "g": 10**9}.get(text[-1:].lower(), 1)
        number = int(text[:-1] if scale > 1 else text) * scale
        if not least <= number <= most:
            raise ValueError(f"must be between {least} and {most}")
        return number

    return parse


count = between(0, COUNT_MAX)
positive = between(1, COUNT_MAX)
length = between(0, 2**31 - 1)


def share(text: str) -> float:
    number = float(text)
    if not 0 <= number <= 1:
        raise ValueError("between 0 and 1")
    return number


def weight(text: str) -> float:
    number = float(text)
    if not 0 <= number < float("inf"):
        raise ValueError("not negative")
    return number


def above_zero(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise ValueError("more than 0")
    return number


def percentage(text: str) -> float:
    number = float(text)
    if not 0 < number < 100:
        raise ValueError("between 0 and 100")
    return number


def percentiles(text: str) -> tuple[float, ...]:
    numbers = tuple(float(part) for part in text.split(","))
    if not all(0 <= number <= 100 for number in numbers):
        raise ValueError("numbers between 0 and 100, with commas between them")
    return numbers


def choice(*names: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in names:
            raise ValueError("one of " + ", ".join(names))
        return text

    return parse


def core_workload(text: str) -> str:
    """YCSB's class name, with or without its package, or go-ycsb's name of it."""
    if text.rpartition(".")[2] not in ("CoreWorkload", "core"):
        raise ValueError("only CoreWorkload is built in")
    return "CoreWorkload"


def exporter(text: str) -> str:
    """YCSB's class names, with or without their package, or text, json, jsonarray."""
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


# Every property, with its default and one line of what it means.  `rfp-ycsb properties` prints this.
# fmt: off
KNOWN = _table(
    ("workload", "CoreWorkload", core_workload, "the workload class, for YCSB's files"),
    ("recordcount", "1000", positive, "records in the database before the run"),
    ("operationcount", "1000", count, "operations of the run, all threads together (0: until maxexecutiontime)"),
    ("insertstart", "0", count, "number of the first record of this load"),
    ("insertcount", None, count, "records of this load (default: recordcount - insertstart)"),
    ("fieldcount", "10", between(1, 2**28), "fields of a record"),
    ("fieldlength", "100", length, "bytes of a field, or the most of them"),
    ("minfieldlength", "1", length, "the least bytes of a field, unless fieldlengthdistribution is constant"),
    ("fieldlengthdistribution", "constant", choice("constant", "uniform", "zipfian"), "how long fields are"),
    ("readallfields", "true", boolean, "a read takes the whole record, not one field of it"),
    ("writeallfields", "false", boolean, "an update writes the whole record, not one field of it"),
    ("dataintegrity", "false", boolean, "values follow from their keys, and reads verify them (also while loading)"),
    ("readproportion", "0.95", weight, "share of reads"),
    ("updateproportion", "0.05", weight, "share of updates"),
    ("insertproportion", "0", weight, "share of inserts"),
    ("scanproportion", "0", weight, "share of scans: only where a database keeps its keys in order"),
    ("readmodifywriteproportion", "0", weight, "share of read-modify-writes"),
    ("minscanlength", "1", between(1, 2**31 - 1), "records of a scan, at least"),
    ("maxscanlength", "1000", between(1, 2**31 - 1), "and at most"),
    ("scanlengthdistribution", "uniform", choice("uniform", "zipfian"), "how many records scans take"),
    (
        "requestdistribution",
        "uniform",
        choice("uniform", "zipfian", "zipfian_exact", "latest", "hotspot", "sequential", "exponential"),
        "which records are asked for; zipfian is YCSB's scrambled one",
    ),
    ("hotspotdatafraction", "0.2", share, "hotspot: share of the records that are hot"),
    ("hotspotopnfraction", "0.8", share, "hotspot: share of the requests that go to them"),
    ("exponential.percentile", "95", percentage, "exponential: this percentage of the requests ..."),
    ("exponential.frac", "0.8571428571", above_zero, "... goes to this fraction of the records, the newest"),
    ("insertorder", "hashed", choice("hashed", "ordered"), "key names from hashed or from plain record numbers"),
    ("zeropadding", "1", count, "digits of a key name, at least"),
    ("threadcount", "1", between(1, THREADS_MAX), "client threads (-threads)"),
    ("target", "0", count, "operations per second to aim at, all threads together (-target; 0: as many as go)"),
    ("maxexecutiontime", "0", weight, "seconds after which the run ends (0: when its operations are done)"),
    ("measurement.interval", None, choice("op", "intended", "both"), ("latency since the operation began, or since it should "
     "have begun by target (default: both where there is a target, else op)")),
    ("hdrhistogram.percentiles", "50,95,99", percentiles, "percentiles to print"),
    ("hdrhistogram.fileoutput", "false", boolean, "write one NAME.hdr per kind of operation"),
    ("hdrhistogram.output.path", "", str, "what stands before NAME.hdr"),
    ("measurement.histogram.verbose", "false", boolean, "print every bucket of the histograms"),
    ("exporter", "text", exporter, "format of the results: text, json, jsonarray, or YCSB's class names for them"),
    ("exportfile", None, str, "file for the results (default: standard output)"),
    ("status", "false", boolean, "print a line on progress to standard error (-s)"),
    ("status.interval", "10", above_zero, "seconds between such lines"),
    ("label", "", str, "what stands before them (-l)"),
    ("core_workload_insertion_retry_limit", "0", count, "how often a failed insert is tried again (Python drivers)"),
    ("core_workload_insertion_retry_interval", "3", above_zero, "seconds to wait before that, more or less"),
    # Of this driver.
    ("rfp.address", None, str, ("rfp server (default: a private one where there is no other; for load and run the local default);"
     " rdma://HOST:0 is a private one over RDMA")),
    ("rfp.secret_file", None, str, "file with the secret of a server over RDMA (default: that of RFP_SECRET_FILE)"),
    ("rfp.tls_ca", None, str, "PEM file of who signed the certificate of a server over RDMA"),
    ("rfp.api", "native", choice("native", "python"), "native: the driver's loop in C; python: rfp.connect() and its methods"),
    ("rfp.window", "1", positive, "native: operations in flight per thread"),
    ("rfp.predraw", "0", between(0, PREDRAW_MAX), "native: requests that each thread draws before the clock starts, and repeats"),
    ("rfp.timeout", "10", above_zero, "seconds without any answer after which a thread gives up"),
    ("rfp.seed", "1", between(0, 2**64 - 1), "of all random numbers"),
    ("rfp.memory", None, str, "private server: memory for records (default: twice what the workload needs, at least 256MiB)"),
    ("rfp.network", None, str, "private server: emulated network, such as rtt=2us&in_iops=1M (see docs/addresses.md)"),
    ("rfp.workers", "1", between(1, 64), "private server: worker threads"),
    ("rfp.mode", "auto", choice("auto", "fetch", "reply", "bypass"), "how results come back"),
    ("rnvm.address", None, str, "back-end of a pool (default: one of its own, within this process)"),
    ("rnvm.pool", None, str, "its pool, made if there is none; or a folder for a temporary one (default: /dev/shm)"),
    ("rnvm.size", None, str, "bytes of a pool that is made (default: three times what the workload needs)"),
    ("rnvm.durability", "persistent", choice("volatile", "persistent", "replicated"), "what a write has made sure of"),
    ("rnvm.batch", "1", positive, "so many writes of a thread become visible to others together; each is durable by itself"),
    ("rnvm.cache", "64MiB", str, "nodes that a front-end keeps; 0: none"),
    ("rnvm.timeout", "10", above_zero, "seconds for one call"),
    ("rnvm.secret_file", None, str, "file with the secret of a back-end over RDMA (default: that of RFP_SECRET_FILE)"),
    ("redis.host", "127.0.0.1", str, "Redis server"),
    ("redis.port", "6379", between(1, 65535), "its port"),
    ("redis.socket", None, str, "its Unix socket, instead of host and port"),
    ("redis.timeout", "10", above_zero, "seconds for one answer"),
    ("memcached.hosts", "127.0.0.1:11211", str, "memcached server: HOST:PORT, or the path of its Unix socket"),
    ("memcached.client", None, choice("pylibmc", "pymemcache"), "Python client (default: pylibmc, else pymemcache)"),
    ("memcached.timeout", "10", above_zero, "seconds for one answer"),
    ("memcached.memory", "1024", between(1, 2**31 - 1), "private server: MiB for records"),
    ("lmdb.path", None, str, "directory of the environment (default with bench and compare: a temporary one)"),
    ("lmdb.mapsize", "4G", count, "bytes that it may grow to"),
    ("lmdb.sync", "false", boolean, "sync to disk at every commit"),
    ("rocksdb.path", None, str, "directory of the database (default with bench and compare: a temporary one)"),
    ("rocksdb.sync", "false", boolean, "sync the log to disk at every write"),
    ("sqlite.path", None, str, "file of the database (default with bench and compare: a temporary one)"),
    ("sqlite.sync", "false", boolean, "sync the log to disk at every commit"),
    ("redis.sync", "false", boolean, "private server: an append-only file, synced to disk before every answer"),
)
# fmt: on

# YCSB has these, and here they change nothing.
WITHOUT_EFFECT = {
    "db": "the database is an argument of the command",
    "dotransactions": "load and run are commands",
    "table": "a key-value store has one",
    "readallfieldsbyname": "records are single values",
    "fieldnameprefix": "fields of a record are known by their place",
    "measurementtype": "every latency goes into a histogram of three significant digits",
    "histogram.buckets": "every latency goes into a histogram of three significant digits",
    "measurement.raw.output_file": "every latency goes into a histogram of three significant digits",
    "timeseries.granularity": "status lines and .hdr files have the course of time",
    "reportlatencyforeacherror": "failed operations are one metric, NAME-FAILED",
    "latencytrackederrors": "failed operations are one metric, NAME-FAILED",
    "measurement.trackjvm": "there is no JVM",
}


class Properties(Mapping[str, Any]):
    """Typed properties: `properties["recordcount"]` is an int, and its default where it was not given.

    given: names and texts.  Raises InvalidArgument for a value that does not fit; warns on standard error, once per name,
    about a name that nobody knows.

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
                raise InvalidArgument(f"property {name}={text[:100]!r} does not fit: {why}", hint=known.meaning) from None
        for known in KNOWN.values():
            if known.name not in self._values:
                self._values[known.name] = None if known.default is None else known.parse(known.default)

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
        """A copy with other values; a dot in a name is written `__`."""
        return Properties(self.given | {name.replace("__", "."): _text(value) for name, value in changes.items()})


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def parse(text: str) -> dict[str, str]:
    """The names and values of a property file's text.

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
    """The text of a property file: UTF-8, with or without a byte order mark, else ISO 8859-1 as Java defines such files."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def find_workload(name: str | Path) -> Path:
    """The property file called `name`: a path, or one of the built-in workloads as `workloada` or `a`.

    Raises InvalidArgument if there is none.
    """
    short = Path(name).name.lower()
    for path in (Path(name), WORKLOADS / short, WORKLOADS / f"workload{short}"):
        if path.is_file():
            return path
    names = ", ".join(sorted(path.name for path in WORKLOADS.glob("workload?")))
    raise InvalidArgument(f"no workload file {str(name)!r}", hint=f"a path, or one of {names}")


def read(files: Iterable[str | Path] = (), settings: Iterable[str] = ()) -> Properties:
    """Properties from files, the later over the earlier, and `name=value` settings over all of them.

    Raises InvalidArgument for a file or setting that cannot be read.
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
            raise InvalidArgument(f"-p {setting!r} is not name=value", hint="for example -p recordcount=100000")
        given[name.strip()] = value.strip()
    return Properties(given)
