"""`rnvm.connect`: find a back-end and connect to it."""

from __future__ import annotations

import hashlib
import os
import shlex

from rfp import address as addresses
from rfp import units
from rfp.address import PATH_LIMIT, Address
from rfp.control import Credentials
from rfp.core import clock
from rfp.errors import ConnectionFailed, InvalidAddress, bad_choice
from rfp.fabric.fabric import Fabric
from rfp.protocol.client.connection import Connection
from rfp.protocol.client.opener import Opener
from rnvm.coordinator.address import CoordinatorAddress, is_coordinator, parse
from rnvm.coordinator.opening import open_coordinator
from rnvm.frontend.frontend import FrontEnd
from rnvm.group import registered, state
from rnvm.group.state import Listed

LOCKS = ("sticky", "each", "cas")
CALL_S = 5.0
GROUP_TIMEOUT_S = 15.0  # a failover takes some seconds
MEMBERS = "start its members (rnvm serve POOL --group), or wait until one of them is the primary"


def address_of(pool: str | os.PathLike[str]) -> Address:
    """Return the address at which `rnvm serve` serves a pool by default.

    That is POOL.socket beside the pool if its folder is this user's alone, else a socket in this
    user's run directory whose name is made of the pool's path.

    Raises:
        InvalidAddress: The run directory cannot be used.
    """
    path = os.path.realpath(pool)
    beside = f"{path}.socket"
    try:
        if len(os.fsencode(beside)) <= PATH_LIMIT and addresses.check_private(
            os.path.dirname(path)
        ):
            return Address("shm", path=beside)
    except InvalidAddress:
        pass
    return addresses.own("pool-" + hashlib.sha256(os.fsencode(path)).hexdigest()[:32])


def _find(address: str | os.PathLike[str] | Address) -> tuple[Address, str]:
    """Return the given address, or that of the pool with this path; and how to start a back-end."""
    if isinstance(address, Address) or (isinstance(address, str) and "://" in address):
        found = addresses.parse(address)
        return found, f"start one: rnvm serve POOL --address {shlex.quote(str(found))}"
    if not isinstance(address, (str, os.PathLike)) or not os.path.exists(address):
        raise InvalidAddress(
            f"invalid address {address!r}: neither an address nor the path of a pool",
            hint="write shm://PATH-OF-SOCKET, rdma://HOST:PORT, or the path of a pool that "
            "`rnvm serve` serves on this host",
        )
    return address_of(address), f"start one: rnvm serve {shlex.quote(os.fspath(address))}"


class GroupOpener:
    """A function that a front-end calls, with a deadline (ns), for each connection to a primary.

    Each call reads the group's state, so the next one finds the primary after a failover.

    Args:
        address: Of the group.
        credentials: Of this client, at each member.
    """

    def __init__(
        self, address: CoordinatorAddress | str, credentials: Credentials | None = None
    ) -> None:
        self.address = parse(address)
        self._credentials = credentials
        self._openers: dict[str, Opener] = {}

    def __call__(self, deadline: int) -> Connection:
        left = min(max(0.001, (deadline - clock.now_ns()) / 1e9), 3600.0)
        where = f"group {self.address.group}"
        try:
            with open_coordinator(self.address, timeout=left) as coordinator:
                found = state.decode(coordinator.read().value, where)
                members = coordinator.members()
        except OSError as error:
            raise ConnectionFailed(f"cannot find the primary of {where}: {error}") from error
        identity = None if found.primary is None else found.identity_of(found.primary)
        if found.primary is None or identity is None:
            raise ConnectionFailed(f"{where} has no primary now", hint=MEMBERS)
        primary = Listed(found.primary, identity)
        for each in map(registered.decode, members):
            if each is not None and each.listed == primary:
                break
        else:
            raise ConnectionFailed(
                f"the primary of {where}, {primary.member}, is not registered", hint=MEMBERS
            )
        if each.address not in self._openers:
            self._openers[each.address] = Opener(
                each.address, "rnvm", credentials=self._credentials, start=MEMBERS
            )
        connection = self._openers[each.address](deadline)
        # An old primary that does not know yet that it was replaced must not be used.
        try:
            about = connection.figures(deadline)["pool"].get("replication") or {}
            if about.get("epoch") != found.epoch:
                raise ConnectionFailed(
                    f"{primary.member} is not the primary of epoch {found.epoch} of {where} yet"
                )
        except BaseException:
            connection.close()
            raise
        return connection

    def close(self) -> None:
        """Close the fabrics.  Safe to call again."""
        for each in self._openers.values():
            each.close()


