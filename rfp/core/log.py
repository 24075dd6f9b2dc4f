"""What a server reports to its operator: the loggers "rfp" and "rnvm".

They have no handler of their own, so a program that configures none still gets warnings and errors
on stderr (logging.lastResort), as it got tracebacks before there was a log.  The data path logs
nothing: the control thread does, and Python code that opens or repairs a pool.

A peer causes most messages, so each kind (a format string is a kind) is limited by itself.
`logging` is imported with the first message: `import rfp` in a client must not pay for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from rfp.core import clock

if TYPE_CHECKING:
    import logging

BURST = 20  # messages of one kind at once
INTERVAL_S = 1.0  # until one more is let through
SHOWN_MAX = 2048  # characters of an argument
DEBUG, INFO, WARNING, ERROR = 10, 20, 30, 40  # those of logging


class Limit:
    """A token bucket for messages of one kind."""

    def __init__(self, now: float) -> None:
        self.tokens = float(BURST)
        self.then = now
        self.suppressed = 0

    def admit(self, now: float) -> bool:
        """Return whether a message may be logged now; one that may not is counted."""
        # Without a lock, which a fork could copy while it is held: a race costs one message.
        self.tokens = min(float(BURST), self.tokens + (now - self.then) / INTERVAL_S)
        self.then = now
        if self.tokens < 1.0:
            self.suppressed += 1
            return False
        self.tokens -= 1.0
        return True


class Log:
    """A logger that no peer can flood, and whose handlers cannot end the thread that logs.

    Arguments become text at once: a handler that keeps records must not keep connections and
    regions alive.
    """

    def __init__(self, name: str, now: Callable[[], float] = clock.now) -> None:
        self.name = name
        self._now = now
        self._logger: logging.Logger | None = None
        self._limits: dict[str, Limit] = {}

    def debug(self, message: str, *arguments: object) -> None:
        self._log(DEBUG, message, arguments)

    def info(self, message: str, *arguments: object) -> None:
        self._log(INFO, message, arguments)

    def warning(self, message: str, *arguments: object) -> None:
        self._log(WARNING, message, arguments)

    def error(self, message: str, *arguments: object) -> None:
        self._log(ERROR, message, arguments)

    def exception(self, message: str, *arguments: object) -> None:
        """Log an error with the traceback of the exception that is being handled."""
        self._log(ERROR, message, arguments, traceback=True)

    def _log(
        self, level: int, message: str, arguments: tuple[object, ...], traceback: bool = False
    ) -> None:
        try:
            logger = self._logger
            if logger is None:
                import logging

                logger = self._logger = logging.getLogger(self.name)
            if not logger.isEnabledFor(level):
                return
            limit = self._limits.get(message)
            if limit is None:
                limit = self._limits[message] = Limit(self._now())
            if not limit.admit(self._now()):
                return
            if limit.suppressed:
                message += f" ({limit.suppressed} like this were suppressed)"
                limit.suppressed = 0
            plain = tuple(
                each if isinstance(each, int | float) else shown(str(each)) for each in arguments
            )
            if traceback:
                # As text, too; indented and printable: an exception may quote what a peer sent.
                from traceback import format_exc

                message += "\n%s"
                plain += ("\n".join("  " + shown(line) for line in format_exc().splitlines()),)
            logger.log(level, message, *plain, stacklevel=3)
        except Exception:  # noqa: BLE001, S110 - whatever a program's handler or filter raises
            pass


def shown(text: str) -> str:
    """Return the text as one printable line, of a reasonable length.

    >>> shown("a name\\nWARNING forged \\x1b[31m")
    'a name\\\\nWARNING forged \\\\x1b[31m'
    """
    line = "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode()
        for c in text[:SHOWN_MAX]
    )
    return line if len(text) <= SHOWN_MAX else line + "..."


log = Log("rfp")
