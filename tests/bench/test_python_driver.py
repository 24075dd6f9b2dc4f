"""The loop in Python, on tables that fail and wait on request."""

import threading
import time

import pytest
from polling import until
from time_bounds import in_some_try

from bench._driver import StopFlag
from bench._tally import METRIC_NAMES, Tally
from bench._workload import Stream, Workload
from bench.properties import read
from bench.python_driver import FAILURES, Driver
from rfp.errors import ConnectionFailed

READ, UPDATE, INSERT, READ_MODIFY_WRITE, SCAN, VERIFY, CLEANUP = range(len(METRIC_NAMES))


class Refused(Exception):
    """The exception of the table below."""


class Client:
    """A dict that takes `delay` seconds for a call, and fails the calls with numbers in `fails`."""

    errors = (Refused, OSError)

    def __init__(self, delay=0.0, fails=(), error=Refused):
        self.table, self.delay, self.fails, self.error, self.calls = {}, delay, fails, error, 0

    def _call(self):
        self.calls += 1
        if self.delay:
            time.sleep(self.delay)
        if self.calls in self.fails:
            raise self.error("planted error")

    def read(self, key):
        self._call()
        return self.table.get(key)

    def insert(self, key, value):
        self._call()
        self.table[key] = value

    update = insert

    def delete(self, key):
        del self.table[key]

    def close(self):
        pass


def properties(*names, **given):
    given = {
        "recordcount": 100,
        "dataintegrity": "true",
        "fieldcount": 3,
        "fieldlength": 20,
    } | given
    return read(names, [f"{name}={value}" for name, value in given.items()])


def drive(p, client, operations, *, loading=False, stop=None, **options):
    workload = Workload(p, loading=loading)
    tally = Tally()
    run = {name: options.pop(name) for name in ("target", "offset") if name in options}
    driver = Driver(
        client,
        Stream(workload),
        tally,
        stop or StopFlag(),
        verify=workload.verifies,
        loading=loading,
        **options,
    )
    try:
        driver.run(operations, **run)
    finally:
        client.workload, client.tally = workload, tally
    return tally


def loaded(p, **client):
    made = Client(**client)
    drive(p, made, p["recordcount"], loading=True)
    made.calls = 0
    return made


@pytest.mark.parametrize("letter", "abcdf")
def test_all_operations_of_every_workload_are_answered_and_verified(letter):
    p = properties(letter)
    client = loaded(p)
    assert len(client.table) == 100
    tally = drive(p, client, 1000)
    assert tally.operations == 1000
    assert all(set(tally.returns(kind)) <= {"OK"} for kind in range(len(METRIC_NAMES)))
    assert tally.histogram(VERIFY).count == tally.histogram(READ).count > 0
    assert len(client.table) == 100 + tally.histogram(INSERT).count == client.workload.records


def test_both_drivers_write_the_same_records():
    from bench._driver import run
    from bench._inproc import Table

    p = properties()
    client, table, tally = loaded(p), Table(), Tally()
    run(
        table.connect(),
        Stream(Workload(p, loading=True)),
        tally,
        StopFlag(),
        operations=100,
        window=4,
    )
    # Each driver verifies the records that the other one has written.
    seen = Tally()
    run(
        table.connect(),
        Stream(Workload(p.with_(readproportion=1, updateproportion=0))),
        seen,
        StopFlag(),
        operations=200,
    )
    assert seen.returns(VERIFY) == {"OK": 200}
    stream = Stream(Workload(p))
    assert all(
        stream.intact(client.table[key], number)
        for _, key, _, number in (stream.draw() for _ in range(100))
    )


def test_an_operation_on_an_absent_record_is_counted_as_not_found():
    p = properties(readproportion=0.4, updateproportion=0.3, readmodifywriteproportion=0.3)
    tally = drive(p, Client(), 300)
    assert {kind: set(tally.returns(kind)) for kind in (READ, UPDATE, READ_MODIFY_WRITE)} == {
        READ: {"NOT_FOUND"},
        UPDATE: {"NOT_FOUND"},
        READ_MODIFY_WRITE: {"NOT_FOUND"},
    }


@pytest.mark.parametrize(
    ("error", "status"), [(Refused, "ERROR"), (ConnectionResetError, "SERVICE_UNAVAILABLE")]
)
def test_a_failed_operation_is_counted_and_the_run_continues(error, status):
    p = properties("c")
    client = loaded(p)
    client.fails, client.error = {3, 4, 9}, error
    tally = drive(p, client, 20)
    assert tally.returns(READ) == {"OK": 17, status: 3}
    assert tally.histogram(READ, "failed").count == 3
    assert tally.operations == 20


def test_too_many_failures_in_a_row_end_the_run():
    p = properties("c")
    client = loaded(p)
    client.fails = range(50, 1000)
    with pytest.raises(ConnectionFailed, match=r"100 operations in a row failed.*planted error"):
        drive(p, client, 1000)
    assert client.tally.returns(READ)["ERROR"] == FAILURES


def test_failed_inserts_are_retried_as_often_as_asked():
    p = properties(insertproportion=1, readproportion=0, updateproportion=0)
    client = loaded(p)
    client.fails = {2, 3, 7, 8, 9}
    tally = drive(p, client, 5, retries=2, retry_after=0.001)
    assert tally.returns(INSERT) == {"OK": 4, "ERROR": 1}


def test_a_failed_insert_does_not_limit_the_records_that_readers_may_read():
    p = properties(insertproportion=1, readproportion=0, updateproportion=0)
    client = loaded(p)
    client.fails = {1}
    drive(p, client, 10)
    assert client.workload.records == 110


def test_a_target_is_kept_and_intended_latency_shows_a_slow_database():
    p = properties("c")
    client = loaded(p)
    client.delay = 0.004

    def check_slow():
        began = time.monotonic()
        tally = drive(p, client, 50, target=500)
        took.append(time.monotonic() - began)
        intended.append(tally.histogram(READ, "intended").percentile(90))
        assert tally.histogram(READ).percentile(50) < 15e6

    took, intended = [], []
    in_some_try(check_slow)
    assert min(took) >= 0.2
    # The database is twice too slow for the target: each operation begins 2 ms later than intended.
    assert min(intended) > 80e6

    def check():
        quick = drive(p, loaded(p), 50, target=500)
        assert quick.histogram(READ, "intended").percentile(50) < 10e6

    in_some_try(check)


def test_a_stop_ends_an_endless_run():
    p, stop = properties("a"), StopFlag()
    client = loaded(p)
    thread = threading.Thread(target=drive, args=(p, client, 0), kwargs={"stop": stop})
    thread.start()
    until(lambda: client.calls > 10)
    stop.set()
    thread.join(5)
    assert not thread.is_alive()
    assert client.tally.operations > 0


def test_a_stop_ends_a_run_that_waits_for_its_target(monkeypatch):
    p, stop = properties("a"), StopFlag()
    client = loaded(p)
    waiting, wait = threading.Event(), Driver._wait
    monkeypatch.setattr(Driver, "_wait", lambda self: (waiting.set(), wait(self))[1])
    thread = threading.Thread(
        target=drive, args=(p, client, 10), kwargs={"stop": stop, "target": 0.01, "offset": 50}
    )
    thread.start()
    assert waiting.wait(30)
    stop.set()
    thread.join(5)
    assert not thread.is_alive()
    assert client.tally.operations == client.calls == 0
