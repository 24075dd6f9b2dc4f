"""The client's side of test_two_hosts.py, in a machine of its own: across.py ADDRESS."""

import random
import sys
import time

import rfp
from rfp.errors import ConnectionFailed

PATIENCE = 120  # seconds for the other machine to boot and its server to start


def connected(address: str) -> rfp.Client:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            kv = rfp.connect(address, timeout=30, reconnect=False)
            kv.ping()
            return kv
        except rfp.errors.RfpError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


with connected(sys.argv[1]) as kv:
    value = random.Random(1).randbytes(300_000)
    kv.put(b"large", value)
    assert kv.get(b"large") == value
    kv.put(b"small", b"1")
    print("exchanged", flush=True)
    answered = time.monotonic()
    try:
        while time.monotonic() < answered + 60:
            assert kv.get(b"small") == b"1"
            answered = time.monotonic()
            print("answered", flush=True)
    except ConnectionFailed as error:
        print(f"lost {time.monotonic() - answered:.2f} {type(error).__name__} {error}", flush=True)
