"""What a coordinator promises, for both drivers."""

from __future__ import annotations

import os
import pickle
import select
import signal
import threading
import time

import coordination_services
import pytest
import python_programs
from polling import until
from time_bounds import LONG, raises_in_some_try, soon

from rfp.errors import (
    AlreadyExists,
    Closed,
    CoordinatorUnavailable,
    Forked,
    GroupDamaged,
    GroupNotFound,
    InvalidArgument,
    VersionMismatch,
    WrongType,
)
from rnvm.coordinator import etcd, zookeeper
from rnvm.coordinator.opening import open_coordinator
from rnvm.coordinator.registration import MEMBER_DATA_MAX
from rnvm.coordinator.state import PAST_MAX, STATE_MAX, State
from tests.group import in_memory
from tests.histories.history import UNKNOWN

from . import histories

# The drivers are different code.
pytestmark = [pytest.mark.every_case, pytest.mark.pure]


def test_a_group_is_created_once(opened, address):
    one, other = opened(address), opened(address)
    state = one.create(State.first(b"one"))
    with pytest.raises(AlreadyExists) as refused:
        other.create(State.first(b"other"))
    assert refused.value.version == 1
    assert one.read() == other.read() == state
    assert (state.value, state.number) == (b"one", 1)


def test_one_state_may_be_created_again_after_an_unknown_outcome(opened, address):
    one, other = opened(address), opened(address)
    first = State.first(b"one")
    assert one.create(first) == first
    for _ in range(PAST_MAX + 2):
        state = other.read()
        other.compare_and_set(state, state.next(b"later"))
    assert one.create(first) == first
    assert one.read().number == PAST_MAX + 3


def test_a_group_that_was_deleted_during_its_creation_is_created(monkeypatch):
    real, found = in_memory._Coordinator._create, iter([False])
    monkeypatch.setattr(
        in_memory._Coordinator, "_create", lambda *each: next(found, None) is None and real(*each)
    )
    with in_memory.Service().open(in_memory.ADDRESS) as coordinator:
        first = State.first(b"one")
        assert coordinator.create(first) == coordinator.read() == first


def test_a_missing_state_is_an_error_and_is_never_created(opened, address):
    coordinator = opened(address)
    for _ in range(2):
        with pytest.raises(GroupNotFound, match=r"has no state at"):
            coordinator.read()
        old = State.first(b"one")
        with pytest.raises(GroupNotFound):
            coordinator.compare_and_set(old, old.next(b"two"))
    assert coordinator.members() == []


def test_a_change_replaces_the_expected_state_only(opened, address):
    one, other = opened(address), opened(address)
    first = one.create(State.first(b"one"))
    second = one.compare_and_set(first, first.next(b"two"))
    assert (second.value, second.number) == (b"two", 2)
    with pytest.raises(VersionMismatch) as refused:
        other.compare_and_set(first, first.next(b"other"))
    assert refused.value.version == 2
    assert other.read() == second


def test_a_repeated_change_takes_effect_once(opened, address):
    coordinator = opened(address)
    first = coordinator.create(State.first(b"one"))
    second = first.next(b"two")
    assert coordinator.compare_and_set(first, second) == second
    assert coordinator.compare_and_set(first, second) == second
    third = coordinator.compare_and_set(second, second.next(b"three"))
    assert coordinator.compare_and_set(first, second) == second, "it was made, and replaced"
    assert coordinator.read() == third


def test_two_changes_to_the_same_value_are_two_changes(opened, address):
    one, other = opened(address), opened(address)
    first = one.create(State.first(b"one"))
    one.compare_and_set(first, first.next(b"same"))
    with pytest.raises(VersionMismatch):
        other.compare_and_set(first, first.next(b"same"))


def test_a_new_state_must_follow_the_old_one(opened, address):
    coordinator = opened(address)
    first = coordinator.create(State.first(b"one"))
    with pytest.raises(InvalidArgument, match="next"):
        coordinator.compare_and_set(first, State.first(b"two"))


def test_a_state_of_a_deleted_group_changes_no_group_of_the_same_name(opened, address, service):
    coordinator = opened(address)
    old = coordinator.create(State.first(b"one"))
    service.delete(coordinator.address.group)
    new = coordinator.create(State.first(b"one"))
    with pytest.raises(VersionMismatch):
        coordinator.compare_and_set(old, old.next(b"two"))
    assert coordinator.read() == new


