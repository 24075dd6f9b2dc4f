"""Property files in the syntax of YCSB."""

import pytest

from bench import phases, properties
from bench._workload import Stream, Workload
from bench.databases import open_database
from bench.properties import KNOWN, WORKLOADS, Properties, find_workload, parse, read
from bench.status import Status
from rfp.errors import InvalidArgument


def test_all_separators_comments_and_continuations_are_read():
    text = """
# a comment
! another
recordcount=10
operationcount : 20
fieldcount 5
   label\t=  two words
redis.host=a,\\
    b
empty=
path=C\\:\\\\x\\u0041
"""
    assert parse(text) == {
        "recordcount": "10",
        "operationcount": "20",
        "fieldcount": "5",
        "label": "two words",
        "redis.host": "a,b",
        "empty": "",
        "path": "C:\\xA",
    }


def test_later_files_override_earlier_ones_and_settings_override_all(tmp_path):
    (tmp_path / "one").write_text("recordcount=1\noperationcount=1\nfieldcount=1\n")
    (tmp_path / "two").write_text("operationcount=2\nfieldcount=2\n")
    found = read([tmp_path / "one", tmp_path / "two"], ["fieldcount=3"])
    assert (found["recordcount"], found["operationcount"], found["fieldcount"]) == (1, 2, 3)


def test_the_defaults_are_those_of_ycsb():
    p = Properties()
    assert (p["fieldcount"], p["fieldlength"], p["readproportion"], p["requestdistribution"]) == (
        10,
        100,
        0.95,
        "uniform",
    )
    assert (p["threadcount"], p["target"], p["hdrhistogram.percentiles"]) == (1, 0, (50, 95, 99))


@pytest.mark.parametrize(
    ("letter", "mix", "distribution"),
    [
        ("a", (0.5, 0.5, 0, 0), "zipfian"),
        ("b", (0.95, 0.05, 0, 0), "zipfian"),
        ("c", (1, 0, 0, 0), "zipfian"),
        ("d", (0.95, 0, 0.05, 0), "latest"),
        ("f", (0.5, 0, 0, 0.5), "zipfian"),
    ],
)
def test_the_core_workloads_are_those_of_ycsb(letter, mix, distribution):
    p = read([letter])
    assert (
        tuple(p[name + "proportion"] for name in ("read", "update", "insert", "readmodifywrite"))
        == mix
    )
    assert p["requestdistribution"] == distribution
    assert (p["recordcount"], p["operationcount"], p["readallfields"], p["scanproportion"]) == (
        1000,
        1000,
        True,
        0,
    )


def test_workloads_are_found_by_path_by_name_and_by_letter():
    path = WORKLOADS / "workloada"
    assert (
        find_workload(path)
        == find_workload("workloada")
        == find_workload("a")
        == find_workload("A")
        == path
    )
    # YCSB's own path of the file, which may not exist here.
    assert find_workload("workloads/workloada") == path


def test_the_error_for_an_unknown_workload_lists_the_known_ones():
    with pytest.raises(InvalidArgument, match="workloada, workloadb"):
        find_workload("nonsense")


def test_an_unknown_property_causes_one_warning_with_its_name(capsys, monkeypatch):
    monkeypatch.setattr(Properties, "_warned", set())
    Properties({"recordcuont": "5", "table": "t"})
    Properties({"recordcuont": "5", "table": "t"})
    warnings = capsys.readouterr().err
    assert warnings.count("recordcuont") == 1
    assert "did you mean recordcount?" in warnings
    assert "table has no effect: a key-value store has one" in warnings


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("recordcount=many", "recordcount='many': must be a whole number"),
        ("readproportion=half", "readproportion='half': must be a number"),
        ("hdrhistogram.percentiles=50,most", "must be a number"),
        ("recordcount=0", "between 1 and"),
        ("threadcount=-1", "between 1 and 1024"),
        ("readproportion=-0.5", "not be negative"),
        ("requestdistribution=normal", "zipfian_exact"),
        ("readallfields=perhaps", "true or false"),
        ("workload=site.ycsb.workloads.TimeSeriesWorkload", "CoreWorkload"),
        ("hdrhistogram.percentiles=50,200", "between 0 and 100"),
        ("exporter=xml", "jsonarray"),
    ],
)
def test_an_invalid_value_is_refused_with_the_expected_ones(setting, reason):
    with pytest.raises(InvalidArgument, match=reason):
        read([], [setting])


