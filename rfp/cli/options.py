"""Options common to the commands, and the connection made from them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import click

import rfp
from rfp import units
from rfp.address import Address, parse
from rfp.errors import InvalidArgument


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
        raise InvalidArgument("duration must be greater than zero, got " + repr(text))
    return seconds


SIZE_TYPE = Quantity("size", units.size)
DURATION_TYPE = Quantity("duration", _seconds)  # seconds
ADDRESS_TYPE = Quantity("address", parse)

_ADDRESS = (
    "Address of the server: shm://PATH or rdma://HOST:PORT.  [default: this user's default server]"
)
SECRET_FILE = click.option(
    "--secret-file",
    type=click.Path(),
    envvar="RFP_SECRET_FILE",
    show_envvar=True,
    help="Over RDMA: file with the shared secret of server "
    "and clients, accessible by this user only.",
)
_TLS = (
    click.option(
        "--tls-ca",
        type=click.Path(),
        help='Over RDMA: CA certificate (PEM) to verify the server with, or "system" for '
        "the system trust store.",
    ),
    click.option(
        "--tls-cert",
        type=click.Path(),
        help="Client certificate (PEM), if the server requires one.",
    ),
    click.option("--tls-key", type=click.Path(), help="Private key (PEM) of the certificate."),
)
_ACCESS = (
    SECRET_FILE,
    click.option(
        "--no-auth", is_flag=True, help="Over RDMA: accept clients without authentication."
    ),
    click.option(
        "--tls-cert",
        type=click.Path(),
        help="Over RDMA: server certificate (PEM) for TLS on control connections.",
    ),
    click.option("--tls-key", type=click.Path(), help="Private key (PEM) of the certificate."),
    click.option(
        "--tls-ca",
        type=click.Path(),
        help="CA certificate (PEM) to verify client certificates with; clients must then have one.",
    ),
)


def serving(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that control which clients may connect over RDMA."""
    for option in reversed(_ACCESS):
        command = option(command)
    return command


@dataclass(frozen=True)
class Target:
    """The server that a command connects to, and its options."""

    address: Address | None
    timeout: float  # seconds, for each answer
    access: dict[str, Any] = field(default_factory=dict)  # credentials: arguments of rfp.connect()

    def connect(self, reconnect: bool = False) -> rfp.Client:
        """Return a client for a command.

        Unless `reconnect`, it reports at once that the server is lost, instead of waiting for the
        next one.
        """
        return rfp.connect(self.address, timeout=self.timeout, reconnect=reconnect, **self.access)

    @property
    def emulated(self) -> str:
        """The label of results over an emulated network."""
        place = self.address
        return (
            " (emulated network)"
            if place is not None and place.provider == "shm" and place.shm.emulated
            else ""
        )


def connected(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a connection to a command; its first argument is then a Target."""

    @functools.wraps(command)
    def with_target(address: Address | None, timeout: float, **options: Any) -> Any:
        access = {
            name: options.pop(name) for name in ("secret_file", "tls_ca", "tls_cert", "tls_key")
        }
        return command(Target(address, timeout, access), **options)

    decorated: Callable[..., Any] = with_target
    for option in reversed((SECRET_FILE, *_TLS)):
        decorated = option(decorated)
    decorated = click.option(
        "--timeout",
        type=DURATION_TYPE,
        default="5s",
        show_default=True,
        help="Time limit for each response.",
    )(decorated)
    return click.option("--address", "-a", type=ADDRESS_TYPE, help=_ADDRESS)(decorated)
