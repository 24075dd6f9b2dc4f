"""The back-end: a pool, served to front-ends."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Any

from rfp import address as addresses
from rfp.address import Address
from rfp.control import Credentials
from rfp.control.message import printable
from rfp.core import clock
from rfp.core.log import Log
from rfp.errors import out_of_bounds
from rfp.fabric.fabric import Fabric
from rfp.fabric.provider import open_fabric
from rfp.protocol.handshake_layout import REMOTE_ATOMIC, REMOTE_READ
from rfp.protocol.server.server import Host
from rfp.protocol.server.server_base import ServerBase
from rnvm import pools
from rnvm.backend.service import PoolService
from rnvm.frontend.session import DEATH_NOTICE_S
from rnvm.pool.pool import Pool

log = Log("rnvm")

WORD = 8  # bytes: what a front-end says of each structure
PAGE = os.sysconf("SC_PAGE_SIZE")


class Backend(ServerBase):
    """Opens a pool, recovers it if need be, and serves it until it is closed.

    path: of the pool, or a `Pool` that is open (then size and assume_persistent are not looked at).  size: bytes or text like
    "1GiB": makes the pool if there is none.  assume_persistent: allow a new one on a medium that forgets, like /dev/shm; it
    survives process crash only.  address: where to listen; None for a new address of its own.  lease: seconds after which a
    front-end that keeps a lock which others wait for is fenced.  force_flush: flush cache lines also where that is of no use,
    to measure what it costs.  idle: "adaptive" (spin for 20 us without work, then sleep) or "spin".  cpus: the processor to
    keep its thread on.

    At an `rdma://HOST:PORT` address.  secret and what follows: as a store's `rfp.Server` takes them.  A pool on a file system
    with DAX cannot be served there.

    Raises what `rnvm.pools.open_pool` raises, AddressInUse if a server lives there, FabricError.

    >>> import os, tempfile, rnvm
    >>> path = os.path.join(tempfile.mkdtemp(), "orders.pool")
    >>> with rnvm.Backend(path, size="4MiB", assume_persistent=True) as backend:
    ...     with rnvm.connect(backend.address) as fe:
    ...         fe.names()
    {}
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | Pool,
        size: int | str | None = None,
        *,
        assume_persistent: bool = False,
        address: str | Address | None = None,
        lease: float = 2.0,
        force_flush: bool = False,
        idle: str = "adaptive",
        cpus: Sequence[int] | None = None,
        fabric: Fabric | None = None,
        secret: str | bytes | None = None,
        secret_file: str | os.PathLike[str] | None = None,
        tls_cert: str | os.PathLike[str] | None = None,
        tls_key: str | os.PathLike[str] | None = None,
        tls_ca: str | os.PathLike[str] | None = None,
        no_auth: bool = False,
    ) -> None:
        if not 0.01 <= lease <= 3600:
            raise out_of_bounds("lease", lease, 0.01, 3600)
        place = addresses.unique() if address is None else addresses.parse(address)
        credentials = Credentials.of(secret, secret_file, tls_cert, tls_key, tls_ca)
        super().__init__()
        file = None
        try:
            used = fabric or self._keep(open_fabric(place))
            if isinstance(path, Pool):
                self.pool, forgetful = self._keep(path), True
            else:
                if size is not None and not os.path.exists(path):
                    pools.create(path, size, assume_persistent=assume_persistent)
                opened = clock.now()
                self.pool = self._keep(pools.open_pool(path, force_flush=force_flush))
                if not self.pool.clean:
                    # Front-ends of a back-end that has died believe in it until they notice; over a network, in their locks.
                    notice = max(DEATH_NOTICE_S, lease / 2) if used.closing_revokes else DEATH_NOTICE_S
                    time.sleep(max(0.0, opened + notice - clock.now()))
                file = self._keep(open(path, "rb"))  # noqa: SIM115 - closed with the back-end
                forgetful = pools.media(file.fileno()).volatile
            flushed = getattr(self.pool.medium, "flushing", "none") != "none"
            revoking = used.closing_revokes
            self._service = self._keep(
                PoolService(
                    self.pool,
                    lease,
                    flushed=flushed,
                    forgetful=forgetful,
                    revoking=revoking,
                    file=-1 if file is None else file.fileno(),
                )
            )
            self._service.title = f"pool {os.fspath(path)}" if not isinstance(path, Pool) else "a pool"
            arena = self._keep(self._service.reserve(used))
            if revoking:
                # What the device cannot be given is refused now, and not to the first front-end.
                used.share(arena, 0, PAGE, REMOTE_READ).close()
            names = self._service.names
            self._service.keep_words(self._keep(used.reserve(WORD * names, REMOTE_READ | REMOTE_ATOMIC)))
            self._host = Host(
                place,
                used,
                [self._service],
                service="rnvm",
                arenas=[arena],
                slots=16,
                staging_size=-(-WORD * names // PAGE) * PAGE,
                lease_ns=int(lease * 1e9),
                idle=idle,
                cpus=cpus,
                describe=_description(self._service, list(self.pool.recovered)),
                memory=self._service.share,
                reporter=self._service,
                credentials=credentials,
                allow_anyone=no_auth,
            )
            log.info("%s opened: %d bytes, lease %g s", self._service.title, self.pool.medium.length, lease)
            for text in self.pool.recovered:
                say = log.warning if text.startswith(("damage", "doubt", "loss")) else log.info
                say("%s recovered: %s", self._service.title, text)
            self._service.report()
        except BaseException:
            self._give_back()
            raise

    @property
    def recovered(self) -> list[str]:
        """What opening the pool found to do, one text each."""
        return list(self.pool.recovered)

    @property
    def failed(self) -> bool:
        """Whether the pool's medium has failed, or its file was removed: nothing is answered any more; close it, and open the
        pool when the device is well."""
        return self._service.failed

    @property
    def removed(self) -> bool:
        """Whether it failed because the pool's file was removed, or another one was put in its place."""
        return self._service.removed


def _description(service: PoolService, recovered: list[str]) -> Callable[[], dict[str, Any]]:
    """What a host tells of its back-end, which it must not keep alive."""
    texts = [printable(text, 1024) for text in recovered[:16]]
    return lambda: {"pool": service.counters, "recovered": texts}


__all__ = ["Backend"]
