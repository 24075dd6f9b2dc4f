"""`rfp stats` and `rfp top` print the server's counters and rates."""

import json
import os
import pty
import re
import select
import signal
import time

import pytest
import python_programs
from click.testing import CliRunner

import rfp
from rfp.cli import main
from rfp.cli.top import Rates, Sample, render
from rfp.store.counters import COUNTERS


@pytest.fixture
def server():
    with (
        rfp.Server(memory="16MiB", workers=2) as server,
        rfp.connect(server.address, mode="fetch") as kv,
    ):
        kv.put_many({b"%d" % i: b"x" * 100 for i in range(100)})
        for i in range(150):
            kv.get(b"%d" % i)
        yield server


def command(server, *arguments):
    result = CliRunner().invoke(main, [*arguments, "--address", server.address])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_stats_count_the_calls(server):
    text = command(server, "stats")
    assert re.search(r"^gets +150$", text, re.M)
    assert re.search(r"^puts +100$", text, re.M)
    assert re.search(r"^hit rate +66\.7 %$", text, re.M)
    assert re.search(r"^records +100$", text, re.M)
    assert re.search(r"^mean value +100 B$", text, re.M)
    assert f"{server.address}  (process {os.getpid()}, up 0:00:0" in text
    assert "16MiB, eviction clock, 2 workers, 2 clients" in text


def test_stats_with_json_are_one_json_object(server):
    figures = json.loads(command(server, "stats", "--json"))
    assert (figures["gets"], figures["hits"], figures["records"]) == (150, 100, 100)
    assert len(figures["partitions"]) == len(figures["server"]["workers"]) == 2
    assert {client["pid"] for client in figures["server"]["clients"]} == {os.getpid()}


def test_top_without_a_terminal_prints_one_table(server):
    text = command(server, "top", "--interval", "50ms")
    assert "\x1b" not in text
    assert text.count("hit rate") == 1
    assert "100 records" in text
    assert re.search(r"^0 +\d+\.\d % ", text, re.M)
    assert re.search(r"^1 +\d+\.\d % ", text, re.M)


def test_top_on_a_terminal_redraws_until_ctrl_c(server):
    master, terminal = pty.openpty()
    arguments = ("-m", "rfp.cli", "top", "--interval", "50ms", "--address", server.address)
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), terminal)
    with python_programs.start(*arguments, **streams) as process:
        os.close(terminal)
        try:
            seen = read_until(master, lambda text: text.count(b"hit rate") >= 3)
            process.send_signal(signal.SIGINT)
            seen += read_until(master, lambda text: b"\x1b[?1049l" in text)
            assert process.wait(10) == 0
        finally:
            process.kill()
            os.close(master)
    assert seen.startswith(b"\x1b[?1049h\x1b[?25l")  # to the alternate screen, without a cursor
    assert seen.endswith(b"\x1b[?25h\x1b[?1049l")  # back to the normal screen
    assert b"Traceback" not in seen


def read_until(fd, enough):
    data, deadline = b"", time.monotonic() + 15
    while not enough(data):
        assert select.select([fd], [], [], max(0.0, deadline - time.monotonic()))[0], data
        data += os.read(fd, 65536)
    return data


# The table of `rfp top`, from given figures


def sample(at, pid=1, busy=0.0, served=0, clients=(), **counters):
    partition = {**dict.fromkeys(COUNTERS, 0), "bytes_total": 1 << 20, **counters}
    worker = {"turns": 0, "served": served, "busy": busy, "sleeps": 0, "wakes": 0, "rings": 0}
    server = {
        "address": "shm:///x",
        "pid": pid,
        "uptime": 10.0,
        "memory": 1 << 20,
        "eviction": "clock",
        "workers": [worker],
        "clients": list(clients),
    }
    return Sample(at, {**partition, "partitions": [partition], "client": {}, "server": server})


def test_rates_are_differences_over_time():
    picture = "\n".join(
        render(
            sample(10.0, gets=1000, hits=1000, puts=10, busy=1.0, served=1000),
            sample(
                12.0,
                gets=3000,
                hits=1500,
                misses=1500,
                puts=30,
                evictions=8,
                bytes_used=1 << 19,
                busy=1.5,
                served=3000,
            ),
        )
    )
    assert re.search(r"^ +1\.00k +10 +0 +0 +0 +1\.01k +25\.0 % +0 +4 +0$", picture, re.M)
    assert re.search(r"^0 +25\.0 % +1\.00k", picture, re.M)
    assert "[###############---------------] 50.0 % of 1.0 MiB" in picture


def test_after_a_restart_rates_start_from_zero():
    rate = Rates(
        sample(10.0, pid=1, gets=10**9, busy=100.0), sample(11.0, pid=2, gets=50, busy=1.0)
    )
    assert rate("gets") == 5  # 50 in the 10 s since the server started
    assert rate.workers()[0][1] == "10.0 %"


def test_each_client_has_a_line():
    client = {"pid": 4711, "name": "job", "threads": 3, "since": time.time() - 61}
    assert re.search(
        r"^job +4711 +3 +0:01:01$", "\n".join(render(sample(0), sample(1, clients=[client]))), re.M
    )


def test_a_table_without_any_calls_is_rendered():
    assert "-" in "\n".join(render(sample(0), sample(0)))
