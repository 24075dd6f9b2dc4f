"""The course of one run, the same over a store and over structures: start, disturb, finish."""

from __future__ import annotations

import itertools

from .roles import draw
from .runner import Process, Run


class Play:
    """One run.

    A subclass starts the processes, disturbs them, and makes the history from their records.
    """

    WAITS_SECONDS: tuple[float, float]
    """Least and greatest time before each disturbance."""

    def __init__(self, seed: int, running: Run, calls: int) -> None:
        self.seed, self.running, self.calls = seed, running, calls
        self.address = f"shm://{running.folder}/s"
        self.numbers = itertools.count(1)
        self.clients: dict[int, Process] = {}
        self.background: list[Process] = []

    def client(self, number: int) -> Process:
        """Start client `number`, again if it was killed."""
        raise NotImplementedError

    def disturb(self, action: str, number: int) -> None:
        """Do `action` to the server, or to client `number`."""
        raise NotImplementedError

    def begin(self, clients: int) -> None:
        self.clients = {number: self.client(number) for number in range(clients)}

    def open_gate(self) -> None:
        self.running.ready(*self.clients.values())
        self.running.gate.open()

    def act(self, weights: dict[str, float], actions: int) -> None:
        """Draw and do so many actions, then end the calls; nothing if there are none."""
        running = self.running
        for _ in range(actions):
            action = draw(running.rng, weights or {"wait": 1.0})
            number = running.rng.choice(list(self.clients))
            running.wait(running.rng.uniform(*self.WAITS_SECONDS))
            self.disturb(action, number)
        if actions:
            running.gate.end()

    def kill_client(self, number: int) -> None:
        self.running.kill(self.clients[number])
        self.clients[number] = self.client(number)

    def finish_calls(self) -> None:
        self.running.end(*self.clients.values())
        self.running.gate.end()
        self.running.end(*self.background)
