"""Two processes over one connection."""

from __future__ import annotations

import os
import signal
import time

import pytest

from rfp import _litmus
from rfp._fabric import READ, SUCCESS, WRITE, WRITE_NOTIFY
from rfp._shm import ShmFabric

from .peer import another_process


@pytest.fixture
def peer():
    with another_process(ShmFabric()) as peer:
        yield peer


def until(fact, seconds: float = 10.0) -> float:
    """Waits until fact(); returns how long that took."""
    began = time.monotonic()
    while not fact():
        assert time.monotonic() - began < seconds
        time.sleep(0.001)
    return time.monotonic() - began


def test_each_side_reads_and_writes_the_others_memory(peer):
    peer.tell("write", 512, b"from there".hex())
    peer.answer()
    assert peer.pair.execute(READ, peer.memory, 256, peer.theirs, 512, 10) == SUCCESS
    assert peer.memory.read(256, 10) == b"from there"
    peer.memory.write(256, b"from here")
    assert peer.pair.execute(WRITE, peer.memory, 256, peer.theirs, 2048, 9) == SUCCESS
    peer.tell("read", 2048, 9)
    assert bytes.fromhex(peer.answer()) == b"from here"
    peer.memory.write(300, b"pulled")
    peer.tell("pull", 4096, 300, 6)
    assert peer.answer() == str(SUCCESS)
    peer.tell("read", 4096, 6)
    assert bytes.fromhex(peer.answer()) == b"pulled"


def test_a_process_works_on_memory_whose_owner_does_nothing(peer):
    peer.tell("write", 512, "2a")
    peer.answer()
    os.kill(peer.process.pid, signal.SIGSTOP)
    assert peer.pair.execute(READ, peer.memory, 256, peer.theirs, 512, 1) == SUCCESS
    assert peer.memory.read(256, 1) == b"\x2a"
    assert peer.pair.alive()       # stopped is not dead
    os.kill(peer.process.pid, signal.SIGCONT)


def test_a_notify_wakes_a_sleeping_process(peer):
    peer.tell("sleep", 10)
    until(lambda: peer.theirs.read(0, 1) != b"\0")         # its bell is armed
    assert peer.pair.execute(WRITE_NOTIFY, peer.memory, 256, peer.theirs, 256, 8) == SUCCESS
    assert peer.answer() == "True"


def test_a_process_is_woken_by_its_peers_notify(peer):
    armed = peer.channel.arm()
    peer.tell("notify", 256, 256, 8)
    assert peer.channel.sleep(armed, 10.0)
    assert peer.answer() == str(SUCCESS)


def test_no_wake_up_is_lost_between_processes(peer):
    peer.tell("sleeper", 4096, 20_000)
    _litmus.waker(peer.pair, peer.memory, peer.theirs, 4096, 20_000)
    assert peer.answer() == "0"


@pytest.mark.parametrize("length", [64, 512, 4096])
def test_what_another_process_publishes_is_seen_in_order(peer, length):
    peer.tell("publisher", 8192, length, 5_000)
    assert _litmus.fetcher(peer.pair, peer.memory, peer.theirs, 8192, length, 5_000) == 0
    assert peer.answer() == "None"


@pytest.mark.parametrize("how", ["add", "swap"])
def test_atomics_of_two_processes_on_one_word_lose_nothing(peer, how):
    # The word stands in our memory: the peer uses its queue pair, we use one to ourselves.
    fabric = ShmFabric()
    with fabric.attach(peer.memory.descriptor(), os.dup(peer.memory.fileno())) as own:
        peer.tell(how, 3000)
        peer.theirs, kept = own, peer.theirs
        try:
            getattr(peer, how)(3000)
        finally:
            peer.theirs = kept
        assert peer.answer() == "None"
    assert int.from_bytes(peer.memory.read(128, 8), "little") == 6000


def test_a_killed_process_is_noticed_at_once_and_its_memory_still_reads(peer):
    peer.tell("write", 512, "2a")
    peer.answer()
    assert peer.pair.alive()
    peer.tell("crash")
    assert until(lambda: not peer.pair.alive()) < 1.0
    assert peer.pair.execute(READ, peer.memory, 256, peer.theirs, 512, 1) == SUCCESS
    assert peer.memory.read(256, 1) == b"\x2a"


def test_a_peer_that_hangs_up_is_gone_though_its_process_lives(peer):
    peer.tell("hang_up")
    until(lambda: not peer.pair.alive())
    assert peer.process.poll() is None


def test_a_sleeper_whose_peer_dies_wakes_at_the_end_of_its_step(peer):
    armed = peer.channel.arm()
    peer.tell("crash")
    began = time.monotonic()
    assert not peer.channel.sleep(armed, 0.05)
    assert time.monotonic() - began < 5.0
    until(lambda: not peer.pair.alive())


def test_the_receiver_keeps_no_file_descriptor_of_its_peers_memory(peer):
    peer.tell("holding")
    assert peer.answer() == "1"        # its own region's


def test_connections_to_processes_that_were_killed_leave_nothing_behind():
    for _ in range(3):
        with another_process(ShmFabric()) as peer:
            peer.tell("crash")
            until(lambda peer=peer: not peer.pair.alive())
