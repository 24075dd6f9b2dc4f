"""What store, RPC service and back-end have in common towards their users: each is a Host's, and owns what that serves."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any

from rfp.protocol.host import Host

if TYPE_CHECKING:
    from typing_extensions import Self


class Hosted:
    """A service that a Host serves from its making until close()."""

    _host: Host

    def _give_back(self) -> None:
        """Gives back what was made for the host, once that is closed or was never made."""
        raise NotImplementedError

    @property
    def address(self) -> str:
        """Where clients find it."""
        return str(self._host.address)

    def figures(self) -> dict[str, Any]:
        """What is known of workers and clients, as a dict."""
        return self._host.figures()

    @property
    def closed(self) -> bool:
        return self._host.closed

    def close(self) -> None:
        """Ends all connections, after the requests that are under way, and gives back what was served.  Safe to call again.

        Raises CallerError in a handler of its own.
        """
        self._host.close()
        self._give_back()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        kind = type(self)
        return f"<{kind.__module__.partition('.')[0]}.{kind.__name__} at {self.address}{' (closed)' if self.closed else ''}>"
