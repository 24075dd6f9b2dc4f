"""How a front-end finds its back-end."""

from __future__ import annotations

import hashlib
import os

from rfp import address as addresses
from rfp import units
from rfp.address import PATH_LIMIT, Address
from rfp.control import Credentials
from rfp.errors import InvalidAddress, Unsupported, bad_choice
from rfp.protocol.client.opener import Opener
from rnvm.frontend.frontend import FrontEnd

LOCKS = ("sticky", "each", "cas")


def address_of(pool: str | os.PathLike[str]) -> Address:
    """Where `rnvm serve` serves a pool unless it is given another address.

    That is POOL.socket beside it where its folder is this user's alone, else a socket in this user's run directory whose name
    is made of the pool's path.  Raises InvalidAddress where that directory cannot be used.
    """
    path = os.path.realpath(pool)
    beside = f"{path}.socket"
    try:
        if len(os.fsencode(beside)) <= PATH_LIMIT and addresses.check_private(os.path.dirname(path)):
            return Address("shm", path=beside)
    except InvalidAddress:
        pass
    return addresses.own("pool-" + hashlib.sha256(os.fsencode(path)).hexdigest()[:32])


def _find(address: str | os.PathLike[str] | Address) -> Address:
    """The address that is given, or that of the pool with this path."""
    if isinstance(address, Address) or (isinstance(address, str) and "://" in address):
        return addresses.parse(address)
    if not isinstance(address, (str, os.PathLike)) or not os.path.exists(address):
        raise InvalidAddress(
            f"invalid address {address!r}: neither an address nor the path of a pool",
            hint="write shm://PATH-OF-SOCKET, rdma://HOST:PORT, or the path of a pool that `rnvm serve` serves on this host",
        )
    return address_of(address)


def connect(
    address: str | os.PathLike[str] | Address,
    *,
    durability: str = "persistent",
    timeout: float = 5.0,
    reconnect: bool = True,
    cache: int | str = "64MiB",
    oplog: bool = True,
    lock: str = "sticky",
    secret: str | bytes | None = None,
    secret_file: str | os.PathLike[str] | None = None,
    tls_ca: str | os.PathLike[str] | None = None,
    tls_cert: str | os.PathLike[str] | None = None,
    tls_key: str | os.PathLike[str] | None = None,
) -> FrontEnd:
    """Connects to a back-end and returns the front-end in which structures are opened.

    address: what `Backend.address` says; or the path of a pool that `rnvm serve` serves on this host.  durability: what a call
    that returns has made sure of: "persistent" (it survives any crash), "volatile" (others see it), "replicated" (also a mirror
    has it: not yet).  timeout: seconds that a call may take, this one too.  reconnect: wait for a back-end that is not there
    yet, and find it again when it was lost.  cache: bytes of nodes that are kept here; 0: none.  oplog: write operations to the
    operation log first, and what they change in batches later; without it every operation writes its changes and, if there is
    no cache either, waits until the back-end has applied them.  lock: "sticky" (a writer lock is kept until
    others want it), "each" (it goes back after each operation), or "cas" (front-ends settle it by compare-and-swap: two round
    trips for each operation, and a call where another one was inside since).  The last three exist to be measured (AsymNVM,
    evaluation and section on concurrency); leave them alone otherwise.

    Over RDMA.  secret and what follows: as `rfp.connect` takes them.

    Raises ConnectionFailed if no back-end is there before the time is over (at once with reconnect=False), QuotaExceeded if all
    sessions of the pool are taken, or as many of them by this process as one process may have, StorageFailed; for
    "cas" Unsupported where a device has no atomic operations.

    >>> import os, tempfile, rnvm
    >>> with rnvm.Backend(os.path.join(tempfile.mkdtemp(), "p"), size="4MiB", assume_persistent=True) as backend:
    ...     with rnvm.connect(backend.address) as fe:
    ...         fe.durability
    'persistent'
    """
    if durability == "replicated":
        raise Unsupported("this back-end has no mirrors", hint='use durability="persistent"')
    if lock not in LOCKS:
        raise bad_choice("lock", lock, LOCKS)
    return FrontEnd(
        Opener(_find(address), "rnvm", credentials=Credentials.of(secret, secret_file, tls_cert, tls_key, tls_ca)),
        durability=durability,
        timeout=timeout,
        reconnect=reconnect,
        cache=units.size(cache) if cache else 0,
        oplog=oplog,
        lock=lock,
    )
