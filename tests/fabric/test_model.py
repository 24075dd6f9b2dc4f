"""Any sequence of work requests has the effect that a plain model has, on every provider."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rfp.fabric.fabric import COMPARE_SWAP, FETCH_ADD, READ, SUCCESS, WRITE, Fabric
from rfp.fabric.shm.region import ShmFabric
from rfp.testing.reordering_fabric import ReorderFabric

from .connected_pairs import PAGE, connected
from .providers import VERBS, verbs

SPACE = 1024
LARGEST = 2**64 - 1
PROVIDERS = [
    pytest.param(ShmFabric, id="shm"),
    pytest.param(lambda: ShmFabric(rtt_ns=1000, in_iops=1e7, out_iops=1e7), id="emulated"),
    pytest.param(lambda: ReorderFabric(seed=7), id="reorder"),
    VERBS,
]

byte = st.integers(64, SPACE + 8)
word = st.integers(8, SPACE // 8).map(lambda n: 8 * n)
requests = st.lists(
    max_size=40,
    elements=st.one_of(
        st.tuples(st.sampled_from([READ, WRITE]), byte, byte, st.integers(0, 256)),
        st.tuples(st.just(FETCH_ADD), byte, word, st.integers(0, LARGEST)),
        st.tuples(st.just(COMPARE_SWAP), byte, word, st.integers(0, 3)),
    ),
)


def other(provider: Callable[[], Fabric]) -> Fabric:
    """Return the peer's fabric, which posts nothing.

    Plain shared memory serves as the peer of all providers that are built on it.
    """
    return verbs() if provider is verbs else ShmFabric()


class Model:
    """Two memories, and the effect of a request on them.

    A request is (opcode, offset here, offset there, length or operand).
    """

    def __init__(self, theirs: bytes) -> None:
        self.mine = bytearray(PAGE)
        self.theirs = bytearray(PAGE)
        self.theirs[64 : 64 + len(theirs)] = theirs

    def do(self, opcode: int, here: int, there: int, n: int) -> None:
        old = bytes(self.theirs[there : there + 8])
        if opcode == READ:
            self.mine[here : here + n] = self.theirs[there : there + n]
        elif opcode == WRITE:
            self.theirs[there : there + n] = self.mine[here : here + n]
        else:
            self.mine[here : here + 8] = old
            if opcode == FETCH_ADD:
                self.theirs[there : there + 8] = (
                    (int.from_bytes(old, "little") + n) % 2**64
                ).to_bytes(8, "little")
            elif int.from_bytes(old, "little") == n:
                self.theirs[there : there + 8] = b"\x07" + bytes(7)


def arguments(opcode: int, n: int) -> dict[str, int]:
    if opcode == FETCH_ADD:
        return {"length": 8, "operand": n}
    if opcode == COMPARE_SWAP:
        return {"length": 8, "operand": 7, "compare": n}
    return {"length": n}


@pytest.mark.parametrize("provider", PROVIDERS)
@settings(deadline=None)
@given(requests, st.binary(min_size=SPACE - 64, max_size=SPACE - 64))
def test_requests_one_by_one_have_the_effects_of_the_model(provider, requests, start):
    with (
        provider() as mine,
        other(provider) as yours,
        connected(mine, yours, length=PAGE) as (a, b),
    ):
        model = Model(start)
        b.memory.write(64, start)
        for opcode, here, there, n in requests:
            model.do(opcode, here, there, n)
            assert (
                a.pair.execute(opcode, a.memory, here, a.theirs, there, **arguments(opcode, n))
                == SUCCESS
            )
        assert a.memory.read(64, PAGE - 64) == model.mine[64:]
        assert b.memory.read(64, PAGE - 64) == model.theirs[64:]


@pytest.mark.parametrize("provider", PROVIDERS)
@settings(deadline=None)
@given(requests, st.binary(min_size=SPACE - 64, max_size=SPACE - 64))
def test_requests_posted_together_have_the_effects_of_the_model_if_the_contract_orders_them(
    provider, requests, start
):
    # A WRITE waits for all earlier READs and atomics; all else is posted without waiting.
    # Long WRITEs leave their memory alone.
    with (
        provider() as mine,
        other(provider) as yours,
        connected(mine, yours, length=PAGE) as (a, b),
    ):
        model = Model(start)
        b.memory.write(64, start)
        outstanding: list[int] = []

        def wait() -> None:
            while outstanding:
                for each, _, status in a.pair.poll(64):
                    assert (each, status) == (outstanding.pop(0), SUCCESS)

        for i, (opcode, here, there, n) in enumerate(requests):
            model.do(opcode, here, there, n)
            if opcode == WRITE:
                wait()
            assert (
                a.pair.post(opcode, a.memory, here, a.theirs, there, id=i, **arguments(opcode, n))
                == 1
            )
            outstanding.append(i)
            if opcode == WRITE and n > a.pair.max_inline:
                wait()
        wait()
        assert a.memory.read(64, PAGE - 64) == model.mine[64:]
        assert b.memory.read(64, PAGE - 64) == model.theirs[64:]
