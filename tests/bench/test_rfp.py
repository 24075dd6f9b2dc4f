"""This package's store under the workloads, through the loop in C and through its Python client."""

import threading

import pytest
from polling import until
from time_bounds import soon

import rfp
from bench import phases
from bench._driver import StopFlag, run
from bench._rfp import StoreConnection
from bench._tally import Tally
from bench._workload import Stream, Workload, record_size
from bench.databases import open_database
from bench.properties import read
from rfp.errors import Closed, ConnectionFailed, InvalidArgument, RfpError


def properties(*names, **given):
    given = {
        "recordcount": 200,
        "operationcount": 3000,
        "dataintegrity": "true",
        "fieldcount": 3,
        "fieldlength": 40,
    } | given
    given = {"rfp.memory": "16MiB"} | {
        name.replace("__", "."): value for name, value in given.items()
    }
    return read(names, [f"{name}={value}" for name, value in given.items()])


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("window", [1, 40])
@pytest.mark.parametrize("letter", "adf")
def test_the_loop_in_c_runs_workloads_and_verifies_its_reads(letter, window, workers):
    p = properties(letter, rfp__window=window, rfp__workers=workers, threadcount=2)
    with open_database("rfp", p, private=True) as database:
        assert database.native
        assert phases.load(database, p).metric("INSERT").returns == {"OK": 200}
        result = phases.run(database, p)
    assert result.operations == 3000
    assert all(set(metric.returns) == {"OK"} for metric in result.metrics)
    assert result.metric("VERIFY").done.count == result.metric("READ").done.count > 0


@pytest.mark.parametrize("mode", ["fetch", "reply"])
def test_fetch_mode_and_reply_mode_are_used_as_configured(mode):
    p = properties("a", rfp__mode=mode, rfp__window=8)
    with open_database("rfp", p, private=True) as database:
        phases.load(database, p)
        connection = database.connect()
        tally = Tally()
        before = connection.counters["reads"]  # READs of the calibration
        run(connection, Stream(Workload(p)), tally, StopFlag(), operations=500, window=8)
        assert tally.operations == 500
        counters = connection.counters
        assert (counters["reads"] - before > 500) == (mode == "fetch")
        assert counters["submitted"] > 500


@pytest.mark.parametrize("window", [1, 64])
@pytest.mark.parametrize("workers", [1, 3])
def test_in_auto_mode_the_loop_in_c_reads_without_requests(window, workers):
    p = properties("c", rfp__window=window, rfp__workers=workers)
    with open_database("rfp", p, private=True) as database:
        phases.load(database, p)
        connection = database.connect()
        tally = Tally()
        before = connection.counters["submitted"]
        run(connection, Stream(Workload(p)), tally, StopFlag(), operations=5000, window=window)
        assert tally.operations == 5000
        assert connection.counters["submitted"] == before
        connection.close()
        assert phases.run(database, p).metric("VERIFY").returns == {"OK": 3000}
        database.handle.clear()
        assert phases.run(database, p).metric("READ").returns == {"NOT_FOUND": 3000}


def test_the_loop_in_c_reports_its_direct_reads_to_a_server_that_evicts():
    # The memory holds half of the records; those that are read stay.
    p = properties("c", recordcount=20_000, fieldcount=1, fieldlength=32, dataintegrity="false")
    with open_database("rfp", p.with_(rfp__memory="1MiB"), private=True) as database:
        phases.load(database, p)
        phases.run(database, p.with_(operationcount=100_000, rfp__window=32))
        assert database.handle.stats()["evictions"] > 0
        assert database.verbs()["calls"] > 20_000 + 100  # of KV_REFER, besides the inserts


def test_the_python_client_is_measured_by_name_and_by_property():
    for name, given in (("rfp-python", {}), ("rfp", {"rfp.api": "python"})):
        p = properties(
            "f", operationcount=200, **{"rfp.api": "python"} if name == "rfp-python" else given
        )
        with open_database(name, p, private=True) as database:
            assert not database.native
            assert database.client == "rfp.connect()"
            phases.load(database, p)
            result = phases.run(database, p)
            client = database.connect()
            client.delete(b"absent")
        assert set(result.metric("VERIFY").returns) == {"OK"}


def test_each_driver_reads_the_records_that_the_other_one_loads():
    p = properties("c", operationcount=300)
    with rfp.Server("16MiB") as server:
        given = {"rfp__address": server.address}
        with open_database("rfp", p.with_(**given)) as native:
            phases.load(native, p)
        with open_database("rfp-python", p.with_(rfp__api="python", **given)) as python:
            assert phases.run(python, p).metric("VERIFY").returns == {"OK": 300}


