"""Direct reads: gets that the client answers from the server's memory."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack

import rfp
from bench.experiments import baselines, store
from bench.experiments.keys import all_keys
from bench.experiments.other_process import OtherProcess
from bench.experiments.rows import Figures, Row, Setting, Side, take_turns
from bench.experiments.timing import many_at_a_time, one_at_a_time
from bench.peers.process import PeerMissing

QUESTION = (
    "How fast is a direct get of 32 B, compared with LMDB and with requests: on a quiet machine, "
    "with a busy process on each CPU, with a stopped server, and in two processes?"
)

SPIN_CODE = """
import os, sys, threading
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
print("ready", flush=True)
while True: pass
"""
SERVER_CODE = """
import sys, rfp
with rfp.Server("256MiB") as server:
    print(server.address, flush=True)
    sys.stdin.read()
"""
READER_CODE = """
import sys, time, rfp
address, seconds, keys = sys.argv[1], float(sys.argv[2]), sys.argv[3].encode().split(b",")
with rfp.connect(address) as kv:
    kv.ping()
    for key in keys: assert kv.get(key) is not None
    print("ready", flush=True)
    while sys.stdin.readline():
        get, done, began = kv.get, 0, time.perf_counter()
        while time.perf_counter() < began + seconds:
            for key in keys: get(key)
            done += len(keys)
        print(done / (time.perf_counter() - began), flush=True)
"""


def measure(setting: Setting) -> list[Row]:
    """Measure quiet and busy by turns."""
    quiet, why = sides_in_turn(setting)
    with busy_cpus():
        busy, _ = sides_in_turn(setting)
    stopped = rate_of_a_stopped_server(setting)
    one, two = (rate_of_readers(setting, count) for count in (1, 2))
    direct, requests = quiet["direct"]["rate"], quiet["requests"]["rate"]
    in_lmdb = {key: found.get("lmdb", {}).get("rate") for key, found in (("q", quiet), ("b", busy))}
    many, many_requests = quiet["many"]["rate"], quiet["many requests"]["rate"]
    peer = "LMDB, a transaction per get"
    return [
        Row("direct get, 32 B", direct, "op/s", in_lmdb["q"], peer, 3, why=why),
        Row("direct get, 32 B", direct, "op/s", requests, "the same by requests"),
        Row(
            "direct get, busy CPUs", busy["direct"]["rate"], "op/s", in_lmdb["b"], peer, 2, why=why
        ),
        Row(
            "get by requests, busy CPUs",
            busy["requests"]["rate"],
            "op/s",
            in_lmdb["b"],
            peer,
            why=why,
        ),
        Row("direct get, stopped server", stopped, "op/s", direct, "running server", 0.9),
        Row("direct get_many of 64", many, "key/s", many_requests, "the same by requests", 1.5),
        Row("direct get, 2 processes", two, "op/s", one, "1 process", 1.8),
    ]


def sides_in_turn(setting: Setting) -> tuple[dict[str, Figures], str]:
    """Return the medians of all sides, and the reason if LMDB is missing."""
    sides: dict[str, Side] = {}
    why = ""
    with ExitStack() as stack:
        direct = stack.enter_context(store.loaded(setting))
        requests = stack.enter_context(store.loaded(setting, mode="fetch"))
        sides["direct"] = one_at_a_time(setting, direct.get, 2_000_000, 100_000)
        sides["requests"] = one_at_a_time(setting, requests.get, 400_000, 100_000)
        sides["many"] = many_at_a_time(setting, direct.get_many, 1_000_000, 64)
        sides["many requests"] = many_at_a_time(setting, requests.get_many, 1_000_000, 64)
        try:
            sides["lmdb"] = stack.enter_context(baselines.lmdb_get(setting))
        except PeerMissing as error:
            why = str(error)
        return take_turns(sides, setting.rounds), why


@contextlib.contextmanager
def busy_cpus() -> Iterator[None]:
    """Keep each CPU of this machine busy with one spinning process."""
    with ExitStack() as stack:
        for cpu in sorted(os.sched_getaffinity(0)):
            stack.enter_context(OtherProcess(SPIN_CODE, cpus=frozenset([cpu]))).hear()
        yield


def rate_of_a_stopped_server(setting: Setting) -> float:
    """Return the rate of direct gets while the server's process is stopped."""
    with ExitStack() as stack:
        server = stack.enter_context(OtherProcess(SERVER_CODE, cpus=setting.server))
        kv = stack.enter_context(rfp.connect(server.hear(), timeout=30))
        store.fill(kv, setting)
        side = one_at_a_time(setting, kv.get, 2_000_000, 1000)
        os.kill(server.pid, signal.SIGSTOP)
        stack.callback(os.kill, server.pid, signal.SIGCONT)
        return take_turns({"stopped": side}, setting.rounds)["stopped"]["rate"]


def rate_of_readers(setting: Setting, count: int) -> float:
    """Return the sum of the rates of `count` reading processes, each on a CPU of its own."""
    cpus = sorted(os.sched_getaffinity(0))
    with ExitStack() as stack:
        server = stack.enter_context(OtherProcess(SERVER_CODE))
        address = server.hear()
        with rfp.connect(address) as kv:
            store.fill(kv, setting)
        keys = b",".join(all_keys(setting.records)[:1000]).decode()
        readers = [
            stack.enter_context(
                OtherProcess(
                    READER_CODE,
                    address,
                    str(setting.seconds),
                    keys,
                    cpus=frozenset([cpus[i % len(cpus)]]),
                )
            )
            for i in range(count)
        ]
        for reader in readers:
            reader.hear()

        def side() -> Figures:
            for reader in readers:
                reader.send("go")
            return {"rate": sum(float(reader.hear()) for reader in readers)}

        return take_turns({"readers": side}, setting.rounds)["readers"]["rate"]
