"""The choice of the fabric provider for an address."""

from __future__ import annotations

from rfp.address import Address
from rfp.fabric.fabric import Fabric
from rfp.fabric.shm.region import ShmFabric


def open_fabric(address: Address) -> Fabric:
    """Return the provider for an address, with the options that the address carries.

    Raises:
        FabricError: there is no device.
        Unsupported: libibverbs is not installed.
    """
    if address.provider == "rdma":
        from rfp._verbs import VerbsFabric  # here, because few processes use RDMA

        return VerbsFabric(address.host, address.rdma)
    options = address.shm
    return ShmFabric(rtt_ns=options.rtt, in_iops=options.in_iops, out_iops=options.out_iops)
