"""The command rfp-ycsb with its options."""

import json
import subprocess
import sys

import needed
import pytest
from click.testing import CliRunner

from bench.cli import main
from bench.experiments.command import main as experiments
from bench.exporters import parse_text
from bench.properties import Properties


def ycsb(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def found(result):
    return {(metric, measure): value for metric, measure, value in parse_text(result.stdout)}


def test_bench_loads_and_runs_and_prints_ycsbs_text():
    result = ycsb(
        "bench", "dict", "-P", "workloada", "-p", "recordcount=100", "-p", "operationcount=300"
    )
    assert result.exit_code == 0, result.output
    assert "loaded 100 records" in result.stderr
    rows = found(result)
    assert int(rows["READ", "Operations"]) + int(rows["UPDATE", "Operations"]) == 300


def test_ycsbs_single_dash_options_work_as_typed():
    result = ycsb(
        "bench",
        "inproc",
        "-P",
        "c",
        "-threads",
        "3",
        "-target",
        "2000",
        "-p",
        "operationcount=300",
        "-s",
        "-l",
        "it",
    )
    assert result.exit_code == 0, result.output
    assert "it 20" in result.stderr
    assert "[READ: Count=" in result.stderr
    rows = found(result)
    assert rows["CLEANUP", "Operations"] == "3"
    assert float(rows["OVERALL", "Throughput(ops/sec)"]) < 2300
    assert rows["Intended-READ", "Operations"] == "300"


def test_load_then_run_keep_their_records_in_lmdb(tmp_path):
    needed.module("lmdb")
    where = ("-P", "a", "-p", f"lmdb.path={tmp_path}", "-p", "dataintegrity=true")
    assert found(ycsb("load", "lmdb", *where))["INSERT", "Return=OK"] == "1000"
    rows = found(ycsb("run", "lmdb", *where))
    assert rows["VERIFY", "Return=OK"] == rows["VERIFY", "Operations"]


def test_later_files_and_settings_override_earlier_files(tmp_path):
    (tmp_path / "more").write_text("operationcount=50\nfieldcount=1\n")
    result = ycsb("bench", "dict", "-P", "a", "-P", tmp_path / "more", "-p", "operationcount=70")
    rows = found(result)
    assert int(rows["READ", "Operations"]) + int(rows["UPDATE", "Operations"]) == 70


def test_json_is_printed_on_demand():
    result = ycsb("bench", "dict", "-P", "c", "-p", "exporter=jsonarray")
    assert {"metric": "READ", "measurement": "Return=OK", "value": 1000} in json.loads(
        result.stdout
    )


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("bench", "oracle"), "expected rfp"),
        (("bench", "dict", "-P", "nonsense"), "cannot find the workload file 'nonsense'"),
        (("bench", "dict", "-P", "e"), "dict cannot scan"),
        (("bench", "dict", "-p", "recordcount"), "NAME=VALUE"),
        (("bench", "dict", "-p", "recordcount=x"), "property recordcount='x'"),
        (("run", "dict"), "rfp-ycsb bench dict"),
        (("bench", "inproc", "-p", "rfp.window=1000"), "between 1 and 256"),
        (("compare", "inproc", "-w", "z"), "workloada, workloadb"),
    ],
)
def test_an_error_is_one_line_with_the_expected_values(arguments, reason):
    result = ycsb(*arguments)
    assert result.exit_code == 2
    assert reason in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("rfp-ycsb: ")


def test_wrong_data_is_an_error(monkeypatch):
    from bench import databases

    class Damaged(databases.Database):
        client = "damaged"

        def __init__(self, properties, **options):
            self.table = {}

        def connect(self):
            return DamagedClient(self.table)

    class DamagedClient:
        errors = ()

        def __init__(self, table):
            self.table, self.insert = table, table.__setitem__

        def read(self, key):
            return self.table[key][:-1] + b"\x00"

        def close(self):
            pass

    monkeypatch.setattr(
        databases, "open_database", lambda name, properties, **options: named(Damaged(properties))
    )
    result = ycsb("bench", "dict", "-P", "c", "-p", "dataintegrity=true")
    assert result.exit_code == 1
    assert "reads returned wrong data" in result.stderr
    assert found(result)["VERIFY", "Return=UNEXPECTED_STATE"] == "1000"


