"""The experiments over all structures: each kind's operations, sizes, readers beside a writer."""

from __future__ import annotations

import os
import signal
from itertools import pairwise

import needed
import pytest

import rnvm
from bench.databases import DATABASES
from bench.experiments import concurrency, pmdk_maps, sizes
from bench.experiments.other_process import OtherProcess
from bench.experiments.pool import VALUE, folder_on
from bench.experiments.rows import Setting
from bench.kinds import STRUCTURES
from bench.peers.process import PeerMissing
from rfp.errors import RfpError, StructureDamaged

TINY = Setting(rounds=1, scale=0.002)
each_kind = pytest.mark.parametrize("kind", STRUCTURES, ids=lambda kind: kind.name)


@pytest.fixture
def fe():
    with (
        folder_on(os.environ["TESTS_MEMORY"]) as folder,
        rnvm.Backend(folder / "pool", size="16MiB", assume_persistent=True) as backend,
        rnvm.connect(backend.address) as front_end,
    ):
        yield front_end


@each_kind
def test_the_operations_of_a_kind_are_those_that_its_words_name(kind, fe):
    structure = kind.structure(fe, "it")
    kind.adder(structure, VALUE)(b"key")
    assert len(structure) == 1
    assert kind.looker(structure)(b"key") == VALUE
    assert len(structure) == 1
    assert kind.taker(structure)(b"key") == VALUE
    assert len(structure) == 0
    assert hasattr(structure, "range") == kind.ordered
    assert hasattr(structure, "snapshot") == kind.versions
    assert kind.adding.startswith(kind.name)
    assert kind.looking.startswith(kind.name)


def test_every_mapping_is_a_database():
    names = {kind.database for kind in STRUCTURES if kind.mapping}
    assert {"rnvm-hashtable", "rnvm-bptree"} <= names
    assert names == {name for name in DATABASES if name.startswith("rnvm-")}


# Sizes


@each_kind
def test_the_steps_of_the_size_experiment_keep_the_entries(kind, fe):
    structure = kind.structure(fe, "it")
    assert sizes.load(kind, fe, structure, 0, 250)["entries"] == 250
    assert sizes.load(kind, fe, structure, 250, 333)["entries"] == 333
    figures = sizes.operate(kind, fe, structure, 1)
    assert len(structure) == 333
    assert 1 <= figures["nodes"] < 60
    assert min(figures.values()) > 0
    assert sizes.check(kind, fe, structure)["seconds"] > 0


@each_kind
def test_the_writer_of_the_reading_experiment_keeps_the_size(kind, fe):
    structure = kind.structure(fe, "it")
    sizes.load(kind, fe, structure, 0, 10)
    write = concurrency.write(kind, structure)
    for place in [1, 2, 3, 3]:
        write(sizes.key_of(place))
    assert len(structure) == 10
    assert concurrency.repeat(fe, write, [sizes.key_of(1)] * 8, 0.001)["done"] % 8 == 0


def test_keys_of_sizes_are_distinct_and_in_random_order():
    keys = [sizes.key_of(place) for place in range(2000)]
    assert len(set(keys)) == 2000
    assert {len(key) for key in keys} == {16}
    rising = sum(one < two for one, two in pairwise(keys))
    assert 800 < rising < 1200


def test_sizes_are_decades_below_the_largest():
    assert sizes.sizes_of(10_000_000) == [10_000, 100_000, 1_000_000, 10_000_000]
    assert sizes.sizes_of(5000) == [500, 5000]
    assert sizes.sizes_of(100) == [100]
    assert sizes.sizes_of(70) == [70]


def test_a_structure_grows_over_kills_of_its_back_end(tmp_path, drawing):
    picture = tmp_path / "sizes.png"
    rows = sizes.measure(TINY, picture, entries=1000, kinds=("Queue",))
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert len(rows) == 5
    nodes, load, check, recovery, memory = rows
    assert nodes.met
    assert nodes.note.startswith("100: lookup")
    assert "; 1,000: lookup" in nodes.note
    assert (load.unit, check.unit, recovery.unit, memory.unit) == ("s", "s", "s", "B")
    assert recovery.measured > 0
    assert memory.measured > 1 << 20
    assert "B per entry" in memory.note


def test_a_structure_that_fails_is_a_row_with_the_reason_and_the_others_are_measured(monkeypatch):
    grown = sizes.grow

    def fails_for_queue(setting, kind, entry_counts):
        if kind.name == "Queue":
            raise RfpError("planted error")
        return grown(setting, kind, entry_counts)

    monkeypatch.setattr(sizes, "grow", fails_for_queue)
    failed, *others = sizes.measure(TINY, entries=100, kinds=("Queue", "BPlusTree"))
    assert (failed.met, failed.measured, failed.why) == (None, None, "planted error")
    assert {row.name.split(",")[0] for row in others} == {"BPlusTree"}


