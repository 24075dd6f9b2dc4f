"""The speed table: its arithmetic, its sides, and every experiment at a tiny scale.

No test here depends on speed.
"""

import contextlib
import importlib
import json
import sys
import tempfile
import threading
import time

import needed
import pytest
from click.testing import CliRunner
from time_bounds import soon

from bench._ring_baseline import RingBaseline, load_latency
from bench._workload import Stream, Workload
from bench.experiments import (
    ablation,
    baselines,
    busy_put,
    command,
    concurrency,
    durable_peers,
    growth,
    idle,
    inserts,
    large_put,
    large_values,
    pmdk_maps,
    pool,
    sizes,
    timing,
    window,
)
from bench.experiments.keys import all_keys, drawn, properties
from bench.experiments.other_process import OtherProcess
from bench.experiments.rows import Row, Setting, number, table, take_turns
from bench.kinds import STRUCTURES
from bench.peers import redis
from bench.peers.process import PeerMissing
from rfp.errors import ConnectionFailed, DeadlineExceeded, InvalidArgument, RfpError

TINY = Setting(rounds=1, scale=0.002)


@pytest.mark.parametrize(
    ("row", "ratio", "met"),
    [
        (Row("a", 50.0, "op/s", 10.0, "peer", 5), 5, True),
        (Row("a", 49.0, "op/s", 10.0, "peer", 5), 4.9, False),
        (Row("a", 2e-6, "s", 1e-6, "peer", 2, at_least=False), 2, True),
        (Row("a", 2.1e-6, "s", 1e-6, "peer", 2, at_least=False), 2.1, False),
        (Row("a", 0.4, "%", bar=1, at_least=False), 0.4, True),
        (Row("a", 50.0, "op/s", None, "peer", 5, why="not installed"), None, None),
        (Row("a", None, "op/s", 10.0, "peer", 5), None, None),
        (Row("a", 50.0, "op/s", 10.0, "peer"), 5, None),
    ],
)
def test_a_bar_is_met_or_missed_or_not_measured(row, ratio, met):
    assert row.ratio == (ratio if ratio is None else pytest.approx(ratio))
    assert row.met is met
    assert row.as_json()["met"] is met


def test_the_table_marks_a_missed_bar():
    text = table(
        [
            Row("good", 50.0, "op/s", 10.0, "peer", 5),
            Row("bad", 10.0, "op/s", 10.0, "peer", 5),
            Row("absent", None, "", bar=0, why="no peer"),
        ]
    )
    good, bad, absent = text.splitlines()[2:5]
    assert good.split() == [
        "good",
        "50",
        "op/s",
        "peer",
        "10",
        "op/s",
        "5",
        "x",
        ">=",
        "5",
        "x",
        "met",
    ]
    assert bad.endswith("MISSED")
    assert absent.endswith("not measured")
    assert text.splitlines()[-1] == "absent: no peer"


def test_sides_are_called_alternately_and_medians_exclude_the_first_round():
    called = []

    def side(name, values):
        left = iter(values)

        def call():
            called.append(name)
            return {"rate": next(left)}

        return call

    found = take_turns({"a": side("a", [1000, 1, 9, 5]), "b": side("b", [0, 2, 2, 3])}, rounds=3)
    assert called == ["a", "b"] * 4
    assert found == {"a": {"rate": 5}, "b": {"rate": 2}}


def test_numbers_are_written_with_their_units():
    assert [number(*each) for each in ((2.5e-9, "s"), (0.0031, "s"), (2.0, "s"))] == [
        "2.5 ns",
        "3.1 ms",
        "2 s",
    ]
    assert [number(*each) for each in ((0.5, "%"), (1.5e6, "key/s"), (0.0, "s"))] == [
        "0.5 %",
        "1.5 Mkey/s",
        "0 s",
    ]


def test_keys_have_16_bytes_and_include_all_drawn_ones():
    keys = all_keys(50)
    assert len(set(keys)) == 50
    assert {len(key) for key in keys} == {16}
    assert set(drawn(500, 50)) <= set(keys)


@pytest.mark.parametrize("window_size", [1, 7, 255])
def test_the_bare_ring_answers_every_request_correctly(window_size):
    ring = RingBaseline(3000)
    assert ring.value(all_keys(3000)[2999]) == all_keys(3000)[2999] * 2
    assert ring.value(b"user999999999999") is None
    stream = Stream(Workload(properties(3000, readproportion=0.5, updateproportion=0.5)))
    server = threading.Thread(target=ring.serve)
    server.start()
    try:
        seconds, latencies, right = ring.ask(stream, 5000, window=window_size, seconds=20)
    finally:
        ring.stop()
        server.join(10)
    assert right == latencies.count == 5000
    assert 0 < latencies.percentile(50) < seconds * 1e9


def test_a_measurement_of_the_bare_ring_ends_after_its_time():
    with baselines.bare_ring(Setting(rounds=1, scale=0.02), window=8) as measure:
        with soon():
            assert measure()["rate"] > 100


