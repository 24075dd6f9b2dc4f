"""Results as text, JSON, HDR files and pictures."""

import contextlib
import io
import json
import sys

import needed
import pytest
from time_bounds import in_some_try

from bench import exporters, phases
from bench.databases import open_database
from bench.exporters import export, json_array, json_lines, parse_text, text, write_hdr
from bench.properties import read
from bench.results import ordinal
from bench.status import Status, remaining
from rfp.errors import InvalidArgument


def measured(*names, database="dict", **given):
    given = {"recordcount": 100, "operationcount": 500, "fieldcount": 2, "fieldlength": 10} | given
    properties = read(names or ("a",), [f"{name}={value}" for name, value in given.items()])
    with open_database(database, properties, private=True) as opened:
        phases.load(opened, properties)
        return phases.run(opened, properties, workload=", ".join(names)), properties


@pytest.fixture(scope="module")
def result():
    return measured("f")[0]


def test_the_text_is_that_of_ycsb_and_is_read_back(result):
    rows = list(result.rows((50, 99.9)))
    printed = text(rows)
    assert printed.startswith(f"[OVERALL], RunTime(ms), {result.runtime / 1e6:.3f}".rstrip("0"))
    assert parse_text(printed) == [(metric, measure, str(value)) for metric, measure, value in rows]
    found = {(metric, measure): value for metric, measure, value in parse_text(printed)}
    assert float(found["OVERALL", "Throughput(ops/sec)"]) == pytest.approx(
        500e9 / result.runtime, rel=1e-3
    )
    reads = result.metric("READ")
    assert (
        int(found["READ", "Operations"])
        == int(found["READ", "Return=OK"])
        == reads.done.count
        == 500
    )
    assert float(found["READ", "AverageLatency(us)"]) == pytest.approx(
        reads.done.mean / 1e3, abs=1e-3
    )
    assert float(found["READ", "99.9PercentileLatency(us)"]) == reads.done.percentile(99.9) / 1e3
    assert list(dict.fromkeys(metric for metric, _, _ in rows)) == [
        "OVERALL",
        "READ",
        "UPDATE",
        "READ-MODIFY-WRITE",
        "CLEANUP",
    ]
    assert [measure for metric, measure, _ in rows if metric == "READ"] == [
        "Operations",
        "AverageLatency(us)",
        "MinLatency(us)",
        "MaxLatency(us)",
        "50thPercentileLatency(us)",
        "99.9PercentileLatency(us)",
        "Return=OK",
    ]


def test_json_has_the_rows_of_the_text(result):
    rows = list(result.rows())
    objects = [
        {"metric": metric, "measurement": measure, "value": value}
        for metric, measure, value in rows
    ]
    assert json.loads(json_array(rows)) == objects
    assert [json.loads(line) for line in json_lines(rows).splitlines()] == objects


def test_ordinals_are_those_of_ycsb():
    assert [ordinal(p) for p in (50, 91, 92, 93, 95, 11, 12, 13, 99.9, 100)] == [
        "50th",
        "91st",
        "92nd",
        "93rd",
        "95th",
        "11th",
        "12th",
        "13th",
        "99.9",
        "100th",
    ]


def test_failures_are_a_metric_of_their_own():
    properties = read(["c"], ["recordcount=10", "operationcount=50"])
    with open_database("dict", properties, private=True) as database:
        result = phases.run(database, properties)  # nothing was loaded
    rows = {(metric, measure): value for metric, measure, value in result.rows()}
    assert rows["READ", "Return=NOT_FOUND"] == rows["READ-FAILED", "Operations"] == 50
    assert rows["READ", "Operations"] == 0


@pytest.mark.parametrize(
    ("interval", "metrics"),
    [("op", {"READ"}), ("intended", {"READ"}), ("both", {"READ", "Intended-READ"})],
)
def test_intended_latencies_are_printed_as_configured(interval, metrics):
    result, properties = measured(
        "c", target=5000, operationcount=100, **{"measurement.interval": interval}
    )
    rows = list(result.rows(interval=exporters.latency_interval(properties)))
    assert {metric for metric, _, _ in rows} - {"OVERALL", "CLEANUP"} == metrics
    plain, intended = result.metric("READ").done, result.metric("READ").intended
    printed = {(metric, measure): value for metric, measure, value in rows}[
        "READ", "AverageLatency(us)"
    ]
    assert printed == round((intended if interval == "intended" else plain).mean / 1e3, 3)


def test_with_a_target_both_latencies_are_printed():
    _, properties = measured("c", target=5000, operationcount=10)
    assert exporters.latency_interval(properties) == "both"
    assert exporters.latency_interval(read(["c"])) == "op"


