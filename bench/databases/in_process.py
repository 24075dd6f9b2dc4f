"""Databases that are just a table in this process: they measure the cost of the drivers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench._inproc import Table, TableConnection
from bench.databases import Database, only_private

if TYPE_CHECKING:
    from bench.placement import Placement
    from bench.properties import Properties


class Dict(Database):
    """A Python dict."""

    client = "Python dict"

    def __init__(
        self, properties: Properties, *, private: bool, placement: Placement | None
    ) -> None:
        if not private:
            raise only_private("dict")
        self._table: dict[bytes, bytes] = {}

    def connect(self) -> DictClient:
        return DictClient(self._table)


class DictClient:
    errors: tuple[type[BaseException], ...] = ()

    def __init__(self, table: dict[bytes, bytes]) -> None:
        self.read = table.get
        self.insert = self.update = table.__setitem__
        self.delete = table.pop

    def close(self) -> None:
        pass


class Inproc(Database):
    """An open-addressing hash table, driven by the loop in C."""

    client = "C, in process"
    native = True

    def __init__(
        self, properties: Properties, *, private: bool, placement: Placement | None
    ) -> None:
        if not private:
            raise only_private("inproc")
        self._table = Table()

    def connect(self) -> TableConnection:
        return self._table.connect()
