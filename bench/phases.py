"""The two phases of a benchmark: load the records, run the requests; on the requested number of
threads."""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from bench import _driver
from bench._tally import METRIC_CLEANUP, Tally
from bench._workload import Stream, Workload
from bench.kinds import STRUCTURES
from bench.python_driver import Driver
from bench.results import Result, merge
from bench.status import Status
from rfp.errors import InvalidArgument

if TYPE_CHECKING:
    from bench.databases import Database
    from bench.properties import Properties

WINDOWS_MAX = 1 << 15  # operations in flight, all threads together


def load(database: Database, properties: Properties, **options: Any) -> Result:
    """Insert the records of a workload; see measure()."""
    return measure(database, properties, loading=True, **options)


def run(database: Database, properties: Properties, **options: Any) -> Result:
    """Run the requests of a workload; see measure()."""
    return measure(database, properties, loading=False, **options)


def check(
    database: Database,
    properties: Properties,
    *,
    loading: bool,
    known: int | None = None,
    seconds: float = 0,
) -> Workload:
    """Return the requests of a phase.

    Raises:
        InvalidArgument: measure() cannot run it; raised before anything is done.
    """
    requests = Workload(properties, loading=loading, known=known)
    if requests.scans and not database.scans:
        ordered = ", ".join(kind.database for kind in STRUCTURES if kind.ordered)
        raise InvalidArgument(
            f"{database.name} cannot scan: it does not keep its keys in order",
            hint=f"choose a workload other than E, or one of {ordered}, lmdb, rocksdb, sqlite",
        )
    if not requests.operations and not (
        seconds or (0 if loading else properties["maxexecutiontime"])
    ):
        raise InvalidArgument(
            "operationcount=0 requires maxexecutiontime", hint="set -p maxexecutiontime=SECONDS"
        )
    if properties["threadcount"] * properties["rfp.window"] > WINDOWS_MAX:
        raise InvalidArgument(
            f"{properties['threadcount']} threads with a window of "
            f"{properties['rfp.window']} exceed the limit",
            hint=f"keep threadcount x rfp.window at or below {WINDOWS_MAX}",
        )
    return requests


def measure(
    database: Database,
    properties: Properties,
    *,
    loading: bool,
    workload: str = "",
    known: int | None = None,
    seconds: float = 0,
    progress: bool = False,
) -> Result:
    """Run one phase and return its measurements.

    The first Ctrl-C ends the phase, and the result has `interrupted` set.

    Args:
        workload: its name, for the results.
        known: records that exist, if more than recordcount (an earlier run inserted).
        seconds: ends the phase early (0: maxexecutiontime does).
        progress: show a live status line on standard error.

    Raises:
        InvalidArgument: the properties or the database do not allow this phase.
        Any error of the database.
    """
    requests = check(database, properties, loading=loading, known=known, seconds=seconds)
    seconds = seconds or (0 if loading else properties["maxexecutiontime"])
    phase = _Phase(database, requests, loading)
    try:
        status = Status(
            phase.tallies,
            requests.operations,
            every=properties["status.interval"] if properties["status"] else 0,
            progress=progress,
            label=properties["label"],
            what=f"{'load' if loading else 'run'} {database.name}",
        )
        phase.start()
        interrupted = phase.watch(status, seconds)
    finally:
        phase.close()
    if phase.error is not None:
        raise phase.error
    return Result(
        verbs=dict(phase.verbs),
        database=database.name,
        client=database.client,
        phase="load" if loading else "run",
        workload=workload,
        threads=len(phase.tallies),
        window=properties["rfp.window"] if database.native else 1,
        runtime=phase.ended - phase.began,
        operations=sum(tally.operations for tally in phase.tallies),
        metrics=merge(phase.tallies),
        emulated=database.emulated,
        interrupted=interrupted,
        records=requests.first + requests.count if loading else requests.records,
        intervals=status.intervals,
    )


