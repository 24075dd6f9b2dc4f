"""Comparisons: their order, medians and ratios, and their tables and pictures."""

from types import SimpleNamespace

import pytest

from bench import compare
from bench._histogram import Histogram
from bench.compare import Comparison, Contestant, Standing, as_json, table
from bench.peers.process import PeerMissing
from bench.properties import Properties
from bench.results import Metric, Result
from rfp.errors import InvalidArgument

SMALL = Properties({"recordcount": "50", "operationcount": "200"})


def result(throughput, latencies, returns=None):
    histogram = Histogram()
    for ns in latencies:
        histogram.record(ns)
    metrics = [
        Metric("READ", histogram, Histogram(), Histogram(), returns or {"OK": len(latencies)})
    ]
    return Result("x", "", "run", "a", 1, 1, 10**9, throughput, metrics)


def standing(label, *rounds, emulated=""):
    return Standing(Contestant(label, label, {}), "client", emulated, list(rounds))


def test_throughput_and_latency_are_medians_of_the_rounds():
    a = standing("a", result(100, [1000]), result(900, [9000]), result(300, [3000]))
    assert a.throughput == 300
    assert a.latency("READ", 50) == 3.0
    assert a.latency("INSERT", 50) is None


def test_a_ratio_is_the_first_databases_throughput_over_the_others():
    comparison = Comparison(
        "a",
        [
            standing("a", result(600, [1])),
            standing("b", result(20, [1])),
            standing("c", result(0, [])),
        ],
    )
    assert [comparison.ratio(each) for each in comparison.standings] == [1, 30, float("inf")]


def test_a_table_has_a_line_per_database():
    comparison = Comparison(
        "workloadc",
        [
            standing("fast", result(2_000_000, [500] * 99 + [12_345])),
            standing("slow", result(20_000, [50_000], {"OK": 1, "ERROR": 4})),
        ],
    )
    head, rule, fast, slow = table(comparison).splitlines()
    assert head.split("  ")[0] == "database"
    assert "fast does" in head
    assert "READ p99.9" in head
    assert fast.split() == [
        "fast",
        "client",
        "2,000,000",
        "1",
        "x",
        "0.50",
        "0.50",
        "0.50",
        "12.35",
        "0",
    ]
    assert slow.split() == [
        "slow",
        "client",
        "20,000",
        "100",
        "x",
        "50.00",
        "50.00",
        "50.00",
        "50.00",
        "4",
    ]
    assert len(head) == len(rule) == len(fast) == len(slow)


def test_an_emulated_network_is_labelled_in_tables_and_json():
    comparison = Comparison(
        "a",
        [standing("rfp", result(5, [1]), emulated="rtt=2us"), standing("redis", result(5, [1]))],
    )
    assert "rfp (emulated rtt=2us)" in table(comparison)
    assert table(comparison).count("emulated") == 1
    assert [row["emulated"] for row in as_json([comparison])] == ["rtt=2us", ""]


def test_json_has_all_rounds():
    (row,) = as_json(
        [
            Comparison(
                "a", [standing("x", result(10, [1000]), result(30, [3000]), result(20, [2000]))]
            )
        ]
    )
    assert (row["throughput"], row["rounds"], row["latency_us"]["READ"]["50"]) == (
        20,
        [10, 30, 20],
        2.0,
    )
    assert row["first_does_times_as_much"] == 1


def test_databases_are_measured_alternately():
    lines = []
    pair = [Contestant.parse("inproc"), Contestant.parse("dict")]
    compare.compare(pair, ["c"], SMALL, rounds=2, say=lines.append)
    assert [line.partition(", ")[2] or line.split()[-1] for line in lines] == [
        "inproc",
        "dict",
        "inproc",
        "dict",
        "inproc",
        "dict",
    ]


def test_later_rounds_of_an_inserting_workload_read_the_inserts_of_earlier_ones():
    (comparison,) = compare.compare([Contestant.parse("inproc")], ["d"], SMALL, rounds=3)
    rounds = comparison.standings[0].rounds
    inserts = [each.metric("INSERT").done.count for each in rounds]
    assert [each.records for each in rounds] == [50 + sum(inserts[: n + 1]) for n in range(3)]
    assert comparison.standings[0].failures == 0


def test_settings_of_one_database_do_not_affect_others():
    ours = Contestant.parse("inproc,rfp.window=16,rfp.predraw=32")
    (comparison,) = compare.compare([ours, Contestant.parse("inproc")], ["c"], SMALL, rounds=1)
    assert [each.rounds[0].window for each in comparison.standings] == [16, 1]
    assert Contestant.parse("rfp-python").given == {"rfp.api": "python"}
    with pytest.raises(InvalidArgument, match="expected rfp"):
        Contestant.parse("oracle")


def test_a_missing_peer_is_left_out_of_all_workloads_and_reported_once(monkeypatch):
    opened = compare.open_database

    def without_redis(name, *arguments, **options):
        if name == "redis":
            raise PeerMissing("redis-server is not installed", hint="apt-get install redis-server")
        return opened(name, *arguments, **options)

    monkeypatch.setattr(compare, "open_database", without_redis)
    reported = []
    found = compare.compare(
        [Contestant.parse("inproc"), Contestant.parse("redis")],
        ["a", "c"],
        SMALL,
        rounds=1,
        skipped=lambda contestant, missing: reported.append((contestant.name, str(missing))),
    )
    assert reported == [("redis", "redis-server is not installed (apt-get install redis-server)")]
    assert [[each.contestant.name for each in comparison.standings] for comparison in found] == [
        ["inproc"],
        ["inproc"],
    ]


def test_open_databases_are_closed_if_one_cannot_be_opened(monkeypatch):
    closed = []

    def open_two(name, *arguments, **options):
        if name == "dict":
            raise PeerMissing("planted error")
        return SimpleNamespace(client="", emulated="", __enter__=None)

    class Opened:
        client = emulated = ""

        def __enter__(self):
            return self

        def __exit__(self, *exception):
            closed.append(self)

    monkeypatch.setattr(
        compare,
        "open_database",
        lambda name, *a, **k: Opened() if name == "inproc" else open_two(name),
    )
    with pytest.raises(PeerMissing, match="planted error"):
        compare.compare([Contestant.parse("inproc"), Contestant.parse("dict")], ["a"], SMALL)
    assert len(closed) == 1


def test_a_picture_of_several_workloads_is_drawn(tmp_path, drawing):
    from bench.plot import plot_comparisons

    found = compare.compare(
        [Contestant.parse("inproc"), Contestant.parse("dict")], ["a", "c"], SMALL, rounds=1
    )
    # A workload with a single database and no operation.
    found.append(Comparison("odd", [standing("dict", result(0, []))]))
    plot_comparisons(found, tmp_path / "out" / "demo.png")
    assert (tmp_path / "out" / "demo.png").stat().st_size > 10_000
