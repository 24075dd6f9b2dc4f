"""Every error is one line on stderr, with the exit status of its family."""

import inspect

import pytest
from click.testing import CliRunner

import rfp
from rfp import errors
from rfp.cli import main
from rfp.errors import CallerError, RfpError, ServerRefused

CLASSES = [
    kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, RfpError)
]


def failing(monkeypatch, error):
    def connect(*arguments, **options):
        raise error

    monkeypatch.setattr(rfp, "connect", connect)


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize(
    "command", ["ping", "get k", "put k v", "delete k", "incr k", "stats", "top"]
)
def test_an_error_is_one_line_with_its_hint_and_the_status_of_its_family(
    monkeypatch, kind, command
):
    failing(monkeypatch, kind("the fault", hint="the hint"))
    result = CliRunner().invoke(main, command.split())
    assert result.stderr == "rfp: the fault (the hint)\n"
    assert result.stdout == ""
    assert result.exit_code == (
        1 if issubclass(kind, ServerRefused) else 2 if issubclass(kind, CallerError) else 3
    )


def test_ctrl_c_ends_a_command_without_output(monkeypatch):
    failing(monkeypatch, KeyboardInterrupt())
    result = CliRunner().invoke(main, ["get", "k"])
    assert (result.exit_code, result.output) == (130, "")


def test_an_internal_error_is_raised_with_its_traceback(monkeypatch):
    failing(monkeypatch, ZeroDivisionError())
    assert isinstance(CliRunner().invoke(main, ["get", "k"]).exception, ZeroDivisionError)


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (["get"], "Missing argument 'KEY'"),
        (["put", "k"], "Missing argument 'VALUE|-'"),
        (["put", "k", "v", "--ttl", "5"], "invalid duration '5': it has no unit (write \"5s\""),
        (["put", "k", "v", "--ttl", "0"], "duration must be greater than zero, got '0'"),
        (
            ["put", "k", "v", "--if-absent", "--if-version", "1"],
            "cannot use both --if-absent and --if-version",
        ),
        (["put", "k", "v", "--if-version", "-1"], "not in the range"),
        (["incr", "k", "much"], "not a valid integer"),
        (["incr", "k", str(2**63)], "not in the range"),
        (["ping", "--address", "here"], "invalid address 'here' (write shm://"),
        (["ping", "--address", "shm:///x?speed=9"], "NAME is rtt, in_iops or out_iops"),
        (["ping", "--count", "0"], "not in the range"),
        (["serve", "--memory", "lots"], "invalid size 'lots'"),
        (["serve", "--memory", "1GB"], "ambiguous"),
        (["serve", "--idle", "never"], "'adaptive', 'spin'"),
        (["serve", "--eviction", "lru"], "'clock', 'bucket', 'none'"),
        (["serve", "--workers", "0"], "not in the range"),
        (["top", "--interval", "fast"], "invalid duration 'fast'"),
        (["tap"], "No such command 'tap'"),
    ],
)
def test_an_invalid_command_has_status_2_and_an_error_with_the_reason(command, reason):
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 2
    assert reason in " ".join(result.stderr.split())


def test_the_help_of_every_command_has_an_example():
    for name, command in main.commands.items():
        result = CliRunner().invoke(main, [name, "--help"])
        assert result.exit_code == 0
        assert f"rfp {name}" in result.output.split("Example")[1], name
        assert command.get_short_help_str()


def test_the_version_is_that_of_the_package():
    assert CliRunner().invoke(main, ["--version"]).output == f"rfp {rfp.__version__}\n"
