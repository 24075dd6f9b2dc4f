"""Mappings with partitions: several structures under one name, in each of which one may write."""

from __future__ import annotations

import contextlib
import json
import os
import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from connecting import connect_hasty
from slower import SLOWER
from structure_kinds import MAPPINGS, ORDERED, VERSIONED, each_of

import rnvm
from rfp.errors import (
    CallerError,
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    ReadConflict,
    StructureDamaged,
    WrongKind,
)
from rnvm import pools
from rnvm.check.check import check
from rnvm.cli import main
from rnvm.format import partitions
from structures import HashTable, Queue

MEMORY = os.environ["TESTS_MEMORY"]


@pytest.fixture
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[rnvm.Backend]:
    with (
        tempfile.TemporaryDirectory(dir=MEMORY) as folder,
        rnvm.Backend(Path(folder) / "pool", size="16MiB", assume_persistent=True) as served,
    ):
        yield served


@pytest.fixture
def fe(backend: rnvm.Backend) -> Iterator[rnvm.FrontEnd]:
    with rnvm.connect(backend.address, timeout=20) as connected:
        yield connected


def keys_of_partitions(mapping: Any, count: int) -> list[list[bytes]]:
    """Return `count` keys of each partition."""
    found: dict[str, list[bytes]] = {part.name: [] for part in mapping._parts()}
    number = 0
    while any(len(keys) < count for keys in found.values()):
        number += 1
        key = b"%d" % number
        place = found[mapping.partition(key).structure.name]
        if len(place) < count:
            place.append(key)
    return list(found.values())


@each_of(MAPPINGS)
def test_a_key_in_the_wrong_partition_is_damage(tmp_path: Path, kind: Any) -> None:
    path = tmp_path / "pool"
    with rnvm.Backend(path, size="16MiB", assume_persistent=True) as backend:
        with rnvm.connect(backend.address, timeout=20) as fe:
            mapping = kind(fe, "m", partitions=4)
            first, second, *_ = keys_of_partitions(mapping, 20)
            for key in first + second:
                mapping[key] = b"v"
            mapping.check()
            mapping.partition(second[0]).structure[first[0]] = b"v"
            with pytest.raises(StructureDamaged, match="wrong partition"):
                mapping.check()
            del mapping
    [finding] = check(path).findings
    assert "wrong partition" in finding.what
    assert "partition 1 of 4" in finding.where


# --- The whole interface


@each_of(MAPPINGS)
@pytest.mark.parametrize("number", [1, 3, 8])
def test_a_mapping_with_partitions_agrees_with_a_dict(
    fe: rnvm.FrontEnd, kind: Any, number: int, rng: random.Random
) -> None:
    mapping, model = kind(fe, "m", partitions=number), {}
    for turn in range(400):
        key, value = b"%d" % rng.randrange(60), b"v%d" % turn
        act = rng.randrange(8)
        if act < 3:
            mapping[key] = model[key] = value
        elif act == 3:
            assert mapping.pop(key, None) == model.pop(key, None)
        elif act == 4:
            assert mapping.setdefault(key, value) == model.setdefault(key, value)
        elif act == 5:
            assert (key in mapping) == (key in model)
            with contextlib.suppress(KeyError):
                del model[key]
                del mapping[key]
        elif act == 6 and model:
            found, its = mapping.popitem()
            assert model.pop(found) == its
        assert mapping.get(key) == model.get(key)
        assert len(mapping) == len(model)
    assert dict(mapping.items()) == model
    assert mapping == model
    assert sorted(mapping) == sorted(model)
    assert sorted(mapping.values()) == sorted(model.values())
    damages: list[Any] = []
    assert dict(mapping.salvage(damages)) == model
    assert not damages
    mapping.check()
    mapping.clear()
    assert len(mapping) == 0
    assert list(mapping) == []
    with pytest.raises(KeyError):
        mapping.popitem()


