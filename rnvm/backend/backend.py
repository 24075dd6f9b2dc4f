"""`rnvm.Backend`: serve a pool to front-ends."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

from rfp import address as addresses
from rfp.address import Address
from rfp.control import Credentials
from rfp.control.message import printable
from rfp.core import clock
from rfp.core.limits import SYSTEM_PAGE
from rfp.core.log import Log
from rfp.errors import StorageFailed, out_of_bounds
from rfp.fabric.fabric import REMOTE_ATOMIC, REMOTE_READ, Fabric
from rfp.fabric.provider import open_fabric
from rfp.protocol.server.server import Host
from rfp.protocol.server.server_base import ServerBase
from rfp.units import checked_seconds
from rnvm import pools
from rnvm.backend.service import PoolService
from rnvm.frontend.session import DEATH_NOTICE_S
from rnvm.group.state import MIRRORS_MAX
from rnvm.media import identity
from rnvm.pool.pool import Pool

log = Log("rnvm")

ACTIVITY_WORD_BYTES = 8  # bytes: the activity word of a front-end for one structure
SESSION_WORD_BYTES = 16  # bytes: that word, and the word of the oldest version that it uses


class Backend(ServerBase):
    """Open a pool, recover it if necessary, and serve it until it is closed.

    The address may be `rdma://HOST:PORT`; a pool on a file system with DAX cannot be served there.

    Args:
        path: The pool's path, or an open `Pool` (size and assume_persistent are then ignored).
        address: Address to listen at; None for a new one.
        size: Bytes, or text like "1GiB": create the pool if it does not exist.
        assume_persistent: Allow a new pool on a volatile medium such as /dev/shm; such a pool
            survives a process crash only.
        lease: Seconds after which a front-end that keeps a contended lock is fenced.
        snapshot_lifetime: Seconds for which the memory of an open snapshot is kept,
            unless blocks run short.
        force_flush: Flush cache lines even if that has no effect, to measure its cost.
        min_mirrors: Mirrors in sync that "replicated" requires: with 1, such a call raises
            `NotReplicated` while there is none; with 0 it succeeds without mirrors, too.
        mirror_patience: Seconds after which a mirror that does not acknowledge a frame is removed:
            the longest time that a mirror can hold up the back-end.
        idle: "adaptive" (spin for 20 us without work, then sleep) or "spin".
        cpus: CPU to pin the back-end's thread to.
        secret, secret_file, tls_cert, tls_key, tls_ca, no_auth: As of `rfp.Server`.

    Raises:
        NotAPool, PoolInUse, PoolRefused, PoolTooNew, PoolTooOld, PoolDamaged, VolatileMedium: As
            `rnvm.pools.open_pool`.
        AddressInUse: Another server listens at the address.
        FabricError: The address or its memory cannot be used.

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
        snapshot_lifetime: float = 60.0,
        force_flush: bool = False,
        min_mirrors: int = 0,
        mirror_patience: float = 1.0,
        _group: bytes | None = None,
        _epoch: int = 0,
        _serve: bool = True,
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
        check_times(
            lease=lease, snapshot_lifetime=snapshot_lifetime, mirror_patience=mirror_patience
        )
        if not isinstance(min_mirrors, int) or not 0 <= min_mirrors <= MIRRORS_MAX:
            raise out_of_bounds("min_mirrors", min_mirrors, 0, MIRRORS_MAX)
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
                self.pool = self._keep(
                    pools.open_pool(path, force_flush=force_flush, in_group=_group is not None)
                )
                if not self.pool.clean:
                    # Front-ends of a dead back-end rely on it until they notice; over a network,
                    # they also rely on their locks.
                    notice = (
                        max(DEATH_NOTICE_S, lease / 2) if used.closing_revokes else DEATH_NOTICE_S
                    )
                    time.sleep(max(0.0, opened + notice - clock.now()))
                file = self._keep(open(path, "rb"))  # noqa: SIM115 - closed with the back-end
                forgetful = pools.media(file.fileno()).volatile
            self._copied = _group is not None and _is_mirrors_copy(self.pool)
            flushed = getattr(self.pool.medium, "flushing", "none") != "none"
            revoking = used.closing_revokes
            self._service = self._keep(
                PoolService(
                    self.pool,
                    lease,
                    snapshot_lifetime,
                    flushed=flushed,
                    forgetful=forgetful,
                    revoking=revoking,
                    file=-1 if file is None else file.fileno(),
                    min_mirrors=min_mirrors,
                    mirror_patience=mirror_patience,
                    epoch=_epoch,
                    group=_group,
                    copied=self._copied,
                )
            )
            self._service.title = (
                f"pool {os.fspath(path)}" if not isinstance(path, Pool) else "a pool"
            )
            arena = self._keep(self._service.reserve(used))
            if revoking:
                # Refuse memory that the device cannot register here, not at the first front-end.
                used.share(arena, 0, SYSTEM_PAGE, REMOTE_READ).close()
            names = self._service.names
            self._service.keep_words(
                self._keep(used.reserve(ACTIVITY_WORD_BYTES * names, REMOTE_READ | REMOTE_ATOMIC))
            )
            self._begin = functools.partial(
                Host,
                place,
                used,
                [self._service],
                service="rnvm",
                arenas=[arena],
                slots=16,
                staging_size=-(-SESSION_WORD_BYTES * names // SYSTEM_PAGE) * SYSTEM_PAGE,
                lease_ns=int(lease * 1e9),
                idle=idle,
                cpus=cpus,
                describe=_description(self._service, list(self.pool.recovered)),
                memory=self._service.share,
                reporter=self._service,
                credentials=credentials,
                allow_anyone=no_auth,
            )
            log.info(
                "%s opened: %d bytes, lease %g s",
                self._service.title,
                self.pool.medium.length,
                lease,
            )
            for text in self.pool.recovered:
                say = log.warning if text.startswith(("damage", "doubt", "loss")) else log.info
                say("%s recovered: %s", self._service.title, text)
            self._service.report()
            if _serve:
                self._serve()
        except BaseException:
            self._give_back()
            raise

    def _serve(self) -> None:
        """Begin to answer, if `_serve=False` was given: the pool is open and recovered.

        Nobody could connect before: a client that waits for an answer here would not find out that
        another member serves the group by now.

        Raises:
            StorageFailed: The medium has failed, or the file was removed.
            AddressInUse, FabricError: As of the constructor.  Close it then.
        """
        if self.failed:
            raise StorageFailed(f"{self._service.title}: the medium failed or its file was removed")
        if self._copied:
            found = identity.read(self.pool.medium)
            assert found is not None
            identity.write(self.pool.medium, **{**found, "opening": bytes(len(found["opening"]))})
        self._host = self._begin()

    def close(self) -> None:
        """End all connections after the requests in progress, and close the pool.  Safe to call
        again.

        In a forked child this does nothing: the child has no part of the back-end.

        Raises:
            CallerError: A handler of this process called it.
        """
        if not hasattr(self, "_host"):  # it was not served
            self._give_back()
            return
        if not self._host.inside:  # else close() refuses, and the back-end goes on
            self._service.stop_waiting()
        super().close()

    @property
    def recovered(self) -> list[str]:
        """Return the repairs made when the pool was opened, one text each."""
        return list(self.pool.recovered)

    @property
    def failed(self) -> bool:
        """Return whether the pool's medium has failed or its file was removed.

        The back-end answers nothing from then on: close it, and open the pool again when the device
        works.
        """
        return self._service.failed

    @property
    def removed(self) -> bool:
        """Return whether it failed because the pool's file was removed or replaced."""
        return self._service.removed


_TIMES_MAX = {"lease": 3600, "snapshot_lifetime": 86400, "mirror_patience": 3600}  # seconds


def check_times(**times: float) -> None:
    """Raise unless these options of a back-end are between 0.01 s and their greatest values.

    Raises:
        InvalidArgument, WrongType: One is not.
    """
    for name, seconds in times.items():
        checked_seconds(name, seconds, 0.01, _TIMES_MAX[name])


def _is_mirrors_copy(pool: Pool) -> bool:
    """Return whether no front-end can have mapped a group's pool: a mirror made it, and it was not
    served since."""
    found = identity.read(pool.medium)
    return found is not None and any(found["opening"])


def _description(service: PoolService, recovered: list[str]) -> Callable[[], dict[str, Any]]:
    """Return a function that reports on the back-end; it must not keep the back-end alive."""
    texts = [printable(text, 1024) for text in recovered[:16]]
    return lambda: {
        "pool": service.counters,
        "mirrors": service.mirrors,
        "recovered": texts,
    }


__all__ = ["Backend"]
