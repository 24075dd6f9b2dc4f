"""A child of a fork cannot use its parent's handles and servers, and does not damage them."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import pickle
import subprocess
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import half_made
import pytest
from polling import until

import rfp
import rnvm
import structures
from rfp.errors import Closed, Forked

MIB = 1 << 20

# Python 3.12 warns of forks in processes with threads, which are tested here.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


@contextlib.contextmanager
def child(leave: Callable[[int], object] = os._exit) -> Iterator[bool]:
    """`with child() as inside: if inside: ...`; the test fails if the child fails."""
    sys.stdout.flush()
    sys.stderr.flush()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pid = os.fork()
    if pid:
        yield False
        ended, status = until(lambda: (found := os.waitpid(pid, os.WNOHANG))[0] and found)
        assert status == 0
        return
    status = 1
    try:
        yield True
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            leave(status)
        finally:
            os._exit(3)  # no child may continue with the tests


def ours() -> list[str]:
    """Descriptors and mappings of this process that belong to the fabric or the control channel."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            link = os.readlink(f"/proc/self/fd/{fd}")
            if "memfd:rfp" in link or "pidfd" in link:
                found.append(link)
    return found + [
        line for line in Path("/proc/self/maps").read_text().splitlines() if "memfd:rfp" in line
    ]


@pytest.mark.anywhere
def test_every_call_of_a_parents_handle_in_a_child_raises_forked(server: rfp.Server) -> None:
    # Reconnecting would hide that the child ended its parent's connection.
    with rfp.connect(server.address, reconnect=False) as kv:
        kv.put(b"k", b"v")
        kv.put(b"large", bytes(MIB))
        with child() as inside:
            if inside:
                for call in (
                    lambda: kv.get(b"k"),
                    lambda: kv.get_into(b"large", bytearray(MIB)),
                    lambda: kv.put(b"k", b"child"),
                    lambda: kv.put(b"large", b"\1" * MIB),
                    lambda: kv.get_many([b"k"]),
                    lambda: kv.put_many({b"k": b"child"}),
                    lambda: kv.stats(),
                    lambda: kv.ping(),
                    lambda: b"k" in kv,
                ):
                    with pytest.raises(Forked) as caught:
                        call()
                    assert caught.value.hint
                kv.close()
                kv.close()
                with pytest.raises((Forked, Closed)):
                    kv.get(b"k")
        assert kv.get(b"k") == b"v" and kv.get(b"large") == bytes(MIB)
        assert kv.put(b"k", b"w") and kv.get(b"k") == b"w"


def test_a_child_has_no_descriptor_or_mapping_of_handles_and_servers(server: rfp.Server) -> None:
    with rfp.connect(server.address) as kv, rfp.connect(server.address) as idle:
        kv.put(b"large", bytes(MIB))
        kv.get(b"large")
        assert ours()
        with child() as inside:
            if inside:
                assert ours() == []
        assert idle.get(b"large") == bytes(MIB)


def test_a_child_may_connect_for_itself(server: rfp.Server) -> None:
    with rfp.connect(server.address) as kv:
        kv.put(b"k", b"v")
        with child() as inside:
            if inside:
                with rfp.connect(server.address) as mine:
                    assert mine.get(b"k") == b"v"
                    mine.put(b"child", b"was here")
                with rfp.Server(memory="8MiB") as own, rfp.connect(own.address) as mine:
                    mine.put(b"k", b"other")
                    assert mine.get(b"k") == b"other"
        assert kv.get(b"child") == b"was here" and kv.get(b"k") == b"v"
    until(lambda: server.figures()["clients"] == [])


def test_a_server_serves_while_children_start_and_end(server: rfp.Server) -> None:
    ended = threading.Event()
    errors: list[BaseException] = []
    with rfp.connect(server.address, timeout=30) as kv:
        count = 0

        def work() -> None:
            nonlocal count
            try:
                while not ended.is_set():
                    count += 1
                    assert kv.incr(b"n") == count
                    value = b"%d" % count * 2000
                    kv.put(b"large", value)
                    assert kv.get(b"large") == value
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            for number in range(8):
                before = count
                with child((os._exit, exec_true)[number % 2]) as inside:
                    if inside:
                        gc.collect()
                        if number % 3 == 0:
                            kv.close()
                            server.close()
                until(lambda before=before: count > before or errors)
        finally:
            ended.set()
            thread.join()
    assert not errors and not server.closed


def exec_true(status: int) -> None:
    os.execv("/bin/sh", ["sh", "-c", f"exit {status}"])


