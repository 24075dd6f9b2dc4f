"""Offsets in the regions that a client and a server share (docs/protocol.md).

client's reply region   eventcount | notification line | reply slots of worker 0 | of 1 | ...
server's eventcounts    eventcount of worker 0 | of worker 1 | ...
requests, responses     slots of worker 0 | of worker 1 | ...
"""

from __future__ import annotations

from rfp.core.limits import LINE

KEY_HASH = "xxh3-64"  # the hash of keys (core/hash.h), as the handshake names it

EVENTCOUNT_BYTES = LINE  # size of an event channel's eventcount
NOTIFY = EVENTCOUNT_BYTES  # offset of the line that a notification without a reply writes to
REPLIES = EVENTCOUNT_BYTES + LINE  # offset of the reply slots
