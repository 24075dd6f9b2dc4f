"""Concurrent readers see no torn value, no value of another key, and none older than one before."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from polling import until

import rfp

from .tagged_values import read_for, write_for

LEASE = 2.0  # seconds: of a busy machine's clients, none of which dies here


def compete(
    start: Callable[..., Any],
    server: rfp.Server,
    seconds: float,
    sizes: list[int],
    *,
    mode: str = "auto",
    writers: int = 2,
    readers: int = 2,
    keys_each: int = 5,
    processes: bool = True,
) -> None:
    """Run writers of their own keys and readers of all keys, each in a process (or a thread)."""
    owned = [[b"key %d %d" % (writer, i) for i in range(keys_each)] for writer in range(writers)]
    everything = [key for keys in owned for key in keys]
    jobs = [
        f"write_for(kv, {seconds}, {seed}, {keys!r}, {sizes!r})" for seed, keys in enumerate(owned)
    ]
    jobs += [
        f"read_for(kv, {seconds}, {seed}, {everything!r}, {max(sizes)})" for seed in range(readers)
    ]
    if processes:
        prelude = (
            f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
            "from tagged_values import read_for, write_for"
        )
        clients = [
            start("client", server.address, prelude=prelude, mode=mode, timeout=20) for _ in jobs
        ]
        for client, job in zip(clients, jobs):
            client.send(job)
        counts = [client.answer(seconds + 40) for client in clients]
    else:
        with rfp.connect(server.address, mode=mode, timeout=20) as kv:
            counts = run_in_threads(kv, jobs)
    assert all(counts), counts
    with rfp.connect(server.address, timeout=20) as kv:
        until(lambda: kv.stats()["pins"] == kv.stats()["uploads"] == 0)


def run_in_threads(kv: rfp.Client, jobs: list[str]) -> list[int]:
    counts: list[Any] = [None] * len(jobs)

    def run(i: int) -> None:
        try:
            counts[i] = eval(jobs[i], {"kv": kv, "read_for": read_for, "write_for": write_for})
        except BaseException as error:
            counts[i] = error

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for count in counts:
        if isinstance(count, BaseException):
            raise count
    return counts


SMALL = [36, 100, 1000, 2000]
MIXED = [36, 500, 2100, 5000, 100_000]
LARGE = [5000, 130_000, 300_000, 1_500_000]


@pytest.mark.parametrize("mode", ["auto", "fetch", "reply", "bypass"])
def test_readers_see_no_torn_or_foreign_value(start: Callable[..., Any], mode: str) -> None:
    with rfp.Server(memory="64MiB", workers=2, lease=LEASE) as server:
        compete(start, server, 0.8, MIXED, mode=mode, writers=1, readers=1)


@pytest.mark.parametrize("eviction", ["clock", "bucket"])
def test_readers_see_no_torn_or_foreign_value_under_eviction(
    start: Callable[..., Any], eviction: str
) -> None:
    with rfp.Server(memory="4MiB", eviction=eviction, lease=LEASE) as server:
        sizes = [36, 2000, 50_000, 300_000]
        with rfp.connect(server.address, timeout=20) as kv:
            for _ in range(20):  # a busy machine writes less than the memory in a second
                compete(start, server, 1.0, sizes, writers=1, readers=1, keys_each=40)
                if kv.stats()["evictions"]:
                    break
            assert kv.stats()["evictions"] > 0


def test_threads_of_one_handle_see_no_torn_or_foreign_value(start: Callable[..., Any]) -> None:
    with rfp.Server(memory="64MiB", workers=3, lease=LEASE) as server:
        compete(start, server, 1.0, MIXED, writers=3, readers=3, processes=False)


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("memory", ["8MiB", "128MiB"])
@pytest.mark.parametrize("sizes", [SMALL, MIXED, LARGE], ids=["small", "mixed", "large"])
@pytest.mark.parametrize("mode", ["auto", "fetch", "reply", "bypass"])
def test_readers_see_no_torn_or_foreign_value_in_long_runs(
    start: Callable[..., Any], mode: str, sizes: list[int], memory: str
) -> None:
    with rfp.Server(memory=memory, workers=2, lease=0.2) as server:
        compete(start, server, 10, sizes, mode=mode, writers=3, readers=3, keys_each=8)
