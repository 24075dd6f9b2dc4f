"""A change whose answer is lost: it is sent again, read back, and takes effect once."""

from __future__ import annotations

import contextlib
import threading

import coordination_services
import pytest
from polling import until
from time_bounds import raises_in_some_try

from rfp.errors import (
    CoordinatorRefused,
    CoordinatorUnavailable,
    GroupDamaged,
    OutcomeUnknown,
    VersionMismatch,
)
from rnvm.coordinator import zookeeper
from rnvm.coordinator.attempt import Unanswered
from rnvm.coordinator.state import PAST_MAX, State

from .proxy import CHANGE, Proxy

pytestmark = [pytest.mark.every_case, pytest.mark.pure]


@pytest.fixture
def proxy(service):
    with contextlib.closing(Proxy(service.ports[0][0], CHANGE[service.kind])) as running:
        yield running


@pytest.fixture
def through(opened, service, address, proxy, monkeypatch):
    """A coordinator that reaches the service through the proxy only."""
    # A message that arrives after its session has ended has no effect in ZooKeeper.
    monkeypatch.setattr(zookeeper, "SESSION_S", 30.0)
    group = address.rpartition("/")[2]
    return opened(f"{service.kind}://127.0.0.1:{proxy.port}/{group}", timeout=20)


@pytest.mark.parametrize("plan", ["cut before", "cut after"])
def test_a_change_whose_answer_is_lost_takes_effect_once(opened, address, through, proxy, plan):
    direct = opened(address)
    first = direct.create(State.first(b"one"))
    through.read()
    proxy.plan = plan
    second = through.compare_and_set(first, first.next(b"two"))
    assert proxy.seen.is_set()
    assert direct.read() == second
    assert second.number == 2


@pytest.mark.parametrize("plan", ["cut before", "cut after"])
def test_a_creation_whose_answer_is_lost_takes_effect_once(opened, address, through, proxy, plan):
    direct = opened(address)
    assert through.members() == []
    proxy.plan = plan
    first = through.create(State.first(b"one"))
    assert proxy.seen.is_set()
    assert direct.read() == first


def hold(proxy, through, old, new):
    """Let a change arrive at the proxy, and its call end before it is delivered."""
    through.read()
    proxy.plan = "hold"
    raises_in_some_try(
        lambda: through.compare_and_set(old, new, timeout=0.5),
        OutcomeUnknown,
        "it may still be done",
        late=CoordinatorUnavailable,
    )
    assert proxy.seen.wait(20)


def test_a_change_that_is_under_way_when_its_coordinator_is_closed_is_of_unknown_outcome(
    opened, address, through, proxy
):
    direct = opened(address)
    first = direct.create(State.first(b"one"))
    through.read()
    proxy.plan = "hold"
    errors = []

    def change() -> None:
        try:
            through.compare_and_set(first, first.next(b"two"))
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=change)
    thread.start()
    assert proxy.seen.wait(20)
    through.close()
    thread.join(20)
    (error,) = errors
    assert isinstance(error, OutcomeUnknown), error
    assert "closed before an answer" in str(error)


def test_a_change_that_arrives_late_may_take_effect_after_its_call(opened, address, through, proxy):
    direct = opened(address)
    first = direct.create(State.first(b"one"))
    second = first.next(b"two")
    hold(proxy, through, first, second)
    assert direct.read() == first, "a read that shows the old state proves nothing"
    proxy.deliver()
    until(lambda: direct.read() == second)
    assert through.compare_and_set(first, second) == second
    assert direct.read() == second


def test_a_change_that_arrives_after_another_one_has_no_effect(opened, address, through, proxy):
    direct = opened(address)
    first = direct.create(State.first(b"one"))
    second = first.next(b"two")
    hold(proxy, through, first, second)
    other = direct.compare_and_set(first, first.next(b"other"))
    proxy.deliver()
    assert direct.read() == other
    with pytest.raises(VersionMismatch):
        through.compare_and_set(first, second)


def test_a_repeated_change_makes_a_late_one_harmless(opened, address, through, proxy):
    direct = opened(address)
    first = direct.create(State.first(b"one"))
    second = first.next(b"two")
    hold(proxy, through, first, second)
    assert direct.compare_and_set(first, second) == second
    third = direct.compare_and_set(second, second.next(b"three"))
    proxy.deliver()
    assert direct.read() == third


def test_after_too_many_other_changes_an_unknown_outcome_stays_unknown(
    opened, address, through, proxy
):
    direct = opened(address)
    first = direct.create(State.first(b"one"))
    second = first.next(b"two")
    hold(proxy, through, first, second)
    state = first
    for _ in range(PAST_MAX + 1):
        state = direct.compare_and_set(state, state.next(b"other"))
    proxy.deliver()
    with pytest.raises(OutcomeUnknown, match="cannot determine whether the state 2"):
        through.compare_and_set(first, second)
    with pytest.raises(VersionMismatch):
        direct.compare_and_set(first, first.next(b"never sent"))


def test_a_change_that_was_not_sent_is_known_not_to_be_made(opened, service):
    (port,) = coordination_services.free_ports(1)
    coordinator = opened(f"{service.kind}://localhost:{port}/g")
    first = State.first(b"one")
    with pytest.raises(CoordinatorUnavailable):
        coordinator.compare_and_set(first, first.next(b"two"), timeout=0.3)


@pytest.mark.parametrize(
    "refusal", [CoordinatorRefused("no"), GroupDamaged("no")], ids=["refused", "damaged"]
)
def test_a_refusal_after_an_unanswered_attempt_leaves_the_outcome_unknown(
    opened, address, monkeypatch, refusal
):
    coordinator = opened(address)
    first = coordinator.create(State.first(b"one"))
    second = first.next(b"two")
    real = coordinator._set

    def set_then_refuse(old, new, attempt):
        if attempt.unknown:
            raise refusal
        assert real(old, new, attempt)
        attempt.unknown = True
        raise Unanswered

    monkeypatch.setattr(coordinator, "_set", set_then_refuse)
    with pytest.raises(OutcomeUnknown, match="it may have been done before"):
        coordinator.compare_and_set(first, second)
    assert coordinator.read() == second