@each_of(ORDERED)
def test_an_ordered_mapping_with_partitions_keeps_the_order(
    fe: rnvm.FrontEnd, kind: Any, rng: random.Random
) -> None:
    tree = kind(fe, "m", codec="utf-8", partitions=4)
    model = {f"{rng.randrange(10_000):04}": "x" * rng.randrange(60) for _ in range(300)}
    assert tree.bulk_load(model) == len(model)
    keys = sorted(model)
    assert list(tree) == keys
    assert list(reversed(tree)) == keys[::-1]
    for _ in range(30):
        low, high = sorted(f"{rng.randrange(10_000):04}" for _ in range(2))
        wanted = [(key, model[key]) for key in keys if low <= key < high]
        assert list(tree.range(low, high)) == wanted
        assert list(tree.range(low, high, reverse=True)) == wanted[::-1]
        assert tree.count(low, high) == len(wanted)
        below = [key for key in keys if key <= low]
        if below:
            assert tree.floor(low) == (below[-1], model[below[-1]])
    assert tree.first() == (keys[0], model[keys[0]])
    assert tree.last() == (keys[-1], model[keys[-1]])
    assert [key for key, _ in tree.prefix("00")] == [key for key in keys if key.startswith("00")]
    assert tree.popitem()[0] == keys[0]
    assert tree.popitem(last=True)[0] == keys[-1]
    assert list(tree) == keys[1:-1]
    tree.check()


def test_long_values_and_undecodable_ones_are_found_in_their_partition(fe: rnvm.FrontEnd) -> None:
    for kind in MAPPINGS:
        mapping = kind(fe, kind.__name__, partitions=3)
        values = {b"%d" % n: bytes([n]) * 9000 for n in range(12)}
        mapping.update(values)
        assert dict(mapping.items()) == values
        assert {mapping.popitem()[0] for _ in range(12)} == set(values)


# --- One name


def test_the_number_of_partitions_is_stored_and_checked(
    backend: rnvm.Backend, fe: rnvm.FrontEnd
) -> None:
    HashTable(fe, "split", partitions=8)[b"k"] = b"v"
    HashTable(fe, "plain")[b"k"] = b"w"
    with rnvm.connect(backend.address) as other:
        for options in ({}, {"partitions": 4}, {"create": False}):
            with pytest.raises(WrongKind, match="'split' has 8 partitions"):
                HashTable(other, "split", **options)
        with pytest.raises(WrongKind, match="'plain' has no partitions"):
            HashTable(other, "plain", partitions=1)
        with pytest.raises(WrongKind, match="another kind"):
            ORDERED[0](other, "split", partitions=8)
        for wrong in (0, 65, -1):
            with pytest.raises((InvalidArgument, OverflowError)):
                HashTable(other, "new", partitions=wrong)
        for name in ("split\x1f3/8", "a\x1f"):
            for make in (HashTable, Queue):
                with pytest.raises(InvalidArgument, match=r"U\+001F"):
                    make(other, name)
        with pytest.raises(NotFound):
            HashTable(other, "none", partitions=2, create=False)
        assert HashTable(other, "split", partitions=8)[b"k"] == b"v"
        assert set(other.names()) == {"split", "plain"}
        assert other.names()["split"]["partitions"] == 8
        assert "partitions" not in other.names()["plain"]


def test_a_name_that_is_too_long_for_one_partition_makes_none(fe: rnvm.FrontEnd) -> None:
    with pytest.raises(InvalidArgument, match="12 partitions must be between 1 and 154 bytes"):
        HashTable(fe, "x" * 155, partitions=12)
    assert fe.names() == {}
    mapping = HashTable(fe, "x" * 154, partitions=12)
    mapping[b"k"] = b"v"


def test_an_open_mapping_is_not_opened_once_more_with_partitions(fe: rnvm.FrontEnd) -> None:
    mapping: Any = HashTable(fe, "m")
    mapping[b"k"] = b"v"
    with pytest.raises(InvalidArgument, match="only once"):
        mapping.__init__(fe, "m", partitions=8)
    assert (mapping.partitions, mapping._entry_name()) == (0, b"m")


def test_a_dropped_mapping_loses_all_its_partitions_and_its_name_is_free(
    backend: rnvm.Backend, fe: rnvm.FrontEnd
) -> None:
    mapping = HashTable(fe, "m", partitions=5)
    mapping.update({b"%d" % n: b"v" for n in range(100)})
    fe.release()
    with rnvm.connect(backend.address) as other:
        other.drop("m")
        assert other.names() == {}
        with pytest.raises(NotFound):
            other.drop("m")
        with pytest.raises(NotFound):
            mapping[b"1"] = b"w"
        HashTable(other, "m")[b"1"] = b"x"
    del mapping
    assert HashTable(fe, "m")[b"1"] == b"x"


