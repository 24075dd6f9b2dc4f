"""The control channel: set-up, descriptors, file descriptors and the end of a connection; nothing per request.

docs/handshake.md says in prose what travels here.
"""

from rfp.control.connection import Connection, connect, deadline_in
from rfp.control.listener import Listener
from rfp.control.message import Attach, Attached, Detach, GetStats, Hello, Message, Refused, Stats, Welcome
from rfp.control.schema import Handle

__all__ = [
    "Attach",
    "Attached",
    "Connection",
    "Detach",
    "GetStats",
    "Handle",
    "Hello",
    "Listener",
    "Message",
    "Refused",
    "Stats",
    "Welcome",
    "connect",
    "deadline_in",
]
