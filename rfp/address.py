"""Addresses of servers: `shm://PATH-OF-SOCKET` or `rdma://HOST:PORT`, with options as a query.

The options follow as `?name=value&name=value`.

>>> address = parse("shm:///run/user/1000/rfp/default?rtt=2us")
>>> address.provider, address.path, address.options.rtt
('shm', '/run/user/1000/rfp/default', 2000)
>>> str(address)
'shm:///run/user/1000/rfp/default?rtt=2us'

docs/addresses.md describes all of it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any
from urllib.parse import quote, unquote_to_bytes

from rfp import errors, units
from rfp.errors import InvalidAddress, InvalidArgument

PATH_LIMIT = 107  # bytes: sockaddr_un has 108, with the terminating zero

_HOST = re.compile(r"[A-Za-z0-9._-]+(?:%[A-Za-z0-9._-]+)?|[0-9A-Fa-f:.]+(?:%[A-Za-z0-9._-]+)?")


@dataclass(frozen=True)
class ShmOptions:
    """The emulated network; by default there is none."""

    rtt: int = 0  # ns that a one-sided operation takes at least
    in_iops: int = 0  # operations per second of this side's in-bound engine; 0 = no limit
    out_iops: int = 0  # operations per second of this side's out-bound engine; 0 = no limit

    @property
    def emulated(self) -> bool:
        """Whether results must be labelled *emulated*."""
        return bool(self.rtt or self.in_iops or self.out_iops)


@dataclass(frozen=True)
class RdmaOptions:
    """Which device to use instead of the automatic choice, and the time-outs (docs/verbs.md)."""

    device: str = ""  # as ibv_devices prints it; "" = the one whose address routes to the peer
    port: int = 0  # of the device, from 1; 0 = the first active one
    gid_index: int = -1  # -1 = the GID that carries the address, RoCE v2 first
    timeout: int = 16  # of a packet: 4.096 us times two to this power: 268 ms; 0 = for ever
    retry_cnt: int = 6  # retransmissions of an unanswered packet; 7 is for ever on soft-RoCE
    rnr_retry: int = 7  # retransmissions of a notify if the peer has no room; 7 = for ever
    min_rnr_timer: int = 12  # how long a peer waits if we have no room for its notify: 0.64 ms
    traffic_class: int = 0  # of our packets: DSCP times four
    patience: int = 800_000_000  # ns of silence after which a peer counts as dead


@dataclass(frozen=True)
class Address:
    """The address of a server.

    Made by `parse`, `default` or `unique`; `str()` returns text that `parse` reads.
    """

    provider: str  # "shm" or "rdma"
    path: str = ""  # shm: absolute path of the socket
    host: str = ""  # rdma: name, IPv4 or IPv6 address
    port: int = 0  # rdma: TCP port of the control connection; 0 = the server picks one
    options: ShmOptions | RdmaOptions = ShmOptions()

    def __str__(self) -> str:
        if self.provider == "shm":
            place = quote(os.fsencode(self.path), safe="/!$&'()*+,;=:@~")
        else:
            place = f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
        show = _OPTIONS[self.provider]
        given = [f"{name}={show[name][1](value)}" for name, value in _given(self.options)]
        return f"{self.provider}://{place}" + ("?" + "&".join(given) if given else "")

    @property
    def shm(self) -> ShmOptions:
        """The options of an shm address.

        Raises:
            InvalidAddress: the address has another provider.
        """
        if not isinstance(self.options, ShmOptions):
            raise InvalidAddress(f"{self} is not an shm:// address")
        return self.options

    @property
    def rdma(self) -> RdmaOptions:
        """The options of an rdma address.

        Raises:
            InvalidAddress: the address has another provider.
        """
        if not isinstance(self.options, RdmaOptions):
            raise InvalidAddress(f"{self} is not an rdma:// address")
        return self.options


def _given(options: ShmOptions | RdmaOptions) -> list[tuple[str, Any]]:
    """Return the options that differ from their defaults."""
    return [
        (field.name, value)
        for field in fields(options)
        if (value := getattr(options, field.name)) != field.default
    ]


def _device(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,63}", text):
        raise InvalidArgument(
            f"invalid device {text!r}", hint="choose a device that `ibv_devices` lists"
        )
    return text


def _between(low: int, high: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", text) or not low <= int(text) <= high:
            raise InvalidArgument(f"must be between {low} and {high}, got {text!r}")
        return int(text)

    return number


# provider -> option -> (its parser, its formatter)
_OPTIONS: dict[str, dict[str, tuple[Callable[[str], Any], Callable[[Any], str]]]] = {
    "shm": {
        "rtt": (units.duration, units.show_duration),
        "in_iops": (units.rate, units.show_rate),
        "out_iops": (units.rate, units.show_rate),
    },
    "rdma": {
        "device": (_device, str),
        "port": (_between(1, 255), str),
        "gid_index": (_between(0, 255), str),
        "timeout": (_between(0, 31), str),
        "retry_cnt": (_between(0, 7), str),
        "rnr_retry": (_between(0, 7), str),
        "min_rnr_timer": (_between(0, 31), str),
        "traffic_class": (_between(0, 255), str),
        "patience": (units.duration, units.show_duration),
    },
}


def parse(text: str | Address) -> Address:
    """Return the address that `text` names; an `Address` is returned as it is.

    A relative path of a socket starts at the current directory; `~/` is the home directory.

    Raises:
        InvalidAddress: the text is not valid; the message contains the reason and the correct form.

    >>> parse("rdma://node7:7001?device=rxe0").host
    'node7'
    """
    if isinstance(text, Address):
        return text
    if not isinstance(text, str):
        raise InvalidAddress(f"an address must be a str, not {type(text).__name__}", hint=_FORMS)
    provider, separator, rest = text.partition("://")
    if not separator or provider not in _OPTIONS:
        raise InvalidAddress(f"invalid address {text!r}", hint=_FORMS)
    place, _, query = rest.partition("?")
    options = _parse_options(text, provider, query)
    if provider == "shm":
        return Address(
            "shm",
            path=_checked_path(text, os.fsdecode(unquote_to_bytes(os.fsencode(place)))),
            options=options,
        )
    host, port = _parse_host(text, place)
    return Address("rdma", host=host, port=port, options=options)


_FORMS = "write shm://PATH-OF-SOCKET or rdma://HOST:PORT"


def _parse_options(text: str, provider: str, query: str) -> ShmOptions | RdmaOptions:
    known = _OPTIONS[provider]
    values: dict[str, Any] = {}
    for pair in query.split("&") if query else ():
        name, separator, value = pair.partition("=")
        hint = f"write ?NAME=VALUE, where NAME is {errors.either(known)}"
        if name not in known:
            raise InvalidAddress(f"invalid address {text!r}: unknown option {name!r}", hint=hint)
        if not separator or not value:
            raise InvalidAddress(
                f"invalid address {text!r}: option {name!r} has no value", hint=hint
            )
        if name in values:
            raise InvalidAddress(
                f"invalid address {text!r}: option {name!r} is given twice",
                hint="give each option once",
            )
        try:
            values[name] = known[name][0](value)
        except InvalidArgument as error:
            raise InvalidAddress(
                f"invalid address {text!r}: {name}: {Exception.__str__(error)}", hint=error.hint
            ) from None
    return ShmOptions(**values) if provider == "shm" else RdmaOptions(**values)


def _checked_path(text: str, path: str) -> str:
    if not path or path.endswith("/"):
        raise InvalidAddress(
            f"invalid address {text!r}: it has no socket path",
            hint="write shm://PATH-OF-SOCKET, e.g. shm:///run/me/cache",
        )
    if "\0" in path:
        raise InvalidAddress(f"invalid address {text!r}: its path contains a zero byte")
    if path.startswith("~/"):
        path = os.path.expanduser(path)
    path = os.path.abspath(path)
    if (length := len(os.fsencode(path))) > PATH_LIMIT:
        raise InvalidAddress(
            f"the socket path {path!r} of {length} bytes exceeds the limit of {PATH_LIMIT}",
            hint=_shorter(text),
        )
    return path


def _shorter(text: str) -> str:
    """Return the hint for a path that is too long."""
    if text.startswith("the "):  # one of our own names, derived from the user's directory
        return (
            f"set a shorter XDG_RUNTIME_DIR, unset it for {_fallback()}, or give an address "
            "(shm:///tmp/...)"
        )
    runtime = os.environ.get("XDG_RUNTIME_DIR") or ""
    return (
        "choose a shorter one, e.g. under "
        f"{runtime if 0 < len(os.fsencode(runtime)) <= PATH_LIMIT // 2 else _fallback()}"
    )


def _parse_host(text: str, place: str) -> tuple[str, int]:
    hint = "write rdma://HOST:PORT, with an IPv6 address in brackets: rdma://[fe80::1]:7001"
    if place.startswith("["):
        host, _, port = place[1:].partition("]:")
        bracketed = True
    else:
        host, _, port = place.rpartition(":")
        bracketed = False
    if not host or not _HOST.fullmatch(host) or (":" in host) != bracketed:
        raise InvalidAddress(f"invalid address {text!r}: it has no valid host", hint=hint)
    if not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise InvalidAddress(
            f"invalid address {text!r}: it has no port between 0 and 65535", hint=hint
        )
    return host, int(port)


def default() -> Address:
    """Return the address of this user's default server.

    `rfp serve` listens there, and `rfp.connect()` connects to it.  It is
    `$XDG_RUNTIME_DIR/rfp/default`, else `/tmp/rfp-UID/default`.  Nothing is created; the existing
    part of the path must belong to this user and be private.

    Raises:
        InvalidAddress: a directory on the way is not private.
    """
    return Address(
        "shm", path=_checked_path("the default address", os.path.join(_directory(), "default"))
    )


def unique() -> Address:
    """Return an address for an embedded server, which no other server has.

    It is in the default directory, with an unpredictable name.

    Raises:
        InvalidAddress: a directory on the way is not private.
    """
    return own(f"{EMBEDDED}{os.getpid()}-{os.urandom(8).hex()}")


def own(name: str) -> Address:
    """Return the address with this name in the default directory.  Raises as default()."""
    return Address(
        "shm", path=_checked_path(f"the address {name}", os.path.join(_directory(), name))
    )


EMBEDDED = "embedded-"  # prefix of the names of embedded servers


def _directory() -> str:
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and os.path.isabs(runtime) and os.path.isdir(runtime):
        # Not ours after `su` or `sudo -E`: never fall back silently, or client and server would use
        # different places.
        if (owner := os.stat(runtime).st_uid) != os.geteuid():
            raise InvalidAddress(
                f"XDG_RUNTIME_DIR={runtime} belongs to user {owner}, not to user {os.geteuid()}",
                hint="unset XDG_RUNTIME_DIR, or give an address",
            )
        directory = os.path.join(runtime, "rfp")
    else:
        directory = _fallback()
    check_private(directory)
    return directory


def _fallback() -> str:
    return f"/tmp/rfp-{os.geteuid()}"


def elsewhere() -> Address | None:
    """Return a default server of this user under another setting of XDG_RUNTIME_DIR, or None.

    For example the one of a login session, if the caller runs under cron.
    """
    for directory in (f"/run/user/{os.geteuid()}/rfp", _fallback()):
        path = os.path.join(directory, "default")
        try:
            if (
                directory != _directory()
                and check_private(directory)
                and stat.S_ISSOCK(os.lstat(path).st_mode)
            ):
                return Address("shm", path=path)
        except (InvalidAddress, OSError):
            continue
    return None


def open_private(directory: str) -> int:
    """Return a file descriptor of a directory that only this user can access.

    Missing directories are created.  The returned descriptor is the checked directory itself: the
    owner of a directory above may replace the path afterwards.

    Raises:
        InvalidAddress: the directory is not private.
    """
    try:
        _make(directory)
        fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise
        check_private(directory)  # whose message is more precise
        raise InvalidAddress(
            f"cannot make the directory {directory}: {error.strerror}",
            hint="give an address in another directory",
        ) from error
    try:
        _check(directory, os.fstat(fd))
    except BaseException:
        os.close(fd)
        raise
    return fd


def _make(directory: str) -> None:
    """Create missing directories, each with mode 0700.

    In a directory that others may write, they could move the last one away.
    """
    if os.path.isdir(directory):
        return
    parent = os.path.dirname(directory)
    if parent != directory:
        _make(parent)
    with contextlib.suppress(FileExistsError):
        os.mkdir(directory, 0o700)


def check_private(directory: str) -> bool:
    """Return whether the directory exists.

    Raises:
        InvalidAddress: it is not this user's alone (mode 0700, no link).
    """
    try:
        found = os.lstat(directory)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise InvalidAddress(
            f"cannot check {directory}: {error.strerror}", hint="give another address"
        ) from error
    _check(directory, found)
    return True


def _check(directory: str, found: os.stat_result) -> None:
    if not stat.S_ISDIR(found.st_mode):
        kind = "a symbolic link" if stat.S_ISLNK(found.st_mode) else "not a directory"
        raise InvalidAddress(
            f"{directory} is {kind}",
            hint="remove it, or give an address in a directory of your own",
        )
    if found.st_uid != os.geteuid():
        raise InvalidAddress(
            f"{directory} belongs to user {found.st_uid}, not to user {os.geteuid()}",
            hint="give an address in a directory of your own",
        )
    if found.st_mode & 0o077:
        hint = "give an address in a directory with mode 0700"
        if not found.st_mode & stat.S_ISVTX:  # a shared directory, like /tmp, must be sticky
            hint = f"run `chmod 700 {directory}`, or {hint}"
        raise InvalidAddress(
            f"{directory} has mode {stat.S_IMODE(found.st_mode):04o}: other users can access it",
            hint=hint,
        )
