"""Files made by an attacker or a faulty program: every command ends with a result, in bounds."""

from __future__ import annotations

import os
import resource
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import crc32c
import pytest
from memory_limit import OVERHEAD, set_limit
from slower import rounds

from .crafted import HEADER

PEAK = 500  # MiB


@pytest.fixture
def memory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=os.environ["TESTS_MEMORY"]) as folder:
        yield Path(folder)


def tried(folder: Path, seed: int, count: int) -> None:
    command = [sys.executable, "-m", "tests.pool.crafted", str(folder), str(seed), str(count)]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([*sys.path, str(Path(__file__).parents[2])]),
    }
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, env=environment)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, (
        f"seed and command: {lines[-1:]}; ended with {done.returncode}\n{done.stderr[-3000:]}"
    )
    assert int(lines[-1].split()[1]) < PEAK * OVERHEAD


def test_no_crafted_pool_ends_a_command_by_a_signal_or_takes_all_memory(
    memory: Path, seed: int
) -> None:
    tried(memory, seed, rounds(15, 4))


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_none_of_hundreds_of_crafted_pools_ends_a_command_by_a_signal_or_takes_all_memory(
    memory: Path, seed: int, run_ends: float
) -> None:
    for number in range(20):
        if time.monotonic() > run_ends:
            break
        tried(memory, seed + 1000 + number, 20)


def bomb(path: Path, group_map: int) -> None:
    """Write a pool whose words of owners are all in a hole of the file, and so are damaged."""

    def up(n: int, to: int) -> int:
        return -(-n // to) * to

    names_at = 16384
    sessions_at = names_at + 4096
    rings_at = up(sessions_at + 256, 65536)
    groups_at = rings_at + 65536
    size = groups_at + group_map + 512
    numbers = (0x6C6F6F704D564E72, 2, 0, 256, 0, 0, 0, b"U" * 16, 0, 1, 1, 512, 1, 1, 4096, 4096,
               names_at, sessions_at, rings_at, groups_at, group_map, 0, 0, *[0] * 12,
               0)  # fmt: skip
    header = HEADER.pack(*numbers)[:252]
    header += struct.pack("<I", crc32c.crc32c(header))
    superblock = struct.pack("<QQQQII16sI", 0x7265707553564E72, 1, size, 1, 1, 0, b"U" * 16, 0)
    superblock += struct.pack("<I", crc32c.crc32c(superblock))
    with open(path, "wb") as file:
        for at, data in ((0, header), (4096, header), (8192, superblock), (12288, superblock)):
            file.seek(at)
            file.write(data)
        file.truncate(size)


@pytest.mark.parametrize(
    "command",
    [["info"], ["ls"], ["dump"], ["check"], ["check", "--json"], ["serve"], ["recover"]],
    ids=" ".join,
)
def test_millions_of_damaged_words_in_a_small_file_are_few_findings(
    memory: Path, command: list[str]
) -> None:
    path = memory / "bomb.pool"
    bomb(path, 64 << 20)
    before = os.stat(path).st_blocks
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "rnvm.cli", command[0], str(path), *command[1:]],
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=lambda: set_limit(resource.RLIMIT_DATA, PEAK << 20),
    )
    assert done.returncode in (0, 1), done.stderr
    assert time.monotonic() - begun < 40
    # Zeros are a valid word at one of 65536 offsets.
    assert len(done.stdout + done.stderr) < 100_000
    expected = {
        "info": "findings",
        "ls": "name",
        "serve": "the pool is damaged",
        "recover": "the pool is damaged",
    }
    assert expected.get(command[0], "words are damaged") in done.stdout + done.stderr
    assert os.stat(path).st_blocks == before  # reading the hole has not filled it
