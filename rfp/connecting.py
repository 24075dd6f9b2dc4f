"""How a client connects to its server: at an address, or at the default one."""

from __future__ import annotations

import os

from rfp import address as addresses
from rfp.address import Address
from rfp.control import Credentials
from rfp.core.choices import MODES
from rfp.core.limits import LINE, SLOT_BYTES_MAX
from rfp.errors import bad_choice, out_of_bounds
from rfp.protocol.client.opener import Opener
from rfp.protocol.wire import DIRECT_READS, NAMED_PLACES, VIEWS
from rfp.store.client.client import Client
from rfp.store.client.location_cache import LOCATIONS_MAX
from rfp.tools import tune


def connect(
    address: str | Address | None = None,
    *,
    timeout: float = 5.0,
    mode: str = "auto",
    reconnect: bool = True,
    fetch: int | None = None,
    retries: int | None = None,
    location_cache: int = 65536,
    secret: str | bytes | None = None,
    secret_file: str | os.PathLike[str] | None = None,
    tls_ca: str | os.PathLike[str] | None = None,
    tls_cert: str | os.PathLike[str] | None = None,
    tls_key: str | os.PathLike[str] | None = None,
) -> Client:
    """Connect to a store and return its client.

    Args:
        address: `shm://PATH` or `rdma://HOST:PORT`, as in `Server.address`; None for this user's
            default server (`rfp serve`).
        timeout: default limit of a call, in seconds.
        mode: how results come back: "fetch" (the client READs them), "reply" (the server WRITEs
            them), "auto" (GETs read the server's memory without the server: on one host always,
            over a network if they know the place of the value; else
            fetch, until it costs too many READs) or "bypass" (GETs walk the server's index by
            one-sided READs, as the systems do that the RFP paper compares itself with).
        reconnect: whether to connect again after the server was lost.
        fetch: for requests, the paper's F, in bytes, instead of the value that `rfp tune` chose
            (RFP, section 3.2).
        retries: for requests, the paper's R, instead of the value that `rfp tune` chose.
        location_cache: over a network, with mode="auto": number of keys whose places in the
            server's memory this handle remembers, 16 bytes each; 0: none.
        secret: over RDMA, the secret that the server was started with; each side proves to the
            other that it knows it.
        secret_file: a file with it, readable by this user alone (default: $RFP_SECRET_FILE).
        tls_ca: PEM file of the authority that signed the server's certificate, or "system"; the
            control connection then uses TLS.
        tls_cert: PEM file of the client's certificate, if the server requires one.
        tls_key: PEM file of its key.

    Raises:
        ConnectionFailed: no server listens at the address.
        HandshakeFailed: the server and this client are not compatible.
        FabricError: there is no device for the address.

    >>> import rfp
    >>> with rfp.Server(memory="16MiB") as server:
    ...     with rfp.connect(server.address) as kv:
    ...         kv.put(b"k", b"v") > 0
    True
    """
    if mode not in MODES:
        raise bad_choice("mode", mode, MODES)
    for option, value, least, most in (
        ("fetch", fetch, LINE, SLOT_BYTES_MAX),
        ("retries", retries, 0, 1 << 20),
        ("location_cache", location_cache, 0, LOCATIONS_MAX),
    ):
        if value is not None and not (isinstance(value, int) and least <= value <= most):
            raise out_of_bounds(option, value, least, most)
    place = addresses.default() if address is None else addresses.parse(address)
    features = VIEWS | (DIRECT_READS if mode in ("auto", "bypass") else 0)
    features |= NAMED_PLACES if mode == "auto" and location_cache else 0
    credentials = Credentials.of(secret, secret_file, tls_cert, tls_key, tls_ca)
    opener = Opener(place, "kv", features=features, credentials=credentials)
    return Client(
        opener,
        timeout=timeout,
        mode=mode,
        reconnect=reconnect,
        fetch=fetch,
        retries=retries,
        location_cache=location_cache,
        tuned=tune.load(place, opener.fabric),
    )
