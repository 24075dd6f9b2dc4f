"""This package's persistent mappings under the workloads: embedded, in a file, and served."""

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

import rnvm
import structures
from bench import cli, phases
from bench.databases import open_database
from bench.kinds import STRUCTURES
from bench.properties import read
from rfp import address as addresses
from rfp.errors import InvalidArgument

MAPPINGS = [kind.database for kind in STRUCTURES if kind.mapping]
ORDERED = [kind.database for kind in STRUCTURES if kind.ordered]
FEW = ("recordcount=60", "operationcount=200", "fieldcount=2", "fieldlength=20", "rnvm.size=8MiB")


@pytest.mark.parametrize("batch", [1, 7])
@pytest.mark.parametrize("workload", ["a", "b", "c", "d", "f"])
@pytest.mark.parametrize("name", MAPPINGS)
def test_a_mapping_serves_the_workloads_and_leaves_no_files(name, workload, batch):
    p = read([workload], [*FEW, "dataintegrity=true", f"rnvm.batch={batch}"])
    with open_database(name, p, private=True) as database:
        loaded = phases.load(database, p)
        assert loaded.metric("INSERT").returns == {"OK": 60}
        result = phases.run(database, p, known=loaded.records)
        assert result.operations == 200
        assert set(result.metric("VERIFY").returns) == {"OK"}
        client = database.connect()
        client.insert(b"mine", b"value")
        assert client.read(b"mine") == b"value"
        client.delete(b"mine")
        assert client.read(b"mine") is None
        client.close()
        assert not database.emulated
    assert not Path(database._temporary).exists()


@pytest.mark.parametrize("name", ORDERED)
def test_an_ordered_mapping_scans_its_keys_in_order(name):
    p = read(["e"], [*FEW, "rnvm.batch=10"])
    with open_database(name, p, private=True) as database:
        loaded = phases.load(database, p)
        client = database.connect()
        keys = [key for key, _ in client.scan(b"user", 1000)]
        assert keys == sorted(keys)
        assert len(keys) == 60
        assert [key for key, _ in client.scan(keys[40], 7)] == keys[40:47]
        assert [key for key, _ in client.scan(keys[40] + b"!", 3)] == keys[41:44]
        assert client.scan(keys[-1] + b"!", 3) == []
        client.close()
        result = phases.run(database, p, known=loaded.records)
        assert set(result.metric("SCAN").returns) == {"OK"}


def test_the_hash_table_refuses_scans():
    p = read(["e"], FEW)
    with open_database("rnvm-hashtable", p, private=True) as database:
        with pytest.raises(InvalidArgument, match=r"does not keep its keys in order.*rnvm-bptree"):
            phases.load(database, p)


@pytest.mark.parametrize("name", MAPPINGS)
def test_the_records_loaded_into_a_pools_file_are_read_by_the_run(name, tmp_path):
    p = read(["c"], [*FEW, "dataintegrity=true", f"rnvm.pool={tmp_path / 'pool'}"])
    with open_database(name, p) as database:
        phases.load(database, p)
    with open_database(name, p) as database:
        result = phases.run(database, p)
    assert result.metric("VERIFY").returns == {"OK": 200}


def test_two_temporary_pools_may_be_in_one_folder(tmp_path):
    p = read(["a"], [*FEW, f"rnvm.pool={tmp_path}"])
    with (
        open_database("rnvm-bptree", p, private=True) as one,
        open_database("rnvm-bptree", p, private=True) as two,
    ):
        phases.load(one, p)
        assert len(list(tmp_path.glob("*/pool"))) == 2
        client = two.connect()
        assert client.read(b"user") is None
        client.close()
    assert not list(tmp_path.iterdir())


def test_load_and_run_without_a_pool_are_refused():
    with pytest.raises(InvalidArgument, match=r"rnvm\.pool=PATH"):
        open_database("rnvm-bptree", read(["a"], []))


def test_a_served_back_end_is_used_with_the_configured_options():
    path = os.path.join(os.environ["TESTS_MEMORY"], "ycsb.pool")
    with rnvm.Backend(path, size="8MiB", assume_persistent=True) as backend:
        p = read(
            ["a"],
            [*FEW, f"rnvm.address={backend.address}", "rnvm.durability=volatile", "rnvm.cache=0"],
        )
        with open_database("rnvm-hashtable", p) as database:
            phases.load(database, p)
            client = database.connect()
            assert client._fe.durability == "volatile"
            client.close()
        with rnvm.connect(backend.address) as fe:
            assert len(structures.HashTable(fe, "usertable")) == 60
        replicated = read(
            ["a"], [*FEW, f"rnvm.address={backend.address}", "rnvm.durability=replicated"]
        )
        with open_database("rnvm-hashtable", replicated) as database:
            client = database.connect()
            assert client._fe.promise == "replicated"
            client.close()
    os.unlink(path)


def test_an_emulated_network_is_labelled():
    path = os.path.join(os.environ["TESTS_MEMORY"], "emulated.pool")
    with rnvm.Backend(
        path, size="8MiB", assume_persistent=True, address=f"{addresses.unique()}?rtt=2us"
    ) as backend:
        with open_database(
            "rnvm-bptree", read(["a"], [f"rnvm.address={backend.address}"])
        ) as database:
            assert database.emulated == "rtt=2us"
    os.unlink(path)


@pytest.mark.parametrize("name", MAPPINGS)
def test_the_command_compares_a_mapping_with_other_databases(name, tmp_path):
    few = ["-p", "recordcount=50", "-p", "operationcount=100", "-p", "rnvm.size=8MiB"]
    done = CliRunner().invoke(cli.main, ["bench", name, "-P", "a", *few])
    assert done.exit_code == 0, done.output
    assert "[READ], Return=OK" in done.output
    databases = [name, f"{name},rnvm.batch=10", "dict"]
    options = ["-w", "a", "--rounds", "1", "--seconds", "0.05", *few]
    done = CliRunner().invoke(cli.main, ["compare", *databases, *options])
    assert done.exit_code == 0, done.output
    assert f"{name},rnvm.batch=10" in done.output
