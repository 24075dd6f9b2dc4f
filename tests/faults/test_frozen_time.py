"""Deadlines pass even if a library such as freezegun freezes the functions of `time`."""

from __future__ import annotations

import os
import tempfile
import threading
import time

import pytest

import rfp
import rnvm
import structures
from rfp.errors import DeadlineExceeded

from .processes import Process

FROZEN = ("time", "monotonic", "perf_counter")


@pytest.fixture
def frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Freeze the clocks as freezegun does: all return the same seconds since 1970."""
    for name in FROZEN:
        monkeypatch.setattr(time, name, lambda: 1_700_000_000.0)
        monkeypatch.setattr(time, f"{name}_ns", lambda: 1_700_000_000_000_000_000)


def test_servers_clients_and_pools_work_while_time_is_frozen(frozen: None) -> None:
    with (
        tempfile.TemporaryDirectory(dir=os.environ["TESTS_MEMORY"]) as folder,
        rfp.Server(memory="8MiB") as server,
        rfp.connect(server.address) as kv,
        rfp.RpcServer(bytes) as other,
        rfp.RpcClient(other.address) as rpc,
        rnvm.Backend(f"{folder}/p", size="4MiB", assume_persistent=True) as backend,
        rnvm.connect(backend.address) as fe,
    ):
        kv.put(b"k", b"v")
        thread = threading.Thread(target=kv.put, args=(b"k", b"w"))  # it attaches a channel
        thread.start()
        thread.join()
        assert kv.get(b"k") == b"w" and rpc.call(b"1") == b"1"
        queue = structures.Queue(fe, "q")
        queue.put(b"v")
        assert queue.get() == b"v"


def test_versions_grow_over_restarts_while_time_is_frozen(frozen: None) -> None:
    versions = []
    for _ in range(2):
        with rfp.Server(memory="8MiB") as server, rfp.connect(server.address) as kv:
            versions += [kv.put(b"k", b"v"), kv.put(b"k", b"w")]
    assert versions == sorted(set(versions))


def test_a_deadline_passes_while_time_is_frozen(frozen: None, start: object) -> None:
    server: Process = start("server")  # type: ignore[operator]
    with rfp.connect(server.address) as kv:
        server.stop()
        with pytest.raises(DeadlineExceeded):
            kv.get(b"k", timeout=0.2)  # the first call, which waits on the control channel
        server.resume()
        assert kv.get(b"k") is None
