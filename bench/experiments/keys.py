"""The records of the experiments: keys of 16 bytes, values of 32, drawn as YCSB does."""

from __future__ import annotations

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


def drawn(count: int, records: int) -> list[bytes]:
    """Return the keys of `count` zipfian reads."""
    stream = Stream(Workload(properties(records, readproportion=1, updateproportion=0)))
    return [stream.draw()[1] for _ in range(count)]


def all_keys(records: int) -> list[bytes]:
    """Return the keys of all records."""
    stream = Stream(Workload(properties(records), loading=True))
    return [stream.draw()[1] for _ in range(records)]
