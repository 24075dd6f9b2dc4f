"""The words that arguments and options choose from."""

from __future__ import annotations

MODES = ("auto", "fetch", "reply", "bypass")
RPC_MODES = ("auto", "fetch", "reply")
IDLES = ("adaptive", "spin")
EVICTIONS = ("clock", "bucket", "none")
