"""The loop in C, as a whole, on the in-process table."""

import threading
import time

import pytest
from polling import until
from time_bounds import in_some_try, soon

from bench._driver import StopFlag, run
from bench._inproc import Table
from bench._tally import METRIC_NAMES, Tally
from bench._workload import Stream, Workload
from bench.properties import read
from rfp.errors import ConnectionFailed, DeadlineExceeded, InvalidArgument

READ, UPDATE, INSERT, READ_MODIFY_WRITE, SCAN, VERIFY, CLEANUP = range(len(METRIC_NAMES))
MS = 1_000_000


class Bench:
    """A table, loaded with a workload."""

    def __init__(self, *names, **given):
        given = {
            "recordcount": 200,
            "dataintegrity": "true",
            "fieldcount": 3,
            "fieldlength": 20,
        } | given
        self.properties = read(names, [f"{name}={value}" for name, value in given.items()])
        self.table = Table()
        self.load()

    def load(self):
        self.drive(loading=True, operations=self.properties["recordcount"], window=7)

    def drive(
        self,
        *,
        loading=False,
        operations=1000,
        stop=None,
        connection=None,
        tally=None,
        **options,
    ):
        self.workload = Workload(self.properties, loading=loading)
        tally = tally or Tally()
        run(
            self.table.connect(**(connection or {})),
            Stream(self.workload),
            tally,
            stop or StopFlag(),
            operations=operations,
            **options,
        )
        return tally


@pytest.mark.parametrize("window", [1, 2, 31, 256])
@pytest.mark.parametrize("letter", "abcdf")
def test_all_operations_of_every_workload_are_answered_and_verified(letter, window):
    bench = Bench(letter)
    assert len(bench.table) == 200
    tally = bench.drive(window=window, operations=2000)
    assert tally.operations == 2000
    kinds = (READ, UPDATE, INSERT, READ_MODIFY_WRITE)
    assert all(set(tally.returns(kind)) <= {"OK"} for kind in range(len(METRIC_NAMES)))
    assert (
        sum(tally.histogram(kind).count for kind in kinds)
        == 2000 + 2 * tally.histogram(READ_MODIFY_WRITE).count
    )
    reads = tally.histogram(READ).count
    assert tally.histogram(VERIFY).count == reads > 0
    assert len(bench.table) == 200 + tally.histogram(INSERT).count == bench.workload.records


def test_an_update_of_one_field_keeps_the_record_whole():
    bench = Bench(readproportion=0, updateproportion=1, writeallfields="false")
    assert bench.drive(window=16, operations=3000).returns(UPDATE) == {"OK": 3000}
    bench.properties = bench.properties.with_(readproportion=1, updateproportion=0)
    assert bench.drive(operations=1000).returns(VERIFY) == {"OK": 1000}


def test_damaged_records_are_counted_by_verify():
    bench = Bench("c")
    random_values = Bench("c", dataintegrity="false")
    random_values.properties = bench.properties
    assert random_values.drive(operations=300).returns(VERIFY) == {"UNEXPECTED_STATE": 300}


def test_records_with_another_number_of_fields_are_not_updated():
    bench = Bench(fieldcount=3, dataintegrity="false")
    bench.properties = bench.properties.with_(fieldcount=4, readproportion=0, updateproportion=1)
    tally = bench.drive(operations=100)
    assert tally.returns(UPDATE) == {"UNEXPECTED_STATE": 100}
    assert tally.histogram(UPDATE, "failed").count == 100


@pytest.mark.parametrize(("letter", "kind"), [("c", READ), ("a", UPDATE), ("f", READ_MODIFY_WRITE)])
def test_an_operation_on_an_absent_record_is_counted_as_not_found(letter, kind):
    bench = Bench(letter)
    bench.table = Table()
    tally = bench.drive(operations=400)
    assert set(tally.returns(kind)) == {"NOT_FOUND"}
    assert tally.operations == 400


def test_the_latency_is_the_time_of_the_database():
    bench = Bench("c")

    def check():
        histogram = bench.drive(operations=30, connection={"delay": 2 * MS}).histogram(READ)
        too_early.extend([histogram.minimum] * (histogram.minimum < 2 * MS))
        assert histogram.percentile(50) < 4 * MS

    too_early = []
    in_some_try(check)
    assert not too_early


def test_the_operations_of_a_window_overlap():
    bench = Bench("c")
    with soon():  # without overlap they take 64 s
        tally = bench.drive(operations=64, window=32, connection={"delay": 1000 * MS})
    assert tally.histogram(READ).minimum >= 1000 * MS


