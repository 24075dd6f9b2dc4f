"""Front-ends that connect over a fabric of the test's own."""

from __future__ import annotations

from typing import Any

import pytest

from rfp.fabric.fabric import Fabric
from rfp.protocol.client.opener import Opener


def use_fabric(patch: pytest.MonkeyPatch, fabric: Fabric) -> None:
    """Let rnvm.connect() and mirrors use this fabric, whatever they ask for."""

    def opener(*given: Any, **options: Any) -> Opener:
        return Opener(*given, **{**options, "fabric": fabric})

    patch.setattr("rnvm.connecting.Opener", opener)
