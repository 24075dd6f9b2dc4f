"""The cost of a GET by each paradigm, as `rfp tune` prints it."""

from __future__ import annotations

import os
from dataclasses import dataclass

import rfp
from rfp import address as addresses
from rfp.address import Address
from rfp.core import clock
from rfp.core.choices import MODES

PROBE_KEY, PROBE_VALUE = b"key", bytes(32)
WARM_UP_GETS = 200  # the client then knows the value's place, and a device has registered memory
GETS_AT_ONCE = 20  # between two looks at the clock
PARADIGMS = {"direct" if mode == "auto" else mode: mode for mode in MODES}


@dataclass
class Costs:
    """Seconds of a GET by each paradigm, and the paradigm that mode="auto" chooses."""

    seconds: dict[str, float]
    chosen: str


def measure(place: Address, seconds: float) -> Costs:
    """Measure GETs of 32 bytes from a private server on the device of an address.

    Args:
        place: of the device; a server there is not touched.
        seconds: for each paradigm.
    """
    path = "" if place.provider == "rdma" else addresses.unique().path
    private = Address(place.provider, path=path, host=place.host, port=0, options=place.options)
    secret = os.urandom(32).hex() if place.provider == "rdma" else None
    costs = Costs({}, "fetch")
    with rfp.Server("16MiB", address=private, secret=secret) as server:
        for paradigm, mode in PARADIGMS.items():
            with rfp.connect(server.address, mode=mode, timeout=10, secret=secret) as kv:
                kv.put(PROBE_KEY, PROBE_VALUE)
                for _ in range(WARM_UP_GETS):
                    kv.get(PROBE_KEY)
                if paradigm == "direct":
                    if kv.calibration["direct_ns"] is None:
                        continue
                    costs.chosen = "direct" if kv.calibration["gets"] == "direct" else "fetch"
                # The best of three: other load on the machine only ever slows it down.
                costs.seconds[paradigm] = min(_gets(kv, seconds / 3) for _ in range(3))
    return costs


def _gets(kv: rfp.Client, seconds: float) -> float:
    """Return the seconds of one GET, over so many seconds."""
    begun = now = clock.now()
    count = 0
    while now < begun + seconds:
        for _ in range(GETS_AT_ONCE):
            kv.get(PROBE_KEY)
        count += GETS_AT_ONCE
        now = clock.now()
    return (now - begun) / count
