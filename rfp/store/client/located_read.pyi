from typing import Any

from rfp.store.client.direct_read import DirectReads

class LocatedReads(DirectReads):
    def __new__(cls, connection: Any, limit: int) -> LocatedReads: ...
