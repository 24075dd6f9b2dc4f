"""TATP and SmallBank: their tables stay consistent, also when workers are killed."""

from __future__ import annotations

import json
import os
import random
from dataclasses import replace

import pytest
from click.testing import CliRunner

import rnvm
from bench.experiments import application, command, smallbank, tatp
from bench.experiments.application import Journal, Run, draw, journalled, lines, play, possible
from rfp.errors import ConnectionFailed, InvalidArgument, OutcomeUnknown, StructureDamaged

RUNS = {
    "smallbank": Run("smallbank", 60, processes=1, seconds=0.4, partitions=3),
    "tatp": Run("tatp", 40, processes=1, seconds=0.4, partitions=3),
}
MODULES = {"smallbank": smallbank, "tatp": tatp}
each_application = pytest.mark.parametrize("name", RUNS)


@each_application
def test_an_application_runs_all_types_of_transaction_and_stays_consistent(name: str) -> None:
    result = play(replace(RUNS[name], threads=2, skew=0.9))
    assert set(result.latencies) == set(MODULES[name].Tables.MIX)
    assert sum(each.count for each in result.latencies.values()) > 50
    assert result.checked.startswith(("money conserved", "every subscriber whole"))
    assert result.unknown == 0


@each_application
def test_an_application_stays_consistent_if_workers_are_killed(name: str) -> None:
    result = play(replace(RUNS[name], processes=2, seconds=1.2, kill=True))
    assert result.kills >= 1
    assert result.checked


@pytest.mark.long
@each_application
@pytest.mark.parametrize("lock", ["sticky", "cas", "each"])
@pytest.mark.parametrize("partitions", [1, 8])
def test_an_application_stays_consistent_in_long_runs_with_kills(
    name: str, lock: str, partitions: int, seed: int
) -> None:
    result = play(
        replace(
            RUNS[name],
            processes=3,
            threads=2,
            seconds=20,
            kill=True,
            lock=lock,
            partitions=partitions,
            seed=seed,
        )
    )
    assert result.kills > 3


@pytest.fixture
def served(tmp_path):
    with rnvm.Backend(tmp_path / "pool", size="32MiB", assume_persistent=True) as backend:
        yield backend


def tables(name, fe):
    found = MODULES[name].Tables(fe, RUNS[name], random.Random(RUNS[name].seed), None)
    found.load()
    return found


def test_the_check_of_smallbank_finds_lost_and_torn_transactions(served):
    with rnvm.connect(served.address) as fe:
        bank = tables("smallbank", fe)
        assert bank.verify({0}).startswith("money conserved")
        amount = smallbank.AMOUNT
        one, two = smallbank.number_of(1), smallbank.number_of(2)
        bank.checking[one] = amount.pack(smallbank.FIRST_CENTS - 500)
        with pytest.raises(StructureDamaged, match="changed by -500"):
            bank.verify({0, 130})
        bank.checking[two] = amount.pack(smallbank.FIRST_CENTS + 500)
        assert bank.verify({0})
        del bank.savings[two]
        with pytest.raises(StructureDamaged, match="1 wrong rows"):
            bank.verify({0})


def test_the_check_of_tatp_finds_half_of_an_update_and_wrong_rows(served):
    with rnvm.connect(served.address) as fe:
        register = tables("tatp", fe)
        assert register.verify({0}).startswith("every subscriber whole")
        key, before = next(iter(register.subscribers.items()))
        row = list(tatp.SUBSCRIBER.unpack(before))
        row[tatp.STAMP], row[tatp.STAMPED] = 77, 1
        register.subscribers[key] = tatp.SUBSCRIBER.pack(*row)
        with pytest.raises(StructureDamaged, match="one of two updates"):
            register.verify({0})
        register.subscribers[key] = before
        row_key, raw = register.forwardings.popitem()
        with pytest.raises(StructureDamaged, match="-1 call forwardings more"):
            register.verify({0})
        assert register.verify({-1})
        register.forwardings[row_key] = tatp.FORWARDING.pack(0, bytes(15))
        with pytest.raises(StructureDamaged, match="ends before it begins"):
            register.verify({0})
        register.forwardings[row_key] = raw
        register.access.popitem()
        with pytest.raises(StructureDamaged, match="access_info"):
            register.verify({0})


