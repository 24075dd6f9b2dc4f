"""What of the machine's memory is still to be had, by what /proc and the control groups say."""

from __future__ import annotations

import pytest

from rfp.fabric import memory_limits

GIB = 1 << 30


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """Control groups outer/inner, of which this process is in the inner one."""
    inner = tmp_path / "outer" / "inner"
    inner.mkdir(parents=True)
    monkeypatch.setattr(memory_limits, "_group", lambda controller: "outer/inner")

    def say(path: str, limit: object, used: int) -> None:
        (tmp_path / path / "max").write_text(f"{limit}\n")
        (tmp_path / path / "memory.stat").write_text(f"anon {used}\nfile {5 * GIB}\nshmem {used}\n")

    def room() -> int:
        return memory_limits._room(str(tmp_path), "memory", "max", ("anon", "shmem"))

    return say, room


def test_there_is_some_memory_here_and_less_than_a_pebibyte():
    assert 1 << 20 < memory_limits.available() < 1 << 50


def test_a_group_without_a_limit_does_not_count(groups):
    say, room = groups
    say("outer/inner", "max", GIB)
    assert room() == memory_limits.NO_LIMIT


def test_what_cannot_be_reclaimed_counts_against_the_limit(groups):
    say, room = groups
    say("outer/inner", 4 * GIB, GIB)
    assert room() == 2 * GIB


def test_the_tightest_of_nested_groups_counts(groups):
    say, room = groups
    say("outer/inner", 4 * GIB, GIB)
    say("outer", 5 * GIB, 2 * GIB)
    assert room() == 1 * GIB


def test_a_group_that_is_over_its_limit_leaves_nothing(monkeypatch):
    monkeypatch.setattr(memory_limits, "_group_v2", lambda: -GIB)
    assert memory_limits.available() == 0


def test_without_control_groups_the_machine_counts(monkeypatch):
    monkeypatch.setattr(memory_limits, "_group", lambda controller: None)
    assert memory_limits.available() <= memory_limits._machine() * 2
    assert memory_limits._group_v1() == memory_limits._group_v2() == memory_limits.NO_LIMIT
