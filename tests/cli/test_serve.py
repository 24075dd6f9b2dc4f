"""The start, the output and the end of `rfp serve`."""

import contextlib
import os
import signal
import subprocess

import pytest
import python_programs
from click.testing import CliRunner
from stopping import stop

import rfp
import rfp.cli
import rnvm.cli
from rfp.cli.serve import STOP_SIGNALS
from rfp.errors import ConnectionFailed


@pytest.fixture
def address(private):
    return f"shm://{private}/s"


@contextlib.contextmanager
def serving(*arguments, first="pass", **options):
    """Run a server; yield its process and output. first: code that the process executes before."""
    program = f"import signal; {first}; from rfp.cli import main; main(prog_name='rfp')"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = python_programs.start(
        "-c", program, "serve", "--memory", "16MiB", *arguments, **pipes, **options
    )
    with process:
        try:
            output = b""
            while b"Ctrl-C" not in output:
                line = process.stdout.readline()
                assert line, process.stderr.read()
                output += line
            yield process, output.decode()
        finally:
            process.kill()


def command(*arguments, **options):
    result = python_programs.run("-m", "rfp.cli", *arguments, **options)
    return result.returncode, result.stdout.decode(), result.stderr.decode()


def test_the_output_of_serve_has_the_calls_to_connect_with(address):
    with serving("--address", address, "--workers", "2") as (process, output):
        assert (
            f"serving at {address}  (process {process.pid}; 16MiB, 2 workers, eviction clock, "
            "idle adaptive)" in output
        )
        lines = output.splitlines()
        python = next(line for line in lines if "from Python" in line)
        with eval(python.split(":", 1)[1].split("=", 1)[1], {"rfp": rfp}) as kv:
            kv.put(b"k", b"v")
        shell = next(line for line in lines if "from a shell" in line).split("rfp ", 1)[1]
        assert command(*shell.replace("'", "").split())[0] == 0
        assert command("get", "k", "--address", address) == (0, "v", "")


def test_the_default_server_is_found_without_an_address(private):
    environment = {**python_programs.environment(), "XDG_RUNTIME_DIR": str(private)}
    with serving(env=environment) as (process, output):
        assert f"serving at shm://{private}/rfp/default" in output
        assert "rfp.connect()" in output
        assert "rfp ping\n" in output
        assert command("put", "k", "v", env=environment)[0] == 0
        assert command("get", "k", env=environment) == (0, "v", "")
        process.terminate()
        assert process.wait(10) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_stops_the_server_cleanly_even_with_clients(address, private, number):
    with serving("--address", address) as (process, _), rfp.connect(address, reconnect=False) as kv:
        kv.put(b"k", b"v")
        process.send_signal(number)
        out, err = process.communicate(timeout=10)
        assert (process.returncode, out, err) == (0, b"stopped\n", b"")
        with pytest.raises(ConnectionFailed):
            kv.get(b"k")
    assert os.listdir(private) == []


def test_an_ignored_hangup_stays_ignored(address):
    """nohup starts programs in this way."""
    with serving("--address", address, first="signal.signal(signal.SIGHUP, signal.SIG_IGN)") as (
        process,
        _,
    ):
        process.send_signal(signal.SIGHUP)
        assert command("ping", "--address", address)[0] == 0
        process.terminate()
        assert process.wait(10) == 0


def test_a_second_signal_ends_the_server_at_once(address):
    program = (
        "import sys, time, rfp; from rfp.cli import main\n"
        "rfp.Server.close = lambda self: (print('closing', flush=True), time.sleep(60))\n"
        "main(['serve', '--memory', '16MiB', '--address', sys.argv[1]])"
    )
    with python_programs.start("-c", program, address, stdout=subprocess.PIPE) as process:
        while b"Ctrl-C" not in process.stdout.readline():
            pass
        process.terminate()
        assert process.stdout.readline() == b"closing\n"
        process.terminate()
        assert process.wait(10) == 128 + signal.SIGTERM


def test_a_signal_during_the_start_stops_the_server(address):
    program = (
        "import sys, time, rfp; from rfp.cli import main\n"
        "rfp.Server = lambda *a, **k: (print('starting', flush=True), time.sleep(60))\n"
        "main(['serve', '--address', sys.argv[1]])"
    )
    with python_programs.start("-c", program, address, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"starting\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0


def test_the_error_of_a_second_server_names_the_process_of_the_first(address):
    with serving("--address", address) as (process, _):
        status, out, err = command("serve", "--address", address)
        assert (status, out) == (3, "")
        assert err.startswith(
            f"rfp: a server is already running at {address}, process {process.pid} (connect to it"
        )
        assert command("ping", "--address", address)[0] == 0


def test_a_killed_server_is_an_error_for_clients_and_the_next_server_starts(address):
    with serving("--address", address) as (process, _):
        assert command("put", "k", "v", "--address", address)[0] == 0
        process.kill()
        process.wait()
        status, _, err = command("get", "k", "--address", address)
        assert status == 3
        assert err.startswith(f"rfp: the server at {address} no longer runs (start one: rfp serve")
    with serving("--address", address):
        assert command("get", "k", "--address", address) == (1, "", "rfp: 'k' has no value\n")


def test_the_hint_of_a_command_without_a_server_is_to_start_one(address):
    status, out, err = command("ping", "--address", address)
    assert (status, out) == (3, "")
    assert (
        err == f"rfp: there is no server at {address} (start one: rfp serve --address {address})\n"
    )


def test_the_hint_of_a_command_without_the_default_server_is_to_start_it(private):
    environment = {**python_programs.environment(), "XDG_RUNTIME_DIR": str(private)}
    status, _, err = command("ping", env=environment)
    assert (status, err) == (
        3,
        f"rfp: there is no server at shm://{private}/rfp/default (start one: rfp serve)\n",
    )


def test_a_command_to_a_stopped_server_times_out(address):
    with serving("--address", address) as (process, _):
        stop(process.pid)
        status, out, err = command("get", "k", "--address", address, "--timeout", "200ms")
        assert (status, out) == (3, "")
        assert "timed out" in err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ("--memory 1KiB", "at least 1MiB for each"),
        ("--address shm:///proc/nowhere/s", "cannot make the directory /proc/nowhere"),
        ("--memory 1GiB --quota 0.5B", "not a whole number"),
    ],
)
def test_a_server_with_invalid_options_is_refused(arguments, reason):
    status, out, err = command("serve", *arguments.split())
    assert (status, out) == (2, "")
    assert reason in " ".join(err.split())


def test_with_eviction_none_a_put_into_full_memory_is_refused(address):
    with serving("--address", address, "--eviction", "none", "--memory", "2MiB"):
        with rfp.connect(address) as kv, contextlib.suppress(rfp.errors.OutOfMemory):
            for i in range(10_000):
                kv.put(b"%d" % i, b"x" * 1000)
        status, _, err = command("put", "more", "x" * 1000, "--address", address)
        assert status == 1
        assert "no room" in err


@pytest.mark.parametrize("main", [rfp.cli.main, rnvm.cli.main], ids=["rfp", "rnvm"])
def test_signals_are_handled_as_before_when_the_command_has_ended(main, tmp_path):
    before = [signal.getsignal(each) for each in STOP_SIGNALS]
    (tmp_path / "file").touch()
    pool = [str(tmp_path)] if main is rnvm.cli.main else []  # a folder
    ended = CliRunner().invoke(main, ["serve", *pool, "--address", f"shm://{tmp_path}/file/s"])
    assert ended.exit_code and "Usage" not in ended.output, ended.output
    assert [signal.getsignal(each) for each in STOP_SIGNALS] == before
