"""Views: values in the server's memory, and what keeps them there."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import mmap
import os
import pickle
import subprocess
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polling
import pytest
import python_programs
import server_addresses
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from stopping import stop

import rfp
from rfp.errors import (
    AlreadyExists,
    CallerError,
    Closed,
    ConnectionFailed,
    Forked,
    InvalidArgument,
    QuotaExceeded,
    TooLarge,
    VersionMismatch,
    WrongType,
)

from .sample_values import pattern

SIZE = 200_000
OUTSIDE = 592  # bytes of a partition that are neither arena nor index
MIN = 64 << 10  # bytes of the shortest value that is viewed in place


@pytest.fixture(scope="module", params=(1, 3), ids=("1 worker", "3 workers"))
def server(request: pytest.FixtureRequest) -> Iterator[rfp.Server]:
    with rfp.Server(memory="48MiB", workers=request.param) as server:
        # It keeps this process's view table from the first view on.
        with rfp.connect(server.address, timeout=20) as kv:
            kv.put(b"k", bytes(SIZE))
            kv.view(b"k").release()
            kv.clear()
        yield server


@pytest.fixture(params=("auto", "fetch", "reply", "bypass"))
def kv(request: pytest.FixtureRequest, server: rfp.Server) -> Iterator[rfp.Client]:
    """A client of every mode, in turn."""
    with rfp.connect(server.address, mode=request.param, timeout=20) as kv:
        no_pins(kv)
        yield kv
        kv.clear()


@pytest.fixture
def one(server: rfp.Server) -> Iterator[rfp.Client]:
    """A client of the usual mode."""
    with rfp.connect(server.address, timeout=20) as kv:
        no_pins(kv)
        yield kv
        kv.clear()


def pins(kv: rfp.Client) -> int:
    return kv.stats()["views"]


def no_pins(kv: rfp.Client) -> None:
    """Wait until the server keeps no memory for views."""
    polling.until(lambda: pins(kv) == 0)


def used(kv: rfp.Client) -> int:
    """Return the bytes of the arenas in use."""
    return sum(
        part["bytes_used"] - part["index_bytes"] - OUTSIDE for part in kv.stats()["partitions"]
    )


# What a view is


def test_a_view_is_the_value(kv: rfp.Client) -> None:
    value = pattern(SIZE)
    version = kv.put(b"k", value)
    with kv.view(b"k") as view:
        assert (len(view), view.nbytes, view.version) == (SIZE, SIZE, version)
        assert not view.copied and not view.stale
        assert bytes(view) == view.copy() == value
        assert np.array_equal(np.frombuffer(view, "u1"), np.frombuffer(value, "u1"))
        window = memoryview(view)
        assert (window.readonly, window.format, window.shape) == (True, "B", (SIZE,))
        window.release()
        assert "200000 bytes" in repr(view)
    assert kv.view(b"nobody") is None
    no_pins(kv)


def test_a_view_is_read_only(one: rfp.Client) -> None:
    one.put(b"k", bytes(SIZE))
    view = one.view(b"k")
    array = np.frombuffer(view, "u1")
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1
    with pytest.raises(TypeError, match="read-only"):
        memoryview(view)[0] = 1
    with pytest.raises(BufferError):
        one.get_into(b"k", view)


@pytest.mark.parametrize("size", [0, 1, 3000, MIN - 1])
def test_a_short_value_is_copied(kv: rfp.Client, size: int) -> None:
    version = kv.put(b"k", pattern(size))
    view = kv.view(b"k")
    assert view.copied
    assert (bytes(view), len(view), view.version) == (pattern(size), size, version)
    assert not view.stale
    assert pins(kv) == 0
    view.release()


@pytest.mark.parametrize("size", [MIN, MIN + 1, 1_500_000])
def test_a_longer_value_is_not_copied(kv: rfp.Client, size: int) -> None:
    kv.put(b"k", pattern(size))
    view = kv.view(b"k")
    assert not view.copied
    assert bytes(view) == pattern(size)
    assert pins(kv) == 1


def test_a_view_keeps_the_old_value(kv: rfp.Client) -> None:
    first = kv.put(b"k", pattern(SIZE))
    old = kv.view(b"k")
    second = kv.put(b"k", bytes(SIZE))
    new = kv.view(b"k")
    kv.delete(b"k")
    assert kv.view(b"k") is None
    assert (old.version, new.version) == (first, second)
    for i in range(20):
        kv.put(b"other %d" % i, bytes(SIZE))
    assert bytes(old) == pattern(SIZE)
    assert bytes(new) == bytes(SIZE)
    kv.clear()
    old.release()
    new.release()
    polling.until(lambda: used(kv) == 0)


def test_an_expired_value_stays_in_its_view(kv: rfp.Client) -> None:
    kv.put(b"k", pattern(SIZE), ttl=0.05)
    view = kv.view(b"k")
    polling.until(lambda: kv.view(b"k") is None)
    assert bytes(view) == pattern(SIZE)


def test_views_of_many_keys_come_in_order(kv: rfp.Client) -> None:
    sizes = [0, 10, MIN, MIN - 1, SIZE, 5000, SIZE] * 5
    for i, size in enumerate(sizes):
        kv.put(b"%d" % i, pattern(size))
    keys = [b"%d" % i for i in range(len(sizes))]
    keys.insert(3, b"nobody")
    for _ in range(2):
        views = kv.view_many(keys)
        assert views.pop(3) is None
        assert [len(view) for view in views] == sizes
        assert [view.copied for view in views] == [size < MIN for size in sizes]
        assert all(bytes(view) == pattern(len(view)) for view in views)
    assert kv.view_many([]) == []
    del views, _
    no_pins(kv)


def test_a_copy_and_a_pickle_of_a_view_are_refused(one: rfp.Client) -> None:
    one.put(b"k", bytes(SIZE))
    with pytest.raises(TypeError):
        pickle.dumps(one.view(b"k"))
    with pytest.raises(Closed):
        memoryview(rfp.View())


def test_a_view_of_the_same_value_needs_no_request(one: rfp.Client) -> None:
    version = one.put(b"k", bytes(SIZE))
    held = one.view(b"k")
    gets = one.stats()["gets"]
    for _ in range(100):
        with one.view(b"k") as view:
            assert view.version == version
    assert one.stats()["gets"] == gets
    assert held.version == version
    assert one.put(b"k", pattern(SIZE)) > version
    assert bytes(one.view(b"k")) == pattern(SIZE)


# Release


def test_release_ends_new_buffers_and_keeps_old_ones(one: rfp.Client) -> None:
    one.put(b"k", pattern(SIZE))
    view = one.view(b"k")
    array = np.frombuffer(view, "u1")
    part = memoryview(view)[100:200]
    assert view.exported == 2
    view.release()
    view.release()
    with pytest.raises(Closed):
        memoryview(view)
    with pytest.raises(Closed):
        view.copy()
    with pytest.raises(Closed), view:
        pass
    one.delete(b"k")
    for i in range(10):
        one.put(b"%d" % i, bytes(SIZE))
    assert array.tobytes() == pattern(SIZE)
    del array
    assert bytes(part) == pattern(SIZE)[100:200]
    assert pins(one) == 1
    part.release()
    no_pins(one)


def test_a_forgotten_view_is_released(kv: rfp.Client) -> None:
    kv.put(b"k", bytes(SIZE))
    view = kv.view(b"k")
    reference = weakref.ref(view)
    array = np.frombuffer(view, "u1")
    del view
    assert reference() is None
    kv.delete(b"k")
    assert pins(kv) == 1
    del array
    no_pins(kv)


class PyBuffer(ctypes.Structure):
    _fields_ = [
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.py_object),
        ("len", ctypes.c_ssize_t),
        ("rest", ctypes.c_byte * 128),
    ]


def test_the_owner_of_a_buffer_keeps_the_value_without_the_buffer(one: rfp.Client) -> None:
    # As torch.frombuffer does: it releases the buffer at once, and keeps a reference to its owner.
    one.put(b"k", pattern(SIZE))
    view = one.view(b"k")
    buffer = PyBuffer()
    assert ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(view), ctypes.byref(buffer), 0) == 0
    owner, address = buffer.obj, buffer.buf
    ctypes.pythonapi.PyBuffer_Release(ctypes.byref(buffer))
    view.release()
    del view
    one.delete(b"k")
    polling.until(lambda: pins(one) == 1)
    for i in range(10):
        one.put(b"%d" % i, bytes(SIZE))
    assert ctypes.string_at(address, SIZE) == pattern(SIZE)
    del owner
    no_pins(one)


def test_a_view_in_a_cycle_is_released_by_the_collector_in_another_thread(one: rfp.Client) -> None:
    one.put(b"k", bytes(SIZE))
    cycle: list[object] = [one.view(b"k")]
    cycle.append(cycle)
    del cycle
    thread = threading.Thread(target=gc.collect)
    thread.start()
    thread.join()
    no_pins(one)


def test_many_threads_view_and_release(one: rfp.Client) -> None:
    values = {b"%d" % i: pattern(MIN + i) for i in range(8)}
    for key, value in values.items():
        one.put(key, value)
    failures: list[BaseException] = []
    passed: list[rfp.View] = []

    def work(seed: int) -> None:
        try:
            for i in range(150):
                key = b"%d" % ((i * seed) % 8)
                view = one.view(key)
                assert bytes(memoryview(view)[:8]) == values[key][:8]
                passed.append(view)
                if i % 3:
                    passed.pop(0).release()  # mostly the view of another thread
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in (1, 3, 5, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert pins(one) <= 8
    passed.clear()
    no_pins(one)
    assert all(one.get(key) == value for key, value in values.items())


# Connections and processes


@pytest.mark.parametrize("order", range(6))
def test_handle_server_view_and_buffer_end_in_any_order(order: int) -> None:
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(rfp.Server(memory="16MiB"))
        kv = stack.enter_context(rfp.connect(server.address))
        kv.put(b"k", pattern(SIZE))
        view = kv.view(b"k")
        array = np.frombuffer(view, "u1")
        ends = [kv.close, server.close, view.release]
        for i in range(3):
            ends.pop((order >> i) % len(ends))()
            assert array.tobytes() == pattern(SIZE)
            assert view.exported == (view.release in ends)


def mappings() -> int:
    """Return the bytes of this process's mappings of rfp's memory of at least 10 MB."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    total = 0
    for line in lines:
        if "memfd:rfp" in line:
            low, high = line.split()[0].split("-")
            size = int(high, 16) - int(low, 16)
            total += size if size > 10_000_000 else 0
    return total


