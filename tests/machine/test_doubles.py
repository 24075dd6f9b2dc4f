"""The state machine finds faults: it drives doubles with the faults that the package once had."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from . import calls
from .doubles import (
    CreatingCommits,
    DeleteFails,
    FullPoolSticks,
    HandleCommits,
    ReleaseCommits,
    StaleBatch,
    TornTransaction,
    WideBatchFails,
)
from .machine import Driver, Machine, Wrong
from .test_power import PowerMachine


def start(machine: Machine, fronts: int = 2) -> None:
    machine.start(kind="words", impatient=False, may_fill=True, options=[{}] * fronts)


def wide_batch(machine: Machine) -> None:
    """A batch over structures whose locks the front-end has; another one calls during and after."""
    start(machine)
    machine.use_many(0)
    machine.begin_batch(0)
    machine.use_many(0)
    machine.end_batch(0)
    machine.call(machine.fronts[1], "q100", calls.put(machine.value(3)))
    machine.use_many(0)
    machine.power_fails(part=1.0, seed=1, again=False)


def creating_in_a_transaction(machine: Machine) -> None:
    start(machine)
    machine.begin_transaction(0, ["q0"])
    machine.put(0, "q0", 3)
    machine.open_it(0, "h0")
    machine.end_transaction(0, False)
    machine.begin_batch(0)
    machine.put(0, "q0", 3)
    machine.put(0, "q0", 3)
    machine.power_fails(part=1.0, seed=1, again=False)


def release_in_a_batch(machine: Machine) -> None:
    start(machine)
    machine.open_it(1, "q0")
    machine.begin_batch(0)
    machine.put(0, "q0", 3)
    machine.release(0)
    machine.put(1, "q0", 3)
    machine.put(0, "q0", 3)
    machine.end_batch(0)


def release_in_a_transaction(machine: Machine) -> None:
    start(machine)
    machine.store(0, "h0", b"k", 3)
    machine.begin_transaction(0, ["h0"])
    machine.store(0, "h0", b"k", 3)
    machine.release(0)
    machine.read_all(1, "h0")
    machine.store(1, "h0", b"k", 3)
    machine.end_transaction(0, True)


def handle_destroyed_in_a_transaction(machine: Machine) -> None:
    start(machine)
    machine.open_it(0, "q0")
    machine.open_it(0, "q1")
    machine.open_it(1, "q1")
    machine.begin_transaction(0, ["q0"])
    machine.put(0, "q0", 3)
    machine.put(0, "q1", 3)
    machine.let_go(0, "q1")
    machine.read_all(1, "q0")
    machine.put(1, "q1", 3)
    machine.end_transaction(0, True)


def torn_transaction(machine: Machine) -> None:
    """A transaction that changes nothing and is interrupted by another front-end."""
    start(machine)
    machine.store(0, "h1", b"k", 3)
    machine.open_it(0, "h0")
    machine.begin_transaction(0, ["h0", "h1"])
    machine.by_key(0, "h0", b"k", calls.pop)
    machine.by_key(1, "h1", b"k", calls.pop)
    machine.store(1, "h0", b"k", 3)
    machine.by_key(0, "h1", b"k", calls.look_up)
    machine.end_transaction(0, True)


def stale_batch(machine: Machine) -> None:
    """A batch that is interrupted by another front-end answers from the present content."""
    start(machine)
    machine.store(0, "h0", b"k1", 3)
    machine.by_key(0, "h0", b"k2", calls.look_up)
    machine.begin_batch(0)
    machine.by_key(0, "h0", b"k1", calls.look_up)
    machine.by_key(0, "h0", b"k1", calls.pop)
    machine.store(1, "h0", b"k1", 3)
    machine.by_key(0, "h0", b"k1", calls.look_up)
    machine.by_key(0, "h0", b"k1", calls.delete)
    machine.end_batch(0)


def full_pool(machine: Machine) -> None:
    start(machine)
    for _ in range(3):
        machine.put(0, "q0", 3)
    machine.fill(0, "h0")
    for _ in range(3):
        machine.take(1, "q0", calls.reserve)
        machine.settle(1, "q0", False, 0)


def update_in_a_full_pool(machine: Machine) -> None:
    """The first operations of the update still have room, the last one has none."""
    start(machine)
    machine.fill(0, "t0")
    machine.update(1, "t0", {b"k1": 3, b"k2": 0, b"k3": 1500})


def emptied_table(machine: Machine) -> None:
    start(machine)
    for key in (b"k1", b"k2"):
        machine.store(0, "h0", key, 3)
    for key in (b"k1", b"k2"):
        machine.by_key(1, "h0", key, calls.delete)


Sequence = Callable[[Machine], None]
CASES: list[tuple[type[Driver], Sequence]] = [
    (WideBatchFails, wide_batch),
    (CreatingCommits, creating_in_a_transaction),
    (ReleaseCommits, release_in_a_transaction),
    (HandleCommits, handle_destroyed_in_a_transaction),
    (TornTransaction, torn_transaction),
    (StaleBatch, stale_batch),
    (FullPoolSticks, full_pool),
    (DeleteFails, emptied_table),
]
SEQUENCES = [*(sequence for _, sequence in CASES), release_in_a_batch, update_in_a_full_pool]


def replay(machine: Machine, sequence: Sequence) -> None:
    try:
        sequence(machine)
    finally:
        machine.teardown()


@pytest.mark.parametrize("sequence", SEQUENCES, ids=lambda sequence: sequence.__name__)
def test_a_sequence_that_once_lost_data_loses_none(sequence: Sequence) -> None:
    replay(PowerMachine(), sequence)


def with_driver(driver: Callable[[], Driver]) -> type[Machine]:
    class Double(PowerMachine):
        def __init__(self) -> None:
            super().__init__()
            self.driver = driver()

    return Double


@pytest.mark.planted
@pytest.mark.parametrize(("driver", "sequence"), CASES, ids=lambda case: case.__name__)
def test_the_machine_finds_each_planted_fault_by_its_sequence(
    driver: type[Driver], sequence: Sequence
) -> None:
    with pytest.raises(Wrong):
        replay(with_driver(driver)(), sequence)
