"""Runs a state machine."""

from __future__ import annotations

import math
import random
import time

import hypothesis
from hypothesis.stateful import run_state_machine_as_test

from .machine import Machine

EXAMPLES_PER_ROUND = 8


def run(
    machine: type[Machine],
    rng: random.Random,
    steps: int,
    seconds: float,
    run_ends: float = math.inf,
) -> None:
    """Run rounds of examples.

    Hypothesis shrinks a failure for up to five minutes, so only long runs do so. A short one prints
    the example as it was drawn.

    Args:
        steps: of an example, at most.
        seconds: no further round begins after this time.
        run_ends: nor after this one, of time.monotonic(); the first round begins in any case.
    """
    phases = [hypothesis.Phase.generate] + [hypothesis.Phase.shrink] * (seconds > 60)
    settings = hypothesis.settings(
        max_examples=EXAMPLES_PER_ROUND,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=phases,
    )
    over = min(time.monotonic() + seconds, run_ends)
    while True:
        seeded = hypothesis.seed(rng.getrandbits(64))(type("Seeded", (machine,), {}))
        run_state_machine_as_test(seeded, settings=settings)
        if time.monotonic() >= over:
            return
