"""GETs by one READ of the place where the value was, over networks: emulated, reordered, RDMA."""

from __future__ import annotations

import contextlib
import random
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import server_addresses
from click.testing import CliRunner
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

import rfp
from bench.cli import main as benchmark
from rfp import address as addresses
from rfp.errors import InvalidArgument
from rfp.fabric.fabric import Fabric
from rfp.protocol.client.opener import Opener
from rfp.protocol.wire import DIRECT_READS, NAMED_PLACES
from rfp.store.client.client import Client
from rfp.testing.reordering_fabric import ReorderFabric
from tests.support import polling, python_programs

pytestmark = pytest.mark.anywhere

NETWORKS = ["emulated", pytest.param("reordering", marks=pytest.mark.shm)]


def emulated() -> addresses.Address:
    """Return a new address at which reads and writes take the time of a network."""
    place = addresses.unique()
    if place.provider != "shm":
        return place
    return replace(place, options=addresses.parse("shm:///x?rtt=2us").options)


@contextlib.contextmanager
def connected(network: str, place: Any, **options: Any) -> Iterator[rfp.Client]:
    """Yield a client of a server on this network."""
    seed = int(options.pop("seed", 1))
    if network != "reordering":
        with rfp.connect(place, timeout=20, **options) as kv:
            yield kv
        return
    with reordering(seed) as fabric:
        opener = Opener(place, "kv", features=DIRECT_READS | NAMED_PLACES, fabric=fabric)
        with Client(opener, timeout=20, **{"location_cache": 4096, **options}) as kv:
            yield kv


@contextlib.contextmanager
def reordering(seed: int) -> Iterator[Fabric]:
    fabric = ReorderFabric(seed=seed)
    try:
        yield fabric
    finally:
        fabric.close()


@contextlib.contextmanager
def served(network: str, memory: str = "16MiB", **options: Any) -> Iterator[rfp.Server]:
    with contextlib.ExitStack() as stack:
        if network == "reordering":
            options["fabric"] = stack.enter_context(reordering(2))
        else:
            options["address"] = emulated()
        yield stack.enter_context(rfp.Server(memory=memory, **options))


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def over_rdma() -> bool:
    """Whether the servers of this run are at an RDMA device (--over=verbs)."""
    return addresses.unique().provider == "rdma"


def attach_chunks(kv: rfp.Client) -> None:
    """Over RDMA, read until all of the server's memory can be read."""

    def attached() -> bool:
        kv.get_many(keys)
        return located(kv)["chunks"] == kv.connection.partitions

    if over_rdma():
        keys = [b"warm %d" % i for i in range(64)]
        kv.put_many((key, b"warm") for key in keys)
        polling.until(attached)
        kv.clear()


@pytest.fixture
def server(network: str) -> Iterator[rfp.Server]:
    with served(network, workers=2) as server:
        yield server


@pytest.fixture
def kv(network: str, server: rfp.Server) -> Iterator[rfp.Client]:
    with connected(network, server.address) as kv:
        attach_chunks(kv)
        yield kv


@pytest.fixture
def other(network: str, server: rfp.Server) -> Iterator[rfp.Client]:
    with connected(network, server.address, seed=3) as kv:
        yield kv


def located(kv: rfp.Client) -> dict[str, int]:
    return kv.stats()["client"]["direct"]


def verbs(kv: rfp.Client) -> tuple[int, int]:
    """Return the READs and WRITEs so far, without those of a request for statistics."""
    counters = [channel.counters for channel in kv.connection.channels]
    return sum(each["reads"] for each in counters), sum(each["writes"] for each in counters)


def learn(kv: rfp.Client, key: bytes) -> None:
    """Read a key until it is read at its place."""
    found = located(kv)["found"]
    polling.until(lambda: (kv.get(key), located(kv)["found"] > found)[1])


