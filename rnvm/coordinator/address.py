"""Addresses of coordinators: `etcd://HOST:PORT[,HOST:PORT...]/GROUP` or `zk://...`, with options.

The options follow as `?name=value&name=value`.

>>> address = parse("etcd://a:2379,b:2379/orders")
>>> address.kind, address.nodes, address.group
('etcd', (('a', 2379), ('b', 2379)), 'orders')
>>> str(parse("zk://[::1]:2181").of("orders"))
'zk://[::1]:2181/orders'
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields, replace
from urllib.parse import quote, unquote

from rfp import errors
from rfp.errors import InvalidAddress, InvalidArgument

SCHEMES = ("etcd", "zk")
NODES_MAX = 32  # of one service
NAME_MAX = 63  # characters of the name of a group or of a member

_FORM = "write etcd://HOST:PORT[,HOST:PORT...]/GROUP or zk://HOST:PORT[,HOST:PORT...]/GROUP"
_GROUP = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_NODE_HOST = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+(?:%[A-Za-z0-9._-]+)?")


@dataclass(frozen=True)
class Options:
    """How to reach the service: TLS, and the name that it knows this process by."""

    tls: str = ""  # "on": TLS with the authorities of the system, or with those of `ca`
    ca: str = ""  # file of the authorities that may sign the service's certificate
    cert: str = ""  # file of this process's certificate
    key: str = ""  # file of its private key
    user: str = ""
    password_file: str = ""  # file whose first line is the password: an address is not secret

    @property
    def encrypted(self) -> bool:
        """Whether the connections use TLS."""
        return bool(self.tls or self.ca or self.cert)

    def password(self) -> str:
        """Return the password, or "" without a file.

        Raises:
            InvalidArgument: the file cannot be read.
        """
        if not self.password_file:
            return ""
        try:
            with open(self.password_file, encoding="utf-8") as file:
                return file.readline().rstrip("\r\n")
        except (OSError, ValueError) as error:  # ValueError: other bytes, or one in the name is 0
            raise InvalidArgument(
                f"cannot read the password file {self.password_file}: {error}"
            ) from None


@dataclass(frozen=True)
class CoordinatorAddress:
    """The address of a group in a coordination service.

    Made by `parse`; `str()` returns text that `parse` reads.
    """

    kind: str  # "etcd" or "zk"
    nodes: tuple[tuple[str, int], ...]
    group: str = ""  # "": the address names the service only
    options: Options = field(default_factory=Options)

    def __str__(self) -> str:
        given = [
            f"{each.name}={quote(value, safe='/')}"
            for each in fields(self.options)
            if (value := getattr(self.options, each.name))
        ]
        group = f"/{self.group}" if self.group else ""
        return f"{self.kind}://{self.hosts}{group}" + ("?" + "&".join(given) if given else "")

    @property
    def hosts(self) -> str:
        """The nodes as HOST:PORT,HOST:PORT."""
        return ",".join(shown_node(*node) for node in self.nodes)

    def of(self, group: str) -> CoordinatorAddress:
        """Return the address of this group in the same service.

        Raises:
            InvalidArgument: the name is not valid.
        """
        return replace(self, group=checked_group(group))


def shown_node(host: str, port: int) -> str:
    """Return HOST:PORT, with an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def checked_group(name: str) -> str:
    """Return the name of a group.

    Raises:
        InvalidArgument: it is not valid.
    """
    if not isinstance(name, str) or len(name) > NAME_MAX or not _GROUP.fullmatch(name):
        raise InvalidArgument(
            f"invalid group {errors.shown(name)} (expected letters, digits, '.', '_' and '-', "
            f"{NAME_MAX} at most)"
        )
    return name


def parse(text: str | CoordinatorAddress) -> CoordinatorAddress:
    """Return the address that `text` names; an address is returned as it is.

    Raises:
        InvalidAddress: the text is not valid; the message contains the reason and the correct form.
    """
    if isinstance(text, CoordinatorAddress):
        return text
    if not isinstance(text, str):
        raise InvalidAddress(
            f"a coordinator's address must be a str, not {type(text).__name__}", hint=_FORM
        )
    kind, separator, rest = text.partition("://")
    if not separator or kind not in SCHEMES:
        raise InvalidAddress(f"invalid address {errors.shown(text)}", hint=_FORM)
    place, _, query = rest.partition("?")
    hosts, slash, group = place.partition("/")
    if slash:
        try:
            checked_group(group)
        except InvalidArgument as error:
            raise InvalidAddress(f"invalid address {text!r}: {error}", hint=_FORM) from None
    nodes = tuple(_node(text, each) for each in hosts.split(","))
    if len(set(nodes)) != len(nodes):
        raise InvalidAddress(f"invalid address {text!r}: a node is given twice", hint=_FORM)
    if len(nodes) > NODES_MAX:
        raise InvalidAddress(f"invalid address {text!r}: more than {NODES_MAX} nodes", hint=_FORM)
    return CoordinatorAddress(kind, nodes, group, _options(text, query))


def is_coordinator(text: object) -> bool:
    """Return whether the text has the form of a coordinator's address, valid or not."""
    return isinstance(text, CoordinatorAddress) or (
        isinstance(text, str) and text.partition("://")[0] in SCHEMES
    )


def _node(text: str, place: str) -> tuple[str, int]:
    bracketed = place.startswith("[")
    host, _, port = place[1:].partition("]:") if bracketed else place.rpartition(":")
    if not host or not _NODE_HOST.fullmatch(host) or (":" in host) != bracketed:
        raise InvalidAddress(
            f"invalid address {text!r}: {errors.shown(place)} has no valid host", hint=_FORM
        )
    if not re.fullmatch(r"[0-9]{1,5}", port) or not 1 <= int(port) <= 65535:
        raise InvalidAddress(
            f"invalid address {text!r}: {errors.shown(place)} has no port between 1 and 65535",
            hint=_FORM,
        )
    return host, int(port)


def _options(text: str, query: str) -> Options:
    known = [each.name for each in fields(Options)]
    values: dict[str, str] = {}
    for pair in query.split("&") if query else ():
        name, separator, value = pair.partition("=")
        value = unquote(value)
        if name not in known:
            reason = f"unknown option {name!r}"
        elif not separator or not value:
            reason = f"option {name!r} has no value"
        elif name in values:
            reason = f"option {name!r} is given twice"
        elif name == "tls" and value != "on":
            reason = f"tls must be on, got {value!r}"
        else:
            values[name] = value
            continue
        raise InvalidAddress(
            f"invalid address {text!r}: {reason}",
            hint=f"write ?NAME=VALUE, where NAME is {errors.either(known)}",
        )
    for one, other in (("cert", "key"), ("user", "password_file")):
        if (one in values) != (other in values):
            raise InvalidAddress(f"invalid address {text!r}: give both {one}= and {other}=")
    return Options(**values)
