"""A key-value store with results fetched by one-sided READs, and the RPC layer beneath it.

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
from rfp.core.lazy_names import lazy_names
from rfp.errors import RfpError

if TYPE_CHECKING:
    from rfp.connecting import connect
    from rfp.rpc.rpc import RpcClient
    from rfp.rpc.server import RpcServer
    from rfp.server import Server
    from rfp.store.client.client import Client, Item
    from rfp.store.client.views import View
elif os.path.exists(os.path.join(__path__[0], "meson.build")):
    from rfp.core.source_tree import import_installed

    import_installed(__name__)
else:
    __getattr__ = lazy_names(
        __name__,
        {
            "Client": "rfp.store.client.client",
            "Item": "rfp.store.client.client",
            "RpcClient": "rfp.rpc.rpc",
            "RpcServer": "rfp.rpc.server",
            "Server": "rfp.server",
            "View": "rfp.store.client.views",
            "connect": "rfp.connecting",
        },
    )

__all__ = [
    "Client",
    "Item",
    "RfpError",
    "RpcClient",
    "RpcServer",
    "Server",
    "View",
    "connect",
    "errors",
]
__version__ = "0.1.0"


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
