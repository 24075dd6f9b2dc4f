"""The driver's loop in Python, for databases with a Python client: one operation at a time per
thread.

It draws the same requests and writes the same records as the loop in C.  Threads are Python
threads, so they share the GIL except while their clients wait.  The database `dict` measures the
cost of the loop itself.
"""

from __future__ import annotations

import random
import time
from typing import Protocol

from bench._driver import StopFlag
from bench._tally import (
    METRIC_VERIFY,
    STATUS_ERROR,
    STATUS_NOT_FOUND,
    STATUS_OK,
    STATUS_SERVICE_UNAVAILABLE,
    STATUS_UNEXPECTED_STATE,
    Tally,
)
from bench._workload import (
    ALL_FIELDS,
    KIND_INSERT,
    KIND_READ,
    KIND_READ_MODIFY_WRITE,
    KIND_SCAN,
    KIND_UPDATE,
    Stream,
)
from rfp.errors import ConnectionFailed

FAILURES = 100  # in a row, before the thread gives up
clock = time.monotonic_ns


class Client(Protocol):
    """The interface of a database's Python client: keys and values are bytes, a record is one
    value.

    If the database keeps keys in order (Database.scans), its client also has `scan(key, count)`: a
    list of up to `count` records, from the first whose key is not less.
    """

    errors: tuple[type[BaseException], ...]  # the exceptions of a failed operation

    def read(self, key: bytes) -> bytes | None: ...
    def insert(self, key: bytes, value: bytes) -> object: ...
    def update(self, key: bytes, value: bytes) -> object: ...
    def delete(self, key: bytes) -> object: ...
    def close(self) -> None: ...


