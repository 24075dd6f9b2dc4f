"""A test that needs what is not installed is skipped, and fails in CI."""

from __future__ import annotations

import needed
import pytest


@pytest.mark.parametrize(
    "need", [lambda: needed.program("no-such-program"), lambda: needed.module("no_such_module")]
)
def test_what_is_missing_skips_a_test_and_fails_it_in_ci(monkeypatch, need):
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no.such"):
        need()
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match=r"no.such.*CI is set"):
        need()


def test_what_is_there_is_used():
    needed.program("sh")
    assert needed.module("json").loads("1") == 1
