"""Operations that were acknowledged, but not applied when their front-end was killed.

`rnvm recover` or the next front-end executes each of them once, also if it is killed meanwhile.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pickle
import random
import re
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from structure_kinds import MAPPINGS, NAMES, add, content, take

import rnvm
from rnvm import pools
from rnvm.check.check import check
from rnvm.cli import main
from rnvm.testing.failpoint_medium import FailpointMedium

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

MEDIA = pytest.mark.parametrize("medium", ["direct", "image"])  # memory, a file
PARTITIONS = 2  # of each mapping of a second set
ADDED, TAKEN = 10, 4  # of each structure
KILLS = 3
POINTS = 1000  # persist points in which a recovery has not ended yet
Contents = dict[str, list[Any]]


def opened(fe: rnvm.FrontEnd) -> dict[str, Any]:
    """Open a structure of each kind, and a mapping with partitions of each kind of mapping."""
    whole = {name: kind(fe, name) for name, kind in NAMES.items()}
    split = {
        f"{name} in {PARTITIONS}": kind(fe, f"{name} in {PARTITIONS}", partitions=PARTITIONS)
        for name, kind in NAMES.items()
        if kind in MAPPINGS
    }
    return whole | split


def in_a_child(run: Callable[[], object]) -> int:
    """Return the exit status of a child that ends after run()."""
    child = os.fork()
    if not child:
        status = 1
        try:
            run()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def work_and_die(path: Path, report: int) -> None:
    """Report the contents after a batch that nobody applies."""
    with rnvm.Backend(path) as served, rnvm.connect(served.address) as fe:
        structures = opened(fe)
        for structure in structures.values():
            for i in range(8):  # it keeps all locks, also of partitions: a batch ends at a new one
                add(structure, b"before %d" % i, b"before")
        with fe.batch():
            for i in range(ADDED):
                for structure in structures.values():
                    add(structure, b"%d" % i, b"%d" % i * 40)
            for structure, _ in itertools.product(structures.values(), range(TAKEN)):
                take(structure)  # twice would be one too many
            contents = {name: content(each) for name, each in structures.items()}
            with open(report, "wb") as pipe:
                pickle.dump(contents, pipe)
            os.kill(os.getpid(), signal.SIGKILL)


@contextlib.contextmanager
def pending(medium: str) -> Iterator[tuple[Path, Contents]]:
    """Yield a pool with acknowledged operations, and its contents with each of them."""
    folder = os.environ["TESTS_MEMORY"] if medium == "direct" else None
    with tempfile.TemporaryDirectory(dir=folder) as place:
        path = Path(place) / "pool"
        pools.create(path, "16MiB", assume_persistent=True)
        here, there = os.pipe()
        with open(here, "rb") as pipe:
            assert in_a_child(lambda: work_and_die(path, there)) == -signal.SIGKILL
            os.close(there)
            yield path, pickle.load(pipe)


def operations(contents: Contents) -> int:
    return len(contents) * (ADDED + TAKEN)


def recover(path: Path) -> int:
    """Return how many operations `rnvm recover` has executed."""
    result = CliRunner().invoke(main, ["recover", str(path)])
    assert result.exit_code == 0, result.output
    found = re.search(r"^(\d+) operations? executed$", result.output, re.MULTILINE)
    assert found, result.output
    return int(found[1])


def compare(path: Path, expected: Contents) -> None:
    """Open all structures at the next back-end, and compare them."""
    with rnvm.Backend(path) as served, rnvm.connect(served.address, timeout=30) as fe:
        structures = opened(fe)
        assert {name: content(each) for name, each in structures.items()} == expected
        for each in structures.values():
            each.check()
        assert fe.figures["passed_over"] == 0
        del each, structures
    assert check(path).sound


def die(run: Callable[[], object], points: int) -> None:
    """Run a back-end that is killed, with its front-end, at this persist point."""
    open_medium = pools.open_medium

    def failing(*path: Any, **options: Any) -> FailpointMedium:
        return FailpointMedium(open_medium(*path, **options), points)

    pools.open_medium = failing  # type: ignore[assignment]
    run()


@MEDIA
def test_recover_executes_each_pending_operation_once(medium: str) -> None:
    with pending(medium) as (path, contents):
        assert recover(path) == operations(contents)
        assert recover(path) == 0
        compare(path, contents)


@MEDIA
def test_the_next_front_end_executes_each_pending_operation_once(medium: str) -> None:
    with pending(medium) as (path, contents):
        compare(path, contents)
        assert recover(path) == 0


@MEDIA
@pytest.mark.parametrize("offline", [True, False], ids=["recover", "next front-end"])
def test_recovery_may_be_killed_at_any_persist_point(
    medium: str, offline: bool, rng: random.Random
) -> None:
    with pending(medium) as (path, contents):

        def run() -> object:
            return recover(path) if offline else compare(path, contents)

        ends = sorted(rng.sample(range(1, POINTS), KILLS))
        for begin, end in itertools.pairwise([0, *ends]):
            assert in_a_child(lambda n=end - begin: die(run, n)) == -signal.SIGKILL
        assert recover(path) <= operations(contents)
        compare(path, contents)
