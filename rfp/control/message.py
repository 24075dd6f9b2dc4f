"""The messages of the control channel.

    client                        server
    Greet            ->           Challenge     over a network, first of all (authentication.py)
    Prove            ->           Proven
    Hello            ->           Welcome       once
    Attach           ->           Attached      for each thread of the client
    Detach           ->                         end of that thread
    Map              ->           Mapped        a chunk of an arena that is not shared as a whole
    GetStats         ->           Stats         the server's figures beside the store's counters
    GetMemory        ->           SharedMemory  memory of the service that not all clients share
                                  Refused       in place of any response

To add a field, append it with a default and raise frame.MINOR: older peers do not send it, and skip
unknown fields.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Annotated, Any, ClassVar, TypeVar, get_type_hints

from rfp import errors
from rfp.control.schema import (
    Binary,
    Fds,
    Figures,
    Flag,
    Handle,
    Integer,
    Invalid,
    Many,
    Maybe,
    Memory,
    Socket,
    Spec,
    Text,
    failed,
)
from rfp.control.uninterrupted import Descriptor
from rfp.core.limits import LINE, SLOT_BYTES_MAX, WORKERS_MAX
from rfp.errors import ConnectionFailed, HandshakeFailed, InvalidArgument, RfpError, ServerRefused

NONCE = PROOF = 32  # bytes

U32 = Annotated[int, Integer(0, 2**32 - 1)]
U64 = Annotated[int, Integer(0, 2**64 - 1)]
Count = Annotated[int, Integer(1, WORKERS_MAX)]
Pid = Annotated[int, Integer(0, 2**31 - 1)]
Name = Annotated[str, Text(128)]
Region = Annotated[Handle, Memory()]
MaybeRegion = Annotated[Handle | None, Maybe(Memory())]
Regions = Annotated[list[Handle], Many(Memory(), WORKERS_MAX)]
Offsets = Annotated[list[int], Many(Integer(0, 2**63 - 1, multiple=LINE), WORKERS_MAX)]
Nonce = Annotated[bytes, Binary(NONCE, exactly=True)]
Proof = Annotated[bytes, Binary(PROOF, exactly=True)]
Descriptors = Annotated[list[bytes], Many(Binary(256), WORKERS_MAX)]  # of queue pairs

M = TypeVar("M", bound="Message")


class Message:
    """Base of all messages.

    A received message owns the file descriptors in its handles; as a context manager it closes, at
    the end, those that were not taken.
    """

    KIND: ClassVar[int]
    KINDS: ClassVar[dict[int, type[Message]]] = {}
    number: int = 0  # of the call that this belongs to; set by the connection
    # The response to this message, kept even if the caller was interrupted before it had it.
    answered: Message | None = None

    def __init_subclass__(cls) -> None:
        assert cls.KIND not in Message.KINDS
        assert 0 < cls.KIND < 256
        Message.KINDS[cls.KIND] = cls

    @classmethod
    def title(cls) -> str:
        return cls.__name__.lower()

    @classmethod
    def specs(cls) -> dict[str, Spec]:
        """Return the fields and their specs."""
        known: dict[str, Spec] | None = cls.__dict__.get("_specs")
        if known is None:
            hints = get_type_hints(cls, include_extras=True)
            own = fields(cls)  # type: ignore[arg-type]
            known = {field.name: hints[field.name].__metadata__[0] for field in own}
            cls._specs = known  # type: ignore[attr-defined]
        return known

    def to_message(self) -> tuple[dict[str, Any], list[int]]:
        """Return the JSON object and the file descriptors to send along.

        Raises:
            InvalidArgument: a field is out of bounds; the message names it.
        """
        fds: list[int] = []
        try:
            self.check()
            return {
                name: spec.encode(getattr(self, name), fds, name)
                for name, spec in self.specs().items()
            }, fds
        except Invalid as error:
            raise InvalidArgument(f"invalid {self.title()!r} message: {error}") from None

    @classmethod
    def from_message(cls: type[M], body: dict[str, Any], fds: Sequence[int | Descriptor]) -> M:
        """Return the message, checked.

        Raises:
            HandshakeFailed: a field is not valid; the message names it.  The caller then still owns
                the file descriptors.
        """
        ours = Fds(fds)
        values: dict[str, Any] = {}
        own = fields(cls)  # type: ignore[arg-type]
        required = {field.name for field in own if field.default is MISSING}
        try:
            for name, spec in cls.specs().items():
                if name in body:
                    values[name] = spec.decode(body[name], ours, name)
                elif name in required:
                    raise Invalid(f"{name} is missing")
            ours.check_all_used()
            message = cls(**values)
            message.check()
        except Invalid as error:
            raise failed(cls.title(), error) from None
        return message

    def check(self) -> None:
        """Check conditions between fields.  Raises Invalid."""

    def handles(self) -> Iterator[Handle]:
        """Yield the handles in all fields."""
        for name in self.specs():
            value = getattr(self, name)
            for item in value if isinstance(value, list) else [value]:
                if isinstance(item, Handle):
                    yield item

    def close(self) -> None:
        """Close the file descriptors that were not taken.

        For received messages only: a sender keeps its own.
        """
        for handle in self.handles():
            if (fd := handle.take()) >= 0:
                os.close(fd)

    def __enter__(self: M) -> M:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass
class Hello(Message):
    """The first message of a client."""

    KIND: ClassVar[int] = 1
    features: U32  # requested: the bits of RFP_FEATURE_*
    name: Name  # of the client, for display
    pid: Pid  # for display; the server takes the pid that it acts on from the kernel


@dataclass
class Welcome(Message):
    """The response to Hello: the parameters and regions that all clients share."""

    KIND: ClassVar[int] = 2
    features: U32  # granted
    service: Annotated[str, Text(16)]  # "kv", "rpc" or "rnvm"
    slot_size: Annotated[int, Integer(LINE, SLOT_BYTES_MAX, multiple=LINE)]  # bytes
    slots: Annotated[int, Integer(1, 4096)]  # the window W of each ring
    hash: Annotated[str, Text(16)]  # of keys: "xxh3-64"
    seed: U64  # of that hash
    partitions: Count  # key k belongs to partition hash(k) mod partitions
    arenas: Regions  # one for each partition, or none: memory of large results
    bells: MaybeRegion  # memory of the workers' eventcount words (shm)
    lease_ns: U64  # lifetime of a pin
    staging_size: U64  # bytes of a staging ring
    max_value: U64  # bytes
    name: Name  # of the server
    pid: Pid
    arena_size: U64 = 0  # bytes of each arena that is not shared as a whole
    chunk_size: U64 = 0  # bytes of a chunk to request (Map)
    # A region whose first 8 bytes change at least ten times a second while the server runs.
    beat: MaybeRegion = None
    # A line whose word contains owner while the server runs (core/owner_word.h).
    owner_line: MaybeRegion = None
    owner: Annotated[int, Integer(0, (1 << 30) - 1)] = 0
    time_namespace: U64 = 0  # of the server, whose clock the expiries of values are in

    def check(self) -> None:
        if len(self.arenas) not in (0, self.partitions):
            raise Invalid(
                f"arenas has {len(self.arenas)} items but partitions is {self.partitions}"
            )
        if bool(self.arena_size) != bool(self.chunk_size) or (self.arenas and self.arena_size):
            sizes = f"arena_size is {self.arena_size}, chunk_size {self.chunk_size}"
            raise Invalid(f"{sizes} and {len(self.arenas)} arenas do not fit together")
        if self.owner_line is not None and not (self.owner and self.arenas):
            raise Invalid("owner_line needs an owner and arenas")


@dataclass
class Attach(Message):
    """Request of a client thread for rings of its own."""

    KIND: ClassVar[int] = 3
    reply: Region  # memory for the replies that the server WRITEs, and the thread's eventcount word
    pairs: Descriptors  # of the client's queue pairs, one for each partition
    wakeup: Annotated[bool, Flag()] = False  # whether the thread sleeps on a descriptor


@dataclass
class Attached(Message):
    """The response to Attach: the rings.

    Slot k of partition p's requests is at request_offsets[p] + k * slot size; likewise the
    responses.
    """

    KIND: ClassVar[int] = 4
    channel: U32  # its number in Detach
    request: Region  # client-writable
    response: Region  # read-only
    staging: MaybeRegion  # client-writable; None if the service takes no large values
    request_offsets: Offsets
    response_offsets: Offsets
    staging_offsets: Offsets
    reply_offsets: Offsets  # in the client's own reply region
    pairs: Descriptors  # of the server's queue pairs, one for each partition
    # The client's end of a socket pair, if it requested one: a byte in it is a wake-up.
    wakeup: Annotated[Handle | None, Maybe(Socket())] = None

    def check(self) -> None:
        lists = ("request_offsets", "response_offsets", "reply_offsets", "pairs")
        lengths = {
            name: len(getattr(self, name))
            for name in (*lists, *(["staging_offsets"] if self.staging else []))
        }
        if len(set(lengths.values())) != 1:
            raise Invalid(
                f"{', '.join(lengths)} have {', '.join(map(str, lengths.values()))} "
                "items instead of equally many"
            )


@dataclass
class Detach(Message):
    """The end of a client thread: its rings may be freed.  There is no response."""

    KIND: ClassVar[int] = 5
    channel: U32


@dataclass
class Map(Message):
    """Request to READ in a chunk of an arena."""

    KIND: ClassVar[int] = 12
    partition: Annotated[int, Integer(0, WORKERS_MAX - 1)]
    chunk: U32  # from byte chunk * chunk_size on
    direct: Annotated[bool, Flag()] = False  # for direct reads alone: the server may refuse


@dataclass
class Mapped(Message):
    """The response to Map: the chunk's memory."""

    KIND: ClassVar[int] = 13
    memory: Region  # read-only