def test_results_are_written_to_the_configured_file_in_the_configured_format(result, tmp_path):
    path = tmp_path / "out.json"
    properties = read(
        [], [f"exportfile={path}", "exporter=jsonarray", "hdrhistogram.percentiles=1,2,3"]
    )
    export(result, properties)
    measures = [
        row["measurement"] for row in json.loads(path.read_text()) if row["metric"] == "READ"
    ]
    assert "3rdPercentileLatency(us)" in measures
    assert "50thPercentileLatency(us)" not in measures
    out = io.StringIO()
    export(result, read([], ["measurement.histogram.verbose=true"]), out)
    buckets = [
        (float(measure), int(value))
        for metric, measure, value in parse_text(out.getvalue())
        if metric == "READ" and measure[0].isdigit() and "P" not in measure
    ]
    assert [(round(us * 1e3), times) for us, times in buckets] == result.metric(
        "READ"
    ).done.buckets()
    with pytest.raises(InvalidArgument, match="cannot write"):
        export(result, read([], ["exportfile=/dev/null/out"]))


def test_hdr_files_contain_the_same_histogram(result, tmp_path):
    hdrh = needed.module("hdrh.log")
    from hdrh.histogram import HdrHistogram

    paths = write_hdr(result, f"{tmp_path}/run-")
    assert {path.name for path in paths} >= {
        "run-READ.hdr",
        "run-UPDATE.hdr",
        "run-READ-MODIFY-WRITE.hdr",
    }
    with contextlib.closing(
        hdrh.HistogramLogReader(str(tmp_path / "run-READ.hdr"), HdrHistogram(1, 1 << 42, 3))
    ) as reader:
        read_back, ours = reader.get_next_interval_histogram(), result.metric("READ").done
        assert read_back.get_total_count() == ours.count
        for p in (50, 95, 99, 99.9):
            assert read_back.get_value_at_percentile(p) == pytest.approx(
                ours.percentile(p), rel=1e-3, abs=1
            )
        assert reader.get_next_interval_histogram() is None


def test_hdr_files_have_one_line_per_status_interval(tmp_path):
    needed.module("hdrh.log")

    def check():
        result, _ = measured(
            "c",
            database="dict",
            target=2000,
            operationcount=400,
            status="true",
            **{"status.interval": "0.05"},
        )
        assert len(result.intervals) >= 3
        return result

    result = in_some_try(check)
    write_hdr(result, f"{tmp_path}/")
    lines = [
        line for line in (tmp_path / "READ.hdr").read_text().splitlines() if line[0] not in '#"'
    ]
    assert len(lines) == len([each for _, _, each in result.intervals if "READ" in each])
    assert sum(each["READ"].count for _, _, each in result.intervals if "READ" in each) == 400


def test_the_error_of_hdr_without_its_package_names_it(result, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "hdrh.histogram", None)
    with pytest.raises(InvalidArgument, match="pip install hdrhistogram"):
        write_hdr(result, str(tmp_path))


def test_an_emulated_network_is_labelled_in_the_text(result):
    from dataclasses import replace

    emulated = replace(result, emulated="rtt=2us")
    assert "[OVERALL], Network, emulated (rtt=2us)\n" in text(emulated.rows())
    assert "emulated" not in text(result.rows())


def test_status_lines_are_those_of_ycsb(capsys):
    measured("c", database="inproc", operationcount=100, status="true", label="mine")
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("mine 20")
    assert " sec: 100 operations; " in line
    assert "current ops/sec" in line
    assert "[READ: Count=100, Max=" in line
    assert "99.99=" in line


def test_the_progress_line_is_updated_and_removed():
    out = io.StringIO()
    status = Status([], 100, progress=True, what="run dict", out=out)
    status._shown_at -= 1
    status.tick()
    assert "run dict" in out.getvalue()
    assert "0 operations" in out.getvalue()
    status.tick(last=True)
    assert out.getvalue().endswith("\r\x1b[K")


def test_remaining_time_has_two_units():
    assert [remaining(s) for s in (0, 1, 59.5, 3725, 90_000)] == [
        "0 seconds",
        "1 second",
        "1 minute",
        "1 hour 2 minutes",
        "1 day 1 hour",
    ]


def test_a_picture_is_drawn(result, tmp_path, drawing):
    from bench.plot import plot_result

    plot_result(result, tmp_path / "new" / "result.png")
    assert (tmp_path / "new" / "result.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(InvalidArgument, match="png"):
        plot_result(result, tmp_path / "result.nonsense")


def test_the_error_of_a_picture_without_matplotlib_names_it(result, tmp_path, monkeypatch):
    from bench.plot import plot_result

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InvalidArgument, match="pip install matplotlib"):
        plot_result(result, tmp_path / "x.png")


def test_numbers_in_pictures_are_short():
    from bench.plot import microseconds, short

    assert [short(n) for n in (17_234, 1_530_000, 12, 2.5e9)] == ["17.2k", "1.53M", "12", "2.5G"]
    assert [microseconds(us) for us in (0.5, 12, 2500, 3e6)] == ["500 ns", "12 µs", "2.5 ms", "3 s"]
