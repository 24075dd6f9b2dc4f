"""Front-ends that connect over a fabric of the test's own, or whose calls have little time."""

from __future__ import annotations

import time
from typing import Any

import pytest

import rnvm
from rfp.errors import DeadlineExceeded
from rfp.fabric.fabric import Fabric
from rfp.protocol.client.opener import Opener


def use_fabric(patch: pytest.MonkeyPatch, fabric: Fabric) -> None:
    """Let rnvm.connect() and mirrors use this fabric, whatever they ask for."""

    def opener(*given: Any, **options: Any) -> Opener:
        return Opener(*given, **{**options, "fabric": fabric})

    patch.setattr("rnvm.connecting.Opener", opener)


def connect_hasty(address: str, timeout: float, **options: Any) -> rnvm.FrontEnd:
    """Return a front-end whose calls end after this time; on a busy computer it connects later.

    Give the opening of its structures a timeout of its own.
    """
    end = time.monotonic() + 20
    while True:
        try:
            return rnvm.connect(address, timeout=timeout, **options)
        except DeadlineExceeded:
            if time.monotonic() > end:
                raise
