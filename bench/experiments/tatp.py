"""TATP (Telecommunication Application Transaction Processing): a home location register.

Tables: subscribers and their numbers, access information, special facilities, call forwardings.
The weights and the non-uniform choice of subscribers are those of the specification (1.0).  Each
transaction names only the partitions of its subscriber.
"""

from __future__ import annotations

import random
import struct
from typing import Any

from bench.experiments.application import Aborted, Application, command
from rfp.errors import StructureDamaged
from structures import BPlusTree, HashTable

QUESTION = "How many transactions of TATP per second, and is every subscriber whole?"
TATP_MIX: dict[str, float] = {
    "get_subscriber_data": 35,
    "get_new_destination": 10,
    "get_access_data": 35,
    "update_subscriber_data": 2,
    "update_location": 14,
    "insert_call_forwarding": 2,
    "delete_call_forwarding": 2,
}
LOADED_SUBSCRIBERS = 100  # in one batch
# bits, hexadecimal digits and bytes of the row; msc_location, vlr_location; the stamp of the last
# update_subscriber_data, and its facility: the check compares it with the facility's.
SUBSCRIBER = struct.Struct("<10B10B10BIIQB")
BITS, MSC, VLR, STAMP, STAMPED = 0, 30, 31, 32, 33
FACILITY = struct.Struct("<BBB5sQ")  # is_active, error_cntrl, data_a, data_b, stamp
FORWARDING = struct.Struct("<B15s")  # end_time, number
START_TIMES = (0, 8, 16)


class Tables(Application):
    """The tables, and one method for each type of transaction."""

    MIX = TATP_MIX

    def __init__(self, fe: Any, run: Any, *rest: Any) -> None:
        super().__init__(fe, run, *rest)
        parts = run.partitions
        self.numbers = HashTable(fe, "sub_nbr", partitions=parts)
        self.subscribers = HashTable(fe, "subscriber", partitions=parts)
        self.access = HashTable(fe, "access_info", partitions=parts)
        self.facilities = HashTable(fe, "special_facility", partitions=parts)
        self.forwardings = BPlusTree(fe, "call_forwarding", partitions=parts)
        self.structures = (
            self.numbers,
            self.subscribers,
            self.access,
            self.facilities,
            self.forwardings,
        )
        # The constant A of the specification's non-uniform distribution.
        self.spread = 65535 if run.records <= 1_000_000 else 1048575

    def load(self) -> None:
        """Fill the tables."""
        for first in range(0, self.run.records, LOADED_SUBSCRIBERS):
            rows: list[list[tuple[bytes, bytes]]] = [[], [], [], [], []]
            for number in range(first, min(first + LOADED_SUBSCRIBERS, self.run.records)):
                for all_rows, some in zip(rows, rows_of(self.rng, number)):
                    all_rows += some
            with self.fe.batch():
                for table, some in zip(self.structures, rows):
                    table.update(some)

    def verify(self, changes: set[int]) -> str:
        """Return what was checked.

        Raises:
            StructureDamaged: a subscriber is not whole.
        """
        rng = random.Random(self.run.seed)
        first: list[set[bytes]] = [set(), set(), set(), set(), set()]
        for number in range(self.run.records):
            for keys, some in zip(first, rows_of(rng, number)):
                keys.update(key for key, _ in some)
        rows = dict(self.subscribers.items())
        if set(rows) != {key_of(number) for number in range(self.run.records)}:
            raise StructureDamaged("subscriber: rows are missing")
        if dict(self.numbers.items()) != {
            number_of(number): key_of(number) for number in range(self.run.records)
        }:
            raise StructureDamaged("sub_nbr: wrong rows")
        facilities = dict(self.facilities.items())
        for key, raw in rows.items():
            row = SUBSCRIBER.unpack(raw)
            if row[STAMP]:
                facility = facilities.get(key + bytes([row[STAMPED]]))
                if facility is None or FACILITY.unpack(facility)[4] != row[STAMP]:
                    raise StructureDamaged(f"subscriber {key!r}: one of two updates is missing")
        if set(self.access) != first[2] or set(facilities) != first[3]:
            raise StructureDamaged("access_info or special_facility: wrong rows")
        forwardings = dict(self.forwardings.items())
        for key, raw in forwardings.items():
            if key[:-1] not in facilities:
                raise StructureDamaged(f"call forwarding {key!r} has no facility")
            if not FORWARDING.unpack(raw)[0] > key[-1]:
                raise StructureDamaged(f"call forwarding {key!r} ends before it begins")
        change = len(forwardings) - len(first[4])
        if change not in changes:
            raise StructureDamaged(
                f"there are {change} call forwardings more than at the beginning, which is none of "
                f"the {len(changes)} numbers that the acknowledged transactions allow"
            )
        return (
            f"every subscriber whole: {len(rows)} subscribers, {len(facilities)} facilities, "
            f"{len(forwardings)} call forwardings"
        )

    # Helpers

    def subscriber(self) -> int:
        """Return a drawn subscriber: non-uniform as in the specification, or zipfian."""
        if self.run.skew:
            return self.drawn.draw()
        rng, n = self.rng, self.run.records
        return (rng.randint(0, self.spread) | rng.randint(1, n)) % n

    # Transactions

    def get_subscriber_data(self) -> tuple[int, ...]:
        """Read a subscriber's row."""
        found: tuple[int, ...] = SUBSCRIBER.unpack(self.subscribers[key_of(self.subscriber())])
        return found

    def get_access_data(self) -> bytes:
        """Read access information, which exists in 62.5 % of the cases."""
        found: bytes | None = self.access.get(key_of(self.subscriber(), self.rng.randint(1, 4)))
        if found is None:
            raise Aborted
        return found

    def get_new_destination(self) -> list[bytes]:
        """Read an active facility and the forwardings of a time, both at one moment."""
        number, kind = self.subscriber(), self.rng.randint(1, 4)
        start, end = self.rng.choice(START_TIMES), self.rng.randint(1, 24)
        key = key_of(number, kind)

        def read(*_: Any) -> list[bytes]:
            facility = self.facilities.get(key)
            if facility is None or not FACILITY.unpack(facility)[0]:
                return []
            # The keys of a facility's forwardings may be in several partitions: no range.
            found = []
            for each in START_TIMES:
                raw = self.forwardings.get(key + bytes([each])) if each <= start else None
                if raw is not None and FORWARDING.unpack(raw)[0] > end:
                    found.append(FORWARDING.unpack(raw)[1])
            return found

        named = [self.forwardings.partition(key + bytes([each])) for each in START_TIMES]
        found: list[bytes] = self.fe.read(read, self.facilities.partition(key), *named)
        if not found:
            raise Aborted
        return found

    def update_subscriber_data(self) -> None:
        """Change a subscriber and one of the facilities, if there is one: both or none."""
        number, kind = self.subscriber(), self.rng.randint(1, 4)
        bit, data, stamp = self.rng.randrange(2), self.rng.randrange(256), self.rng.getrandbits(63)
        key, facility = key_of(number), key_of(number, kind)
        names = (self.subscribers.partition(key), self.facilities.partition(facility))
        with self.transaction(*names):
            row = list(SUBSCRIBER.unpack(self.subscribers[key]))
            row[BITS], row[STAMP], row[STAMPED] = bit, stamp | 1, kind
            self.subscribers[key] = SUBSCRIBER.pack(*row)
            there = self.facilities.get(facility)
            if there is None:
                raise Aborted  # discards the change of the subscriber
            active, control, _, data_b, _ = FACILITY.unpack(there)
            self.facilities[facility] = FACILITY.pack(active, control, data, data_b, stamp | 1)

    def update_location(self) -> None:
        """Change the location of the subscriber with a number."""
        key = self.numbers[number_of(self.subscriber())]
        with self.transaction(self.subscribers.partition(key)):
            row = list(SUBSCRIBER.unpack(self.subscribers[key]))
            row[VLR] = self.rng.getrandbits(32)
            self.subscribers[key] = SUBSCRIBER.pack(*row)

    def insert_call_forwarding(self) -> None:
        """Insert a forwarding, if the facility exists and the forwarding does not."""
        key = self.numbers[number_of(self.subscriber())]
        facility = key + bytes([self.rng.randint(1, 4)])
        start = self.rng.choice(START_TIMES)
        row = facility + bytes([start])
        names = (self.facilities.partition(facility), self.forwardings.partition(row))
        with self.transaction(*names, change=[1]):
            if facility not in self.facilities or row in self.forwardings:
                raise Aborted
            self.forwardings[row] = forwarding(self.rng, start)

    def delete_call_forwarding(self) -> None:
        """Delete a forwarding, if it exists."""
        key = self.numbers[number_of(self.subscriber())]
        row = key + bytes([self.rng.randint(1, 4), self.rng.choice(START_TIMES)])
        with self.transaction(self.forwardings.partition(row), change=[-1]):
            if self.forwardings.pop(row, None) is None:
                raise Aborted


