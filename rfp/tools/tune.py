"""The choice of R and F, as in section 3.2 of RFP: measure the device, sample sizes, enumerate.

R: failed fetches (counted once per round trip) that a call may cost before the server should reply.
F: bytes of the first READ; a longer result costs a second one.

The measurements of a device are kept in `$XDG_CONFIG_HOME/rfp/tune.json` (else `~/.config`), and
every `rfp.connect()` uses them.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from rfp import address as addresses
from rfp import control
from rfp.address import Address
from rfp.control import Credentials
from rfp.core import clock
from rfp.core.limits import LINE, SIZE_CLASSES, SLOT_BYTES_MAX
from rfp.fabric.fabric import Fabric
from rfp.fabric.provider import open_fabric
from rfp.protocol.client.connection import Connection
from rfp.protocol.wire import REFERENCE, RESPONSE_HEADER

VERSION = 1
# Fetching pays as long as it is this much faster than replying (the paper: 10 %).
GAIN = 1.1
RETRIES_MAX = 16
RESULT = 32  # bytes of a result when fetch is compared with reply, as in the paper
PROCESS_TIMES = (0, 500, 1000, 2000, 3000, 5000, 7000, 10000, 15000)  # ns

MEASURED = (*range(1, 17), 20, 24, 28, 32, 33)  # lines; a slot has 33


def steps() -> list[int]:
    """Return the steps that calibrate() reports, in order: sizes in lines, then times in ns."""
    return [*MEASURED, *PROCESS_TIMES]


def lines(value: int) -> int:
    """Return the size class of a response with a value of so many bytes, in lines.

    A value that does not fit into a slot counts as a reference.
    """
    size = RESPONSE_HEADER + (
        value if RESPONSE_HEADER + value <= MEASURED[-1] * LINE else REFERENCE
    )
    return (size + LINE - 1) // LINE


@dataclass
class Calibration:
    """The measurements of one device."""

    device: str
    rates: list[float]  # READs per second by size in lines; [0] is unused
    trip: float  # seconds of a call to a server without processing time
    times: list[int]  # ns of processing, for the two columns below
    fetch: list[float]  # calls per second when the client fetches
    reply: list[float]  # calls per second when the server replies
    most_retries: int  # N: the largest R that pays
    # "retries" and "fetch", as choose() returned.
    chosen: dict[str, int] = field(default_factory=dict)

    @property
    def emulated(self) -> bool:
        return "?" in self.device


def device(address: Address, fabric: Fabric) -> str:
    """Return the key of a device's measurements: its name, or on shm the emulated network."""
    if address.provider == "rdma":
        choice = fabric.choice  # type: ignore[attr-defined]  # only verbs has it
        return f"rdma {choice.device}:{choice.port}"
    text = str(address)
    return address.provider + (text[text.index("?") :] if "?" in text else "")


def calibrate(
    address: str | Address | None = None,
    *,
    seconds: float = 0.05,
    progress: Callable[[str], None] = lambda _: None,
) -> Calibration:
    """Measure I(F), and fetch against reply, on the device of an address.

    Only the address's options count; a server there is not touched.

    Args:
        address: of the device.
        seconds: for each measurement; there are about fifty.
        progress: called with a description of each measurement.
    """
    # Imported here: every rfp.connect() imports this module, to read the measurements.
    from rfp.protocol.server.server import Host
    from rfp.tools.tune_probe import SpinService, call_rate, read_rate

    place = addresses.unique() if address is None else addresses.parse(address)
    path = "" if place.provider == "rdma" else addresses.unique().path
    private = addresses.Address(
        place.provider, path=path, host=place.host, port=0, options=place.options
    )
    credentials = Credentials(secret=os.urandom(32))
    fabric = open_fabric(private)
    host = Host(private, fabric, [SpinService()], service="spin", credentials=credentials)
    try:
        connection = Connection(
            host.address,
            fabric,
            control.connect(host.address, clock.deadline_in(10), credentials),
            "spin",
            clock.deadline_in(10),
        )
        try:
            channel = connection.attach(clock.deadline_in(10))
            rates = [0.0] * SIZE_CLASSES
            for count in MEASURED:
                progress(f"READs of {count * LINE} bytes")
                rates[count] = _best(partial(read_rate, channel, count * LINE), seconds)
            _fill_gaps(rates)
            fetch: list[float] = []
            reply: list[float] = []
            for process in PROCESS_TIMES:
                progress(f"calls that take {process / 1000:g} us")
                for rates_of, replied in ((fetch, False), (reply, True)):

                    def answered(
                        part: float, process: int = process, replied: bool = replied
                    ) -> float:
                        return call_rate(channel, process, RESULT, replied, part)[0]

                    rates_of.append(_best(answered, seconds))
        finally:
            connection.close()
        name = device(place, fabric)
    finally:
        host.close()
        fabric.close()
    trip = 1 / fetch[0]
    worth = [each for each, f, r in zip(PROCESS_TIMES, fetch, reply, strict=True) if f >= GAIN * r]
    most_retries = max(1, min(RETRIES_MAX, round(max(worth, default=0) / 1e9 / trip)))
    return Calibration(name, rates, trip, list(PROCESS_TIMES), fetch, reply, most_retries)


