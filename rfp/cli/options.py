"""What the commands share: options, and the connection that they make of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

import rfp
from rfp import units
from rfp.address import Address, parse
from rfp.errors import InvalidArgument

F = TypeVar("F", bound=Callable[..., Any])


class Quantity(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """An argument that one of our parsers reads."""

    def __init__(self, name: str, read: Callable[[str], Any]) -> None:
        self.name = name
        self.read = read

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return self.read(value)
        except InvalidArgument as error:
            self.fail(str(error), param, ctx)


def _seconds(text: str) -> float:
    seconds = units.duration(text) / 1e9
    if not seconds:
        raise InvalidArgument(f"{text!r} is no time at all", hint="it must be more than 0")
    return seconds


SIZE = Quantity("size", units.size)
DURATION = Quantity("duration", _seconds)  # seconds
ADDRESS = Quantity("address", parse)

_ADDRESS = "Where the server is: shm://PATH.  [default: this user's default server]"


def connected(command: F) -> F:
    """Gives a command the options --address and --timeout."""
    command = click.option("--timeout", type=DURATION, default="5s", show_default=True, help="For each answer.")(command)
    return click.option("--address", "-a", type=ADDRESS, help=_ADDRESS)(command)


def connect(address: Address | None, timeout: float, reconnect: bool = False) -> rfp.Client:
    """A handle for a command: one that says at once when the server goes away, rather than wait for the next."""
    return rfp.connect(address, timeout=timeout, reconnect=reconnect)


def emulated(address: Address | None) -> str:
    """The label that results over an emulated network carry."""
    return " (emulated network)" if address is not None and address.provider == "shm" and address.shm.emulated else ""
