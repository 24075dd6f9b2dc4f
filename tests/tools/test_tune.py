"""Choosing R and F: the enumeration, the saved choice, and the clients that use it."""

from __future__ import annotations

import json
import re

import pytest
from click.testing import CliRunner

import rfp
from rfp.address import parse
from rfp.cli import main
from rfp.fabric.shm.region import ShmFabric
from rfp.tools import tune


def flat(rate: float = 1e6, most_retries: int = 5) -> tune.Calibration:
    """Return a device on which every READ costs the same.

    A call takes 1 us, and replying is half as fast as fetching.
    """
    times = [0, 1000, 100_000]
    return tune.Calibration(
        "shm", [0.0] + [rate] * 64, 1e-6, times, [1e6, 5e5, 1e4], [5e5, 2.5e5, 5e3], most_retries
    )


def sizes(**lines: int) -> list[int]:
    counts = [0] * tune.SIZE_CLASSES
    for name, count in lines.items():
        counts[int(name[1:])] = count
    return counts


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return tmp_path / "rfp" / "tune.json"


def test_f_is_the_smallest_that_fits_if_all_reads_cost_the_same():
    assert tune.enumerate_choices(flat(), sizes(_3=100))[0].fetch == 3 * 64


def test_a_result_beyond_f_counts_half():
    choices = {(c.retries, c.fetch): c.score for c in tune.enumerate_choices(flat(), sizes(_4=10))}
    assert choices[5, 3 * 64] == choices[5, 4 * 64] / 2


def test_a_few_large_results_do_not_make_all_reads_long():
    calibration = flat()
    calibration.rates = [0.0] + [1e6 / (10 + lines) for lines in range(1, 65)]
    assert tune.enumerate_choices(calibration, sizes(_1=95, _16=5))[0].fetch == 64
    assert tune.enumerate_choices(calibration, sizes(_1=5, _2=95))[0].fetch == 128


def test_retries_pay_only_up_to_the_processing_time():
    choices = tune.enumerate_choices(flat(), sizes(_1=1), process_ns=3000)
    best = choices[0]
    # Three round trips, and fetching is twice as fast as replying... per READ.
    assert best.retries >= 3
    one_retry = next(c for c in choices if c.retries == 1)
    assert one_retry.score == pytest.approx(tune._at([0, 1000, 100_000], [5e5, 2.5e5, 5e3], 3000))


def test_the_class_of_a_value_counts_its_header_and_large_values_count_as_references():
    assert [tune.lines(n) for n in (0, 40, 41, 2088, 2089, 1 << 20)] == [1, 1, 2, 33, 1, 1]


def test_a_saved_calibration_is_loaded_only_for_the_same_device(config):
    calibration = flat()
    calibration.chosen = {"retries": 3, "fetch": 320}
    assert tune.save(calibration) == config
    assert tune.load(parse("shm:///any/where"), ShmFabric()) == calibration
    assert tune.load(parse("shm:///any/where?rtt=2us"), ShmFabric()) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"version": 1}',
        '{"version": 2, "devices": {}}',
        '{"version": 1, "devices": {"shm": 7}}',
        '{"version": 1, "devices": {"shm": {"device": "shm"}}}',
    ],
)
def test_an_invalid_file_is_ignored(config, text):
    config.parent.mkdir()
    config.write_text(text)
    assert tune.load(parse("shm:///x"), ShmFabric()) is None


@pytest.mark.parametrize(
    "chosen", [{"retries": 0, "fetch": 64}, {"retries": 1, "fetch": 65}, {"retries": "many"}]
)
def test_a_choice_out_of_bounds_is_ignored(config, chosen):
    calibration = flat()
    calibration.chosen = chosen
    tune.save(calibration)
    assert tune.load(parse("shm:///x"), ShmFabric()) is None


def test_clients_start_with_the_chosen_f(config):
    calibration = flat()
    calibration.chosen = {"retries": 2, "fetch": 320}
    tune.save(calibration)
    with rfp.Server(memory="4MiB") as server, rfp.connect(server.address) as kv:
        assert kv.stats()["client"]["fetch"] == [320]
    with rfp.Server(memory="4MiB") as server, rfp.connect(server.address, fetch=128) as kv:
        assert kv.stats()["client"]["fetch"] == [128]


def test_f_follows_the_sizes_seen():
    with (
        rfp.Server(memory="4MiB", direct_reads=False) as server,
        rfp.connect(server.address) as kv,
    ):
        for length in (1000, 10):
            kv.put(b"k", bytes(length))
            for _ in range(5000):
                kv.get(b"k")
            fetch = kv.stats()["client"]["fetch"][0]
            assert fetch >= 24 + 1000 if length == 1000 else fetch == 64


def test_the_command_measures_prints_its_table_and_saves_its_choice(config):
    result = CliRunner().invoke(
        main, ["tune", "--value-size", "32", "--value-size", "500", "--seconds", "0.003"]
    )
    assert result.exit_code == 0, result.output
    assert (
        "READs/s" in result.stdout
        and "reply calls/s" in result.stdout
        and f"saved in {config}" in result.stdout
    )
    for paradigm in ("direct", "fetch", "reply", "bypass"):
        assert re.search(rf"^{paradigm} +[0-9.]+$", result.stdout, re.MULTILINE), result.stdout
    assert 'mode="auto" chooses: direct' in result.stdout
    kept = json.loads(config.read_text())["devices"]["shm"]
    assert (
        f"chosen: R = {kept['chosen']['retries']}, F = {kept['chosen']['fetch']} bytes"
        in result.stdout
    )
    assert all(rate > 0 for rate in kept["rates"][1:])


def test_the_command_takes_sizes_from_the_server_and_labels_an_emulated_network(config):
    with (
        rfp.Server(memory="4MiB", direct_reads=False) as server,
        rfp.connect(server.address) as kv,
    ):
        kv.put(b"k", bytes(200))
        for _ in range(100):
            kv.get(b"k")
        result = CliRunner().invoke(
            main,
            ["tune", "--address", server.address + "?rtt=2us", "--seconds", "0.003", "--dry-run"],
        )
    assert result.exit_code == 0, result.output
    assert (
        "(emulated)" in result.stdout
        and "of 256 bytes" in result.stdout
        and "not saved" in result.stdout
    )
    assert not config.exists()


def test_the_command_without_a_server_or_sizes_prints_a_hint(config, tmp_path):
    result = CliRunner().invoke(main, ["tune", "--address", f"shm://{tmp_path}/nobody"])
    assert result.exit_code == 3 and "--value-size" in result.stderr
