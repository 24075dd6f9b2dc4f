"""Promises of different processes of a host are compared: all use one clock."""

from __future__ import annotations

import json
import subprocess
import sys

import needed

OFFSET_S = 1_000_000  # by which CLOCK_BOOTTIME differs from CLOCK_MONOTONIC in the test

CLOCKS = """
import json, os, struct, sys, time
import rnvm
from rnvm.coordinator.registration import boot_time
from rnvm.group.driver import boot_now

LINE = 8192 + 2048 + 48  # `until` and `clock` of the replication line
folder = sys.argv[1]

def words():
    with open(f"{folder}/a", "rb") as file:
        file.seek(LINE)
        return struct.unpack("<QQ", file.read(16))

def until(fact):
    ends = time.monotonic() + 20
    while not (found := fact()):
        assert time.monotonic() < ends
    return found

options = {"size": "4MiB", "assume_persistent": True}
with rnvm.Backend(f"{folder}/a", _group=bytes(range(16)), _epoch=1, **options):
    found = dict(zip(("until", "clock"), until(lambda: all(words()) and words())))
with rnvm.Backend(f"{folder}/b", **options) as backend:
    with rnvm.Mirror(f"{folder}/c", of=backend.address) as mirror:
        mirror.wait_level(20)
        found["promised"] = until(lambda: mirror._follower.promised_at)
found["member"] = boot_now()
found["registration"] = boot_time() * 1e9
now = time.clock_gettime(time.CLOCK_BOOTTIME)
print(json.dumps({name: now - ns / 1e9 for name, ns in found.items()}))
"""


def test_serving_word_promise_and_leases_use_the_clock_that_goes_on_while_a_host_sleeps(folder):
    """On a host that never slept all clocks are alike; so the test moves one of them."""
    command = ["unshare", "--time", "--boottime", str(OFFSET_S), "--"]
    if subprocess.run([*command, "true"], capture_output=True, check=False).returncode:
        needed.absent("only root can make time namespaces")
    done = subprocess.run(
        [*command, sys.executable, "-c", CLOCKS, str(folder)],
        capture_output=True,
        text=True,
        timeout=50,
        check=True,
    )
    ages = json.loads(done.stdout)
    assert all(abs(age) < 60 for age in ages.values()), ages
