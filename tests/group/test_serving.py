"""Until when a primary may answer, against mirrors that keep their promises to the nanosecond."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from rnvm.group.serving import PARTS, Serving

MS = 1_000_000
PROMISE = 1000 * MS
DRIFT = 20_000


def life(rule: Callable[[int, int], Any], seed: int, drift: int = DRIFT) -> None:
    """Run some mirrors; raise if the primary may answer when one of them may open its pool."""
    draw = random.Random(seed)
    half = drift / 2 / PARTS
    rate = 1 + draw.choice((-half, 0, half))
    mirror_rate = 1 + draw.choice((-half, 0, half))
    serving = rule(PROMISE, drift)
    now = 0
    received = dict.fromkeys(range(draw.choice((1, 2, 3))), 0)  # the last frame
    frees = dict.fromkeys(received, 0.0)  # real times at which their promises end
    last = 0
    serving.require(received, 0)
    for _ in range(400):
        now += draw.choice((0, 1, MS, 30 * MS, 200 * MS))
        clock = int(now * rate)
        act = draw.random()
        slot = draw.choice(list(received))
        if act < 0.3:
            serving.publish()
        elif act < 0.6:
            if received[slot] < serving.published:
                received[slot] = serving.published
                frees[slot] = now + PROMISE / mirror_rate
        elif act < 0.8:
            serving.ack(slot, received[slot], clock)
        else:
            serving.poll(clock)
            assert serving.until >= last, "it fell"
            last = serving.until
            if serving.until:
                ends = min(frees.values())
                assert serving.until / rate <= ends + 2, f"{serving.until / rate} after {ends}"


@pytest.mark.parametrize("part", range(4))
def test_the_promise_of_every_required_mirror_outlasts_until(part, seed):
    for each in range(150):
        life(Serving, seed % 2**32 + 1000 * part + each)


class SampleOfThePublishedFrame(Serving):
    """A sample is (the last published frame, now), which may have been received before."""

    def ack(self, slot: int, frame: int, now: int) -> None:
        super().ack(slot, frame, now)
        each = self._slots.get(slot)
        if each is not None and each.sampled == now:
            each.sample = self.published


class EqualClocks(Serving):
    """The drift of clocks is not taken off."""

    def __init__(self, promise: int, _drift: int) -> None:
        super().__init__(promise, 0)


class OneMirrorIsEnough(Serving):
    """The latest of the mirrors counts, not the earliest."""

    def poll(self, now: int, *, min_mirrors: int = 0) -> None:
        super().poll(now, min_mirrors=min_mirrors)
        sent = max(each.sent for each in self._slots.values())
        self.until = max(self.until, sent + self.trusted)


class AckedIsNow(Serving):
    """The promise is counted from when the acknowledgement arrived."""

    def ack(self, slot: int, frame: int, now: int) -> None:
        super().ack(slot, frame, now)
        self._slots[slot].sent = now


@pytest.mark.every_case
@pytest.mark.parametrize(
    "rule", [SampleOfThePublishedFrame, EqualClocks, OneMirrorIsEnough, AckedIsNow]
)
def test_a_wrong_rule_is_found(rule):
    def found(seed: int) -> bool:
        try:
            life(rule, seed)
        except AssertionError:
            return True
        return False

    assert any(found(seed) for seed in range(500))


def test_a_primary_without_mirrors_extends_its_time_by_itself_but_not_for_ever():
    serving = Serving(PROMISE, DRIFT)
    serving.poll(5000 * MS)
    assert serving.until == 5000 * MS + PROMISE - PROMISE * DRIFT // PARTS


def test_a_mirror_that_is_required_from_now_on_extends_nothing_until_it_has_a_later_frame():
    serving = Serving(PROMISE, DRIFT)
    serving.publish()
    serving.poll(0)
    before = serving.until
    frame = serving.require([1], 10 * MS)
    serving.ack(1, 1, 20 * MS)
    serving.poll(20 * MS)
    assert (serving.until, frame) == (before, 2)
    serving.publish()
    serving.ack(1, frame, 30 * MS)
    serving.poll(30 * MS)
    assert serving.until == before + 10 * MS


def test_an_acknowledgement_of_a_frame_that_was_not_published_counts_for_nothing():
    serving = Serving(PROMISE, DRIFT)
    serving.require([1], 0, in_sync=1)
    serving.publish()
    serving.ack(1, 2, 0)
    serving.poll(0, min_mirrors=1)
    assert serving.acked == 0


def test_fewer_mirrors_than_asked_for_acknowledge_nothing():
    serving = Serving(PROMISE, DRIFT)
    serving.publish()
    serving.poll(0, min_mirrors=1)
    assert serving.acked == 0
    serving.poll(0)
    assert serving.acked == 1
