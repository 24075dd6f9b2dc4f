"""The providers that a test is for.  `verbs` needs an RDMA device: tests/conftest.py leaves it out, by name, where there is none."""

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
}  # what a peer process is told
VERBS = pytest.param(verbs, marks=pytest.mark.verbs, id="verbs")
SHM_AND_VERBS = [pytest.param(shm, id="shm"), VERBS]
