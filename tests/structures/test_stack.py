"""The stack against a list, on plain memory: failures at every step, readers among writers."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import rule

from rfp.errors import Empty, TooLarge, WrongType

from .damage import flipped_bits, replaced_words
from .memory import FULL, LOST, NO_MEMORY, Fault, Memory, Stack
from .models import INLINE, LONGEST, StackModel, queue_lengths


class Undo(Exception):
    pass


class Machine(StackModel):
    """On plain memory, on which any step may fail."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = Memory()
        self.stack = Stack(self.memory, "s")
        self.other = Stack(self.memory, "s")

    @rule(
        part=st.sampled_from(["reads", "news", "changes"]),
        after=st.integers(0, 12),
        code=st.sampled_from([FULL, LOST, NO_MEMORY]),
        lengths=st.lists(queue_lengths, min_size=1, max_size=6),
        act=st.sampled_from(["push", "pop", "clear"]),
    )
    def a_failed_operation_changes_nothing(
        self, part: str, after: int, code: int, lengths: list[int], act: str
    ) -> None:
        before = self.memory.nodes()
        with contextlib.suppress(Undo), self.memory.transaction(self.stack):
            self.memory.fail(part, after=after, code=code)
            try:
                if act == "push":
                    self.stack.push_many([bytes(length) for length in lengths])
                elif act == "pop":
                    self.stack.pop(None)
                else:
                    self.stack.clear()
            except Fault as error:
                assert error.code == code
                assert act == "clear" or self.memory.nodes() == before
            else:
                assert not self.memory.failed
            self.memory.fail()
            raise Undo
        assert self.memory.nodes() == before

    @rule(again=st.sampled_from([0, 0.02, 0.2]), mixing=st.booleans())
    def reads_are_disturbed(self, again: float, mixing: bool) -> None:
        self.memory.disturb(again, mixing)


TestStack = Machine.TestCase


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.mark.parametrize(
    "length", [0, 1, 7, 8, INLINE - 1, INLINE, INLINE + 1, 2016, 65536, LONGEST - 1, LONGEST]
)
def test_values_of_every_length_are_returned(memory, length):
    s = Stack(memory, "s")
    value = bytes(range(256)) * (length // 256) + bytes(length % 256)
    for _ in range(3):
        s.push(value)
    assert s.peek() == value
    assert list(s) == [value] * 3
    assert s.pop() == value
    s.check()
    s.clear()
    s.check()
    assert len(s) == 0 and memory.used < 100


def test_values_that_are_too_long_or_of_a_wrong_type_are_refused(memory):
    s = Stack(memory, "s")
    with pytest.raises(TooLarge):
        s.push(bytes(LONGEST + 1))
    with pytest.raises(WrongType):
        s.push("text")
    assert len(s) == 0
    for ask in (s.pop, s.peek):
        with pytest.raises(Empty):
            ask()
        assert ask(5) == 5


@pytest.mark.parametrize(
    ("codec", "value"), [("utf-8", "Grüße"), ("json", {"a": [1, None]}), ("pickle", {1, (2, 3)})]
)
def test_a_codec_maps_other_values(memory, codec, value):
    s = Stack(memory, "s", codec=codec)
    s.push_many([value, value])
    assert s.peek() == value
    assert list(s) == [value, value]
    assert s.pop() == s.pop() == value
    assert s.pop(None) is None


def test_an_iteration_of_many_layers_continues_below_values_popped_meanwhile(memory):
    s, other = Stack(memory, "s"), Stack(memory, "s")
    values = [b"%06d" % i + bytes(90) for i in range(6000)]
    assert s.push_many(values) == 6000
    s.check()
    seen = []
    for n, value in enumerate(s):
        seen.append(value)
        if n % 100 == 0 and len(other) > 3000:
            other.pop()
            other.pop()
            other.push(b"new")
    assert seen[-3000:] == values[2999::-1]
    assert len(seen) == len(set(seen)) + seen.count(b"new") - (b"new" in seen)


def test_a_step_of_an_iteration_reads_few_nodes_however_deep_it_is(memory):
    s = Stack(memory, "s")
    s.push_many(bytes(400) for _ in range(8000))  # 2000 layers
    steps = []
    iteration = iter(s)
    for _ in range(8000):
        before = memory.counts[0]
        next(iteration)
        steps.append(memory.counts[0] - before)
    assert max(steps) < 150  # 41 layers of a step, and the jumps to its first one


def test_pushes_and_pops_at_the_border_of_a_layer_allocate_nothing(memory):
    s = Stack(memory, "s")
    for _ in range(200):
        s.push(bytes(100))
        used = memory.used
        for _ in range(3):
            s.pop()
            s.push(bytes(100))
        assert memory.used == used


def test_re_executed_operations_have_the_same_result(rng):
    one, two = Memory(), Memory()
    s, twin = Stack(one, "s"), Stack(two, "s")
    for _ in range(2000):
        act = rng.random()
        if act < 0.5:
            s.push(bytes(rng.randrange(700)))
        elif act < 0.6:
            s.push_many(rng.randbytes(rng.randrange(300)) for _ in range(rng.randrange(40)))
        elif act < 0.99:
            s.pop(None)
        else:
            s.clear()
    for _, code, operation in one.operations():
        two.again(twin, code, operation)
    assert one.nodes() == two.nodes()


def filled(memory: Memory) -> Stack:
    s = Stack(memory, "s")
    s.push_many(b"%d" % i + bytes(i % 90 if i % 9 else 700) for i in range(300))
    for _ in range(60):
        s.pop()
    return s


def test_a_flipped_bit_is_found(memory, rng):
    s = filled(memory)
    for _ in flipped_bits(memory, rng):
        with pytest.raises(Fault):
            s.check()
    s.check()


def test_no_contents_of_a_node_harm_its_reader(memory, rng):
    """Damage with a valid checksum may be found or not; no reader crashes, hangs or overreads."""
    found = 0
    s = filled(memory)
    for _ in replaced_words(memory, rng, 1500, first=36):
        for act in (
            s.check,
            s.__len__,
            lambda: [v for v in s],  # noqa: C416 - list() would call len() first
            lambda: [v for v in s.salvage()],  # noqa: C416
            s.peek,
        ):
            try:
                act()
            except (Fault, Empty):
                found += 1
        for change in (
            s.pop,
            lambda: [s.pop(None) for _ in range(30)],
            lambda: s.push(bytes(90)),
            lambda: s.push_many([bytes(250)] * 40),
            s.clear,
        ):
            with contextlib.suppress(Undo), memory.transaction(s):
                with contextlib.suppress(Fault, Empty):
                    change()
                raise Undo
    s.check()
    assert found > 200
