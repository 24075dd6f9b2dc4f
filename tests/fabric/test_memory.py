"""The memory that is still available on the machine, as /proc and the control groups state it."""

from __future__ import annotations

import pytest

from rfp.fabric import memory_limits

GIB = 1 << 30


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """Yield control groups outer/inner; this process is in the inner one."""
    inner = tmp_path / "outer" / "inner"
    inner.mkdir(parents=True)
    monkeypatch.setattr(memory_limits, "_group", lambda controller: "outer/inner")

    def set_group(path: str, limit: object, used: int) -> None:
        (tmp_path / path / "max").write_text(f"{limit}\n")
        (tmp_path / path / "memory.stat").write_text(f"anon {used}\nfile {5 * GIB}\nshmem {used}\n")

    def room() -> int:
        return memory_limits._room(str(tmp_path), "memory", "max", ("anon", "shmem"))

    return set_group, room


def test_some_memory_and_less_than_a_pebibyte_is_available():
    assert 1 << 20 < memory_limits.available() < 1 << 50


def test_a_group_without_a_limit_does_not_count(groups):
    set_group, room = groups
    set_group("outer/inner", "max", GIB)
    assert room() == memory_limits.UNLIMITED


def test_memory_that_cannot_be_reclaimed_counts_against_the_limit(groups):
    set_group, room = groups
    set_group("outer/inner", 4 * GIB, GIB)
    assert room() == 2 * GIB


def test_the_tightest_of_nested_groups_counts(groups):
    set_group, room = groups
    set_group("outer/inner", 4 * GIB, GIB)
    set_group("outer", 5 * GIB, 2 * GIB)
    assert room() == 1 * GIB


def test_a_group_over_its_limit_leaves_no_memory(monkeypatch):
    monkeypatch.setattr(memory_limits, "_group_v2", lambda: -GIB)
    assert memory_limits.available() == 0


def test_without_control_groups_the_machines_memory_counts(monkeypatch):
    monkeypatch.setattr(memory_limits, "_group", lambda controller: None)
    assert memory_limits.available() <= memory_limits._machine() * 2
    assert memory_limits._group_v1() == memory_limits._group_v2() == memory_limits.UNLIMITED
