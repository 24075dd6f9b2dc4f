"""The commands for single keys, on a real server."""

import time

import pytest
import python_programs
from click.testing import CliRunner

import rfp
from rfp.cli import main

pytestmark = pytest.mark.anywhere


@pytest.fixture(scope="module")
def server():
    with rfp.Server(memory="16MiB", workers=2) as server:
        yield server


@pytest.fixture
def kv(server):
    with rfp.connect(server.address) as kv:
        yield kv


@pytest.fixture
def rfp_command(server):
    """Run a command in this process; keyword arguments are CliRunner's."""

    def run(*arguments, status=0, **options):
        result = CliRunner().invoke(main, [*arguments, "--address", server.address], **options)
        assert result.exit_code == status, result.output
        return result

    return run


def test_get_prints_the_value_that_put_stored(rfp_command, kv):
    version = int(rfp_command("put", "greeting", "hello").stdout)
    assert kv.item(b"greeting") == (b"hello", version)
    # There is no newline, since stdout is no terminal.
    assert rfp_command("get", "greeting").stdout_bytes == b"hello"


def test_a_missing_key_has_status_1_and_nothing_on_stdout(rfp_command):
    for command in ("get", "delete"):
        result = rfp_command(command, "absent", status=1)
        assert (result.stdout, result.stderr) == ("", "rfp: 'absent' has no value\n")


def test_an_empty_value_is_a_value(rfp_command):
    rfp_command("put", "empty", "")
    assert rfp_command("get", "empty").stdout_bytes == b""


def test_any_bytes_pass_through_stdin_and_stdout(rfp_command, kv):
    value = bytes(range(256)) * 5000  # larger than a slot
    rfp_command("put", "binary", "-", input=value)
    assert kv.get(b"binary") == value
    assert rfp_command("get", "binary").stdout_bytes == value


def test_a_key_may_be_any_bytes_that_a_shell_can_pass(server, kv):
    kv.put(b"\xff\xc3", b"found")
    result = python_programs.run(
        "-m",
        "rfp.cli",
        "get",
        "--address",
        server.address,
        b"\xff\xc3".decode(errors="surrogateescape"),
    )
    assert (result.returncode, result.stdout) == (0, b"found")
    result = python_programs.run(
        "-m",
        "rfp.cli",
        "get",
        "--address",
        server.address,
        b"\xfe".decode(errors="surrogateescape"),
    )
    assert (result.returncode, result.stderr) == (1, b"rfp: '\\\\xfe' has no value\n")


def test_show_version_prints_the_version_for_if_version(rfp_command):
    first = rfp_command("put", "config", "1").stdout.strip()
    result = rfp_command("get", "config", "--show-version")
    assert (result.stdout_bytes, result.stderr) == (b"1", f"version {first}\n")
    rfp_command("put", "config", "2", "--if-version", first)
    refused = rfp_command("put", "config", "3", "--if-version", first, status=1)
    assert "config" in refused.stderr
    assert rfp_command("get", "config").stdout == "2"


def test_if_absent_puts_once(rfp_command):
    rfp_command("put", "lock", "me", "--if-absent")
    assert (
        "already has a value" in rfp_command("put", "lock", "you", "--if-absent", status=1).stderr
    )
    assert rfp_command("get", "lock").stdout == "me"


def test_a_value_with_a_ttl_expires(rfp_command, kv):
    rfp_command("put", "session", "42", "--ttl", "1500ms")
    assert kv.get(b"session") == b"42"
    deadline = time.monotonic() + 20
    while kv.get(b"session") is not None:
        assert time.monotonic() < deadline
    rfp_command("get", "session", status=1)


def test_a_deleted_key_has_no_value(rfp_command):
    rfp_command("put", "old", "x")
    assert rfp_command("delete", "old").output == ""
    rfp_command("get", "old", status=1)


def test_incr_counts_up_and_down(rfp_command):
    assert [rfp_command("incr", "n", *more).stdout for more in ([], ["41"], ["-3"], ["0"])] == [
        "1\n",
        "42\n",
        "39\n",
        "39\n",
    ]
    rfp_command("put", "word", "many")
    assert "not a decimal 64-bit integer" in rfp_command("incr", "word", status=1).stderr


def test_a_value_that_begins_with_a_dash_is_written_after_two_dashes(server, kv):
    result = CliRunner().invoke(main, ["put", "--address", server.address, "number", "--", "-5"])
    assert result.exit_code == 0
    assert kv.get(b"number") == b"-5"


def test_an_empty_key_is_a_caller_error(rfp_command):
    assert "got 0 bytes" in rfp_command("get", "", status=2).stderr


def test_a_value_above_the_servers_limit_is_refused(rfp_command, kv):
    assert rfp_command("put", "huge", "-", input=b"x" * (9 << 20), status=1).stderr.startswith(
        "rfp: "
    )
    assert kv.get(b"huge") is None


def test_ping_prints_response_times(rfp_command, server):
    assert f"{server.address} responded in " in rfp_command("ping").stdout
    assert "responded 20 times: min " in rfp_command("ping", "--count", "20").stdout


@pytest.mark.shm
def test_results_over_an_emulated_network_are_labelled(server):
    address = f"{server.address}?rtt=20us"
    result = CliRunner().invoke(main, ["ping", "--address", address])
    assert result.exit_code == 0, result.output
    assert result.stdout.endswith("us (emulated network)\n")


def test_a_closed_stdout_causes_no_traceback(server, kv):
    kv.put(b"long", b"x" * (1 << 20))
    with python_programs.start(
        "-m", "rfp.cli", "get", "long", "--address", server.address, stdout=-1, stderr=-1
    ) as process:
        process.stdout.close()
        assert b"Traceback" not in process.stderr.read()