def test_a_measurement_of_calls_ends_after_its_time():
    calls = []

    def slow(key):
        calls.append(key)
        time.sleep(0.001)

    assert 0 < timing.rate_of(slow, list(range(5000)), 0.1) < 1000
    assert len(calls) < 5000
    assert timing.median_of(slow, list(range(5000)), 0.05) >= 0.001
    assert timing.rate_of(calls.append, [1, 2, 3], 1) > 3
    assert calls[-3:] == [1, 2, 3]


def test_the_bare_ring_counts_requests_for_absent_keys_as_wrong():
    ring = RingBaseline(10)
    stream = Stream(
        Workload(
            properties(1000, readproportion=1, updateproportion=0, requestdistribution="uniform")
        )
    )
    server = threading.Thread(target=ring.serve)
    server.start()
    try:
        _, _, right = ring.ask(stream, 1000, window=4, seconds=20)
    finally:
        ring.stop()
        server.join(10)
    assert right < 100


def test_a_bare_ring_without_a_server_ends_at_its_deadline():
    stream = Stream(Workload(properties(10)))
    with pytest.raises(DeadlineExceeded, match="answered 0 requests"):
        RingBaseline(10).ask(stream, 10)
    with pytest.raises(InvalidArgument, match="between 1 and 255"):
        RingBaseline(10).ask(stream, 10, window=256)


def test_a_dependent_load_takes_longer_if_it_misses_the_cache():
    assert load_latency(128 << 20, 1 << 16) > 2 * load_latency(16 << 10, 1 << 16)


def test_the_result_of_redis_benchmark_is_read_and_a_missing_one_is_an_error():
    out = '"test","rps","avg_latency_ms"\n"GET","1234.50","0.1"\n'
    assert baselines.benchmark_rate(out) == 1234.5
    assert baselines.benchmark_rate('"GET","7.0"') == 7
    with pytest.raises(RfpError, match="Could not connect"):
        baselines.benchmark_rate("", "Could not connect")


PROGRAMS = {
    "redis_benchmark": ("redis-benchmark", "redis-server"),
    "pylibmc_get": ("memcached",),
    "pylibmc_get_multi": ("memcached",),
}
MODULES = {"pylibmc_get": "pylibmc", "pylibmc_get_multi": "pylibmc", "lmdb_get": "lmdb"}
# pyproject.toml installs pylibmc on these Pythons only: it has no wheel for newer ones.
SIDES = ["redis_benchmark", "lmdb_get", "memcpy"]
if sys.version_info < (3, 12):
    SIDES += ["pylibmc_get", "pylibmc_get_multi"]


@pytest.mark.parametrize("side", SIDES)
def test_each_peer_returns_its_figures(side):
    for name in PROGRAMS.get(side, ()):
        needed.program(name)
    if module := MODULES.get(side):
        needed.module(module)
    with getattr(baselines, side)(TINY) as measure:
        figures = measure()
    assert figures["rate"] > 100
    assert figures.get("p50", 1e-9) > 0


def without_peers(monkeypatch):
    def missing(*arguments, **options):
        raise PeerMissing("redis-benchmark is not installed", hint="apt-get install redis-tools")

    for peer in ("redis_benchmark", "pylibmc_client", "lmdb_get"):
        monkeypatch.setattr(baselines, peer, missing)
    monkeypatch.setattr(durable_peers, "rocksdb", missing)
    monkeypatch.setattr(pmdk_maps, "build", missing)


@pytest.mark.parametrize("name", command.NAMES)
def test_every_experiment_returns_rows_also_without_peers(name, monkeypatch):
    without_peers(monkeypatch)
    monkeypatch.setattr(growth, "RECORD_COUNTS", (10_000, 1_000_000))
    monkeypatch.setattr(busy_put, "busy_cpus", contextlib.nullcontext)
    for module in (ablation, concurrency, inserts, sizes):
        monkeypatch.setattr(module, "STRUCTURES", STRUCTURES[-1:])
    rows = importlib.import_module(f"bench.experiments.{name}").measure(TINY)
    assert rows
    assert all(row.measured is not None or "PMDK" in row.name for row in rows)
    assert any(row.bar is not None for row in rows)
    for row in rows:
        assert row.met is not None or row.bar is None or "redis-tools" in row.why


def test_the_window_experiment_compares_with_redis_on_tcp_and_on_a_socket(monkeypatch):
    peers = {True: 10.0, False: 20.0}

    class Fixed:
        def __init__(self, setting, tcp=True):
            self.rate = peers[tcp]

        def __enter__(self):
            return lambda: {"rate": self.rate}

        def __exit__(self, *exception):
            pass

    monkeypatch.setattr(baselines, "redis_benchmark", Fixed)
    rows = window.measure(TINY)
    assert [(row.peer, row.bar) for row in rows[:2]] == [(10.0, 10), (20.0, None)]


