"""What front-ends of a group are promised while their primary is stopped and replaced."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

import rnvm
from rfp.errors import OutcomeUnknown
from rnvm.frontend import promise
from rnvm.testing.sample_structure import Sample
from tests.frontend.processes import Process
from tests.structures.calls import Call

from .groups import MEMBER, SOON, until_in_sync, until_primary

near_and_far = pytest.mark.parametrize("options", ["", "?rtt=2us"], ids=["near", "far"])


@contextlib.contextmanager
def members(folder: Path, group: str, options: str) -> Iterator[Process]:
    """Yield the process of `a`, which becomes the primary; `b` can follow it."""
    with contextlib.ExitStack() as stack:
        a, _ = (
            stack.enter_context(
                Process(
                    MEMBER,
                    folder / f"{name}.pool",
                    group,
                    name,
                    f"shm://{folder}/{name}.socket{options}",
                )
            )
            for name in "ab"
        )
        try:
            yield a
        finally:
            a.signal(signal.SIGCONT)


@near_and_far
@pytest.mark.parametrize(
    "planted", [False, pytest.param(True, marks=pytest.mark.long)], ids=["sound", "planted"]
)
def test_a_stopped_primary_answers_nothing_old(group, folder, options, planted):
    with (
        members(folder, group, options) as a,
        rnvm.connect(group, timeout=SOON) as fe,
        rnvm.connect(group, timeout=SOON) as working,
    ):
        sample, own = Sample(fe, "s"), Sample(working, "w")
        assert sample.add(1) == 1
        assert own.add(1) == 1
        until_in_sync(group, "a", "b")
        a.signal(signal.SIGSTOP)
        under_way = Call(lambda: own.add(1))
        until_primary(group, "b")
        with rnvm.connect(group, timeout=SOON) as other:
            assert Sample(other, "s").add(1) == 2
            Sample(other, "new")
        # Its memory can be read, and its process is alive.
        promise._skip_steps(promise.PROMISE_SERVES if planted else 0)
        try:
            assert sample.numbers()[0] == (1 if planted else 2)
        finally:
            promise._skip_steps(0)
        assert planted or "new" in fe.names()
        assert under_way.answer() == 2


def test_a_batch_at_a_stopped_primary_is_whole_or_its_outcome_is_unknown(group, folder):
    with members(folder, group, "") as a, rnvm.connect(group, timeout=SOON) as fe:
        sample = Sample(fe, "s")
        assert sample.add(1) == 1
        until_in_sync(group, "a", "b")
        try:
            with fe.batch():
                a.signal(signal.SIGSTOP)
                sample.add(1)
                sample.numbers()
                sample.add(1)
        except OutcomeUnknown:
            assert sample.numbers()[0] in (1, 2, 3)
        else:
            assert sample.numbers()[0] == 3
