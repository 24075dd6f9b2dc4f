"""One host of the group of test_cuts.py, in a machine: cut_host.py a|b|c SECRET PORT.

Hosts a (10.2.0.1) and b (10.2.0.2) have a member each; a makes the pool and the group.  Host c
(10.2.0.3) has etcd, and prints the group's state whenever it changes.  Hosts a and c have two
front-ends each that call all the time and print their calls: one adds to a counter of this host,
and one reads the other host's.
"""

import os
import socket
import sys
import threading
import time

from group_host import PATIENCE_S, boot_s, seen, start_etcd, until, until_etcd_answers

import rnvm
from rfp.errors import RfpError
from rnvm import pools
from rnvm.coordinator.opening import open_coordinator
from rnvm.group import admin, driver
from rnvm.group.member import SECOND_NS, Times
from rnvm.testing.sample_structure import Sample

ETCD = "10.2.0.3:2379"
GROUP = f"etcd://{ETCD}/orders"
ADDRESSES = {
    name: f"rdma://10.2.0.{number}:7002?patience=5s" for name, number in (("a", 1), ("b", 2))
}
# Longer than the defaults, so that a busy computer does not look like a cut network.
LEASE_S = PATIENCE_LONG_S = 5
CALL_S = 20  # time-out of a front-end's calls
PAUSE_S = 0.2  # between two calls

told = 0  # the last time of the network that was received


def report(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def listen(port: int) -> None:
    """Receive the network's times."""
    global told
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as clock:
        clock.bind(("", port))
        while True:
            told = max(told, int(clock.recv(64)))


def member(name: str, secret: str) -> None:
    driver.LEASE_S = LEASE_S
    with rnvm.GroupMember(
        "orders.pool", group=GROUP, member=name, address=ADDRESSES[name], secret_file=secret,
        lease=LEASE_S, mirror_patience=PATIENCE_LONG_S,
        times=Times(patience=PATIENCE_LONG_S * SECOND_NS),
        on_change=lambda role: report("role", role),
    ):  # fmt: skip
        threading.Event().wait()


def call(kind: str, counter: str, secret: str) -> None:
    def opened() -> Sample | None:
        try:
            return Sample(rnvm.connect(GROUP, secret_file=secret, timeout=CALL_S), counter)
        except RfpError:
            return None

    sample = until(opened, "a primary")
    while True:
        began, at = told, boot_s()
        try:
            answer: object = sample.add(1) if kind == "add" else sample.numbers()[0]
        except RfpError as error:
            answer = f"{type(error).__name__} {error}"
        report(kind, began, f"{at:.2f}", f"{boot_s() - at:.2f}", answer)
        time.sleep(PAUSE_S)


def watch() -> None:
    coordinator = open_coordinator(GROUP, timeout=PATIENCE_S)
    last = None
    while True:
        state = seen(coordinator)
        if state is not None:
            in_sync = sorted(each.member for each in state.in_sync)
            now = state.epoch, state.primary, ",".join(in_sync)
            if now != last:
                report("state", *now)
                last = now
        time.sleep(0.2)


def host(name: str, secret: str, port: str) -> None:
    if name == "c":
        start_etcd(ETCD)
        threading.Thread(target=watch).start()
    else:
        if name == "a":
            pools.create("orders.pool", "6MiB", front_ends=8, assume_persistent=True)
        until_etcd_answers(ETCD)
        if name == "a":
            admin.create_group(GROUP, "orders.pool", member="a", min_mirrors=0)
        with open_coordinator(GROUP, timeout=PATIENCE_S) as coordinator:
            until(lambda: seen(coordinator), "the group")
        if os.fork() == 0:
            member(name, secret)
    threading.Thread(target=listen, args=(int(port),)).start()
    if name != "b":
        other = "c" if name == "a" else "a"
        for kind, counter in (("add", name), ("read", other)):
            threading.Thread(target=call, args=(kind, counter, secret)).start()


if __name__ == "__main__":
    host(*sys.argv[1:])
