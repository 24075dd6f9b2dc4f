"""The log for the operator: sessions that begin, end and are fenced, and a recovered pool."""

import logging
import os
import subprocess
import time

import pytest
import python_programs

import rnvm
import structures

from .conftest import new_path, open_backend


@pytest.fixture
def logged(caplog):
    caplog.set_level(logging.INFO, "rnvm")
    return caplog


def wait_for(caplog, text):
    until = time.monotonic() + 30
    while not any(text in message for message in caplog.messages):
        assert time.monotonic() < until, caplog.messages
        time.sleep(0.01)
    return next(record for record in caplog.records if text in record.getMessage())


def test_a_session_that_begins_and_ends(logged):
    with new_path("direct") as path, open_backend(path) as backend:
        wait_for(logged, f"pool {path} opened")
        with rnvm.connect(backend.address) as fe:
            structures.Queue(fe, "jobs").put(b"x")
            began = wait_for(logged, "began")
            assert f"process {os.getpid()}" in began.getMessage()
            assert began.levelno == logging.INFO
        wait_for(logged, "its front-end closed it")


def test_a_front_end_that_is_fenced(logged):
    """The front-end is stopped inside its lock, and another one waits for the lock."""
    with new_path("direct") as path, open_backend(path, lease=0.2) as backend:
        program = (
            "import sys, os, signal, rnvm, structures\n"
            "fe = rnvm.connect(sys.argv[1]); queue = structures.Queue(fe, 'jobs')\n"
            "with fe.transaction(queue):\n"
            "    queue.put(b'x'); print('inside', flush=True); sys.stdin.read()\n"
        )
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        with python_programs.start("-c", program, backend.address, **pipes) as process:
            assert process.stdout.readline() == b"inside\n"
            with rnvm.connect(backend.address) as fe:
                structures.Queue(fe, "jobs").put(b"y")
                record = wait_for(logged, "fenced session")
            process.kill()
        assert record.levelno == logging.WARNING
        assert f"process {process.pid}" in record.getMessage()
        assert "it kept a lock that others wait for" in record.getMessage()


def test_a_pool_that_is_recovered(logged):
    program = (
        "import sys, os, signal, rnvm, structures\n"
        "backend = rnvm.Backend(sys.argv[1], size='8MiB', assume_persistent=True)\n"
        "fe = rnvm.connect(backend.address); queue = structures.Queue(fe, 'jobs')\n"
        "for i in range(10): queue.put(b'x')\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    with new_path("direct") as path:
        python_programs.run("-c", program, path)
        with open_backend(path):
            assert (
                wait_for(logged, "recovered: the pool had not been closed").levelno == logging.INFO
            )
            assert f"pool {path} recovered" in logged.text