def test_a_hot_key_costs_one_read_and_no_write(kv: rfp.Client) -> None:
    kv.put(b"k", b"value")
    learn(kv, b"k")
    before, gets = verbs(kv), kv.stats()["gets"]
    reads, writes = verbs(kv)
    for _ in range(100):
        assert kv.get(b"k") == b"value"
    assert verbs(kv) == (reads + 100, writes)
    assert before < (reads, writes), "stats() sends requests"
    assert kv.stats()["gets"] == gets
    figures = located(kv)
    assert figures["hits"] == figures["found"] >= 100
    assert figures["entries"] >= 1 and figures["bytes"] > 0 and figures["stale"] == 0


def test_an_update_by_another_client_costs_one_read_more(kv: rfp.Client, other: rfp.Client) -> None:
    kv.put(b"k", b"value 0")
    learn(kv, b"k")
    reads, writes = verbs(kv)
    for i in range(1, 21):
        version = other.put(b"k", b"value %d" % i)
        for _ in range(5):
            assert kv.item(b"k") == (b"value %d" % i, version)
    after = verbs(kv)
    assert after[1] - writes <= 2 * 20, "one request for each update, perhaps with a WAIT"
    # 20 more if the requests are fetched: a slow server's responses are written instead.
    assert after[0] - reads >= 100
    figures = located(kv)
    assert figures["stale"] == 20 and figures["found"] >= 80


@pytest.mark.parametrize("network", ["emulated"])  # the benchmark connects to an address
def test_the_benchmark_counts_one_read_for_each_operation(server: rfp.Server, network: str) -> None:
    options = ["rfp-python", "-P", "c", "-p", "recordcount=20", "-p", "operationcount=4000"]
    options += ["-p", "requestdistribution=zipfian", "-p", f"rfp.address={server.address}"]
    for command in ("load", "run"):
        result = CliRunner().invoke(benchmark, [command, *options])
        assert result.exit_code == 0, result.output
    counted = dict(re.findall(r"\[VERBS\], (\w+), ([0-9.]+)", result.output))
    # The few calls poll for their responses, by as many READs as the server takes time.
    assert float(counted["CallsPerOperation"]) < 0.03, result.output
    assert 1.0 <= float(counted["ReadsPerOperation"]) < 1.5, result.output
    assert float(counted["WritesPerOperation"]) < 0.03, result.output


def test_values_of_all_lengths_are_read_at_their_places_unless_they_are_long(
    kv: rfp.Client, network: str
) -> None:
    sizes = (0, 1, 31, 32, 33, 2000, 2100, 4095, 4096, 4097, 100_000)
    values = {b"%d" % n: random.Random(n).randbytes(n) for n in sizes}
    versions = {key: kv.put(key, value) for key, value in values.items()}
    for key, value in values.items():
        assert kv.get(key) == value
    before = kv.stats()["gets"]
    for key, value in values.items():
        assert kv.get(key) == value
        assert kv.item(key) == (value, versions[key])
        buffer = bytearray(len(value) + 3)
        assert kv.get_into(key, buffer) == len(value)
        assert buffer[: len(value)] == value
    long = sum(size > 4096 for size in sizes)
    assert kv.stats()["gets"] == before + 3 * long
    with pytest.raises(InvalidArgument, match="buffer"):
        kv.get_into(b"33", bytearray(32))
    kv.put(b"k" * 1024, bytes(4096))
    assert [kv.get(b"k" * 1024) for _ in range(2)] == [bytes(4096)] * 2


def test_get_many_reads_all_places_at_once(kv: rfp.Client) -> None:
    keys = [b"key %d" % i for i in range(300)]
    kv.put_many((key, key * (i % 50)) for i, key in enumerate(keys) if i % 3)
    expected = [key * (i % 50) if i % 3 else None for i, key in enumerate(keys)]
    for _ in range(5):  # a full response has no room for all places: the next one names more
        assert kv.get_many(keys) == expected
    gets, unsure = kv.stats()["gets"], located(kv)["unsure"]
    assert kv.get_many(keys) == expected
    asked = 100 + located(kv)["unsure"] - unsure
    assert kv.stats()["gets"] == gets + asked, "the server answers for keys without a value"
    present = [key for i, key in enumerate(keys) if i % 3]
    reads, writes = verbs(kv)
    assert kv.get_many(present) == [value for value in expected if value is not None]
    assert verbs(kv) == (reads + 200, writes)
    kv.put(present[0], bytes(200_000))
    assert kv.get_many(present[:2])[0] == bytes(200_000)
    assert kv.get_many([present[1]] * 200) == [expected[2]] * 200


