"""A server that writes arbitrary bytes where a client reads responses.

The client delivers only whole responses, stays inside its own slots, and gives up at its deadline.
"""

from __future__ import annotations

import struct
import threading

import crc32c
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rfp.protocol.handshake_layout import REPLIES
from rfp.testing import ring_harness as steps
from tests.protocol.rings import Ends, connected

SLOTS, SLOT = 4, 256
MOST = SLOT - 24
GUARD = b"\xa5"


def response(
    sequence: int,
    payload: bytes,
    *,
    length: int | None = None,
    time: int = 0,
    status: int = 0,
    kind: int = 0,
    result: int = 0,
    flip: int = 0,
) -> bytes:
    """Return a response as in docs/protocol.md; `flip` damages the checksum."""
    rest = struct.pack(
        "<IIHBBQ", sequence, len(payload) if length is None else length, time, status, kind, result
    )
    return struct.pack("<I", crc32c.crc32c(rest + payload) ^ flip) + rest + payload


def guarded(ends: Ends) -> bytes:
    """Fill the response buffers except the first with a pattern.

    Returns:
        All of the scratch memory except the first response buffer.
    """
    ends.scratch.write((SLOTS + 1) * SLOT, GUARD * (SLOTS - 1) * SLOT)
    return outside(ends)


def outside(ends: Ends) -> bytes:
    return ends.scratch.read(0, SLOTS * SLOT) + ends.scratch.read(
        (SLOTS + 1) * SLOT, (SLOTS - 1) * SLOT + 64
    )


def found(ends: Ends, data: bytes, mode: str) -> str:
    """Return the outcome of `data` in the client's slot, after more steps than a response needs."""
    if mode == "fetch":
        ends.responses.write(0, data)
    else:
        ends.answered.write(REPLIES, data)
    for _ in range(10):
        outcome = steps.step(ends.client)
        if outcome != "not yet":
            return outcome
    return "not yet"


@pytest.mark.parametrize("mode", ["fetch", "reply"])
@pytest.mark.parametrize("checked", [True, False])
@given(
    sequence=st.one_of(st.just(1), st.integers(0, 2**32 - 1)),
    payload=st.binary(max_size=MOST),
    length=st.one_of(st.none(), st.integers(0, MOST), st.integers(MOST + 1, 2**32 - 1)),
    fields=st.fixed_dictionaries(
        {
            "time": st.integers(0, 2**16 - 1),
            "status": st.integers(0, 255),
            "kind": st.integers(0, 255),
            "result": st.integers(0, 2**64 - 1),
        }
    ),
    flip=st.one_of(st.just(0), st.integers(0, 2**32 - 1)),
    fetch=st.sampled_from([64, 128, SLOT]),
)
@example(sequence=1, payload=b"", length=2**32 - 1, fields={}, flip=0, fetch=64)
@example(sequence=1, payload=b"", length=2**32 - 24, fields={}, flip=0, fetch=64)
@example(sequence=1, payload=b"x" * MOST, length=MOST + 1, fields={}, flip=0, fetch=SLOT)
def test_only_a_whole_response_is_delivered_and_none_leaves_its_slot(
    mode, checked, sequence, payload, length, fields, flip, fetch
):
    with connected(slots=SLOTS, slot_size=SLOT, checked=checked) as ends:
        steps.begin(ends.client, fetch=fetch, mode=mode, paradigm=mode)
        assert steps.submit(ends.client, b"question") == 1
        steps.flush(ends.client)
        before = guarded(ends)
        data = response(sequence, payload, length=length, flip=flip, **fields)
        outcome = found(ends, data, mode)
        claimed = len(payload) if length is None else length
        # Behind a shorter payload are the zeros of a new region.
        delivered = (payload + bytes(MOST))[:claimed]
        body = data[4:24] + delivered
        if sequence != 1:
            assert outcome == "not yet"
        elif claimed > MOST:
            assert outcome == ("not yet" if checked else "malformed")
        elif checked and crc32c.crc32c(body) != struct.unpack("<I", data[:4])[0]:
            assert outcome == "not yet"
        else:
            assert outcome == "done"
            assert steps.result(ends.client).payload == delivered
        assert outside(ends) == before


@pytest.mark.parametrize("mode", ["fetch", "reply"])
@pytest.mark.parametrize("checked", [True, False])
@given(data=st.binary(min_size=1, max_size=SLOTS * SLOT))
def test_random_bytes_are_not_delivered_as_a_response(mode, checked, data):
    with connected(slots=SLOTS, slot_size=SLOT, checked=checked) as ends:
        steps.begin(ends.client, mode=mode, paradigm=mode, sequence=0x5A17_0FF1)
        steps.submit(ends.client, b"question")
        steps.flush(ends.client)
        before = guarded(ends)
        here = data.ljust(24, b"\0")
        if struct.unpack("<I", here[4:8])[0] != 0x5A17_0FF1:
            assert found(ends, data, mode) == "not yet"
        assert outside(ends) == before


@pytest.mark.parametrize("mode", ["fetch", "reply"])
def test_a_call_ends_at_its_deadline_if_the_response_never_becomes_whole(mode):
    with connected(slots=SLOTS, slot_size=SLOT, checked=True) as ends:
        steps.begin(ends.client, mode=mode, paradigm=mode)
        steps.submit(ends.client, b"question")
        steps.flush(ends.client)
        assert found(ends, response(1, b"torn", flip=1), mode) == "not yet"
        assert steps.wait(ends.client, 0.05) == "timed out"
        assert found(ends, response(1, b"whole"), mode) == "done"
        assert steps.result(ends.client).payload == b"whole"


@pytest.mark.parametrize("mode", ["fetch", "reply"])
@pytest.mark.parametrize("length", [0, 8, 100, MOST])
def test_a_response_that_changes_while_it_is_read_is_delivered_as_one_of_its_versions(
    mode, length, rng
):
    for _ in range(20):
        with connected(slots=SLOTS, slot_size=SLOT, checked=True) as ends:
            steps.begin(ends.client, mode=mode, paradigm=mode, fetch=SLOT)
            steps.submit(ends.client, b"question")
            steps.flush(ends.client)
            versions = [response(1, bytes([n]) * length, result=n) for n in range(4)]
            broken = [response(1, bytes([n]) * length, flip=1) for n in range(4)]
            order = [versions[0], *rng.sample(versions[1:] + broken, 7)]
            place, offset = (ends.responses, 0) if mode == "fetch" else (ends.reply, REPLIES)
            scribble = threading.Thread(target=steps.alternate, args=(place, offset, order, 0.01))
            scribble.start()
            outcome = steps.wait(ends.client, 20)
            scribble.join()
            assert outcome == "done"
            assert steps.result(ends.client).payload in [version[24:] for version in versions]
