"""The addresses of this run's servers: on shared memory, or on the RDMA device (--over=verbs)."""

from __future__ import annotations

import secrets
import socket
from pathlib import Path

import pytest

from rfp import address

HOST = "10.0.0.1"  # an address of the device in the machine of scripts/softroce
_over = "shm"


def use_verbs(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """Give servers without an address one at rdma://, and a secret to both sides."""
    global _over
    _over = "verbs"
    secret = folder / "secret"
    secret.touch(0o600)
    secret.write_text(secrets.token_hex(32))
    patch.setenv("RFP_SECRET_FILE", str(secret))
    patch.setattr(address, "unique", lambda: address.parse(f"rdma://{HOST}:0"))


def own(folder: Path) -> str:
    """Return an address that only this test uses, so that one server may follow another there.

    folder: has mode 0700.
    """
    if _over == "shm":
        return f"shm://{folder}/s"
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return f"rdma://{HOST}:{probe.getsockname()[1]}"
