"""The log of `rfp serve` and `rnvm serve`: lines with a time on stderr."""

from __future__ import annotations

import logging
import os
import select
import sys
from collections.abc import Callable
from typing import Any

import click

LEVELS = ("debug", "info", "warning", "error")
PIPE_BYTES = 4096  # PIPE_BUF: a pipe that poll() calls writable takes so many without blocking


class StderrHandler(logging.Handler):
    """Writes lines to stderr and never waits for its reader.

    A pager that was left open must not stop the control thread.
    """

    def __init__(self) -> None:
        super().__init__()
        self.dropped = 0
        line = "%(asctime)s.%(msecs)03d %(levelname)s %(name)s: %(message)s"
        self.setFormatter(logging.Formatter(line, "%Y-%m-%d %H:%M:%S"))

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.format(record)
            if self.dropped:
                text += f" ({self.dropped} lines were dropped: stderr was not read)"
            if self._write(text):
                self.dropped = 0
            else:
                self.dropped += 1
        except (OSError, ValueError, AttributeError):
            self.dropped += 1  # a full disk or a closed stderr is no reason not to serve

    @staticmethod
    def _write(text: str) -> bool:
        """Write the text as far as the reader takes it; return whether it took anything."""
        fd = sys.stderr.fileno()
        poller = select.poll()
        poller.register(fd, select.POLLOUT)
        data = text.encode(errors="backslashreplace") + b"\n"
        for at in range(0, len(data), PIPE_BYTES):
            if not any(events & select.POLLOUT for _, events in poller.poll(0)):
                return at > 0
            os.write(fd, data[at : at + PIPE_BYTES])
        return True


def log_to_stderr(level: str) -> None:
    """Send what "rfp" and "rnvm" log, from this level on, to stderr until the command ends."""
    handler, loggers = StderrHandler(), [logging.getLogger(name) for name in ("rfp", "rnvm")]
    before = [(logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.setLevel(level.upper())
        logger.addHandler(handler)
        logger.propagate = False

    def restore() -> None:
        for logger, (old_level, old_propagate) in zip(loggers, before, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(old_level)
            logger.propagate = old_propagate

    if (context := click.get_current_context(silent=True)) is not None:
        context.call_on_close(restore)


def logged(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the option that chooses what a command that serves logs to stderr."""
    return click.option(
        "--log-level",
        type=click.Choice(LEVELS),
        default="warning",
        show_default=True,
        help="Least level of log lines on stderr; info adds connections and sessions.",
    )(command)
