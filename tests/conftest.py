"""For every test: a private runtime folder, a printed seed, a time limit, and a leak check."""

from __future__ import annotations

import faulthandler
import gc
import importlib.util
import itertools
import math
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import hypothesis
import leaks
import pytest
from slower import SANITIZED, SLOWER

# The tests neither use nor change the user's servers and settings. The name is short, since a
# socket's path has at most 107 bytes.
PRIVATE = Path(tempfile.mkdtemp(prefix="rfp-tests-"))
for name in [name for name in os.environ if name.startswith(("RFP_", "RNVM_"))]:
    del os.environ[name]
for kind in ("RUNTIME_DIR", "CACHE_HOME", "CONFIG_HOME", "DATA_HOME", "STATE_HOME"):
    folder = PRIVATE / kind.split("_")[0].lower()
    folder.mkdir(mode=0o700)
    os.environ[f"XDG_{kind}"] = str(folder)
# For pools.
MEMORY = tempfile.mkdtemp(prefix="rfp-tests-", dir=os.environ.get("TESTS_MEMORY", "/dev/shm"))
os.environ["TESTS_MEMORY"] = MEMORY

# If OpenBLAS's threads and the resource tracker started in a test, they would be reported as its
# leaks.
os.environ["OPENBLAS_NUM_THREADS"] = "1"
resource_tracker.ensure_running()

# Shrinking a failure may take five minutes, longer than a test may run: only --shrink does it.
UNSHRUNK = [phase for phase in hypothesis.Phase if phase is not hypothesis.Phase.shrink]
# How long an example takes to be drawn depends on the other processes of the computer.
ANY_LOAD = {"deadline": None, "suppress_health_check": [hypothesis.HealthCheck.too_slow]}
hypothesis.settings.register_profile("fast", max_examples=50, phases=UNSHRUNK, **ANY_LOAD)
hypothesis.settings.register_profile("long", max_examples=1000, **ANY_LOAD)

