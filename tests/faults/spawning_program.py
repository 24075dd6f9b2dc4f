"""A program whose worker processes use a store: `python spawning_program.py METHOD ADDRESS`."""

from __future__ import annotations

import multiprocessing
import sys

import rfp


def count(address: str, number: int) -> int:
    with rfp.connect(address, timeout=30) as kv:
        for _ in range(20):
            kv.incr(b"n")
        return number


def main(method: str, address: str) -> None:
    context = multiprocessing.get_context(method)
    with rfp.connect(address) as kv:
        kv.incr(b"n", 0)
        with context.Pool(2) as pool:
            assert pool.starmap(count, [(address, number) for number in range(4)]) == list(range(4))
            pool.close()
            pool.join()
        print(kv.get(b"n"))


if __name__ == "__main__":
    main(*sys.argv[1:])