def test_every_transaction_of_smallbank_does_what_it_says(served):
    with rnvm.connect(served.address) as fe:
        bank = tables("smallbank", fe)
        bank.customer = lambda: smallbank.number_of(1)
        bank.two = lambda: (smallbank.number_of(1), smallbank.number_of(2))
        first = smallbank.FIRST_CENTS
        assert bank.balance() == 2 * first
        bank.deposit_checking()
        assert bank.balance() == 2 * first + 130
        bank.write_check()
        bank.send_payment()
        assert bank.balance() == 2 * first + 130 - 1000
        bank.amalgamate()
        assert bank.balance() == 0
        with pytest.raises(application.Aborted):
            bank.send_payment()
        bank.write_check()
        assert bank.balance() == -600  # with the penalty
        bank.customer = lambda: smallbank.number_of(2)
        assert bank.balance() == 2 * first + 500 + 2 * first + 130 - 1000


def test_a_journal_tells_acknowledged_from_unknown_changes(tmp_path):
    journal = Journal(tmp_path / "1.journal")
    for change in (5, 7):
        with journal.commit(change):
            pass
    with pytest.raises(OutcomeUnknown), journal.commit(100):
        raise OutcomeUnknown("lost")
    with pytest.raises(ConnectionFailed), journal.commit(1000):
        raise ConnectionFailed("nothing was done")
    os.write(journal.file, b"? -3\n")  # the process is killed here
    assert journalled(tmp_path) == (12, [100, -3])
    assert possible(12, [100, -3]) == {9, 12, 109, 112}
    journal.close()


def test_a_zipfian_draw_prefers_few_records_and_reaches_all():
    drawn = application.Drawn(50, 0.99, random.Random(1))
    counts = [0] * 50
    for _ in range(20_000):
        counts[drawn.draw()] += 1
    assert min(counts) > 0
    assert max(counts) > 15 * sorted(counts)[25]


def test_a_mix_names_known_types_with_weights():
    assert application.parsed_mix("balance=1,amalgamate=2.5", smallbank.SMALLBANK_MIX) == {
        "balance": 1,
        "amalgamate": 2.5,
    }
    for wrong in ("nothing=1", "balance", "balance=x", "balance=-1", "balance=0"):
        with pytest.raises(InvalidArgument):
            application.parsed_mix(wrong, smallbank.SMALLBANK_MIX)


@each_application
def test_the_command_of_an_application_prints_its_table_and_draws(name, tmp_path, drawing):
    bars, figures = tmp_path / "bars.png", tmp_path / "figures.json"
    arguments = [
        name,
        *("--processes", "1", "--seconds", "0.2", "--skew", "0.5", "--partitions", "2"),
        *("--accounts" if name == "smallbank" else "--subscribers", "30"),
        *("--bars", str(bars), "--json", str(figures)),
    ]
    result = CliRunner().invoke(command.main, arguments)
    assert result.exit_code == 0, result.output
    assert "consistent: " in result.output
    assert all(each in result.output for each in MODULES[name].Tables.MIX)
    assert bars.read_bytes().startswith(b"\x89PNG")
    assert json.loads(figures.read_text())["run"]["application"] == name


def test_the_options_of_an_application_are_listed():
    for name in RUNS:
        shown = CliRunner().invoke(command.main, [name, "--help"]).output
        assert all(option in shown for option in ("--skew", "--mix", "--kill", "--threads"))
        assert name in CliRunner().invoke(command.main, ["--list"]).output


@pytest.mark.parametrize(
    "wrong", [["--mix", "nothing=1"], ["--size", "x"], ["--size", "1KiB"], ["--rtt", "x"]]
)
def test_a_wrong_option_of_an_application_is_one_line(wrong):
    result = CliRunner().invoke(command.main, ["smallbank", *wrong])
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    assert result.stderr.startswith("rfp-experiments: ") and result.stderr.count("\n") == 1


def test_results_are_lines_and_a_picture(tmp_path, drawing):
    from bench._histogram import Histogram

    latencies = {each: Histogram() for each in smallbank.SMALLBANK_MIX}
    latencies["balance"].record(12_000, 3)
    zeros = dict.fromkeys(smallbank.SMALLBANK_MIX, 0)
    result = application.Result(RUNS["smallbank"], latencies, zeros, zeros, 1.5, checked="all")
    assert result.rate == 2
    assert lines(result)[-1] == "consistent: all"
    draw(result, tmp_path / "bars.png")
    assert (tmp_path / "bars.png").stat().st_size > 1000
