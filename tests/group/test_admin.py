"""`rnvm group create`, `status` and `force`, on real etcd and ZooKeeper servers."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from click.testing import CliRunner

import rnvm
from rfp.errors import (
    AlreadyExists,
    CoordinatorUnavailable,
    GroupDamaged,
    GroupNotFound,
    InvalidArgument,
    NotAPool,
    OutcomeUnknown,
    PoolInUse,
    PoolRefused,
)
from rnvm import pools
from rnvm.cli import main
from rnvm.coordinator.contract import Coordinator
from rnvm.coordinator.state import State
from rnvm.group import admin
from rnvm.group.registered import Registered
from rnvm.group.state import GroupState, Listed, decode
from rnvm.media import identity


def record(path: str) -> dict:
    with pools.view(path) as (view, _):
        return identity.read(view)


def run(*arguments: str, status: int = 0, typed: str | None = None) -> str:
    result = CliRunner().invoke(main, ["group", *arguments], input=typed)
    assert result.exit_code == status, result.output
    return result.output


@pytest.mark.every_case
def test_create_status_and_force(address, opened, pool):
    path = pool("a")
    said = run("create", address, "--pool", path, "--member", "a", "--min-mirrors", "1")
    assert "a has the first copy" in said and "before 1 mirror is in sync" in said
    found = record(path)
    assert (found["state"], found["member"], found["epoch"]) == ("whole", "a", 1)
    shown = CliRunner().invoke(main, ["info", str(path)]).output
    assert re.search("copy +of member a of a group, whole, epoch 1", shown)
    assert "no member is registered" in run("status", address)
    coordinator = opened(address)
    state = decode(coordinator.read().value, "test")
    assert state == GroupState(
        found["group"].hex(), 1, None, (Listed("a", found["identity"].hex()),), 1
    )
    data = Registered(state.in_sync[0], "shm:///run/a", "mirror").encode()
    coordinator.register("a", data, lease=5)
    other = Registered(Listed("b", "b" * 32), "shm:///run/b", "mirror")
    coordinator.register("b", other.encode(), lease=5)
    coordinator.register("someone", b"else", lease=5)
    shown = run("status", address)
    assert "epoch         1" in shown
    assert "primary       none" in shown
    assert re.search("a +mirror +in sync +shm:///run/a", shown)
    assert re.search("b +mirror +not in sync +shm:///run/b", shown)
    assert "someone" not in shown
    figures = json.loads(run("status", address, "--json"))
    assert figures["state"]["in_sync"][0]["member"] == "a"

    assert "Aborted" in run("force", address, "--from", path, typed="n\n", status=1)
    assert decode(coordinator.read().value, "test") == state
    assert "a has the only copy in sync, epoch 2" in run("force", address, "--from", path, "--yes")
    assert decode(coordinator.read().value, "test") == replace(state, epoch=2)
    assert record(path)["epoch"] == 2
    run("force", address, "--from", path, "--min-mirrors", "2", "--yes")
    assert decode(coordinator.read().value, "test") == replace(state, epoch=3, min_mirrors=2)


def test_a_group_is_created_once_and_a_repeated_creation_is_the_same_one(address, pool):
    one, other = pool("a"), pool("b")
    state = admin.create_group(address, one, member="a", min_mirrors=0)
    assert admin.create_group(address, one, member="a", min_mirrors=0) == state
    with pytest.raises(AlreadyExists):
        admin.create_group(address, other, member="b", min_mirrors=0)
    assert record(other) is None
    with pytest.raises(PoolRefused, match="belongs to a group already, as member a"):
        admin.create_group(address + "2", one, member="b", min_mirrors=0)


def test_a_creation_without_a_pool_leaves_no_file(address, tmp_path):
    with pytest.raises(NotAPool, match="there is no pool at"):
        admin.create_group(address, tmp_path / "typo", member="a", min_mirrors=0)
    with pytest.raises(NotAPool, match="there is no pool at"):
        admin.force_group(address, tmp_path / "typo")
    assert os.listdir(tmp_path) == []


def test_a_creation_that_was_interrupted_goes_on_with_the_same_identity(address, pool, monkeypatch):
    path = pool("a")

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("rnvm.coordinator.contract.Coordinator.create", die)
        admin.create_group(address, path, member="a", min_mirrors=0)
    found = record(path)
    state = admin.create_group(address, path, member="a", min_mirrors=0)
    assert state.in_sync == (Listed("a", found["identity"].hex()),)


@pytest.mark.parametrize("service", ["etcd"], indirect=True)
def test_a_change_of_unknown_outcome_is_repeated_once(address, pool, monkeypatch):
    def losing(real: Callable[..., Any]) -> Callable[..., Any]:
        calls = []

        def call(*arguments: Any) -> Any:
            calls.append(real(*arguments))
            if len(calls) == 1:
                raise OutcomeUnknown("planted")
            return calls[-1]

        return call

    for name in ("create", "compare_and_set"):
        monkeypatch.setattr(Coordinator, name, losing(getattr(Coordinator, name)))
    path = pool("a")
    made = admin.create_group(address, path, member="a", min_mirrors=0)
    assert admin.group_status(address).state == made
    forced = admin.force_group(address, path)
    assert admin.group_status(address).state == forced


def test_the_number_of_mirrors_is_asked_for(address, pool):
    path = pool("a")
    said = run("create", address, "--pool", path, "--member", "a", typed="0\n")
    assert "0: the primary goes on alone" in said
    assert admin.group_status(address).state.min_mirrors == 0


def test_the_name_may_be_given_beside_the_coordinator(address, pool):
    service, _, name = address.rpartition("/")
    run("create", name, "--coordinator", service, "--pool", pool("a"), "--member", "a",
        "--min-mirrors", "0")  # fmt: skip
    assert name in run("status", name, "--coordinator", service)


def test_a_group_that_does_not_exist_is_reported_and_not_made(address, pool):
    with pytest.raises(GroupNotFound):
        admin.group_status(address)
    path = pool("a")
    with pytest.raises(PoolRefused, match="belongs to no group"):
        admin.force_group(address, path, min_mirrors=0)
    with pytest.raises(GroupNotFound):
        admin.group_status(address)


def test_force_brings_a_state_back_that_the_coordinator_has_lost(address, pool, service):
    path = pool("a")
    admin.create_group(address, path, member="a", min_mirrors=1)
    service.delete(address.rpartition("/")[2])
    with pytest.raises(GroupNotFound):
        admin.force_group(address, path)
    new = admin.force_group(address, path, min_mirrors=1)
    assert admin.group_status(address).state == new
    assert new.epoch > 1000, "other copies may have seen more epochs than this one"


def test_force_skips_epochs_if_the_coordinator_has_lost_changes(address, opened, pool):
    path = pool("a")
    old = admin.create_group(address, path, member="a", min_mirrors=0)
    with pools.open_pool(path, in_group=True) as held:
        found = record_of(held.medium)
        identity.write(held.medium, **{**found, "epoch": 9})
    assert admin.force_group(address, path).epoch == 9 + admin.EPOCHS_SKIPPED
    assert old.epoch == 1


def record_of(medium) -> dict:
    found = identity.read(medium)
    found.pop("opening", None)
    return found


def test_force_refuses_the_copy_of_another_group_and_one_without_identity(address, pool):
    one, other = pool("a"), pool("b")
    admin.create_group(address, one, member="a", min_mirrors=0)
    admin.create_group(address + "-2", other, member="b", min_mirrors=0)
    with pytest.raises(PoolRefused, match="another group of this name"):
        admin.force_group(address, other)
    with pools.open_pool(one, in_group=True) as held:
        identity.write(held.medium, **{**record_of(held.medium), "state": "none"})
    with pytest.raises(PoolRefused, match="no whole copy"):
        admin.force_group(address, one)
    with pytest.raises(PoolRefused, match="belongs to a group already, as member a"):
        admin.create_group(address + "-3", one, member="a", min_mirrors=0)


def test_something_else_under_the_name_of_the_group_is_refused(address, opened, pool):
    opened(address).create(State.first(b"{}"))
    path = pool("a")
    with pytest.raises(GroupDamaged):
        admin.group_status(address)
    with pytest.raises(GroupDamaged):
        admin.create_group(address, path, member="a", min_mirrors=0)
    assert record(path) is None


def test_without_a_coordinator_a_pool_gets_no_group(pool):
    path = pool("a")
    with pytest.raises(CoordinatorUnavailable):
        admin.create_group("etcd://localhost:1/g", path, member="a", min_mirrors=0, timeout=0.1)
    assert record(path) is None


def test_a_pool_that_a_process_has_open_is_not_used(address, pool):
    path = pool("a")
    with pools.open_pool(path), pytest.raises(PoolInUse):
        admin.create_group(address, path, member="a", min_mirrors=0)


@pytest.mark.parametrize(
    "wrong", [{"member": ""}, {"member": "a" * 32}, {"min_mirrors": 9}], ids=repr
)
def test_wrong_arguments_change_nothing(address, pool, wrong):
    path = pool("a")
    with pytest.raises(InvalidArgument):
        admin.create_group(address, path, **{"member": "a", "min_mirrors": 0, **wrong})
    assert record(path) is None
    with pytest.raises(GroupNotFound):
        admin.group_status(address)


@pytest.mark.parametrize("service", ["etcd"], indirect=True)
def test_a_pool_of_a_group_is_not_opened_without_it(address, pool):
    path = pool("a")
    admin.create_group(address, path, member="a", min_mirrors=0)
    for act in (
        lambda: pools.open_pool(path),
        lambda: rnvm.Backend(path),
        lambda: pools.claim(path).__enter__(),
    ):
        with pytest.raises(PoolRefused, match="belongs to a group, as member a .*--leave-group"):
            act()
    pools.grow(path, "5MiB")
    admin.leave_group(path)
    with rnvm.Backend(path):
        pass