def test_a_deleted_value_is_not_found_at_its_place(kv: rfp.Client, other: rfp.Client) -> None:
    kv.put_many((b"%d" % i, b"value") for i in range(20))
    keys = [b"%d" % i for i in range(20)]
    assert kv.get_many(keys) == kv.get_many(keys) == [b"value"] * 20
    other.delete_many(keys[::2])
    assert kv.get_many(keys) == [None, b"value"] * 10
    assert [kv.get(key) for key in keys] == [None, b"value"] * 10


def test_a_value_that_expires_soon_is_asked_for(kv: rfp.Client, other: rfp.Client) -> None:
    kv.put(b"k", b"v", ttl=1000)
    learn(kv, b"k")
    gets = kv.stats()["gets"]
    reads, writes = verbs(kv)
    assert kv.get(b"k") == kv.get(b"k") == b"v"
    # Over RDMA with a READ of the server's clock.
    assert verbs(kv) == (reads + (4 if over_rdma() else 2), writes)
    assert kv.stats()["gets"] == gets
    other.touch(b"k", 0.99)
    assert kv.get(b"k") == b"v"
    assert kv.stats()["gets"] == gets + 1, "less than the margin is left"
    other.touch(b"k", 0.001)
    polling.until(lambda: kv.get(b"k") is None)


def test_the_records_of_other_keys_at_a_place_are_not_believed(
    kv: rfp.Client, other: rfp.Client, seed: int
) -> None:
    """Keys of equal lengths take each other's places, again and again."""
    rng = random.Random(seed)
    keys = [b"key %02d" % i for i in range(40)]
    stored: dict[bytes, bytes] = {}
    for turn in range(600):
        key = rng.choice(keys)
        if rng.random() < 0.5:
            stored[key] = b"%04d" % turn * rng.choice([3, 3, 50])
            other.put(key, stored[key])
        else:
            other.delete(key)
            stored.pop(key, None)
        for each in rng.sample(keys, 3):
            assert kv.get(each) == stored.get(each)
        if turn % 50 == 0:
            assert kv.get_many(keys) == [stored.get(each) for each in keys]
    assert located(kv)["stale"] > 10 and located(kv)["found"] > 100


def test_evicted_and_moved_records_are_asked_for(network: str, seed: int) -> None:
    rng = random.Random(seed)
    stored: dict[bytes, bytes] = {}
    with served(network, "1MiB") as server, contextlib.ExitStack() as stack:
        kv, other = (
            stack.enter_context(connected(network, server.address, seed=n)) for n in (3, 4)
        )
        attach_chunks(kv)
        for turn in range(2500):
            key = b"key %d" % rng.randrange(900)
            stored[key] = bytes([turn % 251]) * rng.choice([100, 900, 4000])
            other.put(key, stored[key])
            each = b"key %d" % rng.randrange(900)
            assert kv.get(each) in (None, stored.get(each))
        assert other.stats()["evictions"] > 50
        assert located(kv)["found"] > 20


