import threading
from collections.abc import Callable, Sequence
from typing import Any

class RealThread(threading.Thread):
    begun: bool
    def __init__(
        self, run: Callable[..., Any], name: str, arguments: Sequence[Any] = ()
    ) -> None: ...
