"""Remote procedure calls over the protocol."""

from rfp.rpc.rpc import RpcClient
from rfp.rpc.server import RpcServer

__all__ = ["RpcClient", "RpcServer"]
