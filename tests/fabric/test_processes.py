"""Two processes over one connection."""

from __future__ import annotations

import os
import signal

import pytest
from stopping import stop
from time_bounds import soon

from rfp.fabric.fabric import PEER_GONE, READ, SUCCESS, WRITE, WRITE_NOTIFY
from rfp.fabric.shm.region import ShmFabric
from rfp.testing import litmus

from .connected_pairs import in_parts, until
from .peer import another_process
from .providers import SHM_AND_VERBS, SPECS, VERBS


@pytest.fixture
def shm_peer():
    with another_process(ShmFabric()) as peer:
        yield peer


@pytest.fixture(params=SHM_AND_VERBS)
def peer(request):
    with request.param() as fabric, another_process(fabric, SPECS[request.param]) as peer:
        yield peer


def test_each_side_reads_and_writes_the_others_memory(peer):
    peer.send("write", 512, b"from there".hex())
    peer.answer()
    assert peer.pair.execute(READ, peer.memory, 256, peer.theirs, 512, 10) == SUCCESS
    assert peer.memory.read(256, 10) == b"from there"
    peer.memory.write(256, b"from here")
    assert peer.pair.execute(WRITE, peer.memory, 256, peer.theirs, 2048, 9) == SUCCESS
    peer.send("read", 2048, 9)
    assert bytes.fromhex(peer.answer()) == b"from here"
    peer.memory.write(300, b"pulled")
    peer.send("pull", 4096, 300, 6)
    assert peer.answer() == str(SUCCESS)
    peer.send("read", 4096, 6)
    assert bytes.fromhex(peer.answer()) == b"pulled"


def test_a_process_reads_and_writes_the_memory_of_a_stopped_process(peer):
    peer.send("write", 512, "2a")
    peer.answer()
    stop(peer.process.pid)
    assert peer.pair.execute(READ, peer.memory, 256, peer.theirs, 512, 1) == SUCCESS
    assert peer.memory.read(256, 1) == b"\x2a"
    assert peer.pair.alive()  # a stopped process is not dead
    os.kill(peer.process.pid, signal.SIGCONT)


def test_a_notify_wakes_a_sleeping_process(peer):
    peer.send("sleep", 10)
    assert peer.answer() == "armed"
    assert peer.pair.execute(WRITE_NOTIFY, peer.memory, 256, peer.theirs, 256, 8) == SUCCESS
    assert peer.answer() == "True"


def test_a_peers_notify_wakes_this_process(peer):
    armed = peer.channel.prepare_wait()
    peer.send("notify", 256, 256, 8)
    assert peer.channel.wait(armed, 10.0)
    assert peer.answer() == str(SUCCESS)


def test_no_wake_up_is_lost_between_processes(peer):
    rounds = 20_000 if peer.pair.reads_ordered else 500

    def play(rounds: int) -> int:
        peer.memory.write(4096, bytes(128))
        assert peer.pair.execute(WRITE, peer.memory, 4096, peer.theirs, 4096, 128) == SUCCESS
        peer.send("sleeper", 4096, rounds)
        litmus.waker(peer.pair, peer.memory, peer.theirs, 4096, rounds)
        return int(peer.answer())

    assert in_parts(rounds, play) == 0


@pytest.mark.parametrize("length", [64, 512, 4096])
def test_messages_of_another_process_are_seen_in_order(shm_peer, length):
    peer = shm_peer

    def play(rounds: int) -> int:
        peer.memory.write(8192, bytes(8))
        assert peer.pair.execute(WRITE, peer.memory, 8192, peer.theirs, 8192, 8) == SUCCESS
        peer.send("publisher", 8192, length, rounds)
        torn = litmus.fetcher(peer.pair, peer.memory, peer.theirs, 8192, length, rounds)
        assert peer.answer() == "None"
        return torn

    assert in_parts(5_000, play) == 0


@pytest.mark.parametrize("how", ["add", "swap"])
def test_atomics_of_two_processes_on_one_word_lose_nothing(shm_peer, how):
    peer = shm_peer
    # The word is in our memory: the peer uses its queue pair, we use one to ourselves.
    fabric = ShmFabric()
    with fabric.attach(peer.memory.descriptor(), os.dup(peer.memory.fileno())) as own:
        peer.send(how, 3000)
        peer.theirs, kept = own, peer.theirs
        try:
            getattr(peer, how)(3000)
        finally:
            peer.theirs = kept
        assert peer.answer() == "None"
    assert int.from_bytes(peer.memory.read(128, 8), "little") == 6000


def test_a_killed_process_is_detected_at_once_and_its_memory_can_still_be_read(shm_peer):
    peer = shm_peer
    peer.send("write", 512, "2a")
    peer.answer()
    assert peer.pair.alive()
    peer.send("crash")
    until(lambda: not peer.pair.alive())
    assert peer.pair.execute(READ, peer.memory, 256, peer.theirs, 512, 1) == SUCCESS
    assert peer.memory.read(256, 1) == b"\x2a"


def test_a_peer_that_closes_its_control_socket_is_not_alive_while_its_process_runs(peer):
    peer.send("hang_up")
    until(lambda: not peer.pair.alive())
    assert peer.process.poll() is None


def test_a_sleeper_wakes_at_the_end_of_its_step_if_its_peer_dies(peer):
    armed = peer.channel.prepare_wait()
    peer.send("crash")
    with soon():
        assert not peer.channel.wait(armed, 0.05)
    until(lambda: not peer.pair.alive())


def test_the_receiver_keeps_no_file_descriptor_of_its_peers_memory(shm_peer):
    peer = shm_peer
    peer.send("holding")
    assert peer.answer() == "1"  # that of its own region


@pytest.mark.parametrize("make", SHM_AND_VERBS)
def test_connections_to_killed_processes_leave_nothing_behind(make):
    for _ in range(3):
        with make() as fabric, another_process(fabric, SPECS[make]) as peer:
            peer.send("crash")
            until(lambda peer=peer: not peer.pair.alive())


@pytest.mark.parametrize("make", [VERBS])
def test_requests_to_a_killed_processs_memory_fail_over_a_device(make):
    with make() as fabric, another_process(fabric, SPECS[make]) as peer:
        peer.send("crash")
        until(lambda: not peer.pair.alive())
        # The kernel reports the death first, and then takes the process's memory from the device.
        until(
            lambda: (
                peer.pair.execute(READ, peer.memory, 256, peer.theirs, 512, 1, timeout=30)
                == PEER_GONE
            )
        )
