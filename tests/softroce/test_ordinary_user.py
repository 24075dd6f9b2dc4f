"""Verbs for a user without privileges, whose processes may pin 8 MiB: root has no such limit."""

from __future__ import annotations

import os
import resource

import pytest

import rfp
from rfp.errors import FabricError
from rfp.fabric.fabric import REMOTE_READ

pytestmark = [pytest.mark.ordinary]

MIB = 1 << 20


@pytest.fixture
def limit():
    assert os.geteuid() != 0, (
        "run this as an ordinary user: scripts/softroce --user -- pytest -m ordinary"
    )
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    assert soft == 8 * MIB
    return soft


@pytest.fixture
def fabric():
    from rfp._verbs import VerbsFabric

    with VerbsFabric("10.0.0.1") as fabric:
        yield fabric


def test_memory_beyond_the_limit_is_refused_with_a_hint(limit, fabric):
    with pytest.raises(FabricError, match=r"ulimit -l") as refused:
        fabric.register(limit + MIB, REMOTE_READ)
    assert "memlock unlimited" in refused.value.hint


def test_pinned_memory_counts_until_it_is_released(limit, fabric):
    for _ in range(3):
        with fabric.register(limit // 2, REMOTE_READ):
            with pytest.raises(FabricError, match=r"ulimit -l"):
                fabric.register(limit // 2 + MIB, REMOTE_READ)


def test_a_store_within_the_limit_serves_values_of_every_kind(limit):
    with (
        rfp.Server(memory="2MiB", address="rdma://10.0.0.1:0", no_auth=True) as server,
        rfp.connect(server.address, timeout=60) as kv,
    ):
        for size in (1, 3000, 200_000):
            kv.put(b"k", bytes(range(256)) * (size // 256 + 1))
            assert kv.get(b"k") == bytes(range(256)) * (size // 256 + 1)


def test_the_error_of_a_store_beyond_the_limit_has_a_hint(limit):
    """The server starts, since it pins memory only for READs of clients.

    The READ that would need too much memory fails with the reason.
    """
    with rfp.Server(memory="128MiB", address="rdma://10.0.0.1:0", no_auth=True) as server:
        with rfp.connect(server.address, timeout=60) as kv:
            kv.put(b"k", bytes(MIB))
            with pytest.raises(rfp.errors.RfpError, match=r"ulimit -l"):
                kv.get(b"k")
