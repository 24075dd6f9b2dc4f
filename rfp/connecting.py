"""How a client finds its server: from an address, or the default one."""

from __future__ import annotations

import os

from rfp import address as addresses
from rfp.address import Address
from rfp.control import Credentials
from rfp.errors import bad_choice, out_of_bounds
from rfp.protocol.client.opener import Opener
from rfp.protocol.handshake_layout import BYPASS
from rfp.store.client.client import Client
from rfp.tools import tune

MODES = ("auto", "fetch", "reply", "bypass")


def connect(
    address: str | Address | None = None,
    *,
    timeout: float = 5.0,
    mode: str = "auto",
    reconnect: bool = True,
    fetch: int | None = None,
    retries: int | None = None,
    secret: str | bytes | None = None,
    secret_file: str | os.PathLike[str] | None = None,
    tls_ca: str | os.PathLike[str] | None = None,
    tls_cert: str | os.PathLike[str] | None = None,
    tls_key: str | os.PathLike[str] | None = None,
) -> Client:
    """Connects to a store and returns its client.

    address: `shm://PATH` or `rdma://HOST:PORT`, what `Server.address` says; None for this user's default server (`rfp serve`).
    timeout: seconds that a call may take unless it says otherwise.  mode: how results come back: "fetch" (the client READs
    them), "reply" (the server WRITEs them), "auto" (the first, until it costs too many READs) or "bypass" (GETs walk the
    server's index without it; needs allow_bypass there).  reconnect: find the server again when it was lost.  fetch, retries: the
    paper's F (bytes) and R, instead of those that `rfp tune` chose (RFP, section 3.2).

    Over RDMA.  secret: what the server was started with; secret_file: a file with it, of this user's alone (else that of
    $RFP_SECRET_FILE).  Each side proves to the other that it knows it.  tls_ca: PEM file of who signed the server's certificate,
    or "system": the control connection then speaks TLS.  tls_cert, tls_key: PEM files, where the server asks for a certificate.

    Raises ConnectionFailed if no server is there, HandshakeFailed if it does not fit, FabricError if there is no device for it.

    >>> import rfp
    >>> with rfp.Server(memory="16MiB") as server:
    ...     with rfp.connect(server.address) as kv:
    ...         kv.put(b"k", b"v") > 0
    True
    """
    if mode not in MODES:
        raise bad_choice("mode", mode, MODES)
    for option, value, least, most in (("fetch", fetch, 64, 1 << 20), ("retries", retries, 0, 1 << 20)):
        if value is not None and not (isinstance(value, int) and least <= value <= most):
            raise out_of_bounds(option, value, least, most)
    place = addresses.default() if address is None else addresses.parse(address)
    features = BYPASS if mode == "bypass" else 0
    credentials = Credentials.of(secret, secret_file, tls_cert, tls_key, tls_ca)
    opener = Opener(place, "kv", features=features, credentials=credentials)
    return Client(
        opener,
        timeout=timeout,
        mode=mode,
        reconnect=reconnect,
        fetch=fetch,
        retries=retries,
        tuned=tune.load(place, opener.fabric),
    )
