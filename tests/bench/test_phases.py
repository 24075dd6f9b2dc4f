"""Load and run on several threads, and their ends."""

import os
import signal
import threading

import pytest
from time_bounds import LONG, SOON, in_some_try, soon

from bench import phases
from bench.databases import open_database
from bench.properties import read
from bench.status import Status
from rfp.errors import ConnectionFailed, InvalidArgument


def properties(*names, **given):
    given = {
        "recordcount": 100,
        "operationcount": 1000,
        "dataintegrity": "true",
        "fieldcount": 2,
        "fieldlength": 16,
    } | given
    return read(names or ("a",), [f"{name}={value}" for name, value in given.items()])


@pytest.mark.parametrize("database", ["dict", "inproc"])
@pytest.mark.parametrize("threads", [1, 3])
def test_all_threads_together_execute_the_operations(database, threads):
    p = properties("a", threadcount=threads, operationcount=1001)
    with open_database(database, p, private=True) as opened:
        loaded = phases.load(opened, p)
        result = phases.run(opened, p)
    assert (loaded.operations, loaded.metric("INSERT").returns) == (100, {"OK": 100})
    assert (result.operations, result.threads) == (1001, threads)
    assert set(result.metric("VERIFY").returns) == {"OK"}
    assert result.metric("CLEANUP").done.count == threads
    assert result.throughput == pytest.approx(1001e9 / result.runtime)


def test_a_second_run_reads_the_records_that_the_first_inserted():
    p = properties("d", operationcount=2000)
    with open_database("inproc", p, private=True) as opened:
        records = phases.load(opened, p).records
        assert records == 100
        first = phases.run(opened, p, known=records)
        second = phases.run(opened, p, known=first.records)
    inserts = [result.metric("INSERT").done.count for result in (first, second)]
    assert (first.records, second.records) == (100 + inserts[0], 100 + sum(inserts))
    assert set(second.metric("READ").returns) == {"OK"}


def test_a_run_without_an_operation_count_ends_after_its_time():
    p = properties(operationcount=0, maxexecutiontime=0.1)
    with open_database("inproc", p, private=True) as opened:
        phases.load(opened, p)
        result = phases.run(opened, p)
    assert 0.1e9 <= result.runtime < SOON * 1e9
    assert result.operations > 0
    assert not result.interrupted


def test_an_endless_run_is_refused():
    p = properties(operationcount=0)
    with (
        open_database("dict", p, private=True) as opened,
        pytest.raises(InvalidArgument, match="maxexecutiontime"),
    ):
        phases.run(opened, p)


def test_the_target_is_for_all_threads_together():
    p = properties(threadcount=2, target=1000, operationcount=200)
    with open_database("inproc", p, private=True) as opened:
        phases.load(opened, p.with_(target=0))

        def check():
            took.append(phases.run(opened, p).runtime)
            assert took[-1] < 1e9

        took = []
        in_some_try(check)
    assert min(took) > 0.18e9  # half of that if each thread had the target for itself


def test_ctrl_c_ends_the_run_with_the_results_so_far(monkeypatch):
    def interrupted(status):
        if any(tally.operations for tally in status.tallies):
            monkeypatch.undo()
            os.kill(os.getpid(), signal.SIGINT)
        return 0.01

    p = properties(operationcount=0, maxexecutiontime=LONG)
    with open_database("inproc", p, private=True) as opened:
        phases.load(opened, p)
        monkeypatch.setattr(Status, "next", interrupted)
        with soon():
            result = phases.run(opened, p)
    assert result.interrupted
    assert result.operations > 0
    assert ("OVERALL", "Interrupted", 1) in list(result.rows())


def test_an_error_of_one_thread_stops_all_threads_and_is_raised():
    p = properties(threadcount=3, operationcount=0, maxexecutiontime=LONG)

    class Breaking:
        name, client, native, emulated = "breaking", "", False, ""

        def __init__(self):
            self.closed = 0

        def verbs(self):
            return {}

        def connect(self):
            return BreakingClient(self)

    class BreakingClient:
        errors = (OSError,)

        def __init__(self, database):
            self.database = database

        def read(self, key):
            raise ConnectionResetError("planted error")

        insert = update = read

        def close(self):
            self.database.closed += 1

    database = Breaking()
    with soon(), pytest.raises(ConnectionFailed, match="planted error"):
        phases.run(database, p)
    assert database.closed == 3
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ycsb-")]


def test_a_run_has_no_more_threads_than_operations(capsys):
    p = properties(threadcount=5, operationcount=2)
    with open_database("inproc", p, private=True) as opened:
        assert phases.run(opened, p).threads == 2
    assert "2 threads" in capsys.readouterr().err


def test_the_error_for_a_database_of_one_process_has_the_command_to_use():
    for name in ("dict", "inproc"):
        with pytest.raises(InvalidArgument, match=f"rfp-ycsb bench {name}"):
            open_database(name, properties())
    with pytest.raises(InvalidArgument, match=r"lmdb\.path"):
        open_database("lmdb", properties())
    with pytest.raises(InvalidArgument, match="expected rfp"):
        open_database("oracle", properties())
