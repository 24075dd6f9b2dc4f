"""The view tables of a server: one for each client process, shared by its partitions."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from rfp.errors import ServerRefused
from rfp.fabric.fabric import REMOTE_WRITE, Fabric, Region
from rfp.protocol.server.shares import Cost
from rfp.store.server.partition import (
    VIEW_HOLDER_BYTES,
    VIEW_TABLE_NUMBER,
    Partition,
    view_table_bytes,
)


class ViewTables:
    """Makes a table for a process, and hands it to the partitions.

    Args:
        fabric: of the tables.
        partitions: the server's.
    """

    def __init__(self, fabric: Fabric, partitions: Sequence[Partition]) -> None:
        self.number = VIEW_TABLE_NUMBER
        self.fabric = fabric
        self.partitions = partitions
        self.length = view_table_bytes(len(partitions))
        self.cost = Cost(self.length + len(partitions) * VIEW_HOLDER_BYTES)
        self.tables: dict[int, Region] = {}

    def open(self, peer: int) -> Region:
        """Return a new table for a process, by the number of its peer.

        Raises:
            ServerRefused: an earlier attempt, which failed, has not ended yet.
        """
        if not all(partition.views_ended(peer) for partition in self.partitions):
            raise ServerRefused("the view table of an earlier attempt has not ended yet")
        table = self.fabric.register(self.length, REMOTE_WRITE)
        table.write(0, struct.pack("<Q", 1))
        opened = []
        try:
            for index, partition in enumerate(self.partitions):
                partition.open_views(peer, table, index)
                opened.append(partition)
        except BaseException:
            for partition in opened:
                partition.end_views(peer)
            raise
        self.tables[peer] = table
        return table

    def end(self, peer: int) -> None:
        """Begin to end the views of a process that has ended."""
        for partition in self.partitions:
            partition.end_views(peer)

    def ended(self, peer: int) -> bool:
        """Return whether no partition uses the table any more; it is closed then."""
        if not all(partition.views_ended(peer) for partition in self.partitions):
            return False
        self.tables.pop(peer).close()
        return True

    def close(self) -> None:
        """Tell the processes that their views are stale, and close the tables."""
        for table in self.tables.values():
            table.write(0, struct.pack("<Q", 0))
            table.close()
        self.tables.clear()