seed_key = pytest.StashKey[int]()
failed_key = pytest.StashKey[bool]()
started_key = pytest.StashKey[float]()
stderr_key = pytest.StashKey[int]()
left_out_key = pytest.StashKey[list[pytest.Item]]()
spared_key = pytest.StashKey[list[pytest.Item]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("rfp")
    group.addoption(
        "--seed", type=int, help="seed of all random draws, as printed by the run to repeat"
    )
    group.addoption(
        "--settle",
        type=float,
        default=10 * SLOWER,
        help="seconds until the resources of a test must be freed",
    )
    group.addoption(
        "--over",
        choices=("shm", "verbs"),
        default="shm",
        help="provider of servers without an address [shm]",
    )
    group.addoption(
        "--examples",
        type=int,
        help="examples of each hypothesis test, instead of the profile's number",
    )
    group.addoption(
        "--cases",
        choices=("all", "one"),
        default="all",
        help="of each parametrized test, run all cases or one, drawn from the seed; all of those "
        "marked every_case [all]",
    )
    group.addoption(
        "--shrink",
        action="store_true",
        help="shrink failures of hypothesis tests, which may take minutes; long runs always do",
    )
    group.addoption(
        "--seconds",
        type=float,
        help="end after about so many seconds, and draw the order of the tests from the seed: "
        "a test starts only if the time that its mark states is left, @pytest.mark.long(seconds)",
    )


@pytest.hookimpl(tryfirst=True)  # before hypothesis reads its option
def pytest_configure(config: pytest.Config) -> None:
    gc.disable()  # until all tests are collected: a third of that time would be the collector's
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # The run was started in the background of a shell: the child processes, which are tested
        # with SIGINT, would inherit that it is ignored.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # under nohup
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    seed = config.getoption("seed")
    if seed is None:  # one seed for all processes of a run (pytest-xdist)
        seed = getattr(config, "workerinput", {}).get("seed")
    if seed is None:
        seed = random.SystemRandom().randrange(2**32)
    config.stash[seed_key] = seed
    config.stash[started_key] = time.monotonic()
    if config.getoption("over") == "verbs" and not rdma_devices():
        raise pytest.UsageError(
            "--over=verbs: there is no RDMA device here (scripts/softroce -- COMMAND gives one)"
        )
    config.stash[stderr_key] = os.dup(sys.__stderr__.fileno())
    if config.option.timeout is None:
        config.option.timeout = SLOWER * float(config.getini("timeout"))
    if config.option.hypothesis_seed is None:
        config.option.hypothesis_seed = str(seed)
    profile = "long" if "long" in config.option.markexpr.replace("not long", "") else "fast"
    if config.option.examples is not None:
        hypothesis.settings.register_profile(
            "asked for",
            hypothesis.settings.get_profile(profile),
            max_examples=config.option.examples,
        )
        profile = "asked for"
    if config.getoption("shrink"):
        hypothesis.settings.register_profile(
            "shrinking", hypothesis.settings.get_profile(profile), phases=list(hypothesis.Phase)
        )
        profile = "shrinking"
    hypothesis.settings.load_profile(profile)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    node.workerinput["seed"] = node.config.stash[seed_key]


def pytest_unconfigure(config: pytest.Config) -> None:
    os.close(config.stash[stderr_key])
    for folder in (PRIVATE, MEMORY):
        shutil.rmtree(folder, ignore_errors=True)


def pytest_report_header(config: pytest.Config) -> list[str]:
    where = importlib.util.find_spec("rfp").submodule_search_locations[0]
    return [f"seed: {config.stash[seed_key]} (--seed repeats it)", f"testing: {where}"]


def rdma_devices() -> list[str]:
    """Return the RDMA devices of this machine."""
    try:
        return os.listdir("/sys/class/infiniband")
    except FileNotFoundError:
        return []


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not rdma_devices():
        config.stash[left_out_key] = left_out = [
            item for item in items if item.get_closest_marker("verbs")
        ]
        items[:] = [item for item in items if not item.get_closest_marker("verbs")]
        config.hook.pytest_deselected(items=left_out)
    if SANITIZED:
        marked = [any(map(item.get_closest_marker, ("pure", "planted"))) for item in items]
        config.stash[spared_key] = spared = [*itertools.compress(items, marked)]
        items[:] = [item for item, each in zip(items, marked, strict=True) if not each]
        config.hook.pytest_deselected(items=spared)
    if config.getoption("cases") == "one":
        drawn = one_of_each(items, config.stash[seed_key])
        config.hook.pytest_deselected(items=[item for item in items if item not in drawn])
        items[:] = [item for item in items if item in drawn]
    if config.getoption("seconds") is not None:
        random.Random(config.stash[seed_key]).shuffle(items)


def pytest_collection_finish() -> None:
    gc.enable()
    # These are 200,000 objects, and each gc.collect() of a test would take 0.15 s to visit them.
    gc.collect()
    gc.freeze()


def one_of_each(items: list[pytest.Item], seed: int) -> set[pytest.Item]:
    """Return one case of each test; of a test marked every_case, whose code they are, all."""
    cases: dict[str, list[pytest.Item]] = {}
    for item in items:
        every = item.get_closest_marker("every_case")
        cases.setdefault(item.nodeid if every else item.nodeid.partition("[")[0], []).append(item)
    return {random.Random(f"{seed} {name}").choice(each) for name, each in cases.items()}


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if spared := config.stash.get(spared_key, []):
        terminalreporter.section("not run here: sanitizers examine compiled code that is correct")
        terminalreporter.write_line(
            f"{len(spared)} tests marked pure or planted; make test runs them"
        )
    if left_out := config.stash.get(left_out_key, []):
        functions = sorted({item.nodeid.partition("[")[0] for item in left_out})
        terminalreporter.section("not run here: no RDMA device (scripts/softroce gives one)")
        terminalreporter.write_line(
            f"{len(left_out)} tests marked verbs, of {len(functions)} functions"
            + (":\n" + "\n".join(functions) if config.option.verbose > 0 else "; -v names them")
        )


def end_of_run(config: pytest.Config) -> float:
    """Return the time.monotonic() at which a run with --seconds ends, else infinity."""
    seconds = config.getoption("seconds")
    return math.inf if seconds is None else config.stash[started_key] + seconds


def pytest_runtest_setup(item: pytest.Item) -> None:
    marker = item.get_closest_marker("long")
    needed = marker.args[0] * SLOWER if marker and marker.args else 0
    if time.monotonic() + needed > end_of_run(item.config):
        # One reason for all: pytest reports it in one line, with their number.
        pytest.skip("too little was left of --seconds; -v names the tests")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """End the run with every thread's stack if a test hangs in C code.

    pytest-timeout's signal handler cannot run there.
    """
    marker = item.get_closest_marker("timeout")
    seconds = marker.args[0] if marker and marker.args else item.config.option.timeout
    faulthandler.dump_traceback_later(
        seconds + 15 * SLOWER, exit=True, file=item.config.stash[stderr_key]
    )
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    if report.failed:
        item.stash[failed_key] = True
    return report


@pytest.fixture(scope="session", autouse=True)
def _children_import_what_is_tested(pytestconfig: pytest.Config) -> Iterator[None]:
    """Run in a folder without sources, since `python -c` imports from the current folder first."""
    spec = importlib.util.find_spec("rfp")
    with pytest.MonkeyPatch.context() as patch:
        # An editable install has a loader of its own, also in every child process.
        if isinstance(spec.loader, SourceFileLoader):
            patch.setenv("PYTHONPATH", str(Path(spec.origin).parents[1]), prepend=os.pathsep)
        patch.chdir(PRIVATE)
        if pytestconfig.getoption("over") == "verbs":
            import server_addresses

            server_addresses.use_verbs(patch, PRIVATE)
        yield


@pytest.fixture(scope="session", autouse=True)
def _nothing_stays_after_the_session(pytestconfig: pytest.Config) -> Iterator[None]:
    before = leaks.inventory()
    yield
    faulthandler.cancel_dump_traceback_later()  # its watchdog is a thread
    left = leaks.left_behind(before, seconds=pytestconfig.getoption("settle"))
    assert not left, "the session left behind: " + "; ".join(left)


@pytest.fixture(autouse=True)
def _nothing_is_left_behind(
    _nothing_stays_after_the_session: None, request: pytest.FixtureRequest
) -> Iterator[None]:
    # Fixtures of a wider scope are set up before this one. Those of the test are set up after it,
    # and torn down before it.
    before = leaks.inventory()
    yield
    # A failed test's traceback keeps its objects alive.
    if not request.node.stash.get(failed_key, False):
        left = leaks.left_behind(before, seconds=request.config.getoption("settle"))
        assert not left, "the test left behind: " + "; ".join(left)


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """A number of this test's own, drawn from the run's seed; it does not depend on other tests."""
    return zlib.crc32(f"{request.config.stash[seed_key]} {request.node.nodeid}".encode())


@pytest.fixture
def run_ends(request: pytest.FixtureRequest) -> float:
    """The time.monotonic() after which a long test begins no further round (infinity: none)."""
    return end_of_run(request.config)


@pytest.fixture
def small_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pools may be created with logs below the least size, which wrap soon and are full soon."""
    from rnvm import sizes

    monkeypatch.setattr(sizes, "least_log", lambda size: 4096)


@pytest.fixture
def rng(seed: int) -> random.Random:
    """A random generator of this test's own, drawn from the run's seed."""
    return random.Random(seed)


@pytest.fixture
def private() -> Iterator[Path]:
    """A directory that only this user can reach, with a path short enough for a socket's.

    The paths of pytest's tmp_path are too long if there are several processes.
    """
    with tempfile.TemporaryDirectory(prefix="rfp-") as directory:
        yield Path(directory)
