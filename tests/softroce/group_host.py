"""One host of the group of test_group_hosts.py, in a machine: group_host.py NAME SECRET [NUMBER].

It runs the commands of docs/groups.md.  Host a (10.2.0.1) makes the pool and the group, and is the
first primary; a front-end there reads.  Host b (10.2.0.2) runs etcd, a mirror, and a front-end that
adds until b is the primary and NUMBER members are in sync.  Both print their calls.
"""

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request

import rnvm
from rfp.errors import GroupNotFound, OutcomeUnknown
from rnvm.coordinator.contract import Coordinator
from rnvm.coordinator.opening import open_coordinator
from rnvm.group import state
from rnvm.testing.sample_structure import Sample

ETCD = "10.2.0.2:2379"
GROUP = f"etcd://{ETCD}/orders"
PATIENCE_S = 120  # for the other machine, and for programs that start slowly here
# A machine's memory, where a mirror writes fast enough.
os.chdir("/dev/shm")


def run(*command: str) -> None:
    subprocess.run(command, check=True, timeout=PATIENCE_S)


def until(fact, what: str):
    deadline = time.monotonic() + PATIENCE_S
    while not (found := fact()):
        if time.monotonic() > deadline:
            raise SystemExit(f"{what}: not within {PATIENCE_S} s")
        time.sleep(0.1)
    return found


def until_etcd_answers(etcd: str) -> None:
    def answers() -> bool:
        try:
            with urllib.request.urlopen(f"http://{etcd}/health", timeout=5) as answer:
                return b"true" in answer.read()
        except OSError:
            return False

    until(answers, "etcd")


def start_etcd(etcd: str) -> None:
    subprocess.Popen(
        ["etcd", "--data-dir", "etcd", "--log-level", "error",
         "--listen-client-urls", f"http://{etcd}", "--advertise-client-urls", f"http://{etcd}"]
    )  # fmt: skip
    until_etcd_answers(etcd)


def seen(coordinator: Coordinator) -> state.GroupState | None:
    try:
        return state.decode(coordinator.read().value, "the group")
    except GroupNotFound:
        return None


def serve(name: str, address: str, secret: str) -> subprocess.Popen:
    return subprocess.Popen(
        ["rnvm", "serve", "orders.pool", "--group", GROUP, "--member", name, "--address", address,
         "--secret-file", secret, "--mirror-patience", "5"]
    )  # fmt: skip


def host_a(secret: str) -> None:
    run("rnvm", "create", "orders.pool", "--size", "4MiB", "--assume-persistent")
    until_etcd_answers(ETCD)
    run("rnvm", "group", "create", GROUP, "--pool", "orders.pool", "--member", "a",
        "--min-mirrors", "0")  # fmt: skip
    serve("a", "rdma://10.2.0.1:7002", secret)
    with rnvm.connect(GROUP, secret_file=secret, timeout=PATIENCE_S) as fe:
        sample = Sample(fe, "s")
        while True:
            began = boot_s()
            value = sample.numbers()[0]
            print(f"read {value} {began:.2f} {boot_s():.2f}", flush=True)
            time.sleep(0.1)


def boot_s() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def host_b(secret: str, number: str) -> None:
    start_etcd(ETCD)
    coordinator = open_coordinator(GROUP, timeout=PATIENCE_S)
    until(lambda: seen(coordinator), "the group")
    serve("b", "rdma://10.2.0.2:7002", secret)
    with rnvm.connect(GROUP, secret_file=secret, timeout=PATIENCE_S) as fe:
        sample = Sample(fe, "s")
        until(lambda: len(seen(coordinator).in_sync) == 2, "the mirror")  # type: ignore[union-attr]
        print("in sync", flush=True)
        left = 5  # calls
        while left:
            try:
                answer = str(sample.add(1))
            except OutcomeUnknown:
                answer = "?"
            now = seen(coordinator)
            in_sync = len(now.in_sync)  # type: ignore[union-attr]
            print(f"added {answer} {now.primary} {in_sync}", flush=True)  # type: ignore[union-attr]
            left -= now.primary == "b" and in_sync == int(number)  # type: ignore[union-attr]
        print(f"ended {sample.numbers()[0]}", flush=True)


if __name__ == "__main__":
    {"a": host_a, "b": host_b}[sys.argv[1]](*sys.argv[2:])
