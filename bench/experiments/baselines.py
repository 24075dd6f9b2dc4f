"""The peers' sides: each a context manager that yields the function of one round.

A side that cannot be measured here raises PeerMissing, which names the package to install.
"""

from __future__ import annotations

import contextlib
import ctypes
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from typing import Any

from bench._ring_baseline import RingBaseline
from bench._workload import Stream, Workload
from bench.experiments.keys import all_keys, drawn, properties
from bench.experiments.rows import Figures, Setting, Side
from bench.experiments.timing import CHUNK, clock, many_at_a_time, median_of, one_at_a_time
from bench.peers import memcached, redis
from bench.peers.process import package, program
from bench.placement import pinned
from rfp.errors import RfpError

BASELINE_VALUE = bytes(32)


@contextlib.contextmanager
def redis_benchmark(setting: Setting, *, pipeline: int = 64, tcp: bool = True) -> Iterator[Side]:
    """Yield redis-benchmark's GETs of 32 B, `pipeline` at a time on each of its connections:
    {"rate": GETs per second}.

    tcp: over loopback, its default; else over a Unix socket.
    """
    tool = program("redis-benchmark", "redis-tools")
    with redis.start(setting.server, tcp=tcp) as server:
        where = ["-p", str(server.port)] if tcp else ["-s", server.socket]

        def call(count: int) -> float:
            command = [tool, *where, "-P", str(pipeline), "-t", "get", "-n", str(count), "-d", "32"]
            with pinned(setting.client):
                done = subprocess.run(
                    [*command, "-r", str(setting.records), "--csv"],
                    capture_output=True,
                    text=True,
                    timeout=120,
                )
            return benchmark_rate(done.stdout, done.stderr)

        server.load(f"SET key:{number:012} {'x' * 32}" for number in range(setting.records))
        yield lambda: {"rate": call(setting.count(1_000_000, 10_000))}


def benchmark_rate(out: str, errors: str = "") -> float:
    """Return the requests per second in redis-benchmark's CSV; raise RfpError if it contains
    none."""
    for line in out.splitlines():
        cells = [cell.strip('"') for cell in line.split(",")]
        if len(cells) > 1 and cells[0].split()[0:1] in (["GET"], ["SET"]):
            return float(cells[1])
    raise RfpError(f"redis-benchmark printed no result: {(errors or out).strip()[-200:]!r}")


@contextlib.contextmanager
def pylibmc_client(setting: Setting) -> Iterator[Any]:
    """Yield a pylibmc client of a private memcached that contains all records."""
    pylibmc = package("pylibmc")
    with memcached.start(setting.server) as server:
        client = pylibmc.Client([server.socket])
        for key in all_keys(setting.records):
            client.set(key, BASELINE_VALUE)
        yield client
        client.disconnect_all()


@contextlib.contextmanager
def pylibmc_get(setting: Setting) -> Iterator[Side]:
    """Yield get of 32 B, one at a time: {"rate", "p50"}."""
    with pylibmc_client(setting) as client:
        yield one_at_a_time(setting, client.get, 60_000, 10_000)


@contextlib.contextmanager
def pylibmc_get_multi(setting: Setting, size: int = 64) -> Iterator[Side]:
    """Yield get_multi of `size` keys of 32 B values: {"rate": keys per second}."""
    with pylibmc_client(setting) as client:
        yield many_at_a_time(setting, client.get_multi, 300_000, size)


@contextlib.contextmanager
def lmdb_get(
    setting: Setting,
    value: bytes = BASELINE_VALUE,
    *,
    records: int = 0,
    requests: str = "zipfian",
) -> Iterator[Side]:
    """Yield LMDB in this process, one read transaction per get: {"rate", "p50"}.  records: 0: those
    of the setting."""
    lmdb = package("lmdb")
    records = records or setting.records
    keys, timed = (
        drawn(setting.count(400_000), records, requests),
        drawn(setting.count(100_000), records, requests),
    )
    path = tempfile.mkdtemp(prefix="rfp-experiment-lmdb-")
    try:
        environment = lmdb.open(path, map_size=1 << 30, sync=False, metasync=False, writemap=True)
        with environment.begin(write=True) as transaction:
            for key in all_keys(records):
                transaction.put(key, value)
        begin = environment.begin

        def get(key: bytes) -> Any:
            with begin() as transaction:
                return transaction.get(key)

        def side() -> Figures:
            with pinned(setting.client):
                began = now = clock()
                until = began + int(setting.seconds * 1e9)
                done = 0
                while done < len(keys) and now < until:
                    # inline, without the cost of a function of ours
                    for key in keys[done : done + CHUNK]:
                        with begin() as transaction:
                            transaction.get(key)
                    done += CHUNK
                    now = clock()
                rate = min(done, len(keys)) * 1e9 / (now - began)
                return {"rate": rate, "p50": median_of(get, timed, setting.seconds)}

        yield side
        environment.close()
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def memcpy(setting: Setting, size: int = 1 << 20, spread: int = 16) -> Iterator[Side]:
    """Yield the C library's memcpy of `size` bytes, from `spread` places by turns: {"rate": bytes
    per second of the median call}."""
    sources = [ctypes.create_string_buffer(bytes([at + 1]) * size, size) for at in range(spread)]
    target = ctypes.create_string_buffer(size)
    turns = [sources[at % spread] for at in range(setting.count(3000, spread))]

    def side() -> Figures:
        with pinned(setting.client):
            return {
                "rate": size
                / median_of(
                    lambda source: ctypes.memmove(target, source, size), turns, setting.seconds
                )
            }

    yield side


@contextlib.contextmanager
def bare_ring(setting: Setting, *, window: int) -> Iterator[Side]:
    """Yield two pinned threads, a ring of cache lines, a bucket probe: {"rate", "p50"}."""
    stream = Stream(Workload(properties(setting.records)))
    stream.predraw(setting.count(100_000, 1000))

    def side() -> Figures:
        ring = RingBaseline(setting.records)

        def serve() -> None:
            with pinned(setting.server):
                ring.serve()

        server = threading.Thread(target=serve, daemon=True)
        server.start()
        try:
            with pinned(setting.client):
                seconds, latencies, right = ring.ask(stream, window=window, seconds=setting.seconds)
        finally:
            ring.stop()
            server.join(10)
        if right != latencies.count:
            raise RfpError(
                f"the baseline answered {latencies.count - right} of {latencies.count} requests "
                "wrongly"
            )
        return {"rate": latencies.count / seconds, "p50": latencies.percentile(50) / 1e9}

    yield side
