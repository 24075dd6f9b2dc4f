"""What store, RPC service and back-end have in common towards their users: each is a Host's, and owns what that serves."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from rfp.protocol.host import Host

if TYPE_CHECKING:
    from typing_extensions import Self


class Closeable(Protocol):
    def close(self) -> object: ...


Thing = TypeVar("Thing", bound=Closeable)


class Hosted:
    """A service that a Host serves from its making until close()."""

    _host: Host

    def __init__(self) -> None:
        self._owned: list[Closeable] = []

    def _keep(self, thing: Thing) -> Thing:
        """What was made for the host, and is closed after it, the last one first."""
        self._owned.append(thing)
        return thing

    def _give_back(self) -> None:
        for thing in reversed(self._owned):  # each of them may be closed again, also by two threads at once
            thing.close()

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
