"""One server at a time has an address, takes over a killed one's files, and refuses other users."""

import contextlib
import fcntl
import os
import resource
import signal
import socket
import stat
import subprocess
import threading

import pytest
import python_programs
from control_tools import hello, soon
from stopping import stop

from rfp.address import parse, unique
from rfp.control import UnixListener, connect, deadline_in
from rfp.control.unix_listener import _Lock, sweep
from rfp.errors import AddressInUse, ConnectionFailed, FabricError, InvalidAddress


@pytest.fixture
def address(private):
    return parse(f"shm://{private}/s")


def test_an_accepted_client_sends_a_message(address):
    with (
        UnixListener(address) as listener,
        connect(address, soon()) as client,
        listener.accept(soon()) as server,
    ):
        client.send(hello(), soon())
        assert server.receive(soon()) == hello()
        assert server.pid == client.pid == os.getpid()


def test_accept_ends_at_its_deadline(address):
    with UnixListener(address) as listener:
        assert listener.accept(0) is None
        assert listener.accept(deadline_in(0.01)) is None


def test_only_this_user_can_access_the_socket_and_its_directory(private):
    old = os.umask(0)
    try:
        address = parse(f"shm://{private}/made/deep/s")
        with UnixListener(address):
            assert stat.S_IMODE(os.stat(address.path).st_mode) == 0o600
            # A user with write access to the upper folder could rename the lower one.
            for made in ("made", "made/deep"):
                assert stat.S_IMODE(os.stat(f"{private}/{made}").st_mode) == 0o700
    finally:
        os.umask(old)


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o701])
def test_a_directory_that_others_can_reach_is_refused(address, private, mode):
    private.chmod(mode)
    with pytest.raises(InvalidAddress, match="chmod 700"):
        UnixListener(address)


def test_a_directory_that_cannot_be_created_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InvalidAddress, match="is not a directory"):
        UnixListener(parse(f"shm://{tmp_path}/file/s"))
    with pytest.raises(InvalidAddress, match="cannot make the directory"):
        UnixListener(parse(f"shm://{tmp_path}/file/deep/s"))


def test_a_unix_listener_refuses_an_rdma_address():
    with pytest.raises(InvalidAddress, match="not an shm"):
        UnixListener(parse("rdma://h:1"))


def test_close_removes_the_socket_and_the_lock_and_may_be_repeated(address, private):
    listener = UnixListener(address)
    listener.close()
    listener.close()
    assert os.listdir(private) == []
    assert listener.fileno() == -1
    assert listener.accept(soon()) is None


def test_a_second_server_is_refused_and_its_error_names_the_first_ones_process(address):
    with UnixListener(address):
        with pytest.raises(
            AddressInUse,
            match=f"already running at {address}, process {os.getpid()}.*connect to it",
        ):
            UnixListener(address)
        with connect(address, soon()):  # the first one still serves
            pass
    UnixListener(address).close()


