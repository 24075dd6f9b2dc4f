"""A key-value store whose results clients fetch with one-sided READs, and an RPC layer under it.

>>> import rfp
>>> with rfp.Server(memory="16MiB") as server:
...     with rfp.connect(server.address) as kv:
...         version = kv.put(b"greeting", b"hello")
...         kv.get(b"greeting")
b'hello'
"""

import os
from typing import TYPE_CHECKING

from rfp import errors
from rfp.errors import RfpError

if not TYPE_CHECKING and os.path.exists(os.path.join(__path__[0], "meson.build")):
    from rfp.core.source_tree import import_installed

    import_installed(__name__)
else:
    from rfp.connecting import connect
    from rfp.rpc.rpc import RpcClient
    from rfp.rpc.server import RpcServer
    from rfp.server import Server
    from rfp.store.client.client import Client, Item

__all__ = ["Client", "Item", "RfpError", "RpcClient", "RpcServer", "Server", "connect", "errors"]
__version__ = "0.1.0"