def test_the_last_view_of_a_closed_handle_unmaps_the_memory() -> None:
    before = mappings()
    with rfp.Server(memory="16MiB") as server:
        kv = rfp.connect(server.address)
        kv.put(b"k", pattern(SIZE))
        views = [kv.view(b"k"), kv.view(b"k")]
        kv.close()
        with rfp.connect(server.address) as other:
            other.delete(b"k")
            other.ping()
            assert bytes(views[0]) == pattern(SIZE)
            assert other.stats()["views"] == 1
            assert mappings() == before + 3 * (16 << 20)
            views.pop().release()
            assert mappings() == before + 3 * (16 << 20)
            views.pop()
            assert mappings() == before + 2 * (16 << 20)
            no_pins(other)
    assert mappings() == before


def test_two_handles_of_a_process_share_its_pins(server: rfp.Server, one: rfp.Client) -> None:
    one.put(b"k", pattern(SIZE))
    with rfp.connect(server.address) as other:
        views = [one.view(b"k"), other.view(b"k")]
        assert pins(one) == 1
        views[0].release()
        one.delete(b"k")
        for i in range(10):
            one.put(b"%d" % i, bytes(SIZE))
        assert bytes(views[1]) == pattern(SIZE)


def test_a_view_becomes_stale_when_the_server_closes() -> None:
    with rfp.Server(memory="16MiB") as server:
        kv = rfp.connect(server.address)
        kv.put(b"k", pattern(SIZE))
        view = kv.view(b"k")
        copied = kv.put(b"short", b"1") and kv.view(b"short")
        assert not view.stale
    assert view.stale
    assert not copied.stale
    assert bytes(view) == pattern(SIZE)
    with pytest.raises(ConnectionFailed):
        kv.view(b"k", timeout=0.2)
    kv.close()
    assert view.stale
    view.release()
    assert not view.stale


