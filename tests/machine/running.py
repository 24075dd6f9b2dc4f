"""How a machine is run."""

from __future__ import annotations

import time

import hypothesis
from hypothesis.stateful import run_state_machine_as_test

from .machine import Machine


def run(machine: type[Machine], examples: int, steps: int, seconds: float) -> None:
    """So many examples, of so many steps each at most; no new one after so many seconds, unless one has failed and is made shorter."""
    over = time.monotonic() + seconds

    class Timed(machine):  # type: ignore[valid-type, misc]
        failed = False

        def __init__(self) -> None:
            hypothesis.assume(Timed.failed or time.monotonic() < over)
            super().__init__()

        def teardown(self) -> None:
            try:
                super().teardown()
            except BaseException:
                Timed.failed = True
                raise
            Timed.failed |= not self.sound

    settings = hypothesis.settings(
        max_examples=examples, stateful_step_count=steps, deadline=None, suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.reuse, hypothesis.Phase.generate, hypothesis.Phase.shrink],
    )  # fmt: skip
    run_state_machine_as_test(Timed, settings=settings)
