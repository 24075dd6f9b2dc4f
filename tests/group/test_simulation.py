"""Groups under faults: what must hold does, and each sentence of the design is needed for it."""

from __future__ import annotations

import pytest

from . import planted
from .simulation import Simulation, Violation

pytestmark = pytest.mark.pure

SEEDS = 15
SECONDS = 15


def lived(seed: int) -> Simulation:
    simulation = Simulation(seed, members=2 + seed % 3)
    simulation.live(SECONDS)
    simulation.heal(SECONDS)
    return simulation


def test_nothing_acknowledged_is_lost_and_no_two_members_answer_at_once(seed):
    lives = [lived(seed % 2**32 + each) for each in range(SEEDS)]
    totals = {what: sum(life.counts[what] for life in lives) for what in lives[0].counts}
    assert all(totals.values()), totals


@pytest.mark.long(300)
@pytest.mark.timeout(900)
def test_nothing_acknowledged_is_lost_in_many_lives(seed):
    for each in range(200 * SEEDS):
        lived(seed % 2**32 + each)


def test_a_life_is_repeated_by_its_seed():
    one, other = lived(7), lived(7)
    assert one.counts == other.counts
    assert one.coordinator.seen == other.coordinator.seen


@pytest.mark.parametrize("fault", list(planted.FAULTS))
def test_a_planted_fault_is_found(fault):
    for seed in range(400):
        simulation = Simulation(seed, members=2 + seed % 3)
        planted.FAULTS[fault](simulation)
        try:
            simulation.live(SECONDS)
        except Violation:
            return
    pytest.fail(f"{fault} was not found")