SERVER = """
import sys, time, rfp
server = rfp.Server(memory="16MiB", address=sys.argv[1], direct_reads=sys.argv[2] == "1")
print("up", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def server_process(place: str, direct: bool = True) -> Iterator[subprocess.Popen[bytes]]:
    process = python_programs.start(
        "-c", SERVER, place, int(direct), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout.readline() == b"up\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


@pytest.fixture
def place(tmp_path: Path) -> str:
    tmp_path.chmod(0o700)
    return server_addresses.own(tmp_path)


@pytest.mark.parametrize("direct", [True, False])
def test_a_view_becomes_stale_when_the_server_is_killed(place: str, direct: bool) -> None:
    with server_process(place, direct) as process, rfp.connect(place, timeout=20) as kv:
        kv.put(b"k", pattern(SIZE))
        view = kv.view(b"k")
        assert not view.copied and not view.stale
        process.kill()
        process.wait()
        polling.until(lambda: view.stale)
        assert bytes(view) == pattern(SIZE)
        with server_process(place):
            assert kv.view(b"k") is None
            kv.put(b"k", bytes(SIZE))
            new = kv.view(b"k")
            assert not new.stale and view.stale
            assert bytes(new) == bytes(SIZE)
            assert bytes(view) == pattern(SIZE)
            view.release()
            new.release()
            no_pins(kv)


def test_a_view_outlives_the_loss_of_its_connection() -> None:
    with rfp.Server(memory="16MiB", lease=0.05) as server, rfp.connect(server.address) as one:
        one.put(b"k", pattern(SIZE))
        view = one.view(b"k")
        with rfp.connect(server.address) as other:
            one.connection.control.shutdown()
            polling.until(lambda: len(server.figures()["clients"]) == 1)
            other.delete(b"k")
            for i in range(10):
                other.put(b"%d" % i, bytes(SIZE))
            assert bytes(view) == pattern(SIZE)
            assert not view.stale
            # A release needs no connection.
            view.release()
            no_pins(other)
            other.put(b"k", pattern(SIZE))
        assert one.view(b"k").copy() == pattern(SIZE)


VIEWER = """
import sys, rfp
kv = rfp.connect(sys.argv[1])
views = [kv.view(key.encode()) for key in sys.argv[2:]]
print(sum(len(view) for view in views), flush=True)
sys.stdin.read()
"""


def viewer(address: str, *keys: str) -> subprocess.Popen[bytes]:
    process = python_programs.start(
        "-c", VIEWER, address, *keys, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert int(process.stdout.readline()) == SIZE * len(keys)
    return process


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()


def test_the_server_frees_the_views_of_a_killed_process(
    server: rfp.Server, one: rfp.Client
) -> None:
    for key in (b"a", b"b"):
        one.put(key, pattern(SIZE))
    one.view(b"a").release()
    shares = server.figures()["shares"]
    process = viewer(server.address, "a", "b")
    assert pins(one) == 2
    one.clear()
    assert used(one) > 2 * SIZE
    stop(process.pid)  # a process that is only stopped keeps its views
    for i in range(10):
        one.put(b"%d" % i, bytes(SIZE))
    assert pins(one) == 2
    end(process)
    no_pins(one)
    one.clear()
    polling.until(lambda: used(one) == 0)
    polling.until(lambda: server.figures()["shares"] == shares)


def test_a_child_of_a_fork_has_no_views(one: rfp.Client) -> None:
    one.put(b"k", pattern(SIZE))
    one.put(b"short", b"v")
    view, copied = one.view(b"k"), one.view(b"short")
    copy = view.copy()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        found = []
        try:
            with pytest.raises(Forked):
                memoryview(view)
            with pytest.raises(Forked):
                view.copy()
            with pytest.raises(Forked):
                one.view(b"k")
            assert len(view) == SIZE and bytes(copied) == b"v" and copy == pattern(SIZE)
            view.release()
            del view
            gc.collect()
            found.append("good")
        finally:
            os.write(write, "".join(found).encode() or b"bad")
            os._exit(0)
    os.close(write)
    assert os.waitpid(child, 0)[1] == 0
    assert os.read(read, 100) == b"good"
    os.close(read)
    assert bytes(view) == pattern(SIZE)
    assert pins(one) == 1
    view.release()
    no_pins(one)


def test_a_view_at_the_end_of_the_interpreter_ends_quietly(server: rfp.Server, one) -> None:
    one.put(b"k", pattern(SIZE))
    program = "import sys, rfp, numpy; kv = rfp.connect(sys.argv[1]); view = kv.view(b'k')"
    program += "; array = numpy.frombuffer(view, 'u1'); kv.close() if sys.argv[2] == '1' else None"
    for closed in (0, 1):
        ended = python_programs.run("-c", program, server.address, closed)
        assert (ended.returncode, ended.stderr) == (0, b"")
    no_pins(one)


EXECUTES = """
import os, sys, rfp
kv = rfp.connect(sys.argv[1])
views = [kv.view(b"k")]
if len(sys.argv) == 3:
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:-1]])
print(len(views[0]), kv.stats()["views"], flush=True)
"""


def test_a_program_that_a_process_executes_does_not_inherit_its_views(
    server: rfp.Server, one: rfp.Client
) -> None:
    one.put(b"k", pattern(SIZE))
    ended = python_programs.run("-c", EXECUTES, server.address, "again")
    assert ended.stdout.split() == [b"%d" % SIZE, b"1"], ended.stderr
    no_pins(one)


def test_views_keep_no_more_than_a_quarter_of_the_memory() -> None:
    with rfp.Server(memory="15MiB") as server, rfp.connect(server.address) as kv:
        keys = [b"%d" % i for i in range(10)]
        for key in keys:
            kv.put(key, pattern(1 << 19))
        held = []
        with pytest.raises(QuotaExceeded, match="views"):
            for key in keys:
                held.append(kv.view(key))
        assert len(held) == 3  # an eighth for one process
        with pytest.raises(QuotaExceeded):
            kv.view_many(keys)
        assert kv.get(keys[5]) == pattern(1 << 19)
        # A released view makes room at once.
        held.pop().release()
        held.append(kv.view(keys[5]))
        for _ in range(3):
            for key in keys:
                held.clear()
                held.append(kv.view(key))


def test_the_quota_of_one_process(place: str) -> None:
    with rfp.Server(memory="16MiB", address=place, quota=500_000) as server:
        with rfp.connect(server.address) as kv:
            for key in (b"a", b"b", b"c"):
                kv.put(key, pattern(SIZE))
            views = kv.view_many([b"a", b"b"])
            with pytest.raises(QuotaExceeded):
                kv.view(b"c")
            end(viewer(server.address, "c"))
            views.clear()
            assert not kv.view(b"c").copied


def test_a_server_without_direct_reads_offers_views() -> None:
    with rfp.Server(memory="16MiB", direct_reads=False) as server:
        with rfp.connect(server.address) as kv:
            kv.put(b"k", pattern(SIZE))
            with kv.view(b"k") as view:
                assert not view.copied and bytes(view) == pattern(SIZE)
            with kv.view(b"k") as view:
                assert bytes(view) == pattern(SIZE)


def test_over_an_emulated_network_a_view_is_a_copy() -> None:
    address = f"{rfp.address.unique()}?rtt=20us"
    with rfp.Server(memory="16MiB", address=address) as server:
        with rfp.connect(address) as kv:
            version = kv.put(b"k", pattern(SIZE))
            kv.put(b"short", b"v")
            view = kv.view(b"k")
            assert view.copied and bytes(view) == pattern(SIZE) and view.version == version
            views = kv.view_many([b"k", b"nobody", b"short"])
            assert views[1] is None
            assert [bytes(views[0]), bytes(views[2])] == [pattern(SIZE), b"v"]
            assert kv.stats()["views"] == 0
        assert server.address


# Reservations


def test_a_reserved_buffer_becomes_the_value(kv: rfp.Client) -> None:
    for size in (0, 5, 3000, SIZE, 1_000_000):
        reservation = kv.reserve(b"k", size)
        with reservation as buffer:
            assert kv.get(b"other") is None
            assert bytes(buffer) == bytes(size)
            buffer[:] = pattern(size)
            assert kv.get(b"k") != pattern(size) or size == 0
        assert kv.item(b"k") == (pattern(size), reservation.version)
        # The buffer is not the value.
        if size:
            buffer[0] ^= 1
            assert kv.get(b"k") == pattern(size)
        kv.delete(b"k")


def test_an_exception_gives_a_reservation_up(one: rfp.Client) -> None:
    one.put(b"k", b"old")
    with pytest.raises(KeyError), one.reserve(b"k", SIZE) as buffer:
        buffer[:] = pattern(SIZE)
        raise KeyError
    assert one.get(b"k") == b"old"
    assert one.stats()["uploads"] == 0


def test_a_reservation_has_the_conditions_of_put(one: rfp.Client) -> None:
    version = one.put(b"k", b"old")
    with pytest.raises(AlreadyExists), one.reserve(b"k", 3, if_absent=True) as buffer:
        buffer[:] = b"new"
    with pytest.raises(VersionMismatch), one.reserve(b"k", 3, if_version=version - 1):
        pass
    with one.reserve(b"k", 3, if_version=version, ttl=0.05) as buffer:
        buffer[:] = b"new"
    polling.until(lambda: one.get(b"k") is None)


def test_invalid_reservations_are_refused(one: rfp.Client) -> None:
    for arguments, error in (
        ((b"", 1), InvalidArgument),
        ((b"k", -1), InvalidArgument),
        ((b"k", "1"), WrongType),
        ((b"k", (256 << 20) + 1), TooLarge),
    ):
        with pytest.raises(error):
            one.reserve(*arguments)
    with pytest.raises(InvalidArgument):
        one.reserve(b"k", 1, if_absent=True, if_version=1)
    with pytest.raises(InvalidArgument):
        one.reserve(b"k", 1, ttl=-1)
    with pytest.raises(InvalidArgument):
        one.reserve(b"k", 1, timeout=-1)
    reservation = one.reserve(b"k", 1)
    with reservation:
        pass
    with pytest.raises(CallerError), reservation:
        pass


# Memory is used once


SHARED = """
import sys, rfp, numpy as np
from rfp.codec import numpy as codec
kv = rfp.connect(sys.argv[1])
array = codec.unpack(kv.view(b"array"))
print(int(array.sum()), array.flags.writeable, flush=True)
sys.stdin.read()
"""


def private_bytes(pid: int) -> int:
    """Return the memory that only this process uses."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


