"""Which provider of the fabric serves an address."""

from __future__ import annotations

from rfp._fabric import Fabric
from rfp._shm import ShmFabric
from rfp.address import Address
from rfp.errors import Unsupported


def open_fabric(address: Address) -> Fabric:
    """The provider for an address, with the options that it carries."""
    if address.provider != "shm":
        raise Unsupported(f"{address}: this build has no provider for {address.provider}://", hint="use an shm:// address")
    options = address.shm
    return ShmFabric(rtt_ns=options.rtt, in_iops=options.in_iops, out_iops=options.out_iops)
