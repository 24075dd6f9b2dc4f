"""Outputs that cannot be written, missing inputs: a one-line error, with its own exit status."""

import os
import subprocess
import sys

import pytest
import python_programs

import rfp

NO_SPACE = "No space left on device"


@pytest.fixture(scope="module")
def server():
    with rfp.Server(memory="16MiB") as server, rfp.connect(server.address) as kv:
        kv.put(b"small", b"v")
        yield server


def run(server, *command, **streams):
    arguments = [sys.executable, "-m", "rfp.cli", *command, "--address", server.address]
    return subprocess.run(
        arguments, stderr=subprocess.PIPE, text=True, timeout=30, cwd="/", **streams
    )


@pytest.mark.parametrize(
    "command",
    [
        "get small",
        "put other v",
        "stats",
        "stats --json",
        "top --once --interval 10ms",
        "ping",
        "ping -c 2",
        "incr n",
    ],
)
def test_a_full_disk_is_a_one_line_error_without_the_status_of_a_missing_key(server, command):
    with open("/dev/full", "w") as full:
        done = run(server, *command.split(), stdout=full)
    assert done.returncode == 3
    assert len(done.stderr.splitlines()) == 1
    assert NO_SPACE in done.stderr


@pytest.mark.parametrize(
    ("command", "key", "hint"),
    [
        ("put stored v", b"stored", "the value is stored"),
        ("incr sum", b"sum", "the amount is added"),
    ],
)
def test_if_the_output_fails_the_error_states_that_the_change_has_happened(
    server, command, key, hint
):
    with open("/dev/full", "w") as full:
        done = run(server, *command.split(), stdout=full)
    assert done.stderr == f"rfp: cannot write the output: {NO_SPACE} ({hint})\n"
    with rfp.connect(server.address) as kv:
        assert kv.exists(key)


def test_a_pipe_that_its_reader_closed_causes_no_error_message(server):
    reader, writer = os.pipe()
    os.close(reader)
    done = run(server, "get", "small", stdout=writer)
    os.close(writer)
    assert done.stderr == ""


@pytest.mark.parametrize(("stream", "command"), [("stdout", "get small"), ("stdin", "put k -")])
def test_the_error_of_a_closed_stream_names_it(server, stream, command):
    descriptor = {"stdin": 0, "stdout": 1}[stream]
    done = run(server, *command.split(), preexec_fn=lambda: os.close(descriptor))
    assert (done.returncode, done.stderr) == (3, f"rfp: {stream} is closed\n")


def test_a_server_that_cannot_print_serves(private):
    address = f"shm://{private}/socket"
    with (
        open("/dev/full", "w") as full,
        python_programs.start(
            "-m",
            "rfp.cli",
            "serve",
            "--memory",
            "16MiB",
            "--address",
            address,
            stdout=full,
            stderr=subprocess.PIPE,
        ) as process,
    ):
        line = process.stderr.readline()
        try:
            assert NO_SPACE in (line if isinstance(line, str) else line.decode())
            with rfp.connect(address) as kv:
                assert kv.put(b"k", b"v")
        finally:
            process.terminate()
            assert process.wait(20) == 0
            process.stderr.close()
