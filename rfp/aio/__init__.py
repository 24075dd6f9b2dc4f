"""Clients for asyncio: the calls of rfp's clients as coroutines, on one event loop.

>>> import asyncio, rfp, rfp.aio
>>> async def main(address):
...     async with rfp.aio.connect(address) as kv:
...         await kv.put(b"k", b"v")
...         return await asyncio.gather(kv.get(b"k"), kv.get(b"nobody"))
>>> with rfp.Server(memory="16MiB") as server:
...     asyncio.run(main(server.address))
[b'v', None]
"""

from typing import TYPE_CHECKING

from rfp.core.lazy_names import lazy_names

if TYPE_CHECKING:
    from rfp.aio.client import Client, connect
    from rfp.aio.rpc import RpcClient
else:
    __getattr__ = lazy_names(
        __name__,
        {
            "Client": "rfp.aio.client",
            "RpcClient": "rfp.aio.rpc",
            "connect": "rfp.aio.client",
        },
    )

__all__ = ["Client", "RpcClient", "connect"]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