@contextlib.contextmanager
def listening_process(address, body="sys.stdin.read()"):
    """Another process that listens, until the end of the block at the latest."""
    script = (
        "import os, sys, signal; from rfp.address import parse\n"
        "from rfp.control import UnixListener;"
        f"l = UnixListener(parse(sys.argv[1])); print(flush=True); {body}"
    )
    with python_programs.start(
        "-c", script, address, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout.readline() == b"\n"
            yield process
        finally:
            process.kill()


def test_a_killed_servers_files_are_taken_over(address, private):
    with listening_process(address) as process:
        with pytest.raises(AddressInUse, match=f"process {process.pid}"):
            UnixListener(address)
        process.kill()
    assert sorted(os.listdir(private)) == ["s", "s.lock"]
    with UnixListener(address), connect(address, soon()):
        pass
    assert os.listdir(private) == []


def test_a_stopped_server_keeps_its_address(address):
    with listening_process(address) as process:
        stop(process.pid)
        with pytest.raises(AddressInUse):
            UnixListener(address)


def test_a_server_without_a_lock_is_not_taken_over(address):
    """It may be another program, or a version that locks in another way."""
    with socket.socket(socket.AF_UNIX) as foreign:
        foreign.bind(address.path)
        foreign.listen()
        with pytest.raises(AddressInUse):
            UnixListener(address)
        assert os.path.exists(address.path)


def test_a_file_that_is_not_a_socket_is_not_removed(address, private):
    (private / "s").write_text("precious")
    with pytest.raises(InvalidAddress, match="not a socket"):
        UnixListener(address)
    assert (private / "s").read_text() == "precious"
    (private / "s").unlink()
    (private / "s").symlink_to(private / "t")
    with pytest.raises((InvalidAddress, FabricError)):
        UnixListener(address)
    assert (private / "s").is_symlink()


def test_a_lock_that_is_a_link_is_not_followed(address, private):
    (private / "victim").write_text("precious")
    (private / "s.lock").symlink_to(private / "victim")
    with pytest.raises(FabricError, match="cannot lock"):
        UnixListener(address)
    assert (private / "victim").read_text() == "precious"


def test_a_directory_that_is_replaced_after_the_check_is_not_written_to(private, monkeypatch):
    """The owner of the folder above can replace it: the listener uses the directory it checked."""
    checked, other = private / "d", private / "other"
    other.mkdir(mode=0o700)
    (other / "s.lock").write_text("precious")
    take = _Lock.take

    def exchanged(*where):
        checked.rename(private / "gone")
        checked.symlink_to(other)
        return take(*where)

    monkeypatch.setattr(_Lock, "take", exchanged)
    with pytest.raises(InvalidAddress, match="moved away"):
        UnixListener(parse(f"shm://{checked}/s"))
    assert (other / "s.lock").read_text() == "precious"
    assert os.listdir(private / "gone") == []


def test_another_process_socket_at_the_same_path_is_not_removed(address, private):
    listener = UnixListener(address)
    os.unlink(address.path)
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(address.path)
        listener.close()
        assert os.path.exists(address.path)


def test_exactly_one_of_many_servers_that_start_at_once_gets_the_address(address):
    wins, together = [], threading.Barrier(8)

    def contend():
        for _ in range(30):
            together.wait(10)
            listener = None
            with contextlib.suppress(AddressInUse):
                listener = UnixListener(address)
            together.wait(10)
            if listener is not None:
                wins.append(1)
                connect(address, soon()).close()
                listener.close()

    threads = [threading.Thread(target=contend) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(wins) == 30


def test_servers_that_open_and_close_at_random_never_have_the_same_address_at_once(address):
    """Without a barrier, an opener may find the lock file of a listener that is closing."""
    holders, worst = [], []

    def contend():
        for _ in range(100):
            with contextlib.suppress(AddressInUse), UnixListener(address):
                holders.append(1)
                worst.append(len(holders))
                connect(address, soon()).close()
                holders.pop()

    threads = [threading.Thread(target=contend) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert worst
    assert max(worst) == 1


def test_a_lock_on_a_file_that_its_holder_has_removed_is_invalid(address, monkeypatch):
    """An opener may be delayed between open and flock.

    Meanwhile the holder closes, and the next server locks a new file.
    """
    holder = UnixListener(address)
    next_lock = []
    flock = fcntl.flock

    def delayed(fd, operation):
        monkeypatch.undo()
        holder.close()
        # The next server has locked, and has no socket yet.
        next_lock.append(_Lock.take(address.path + ".lock"))
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", delayed)
    with pytest.raises(AddressInUse):
        UnixListener(address)
    next_lock[0].release()


def test_another_users_client_is_closed_and_counted(address, monkeypatch):
    with UnixListener(address) as listener, connect(address, soon()) as client:
        monkeypatch.setattr(os, "geteuid", lambda: client.uid + 1)
        assert listener.accept(0) is None
        monkeypatch.undo()
        assert listener.foreign == 1
        with pytest.raises(ConnectionFailed):
            client.receive(soon())


def test_a_client_that_closed_before_it_was_accepted_does_not_disturb_the_next_one(address):
    with UnixListener(address) as listener:
        connect(address, soon()).close()
        with connect(address, soon()):
            listener.accept(soon()).close()
            listener.accept(soon()).close()


def test_without_free_file_descriptors_waiting_connections_are_dropped(address):
    with UnixListener(address) as listener:
        clients = [connect(address, soon()) for _ in range(3)]
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (clients[-1].fileno() + 1, hard))
        try:
            assert listener.accept(0) is None
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert listener.dropped == 3
        for client in clients:
            with pytest.raises(ConnectionFailed):
                client.receive(soon())
            client.close()
        with connect(address, soon()):
            listener.accept(soon()).close()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_does_not_keep_the_address(address):
    """The child still runs after its parent was killed, and a new server can start."""
    with listening_process(
        address, body="os.write(1, b'%d\\n' % os.fork()); signal.pause()"
    ) as process:
        child = max(int(process.stdout.readline()), int(process.stdout.readline()))
        try:
            process.kill()
            process.wait()
            with UnixListener(address), connect(address, soon()):
                pass
        finally:
            os.kill(child, signal.SIGKILL)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_that_closes_its_copy_leaves_the_parents_socket(address):
    with UnixListener(address) as listener:
        pid = os.fork()
        if pid == 0:
            listener.close()
            os._exit(0 if listener.fileno() == -1 else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        with connect(address, soon()):
            listener.accept(soon()).close()


def test_the_next_embedded_server_removes_the_files_of_killed_ones(monkeypatch, private):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(private))
    alive = UnixListener(unique())
    with listening_process(unique()):
        pass
    starting = private / "rfp" / "embedded-1-x.lock"
    starting.touch()  # a server has created this lock file, and not locked it yet
    assert len(os.listdir(private / "rfp")) == 5
    with UnixListener(unique()):
        # The files of the two running servers, and of the one that starts.
        assert len(os.listdir(private / "rfp")) == 5
    with connect(alive.address, soon()):
        pass
    alive.close()
    assert sweep(str(private / "rfp")) == 0
    assert os.listdir(private / "rfp") == [starting.name]