def test_a_read_modify_write_is_a_read_and_then_an_update():
    bench = Bench("f", readproportion=0)

    def check():
        tally = bench.drive(operations=20, connection={"delay": 2 * MS})
        tallies.append(tally)
        assert tally.histogram(UPDATE).percentile(50) < 4 * MS

    tallies = []
    in_some_try(check)
    for tally in tallies:
        kinds = (READ, UPDATE, READ_MODIFY_WRITE)
        assert [tally.histogram(kind).count for kind in kinds] == [20] * 3
        assert tally.histogram(READ_MODIFY_WRITE).minimum >= 4 * MS


def test_the_target_throughput_is_kept():
    bench = Bench("c")

    def check():
        began = time.monotonic()
        tally = bench.drive(operations=200, target=1000)
        took.append(time.monotonic() - began)
        assert took[-1] < 1
        assert tally.histogram(READ, "intended").count == 200

    took = []
    in_some_try(check)
    assert min(took) > 0.19


def test_intended_latency_shows_a_stall_that_plain_latency_hides():
    bench = Bench("c")

    def check():
        stall = {"stall_at": 50, "stall": 100 * MS}
        tally = bench.drive(operations=200, target=1000, connection=stall)
        intended = tally.histogram(READ, "intended")
        hidden.append((intended.percentile(98), intended.percentile(80)))
        assert tally.histogram(READ).percentile(98) < 20 * MS

    # One operation waits 100 ms, in which about a hundred others should begin.
    hidden = []
    in_some_try(check)
    assert all(high > 80 * MS and low > 20 * MS for high, low in hidden)


def test_without_a_target_there_is_no_intended_latency():
    assert Bench("c").drive(operations=10).histogram(READ, "intended").count == 0


def test_a_stop_ends_an_endless_run():
    bench, stop, tally = Bench("a"), StopFlag(), Tally()
    thread = threading.Thread(
        target=lambda: bench.drive(operations=0, stop=stop, window=8, tally=tally)
    )
    thread.start()
    until(lambda: tally.operations)
    stop.set()
    thread.join(5)
    assert not thread.is_alive()
    assert stop.is_set()
    assert tally.operations == sum(tally.histogram(kind).count for kind in (READ, UPDATE)) > 0


def test_a_run_without_an_answer_ends_at_its_deadline():
    never = {"delay": 1_000_000 * MS}
    reason = r"3 operations in flight.*rfp\.timeout"
    with soon(least=0.2), pytest.raises(DeadlineExceeded, match=reason):
        Bench("c").drive(operations=100, window=3, timeout=0.2, connection=never)


def test_a_run_with_slow_answers_does_not_time_out():
    tally = Bench("c").drive(operations=10, timeout=2, connection={"delay": 250 * MS})
    assert tally.operations == 10


def test_a_lost_database_ends_the_run_with_its_reason():
    with pytest.raises(ConnectionFailed, match="no longer runs"):
        Bench("c").drive(operations=100, connection={"lost_at": 50})


@pytest.mark.parametrize("window", [0, 257])
def test_a_window_out_of_bounds_is_refused(window):
    with pytest.raises(InvalidArgument, match="between 1 and 256"):
        Bench("c").drive(window=window)


def test_operations_that_the_database_cannot_accept_yet_are_submitted_again():
    tally = Bench("a").drive(operations=500, window=16, connection={"takes": 3, "delay": 1000})
    assert tally.operations == 500
    assert set(tally.returns(READ)) == set(tally.returns(UPDATE)) == {"OK"}


def test_threads_share_a_table():
    bench = Bench("a", recordcount=500)
    workload = Workload(bench.properties)
    tallies = [Tally() for _ in range(4)]

    def work(number):
        run(
            bench.table.connect(),
            Stream(workload, number),
            tallies[number],
            StopFlag(),
            operations=5000,
            window=8,
        )

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert [tally.operations for tally in tallies] == [5000] * 4
    assert all(
        set(tally.returns(kind)) <= {"OK"} for tally in tallies for kind in range(len(METRIC_NAMES))
    )


def test_requests_drawn_ahead_are_executed():
    bench = Bench("b")
    workload, tally = Workload(bench.properties), Tally()
    stream = Stream(workload)
    stream.predraw(64)
    run(bench.table.connect(), stream, tally, StopFlag(), operations=1000, window=16)
    assert tally.operations == 1000
    assert set(tally.returns(READ)) == {"OK"}