def test_a_setting_without_a_value_is_refused():
    with pytest.raises(InvalidArgument, match="NAME=VALUE"):
        read([], ["recordcount"])


def test_the_exporter_classes_of_ycsb_have_short_names():
    for given, short in [
        ("site.ycsb.measurements.exporter.TextMeasurementsExporter", "text"),
        ("com.yahoo.ycsb.measurements.exporter.JSONMeasurementsExporter", "json"),
        ("JSONArrayMeasurementsExporter", "jsonarray"),
        ("json", "json"),
    ]:
        assert Properties({"exporter": given})["exporter"] == short


def test_counts_may_have_a_unit():
    p = Properties({"recordcount": "5k", "operationcount": "2M", "lmdb.mapsize": "1_000"})
    assert (p["recordcount"], p["operationcount"], p["lmdb.mapsize"]) == (5000, 2_000_000, 1000)


def test_every_default_is_valid_for_its_property_and_has_a_meaning():
    for known in KNOWN.values():
        assert known.meaning
        assert known.default is None or known.parse(known.default) is not None
    assert not KNOWN.keys() & properties.WITHOUT_EFFECT.keys()


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbfrecordcount=5\r\nlabel=\xc3\xbc\r\n",
        b"# f\xfcr den Test\nrecordcount=5\nlabel=\xfc\n",
        "recordcount=5\nlabel=ü\n".encode(),
    ],
    ids=["utf-8 with a byte order mark", "iso 8859-1", "utf-8"],
)
def test_a_file_is_read_in_the_encodings_that_editors_and_java_write(tmp_path, content, capsys):
    (tmp_path / "file").write_bytes(content)
    found = read([tmp_path / "file"])
    assert (found["recordcount"], found["label"]) == (5, "ü")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["CoreWorkload", "site.ycsb.workloads.CoreWorkload", "core"])
def test_the_core_workload_has_the_names_of_ycsb_and_of_go_ycsb(name):
    assert Properties({"workload": name})["workload"] == "CoreWorkload"


POWERS = (2**31 - 1, 2**31, 2**32, 2**62, 2**63, 2**64 - 1, 10**20)
FLOATS = ("1e300", "1e-300", "0.5", "nan", "inf")
BASES = (
    {},
    {"requestdistribution": "zipfian", "insertproportion": "0.5"},
    {"requestdistribution": "exponential"},
    {"insertcount": "10", "insertstart": "1"},
    {"scanproportion": "1", "scanlengthdistribution": "zipfian"},
)
EXTREMES = ["-1", "0", "1", "3", *map(str, POWERS), *FLOATS, "", "x", "9" * 5000]


@pytest.mark.parametrize(
    "name",
    sorted(
        name for name in KNOWN if not name.startswith(("rnvm.", "redis.", "lmdb.", "memcached."))
    ),
)
def test_any_number_in_any_property_is_used_or_raises_invalid_argument(name):
    """Up to the first requests drawn: an OverflowError or MemoryError would be a traceback."""
    # Properties of databases and of reports do not meet those of the workload.
    for base in BASES[:1] if "." in name else BASES:
        for text in EXTREMES:
            try:
                p = Properties(
                    {"fieldcount": "2", "fieldlength": "10", "zeropadding": "1"}
                    | base
                    | {name: text}
                )
                with open_database("dict", Properties({}), private=True) as database:
                    database.scans = True
                    for loading in (True, False):
                        phases.check(database, p, loading=loading)
                        stream = Stream(Workload(p, loading=loading), 3)
                        [stream.draw() for _ in range(5)]
                        if p["rfp.predraw"] and not loading:
                            stream.predraw(min(p["rfp.predraw"], 100))
                assert Status([], 1, every=p["status.interval"]).next() <= 3600
            except InvalidArgument as error:
                assert len(str(error)) < 400, "the value is not shortened"