def _best(measure: Callable[[float], float], seconds: float) -> float:
    """Return the best of three: other load on the machine only ever slows it down."""
    return max(measure(seconds / 3) for _ in range(3))


def _fill_gaps(rates: list[float]) -> None:
    """Interpolate the sizes that were not measured; those beyond a slot equal the largest."""
    known = [i for i, rate in enumerate(rates) if rate]
    for low, high in itertools.pairwise(known):
        for i in range(low + 1, high):
            rates[i] = rates[low] + (rates[high] - rates[low]) * (i - low) / (high - low)
    for i in range(known[-1] + 1, len(rates)):
        rates[i] = rates[known[-1]]


@dataclass
class Choice:
    """One row of the enumeration."""

    retries: int
    fetch: int  # bytes
    score: float  # T: results per second, summed over the samples


def enumerate_choices(
    calibration: Calibration, sizes: Sequence[int], process_ns: float = 0
) -> list[Choice]:
    """Return T for every (R, F), best first (RFP, section 3.2).

    A result that fits into F comes at rate I(F), a longer one at half of it.  A call whose
    processing takes longer than R round trips is not fetched but replied to.

    Args:
        calibration: of the device.
        sizes: number of results of each size, by lines (`rfp stats` samples them).
        process_ns: processing time of a call, in ns.
    """
    choices = []
    reply = _at(calibration.times, calibration.reply, process_ns)
    needed = process_ns / 1e9 / calibration.trip
    most = max((i for i, rate in enumerate(calibration.rates) if rate), default=1)
    for retries in range(1, calibration.most_retries + 1):
        for count in range(1, most + 1):
            score = 0.0
            for size, weight in enumerate(sizes):
                if not weight:
                    continue
                if needed > retries:
                    rate = reply
                else:
                    rate = calibration.rates[count] / (1 + needed)
                    rate = rate if size <= count else rate / 2
                score += weight * rate
            choices.append(Choice(retries, count * LINE, score))
    # Among equals, prefer more retries and less to fetch.
    return sorted(choices, key=lambda choice: (-choice.score, choice.fetch, -choice.retries))


def _at(xs: Sequence[int], ys: Sequence[float], x: float) -> float:
    for (x0, y0), (x1, y1) in zip(
        zip(xs, ys, strict=True), zip(xs[1:], ys[1:], strict=True), strict=False
    ):
        if x0 <= x <= x1:
            return y0 + (y1 - y0) * (x - x0) / (x1 - x0)
    return ys[-1]


def path() -> Path:
    """Return the path of the file of measurements."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "rfp" / "tune.json"


def save(calibration: Calibration) -> Path:
    """Save a calibration for all later connections of this user; return the path."""
    target = path()
    stored = _read(target)
    stored[calibration.device] = asdict(calibration)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_suffix(f".{os.getpid()}")
    temporary.write_text(json.dumps({"version": VERSION, "devices": stored}, indent=1))
    temporary.replace(target)
    return target


def load(address: Address, fabric: Fabric) -> Calibration | None:
    """Return the calibration of this address's device, or None if no usable file has one."""
    found = _read(path()).get(device(address, fabric))
    if not isinstance(found, dict):
        return None
    try:
        calibration = Calibration(**found)
        rates = [float(rate) for rate in calibration.rates]
        retries, fetch = (
            int(calibration.chosen.get("retries", 5)),
            int(calibration.chosen.get("fetch", 256)),
        )
    except (TypeError, ValueError, AttributeError):
        return None
    if (
        len(rates) != SIZE_CLASSES
        or not 1 <= retries <= 1000
        or not LINE <= fetch <= SLOT_BYTES_MAX
        or fetch % LINE
    ):
        return None
    calibration.rates, calibration.chosen = rates, {"retries": retries, "fetch": fetch}
    return calibration


def _read(target: Path) -> dict[str, Any]:
    try:
        stored = json.loads(target.read_text())
        return dict(stored["devices"]) if stored["version"] == VERSION else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