def test_a_partition_is_not_dropped_alone(fe: rnvm.FrontEnd) -> None:
    mapping = HashTable(fe, "m", partitions=4)
    mapping.update({b"%d" % n: b"v" for n in range(40)})
    fe.release()
    with pytest.raises(InvalidArgument, match="by itself"):
        fe.drop("m\x1f1/4")
    assert len(mapping) == 40


def test_a_mapping_is_not_dropped_while_another_front_end_writes_to_a_partition(
    backend: rnvm.Backend, fe: rnvm.FrontEnd
) -> None:
    mapping = HashTable(fe, "m", partitions=3)
    mapping[b"1"] = b"v"
    with rnvm.connect(backend.address) as other, fe.transaction(mapping.partition(b"1")):
        with pytest.raises(CallerError, match="writing to 'm'"):
            other.drop("m")
        mapping[b"1"] = b"w"
    assert mapping[b"1"] == b"w"
    mapping.check()


def test_a_mapping_whose_maker_was_killed_is_completed_by_the_next_opening() -> None:
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        path = Path(folder) / "pool"
        pools.create(path, "8MiB", assume_persistent=True)
        with pools.open_pool(path) as pool:
            for name, number in ((b"m", 0), (b"m", 2), (b"n", 1)):
                pool.create(partitions.entry_name(name, number, 4), HashTable.KIND)
        with rnvm.Backend(path) as backend, rnvm.connect(backend.address) as fe:
            assert {each["partitions"] for each in fe.names().values()} == {4}
            with pytest.raises(WrongKind, match="has 4 partitions"):
                HashTable(fe, "m", partitions=2)
            with pytest.raises(NotFound):
                HashTable(fe, "n", partitions=4, create=False)
            mapping = HashTable(fe, "m", partitions=4)
            mapping.update({b"%d" % n: b"v" for n in range(40)})
            mapping.check()
            fe.drop("n")
            assert set(fe.names()) == {"m"}
        assert check(path).sound


class Hook:
    """A codec that calls a function in the middle of an opening."""

    def __init__(self, at: int, call: Callable[[], None]) -> None:
        self.left, self.call = at, call

    @property
    def name(self) -> str:
        self.left -= 1
        if self.left == 0:
            self.call()
        return "hook"

    def encode(self, value: bytes) -> bytes:
        return value

    decode = encode


def plain() -> Hook:
    return Hook(0, lambda: None)


def test_a_mapping_of_which_only_some_partitions_were_opened_is_not_used(
    fe: rnvm.FrontEnd,
) -> None:
    class Patient(HashTable):
        def __init__(self, *args: Any, **options: Any) -> None:
            with contextlib.suppress(ZeroDivisionError):
                super().__init__(*args, **options)

    def fail() -> None:
        raise ZeroDivisionError

    for at in (3, 5):
        half = Patient(fe, "m", codec=Hook(at, fail), partitions=8)
        for use in (lambda half: half.update({b"%d" % n: b"v" for n in range(9)}), len, dict):
            with pytest.raises(CallerError, match="never opened"):
                use(half)
        with pytest.raises(InvalidArgument), fe.transaction(half):
            pass
        mapping = HashTable(fe, "m", codec=plain(), partitions=8)
        assert len(mapping) == 0
        mapping.check()
        del mapping, half
    assert set(fe.names()) == {"m"}