def test_uses_at_places_count_for_eviction(network: str) -> None:
    with served(network, "1MiB") as server, connected(network, server.address) as kv:
        attach_chunks(kv)
        hot = [b"hot %d" % i for i in range(20)]
        kv.put_many((key, bytes(200)) for key in hot)
        lost = 0
        for i in range(3000):
            kv.put(b"cold %d" % i, bytes(1000))
            key = hot[i // 5 % 20]
            if i % 5 == 0 and kv.get(key) is None:
                lost += 1
                kv.put(key, bytes(200))
        assert kv.stats()["evictions"] > 1500
        assert located(kv)["found"] > 450
        # A miss tells the client that the server needs its reports; from then on nothing is lost.
        assert lost <= 25


def test_a_small_cache_serves_more_keys_than_it_has_places(kv: rfp.Client, network: str) -> None:
    with connected(network, kv.connection.address, location_cache=8) as small:
        keys = [b"key %d" % i for i in range(100)]
        kv.put_many((key, key) for key in keys)
        for _ in range(3):
            assert small.get_many(keys) == keys
            assert [small.get(key) for key in keys] == keys
        assert located(small)["entries"] <= 8


def test_without_places_every_get_is_a_request() -> None:
    for options, client in (({"direct_reads": False}, {}), ({}, {"location_cache": 0})):
        with served("emulated", **options) as server:
            with connected("emulated", server.address, **client) as kv:
                kv.put(b"k", b"v")
                gets = kv.stats()["gets"]
                assert [kv.get(b"k") for _ in range(5)] == [b"v"] * 5
                assert kv.stats()["gets"] == gets + 5
                assert kv.stats()["client"].get("direct", {"found": 0})["found"] == 0


def test_threads_share_the_places(kv: rfp.Client) -> None:
    keys = [b"key %d" % i for i in range(64)]
    kv.put_many((key, key * 3) for key in keys)
    wrong: list[object] = []

    def read(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(300):
            key = rng.choice(keys)
            value = kv.get(key)
            if value not in (key * 3, key * 4):
                wrong.append((key, value))
        if any(value not in (key * 3, key * 4) for key, value in zip(keys, kv.get_many(keys))):
            wrong.append("get_many")

    threads = [threading.Thread(target=read, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for i in range(500):
        kv.put(keys[i % 64], keys[i % 64] * (3 + i % 2))
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.shm
def test_a_read_that_does_not_complete_is_left_alone(seed: int) -> None:
    """The server is asked, and the memory is not used before the READ has completed."""
    with served("reordering") as server, reordering(seed) as fabric:
        opener = Opener(server.address, "kv", features=DIRECT_READS | NAMED_PLACES, fabric=fabric)
        with Client(opener, timeout=20, location_cache=64) as kv:
            values = {b"a": b"1" * 100, b"b": b"2" * 100}
            kv.put_many(values)
            assert kv.get_many(values) == kv.get_many(values) == list(values.values())
            for i in range(30):
                key = b"ab"[i % 2 : i % 2 + 1]
                if i % 3 == 0:
                    fabric.stop(1)
                    threading.Timer(0.08, fabric.hold, (0,)).start()
                assert kv.get(key) == values[key]
            assert located(kv)["found"] > 10


SERVER = """
import sys, rfp
server = rfp.Server("16MiB", address=sys.argv[1])
print(server.address, flush=True)
sys.stdin.read()
server.close()
"""


def test_the_memory_of_a_killed_server_answers_nothing(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    place = server_addresses.own(tmp_path)
    if not over_rdma():
        place += "?rtt=2us"

    def start() -> subprocess.Popen[str]:
        process = python_programs.start(
            "-c", SERVER, place, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline().strip()
        return process

    first = start()
    second = None
    try:
        with rfp.connect(place, timeout=30) as kv:
            kv.put(b"k", b"of the first")
            learn(kv, b"k")
            assert [kv.get(b"k") for _ in range(3)] == [b"of the first"] * 3
            first.send_signal(signal.SIGKILL)
            first.wait()
            second = start()
            assert kv.get(b"k") is None
            kv.put(b"k", b"of the second")
            assert [kv.get(b"k") for _ in range(3)] == [b"of the second"] * 3
            assert located(kv)["found"] <= 2, "the places of the first server are forgotten"
            learn(kv, b"k")
    finally:
        first.communicate()
        if second is not None:
            second.communicate()  # ends at the end of its input
            assert second.returncode == 0


@pytest.mark.verbs
@pytest.mark.parametrize("limit", [0, "8MiB"])
def test_the_server_limits_the_memory_that_is_registered_for_direct_reads(limit: Any) -> None:
    with rfp.Server(memory="8MiB", direct_memory=limit) as server:
        with rfp.connect(server.address, timeout=20) as kv, rfp.connect(server.address) as second:
            keys = [b"key %d" % i for i in range(32)]
            kv.put_many((key, key) for key in keys)
            if limit:
                attach_chunks(kv)
                kv.put_many((key, key) for key in keys)

            def refused() -> int:
                assert second.get_many(keys) == keys
                return int(server.figures()["direct_memory"]["refused"])

            polling.until(refused)
            assert located(second)["found"] == 0 and located(second)["chunks"] == 0
            figures = server.figures()["direct_memory"]
            assert figures["registered"] == figures["limit"] == (8 << 20 if limit else 0)
            assert second.get_many(keys) == keys, "values are read by requests"
            second.put(b"large", bytes(100_000))
            assert second.get(b"large") == bytes(100_000), "references need no such memory"
        polling.until(lambda: server.figures()["direct_memory"]["registered"] == 0)


def test_calibration_chooses_direct_reads(kv: rfp.Client) -> None:
    kv.ping()
    assert kv.calibration["gets"] == "direct"
    assert kv.calibration["direct_ns"] > 0 and kv.calibration["request_ns"] > 0
    assert kv.stats()["client"]["calibration"] == kv.calibration


# Any calls of two clients have the effect of a dict's

KEYS = [b"a", b"b", b"cc", b"k" * 64, b"k" * 63 + b"l", b"n" * 1024]
keys = st.sampled_from(KEYS)
values = st.sampled_from([b"", b"1", b"x" * 31, b"y" * 32, b"z" * 900, b"l" * 4096, b"m" * 5000])


class TwoClients(RuleBasedStateMachine):
    kv: rfp.Client
    other: rfp.Client

    def __init__(self) -> None:
        super().__init__()
        self.kv.clear()
        self.stored: dict[bytes, tuple[bytes, int]] = {}

    @rule(key=keys, value=values, mine=st.booleans(), ttl=st.sampled_from([None, 5000]))
    def put(self, key: bytes, value: bytes, mine: bool, ttl: float | None) -> None:
        client = self.kv if mine else self.other
        self.stored[key] = value, client.put(key, value, ttl=ttl)

    @rule(key=keys, mine=st.booleans())
    def delete(self, key: bytes, mine: bool) -> None:
        client = self.kv if mine else self.other
        assert client.delete(key) is (self.stored.pop(key, None) is not None)

    @rule(key=keys, ttl=st.sampled_from([None, 60, 5000]))
    def touch(self, key: bytes, ttl: float | None) -> None:
        if ttl is not None:
            self.other.touch(key, ttl)
        assert self.other.touch(key) is (key in self.stored)

    @rule(key=keys)
    def get(self, key: bytes) -> None:
        value, version = self.stored.get(key, (None, None))
        assert self.kv.get(key) == value
        assert self.kv.item(key) == (None if value is None else (value, version))

    @rule(wanted=st.lists(keys, max_size=12))
    def get_many(self, wanted: list[bytes]) -> None:
        assert self.kv.get_many(wanted) == [self.stored.get(key, (None,))[0] for key in wanted]

    @rule(key=keys)
    def get_into(self, key: bytes) -> None:
        value = self.stored.get(key, (None,))[0]
        buffer = bytearray(6000)
        assert self.kv.get_into(key, buffer) == (None if value is None else len(value))
        assert value is None or buffer[: len(value)] == value


def test_two_clients_have_the_effect_of_a_dict(kv: rfp.Client, other: rfp.Client) -> None:
    machine = type("Machine", (TwoClients,), {"kv": kv, "other": other})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=20,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    assert located(kv)["found"] > 0
