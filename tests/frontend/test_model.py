"""Random histories of several front-ends against a plain-Python model."""

from __future__ import annotations

import contextlib
from typing import Any

import hypothesis
import hypothesis.strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import rnvm
from rnvm.testing.sample_structure import Sample

from .conftest import new_path, open_backend

PLACES = st.integers(0, 31)
VALUES = st.one_of(st.binary(max_size=60), st.integers(0, 9000).map(lambda n: b"v" * n))
NUMBERS = st.integers(0, 4)
NAMES = st.sampled_from(["a", "b"])
OPTIONS: list[dict[str, Any]] = [
    {},
    {"cache": "8KiB"},
    {"cache": 0, "oplog": False, "lock": "each"},
    {"lock": "cas"},
    {"lock": "cas", "cache": "8KiB"},
]
STEPS = st.lists(st.tuples(NAMES, PLACES, VALUES), min_size=1, max_size=5)


class Discarded(Exception):
    """Ends a transaction."""


class Histories(RuleBasedStateMachine):
    """Five front-ends, two structures; every result is the model's."""

    @initialize()
    def begin(self) -> None:
        self.stack = contextlib.ExitStack()
        self.path = self.stack.enter_context(new_path("direct"))
        self.model: dict[str, dict[int, bytes]] = {"a": {}, "b": {}}
        self.serve()

    def serve(self) -> None:
        self.served = contextlib.ExitStack()
        backend = self.served.enter_context(open_backend(self.path))
        fes = [
            self.served.enter_context(rnvm.connect(backend.address, **options))
            for options in OPTIONS
        ]
        self.samples = [{name: Sample(fe, name) for name in "ab"} for fe in fes]

    @rule(number=NUMBERS, name=NAMES, place=PLACES, value=VALUES)
    def put(self, number: int, name: str, place: int, value: bytes) -> None:
        self.samples[number][name].put(place, value)
        self.model[name][place] = value

    @rule(number=NUMBERS, name=NAMES, place=PLACES)
    def take(self, number: int, name: str, place: int) -> None:
        assert self.samples[number][name].take(place) == self.model[name].pop(place, None)

    @rule(number=NUMBERS, name=NAMES, place=PLACES)
    def get(self, number: int, name: str, place: int) -> None:
        assert self.samples[number][name].get(place) == self.model[name].get(place)

    @rule(number=NUMBERS, steps=STEPS)
    def batch(self, number: int, steps: list[tuple[str, int, bytes]]) -> None:
        with self.samples[number]["a"].fe.batch():
            for name, place, value in steps:
                self.put(number, name, place, value)
                self.take(number, name, (place + 1) % 32)

    @rule(number=NUMBERS, steps=STEPS, discard=st.booleans())
    def transaction(self, number: int, steps: list[tuple[str, int, bytes]], discard: bool) -> None:
        mine = self.samples[number]
        before = {name: dict(values) for name, values in self.model.items()}
        with contextlib.suppress(Discarded), mine["a"].fe.transaction(mine["b"], mine["a"]):
            for name, place, value in steps:
                self.put(number, name, place, value)
                self.take(number, "b" if name == "a" else "a", place)
                self.get(number, name, place)
            if discard:
                self.model = before
                raise Discarded

    @rule(number=NUMBERS)
    def check(self, number: int) -> None:
        for sample in self.samples[number].values():
            sample.check()

    @rule()
    def restart(self) -> None:
        self.served.close()
        self.serve()

    @invariant()
    def others_agree(self) -> None:
        if hasattr(self, "model"):
            for mine in self.samples:
                assert [mine["a"].get(place) for place in (0, 31)] == [
                    self.model["a"].get(place) for place in (0, 31)
                ]

    def teardown(self) -> None:
        if hasattr(self, "stack"):
            self.served.close()
            self.stack.close()


TestHistories = Histories.TestCase
TestHistories.settings = hypothesis.settings(max_examples=15, stateful_step_count=25, deadline=None)
