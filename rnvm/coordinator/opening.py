"""Opens the coordinator that an address names, with the driver for it."""

from __future__ import annotations

from rfp.core import forks
from rfp.errors import InvalidAddress
from rnvm.coordinator import address as addresses
from rnvm.coordinator.attempt import TIMEOUT_S
from rnvm.coordinator.contract import Coordinator


def open_coordinator(
    address: str | addresses.CoordinatorAddress, *, timeout: float = TIMEOUT_S
) -> Coordinator:
    """Return the coordinator of the group that an address names.  It connects at the first call.

    Args:
        address: `etcd://HOST:PORT[,HOST:PORT...]/GROUP` or `zk://...`.
        timeout: seconds that a call without a time-out of its own may take.

    Raises:
        InvalidAddress: the address is not valid, or names no group.
        InvalidArgument: the timeout is out of bounds, or a file of the options cannot be read.
        Unsupported: the driver needs a package that is not installed.
    """
    address = addresses.parse(address)
    if not address.group:
        raise InvalidAddress(
            f"the address {address} names no group",
            hint=f"write {address.kind}://{address.hosts}/GROUP",
        )
    coordinator: Coordinator
    if address.kind == "etcd":
        from rnvm.coordinator.etcd import EtcdCoordinator

        coordinator = EtcdCoordinator(address, timeout=timeout)
    else:
        from rnvm.coordinator.zookeeper import ZooKeeperCoordinator

        coordinator = ZooKeeperCoordinator(address, timeout=timeout)
    forks.live.add(coordinator)  # not before it is complete: a fork may come at any moment
    return coordinator
