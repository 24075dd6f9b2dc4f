"""One process puts an array, others use it in place: its memory is used once.

    python docs/howto/shared_array.py [MEGABYTES [PROCESSES]]

The array is stored as eight values, since one value has at most 256 MiB.  Each process sums up the
whole array, through views, and shows how much memory it uses alone and shares with the others.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import rfp
from rfp.codec import numpy as codec

PARTS = 8
SECONDS = 120  # time-out of each wait


def memory() -> tuple[int, int]:
    """Return the MiB that only this process uses, and those that it shares with others."""
    alone = shared = 0
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        name, _, size = line.partition(":")
        if name.startswith("Private_"):
            alone += int(size.split()[0])
        elif name.startswith("Shared_"):
            shared += int(size.split()[0])
    return alone >> 10, shared >> 10


def use(address: str, number: int, ready: Any, results: Any) -> None:
    """Sum the array up, and keep it until all processes have measured their memory."""
    with rfp.connect(address) as kv:
        views = kv.view_many(b"array %d" % i for i in range(PARTS))
        parts = [codec.unpack(view) for view in views]
        begun = time.perf_counter()
        total = sum(float(part.sum(dtype=np.float64)) for part in parts)
        seconds = time.perf_counter() - begun
        ready.wait(SECONDS)
        results.put((number, total, seconds, *memory()))
        ready.wait(SECONDS)


def main(megabytes: int = 1024, processes: int = 8) -> None:
    array = np.ones((PARTS, megabytes * (1 << 20) // PARTS // 4), dtype=np.float32)
    # `quota` bytes for the views of one process, a quarter of the memory for those of all.
    need = array.nbytes + (1 << 20)
    with (
        rfp.Server(memory=4 * need + (4 << 20), quota=need) as server,
        rfp.connect(server.address, timeout=SECONDS) as kv,
    ):
        for i, part in enumerate(array):
            with kv.reserve(b"array %d" % i, codec.packed_size(part)) as buffer:
                codec.pack_into(part, buffer)
        print(f"the store uses {kv.stats()['bytes_used'] >> 20} MiB", flush=True)
        context = multiprocessing.get_context("spawn")
        ready, results = context.Barrier(processes + 1), context.Queue()
        users = [
            context.Process(target=use, args=(server.address, i, ready, results))
            for i in range(processes)
        ]
        for user in users:
            user.start()
        ready.wait(SECONDS)
        for _ in users:
            number, total, seconds, alone, shared = results.get(timeout=SECONDS)
            assert total == array.size
            print(
                f"process {number}: summed up in {seconds:.2f} s, "
                f"uses {alone} MiB alone, shares {shared} MiB"
            )
        stats = kv.stats()
        print(
            f"the store uses {stats['bytes_used'] >> 20} MiB, of which the views keep "
            f"{stats['view_bytes'] >> 20} MiB"
        )
        ready.wait(SECONDS)
        for user in users:
            user.join()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
