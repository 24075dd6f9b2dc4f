"""What store, RPC service and back-end have in common towards their users: each is a Host's, and owns what that serves."""

from __future__ import annotations

import _thread
import warnings
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TypeVar

from rfp.errors import not_copied
from rfp.protocol.server.server import Host

if TYPE_CHECKING:
    from typing_extensions import Self


class Closeable(Protocol):
    def close(self) -> object: ...


Thing = TypeVar("Thing", bound=Closeable)


class ServerBase:
    """A service that a Host serves from its making until close()."""

    _host: Host

    def __init__(self) -> None:
        self._owned: list[Closeable] = []

    def _keep(self, thing: Thing) -> Thing:
        """What was made for the host, and is closed after it, the last one first."""
        self._owned.append(thing)
        return thing

    def _give_back(self) -> None:
        _close_all(self._owned)

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

        Raises CallerError in a handler of its own.  In a forked child nothing of it is there to be closed.
        """
        if self._host.foreign:
            return
        self._host.close()
        if self._host.ended:  # else this is a signal handler within close(), and workers may still use what would be given back
            self._give_back()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise not_copied(self, "start another server")

    def __del__(self) -> None:
        host = getattr(self, "_host", None)  # there is none where making it failed
        if host is None or host.closed:
            return
        try:
            warnings.warn(f"{self!r} was not closed", ResourceWarning, source=self, stacklevel=2)
        finally:  # a program may make errors of warnings
            if host.inside:  # the garbage collector runs in any thread, also in those that close() waits for
                _thread.start_new_thread(_close, (host, self._owned))
            else:
                _close(host, self._owned)

    def __repr__(self) -> str:
        kind = type(self)
        return f"<{kind.__module__.partition('.')[0]}.{kind.__name__} at {self.address}{' (closed)' if self.closed else ''}>"


def _close_all(owned: list[Closeable]) -> None:
    for thing in reversed(owned):  # each of them may be closed again, also by two threads at once
        thing.close()


def _close(host: Host, owned: list[Closeable]) -> None:
    host.close()
    _close_all(owned)