@pytest.mark.parametrize("made_again", [False, True], ids=["dropped", "made again"])
def test_a_mapping_that_is_dropped_while_it_is_opened_is_not_opened(
    backend: rnvm.Backend, fe: rnvm.FrontEnd, made_again: bool
) -> None:
    with rnvm.connect(backend.address) as other:
        for at in (3, 6, 8):
            kept: list[HashTable] = []

            def drop(kept: list[HashTable] = kept) -> None:
                other.drop("m")
                if made_again:
                    kept.append(HashTable(other, "m", codec=plain(), partitions=8))
                    kept[0][b"new"] = b"v"

            mapping = HashTable(fe, "m", codec=plain(), partitions=8)
            mapping.update({b"%d" % n: b"v" for n in range(80)})
            fe.release()
            del mapping
            hook = Hook(at, drop)
            with pytest.raises(NotFound, match="dropped"):
                HashTable(fe, "m", codec=hook, partitions=8)
            assert hook.left <= 0
            assert set(fe.names()) == ({"m"} if made_again else set())
            if made_again:
                assert dict(kept[0]) == {b"new": b"v"}
                kept.clear()
                other.release()
                assert dict(HashTable(fe, "m", codec=plain(), partitions=8)) == {b"new": b"v"}
                fe.release()
                other.drop("m")


@pytest.mark.parametrize("number", [4, 2, None])
def test_what_an_interrupted_drop_has_left_is_no_part_of_the_next_mapping(
    number: int | None,
) -> None:
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        path = Path(folder) / "pool"
        with (
            rnvm.Backend(path, size="8MiB", assume_persistent=True) as backend,
            rnvm.connect(backend.address) as fe,
        ):
            HashTable(fe, "m", partitions=4).update({b"%d" % n: b"v" for n in range(40)})
        with pools.open_pool(path) as pool:
            pool.drop(partitions.entry_name(b"m", 0, 4))
        with rnvm.Backend(path) as backend, rnvm.connect(backend.address) as fe:
            assert fe.names() == {}
            with pytest.raises(NotFound):
                HashTable(fe, "m", partitions=4, create=False)
            mapping = HashTable(fe, "m", partitions=number)
            assert len(mapping) == 0
            mapping[b"1"] = b"w"
            mapping.check()
            assert set(fe.names()) == {"m"}
        with pools.open_pool(path) as pool:
            assert len(pool.names) == (number or 1)
        assert check(path).sound


def test_the_commands_show_a_mapping_with_partitions_as_one(tmp_path: Path) -> None:
    path = tmp_path / "pool"
    with (
        rnvm.Backend(path, size="8MiB", assume_persistent=True) as backend,
        rnvm.connect(backend.address) as fe,
    ):
        mapping = HashTable(fe, "users", partitions=4)
        mapping.update({b"%d" % n: b"v" for n in range(50)})
        HashTable(fe, "plain")[b"k"] = b"v"
    run = CliRunner()
    shown = run.invoke(main, ["ls", str(path)]).output
    assert [line.split()[:5] for line in shown.splitlines()[1:3]] == [
        ["users", "HashTable", "1", "-", "4"],
        ["plain", "HashTable", "1", "-", "-"],
    ]
    (users, plain) = json.loads(run.invoke(main, ["ls", str(path), "--json"]).output)
    assert (users["name"], users["partitions"], len(users["entries"])) == ("users", 4, 4)
    assert "partitions" not in plain
    checked = run.invoke(main, ["check", str(path)])
    assert checked.exit_code == 0
    assert all(f"users (partition {n} of 4)" in checked.output for n in range(4))
    dumped = [
        json.loads(line) for line in run.invoke(main, ["dump", str(path)]).output.splitlines()
    ]
    assert {(each["name"], each.get("partition")) for each in dumped if each["part"] == "name"} == {
        *(("users", n) for n in range(4)),
        ("plain", None),
    }
    assert run.invoke(main, ["recover", str(path)]).exit_code == 0
    assert check(path).sound


# --- Side by side


def test_writers_of_different_partitions_do_not_wait_for_each_other(
    backend: rnvm.Backend, fe: rnvm.FrontEnd
) -> None:
    mapping = HashTable(fe, "m", partitions=2)
    (mine, *_), (theirs, *_) = keys_of_partitions(mapping, 1)
    with connect_hasty(backend.address, 0.1 * SLOWER) as other:
        same = HashTable(other, "m", partitions=2, timeout=20)
        with fe.transaction(mapping.partition(mine)):
            mapping[mine] = b"1"
            same[theirs] = b"2"  # does not wait
            with pytest.raises(DeadlineExceeded):
                same[mine] = b"3"
            with pytest.raises(CallerError, match="not over"):
                mapping[theirs] = b"4"
        assert dict(same) == {mine: b"1", theirs: b"2"}
    assert backend.figures()["pool"]["fenced"] <= 1


