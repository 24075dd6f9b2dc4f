"""The common base of store, RPC service and back-end: each has a Host and owns the objects that the
host serves."""

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
    """A service that a Host serves from construction until close()."""

    _host: Host

    def __init__(self) -> None:
        self._owned: list[Closeable] = []

    def _keep(self, thing: Thing) -> Thing:
        """Return `thing`, and close it after the host.  The last object kept is closed first."""
        self._owned.append(thing)
        return thing

    def _give_back(self) -> None:
        _close_all(self._owned)

    @property
    def address(self) -> str:
        """Address that clients connect to."""
        return str(self._host.address)

    def figures(self) -> dict[str, Any]:
        """Return the figures of workers and clients, as a dict."""
        return self._host.figures()

    @property
    def closed(self) -> bool:
        return self._host.closed

    def close(self) -> None:
        """End all connections after the requests in progress, and release the served objects.  Safe
        to call again.

        In a forked child this does nothing: the child has no part of the server.

        Raises:
            CallerError: a handler of this server called it.
        """
        if self._host.foreign:
            return
        self._host.close()
        # else a signal handler interrupted close(), and workers may still use these objects
        if self._host.ended:
            self._give_back()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise not_copied(self, "start another server")

    def __del__(self) -> None:
        host = getattr(self, "_host", None)  # absent if the constructor failed
        if host is None or host.closed:
            return
        try:
            warnings.warn(f"{self!r} was not closed", ResourceWarning, source=self, stacklevel=2)
        finally:  # a program may turn warnings into errors
            # the garbage collector runs in any thread, also in those that close() waits for
            if host.inside:
                _thread.start_new_thread(_close, (host, self._owned))
            else:
                _close(host, self._owned)

    def __repr__(self) -> str:
        kind = type(self)
        return (
            f"<{kind.__module__.partition('.')[0]}.{kind.__name__} at "
            f"{self.address}{' (closed)' if self.closed else ''}>"
        )


def _close_all(owned: list[Closeable]) -> None:
    for thing in reversed(owned):  # each of them may be closed twice, also by two threads at once
        thing.close()


def _close(host: Host, owned: list[Closeable]) -> None:
    host.close()
    _close_all(owned)