@pytest.mark.parametrize("mode", ["fetch", "reply"])
def test_the_results_have_the_verbs_per_call(mode):
    p = properties("c", operationcount=300, rfp__mode=mode)
    with open_database("rfp", p, private=True) as database:
        phases.load(database, p)
        for _ in range(2):  # the second run uses the first's rings
            rows = {
                name: value
                for metric, name, value in phases.run(database, p).rows()
                if metric == "VERBS"
            }
            assert rows["CallsPerOperation"] == 1
            # The request, and WAIT if the client goes to sleep.
            assert 1 <= rows["WritesPerOperation"] <= 2
            assert (
                (rows["ReadsPerOperation"] >= 1)
                if mode == "fetch"
                else (rows["ReadsPerOperation"] < 1)
            )


def test_a_missing_server_is_a_failed_connection(tmp_path):
    with pytest.raises(ConnectionFailed):
        open_database("rfp", properties("c", rfp__address=f"shm://{tmp_path}/absent"))


def test_records_that_do_not_fit_into_a_slot_are_refused_with_a_hint():
    p = properties("c", fieldlength=4000)
    with (
        open_database("rfp", p, private=True) as database,
        pytest.raises(InvalidArgument, match=r"rfp\.api=python"),
    ):
        phases.load(database, p)
    python = p.with_(rfp__api="python", recordcount=5, operationcount=10)
    with open_database("rfp-python", python, private=True) as database:
        phases.load(database, python)
        assert phases.run(database, python).metric("VERIFY").returns == {"OK": 10}


def test_a_large_value_of_another_program_is_counted_as_unexpected():
    p = properties("c", recordcount=1, dataintegrity="false")
    with rfp.Server("16MiB") as server, rfp.connect(server.address) as kv:
        kv.put(Stream(Workload(p)).draw()[1], bytes(100_000))
        with open_database("rfp", p.with_(rfp__address=server.address)) as database:
            result = phases.run(database, p.with_(operationcount=20))
        assert result.metric("READ").returns == {"UNEXPECTED_STATE": 20}
        assert kv.ping() > 0


def test_a_server_that_closes_ends_the_run_at_once():
    p = properties("a", operationcount=0, maxexecutiontime=60, rfp__window=4)
    server = rfp.Server("16MiB")
    with open_database("rfp", p.with_(rfp__address=server.address)) as database:
        phases.load(database, p)
        threading.Timer(0.1, server.close).start()
        with soon(), pytest.raises(ConnectionFailed, match="lost"):
            phases.run(database, p)
    server.close()


def test_connections_may_be_closed_twice_and_leave_their_channel_to_the_next_one():
    with rfp.Server("16MiB") as server, rfp.connect(server.address) as kv:
        first = StoreConnection(kv, 100)
        first.close()
        first.close()
        second = StoreConnection(kv, 100)
        second.close()
        assert len(kv.connection.channels) == 1


def test_a_connection_of_a_closed_handle_raises_closed():
    with rfp.Server("16MiB") as server:
        kv = rfp.connect(server.address)
        kv.close()
        with pytest.raises(Closed):
            StoreConnection(kv, 100)


def test_a_handle_that_is_closed_during_a_run_ends_it():
    p = properties("c")
    with rfp.Server("16MiB") as server:
        kv = rfp.connect(server.address)
        connection = StoreConnection(kv, record_size(p))
        tally, errors = Tally(), []

        def work():
            try:
                run(connection, Stream(Workload(p)), tally, StopFlag(), operations=0, window=1)
            except RfpError as error:
                errors.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        until(lambda: tally.operations)
        kv.close()
        thread.join(5)
        assert not thread.is_alive()
        assert isinstance(errors[0], ConnectionFailed)


def test_an_emulated_network_is_labelled_and_slows_every_operation():
    p = properties("c", rfp__network="rtt=100us", operationcount=50)
    with open_database("rfp", p, private=True) as database:
        assert database.emulated == "rtt=100us"
        phases.load(database, p)
        result = phases.run(database, p)
    assert ("OVERALL", "Network", "emulated (rtt=100us)") in list(result.rows())
    assert result.metric("READ").done.minimum > 100_000


def test_bypass_is_refused_by_the_loop_in_c():
    with pytest.raises(InvalidArgument, match=r"rfp\.api=python"):
        open_database("rfp", properties("c", rfp__mode="bypass"), private=True)