@dataclass
class GetStats(Message):
    """Request for the server's figures."""

    KIND: ClassVar[int] = 6


@dataclass
class Stats(Message):
    """The response to GetStats: workers, clients, addresses, times."""

    KIND: ClassVar[int] = 7
    figures: Annotated[dict[str, Any], Figures()]


@dataclass
class Greet(Message):
    """The first message of a client over a network."""

    KIND: ClassVar[int] = 8
    nonce: Nonce


@dataclass
class Challenge(Message):
    """The response to Greet."""

    KIND: ClassVar[int] = 9
    nonce: Nonce
    secret: Annotated[bool, Flag()]  # whether the client must prove that it knows a secret


@dataclass
class Prove(Message):
    """The client's proof that it knows the secret."""

    KIND: ClassVar[int] = 10
    proof: Proof


@dataclass
class Proven(Message):
    """The response to Prove: the server's proof."""

    KIND: ClassVar[int] = 11
    proof: Proof


@dataclass
class GetMemory(Message):
    """Request for memory beside that of Welcome."""

    KIND: ClassVar[int] = 14
    which: U64  # its meaning depends on the service


@dataclass
class SharedMemory(Message):
    """The response to GetMemory."""

    KIND: ClassVar[int] = 15
    region: Region


@dataclass
class Refused(Message):
    """A refusal, with its reason."""

    KIND: ClassVar[int] = 255
    error: Annotated[str, Text(64)]  # a class of rfp.errors
    message: Annotated[str, Text(2048)]
    hint: Annotated[str | None, Maybe(Text(2048))]

    @classmethod
    def of(cls, error: Exception) -> Refused:
        """Return the message to send after `error` was raised."""
        message = Exception.__str__(error) or type(error).__name__
        if not isinstance(error, RfpError):
            return cls(
                ServerRefused.__name__, printable(f"{type(error).__name__}: {message}"), None
            )
        return cls(type(error).__name__, printable(message), error.hint and printable(error.hint))

    def exception(self) -> RfpError:
        """Return the same exception on this side."""
        kind = getattr(errors, self.error, None)
        if kind is not ConnectionFailed and not (
            isinstance(kind, type) and issubclass(kind, (ServerRefused, HandshakeFailed))
        ):
            kind = ServerRefused
        error: RfpError = kind(self.message, hint=self.hint)
        return error


def printable(text: str, limit: int = 2048) -> str:
    """Return a peer's text in a form safe to display.

    Unprintable characters are escaped, and too long a text is cut.

    >>> printable("caf\\udce9\\n")                    # a file name with a byte that is not UTF-8
    'caf\\\\xe9\\\\n'
    """
    shown = "".join(c if c.isprintable() else _escaped(c) for c in text)
    return shown if len(shown) <= limit else shown[: limit - 3] + "..."


def _escaped(c: str) -> str:
    byte = ord(c) - 0xDC00  # as os.fsdecode() escapes it
    return f"\\x{byte:02x}" if 0x80 <= byte <= 0xFF else c.encode("unicode_escape").decode()