class _Phase:
    """The threads of one phase, each with its connection, its stream of requests and its tally."""

    def __init__(self, database: Database, requests: Workload, loading: bool) -> None:
        properties = requests.properties
        self.database, self.requests, self.properties, self.loading = (
            database,
            requests,
            properties,
            loading,
        )
        self.stop = _driver.StopFlag()
        self.error: BaseException | None = None
        self.began = self.ended = 0
        wanted = properties["threadcount"]
        count = min(wanted, requests.operations) if requests.operations else wanted
        if count < wanted:
            print(f"rfp-ycsb: using {count} threads, one for each operation", file=sys.stderr)
        self.tallies = [Tally() for _ in range(count)]
        self.connections: list[Any] = []
        self.verbs: Counter[str] = Counter()
        self._streams = [Stream(requests, thread) for thread in range(count)]
        if properties["rfp.predraw"] and database.native and not loading:
            for stream in self._streams:
                stream.predraw(properties["rfp.predraw"])
        self._threads: list[threading.Thread] = []
        self._gate = threading.Barrier(count + 1)
        self._ends: queue.SimpleQueue[tuple[int, BaseException | None]] = queue.SimpleQueue()

    def start(self) -> None:
        """Connect, then start all threads at the same moment."""
        for _ in self.tallies:
            self.connections.append(self.database.connect())
        self._before = Counter(self.database.verbs())
        share, rest = divmod(self.requests.operations, len(self.tallies))
        for number in range(len(self.tallies)):
            operations = share + (number < rest)
            thread = threading.Thread(
                target=self._thread, args=(number, operations), name=f"ycsb-{number}", daemon=True
            )
            self._threads.append(thread)
            thread.start()
        self._gate.wait(60)
        self.began = self.ended = time.monotonic_ns()

    def _thread(self, number: int, operations: int) -> None:
        error: BaseException | None = None
        p, connection, count = self.properties, self.connections[number], len(self.tallies)
        target, offset = p["target"] / count, number / p["target"] if p["target"] else 0.0
        try:
            if self.database.native:
                self._gate.wait(60)
                _driver.run(
                    connection,
                    self._streams[number],
                    self.tallies[number],
                    self.stop,
                    operations=operations,
                    window=p["rfp.window"],
                    timeout=p["rfp.timeout"],
                    target=target,
                    offset=offset,
                )
            else:
                driver = Driver(
                    connection,
                    self._streams[number],
                    self.tallies[number],
                    self.stop,
                    verify=self.requests.verifies,
                    loading=self.loading,
                    retries=p["core_workload_insertion_retry_limit"],
                    retry_after=p["core_workload_insertion_retry_interval"],
                )
                self._gate.wait(60)
                driver.run(operations, target=target, offset=offset)
        except BaseException as caught:  # noqa: BLE001  the main thread raises it again
            error = caught
        self._ends.put((time.monotonic_ns(), error))

    def watch(self, status: Status, seconds: float) -> bool:
        """Wait for the threads; stop them after `seconds`, at the first error of one, and at Ctrl-C
        (then return True)."""
        until = time.monotonic() + seconds if seconds else None
        left, interrupted = len(self._threads), False
        while left:
            try:
                wait = status.next()
                if until is not None:
                    wait = min(wait, max(until - time.monotonic(), 0))
                try:
                    ended, error = self._ends.get(timeout=wait)
                except queue.Empty:
                    status.tick()
                    if until is not None and time.monotonic() >= until:
                        self.stop.set()
                        until = None
                    continue
                left -= 1
                self.ended = max(self.ended, ended)
                if error is not None:
                    self.error = self.error or error
                    self.stop.set()
            except KeyboardInterrupt:
                if interrupted:
                    raise
                interrupted = True
                self.stop.set()
        status.tick(last=True)
        self.verbs = Counter(self.database.verbs())
        self.verbs.subtract(self._before)
        return interrupted

    def close(self) -> None:
        """Stop the remaining threads and close the connections; the time counts as CLEANUP."""
        self.stop.set()
        self._gate.abort()
        for thread in self._threads:
            thread.join(self.properties["rfp.timeout"] + 5)
        for connection, tally in zip(self.connections, self.tallies, strict=False):
            began = time.monotonic_ns()
            connection.close()
            took = time.monotonic_ns() - began
            tally.count(METRIC_CLEANUP, 0, took)
