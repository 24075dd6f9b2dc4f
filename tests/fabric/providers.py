"""The providers that a test runs on.

`verbs` needs an RDMA device: tests/conftest.py deselects it, by name, if there is none.
"""

from __future__ import annotations

import pytest

from rfp.fabric.fabric import Fabric
from rfp.fabric.shm.region import ShmFabric


def shm() -> Fabric:
    return ShmFabric()


def verbs() -> Fabric:
    from rfp._verbs import VerbsFabric

    return VerbsFabric()


SPECS = {
    shm: "rfp.fabric.shm.region:ShmFabric",
    verbs: "rfp._verbs:VerbsFabric",
}  # the argument of a peer process
VERBS = pytest.param(verbs, marks=pytest.mark.verbs, id="verbs")
SHM_AND_VERBS = [pytest.param(shm, id="shm"), VERBS]