@each_of([HashTable, *VERSIONED])
def test_several_front_ends_write_to_their_own_partitions_at_once(
    backend: rnvm.Backend, kind: Any
) -> None:
    errors: list[BaseException] = []

    def write(place: int) -> None:
        try:
            with rnvm.connect(backend.address, timeout=20) as fe:
                mapping = kind(fe, "m", partitions=4)
                keys = keys_of_partitions(mapping, 20)[place]
                calls = 0
                for turn in range(10):
                    for key in keys:
                        mapping[key] = b"%d" % turn
                    if turn == 1:
                        calls = fe.figures["calls"]
                # Its lock is never taken away, so it needs no call; but for blocks, and for the
                # oldest retained version.
                assert fe.figures["calls"] - calls <= (2 if kind is HashTable else 30)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(place,)) for place in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, errors
    with rnvm.connect(backend.address) as fe:
        mapping = kind(fe, "m", partitions=4)
        assert len(mapping) == 80
        assert set(mapping.values()) == {b"9"}
        mapping.check()


def test_a_transaction_covers_all_partitions_or_those_that_it_names(
    backend: rnvm.Backend, fe: rnvm.FrontEnd
) -> None:
    class Discarded(Exception):
        pass

    mapping, tree = HashTable(fe, "m", partitions=3), ORDERED[0](fe, "t", partitions=3)
    keys = [b"%d" % n for n in range(30)]
    with rnvm.connect(backend.address) as other:
        theirs = HashTable(other, "m", partitions=3)
        with fe.transaction(mapping, tree):
            for key in keys:
                mapping[key] = tree[key] = b"1"
            assert len(theirs) == 0
        assert len(theirs) == 30
        with contextlib.suppress(Discarded), fe.transaction(mapping, tree):
            mapping.clear()
            tree.clear()
            raise Discarded
        assert len(theirs) == len(tree) == 30
        named = [mapping.partition(key) for key in keys]  # several of each partition
        with fe.transaction(*named):
            for key in keys:
                mapping[key] = b"2"
        assert set(theirs.values()) == {b"2"}
        again = fe.transaction(mapping, mapping.partition(b"1"), tree)
        for turn in (b"3", b"4"):
            with again:
                mapping[b"1"] = tree[b"1"] = turn
        assert theirs[b"1"] == b"4"
        with pytest.raises(InvalidArgument), fe.transaction(mapping, mapping):
            pass
        with pytest.raises(InvalidArgument), other.transaction(mapping.partition(b"1")):
            pass


def test_a_read_transaction_sees_all_partitions_at_one_moment(
    backend: rnvm.Backend, fe: rnvm.FrontEnd
) -> None:
    over = threading.Event()
    keys = [b"%d" % n for n in range(20)]

    def write() -> None:
        with rnvm.connect(backend.address, timeout=20) as other:
            theirs = HashTable(other, "m", partitions=4)
            turn = 0
            while not over.is_set():
                turn += 1
                with other.transaction(theirs):
                    theirs.update(dict.fromkeys(keys, b"%d" % turn))

    mapping = HashTable(fe, "m", partitions=4)
    mapping.update(dict.fromkeys(keys, b"0"))
    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(30):
            items: dict[bytes, bytes] = fe.read(dict, mapping)
            assert set(items) == set(keys)
            assert len(set(items.values())) == 1
            with contextlib.suppress(ReadConflict), fe.read_transaction(mapping):
                assert len({mapping[key] for key in keys}) == 1
    finally:
        over.set()
        writer.join()


# --- Snapshots