@pytest.mark.parametrize(
    "leave",
    [
        "os._exit(0)",
        "sys.exit(0)",
        "raise SystemExit",
        "os.execv(sys.executable, [sys.executable, '-c', ''])",
        "pass",
    ],
)
def test_a_child_ends_in_any_way_without_output(leave: str) -> None:
    program = f"""if True:
        import os, sys, warnings
        warnings.simplefilter("ignore")
        import rfp
        server = rfp.Server(memory="8MiB")
        kv = rfp.connect(server.address)
        kv.put(b"k", b"v")
        pid = os.fork()
        if pid == 0:
            {leave}
        else:
            assert os.waitpid(pid, 0)[1] == 0
            assert kv.get(b"k") == b"v"
            print("fine")
    """
    done = run("-c", program)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "fine\n")


def run(*arguments: object, seconds: float = 30) -> subprocess.CompletedProcess[str]:
    """Run Python with these arguments."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=seconds,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )


def use_inherited(kv: rfp.Client, queue: Any) -> None:
    try:
        queue.put(repr(kv.get(b"k")))
    except Forked:
        queue.put("Forked")


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_processes_of_multiprocessing_connect_for_themselves(
    server: rfp.Server, method: str
) -> None:
    program = Path(__file__).with_name("spawning_program.py")
    done = run("-W", "ignore", program, method, server.address, seconds=50)
    assert (done.returncode, done.stdout, done.stderr) == (0, "b'80'\n", "")
    until(lambda: server.figures()["clients"] == [])


def test_a_handle_passed_to_a_forked_process_raises_forked(server: rfp.Server) -> None:
    context = multiprocessing.get_context("fork")
    with rfp.connect(server.address) as kv:
        kv.put(b"k", b"v")
        queue = context.SimpleQueue()
        process = context.Process(target=use_inherited, args=(kv, queue))
        process.start()
        assert queue.get() == "Forked"
        process.join(30)
        assert process.exitcode == 0
        process.close()
        queue.close()
        assert kv.get(b"k") == b"v"


def test_a_handle_cannot_be_pickled(server: rfp.Server) -> None:
    with rfp.connect(server.address) as kv, pytest.raises(TypeError):
        pickle.dumps(kv)


def everything(folder: Path) -> tuple[contextlib.ExitStack, dict[str, Any]]:
    """Return one of each object that a program can hold, in use."""
    stack = contextlib.ExitStack()
    open_ = stack.enter_context
    things: dict[str, Any] = {}
    things["server"] = open_(rfp.Server(memory="16MiB"))
    things["kv"] = kv = open_(rfp.connect(things["server"].address))
    kv.put(b"large", bytes(MIB))
    kv.get(b"large")
    things["registration"] = open_(kv.register(bytearray(MIB)))
    things["channel"] = kv.connection.channels[0]
    things["ring"] = things["channel"].rings[0]
    things["arena"] = kv.connection.arenas[0]
    things["region"], things["remote"], things["events"] = (
        things["channel"].reply,
        things["channel"].requests,
        things["channel"].events,
    )
    things["link"], things["connection"] = kv.connection, kv.connection.control
    things["rpc server"] = open_(rfp.RpcServer(bytes))
    things["rpc client"] = open_(rfp.RpcClient(things["rpc server"].address))
    things["rpc client"].call(b"1")
    for kind, place in (
        ("in memory", folder / "m.pool"),
        ("on a disk", Path(os.environ["XDG_DATA_HOME"]) / "d.pool"),
    ):
        backend = rnvm.Backend(place, size="8MiB", assume_persistent=True)
        things[f"backend {kind}"] = open_(backend)
        stack.callback(place.unlink)
        things[f"pool {kind}"], things[f"medium {kind}"] = backend.pool, backend.pool.medium
        fe = things[f"front-end {kind}"] = open_(rnvm.connect(backend.address))
        table = things[f"table {kind}"] = structures.HashTable(fe, "h")
        tree = things[f"tree {kind}"] = structures.BPlusTree(fe, "t")
        queue = things[f"queue {kind}"] = structures.Queue(fe, "q")
        skips = things[f"skip list {kind}"] = structures.SkipList(fe, "l")
        bst = things[f"search tree {kind}"] = structures.BST(fe, "b")
        stack_of = things[f"stack {kind}"] = structures.Stack(fe, "s")
        table[b"k"] = tree[b"k"] = skips[b"k"] = bst[b"k"] = b"v"
        stack_of.push(b"v")
        queue.put(b"v")
        things[f"iterator {kind}"] = iter(tree)
        things[f"view {kind}"] = tree.items()
        things[f"batch {kind}"] = fe.batch()
        things[f"transaction {kind}"] = fe.transaction(table, tree)
    return stack, things


def test_a_child_that_uses_its_parents_objects_neither_crashes_nor_damages_them(
    tmp_path: Path,
) -> None:
    folder = Path(tempfile.mkdtemp(dir=os.environ["TESTS_MEMORY"]))
    stack, things = everything(folder)
    with stack:
        # Use each object in every way, in a child; after a crash the next child continues.
        crashed = []
        for name, thing in things.items():
            crashed += half_made.crashes([(name, lambda thing=thing: thing)])
        assert not crashed, "\n".join(crashed)
        for name in (
            "kv",
            "front-end in memory",
            "front-end on a disk",
            "backend in memory",
            "server",
            "rpc client",
            "pool on a disk",
        ):
            with child() as inside:
                if inside:
                    with contextlib.suppress(AttributeError):
                        things[name].__exit__(None, None, None)
                    things[name].close()
        with child() as inside:  # the garbage collector closes all of them
            if inside:
                del stack, things, thing
                gc.collect()
        assert things["kv"].get(b"large") == bytes(MIB) and things["rpc client"].call(b"2") == b"2"
        for kind in ("in memory", "on a disk"):
            table, tree = things[f"table {kind}"], things[f"tree {kind}"]
            with things[f"transaction {kind}"]:
                table[b"k"] = tree[b"k"] = b"w"
            assert table[b"k"] == tree[b"k"] == b"w"
            assert things[f"queue {kind}"].get() == b"v"
            assert things[f"stack {kind}"].pop() == things[f"skip list {kind}"][b"k"] == b"v"
            for name in ("table", "tree", "skip list", "stack"):
                things[f"{name} {kind}"].check()


@pytest.mark.parametrize("context", ["fe.batch()", "fe.transaction(table)", "fe", "backend"])
def test_a_child_leaves_its_parents_with_blocks_without_output(context: str) -> None:
    program = f"""if True:
        import os, sys, tempfile, warnings
        warnings.simplefilter("ignore")
        import rnvm, structures
        path = os.path.join(tempfile.mkdtemp(dir=os.environ["TESTS_MEMORY"]), "p")
        with (rnvm.Backend(path, size="4MiB", assume_persistent=True) as backend,
              rnvm.connect(backend.address) as fe):
            table = structures.HashTable(fe, "h")
            with {context}:
                table[b"k"] = b"v"
                pid = os.fork()
                if pid == 0:
                    raise SystemExit(7)
                assert os.waitpid(pid, 0)[1] == 7 << 8
                table[b"l"] = b"w"
            if {context!r}[:2] == "fe" and len({context!r}) > 2:
                assert dict(table.items()) == {{b"k": b"v", b"l": b"w"}}
        os.unlink(path)
        print("fine")
    """
    done = run("-c", program)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "fine\n")


@pytest.mark.timeout(150)
def test_a_parents_handle_raises_forked_in_a_child_of_a_c_librarys_fork() -> None:
    # Such a fork does not repair the interpreter: a child hangs, before it calls anything of ours,
    # if another thread held the interpreter lock, had asked for it (PyDLL and a long interval
    # prevent these) or was inside its mutex (then the program forks once more).
    program = """if True:
        import ctypes, os, signal, sys, time
        import rfp, rnvm, structures
        libc = ctypes.PyDLL(None)
        sys.setswitchinterval(1000)
        server = rfp.Server(memory="8MiB")
        backend = rnvm.Backend(sys.argv[1], size="4MiB", assume_persistent=True)
        kv = rfp.connect(server.address, reconnect=False)
        fe = rnvm.connect(backend.address, reconnect=False)
        table = structures.HashTable(fe, "h")
        kv.put(b"k", b"v")
        table[b"k"] = b"v"
        def outcome(call):
            try: return call()
            except rfp.errors.RfpError as error: return type(error).__name__
        def status_of_a_child(first):
            pid = libc.fork()                               # runs none of Python's handlers
            if pid == 0:
                found = [outcome(call) for call in
                         (first, lambda: kv.get(b"k"), lambda: table[b"k"],
                          lambda: rfp.connect(server.address).get(b"k"))]
                assert found[0] in ("Forked", None), found
                assert found[1:] == ["Forked", "Forked", b"v"], found
                sys.exit(5)                                 # runs all exit functions
            end = time.monotonic() + 30
            while time.monotonic() < end:
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    return status
                time.sleep(0.001)
            os.kill(pid, signal.SIGKILL)
            return os.waitpid(pid, 0)[1]
        for first in (lambda: kv.get(b"k"), lambda: table[b"k"], kv.close, fe.close, backend.close,
                      server.close, lambda: None):
            status = status_of_a_child(first)
            if status == signal.SIGKILL:
                status = status_of_a_child(first)
            assert status == 5 << 8, status
            assert (kv.get(b"k"), table[b"k"]) == (b"v", b"v")
        print("fine")
    """
    with tempfile.TemporaryDirectory(dir=os.environ["TESTS_MEMORY"]) as folder:
        done = run("-c", program, os.path.join(folder, "p"), seconds=140)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "fine\n")