class Driver:
    """One thread's loop.

    Args:
        verify: check the records read (dataintegrity).
        loading: this is a load, so no readers wait for inserts.
        retries, retry_after: how often a failed insert is tried again, and after about how many
            seconds.
    """

    def __init__(
        self,
        client: Client,
        requests: Stream,
        measured: Tally,
        stop: StopFlag,
        *,
        verify: bool = False,
        loading: bool = False,
        retries: int = 0,
        retry_after: float = 3,
    ) -> None:
        self.client, self.requests, self.measured, self.stop = client, requests, measured, stop
        self.verify, self.loading, self.retries, self.retry_after = (
            verify,
            loading,
            retries,
            retry_after,
        )
        self.began = self.due = 0  # of the request being worked on, ns

    def run(self, operations: int, *, target: float = 0, offset: float = 0) -> None:
        """Execute `operations` requests (0: until stopped), `target` per second (0: the maximum),
        the first after `offset` s.

        Raises:
            ConnectionFailed: 100 failures in a row.
        """
        draw, finish, stopped = self.requests.draw, self.measured.finish, self.stop.is_set
        work = {KIND_READ: self._read, KIND_UPDATE: self._update, KIND_INSERT: self._insert,
                KIND_READ_MODIFY_WRITE: self._read_modify_write, KIND_SCAN: self._scan}  # fmt: skip
        pace = 1e9 / target if target else 0
        start = clock() + int(offset * 1e9)
        drawn = failures = 0
        while (drawn < operations or not operations) and not stopped():
            if pace:
                self.due = start + int(drawn * pace)
                self._wait()
                if stopped():
                    break
            kind, key, field, number = draw()
            drawn += 1
            try:
                work[kind](key, field, number)
                failures = 0
            except self.client.errors as error:
                self._failed(kind, error)
                failures += 1
                if failures == FAILURES:
                    raise ConnectionFailed(
                        f"{failures} operations in a row failed, the last with: {error!r}"
                    ) from error
            finish()

    def _count(self, what: int, status: int, began: int, ended: int) -> None:
        self.measured.count(what, status, ended - began, ended - self.due if self.due else 0)

    def _read(self, key: bytes, field: int, number: int) -> None:
        began = self.began = clock()
        record = self.client.read(key)
        ended = clock()
        self._count(KIND_READ, STATUS_NOT_FOUND if record is None else STATUS_OK, began, ended)
        if self.verify and record is not None:
            self._check(record, number, field)

    def _insert(self, key: bytes, field: int, number: int) -> None:
        value = self.requests.record(number)
        began = self.began = clock()
        try:
            self.client.insert(key, value)
        except self.client.errors:
            if not self.retries or not self._retry(key, value):
                raise
        finally:
            # Also after a failure: readers may then find no record, but they do not wait for it for
            # ever.
            if not self.loading:
                self.requests.acknowledge(number)
        self._count(KIND_INSERT, STATUS_OK, began, clock())

    def _update(self, key: bytes, field: int, number: int) -> None:
        if field == ALL_FIELDS:
            value = self.requests.record(number)
            began = self.began = clock()
        else:
            began = self.began = clock()
            changed = self._change(KIND_UPDATE, self.client.read(key), field, number)
            if changed is None:
                return
            value = changed
        self.client.update(key, value)
        self._count(KIND_UPDATE, STATUS_OK, began, clock())

    def _read_modify_write(self, key: bytes, field: int, number: int) -> None:
        began = self.began = clock()
        record = self.client.read(key)
        ended = clock()
        self._count(KIND_READ, STATUS_NOT_FOUND if record is None else STATUS_OK, began, ended)
        if self.verify and record is not None:
            took = self._check(record, number, ALL_FIELDS)
            began += took  # not part of the measurement
            self.due += took if self.due else 0
        value = self._change(KIND_READ_MODIFY_WRITE, record, field, number)
        if value is None:
            return
        wrote = clock()
        self.client.update(key, value)
        ended = clock()
        self._count(KIND_UPDATE, STATUS_OK, wrote, ended)
        self._count(KIND_READ_MODIFY_WRITE, STATUS_OK, began, ended)

    def _scan(self, key: bytes, count: int, number: int) -> None:
        began = self.began = clock()
        # phases.py has verified that there is a scan()
        self.client.scan(key, count)  # type: ignore[attr-defined]
        self._count(KIND_SCAN, STATUS_OK, began, clock())

    def _change(self, kind: int, record: bytes | None, field: int, number: int) -> bytes | None:
        """Return the record to write instead of the one read; None, and count it, if there is
        nothing to change."""
        value = None
        if record is not None:
            value = (
                self.requests.record(number)
                if field == ALL_FIELDS
                else self.requests.replace(record, number, field)
            )
        if value is None:
            self._count(
                kind,
                STATUS_NOT_FOUND if record is None else STATUS_UNEXPECTED_STATE,
                self.began,
                clock(),
            )
        return value

    def _check(self, record: bytes, number: int, field: int) -> int:
        """Verify a record; return the time that took, in ns."""
        before = clock()
        intact = self.requests.intact(record, number, field)
        took = clock() - before
        self.measured.count(METRIC_VERIFY, STATUS_OK if intact else STATUS_UNEXPECTED_STATE, took)
        return took

    def _failed(self, kind: int, error: BaseException) -> None:
        self._count(
            kind,
            STATUS_SERVICE_UNAVAILABLE if isinstance(error, OSError) else STATUS_ERROR,
            self.began,
            clock(),
        )

    def _retry(self, key: bytes, value: bytes) -> bool:
        """Try an insert again, each time after 0.8 to 1.2 times `retry_after` seconds; return
        whether it succeeded."""
        for _ in range(self.retries):
            until = time.monotonic() + self.retry_after * random.uniform(0.8, 1.2)
            while time.monotonic() < until and not self.stop.is_set():
                time.sleep(min(0.05, self.retry_after))
            try:
                self.client.insert(key, value)
                return True
            except self.client.errors:
                pass
        return False

    def _wait(self) -> None:
        """Wait until the request is due, in steps short enough to notice a stop."""
        while (left := self.due - clock()) > 0 and not self.stop.is_set():
            if left > 100_000:
                time.sleep(min(left - 80_000, 50_000_000) / 1e9)
