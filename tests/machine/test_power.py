"""The state machine on the crash model: the power fails at any moment."""

from __future__ import annotations

import random
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis.stateful import initialize, rule

from .machine import OPTIONS, Machine, step
from .power import Power
from .running import run


class PowerMachine(Machine):
    """The power may fail at any moment, also during recovery."""

    @initialize(
        kind=st.sampled_from(["words", "lines", "sectors"]),
        impatient=st.booleans(),
        may_fill=st.sampled_from([False, False, False, True]),
        options=st.lists(OPTIONS, min_size=2, max_size=3),
    )
    def start(
        self, kind: str, impatient: bool, may_fill: bool, options: list[dict[str, Any]]
    ) -> None:
        self.impatient, self.may_fill = impatient, may_fill
        self.place = Power(kind, 60.0 if impatient else 0.02)
        self.begin()
        for each in options:
            self.add_front(each, False)

    @rule(
        part=st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0]),
        seed=st.integers(0, 2**32),
        again=st.booleans(),
    )
    @step
    def power_fails(self, part: float, seed: int, again: bool) -> None:
        for front in self.fronts:
            self.may_lose_session(front)
        image = self.place.fail(self.moment, part, seed)
        if part < 1:
            self.worlds = [
                *self.worlds,
                *(world for world in self.before if world not in self.worlds),
            ]
        self.close_all()
        self.place.recover(image)
        if again:
            self.place.recover(self.place.fail(0, part, seed))
        self.begin()
        self.read_everything()
        self.add_front({}, False)
        self.add_front({}, False)

    @rule()
    @step
    def restart(self) -> None:
        """Restart the back-end in order; front-ends reconnect."""
        for front in self.fronts:
            self.may_lose_session(front)
            front.doomed = True
        self.place.restart()
        self.begin()


@pytest.mark.timeout(300)
def test_acknowledged_changes_survive_a_power_failure_at_any_moment(
    rng: random.Random,
) -> None:
    run(PowerMachine, rng, 30, 5)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_acknowledged_changes_survive_power_failures_in_long_runs(
    rng: random.Random, run_ends: float
) -> None:
    run(PowerMachine, rng, 50, 400, run_ends)