def rows_of(rng: random.Random, number: int) -> list[list[tuple[bytes, bytes]]]:
    """Return the rows of a new subscriber for each table; equal draws give equal rows."""
    key = key_of(number)
    row = [rng.randrange(2) for _ in range(10)] + [rng.randrange(16) for _ in range(10)]
    row += [rng.randrange(256) for _ in range(10)]
    row += [rng.getrandbits(32), rng.getrandbits(32), 0, 0]
    access = [
        (key_of(number, kind), rng.randbytes(10))  # data1 to data4
        for kind in rng.sample(range(1, 5), rng.randint(1, 4))
    ]
    facilities, forwardings = [], []
    for kind in rng.sample(range(1, 5), rng.randint(1, 4)):
        active = rng.random() < 0.85
        facility = (active, rng.randrange(256), rng.randrange(256), rng.randbytes(5), 0)
        facilities.append((key_of(number, kind), FACILITY.pack(*facility)))
        for start in rng.sample(START_TIMES, rng.randint(0, 3)):
            forwardings.append((key_of(number, kind, start), forwarding(rng, start)))
    return [[(number_of(number), key)], [(key, SUBSCRIBER.pack(*row))], access, facilities,
            forwardings]  # fmt: skip


def key_of(number: int, *rest: int) -> bytes:
    """Return the key of a subscriber's row, or of one of its access information, ..."""
    return struct.pack(">I", number) + bytes(rest)


def number_of(number: int) -> bytes:
    """Return a subscriber's number, 15 digits."""
    return b"%015d" % number


def forwarding(rng: Any, start: int) -> bytes:
    """Return a row of a call forwarding."""
    return FORWARDING.pack(start + rng.randint(1, 8), b"%015d" % rng.randrange(10**15))


main = command("tatp", 10_000, "subscribers", TATP_MIX)
