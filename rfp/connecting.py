"""How a client finds its server: from an address, or the default one."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from rfp import address as addresses
from rfp import tune
from rfp._client import Client
from rfp._fabric import Fabric
from rfp.address import Address
from rfp.errors import InvalidArgument
from rfp.protocol.link import BYPASS, Link
from rfp.provider import open_fabric

MODES = ("auto", "fetch", "reply", "bypass")


def opener(
    address: str | Address | None, service: str, *, features: int = 0, fabric: Fabric | None = None
) -> Callable[[int], Link]:
    """What a handle calls, with a deadline (ns), to connect and to connect again."""
    place = addresses.default() if address is None else addresses.parse(address)
    used = fabric or open_fabric(place)
    name = os.path.basename(sys.argv[0] or "python") if sys.argv else "python"
    return lambda deadline: Link(place, used, service, deadline, features=features, name=name)


def connect(
    address: str | Address | None = None,
    *,
    timeout: float = 5.0,
    mode: str = "auto",
    reconnect: bool = True,
    fetch: int | None = None,
    retries: int | None = None,
) -> Client:
    """Connects to a store and returns its client.

    address: `shm://PATH`, what `Server.address` says; None for this user's default server (`rfp serve`).  timeout: seconds
    that a call may take unless it says otherwise.  mode: how results come back: "fetch" (the client READs them), "reply" (the
    server WRITEs them), "auto" (the first, until it costs too many READs) or "bypass" (GETs walk the server's index without it;
    needs allow_bypass there).  reconnect: find the server again when it was lost.  fetch, retries: the paper's F (bytes) and R,
    instead of those that `rfp tune` chose (RFP, section 3.2).

    Raises ConnectionFailed if no server is there, HandshakeFailed if it does not fit.

    >>> import rfp
    >>> with rfp.Server(memory="16MiB") as server:
    ...     with rfp.connect(server.address) as kv:
    ...         kv.put(b"k", b"v") > 0
    True
    """
    if mode not in MODES:
        raise InvalidArgument(f"mode={mode!r} is not a way to get results", hint=", ".join(MODES))
    for option, value, least, most in (("fetch", fetch, 64, 1 << 20), ("retries", retries, 0, 1 << 20)):
        if value is not None and not (isinstance(value, int) and least <= value <= most):
            raise InvalidArgument(f"{option}={value!r}", hint=f"a whole number from {least} to {most}")
    place = addresses.default() if address is None else addresses.parse(address)
    features = BYPASS if mode == "bypass" else 0
    return Client(
        opener(place, "kv", features=features),
        timeout=timeout,
        mode=mode,
        reconnect=reconnect,
        fetch=fetch,
        retries=retries,
        tuned=tune.load(place),
    )
