"""How a machine is run."""

from __future__ import annotations

import random
import time

import hypothesis
from hypothesis.stateful import run_state_machine_as_test

from .machine import Machine

ROUND = 8  # examples


def run(machine: type[Machine], rng: random.Random, steps: int, seconds: float) -> None:
    """Examples of so many steps each at most; no further round of them after so many seconds.

    Hypothesis shrinks a failure for up to five minutes, so only long runs do: a short one shows the example as it was drawn.
    """
    phases = [hypothesis.Phase.generate] + [hypothesis.Phase.shrink] * (seconds > 60)
    settings = hypothesis.settings(
        max_examples=ROUND, stateful_step_count=steps, deadline=None, database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=phases,
    )  # fmt: skip
    over = time.monotonic() + seconds
    while time.monotonic() < over:
        seeded = hypothesis.seed(rng.getrandbits(64))(type("Seeded", (machine,), {}))
        run_state_machine_as_test(seeded, settings=settings)
