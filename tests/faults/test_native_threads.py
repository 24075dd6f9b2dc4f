"""Threads that Python did not create, and greenlets: no two of them share rings at once."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import python_programs
from polling import until

import rfp

LIBRARY = """
#include <pthread.h>
static void (*callback)(long);
static int times;
static void *run(void *number) {
    for (int i = 0; i < times; i++) callback((long) number);
    return 0;
}
static pthread_t threads[16];
void start(void (*f)(long), long number, int n) {
    callback = f;
    times = n;
    pthread_create(&threads[number], 0, run, (void *) number);
}
void join(long number) { pthread_join(threads[number], 0); }
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """A C library whose threads have a new Python thread state in each callback."""
    folder = tmp_path_factory.mktemp("library")
    (folder / "threads.c").write_text(LIBRARY)
    compiler = shutil.which("cc") or shutil.which("gcc")
    assert compiler, "the tests need a C compiler"
    subprocess.run(
        [
            compiler,
            "-O1",
            "-shared",
            "-fPIC",
            "-pthread",
            "-o",
            folder / "threads.so",
            folder / "threads.c",
        ],
        check=True,
    )
    library = ctypes.CDLL(str(folder / "threads.so"))
    library.start.argtypes = [ctypes.CFUNCTYPE(None, ctypes.c_long), ctypes.c_long, ctypes.c_int]
    library.join.argtypes = [ctypes.c_long]
    return library


def make_use(handle: Any, outcome: Counter[tuple[str, str]]) -> Any:
    def use(user: str) -> None:
        name = user.encode()
        try:
            if isinstance(handle, rfp.Client):
                handle.put(name, name)
                assert handle.get(name) == name
            else:
                assert handle.call(name) == name
            outcome[user, "fine"] += 1
        except BaseException as error:
            outcome[user, repr(error)] += 1

    return use


@pytest.mark.parametrize("kind", ["kv", "rpc"])
def test_threads_of_a_c_library_and_of_python_use_one_handle(
    library: ctypes.CDLL, kind: str
) -> None:
    outcome: Counter[tuple[str, str]] = Counter()
    stop = threading.Event()
    server = rfp.Server(memory="16MiB") if kind == "kv" else rfp.RpcServer(lambda message: message)
    with (
        server,
        rfp.connect(server.address, timeout=30)
        if kind == "kv"
        else rfp.RpcClient(server.address, timeout=30) as handle,
    ):
        use = make_use(handle, outcome)
        callback = ctypes.CFUNCTYPE(None, ctypes.c_long)(lambda number: use(f"C's {number}"))

        def python_thread(number: int) -> None:
            while not stop.is_set():
                use(f"Python's {number}")

        threads = [threading.Thread(target=python_thread, args=[number]) for number in range(2)]
        for number in range(3):
            library.start(callback, number, 300)
        # The C thread has returned its channel by now, and continues.
        until(lambda: outcome["C's 0", "fine"])
        for thread in threads:
            thread.start()
        until(
            lambda: (
                all(outcome[f"Python's {number}", "fine"] for number in range(2))
                or any(result != "fine" for _, result in outcome)
            )
        )
        for number in range(3):
            library.join(number)
        stop.set()
        for thread in threads:
            thread.join()
        assert {result for (_, result), n in outcome.items() if n} == {"fine"}, outcome
        assert [outcome[f"C's {number}", "fine"] for number in range(3)] == [300] * 3
        # A thread leaves its rings to the next one, even if it continues without them.
        assert len(handle.connection.channels) <= 6


def test_greenlets_and_a_pool_of_threads_use_one_handle(tmp_path: Path) -> None:
    program = tmp_path / "greenlets.py"
    program.write_text("""if True:
        from gevent import monkey; monkey.patch_all()
        import collections, gevent, rfp, sys
        from gevent.threadpool import ThreadPool
        kv, outcome = rfp.connect(sys.argv[1], timeout=30), collections.Counter()
        def use(user, n):
            for _ in range(n):
                try:
                    kv.put(user, user)
                    assert kv.get(user) == user
                    outcome["fine"] += 1
                except rfp.errors.RfpError as error:
                    outcome[repr(error)] += 1
                gevent.sleep(0)
        # The greenlet returns its channel at its end, and its thread continues.
        gevent.spawn(use, b"greenlet 1", 10).join()
        pool = ThreadPool(2)
        tasks = [pool.spawn(use, b"thread %d" % i, 300) for i in range(2)]
        greenlets = [gevent.spawn(use, b"greenlet %d" % i, 300) for i in range(2, 5)]
        gevent.joinall(greenlets)
        for task in tasks: task.get()
        kv.close()
        print(dict(outcome))
    """)
    # Greenlets copy parts of the stack, which the address sanitizer reports as accesses beyond
    # variables.
    options = os.environ.get("ASAN_OPTIONS", "") + ":replace_intrin=0:replace_str=0"
    with rfp.Server(memory="16MiB") as server:
        done = python_programs.run(
            program,
            server.address,
            seconds=60,
            text=True,
            env=python_programs.environment() | {"ASAN_OPTIONS": options},
        )
    assert (done.returncode, done.stdout) == (0, "{'fine': 1510}\n"), done.stderr