def test_processes_that_view_an_array_share_its_memory() -> None:
    from rfp.codec import numpy as codec

    array = np.arange(2 << 20, dtype="f4").reshape(1024, 2048)  # 8 MiB
    with rfp.Server(memory="80MiB") as server, rfp.connect(server.address) as kv:
        kv.put(b"array", codec.pack(array))
        before = used(kv)
        processes = [
            python_programs.start(
                "-c", SHARED, server.address, stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            for _ in range(3)
        ]
        for process in processes:
            total, writeable = process.stdout.readline().split()
            assert int(total) == int(array.sum()) and writeable == b"False"
        alone = private_bytes(processes[0].pid)
        assert used(kv) == before
        assert kv.stats()["views"] == 3
        assert before <= kv.stats()["view_bytes"] + 100 <= before + 100
        # Each process has used all bytes of the array, and none has a copy.
        rss = mmap.PAGESIZE * int(Path(f"/proc/{processes[0].pid}/statm").read_text().split()[1])
        assert rss - alone > array.nbytes
        for process in processes:
            end(process)
        no_pins(kv)


# A model


class ViewsModel(RuleBasedStateMachine):
    """Views under puts, deletes, eviction, expiry, index growth and clear never change."""

    keys = st.integers(0, 9).map(lambda n: b"key %d" % n)

    @initialize(eviction=st.sampled_from(["clock", "bucket", "none"]), workers=st.integers(1, 2))
    def begin(self, eviction: str, workers: int) -> None:
        self.server = rfp.Server(memory=workers << 20, workers=workers, eviction=eviction)
        self.clients = [rfp.connect(self.server.address, timeout=20) for _ in range(2)]
        self.views: list[tuple[rfp.View | memoryview, bytes]] = []
        self.written = 0

    @rule(key=keys, size=st.sampled_from([100, MIN, 100_000]), ttl=st.sampled_from([None, 0.01]))
    def put(self, key: bytes, size: int, ttl: float | None) -> None:
        self.written += 1
        value = (b"%d " % self.written * size)[:size]
        with contextlib.suppress(rfp.errors.OutOfMemory):
            self.clients[0].put(key, value, ttl=ttl)

    @rule(key=keys)
    def delete(self, key: bytes) -> None:
        self.clients[1].delete(key)

    @rule()
    def clear(self) -> None:
        self.clients[0].clear()

    @rule(count=st.integers(1, 300))
    def put_small_values(self, count: int) -> None:
        self.clients[0].put_many((b"%d %d" % (self.written, i), b"x" * 20) for i in range(count))

    @rule(key=keys, client=st.integers(0, 1), export=st.booleans())
    def view(self, key: bytes, client: int, export: bool) -> None:
        try:
            view = self.clients[client].view(key)
        except QuotaExceeded:
            return
        if view is not None:
            kept = memoryview(view) if export else view
            self.views.append((kept, view.copy()))

    @rule()
    def view_many(self) -> None:
        with contextlib.suppress(QuotaExceeded):
            for view in self.clients[0].view_many(b"key %d" % i for i in range(10)):
                if view is not None:
                    self.views.append((view, view.copy()))

    @precondition(lambda self: self.views)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        view, _ = self.views.pop(data.draw(st.integers(0, len(self.views) - 1)))
        view.release()

    @rule(client=st.integers(0, 1))
    def connect_again(self, client: int) -> None:
        self.clients[client].close()
        self.clients[client] = rfp.connect(self.server.address, timeout=20)

    @invariant()
    def views_are_unchanged(self) -> None:
        if hasattr(self, "views"):
            assert all(bytes(view) == value for view, value in self.views)

    def teardown(self) -> None:
        if not hasattr(self, "views"):
            return
        self.views.clear()
        self.clients[0].clear()
        polling.until(lambda: used(self.clients[0]) == 0)
        for client in self.clients:
            client.close()
        self.server.close()


TestViewsModel = ViewsModel.TestCase
TestViewsModel.settings = settings(
    max_examples=8,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