@each_of(VERSIONED)
def test_a_snapshot_has_all_partitions_and_none_of_the_later_changes(
    fe: rnvm.FrontEnd, kind: Any, rng: random.Random
) -> None:
    tree = kind(fe, "m", codec="utf-8", partitions=4)
    then = {f"{rng.randrange(10_000):04}": "x" * rng.choice((1, 60, 5000)) for _ in range(150)}
    tree.update(then)
    keys = sorted(then)
    with tree.snapshot() as before:
        version = before.version
        tree.clear()
        tree["0"] = "new"
        assert dict(before) == then and list(before) == keys
        assert list(reversed(before)) == keys[::-1]
        assert len(before) == len(then) == before.count()
        low, high = keys[20], keys[120]
        wanted = [(key, then[key]) for key in keys if low <= key < high]
        assert list(before.range(low, high)) == wanted
        assert before.count(low, high) == len(wanted)
        assert before.first() == (keys[0], then[keys[0]])
        assert before.last() == (keys[-1], then[keys[-1]])
        assert before.floor(keys[7] + "~") == (keys[7], then[keys[7]])
        assert all(before[key] == then[key] for key in keys)
        assert "0" not in before and before.get("0", "none") == "none"
        assert before.structure is tree
        with tree.snapshot() as later:
            assert dict(later) == {"0": "new"} and later.version > version
    with pytest.raises(CallerError, match="closed"):
        before[keys[0]]
    tree.check()


@each_of(VERSIONED)
def test_a_snapshot_of_partitions_waits_for_no_writer(
    backend: rnvm.Backend, fe: rnvm.FrontEnd, kind: Any
) -> None:
    tree = kind(fe, "m", partitions=4)
    keys = [key for place in keys_of_partitions(tree, 2) for key in place]
    tree.update(dict.fromkeys(keys, b"old"))
    with rnvm.connect(backend.address, timeout=20) as other:
        theirs = kind(other, "m", partitions=4)
        with fe.transaction(tree):
            tree.update(dict.fromkeys(keys, b"new"))
            calls = other.figures["calls"]
            with theirs.snapshot() as before:
                assert other.figures["calls"] == calls + 1
                assert set(before.values()) == {b"old"}
        with theirs.snapshot() as after:
            assert set(after.values()) == {b"new"}


@each_of(VERSIONED)
@pytest.mark.parametrize("careless", [False, True], ids=["snapshot", "one after the other"])
def test_a_snapshot_is_of_one_moment_over_its_partitions(
    backend: rnvm.Backend, kind: Any, careless: bool
) -> None:
    """Two keys count in turn; snapshots of the partitions, taken one by one, are caught."""
    over, ready = threading.Event(), threading.Event()
    errors: list[BaseException] = []

    def write() -> None:
        try:
            with rnvm.connect(backend.address, timeout=20) as other:
                theirs, turn = kind(other, "m", partitions=3), 0
                while not over.is_set():
                    turn += 1
                    theirs[first] = theirs[second] = b"%d" % turn
                    ready.set()
        except BaseException as error:
            errors.append(error)
            ready.set()

    def seen() -> tuple[int, int]:
        if not careless:
            with tree.snapshot() as before:
                return int(before[first]), int(before[second])
        with tree.partition(first).structure.snapshot() as one:
            with tree.partition(second).structure.snapshot() as two:
                return int(one[first]), int(two[second])

    def ahead(states: set[tuple[int, int]]) -> set[int]:
        return {mine - theirs for mine, theirs in states}

    with rnvm.connect(backend.address, timeout=20) as fe:
        tree = kind(fe, "m", partitions=3)
        _, (first, *_), (second, *_) = keys_of_partitions(tree, 1)
        tree[first] = tree[second] = b"0"
        fe.release()
        writer = threading.Thread(target=write)
        writer.start()
        try:
            assert ready.wait(20)
            states = {seen()}
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline and len(states) < 60 and ahead(states) <= {0, 1}:
                states.add(seen())
        finally:
            over.set()
            writer.join()
        assert not errors, errors
        assert careless or len(states) > 1
        assert (ahead(states) <= {0, 1}) is not careless


# --- The file of names


def test_names_of_partitions_are_told_from_all_others() -> None:
    assert partitions.parsed(partitions.entry_name(b"a/b", 3, 64)) == (b"a/b", 3, 64)
    for name in (b"a", b"a3/8", b"\x1f", b"a\x1f3", b"a\x1f/8", b"a\x1f300/8"):
        assert partitions.parsed(name) == (name, 0, 0)
    names = [partitions.entry_name(b"a", n, 12) for n in range(12)]
    assert partitions.entries_of([*names[::-1], b"b"], b"a") == names