def named(database):
    database.name = "damaged"
    return database


def test_the_error_of_a_missing_program_has_the_command_that_installs_it(monkeypatch):
    needed.module("redis")
    monkeypatch.setenv("PATH", "/nonexistent")
    result = ycsb("bench", "redis")
    assert result.exit_code == 2
    assert (
        result.stderr
        == "rfp-ycsb: redis-server is not installed (sudo apt-get install redis-server)\n"
    )


def test_an_unreachable_server_has_exit_status_3(tmp_path):
    result = ycsb("run", "rfp", "-p", f"rfp.address=shm://{tmp_path}/absent")
    assert result.exit_code == 3
    assert "rfp serve" in result.stderr


def test_compare_skips_a_missing_peer(monkeypatch):
    needed.module("redis")
    monkeypatch.setenv("PATH", "/nonexistent")
    result = ycsb("compare", "inproc", "redis", "--seconds", "0.05", "--rounds", "1")
    assert result.exit_code == 0
    assert (
        "skipped redis: redis-server is not installed (sudo apt-get install redis-server)"
        in result.stderr
    )
    assert result.stdout.splitlines()[-1].startswith("inproc")


@pytest.mark.parametrize("kind", ["picture", "JSON"])
@pytest.mark.parametrize("command", ["compare", "bench", "experiments", "tatp"])
def test_an_output_that_cannot_be_written_is_refused_before_the_measurement(
    command, kind, tmp_path, drawing
):
    (tmp_path / "file").touch()
    json_file = tmp_path / "file" / "all.json"
    picture = ("--bars" if command in ("experiments", "tatp") else "--plot", tmp_path / "all.foo")
    given = picture if kind == "picture" else ("--json", json_file)
    if command == "compare":
        result = ycsb("compare", "inproc", "dict", *given)
    elif command == "bench":
        given = picture if kind == "picture" else ("-p", f"exportfile={json_file}")
        result = ycsb("bench", "inproc", *given)
    else:
        named = ["ablation"] if command == "experiments" else ["tatp"]
        result = CliRunner().invoke(experiments, [*named, *map(str, given)])
    assert result.exit_code != 0
    assert "png" in result.stderr if kind == "picture" else "cannot write" in result.stderr
    assert "ablation ..." not in result.stderr
    assert result.stdout == ""


def test_compare_without_any_database_is_an_error(monkeypatch):
    needed.module("redis")
    monkeypatch.setenv("PATH", "/nonexistent")
    result = ycsb("compare", "redis")
    assert result.exit_code == 2
    assert "cannot measure any of these databases" in result.stderr


def test_compare_prints_a_table_per_workload_and_writes_json_and_a_picture(tmp_path, drawing):
    options = ["-w", "a", "-w", "d", "--seconds", "0.05", "--rounds", "1"]
    files = ("--json", tmp_path / "all.json", "--plot", tmp_path / "all.png")
    result = ycsb("compare", "inproc", "dict", *options, *files)
    assert result.exit_code == 0, result.output
    assert [
        line.split()[0] for line in result.stdout.splitlines() if line.startswith("workload")
    ] == ["workloada", "workloadd"]
    rows = json.loads((tmp_path / "all.json").read_text())
    assert [(row["workload"], row["database"]) for row in rows] == [
        ("workloada", "inproc"),
        ("workloada", "dict"),
        ("workloadd", "inproc"),
        ("workloadd", "dict"),
    ]
    assert (tmp_path / "all.png").exists()


def test_properties_and_databases_are_listed():
    listed = ycsb("properties").stdout
    assert "recordcount=1000\n" in listed
    assert "rfp.window=1\n" in listed
    assert "inproc" in ycsb("databases").stdout


