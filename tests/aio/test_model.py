"""Tasks that run at the same time have the effect of a dict, also if some of them are cancelled."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

import rfp
import rfp.aio

KEYS = [b"%d" % i for i in range(6)]
values = st.binary(max_size=3) | st.sampled_from([b"x" * 1500, b"y" * 3000, b"z" * 200_000])
operations = st.one_of(
    st.tuples(st.just("put"), values),
    st.tuples(st.just("get"), st.none()),
    st.tuples(st.just("delete"), st.none()),
    st.tuples(st.just("exists"), st.none()),
    st.tuples(st.just("get_into"), st.none()),
)
# One operation for each key at the most: those of a step run at the same time.
steps = st.lists(
    st.dictionaries(
        st.sampled_from(KEYS),
        st.tuples(operations, st.none() | st.integers(0, 3)),
        min_size=1,
    ),
    max_size=8,
)


@pytest.fixture(scope="module")
def server():
    with rfp.Server(memory="64MiB", workers=2) as server:
        yield server


async def perform(kv, key, operation, value):
    """Return what the operation observes."""
    if operation == "put":
        await kv.put(key, value)
        return None
    if operation == "get_into":
        buffer = bytearray(300_000)
        length = await kv.get_into(key, buffer)
        return None if length is None else bytes(buffer[:length])
    return await getattr(kv, operation)(key)


def expected(operation, held):
    """Return what the operation observes if the key has this value."""
    if operation in ("get", "get_into"):
        return held
    if operation in ("delete", "exists"):
        return held is not None
    return None


@pytest.mark.parametrize("mode", ["auto", "fetch", "reply"])
@given(steps=steps)
def test_tasks_agree_with_a_dict(server, mode, steps):
    async def main():
        async with rfp.aio.connect(server.address, mode=mode, timeout=20) as kv:
            await kv.clear()
            possible = {key: {None} for key in KEYS}  # values: several after a cancelled change
            for step in steps:
                tasks = {
                    key: asyncio.ensure_future(perform(kv, key, *operation))
                    for key, (operation, _) in step.items()
                }
                for turn in range(4):
                    for key, (_, cancelled_in) in step.items():
                        if cancelled_in == turn:
                            tasks[key].cancel()
                    await asyncio.sleep(0)
                seen = dict(
                    zip(
                        tasks,
                        await asyncio.gather(*tasks.values(), return_exceptions=True),
                        strict=True,
                    )
                )
                for key, ((operation, value), _) in step.items():
                    before = possible[key]
                    after = {"put": {value}, "delete": {None}}.get(operation, before)
                    if isinstance(seen[key], asyncio.CancelledError):
                        possible[key] = before | after
                        continue
                    assert not isinstance(seen[key], BaseException), seen[key]
                    fitting = {held for held in before if expected(operation, held) == seen[key]}
                    assert fitting, (operation, seen[key])
                    possible[key] = fitting if after is before else after
            final = await kv.get_many(KEYS)
            for key, value in zip(KEYS, final, strict=True):
                assert value in possible[key]
            assert {key async for key in kv.scan_iter()} == {
                key for key, value in zip(KEYS, final, strict=True) if value is not None
            }

    asyncio.run(main())