def opener_of(
    address: str | os.PathLike[str] | Address,
    credentials: Credentials | None,
    *,
    fabric: Fabric | None = None,
    in_group: bool = False,
) -> Opener | GroupOpener:
    """Return a function that connects to a back-end, or to the present primary of a group.

    Args:
        in_group: The address is that of a member.
    """
    if is_coordinator(address):
        return GroupOpener(str(address), credentials)
    place, start = _find(address)
    if in_group:
        start = MEMBERS
    return Opener(place, "rnvm", fabric=fabric, credentials=credentials, start=start)


def connect(
    address: str | os.PathLike[str] | Address,
    *,
    durability: str | None = None,
    timeout: float | None = None,
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
    """Connect to a back-end and return the front-end in which structures are opened.

    cache, oplog and lock exist to be measured (AsymNVM, evaluation and section on concurrency);
    leave them alone otherwise.

    Args:
        address: `Backend.address`, or the path of a pool that `rnvm serve` serves on this host; or
            a group, as `etcd://HOST:PORT[,...]/GROUP` or `zk://HOST:PORT[,...]/GROUP`.
        durability: The guarantee of a returned call: "persistent" (it survives any crash; default),
            "volatile" (others see it), "replicated" (every mirror in sync has all that it changed
            and all that it has read; default in a group).
        timeout: Seconds that a call may take, this one included; default 5, in a group 15.
        reconnect: Wait for a back-end that is not there yet, and reconnect if it is lost.
        cache: Bytes of nodes cached here, or text like "64MiB"; 0: none.
        oplog: Write operations to the operation log first and their changes in batches later.
            Without it every operation writes its changes and, if there is no cache either, waits
            until the back-end has applied them.
        lock: "sticky" (keep a writer lock until others want it), "each" (release it after each
            operation), or "cas" (front-ends arbitrate by compare-and-swap).
        secret, secret_file, tls_ca, tls_cert, tls_key: As of `rfp.connect`, for RDMA.

    Raises:
        ConnectionFailed: No back-end within the timeout (at once with reconnect=False).
        QuotaExceeded: All sessions of the pool are taken, or this process has its maximum.
        StorageFailed: The back-end's medium failed.
        Unsupported: For "cas": the device has no atomic operations.  For "replicated": the
            back-end accepts no mirrors.
        NotReplicated: For "replicated": fewer mirrors are in sync than the back-end requires.

    Cost:
        lock="cas": two round trips per operation, and an RPC if another front-end was inside since.

    >>> import os, tempfile, rnvm
    >>> path = os.path.join(tempfile.mkdtemp(), "pool")
    >>> with rnvm.Backend(path, size="4MiB", assume_persistent=True) as backend:
    ...     with rnvm.connect(backend.address) as fe:
    ...         fe.durability
    'persistent'
    """
    if lock not in LOCKS:
        raise bad_choice("lock", lock, LOCKS)
    credentials = Credentials.of(secret, secret_file, tls_cert, tls_key, tls_ca)
    in_group = is_coordinator(address)
    if timeout is None:
        timeout = GROUP_TIMEOUT_S if in_group else CALL_S
    if durability is None:
        durability = "replicated" if in_group else "persistent"
    return FrontEnd(
        opener_of(address, credentials),
        durability=durability,
        timeout=timeout,
        reconnect=reconnect,
        cache=units.size(cache) if cache else 0,
        oplog=oplog,
        lock=lock,
    )
