"""Databases of other projects that run in this process and keep their records in files."""

from __future__ import annotations

import shutil
import tempfile
from typing import TYPE_CHECKING

from bench.databases import Database
from rfp.errors import InvalidArgument, RfpError

if TYPE_CHECKING:
    from bench.placement import Placement
    from bench.properties import Properties


class Embedded(Database):
    """Opens its files at NAME.path, or in a temporary directory that is removed at close(); `sync`:
    NAME.sync."""

    scans = True

    def __init__(
        self, properties: Properties, *, private: bool, placement: Placement | None
    ) -> None:
        kind = type(self).__name__.lower()
        self._temporary = ""
        self.sync: bool = properties[f"{kind}.sync"]
        path: str | None = properties[f"{kind}.path"]
        if path is None:
            if not private:
                raise InvalidArgument(
                    "load and run must use the same files",
                    hint=f"set -p {kind}.path=PATH, or use `rfp-ycsb bench {kind}`",
                )
            path = self._temporary = tempfile.mkdtemp(prefix=f"rfp-ycsb-{kind}-")
        try:
            self.open(path, properties)
        except BaseException as error:
            self._remove()
            if isinstance(error, RfpError) or not isinstance(error, self.errors()):
                raise
            raise InvalidArgument(
                f"cannot open {path} as a database of {kind}: {error}",
                hint=f"set -p {kind}.path= to a writable place",
            ) from None

    def open(self, path: str, properties: Properties) -> None:
        """Open or create the database at a path."""
        raise NotImplementedError

    def errors(self) -> tuple[type[BaseException], ...]:
        """The exceptions of failed operations."""
        raise NotImplementedError

    def end(self) -> None:
        """Close the database that open() opened."""

    def close(self) -> None:
        self.end()
        self._remove()

    def _remove(self) -> None:
        if self._temporary:
            shutil.rmtree(self._temporary, ignore_errors=True)
