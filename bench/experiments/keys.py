"""The records of the experiments: keys of 16 bytes, values of 32, drawn as YCSB does."""

from __future__ import annotations

import random

from bench._workload import Stream, Workload
from bench.properties import Properties

SHAPE = {"insertorder": "ordered", "zeropadding": "12", "fieldcount": "1", "fieldlength": "32"}


def properties(records: int, **given: object) -> Properties:
    """Return a workload on this many records of 16 + 32 bytes, zipfian, 95 % reads; a dot in a name
    is written `__`."""
    mix = {
        "recordcount": records,
        "operationcount": 0,
        "readproportion": 0.95,
        "updateproportion": 0.05,
    }
    names = {"requestdistribution": "zipfian", **SHAPE, **mix, **given}
    return Properties({name.replace("__", "."): str(value) for name, value in names.items()})


def drawn(count: int, records: int, requests: str = "zipfian") -> list[bytes]:
    """Return the keys of `count` reads; requests: their distribution."""
    reads = properties(records, readproportion=1, updateproportion=0, requestdistribution=requests)
    stream = Stream(Workload(reads))
    return [stream.draw()[1] for _ in range(count)]


def all_keys(records: int) -> list[bytes]:
    """Return the keys of all records."""
    stream = Stream(Workload(properties(records), loading=True))
    return [stream.draw()[1] for _ in range(records)]


def in_random_order(keys: list[bytes]) -> list[bytes]:
    """Return copies of the keys, shuffled: each next to the one before in memory, so that the loop
    over them costs no cache misses."""
    shuffled = random.Random(1).sample(keys, len(keys))
    return [bytes(bytearray(key)) for key in shuffled]
