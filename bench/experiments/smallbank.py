"""SmallBank (Alomari et al., ICDE 2008): the accounts of a bank, with the weights of H-Store.

Tables: the names of customers, their savings, their checking accounts; amounts in cents.  Each
transaction names only the partitions of its customers.
"""

from __future__ import annotations

import struct
from typing import Any

from bench.experiments.application import Aborted, Application, command
from rfp.errors import StructureDamaged
from structures import HashTable

QUESTION = "How many transactions of SmallBank per second, and is the money conserved?"
SMALLBANK_MIX: dict[str, float] = {
    "amalgamate": 15,
    "balance": 15,
    "deposit_checking": 15,
    "send_payment": 25,
    "transact_savings": 15,
    "write_check": 15,
}
FIRST_CENTS = 10_000_00  # cents in each account
LOADED_ACCOUNTS = 500  # in one batch
AMOUNT = struct.Struct("<q")


class Tables(Application):
    """The tables, and one method for each type of transaction."""

    MIX = SMALLBANK_MIX

    def __init__(self, fe: Any, run: Any, *rest: Any) -> None:
        super().__init__(fe, run, *rest)
        self.customers = HashTable(fe, "customers", partitions=run.partitions)
        self.savings = HashTable(fe, "savings", partitions=run.partitions)
        self.checking = HashTable(fe, "checking", partitions=run.partitions)
        self.structures = (self.customers, self.savings, self.checking)

    def load(self) -> None:
        """Fill the tables."""
        amount = AMOUNT.pack(FIRST_CENTS)
        for first in range(0, self.run.records, LOADED_ACCOUNTS):
            with self.fe.batch():
                for table in self.structures:
                    for number in range(first, min(first + LOADED_ACCOUNTS, self.run.records)):
                        key = number_of(number)
                        if table is self.customers:
                            table[name_of(number)] = key
                        else:
                            table[key] = amount

    def verify(self, changes: set[int]) -> str:
        """Return what was checked.

        Raises:
            StructureDamaged: money was lost or made, or a row is missing.
        """
        wanted = {number_of(number) for number in range(self.run.records)}
        total = 0
        for table in (self.savings, self.checking):
            rows = dict(table.items())
            if set(rows) != wanted:
                raise StructureDamaged(f"{table.name}: {len(set(rows) ^ wanted)} wrong rows")
            total += sum(AMOUNT.unpack(amount)[0] for amount in rows.values())
        if set(self.customers.values()) != wanted:
            raise StructureDamaged("customers: wrong rows")
        change = total - 2 * FIRST_CENTS * self.run.records
        if change not in changes:
            raise StructureDamaged(
                f"the accounts have changed by {change}, which is none of the {len(changes)} sums "
                f"that the acknowledged transactions allow, such as {min(changes)}"
            )
        return f"money conserved: {total} cents in {2 * self.run.records} accounts"

    # Helpers

    def customer(self) -> bytes:
        """Return the number of a drawn customer, found by the name."""
        found: bytes | None = self.customers.get(name_of(self.drawn.draw()))
        if found is None:
            raise Aborted
        return found

    def two(self) -> tuple[bytes, bytes]:
        """Return two different customers."""
        one = two = self.customer()
        while two == one:
            two = self.customer()
        return one, two

    def amount(self, table: HashTable, key: bytes) -> int:
        """Return the amount in an account."""
        value: int = AMOUNT.unpack(table[key])[0]
        return value

    # Transactions

    def balance(self) -> int:
        """Return a customer's money: both accounts at one moment."""
        key = self.customer()
        savings, checking = self.savings.partition(key), self.checking.partition(key)
        found: int = self.fe.read(
            lambda *_: self.amount(self.savings, key) + self.amount(self.checking, key),
            savings,
            checking,
        )
        return found

    def deposit_checking(self) -> None:
        """Deposit into a checking account."""
        key, amount = self.customer(), 130
        with self.transaction(self.checking.partition(key), change=[amount]):
            self.checking[key] = AMOUNT.pack(self.amount(self.checking, key) + amount)

    def transact_savings(self) -> None:
        """Deposit into savings, or withdraw, if there is enough."""
        key, amount = self.customer(), self.rng.choice((2020, -2020))
        with self.transaction(self.savings.partition(key), change=[amount]):
            after = self.amount(self.savings, key) + amount
            if after < 0:
                raise Aborted
            self.savings[key] = AMOUNT.pack(after)

    def write_check(self) -> None:
        """Withdraw from checking, with a penalty if the customer has less."""
        key, amount = self.customer(), 500
        change: list[int] = []
        savings, checking = self.savings.partition(key), self.checking.partition(key)
        with self.transaction(savings, checking, change=change):
            there = self.amount(self.checking, key)
            if self.amount(self.savings, key) + there < amount:
                amount += 100
            self.checking[key] = AMOUNT.pack(there - amount)
            change.append(-amount)

    def send_payment(self) -> None:
        """Move money between two checking accounts."""
        payer, payee = self.two()
        amount = 500
        names = (self.checking.partition(payer), self.checking.partition(payee))
        with self.transaction(*names):
            there = self.amount(self.checking, payer)
            if there < amount:
                raise Aborted
            self.checking[payer] = AMOUNT.pack(there - amount)
            self.checking[payee] = AMOUNT.pack(self.amount(self.checking, payee) + amount)

    def amalgamate(self) -> None:
        """Move all money of one customer to the checking account of another."""
        giver, taker = self.two()
        names = (
            self.savings.partition(giver),
            self.checking.partition(giver),
            self.checking.partition(taker),
        )
        with self.transaction(*names):
            both = self.amount(self.savings, giver) + self.amount(self.checking, giver)
            self.savings[giver] = self.checking[giver] = AMOUNT.pack(0)
            self.checking[taker] = AMOUNT.pack(self.amount(self.checking, taker) + both)


def number_of(number: int) -> bytes:
    """Return a customer's number as a key."""
    return b"%08d" % number


def name_of(number: int) -> bytes:
    """Return a customer's name, of 64 bytes as in H-Store."""
    return b"%064d" % number


main = command("smallbank", 10_000, "accounts", SMALLBANK_MIX)
