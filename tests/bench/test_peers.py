"""Private servers: their start, use and end, and the errors for missing ones."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import needed
import pytest
from polling import until

from bench import phases
from bench.databases import open_database
from bench.peers import memcached, redis
from bench.peers.process import PeerMissing, PeerProcess, program
from bench.placement import Placement, pinned
from bench.properties import read
from rfp.errors import ConnectionFailed, InvalidArgument, RfpError

# The client that the extra installs.
MEMCACHED_CLIENT = "pylibmc" if sys.version_info < (3, 12) else "pymemcache"
PEERS = {
    "redis": ("redis-server", "redis"),
    "memcached": ("memcached", MEMCACHED_CLIENT),
    "lmdb": (None, "lmdb"),
    "rocksdb": (None, "rocksdict"),
    "sqlite": (None, "sqlite3"),
}


def needs(name):
    binary, module = PEERS[name]
    if binary:
        needed.program(binary)
    needed.module(module)


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_serves_workloads_and_leaves_no_process_and_no_files(name):
    needs(name)
    p = read(
        ["a"],
        [
            "recordcount=50",
            "operationcount=200",
            "dataintegrity=true",
            "fieldcount=2",
            "threadcount=2",
            "readproportion=0.9",
        ],
    )
    with open_database(name, p, private=True) as database:
        assert phases.load(database, p).metric("INSERT").returns == {"OK": 50}
        result = phases.run(database, p)
        assert result.operations == 200
        assert set(result.metric("VERIFY").returns) == {"OK"}
        client = database.connect()
        client.insert(b"mine", b"value")
        assert client.read(b"mine") == b"value"
        client.delete(b"mine")
        assert client.read(b"mine") is None
        client.close()
        peer = getattr(database, "_peer", None)
    if peer is not None:
        assert not peer.directory.exists()
        assert peer._process is None
    else:
        assert not Path(database._temporary).exists()


@pytest.mark.parametrize("sync", ["false", "true"])
@pytest.mark.parametrize("name", ["lmdb", "rocksdb", "sqlite"])
def test_a_database_with_ordered_keys_scans_them(name, sync):
    needs(name)
    p = read(
        ["e"], ["recordcount=100", "operationcount=300", "threadcount=2", f"{name}.sync={sync}"]
    )
    with open_database(name, p, private=True) as database:
        loaded = phases.load(database, p)
        client = database.connect()
        keys = sorted(key for key, _ in client.scan(b"", 1000))
        assert len(keys) == loaded.operations == 100
        assert [key for key, _ in client.scan(keys[40], 7)] == keys[40:47]
        assert [key for key, _ in client.scan(keys[40] + b"!", 3)] == keys[41:44]
        assert [key for key, _ in client.scan(keys[-1], 3)] == keys[-1:]
        assert client.scan(keys[-1] + b"!", 3) == []
        assert client.scan(keys[5], 1)[0][1] == client.read(keys[5])
        client.close()
        result = phases.run(database, p)
        assert set(result.metric("SCAN").returns) == {"OK"}
        assert result.metric("SCAN").done.count + result.metric("INSERT").done.count == 300


@pytest.mark.parametrize("name", ["rfp", "dict", "redis"])
def test_a_database_without_an_order_refuses_scans_and_names_those_with_one(name):
    if name == "redis":
        needs(name)
    p = read(["e"])
    with open_database(name, p, private=True) as database:
        for phase in (phases.load, phases.run):
            with pytest.raises(InvalidArgument, match=r"does not keep its keys in order.*lmdb"):
                phase(database, p)


def test_redis_with_sync_has_an_append_only_file():
    needs("redis")
    p = read(["a"], ["redis.sync=true", "recordcount=20", "operationcount=20"])
    with open_database("redis", p, private=True) as database:
        phases.load(database, p)
        client = database.connect()
        assert list(database._peer.directory.glob("**/*.aof"))
        client.close()


def test_memcached_is_used_through_pymemcache_if_asked():
    needs("memcached")
    needed.module("pymemcache")
    p = read(["a"], ["recordcount=20", "operationcount=50", "memcached.client=pymemcache"])
    with open_database("memcached", p, private=True) as database:
        assert database.client.startswith("pymemcache")
        phases.load(database, p)
        assert set(phases.run(database, p).metric("READ").returns) == {"OK"}


@pytest.mark.parametrize(
    ("start", "binary", "package"),
    [(redis.start, "redis-server", "redis-server"), (memcached.start, "memcached", "memcached")],
)
def test_a_missing_program_is_named_with_its_package(start, binary, package, monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(
        PeerMissing, match=rf"{binary} is not installed \(sudo apt-get install {package}\)"
    ):
        start()


@pytest.mark.parametrize(
    ("name", "module"),
    [("redis", "redis"), ("memcached", "pylibmc"), ("lmdb", "lmdb"), ("rocksdb", "rocksdict")],
)
def test_a_missing_package_is_named_with_the_command_that_installs_it(name, module, monkeypatch):
    for gone in (module, "pymemcache"):
        monkeypatch.setitem(sys.modules, gone, None)
    with pytest.raises(PeerMissing, match=rf"{module}.*\(.*pip install (pymemcache|{module})\)"):
        open_database(name, read(["a"]), private=True)


@pytest.mark.parametrize(
    ("name", "setting"), [("redis", "redis.port=1"), ("memcached", "memcached.hosts=127.0.0.1:1")]
)
def test_the_hint_for_an_unreachable_server_is_the_bench_command(name, setting):
    needed.module(PEERS[name][1])
    with pytest.raises(ConnectionFailed, match=f"rfp-ycsb bench {name}"):
        open_database(name, read(["a"], [setting]))


def test_the_error_of_a_server_that_ends_at_once_has_its_output():
    with pytest.raises(ConnectionFailed, match=r"broken ended at once \(code 3\): its output"):
        PeerProcess("broken", [sys.executable, "-c", "print('its output'); raise SystemExit(3)"])


def test_a_server_that_does_not_listen_is_killed_at_the_deadline():
    with pytest.raises(ConnectionFailed, match=r"no connections after 0\.3 s"):
        PeerProcess("deaf", [program("sleep", "coreutils"), "60"], deadline=0.3)
    assert not list(Path(tempfile.gettempdir()).glob("rfp-ycsb-deaf-*"))


LISTEN = (
    "import socket, sys, time; s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); "
    "s.listen(); time.sleep(60)"
)


def test_a_server_that_ignores_sigterm_is_killed():
    code = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + LISTEN
    peer = PeerProcess("stubborn", [sys.executable, "-c", code, "{socket}"])
    pid = peer.pid
    os.kill(pid, 0)
    peer._process.wait = quick(peer._process.wait)
    peer.stop()
    peer.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def quick(wait):
    """wait() with a shorter time-out."""
    return lambda timeout=None: wait(0.2 if timeout else None)


def test_a_server_ends_if_its_benchmark_is_killed():
    code = textwrap.dedent(f"""
        import sys, time
        from bench.peers.process import PeerProcess
        peer = PeerProcess("orphan", [sys.executable, "-c", {LISTEN!r}, "{{socket}}"])
        print(peer.pid, peer.directory, flush=True)
        time.sleep(60)
    """)
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        pid, directory = child.stdout.readline().split()
        os.kill(int(pid), 0)
        child.send_signal(signal.SIGKILL)
        child.wait()
        until(lambda: not alive(int(pid)))
    finally:
        child.kill()
        child.stdout.close()
        shutil.rmtree(directory, ignore_errors=True)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_servers_and_clients_get_different_cpus():
    placement = Placement.choose()
    if placement is None:
        pytest.skip("one CPU")
    assert placement.client
    assert placement.server
    assert not placement.client & placement.server
    before = os.sched_getaffinity(0)
    with PeerProcess(
        "pinned", [sys.executable, "-c", LISTEN, "{socket}"], cpus=placement.server
    ) as peer:
        assert os.sched_getaffinity(peer.pid) == placement.server
    with pinned(placement.client):
        assert os.sched_getaffinity(0) == placement.client
    assert os.sched_getaffinity(0) == before


def test_a_single_cpu_is_not_divided(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3})
    assert Placement.choose() is None


def test_other_users_of_the_machine_may_only_read_from_a_private_redis_on_tcp():
    """Every user can reach loopback, and the benchmark's Redis runs as its user, often root."""
    needs("redis")
    with redis.start(tcp=True) as server:
        server.load(["SET key:000000000001 loaded"])

        def stranger(*words):
            with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
                connection.sendall((" ".join(words) + "\r\n").encode())
                return connection.recv(1000).decode()

        assert stranger("PING") == "+PONG\r\n"
        assert stranger("GET", "key:000000000001").endswith("loaded\r\n")
        for command in (
            ["SET", "k", "forged"],
            ["FLUSHALL"],
            ["CONFIG", "SET", "dir", "/tmp"],
            ["AUTH", "loader", "guess"],
            ["SHUTDOWN"],
            ["EVAL", "'return 1'", "0"],
        ):
            assert stranger(*command).startswith(("-NOPERM", "-WRONGPASS")), command
        command = Path(f"/proc/{server.pid}/cmdline").read_text()
        assert server.password not in command, "every user may read the command line"


def test_a_command_that_redis_does_not_load_is_an_error():
    needs("redis")
    with (
        redis.start(tcp=True) as server,
        pytest.raises(RfpError, match="refused the records to load"),
    ):
        server.load(["NOSUCHCOMMAND"])
