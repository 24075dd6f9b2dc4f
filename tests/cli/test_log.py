"""The logs of `rfp serve` and `rnvm serve` on stderr."""

import os
import re
import subprocess
import time

import python_programs

import rfp
import rnvm
from rnvm import pools

LINE = re.compile(
    r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} (DEBUG|INFO|WARNING|ERROR) (rfp|rnvm): .+"
)


def served(address, level, use):
    """Run a server that logs from this level on, and return the lines on stderr."""
    arguments = [
        "-m",
        "rfp.cli",
        "serve",
        "--memory",
        "16MiB",
        "--address",
        address,
        "--log-level",
        level,
    ]
    with python_programs.start(
        *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        while b"Ctrl-C" not in process.stdout.readline():
            pass
        use()
        process.terminate()
        lines = process.communicate(timeout=20)[1].decode().splitlines()
        assert process.returncode == 0
    assert all(LINE.fullmatch(line) for line in lines), lines
    return lines


def test_each_level_prints_its_messages_and_more_severe_ones(private):
    address = f"shm://{private}/s"

    def use():
        with rfp.connect(address) as kv:
            kv.put(b"k", b"v")

    assert served(address, "warning", use) == []
    lines = served(address, "info", use)
    assert any(f"INFO rfp: serving kv at {address}" in line for line in lines)
    assert any(f"process {os.getpid()}" in line and line.endswith(" connected") for line in lines)


def test_logging_to_an_unread_stderr_does_not_block(private):
    program = (
        "import os, sys, time; from rfp.cli.log import log_to_stderr\n"
        "from rfp.core.log import Log\n"
        "log_to_stderr('info'); log = Log('rfp', now=time.monotonic)\n"
        "import logging; handler, = logging.getLogger('rfp').handlers\n"
        "for i in range(200): logging.getLogger('rfp').info('%d %s', i, 2000 * 'x')\n"
        "print(handler.dropped, flush=True)"
    )
    with python_programs.start(
        "-c", program, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        began = time.monotonic()
        dropped = int(process.stdout.readline())
        assert dropped > 100
        assert time.monotonic() - began < 30
        kept = process.communicate(timeout=20)[1].decode().splitlines()
    assert [int(line.split("rfp: ")[1].split()[0]) for line in kept] == list(range(200 - dropped))


def test_a_back_end_logs_its_sessions(private):
    path = os.path.join(os.environ["TESTS_MEMORY"], "logged.pool")
    pools.create(path, "8MiB", assume_persistent=True)
    try:
        arguments = [
            "-m",
            "rnvm.cli",
            "serve",
            path,
            "--log-level",
            "info",
            "--address",
            f"shm://{private}/b",
        ]
        with python_programs.start(
            *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            while b"serving" not in process.stdout.readline():
                pass
            with rnvm.connect(f"shm://{private}/b") as fe:
                fe.names()
            process.terminate()
            lines = process.communicate(timeout=20)[1].decode().splitlines()
    finally:
        os.unlink(path)
    assert all(LINE.fullmatch(line) for line in lines), lines
    assert any(f"INFO rnvm: pool {path} opened" in line for line in lines)
    assert any(f"process {os.getpid()}) began" in line for line in lines)
    assert any("ended: its front-end closed it" in line for line in lines)
