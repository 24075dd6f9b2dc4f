"""Where things stand in the regions that a client and a server give each other, and what they agree on (docs/protocol.md).

    a client's reply region     bell | notification line | reply slots of worker 0 | of worker 1 | ...
    the server's bells          bell of worker 0 | of worker 1 | ...
    requests, responses         slots of worker 0 | of worker 1 | ...
"""

from __future__ import annotations

REMOTE_READ = 1  # rights (fabric.pxd)
REMOTE_WRITE = 2
REMOTE_ATOMIC = 4

RESPONSE_CRC = 1  # features (wire.h)
BYPASS = 2

LINE = 64  # bytes
EVENTCOUNT_BYTES = LINE  # what an event channel's sleeping word takes
NOTIFY = EVENTCOUNT_BYTES  # offset of the line that a notification without a reply is written to
REPLIES = EVENTCOUNT_BYTES + LINE  # offset of the reply slots
