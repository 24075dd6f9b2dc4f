"""The proof after every test that nothing was left behind."""

from __future__ import annotations

import gc
import os

import pytest


def open_fds() -> set[str]:
    return {f"{fd} {link}" for fd in os.listdir("/proc/self/fd")
            for link in [_target(fd)] if link is not None}


def _target(fd: str) -> str | None:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return None        # the directory listing's own


def shared_maps() -> list[str]:
    with open("/proc/self/maps") as maps:
        return [line for line in maps if "memfd:" in line]


@pytest.fixture(autouse=True)
def nothing_is_left_behind():
    before = open_fds(), shared_maps()
    yield
    gc.collect()
    assert (open_fds(), shared_maps()) == before
