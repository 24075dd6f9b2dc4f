"""Mirrors in sync: calls wait for all of them, their lag is shown, none of them needs Python."""

from __future__ import annotations

import concurrent.futures
import json
import os
import signal
from pathlib import Path

import pytest
from click.testing import CliRunner
from polling import until

import rnvm
from rnvm.cli import main
from rnvm.testing.sample_structure import Sample
from tests.frontend.processes import SOON, Process

from .copies import (
    mirror_of,
    mirror_process,
    mirrors,
    numbers,
    open_primary,
    replicated,
    replication,
    two_paths,
)

pytestmark = pytest.mark.anywhere


def test_a_replicated_call_waits_for_both_of_two_mirrors() -> None:
    with two_paths() as (path, copy):
        with (
            open_primary(path, mirror_patience=10 * SOON) as backend,
            rnvm.connect(backend.address, durability="replicated", timeout=SOON) as fe,
            mirror_of(backend, copy, name="one") as one,
            mirror_process(copy + "2", backend.address) as two,
            concurrent.futures.ThreadPoolExecutor(1) as thread,
        ):
            one.wait_level(SOON)
            sample = Sample(fe, "s")
            sample.add(1)
            two.stop()
            applied = one.stats()["applied"]
            call = thread.submit(sample.add, 1)
            try:
                until(lambda: one.stats()["applied"] > applied + 1)
                assert concurrent.futures.wait([call], 0.2).not_done
            finally:
                two.signal(signal.SIGCONT)
            assert call.result(SOON) == 2
        assert numbers(copy) == numbers(copy + "2") == (2, 2)


def status(backend: rnvm.Backend, *options: str) -> str:
    done = CliRunner().invoke(main, ["status", backend.address, *options])
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.shm
def test_the_status_shows_the_epoch_and_how_far_a_mirror_is_behind() -> None:
    with two_paths() as (path, copy):
        with (
            open_primary(path, mirror_patience=10 * SOON) as backend,
            rnvm.connect(backend.address, timeout=SOON) as fe,
            mirror_process(copy, backend.address) as mirror,
        ):
            sample = Sample(fe, "s")
            replicated(backend)
            mirror.stop()
            sample.add(1)
            until(lambda: replication(backend)["published"] > replication(backend)["acked"])
            shown = json.loads(status(backend, "--json"))
            assert shown["mirrors"][0]["lag_frames"] > 0
            assert shown["mirrors"][0]["lag_bytes"] > 0
            lines = {line.split()[0]: line for line in status(backend).splitlines() if line}
            assert lines["epoch"].split()[1] == str(shown["pool"]["replication"]["epoch"])
            assert "published" in lines["frames"]
            assert "frame" in lines[shown["mirrors"][0]["member"]]
            mirror.signal(signal.SIGCONT)
            until(lambda: not json.loads(status(backend, "--json"))["mirrors"][0]["lag_frames"])
            replicated(backend)
            with mirror_of(backend, copy + "2") as other:
                other.wait_level(SOON)
                replicated(backend)
                found = other.stats()
                assert found["epoch"] == replication(backend)["epoch"]
                assert found["lag_frames"] <= 1  # an empty frame may come now
        assert numbers(copy) == (1, 1)


# Keeps the GIL, as C code does that does not release it, from a signal until a byte comes.
BUSY_MIRROR = """
import ctypes, os, signal, sys, rnvm
libc = ctypes.PyDLL(None)
fifo = os.open(sys.argv[3], os.O_RDWR)

def busy(*_):
    print("busy", flush=True)
    libc.read(fifo, ctypes.create_string_buffer(1), 1)
    print("over", flush=True)

signal.signal(signal.SIGUSR1, busy)
with rnvm.Mirror(sys.argv[1], of=sys.argv[2]) as mirror:
    mirror.wait_level(60)
    print("level", flush=True)
    while True:
        signal.pause()
"""


def test_a_mirror_follows_while_its_process_holds_the_gil() -> None:
    with two_paths() as (path, copy):
        os.mkfifo(fifo := f"{copy}.fifo")
        with (
            open_primary(path, mirror_patience=10 * SOON) as backend,
            rnvm.connect(backend.address, durability="replicated", timeout=SOON) as fe,
            Process(BUSY_MIRROR, copy, backend.address, fifo) as mirror,
        ):
            mirror.wait_for(1)
            sample = Sample(fe, "s")
            sample.add(1)
            mirror.signal(signal.SIGUSR1)
            until(lambda: b"busy" in mirror.printed())
            for _ in range(100):
                sample.add(1)
            assert b"over" not in mirror.printed()
            assert list(mirrors(backend).values()) == ["in sync"]
            Path(fifo).write_bytes(b"!")
            until(lambda: b"over" in mirror.printed())
        assert numbers(copy) == (101, 101)
