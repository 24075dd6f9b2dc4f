from typing import Any

from rfp.aio.rings import Call
from rfp.rpc.rpc import RpcClient

class MessageCall(Call): ...

def message_call(client: RpcClient, message: Any, timeout: float | None) -> MessageCall: ...
