"""Which provider of the fabric serves an address."""

from __future__ import annotations

from importlib import import_module

from rfp.address import Address
from rfp.errors import Unsupported
from rfp.fabric.fabric import Fabric
from rfp.fabric.shm.region import ShmFabric


def open_fabric(address: Address) -> Fabric:
    """The provider for an address, with the options that it carries.  Raises FabricError (no device), Unsupported."""
    if address.provider == "rdma":
        try:
            verbs = import_module("rfp._verbs")  # left out where libibverbs' headers are not
        except ImportError:
            raise Unsupported(
                f"{address}: this build has no verbs provider",
                hint="build it where libibverbs' headers are (Debian: libibverbs-dev), or use an shm:// address",
            ) from None
        fabric: Fabric = verbs.VerbsFabric(address.host, address.rdma)
        return fabric
    options = address.shm
    return ShmFabric(rtt_ns=options.rtt, in_iops=options.in_iops, out_iops=options.out_iops)