@pytest.mark.parametrize("tcp", [True, False])
def test_a_private_redis_takes_records_over_tcp_and_over_a_socket(tcp):
    with redis.start(tcp=tcp) as server:
        server.load(["SET key value"] * 10)


def test_the_growth_curve_is_drawn(tmp_path, drawing, monkeypatch):
    monkeypatch.setattr(growth, "RECORD_COUNTS", (10_000, 1_000_000))
    growth.measure(TINY, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_the_steps_of_the_ablation_are_drawn_and_listed(tmp_path, drawing):
    rates = {step: 1e4 * (1 + number) for number, step in enumerate(ablation.ABLATION_STEPS)}
    names = [kind.adding for kind in STRUCTURES]
    ablation.draw(dict.fromkeys(names, rates), tmp_path / "bars.png")
    assert (tmp_path / "bars.png").read_bytes().startswith(b"\x89PNG")
    assert ablation.steps(rates).startswith(
        "naive 10 kop/s (1.00 x); + lock kept 20 kop/s (2.00 x); "
    )


def test_each_durable_peer_returns_its_figures():
    needed.module("rocksdict")
    with durable_peers.rocksdb_put(TINY) as measure:
        assert min(measure().values()) > 100


def test_a_folder_in_memory_is_not_accepted_as_a_disk(monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", pool.MEMORY)
    with pytest.raises(RfpError, match="is in memory"), pool.folder_on(None):
        pass


def test_an_experiment_that_cannot_be_measured_is_a_row_with_the_reason(monkeypatch):
    def fails(setting):
        raise ConnectionFailed("planted error")

    monkeypatch.setattr(large_values, "measure", fails)
    (row,) = command.run("large_values", TINY)
    assert (row.met, row.why) == (None, "planted error")
    assert table([row]).splitlines()[2].endswith("not measured")


def test_the_processor_time_of_a_busy_server_grows():
    busy = """if True:
        import time
        print("x", flush=True)
        end = time.monotonic() + 20
        while time.monotonic() < end: pass
    """
    with OtherProcess(busy) as other:
        other.hear()
        before = idle.cpu_seconds(other.pid)
        while idle.cpu_seconds(other.pid) < before + 0.05:
            pass
        other._process.kill()


def test_a_process_that_ends_or_prints_nothing_is_an_error():
    with OtherProcess("print('one'); raise SystemExit(3)") as other:
        assert other.hear() == "one"
        with pytest.raises(ConnectionFailed, match="code 3"):
            other.hear()
    with OtherProcess("import sys; sys.stdin.read()") as silent:
        with pytest.raises(DeadlineExceeded):
            silent.hear(0.05)
        assert silent.said() is None


def test_every_experiment_has_a_question():
    listed = CliRunner().invoke(command.main, ["--list"]).stdout
    for name in command.NAMES:
        question = importlib.import_module(f"bench.experiments.{name}").QUESTION
        assert question.endswith("?")
        assert question in listed


def test_the_command_prints_the_table_and_writes_json(tmp_path):
    path = tmp_path / "new" / "speed.json"
    arguments = ["large_values", "--scale", "0.002", "--rounds", "1", "--json", str(path)]
    result = CliRunner().invoke(command.main, arguments)
    assert result.exit_code == 0, result.output
    assert "get_into of 1 MiB" in result.stdout
    assert "bars met; medians of 1 round, counts scaled by 0.002" in result.stdout
    written = json.loads(path.read_text())
    assert [row["name"] for row in written["rows"]] == ["get_into of 1 MiB", "put of 1 MiB"]
    assert written["machine"]["cpus"] >= 1


def test_the_options_of_an_experiment_reach_it_and_pictures_go_into_a_folder(monkeypatch, tmp_path):
    given = {}

    def fake(name):
        def measure(setting, **options):
            given[name] = options
            return [Row(name, 1.0, "op/s")]

        return measure

    for name in command.DRAWN:
        module = importlib.import_module(f"bench.experiments.{name}")
        monkeypatch.setattr(module, "measure", fake(name))
    folder = tmp_path / "new"
    arguments = [*command.DRAWN, "--pictures", str(folder), "--readers", "3", "--entries", "500"]
    arguments += ["--kind", "Queue", "--kind", "BPlusTree", "--bars", "other.png"]
    result = CliRunner().invoke(command.main, arguments)
    assert result.exit_code == 0, result.output
    assert folder.is_dir()
    assert given == {
        "growth": {"picture": str(folder / "growth.png")},
        "ablation": {"picture": "other.png"},
        "concurrency": {"picture": str(folder / "concurrency.png"), "readers": 3},
        "sizes": {
            "picture": str(folder / "sizes.png"),
            "entries": 500,
            "kinds": ("Queue", "BPlusTree"),
        },
    }


def test_the_thread_that_puts_is_stopped_if_the_gets_fail(monkeypatch):
    monkeypatch.setattr(large_put, "take_turns", lambda sides, rounds: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        large_put.measure(TINY)