def test_a_state_that_an_operator_wrote_again_is_the_same_state(opened, address, service):
    coordinator = opened(address)
    first = coordinator.create(State.first(b"one"))
    service.overwrite(coordinator.address.group, first.encode())
    second = coordinator.compare_and_set(first, first.next(b"two"))
    third = coordinator.compare_and_set(second, second.next(b"three"))
    assert coordinator.read() == third


@pytest.mark.parametrize("raw", [b"", b"hello", b"rnvm-state 2 1 a b c\n", b"\xff\n", b"{}\n"])
def test_anything_else_under_the_name_of_a_group_is_refused(opened, address, service, raw):
    coordinator = opened(address)
    first = coordinator.create(State.first(b"one"))
    service.overwrite(coordinator.address.group, raw)
    with pytest.raises(GroupDamaged, match="contains no state of a group"):
        coordinator.read()
    with pytest.raises(GroupDamaged):
        coordinator.compare_and_set(first, first.next(b"two"))


def test_the_largest_value_is_kept_and_a_larger_one_is_refused(opened, address):
    coordinator = opened(address)
    value = os.urandom(STATE_MAX)
    first = coordinator.create(State.first(value))
    assert coordinator.read().value == value
    with pytest.raises(InvalidArgument, match="the length of value must be between"):
        first.next(value + b"x")
    with pytest.raises(WrongType, match="value must be bytes, not str"):
        first.next("text")


@pytest.mark.parametrize("service", ["zk"], indirect=True)
def test_a_read_in_another_session_than_its_barrier_is_repeated(opened, service, address):
    coordinator = opened(address, timeout=20)
    state = coordinator.create(State.first(b"one"))
    real, sessions = coordinator._barrier, []

    def barrier(attempt):
        client, session = real(attempt)
        if not sessions:
            service.end_session(session)
            until(lambda: client.connected and client.client_id != session)
        sessions.append(session)
        return client, session

    coordinator._barrier = barrier
    assert coordinator.read() == state
    assert len(set(sessions)) == 2
    sessions.clear()
    assert coordinator.members() == []
    assert len(set(sessions)) == 2


def test_exactly_one_of_several_processes_wins_each_change(opened, address, seed):
    coordinator = opened(address)
    first = coordinator.create(State.first(b""))
    for trial in range(5):  # on a busy machine the processes may not meet
        steps, verdict = histories.record(
            address, first.id, processes=4, seconds=1.0, seed=seed % 1000 + 10 * trial
        )
        assert verdict, verdict.reason
        calls = [step.calls[0] for step in steps if step.calls[0].name == "set"]
        won = [call for call in calls if call.answer is True]
        unknown = [call for call in calls if call.answer == UNKNOWN]
        assert len({call.arguments[0] for call in won}) == len(won), "each state was replaced once"
        last = coordinator.read()
        assert len(won) <= last.number - first.number <= len(won) + len(unknown)
        if any(call.answer is False for call in calls):
            return
        first = last
    raise AssertionError("the processes never met")


@pytest.mark.usefixtures("patient_closing")
def test_a_member_is_listed_until_it_is_closed(opened, address):
    one, other = opened(address), opened(address)
    with one.register("host-a:7001", b"\x00address", lease=60) as registration:
        assert registration.registered
        assert other.members() == [registration.member]
        assert registration.member.data == b"\x00address"
    assert other.members() == []
    assert not registration.registered
    assert not one._registrations, "each role of a member has one"


@pytest.mark.usefixtures("patient_closing")
def test_two_registrations_of_one_name_are_two_instances(opened, address):
    coordinator = opened(address)
    first = coordinator.register("a", lease=60)
    second = coordinator.register("a", lease=60)
    assert {each.instance for each in coordinator.members()} == {
        first.member.instance, second.member.instance,
    }  # fmt: skip
    first.close()
    assert coordinator.members() == [second.member]


def test_a_registration_that_was_not_made_in_time_is_not_made_later(monkeypatch):
    class Unanswered(in_memory._Registration):
        def _run(self) -> None:
            self._closing.wait()

    monkeypatch.setattr(in_memory, "_Registration", Unanswered)
    with in_memory.Service().open(in_memory.ADDRESS) as coordinator:
        with pytest.raises(CoordinatorUnavailable):
            coordinator.register("a", lease=5, timeout=0.05)
        assert not [each for each in threading.enumerate() if each.name == "rnvm-lease"]