def test_the_help_of_each_command_has_an_example():
    for command in ([], ["load"], ["run"], ["bench"], ["compare"]):
        assert "rfp-ycsb " in ycsb(*command, "--help").stdout
    assert "-P" in ycsb("run", "--help").stdout


def test_an_unknown_property_causes_a_warning(monkeypatch):
    monkeypatch.setattr(Properties, "_warned", set())
    assert "did you mean operationcount?" in ycsb("bench", "dict", "-p", "operatoincount=5").stderr


def test_the_command_starts_without_optional_packages_and_without_the_modules_that_measure():
    code = (
        "import sys\n"
        "for name in ('redis', 'pylibmc', 'lmdb', 'hdrh', 'matplotlib', 'rich', 'numpy'):\n"
        "    sys.modules[name] = None\n"
        "from bench.cli import main\n"
        "measuring = ('bench._', 'bench.phases')\n"
        "assert not any(name.startswith(measuring) for name in sys.modules), sys.modules\n"
        "main(['bench', 'dict', '-P', 'a'])\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert run.returncode == 0, run.stderr
    assert "[READ], Operations," in run.stdout


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (["operationcount=0"], "operationcount=0 requires maxexecutiontime"),
        (["threadcount=1100"], "threadcount='1100'"),
        (["threadcount=1000", "rfp.window=100"], "1000 threads with a window of 100"),
        (["exportfile=/dev/null/out.txt"], "cannot write /dev/null/out.txt"),
        (
            ["hdrhistogram.fileoutput=true", "hdrhistogram.output.path=/dev/null/out-"],
            "cannot write",
        ),
        (["recordcount=10", "insertstart=100"], "do not fit recordcount=10"),
    ],
)
def test_settings_that_cannot_be_measured_are_refused_before_the_load(settings, reason):
    result = ycsb(
        "bench", "dict", "-P", "a", *(word for setting in settings for word in ("-p", setting))
    )
    assert result.exit_code == 2
    assert reason in result.stderr
    assert "loaded" not in result.stderr
    assert result.stdout == ""


def test_the_directories_of_an_export_file_are_created(tmp_path):
    path = tmp_path / "results" / "today" / "out.txt"
    assert ycsb("bench", "dict", "-P", "c", "-p", f"exportfile={path}").exit_code == 0
    assert "[READ], Return=OK, 1000" in path.read_text()


def test_results_are_printed_if_the_export_file_has_no_room(tmp_path):
    result = ycsb("bench", "dict", "-P", "c", "-p", "exportfile=/dev/full")
    assert found(result)["READ", "Return=OK"] == "1000"
    assert (
        result.exit_code,
        "cannot write /dev/full: No space left on device" in result.stderr,
    ) == (2, True)


@pytest.mark.parametrize("distribution", ["zipfian", "latest", "exponential", "uniform"])
def test_bench_reads_only_records_that_it_has_loaded(distribution):
    settings = (
        "recordcount=1000",
        "insertstart=100",
        "insertcount=50",
        f"requestdistribution={distribution}",
    )
    result = ycsb(
        "bench", "dict", "-P", "c", *(word for setting in settings for word in ("-p", setting))
    )
    assert "loaded 50 records" in result.stderr
    assert found(result)["READ", "Return=OK"] == "1000"


@pytest.mark.parametrize("command", [["properties"], ["databases"], ["bench", "dict", "-P", "c"]])
def test_an_output_that_cannot_be_written_is_a_one_line_error(command):
    with open("/dev/full", "w") as full:
        run = subprocess.run(
            [
                sys.executable,
                "-c",
                "from bench.cli import main; main(prog_name='rfp-ycsb')",
                *command,
            ],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert run.returncode == 3
    assert run.stderr.splitlines()[-1] == "rfp-ycsb: No space left on device"
    assert "Traceback" not in run.stderr
