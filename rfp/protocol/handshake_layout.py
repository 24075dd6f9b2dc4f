"""Offsets in the regions that a client and a server share, and the bits that they agree on
(docs/protocol.md).

    client's reply region   eventcount | notification line | reply slots of worker 0 | of 1 | ...
    server's eventcounts    eventcount of worker 0 | of worker 1 | ...
    requests, responses     slots of worker 0 | of worker 1 | ...
"""

from __future__ import annotations

REMOTE_READ = 1  # rights (fabric.pxd)
REMOTE_WRITE = 2
REMOTE_ATOMIC = 4

RESPONSE_CRC = 1  # features (wire.h)
DIRECT_READS = 2

LINE = 64  # bytes
EVENTCOUNT_BYTES = LINE  # size of an event channel's eventcount
NOTIFY = EVENTCOUNT_BYTES  # offset of the line that a notification without a reply writes to
REPLIES = EVENTCOUNT_BYTES + LINE  # offset of the reply slots