def test_a_killed_member_is_removed_after_its_lease(opened, address):
    coordinator = opened(address)
    process = histories.start("member", address, "a", 1.0)
    try:
        instance = histories.next_event(process)["instance"]
        # If it was held up, its lease ended, and it registers again.
        until(lambda: [each.instance for each in coordinator.members()] == [instance])
        process.kill()
        until(lambda: coordinator.members() == [])
    finally:
        histories.end(process)


def test_a_member_that_was_stopped_longer_than_its_lease_comes_back(opened, address):
    coordinator = opened(address)
    process = histories.start("member", address, "a", 1.0)
    try:
        instance = histories.next_event(process)["instance"]
        process.send_signal(signal.SIGSTOP)
        until(lambda: coordinator.members() == [])
        process.send_signal(signal.SIGCONT)
        process.stdin.write(b"\n")
        process.stdin.flush()
        assert histories.next_event(process)["lapses"] >= 1
        until(lambda: [each.instance for each in coordinator.members()] == [instance])
    finally:
        histories.end(process)


def test_a_member_is_not_registered_while_no_node_answers(opened, service, address):
    with opened(address).register("a", lease=1) as registration:
        with service.frozen(0):
            until(lambda: not registration.registered)
        until(lambda: registration.registered)


def test_a_watch_reports_each_state_or_a_newer_one(opened, address):
    one, other = opened(address), opened(address)
    state = one.create(State.first(b"0"))
    with other.watch() as watch:
        seen = []

        def follow() -> None:
            while not seen or seen[-1] < 21:
                assert watch.wait(20)
                seen.append(other.read().number)

        thread = threading.Thread(target=follow)
        thread.start()
        for number in range(20):
            state = one.compare_and_set(state, state.next(b"%d" % number))
            if number % 5 == 0:
                until(lambda number=number: seen and seen[-1] >= number + 2)
        thread.join(20)
        assert not thread.is_alive()
        assert seen == sorted(seen)


@pytest.mark.usefixtures("patient_closing")
def test_a_watch_reports_members_that_come_and_go(opened, address):
    one, other = opened(address), opened(address)
    one.create(State.first(b""))
    with other.watch() as watch:

        def sees(names: list[str]) -> None:
            until(lambda: watch.wait(1) and [each.name for each in other.members()] == names)

        sees([])
        registration = one.register("a", lease=60)
        sees(["a"])
        registration.close()
        sees([])


def test_a_watch_reports_by_itself_if_nothing_changes(opened, address, monkeypatch):
    for driver in (etcd, zookeeper):
        monkeypatch.setattr(driver, "WATCH_S", 0.2)
    with opened(address).watch() as watch:
        for _ in range(3):
            assert watch.wait(20)


def test_a_watch_ends_soon_after_it_is_closed(opened, address, monkeypatch):
    for module in ("etcd", "zookeeper", "watch"):
        monkeypatch.setattr(f"rnvm.coordinator.{module}.WATCH_S", LONG)
    watch = opened(address).watch()
    assert watch.wait(20)
    with soon():
        watch.close()


def test_a_watch_is_a_descriptor_for_a_selector(opened, address, monkeypatch):
    for driver in (etcd, zookeeper):
        monkeypatch.setattr(driver, "WATCH_S", LONG)  # no hint comes by itself
    with opened(address).watch() as watch:
        assert watch.wait(20)
        assert not watch.wait(0)
        watch.hint()
        assert select.select([watch], [], [], 10)[0] == [watch]
        assert watch.wait(0)


def test_a_watch_that_is_closed_ends_the_wait_of_another_thread(opened, address):
    watch = opened(address).watch()
    assert watch.wait(20)
    ended = []

    def wait() -> None:
        while True:
            try:
                watch.wait(LONG)
            except Closed:
                ended.append(True)
                return

    thread = threading.Thread(target=wait)
    thread.start()
    watch.close()
    watch.close()
    thread.join(20)
    assert ended
    with pytest.raises(Closed):
        watch.wait(0)
    with pytest.raises(Closed):
        watch.fileno()


@pytest.mark.usefixtures("patient_closing")
@pytest.mark.parametrize("order", ["coordinator first", "coordinator last"])
def test_everything_closes_in_any_order_and_twice(address, order):
    coordinator = open_coordinator(address)
    coordinator.create(State.first(b""))
    handles = [coordinator.register("a", lease=60), coordinator.watch(), coordinator.watch()]
    handles.insert(0 if order == "coordinator first" else 3, coordinator)
    for handle in handles * 2:
        handle.close()
    assert coordinator.closed
    for call in (coordinator.read, coordinator.members, coordinator.watch):
        with pytest.raises(Closed, match="the coordinator is closed"):
            call()
    with open_coordinator(address) as other:
        assert other.members() == []


