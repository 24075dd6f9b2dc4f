"""The bounds of time_bounds.py, and that the tests use them."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import time_bounds
from time_bounds import SOON, in_some_try, raises_in_some_try, soon

from rfp.errors import Busy, DeadlineExceeded

TESTS = Path(__file__).parents[1]
# The processor time of a process is no wall-clock time: other work does not add to it.
BOUND = re.compile(
    r"assert .*(?:monotonic|perf_counter|\.time)\(\) - [\w.]+ <=? (\d+(?:\.\d+)?)(?! \*|[\d.])"
)


def short_bounds(text: str) -> list[str]:
    """Return the lines that bound a wall-clock time by less than SOON / 2."""
    return [
        line.strip()
        for line in text.splitlines()
        if (found := BOUND.search(line)) and float(found[1]) < SOON / 2
    ]


def test_no_test_bounds_a_time_by_a_few_seconds() -> None:
    found = {
        str(path.relative_to(TESTS)): short_bounds(path.read_text())
        for path in TESTS.rglob("*.py")
        if path != Path(__file__)
    }
    assert len(found) > 200
    assert {path: lines for path, lines in found.items() if lines} == {}


def test_a_short_bound_is_found() -> None:
    for line in (
        "    assert time.monotonic() - began < 2",
        "assert 0.2 <= time.monotonic() - self.began < 1.5",
        "assert asyncio.get_running_loop().time() - began < 5",
    ):
        assert short_bounds(line) == [line.strip()]
    for line in (
        "assert time.monotonic() - began < 10",
        "assert time.monotonic() - began < LONG / 2",
        "assert time.monotonic() - began < 2 * LONG",
        "assert time.thread_time() - before < 0.1",
        "while time.monotonic() - began < 1:",
    ):
        assert short_bounds(line) == []


def test_soon_refuses_a_block_that_ends_too_early_or_too_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with soon():
        pass
    with soon(least=0.01):
        time.sleep(0.01)
    with pytest.raises(AssertionError), soon(least=60):
        pass
    monkeypatch.setattr(time_bounds, "SOON", 0.01)
    with pytest.raises(AssertionError), soon():
        time.sleep(0.02)


def test_in_some_try_repeats_until_a_try_holds_and_then_raises_the_last_reason() -> None:
    tries = itertools.count(1)

    def third() -> int:
        number = next(tries)
        assert number == 3
        return number

    assert in_some_try(third) == 3
    with pytest.raises(AssertionError):
        in_some_try(third, seconds=0.01)
    with pytest.raises(ZeroDivisionError):
        in_some_try(lambda: 1 / 0)


def test_an_error_in_some_try_has_its_class_and_its_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    errors: Iterator[Exception]

    def call() -> None:
        raise next(errors)

    late, other, right = DeadlineExceeded("late"), Busy("why"), Busy("the reason")
    errors = iter([late, other, right])
    raises_in_some_try(call, Busy, "reason")
    errors = iter([ValueError("another kind")])
    with pytest.raises(ValueError, match="another kind"):
        raises_in_some_try(call, Busy)
    monkeypatch.setattr(time_bounds, "in_some_try", lambda check: check())
    for wrong in (late, other):
        errors = iter([wrong])
        with pytest.raises(AssertionError):
            raises_in_some_try(call, Busy, "reason")