def test_an_error_in_a_process_is_raised_with_its_text():
    code = """if True:
        input()
        print('{"error": "load: the pool is full"}', flush=True)
    """
    with OtherProcess(code) as process, pytest.raises(RfpError, match="load: the pool is full"):
        sizes.Watched(process).order("load", 0, 10)


def test_lost_entries_are_an_error():
    kinds = {kind.name: kind for kind in STRUCTURES}
    sizes.expect(kinds["Queue"], 11, 10)
    for name, found in (("Queue", 9), ("Queue", 12), ("BPlusTree", 11), ("BPlusTree", 9)):
        with pytest.raises(StructureDamaged, match="instead of 10"):
            sizes.expect(kinds[name], found, 10)


@pytest.mark.parametrize("name", ["Stack", "HashTable"])
def test_theory_for_constant_time_allows_levels_of_a_directory(name):
    (kind,) = (kind for kind in STRUCTURES if kind.name == name)
    assert sizes.theory(kind, 3, 1000, 1000) == 3
    assert sizes.theory(kind, 3, 1000, 500_000) == pytest.approx(4)


def test_theory_for_trees_grows_with_the_logarithm():
    (kind,) = (kind for kind in STRUCTURES if kind.name == "BPlusTree")
    assert sizes.theory(kind, 4, 1000, 1_000_000) == pytest.approx(8)


def test_the_private_memory_of_a_process_is_measured_until_it_has_ended():
    code = "b = bytearray(32 << 20); print('x', flush=True); input()"
    with OtherProcess(code) as process:
        process.hear()
        assert sizes.private_bytes(process.pid) > 32 << 20
        os.kill(process.pid, signal.SIGKILL)
        process._process.wait(30)
        assert sizes.private_bytes(process.pid) == 0


# Readers beside a writer


def test_the_numbers_of_readers_follow_the_cpus(monkeypatch):
    assert concurrency.counts(1) == [0, 1]
    assert concurrency.counts(6) == [0, 1, 2, 4, 6]
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(2))
    assert concurrency.counts() == [0, 1, 2]
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(10))
    assert concurrency.counts() == [0, 1, 2, 4, 8]


def test_reads_beside_a_writer_are_listed_and_drawn(tmp_path, drawing):
    picture = tmp_path / "readers.png"
    rows = concurrency.measure(TINY, picture, readers=1)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert len(rows) == 3 * len(STRUCTURES)
    for kind, reads, failed, emulated in zip(STRUCTURES, rows[::3], rows[1::3], rows[2::3]):
        assert reads.name == f"{kind.looking}, 1 writer, 1 readers"
        assert reads.measured > 0
        assert reads.note.startswith("writer alone")
        assert "% failed, writer" in reads.note
        assert failed.bar == (0 if kind.versions else 3)
        assert (emulated.bar, emulated.peer) == ((0, None) if kind.versions else (None, 3))
        assert 0 <= failed.measured <= 100
        assert 0 <= emulated.measured <= 100
        assert emulated.name == f"{failed.name}, emulated 3us"


def test_restarts_of_queries_count_as_failed_reads():
    class Fixed:
        def __init__(self, figures):
            self.answers = ["ready", figures]

        def send(self, line):
            pass

        def hear(self, timeout):
            return self.answers.pop(0)

    writer, *readers = (
        Fixed(f'{{"rate": {rate}, "done": 90, "restarts": {restarts}}}')
        for rate, restarts in ((7, 55), (10, 6), (20, 14))
    )
    figures = concurrency.turn(TINY, "shm:///x", writer, readers, STRUCTURES[0], 10)
    assert figures == {"write": 7, "read": 30, "failed": 10}


# PMDK


def test_missing_examples_of_pmdk_are_an_error_that_names_the_package(monkeypatch, tmp_path):
    monkeypatch.setenv(pmdk_maps.PMDK_ROOT, str(tmp_path))
    with pytest.raises(PeerMissing, match="example maps are not installed.*libpmemobj-dev"):
        pmdk_maps.build(tmp_path)


def test_examples_that_do_not_compile_are_missing(monkeypatch, tmp_path):
    monkeypatch.setenv(pmdk_maps.PMDK_ROOT, str(tmp_path))
    examples = tmp_path / "usr/share/doc/libpmemobj-dev/examples/map"
    examples.mkdir(parents=True)
    (examples / "map.h").write_text("#error planted\n")
    with pytest.raises(PeerMissing, match="cannot compile"):
        pmdk_maps.build(tmp_path)


def test_the_maps_of_pmdk_insert_new_keys_in_every_turn():
    try:
        with pmdk_maps.inserts(TINY, 600) as sides:
            assert set(sides) == set(pmdk_maps.MAPS)
            for side in sides.values():
                first, second = side(), side()
                assert 0 < first["keys"] < second["keys"] <= 1200
                assert second["rate"] > 0
    except PeerMissing as error:
        needed.absent(str(error))
