"""How a front-end finds its back-end."""

from __future__ import annotations

import os

from rfp import units
from rfp.address import Address
from rfp.connecting import Opener
from rfp.control import Credentials
from rfp.errors import InvalidArgument, Unsupported
from rnvm.frontend._frontend import FrontEnd

LOCKS = ("sticky", "each", "cas")


def connect(
    address: str | Address,
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

    address: what `Backend.address` says.  durability: what a call that returns has made sure of: "persistent" (it survives any
    crash), "volatile" (others see it), "replicated" (also a mirror has it: not yet).  timeout: seconds that a call may take.
    reconnect: find the back-end again when it was lost.  cache: bytes of nodes that are kept here; 0: none.  oplog: write
    operations to the operation log first, and what they change in batches later; without it every operation writes its changes
    and, if there is no cache either, waits until the back-end has applied them.  lock: "sticky" (a writer lock is kept until
    others want it), "each" (it goes back after each operation), or "cas" (front-ends settle it by compare-and-swap: two round
    trips for each operation, and a call where another one was inside since).  The last three exist to be measured (AsymNVM,
    evaluation and section on concurrency); leave them alone otherwise.

    Over RDMA.  secret and what follows: as `rfp.connect` takes them.

    Raises ConnectionFailed if no back-end is there, QuotaExceeded if all sessions of the pool are taken, StorageFailed; for
    "cas" Unsupported where a device has no atomic operations.

    >>> import os, tempfile, rnvm
    >>> with rnvm.Backend(os.path.join(tempfile.mkdtemp(), "p"), size="4MiB", assume_persistent=True) as backend:
    ...     with rnvm.connect(backend.address) as fe:
    ...         fe.durability
    'persistent'
    """
    if durability == "replicated":
        raise Unsupported("this back-end has no mirrors", hint='durability="persistent"')
    if lock not in LOCKS:
        raise InvalidArgument(f"lock={lock!r}", hint=", ".join(LOCKS))
    return FrontEnd(
        Opener(address, "rnvm", credentials=Credentials.of(secret, secret_file, tls_cert, tls_key, tls_ca)),
        durability=durability,
        timeout=timeout,
        reconnect=reconnect,
        cache=units.size(cache) if cache else 0,
        oplog=oplog,
        lock=lock,
    )