def test_close_ends_the_calls_of_other_threads(service, address):
    coordinator = open_coordinator(address)
    coordinator.members()
    errors = []

    def read() -> None:
        try:
            coordinator.read(timeout=50)
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=read)
    with service.frozen(0):
        thread.start()
        time.sleep(0.05)  # most often the call has begun: both orders must hold
        coordinator.close()
        thread.join(20)
    assert [type(each) for each in errors] == [Closed]


def test_close_does_not_wait_for_a_server_that_does_not_answer(service, address):
    coordinator = open_coordinator(address, timeout=LONG)
    coordinator.register("a", lease=1)
    watch = coordinator.watch()
    assert watch.wait(20)
    with service.frozen(0), soon():
        coordinator.close()
    with open_coordinator(address) as other:
        until(lambda: other.members(timeout=30) == [])


def test_a_process_may_end_without_closing_anything(address):
    run = python_programs.run("-c", """
import sys
from rnvm.coordinator.opening import open_coordinator
coordinator = open_coordinator(sys.argv[1])
registration = coordinator.register("a", lease=1)
watch = coordinator.watch()
watch.wait(20)
""", address)  # fmt: skip
    assert (run.returncode, run.stdout, run.stderr) == (0, b"", b"")


def test_a_child_process_must_open_its_own(opened, address):
    coordinator = opened(address)
    coordinator.create(State.first(b"one"))
    registration = coordinator.register("a", lease=60)
    watch = coordinator.watch()
    child = os.fork()
    if not child:
        status = 1
        try:
            for call in (coordinator.read, coordinator.members, watch.fileno):
                with pytest.raises(Forked):
                    call()
            assert not registration.registered
            for each in (watch, registration, coordinator):
                each.close()
            with open_coordinator(address) as other:
                assert other.read().value == b"one"
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert coordinator.members() == [registration.member]
    assert coordinator.read().value == b"one"
    assert watch.wait(20)


def test_a_coordinator_is_not_pickled(opened, address):
    with pytest.raises(WrongType, match="cannot be copied or pickled"):
        pickle.dumps(opened(address))


def test_without_a_server_each_call_ends_in_time_and_names_the_nodes(opened, service):
    (port,) = coordination_services.free_ports(1)
    coordinator = opened(f"{service.kind}://localhost:{port}/g", timeout=0.3)
    old = State.first(b"one")
    for call in (
        coordinator.read,
        coordinator.members,
        lambda: coordinator.create(old),
        lambda: coordinator.compare_and_set(old, old.next(b"two")),
        lambda: coordinator.register("a", lease=1),
    ):
        raises_in_some_try(call, CoordinatorUnavailable, f"localhost:{port}: .*refused.*majority")


def test_a_server_that_does_not_answer_does_not_hold_up_a_call(opened, service, address):
    coordinator = opened(address, timeout=LONG)
    assert coordinator.members() == []
    with service.frozen(0), soon():
        with pytest.raises(
            CoordinatorUnavailable, match="cannot read the state of group .* in time"
        ):
            coordinator.read(timeout=0.3)
    assert coordinator.members(timeout=30) == []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (dict(name="", lease=5), "invalid member"),
        (dict(name="a/b", lease=5), "invalid member"),
        (dict(name="a@b", lease=5), "invalid member"),
        (dict(name="a" * 64, lease=5), "invalid member"),
        (dict(name="a", lease=0.5), "lease must be between 1 and 300, got 0.5"),
        (dict(name="a", lease=float("nan")), "lease must be between"),
        (dict(name="a", lease="5"), "lease must be a number of seconds, not .5."),
        (dict(name="a", lease=5, data=bytes(MEMBER_DATA_MAX + 1)), "the length of data must be"),
        (dict(name="a", lease=5, timeout=0), "timeout must be between"),
    ],
)  # fmt: skip
def test_an_invalid_argument_is_refused_before_anything_is_sent(opened, arguments, expected):
    coordinator = opened("etcd://localhost:1/g")
    with pytest.raises((InvalidArgument, WrongType), match=expected):
        coordinator.register(**arguments)
