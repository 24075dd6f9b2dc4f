"""The store's server: partitions, one worker for each, and the host that clients connect to."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from rfp import address as addresses
from rfp import units
from rfp.address import Address
from rfp.control import Credentials
from rfp.core import clock
from rfp.core.choices import EVICTIONS
from rfp.core.limits import WORKERS_MAX
from rfp.errors import InvalidArgument, bad_choice, out_of_bounds
from rfp.fabric.fabric import REMOTE_READ, Fabric
from rfp.fabric.provider import open_fabric
from rfp.protocol.server.server import DEFAULT_SLOT_BYTES, Host
from rfp.protocol.server.server_base import ServerBase
from rfp.protocol.wire import DIRECT_READS, NAMED_PLACES, RESPONSE_CRC, VIEWS
from rfp.store.server.partition import Partition
from rfp.store.server.view_tables import ViewTables

WORKER_BYTES_MIN = 1 << 20  # bytes, per worker
STAGING_BYTES = 512 << 10  # bytes for each client thread: four pieces of a large value
STORE_VALUE_BYTES_MAX = 256 << 20


class Server(ServerBase):
    """Keep a store in memory and serve it until it is closed.

    A server that is dropped without close() is closed when Python collects it, with a
    ResourceWarning.

    Args:
        memory: for keys, values and their index, in bytes or as text ("1GiB"); shared evenly among
            the workers, and limits the largest value.
        workers: number of threads that serve; each owns a part of the keys.
        address: where to listen, `shm://PATH` or `rdma://HOST:PORT`; None for a new address of its
            own.
        idle: "adaptive" (spin for 20 us without work, then sleep) or "spin".
        eviction: "clock" (second chance, over all values), "bucket" (the paper's: least recently
            used within a bucket of 8) or "none" (a put fails with OutOfMemory).
        direct_reads: whether clients may read values without this server, from its memory; such
            reads are not in its counters.
        direct_memory: over RDMA, bytes of memory that may be registered for direct reads, the sum
            over all client processes; None for four times memory=.
        lease: seconds for which a large value stays readable for a client that requested it.
        quota: bytes of large values that one client thread may hold at one worker, that all
            threads of a client may be uploading there, and that its views may keep there (at most
            a quarter of the worker's memory, which is the limit of all views together); None for
            half of the worker's memory, and an eighth for views.
        rings: bytes that all clients' threads may have beside memory=, each client half of that:
            0.5 MiB a thread and 0.28 MiB for each worker; None for as much as memory=, at least
            1GiB and the need of 256 threads.
        cpus: processors to pin the workers to, in turn.
        secret: at an rdma address, the secret that clients must know, at least 16 bytes.
        secret_file: a file with it, readable by this user alone (default: $RFP_SECRET_FILE).
        no_auth: at an rdma address, accept clients without a secret or a certificate; required for
            a server beyond loopback that has neither.
        tls_cert: PEM file of the server's certificate; control connections then use TLS.
        tls_key: PEM file of its key.
        tls_ca: PEM file of the authority that signs clients' certificates, which the server then
            requires; that authority must sign for no other holders.

    Raises:
        InvalidArgument: an argument is out of its range.
        AddressInUse: a server already listens at the address.
        FabricError: the memory or the device is not available.

    >>> with Server(memory="16MiB", workers=1) as server:
    ...     from rfp import connect
    ...     with connect(server.address) as kv:
    ...         version = kv.put(b"k", b"v")
    ...         kv.get(b"k")
    b'v'
    """

    def __init__(
        self,
        memory: int | str = "256MiB",
        *,
        workers: int = 1,
        address: str | Address | None = None,
        idle: str = "adaptive",
        eviction: str = "clock",
        direct_reads: bool = True,
        direct_memory: int | str | None = None,
        lease: float = 2.0,
        quota: int | str | None = None,
        rings: int | str | None = None,
        cpus: Sequence[int] | None = None,
        fabric: Fabric | None = None,
        secret: str | bytes | None = None,
        secret_file: str | os.PathLike[str] | None = None,
        tls_cert: str | os.PathLike[str] | None = None,
        tls_key: str | os.PathLike[str] | None = None,
        tls_ca: str | os.PathLike[str] | None = None,
        no_auth: bool = False,
    ) -> None:
        self.memory = units.size(memory)
        self.eviction = eviction
        if not isinstance(workers, int) or not 1 <= workers <= WORKERS_MAX:
            raise out_of_bounds(
                "workers", workers, 1, WORKERS_MAX, hint="use at most one worker per CPU"
            )
        if eviction not in EVICTIONS:
            raise bad_choice("eviction", eviction, EVICTIONS)
        units.checked_seconds("lease", lease, 0.01, 3600)
        share = self.memory // workers
        if share < WORKER_BYTES_MIN:
            raise InvalidArgument(
                f"memory={memory!r} is too small for {workers} workers",
                hint="give at least 1MiB for each",
            )
        held = share // 2 if quota is None else units.size(quota)
        # A value beyond the quota could be neither sent nor fetched; the quota does not count
        # values that fit into a slot.
        largest = min(STORE_VALUE_BYTES_MAX, share, max(held, DEFAULT_SLOT_BYTES))
        for_direct = 4 * self.memory if direct_memory is None else units.size(direct_memory)
        for_rings = None if rings is None else units.size(rings)
        if for_rings is not None and for_rings < WORKER_BYTES_MIN:
            raise InvalidArgument(f"rings must be at least 1MiB, got {rings!r}")
        place = addresses.unique() if address is None else addresses.parse(address)
        credentials = Credentials.of(secret, secret_file, tls_cert, tls_key, tls_ca)
        super().__init__()
        used = fabric or self._keep(open_fabric(place))
        seed = int.from_bytes(os.urandom(8), "little")
        # Versions grow over restarts: the clock grows, and no worker makes 10^9 changes a second.
        first_version = clock.real_ns()
        try:
            arenas = [self._keep(used.reserve(share, REMOTE_READ)) for _ in range(workers)]
            self._partitions = [
                Partition(
                    arena,
                    seed=seed,
                    eviction=eviction,
                    first_version=first_version,
                    lease_ns=int(lease * 1e9),
                    session_quota=held,
                    max_value=largest,
                    view_quota=0 if quota is None else held,
                )
                for arena in arenas
            ]
            views = None if used.closing_revokes else ViewTables(used, self._partitions)
            self._host = Host(
                place,
                used,
                self._partitions,
                service="kv",
                arenas=arenas,
                seed=seed,
                staging_size=STAGING_BYTES,
                lease_ns=int(lease * 1e9),
                max_value=largest,
                features=RESPONSE_CRC
                | (DIRECT_READS | NAMED_PLACES if direct_reads else 0)
                | (VIEWS if views is not None else 0),
                direct_memory=for_direct if direct_reads else 0,
                idle=idle,
                cpus=cpus,
                describe=_description(self.memory, eviction),
                process_memory=views,
                rings=for_rings,
                store=self.memory,
                credentials=credentials,
                allow_anyone=no_auth,
            )
        except BaseException:
            self._give_back()
            raise

    @property
    def device(self) -> str:
        """Over RDMA: the device, port and GID in use, and the reason; else ""."""
        return str(getattr(self._host.fabric, "choice", ""))

    @property
    def pid(self) -> int:
        return os.getpid()


def _description(memory: int, eviction: str) -> Callable[[], dict[str, Any]]:
    """Return the function that describes a server for its host, without a reference to it."""
    return lambda: {"memory": memory, "eviction": eviction}
