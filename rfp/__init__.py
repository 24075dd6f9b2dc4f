"""A key-value store whose results clients fetch with one-sided READs, and an RPC layer under it.

>>> import rfp
>>> with rfp.Server(memory="16MiB") as server:
...     with rfp.connect(server.address) as kv:
...         version = kv.put(b"greeting", b"hello")
...         kv.get(b"greeting")
b'hello'
"""

from rfp import errors

try:
    from rfp.store.client.client import Client, Item
except ModuleNotFoundError as missing:
    if missing.name != "rfp.store.client.client":
        raise
    # The folder of a checkout shadows the installed package: its extensions were compiled elsewhere.
    raise ImportError(
        f"{__path__[0]} contains the sources of rfp, which are not compiled there: start Python in another folder, or with -P"
        " (Python 3.11 and newer) or -I, so that it finds the installed package"
    ) from None
from rfp.connecting import connect
from rfp.errors import RfpError
from rfp.rpc.rpc import RpcClient
from rfp.rpc.server import RpcServer
from rfp.server import Server

__all__ = ["Client", "Item", "RfpError", "RpcClient", "RpcServer", "Server", "connect", "errors"]
__version__ = "0.1.0"
