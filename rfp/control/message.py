"""The messages of the control channel.

    client                        server
    Greet            ->           Challenge     over a network, first of all (authentication.py)
    Prove            ->           Proven
    Hello            ->           Welcome       once
    Attach           ->           Attached      for each thread of the client
    Detach           ->                         its end
    Map              ->           Mapped        a chunk of an arena that does not come as a whole
    GetStats         ->           Stats         what the server knows about itself beside the store's counters
    GetMemory        ->           SharedMemory  memory of the service's that not all clients share
                                  Refused       in place of any answer

To add a field, add it at the end with a default and raise frame.MINOR: older peers leave it out, and skip what they do
not know.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Annotated, Any, ClassVar, TypeVar, get_type_hints

from rfp import errors
from rfp.control.schema import Binary, Fds, Figures, Flag, Handle, Integer, Invalid, Many, Maybe, Memory, Spec, Text, failed
from rfp.control.uninterrupted import Descriptor
from rfp.errors import ConnectionFailed, HandshakeFailed, InvalidArgument, RfpError, ServerRefused

MAX_PARTITIONS = 64
NONCE = PROOF = 32  # bytes

U32 = Annotated[int, Integer(0, 2**32 - 1)]
U64 = Annotated[int, Integer(0, 2**64 - 1)]
Count = Annotated[int, Integer(1, MAX_PARTITIONS)]
Pid = Annotated[int, Integer(0, 2**31 - 1)]
Name = Annotated[str, Text(128)]
Region = Annotated[Handle, Memory()]
MaybeRegion = Annotated[Handle | None, Maybe(Memory())]
Regions = Annotated[list[Handle], Many(Memory(), MAX_PARTITIONS)]
Offsets = Annotated[list[int], Many(Integer(0, 2**63 - 1, multiple=64), MAX_PARTITIONS)]
Nonce = Annotated[bytes, Binary(NONCE, exactly=True)]
Proof = Annotated[bytes, Binary(PROOF, exactly=True)]
Descriptors = Annotated[list[bytes], Many(Binary(256), MAX_PARTITIONS)]  # of queue pairs

M = TypeVar("M", bound="Message")


class Message:
    """The base of all messages.  A received one owns the file descriptors in its handles; as a context manager it closes,
    at the end, those that were not taken."""

    KIND: ClassVar[int]
    KINDS: ClassVar[dict[int, type[Message]]] = {}
    number: int = 0  # which call this belongs to; set by the connection
    answered: Message | None = None  # with this, also where the asker was interrupted before it had it

    def __init_subclass__(cls) -> None:
        assert cls.KIND not in Message.KINDS
        assert 0 < cls.KIND < 256
        Message.KINDS[cls.KIND] = cls

    @classmethod
    def title(cls) -> str:
        return cls.__name__.lower()

    @classmethod
    def specs(cls) -> dict[str, Spec]:
        """The fields and what they may be."""
        known: dict[str, Spec] | None = cls.__dict__.get("_specs")
        if known is None:
            hints = get_type_hints(cls, include_extras=True)
            known = {field.name: hints[field.name].__metadata__[0] for field in fields(cls)}  # type: ignore[arg-type]
            cls._specs = known  # type: ignore[attr-defined]
        return known

    def to_message(self) -> tuple[dict[str, Any], list[int]]:
        """The JSON object and the file descriptors to send along.  Raises InvalidArgument naming a field out of bounds."""
        fds: list[int] = []
        try:
            self.check()
            return {name: spec.encode(getattr(self, name), fds, name) for name, spec in self.specs().items()}, fds
        except Invalid as error:
            raise InvalidArgument(f"invalid {self.title()!r} message: {error}") from None

    @classmethod
    def from_message(cls: type[M], body: dict[str, Any], fds: Sequence[int | Descriptor]) -> M:
        """The checked message.  Raises HandshakeFailed naming the field; the file descriptors are then still the caller's."""
        ours = Fds(fds)
        values: dict[str, Any] = {}
        required = {field.name for field in fields(cls) if field.default is MISSING}  # type: ignore[arg-type]
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
        """What must hold between fields; raises Invalid."""

    def handles(self) -> Iterator[Handle]:
        """The handles in all fields."""
        for name in self.specs():
            value = getattr(self, name)
            for item in value if isinstance(value, list) else [value]:
                if isinstance(item, Handle):
                    yield item

    def close(self) -> None:
        """Closes the file descriptors that nobody took.  For received messages only: a sender keeps its own."""
        for handle in self.handles():
            if (fd := handle.take()) >= 0:
                os.close(fd)

    def __enter__(self: M) -> M:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass
class Hello(Message):
    """The client's first words."""

    KIND: ClassVar[int] = 1
    features: U32  # asked for: the bits of RFP_FEATURE_*
    name: Name  # of the client, for people to read
    pid: Pid  # for people to read; what the server acts on it asks the kernel


@dataclass
class Welcome(Message):
    """The server's: what all clients share."""

    KIND: ClassVar[int] = 2
    features: U32  # granted
    service: Annotated[str, Text(16)]  # "kv", "rpc" or "rnvm"
    slot_size: Annotated[int, Integer(64, 1 << 20, multiple=64)]  # bytes
    slots: Annotated[int, Integer(1, 4096)]  # the window W of each ring
    hash: Annotated[str, Text(16)]  # of keys: "xxh3-64"
    seed: U64  # of that hash
    partitions: Count  # key k belongs to partition hash(k) mod partitions
    arenas: Regions  # one for each partition, or none: where large results stand
    bells: MaybeRegion  # where the workers' sleeping words stand (shm)
    lease_ns: U64  # how long a pin lasts
    staging_size: U64  # bytes of a staging ring
    max_value: U64  # bytes
    name: Name  # of the server
    pid: Pid
    arena_size: U64 = 0  # bytes of each arena that does not come as a whole
    chunk_size: U64 = 0  # bytes in which it is to be asked for (Map)
    beat: MaybeRegion = None  # whose first 8 bytes change at least ten times a second while the server lives

    def check(self) -> None:
        if len(self.arenas) not in (0, self.partitions):
            raise Invalid(f"arenas has {len(self.arenas)} items but partitions is {self.partitions}")
        if bool(self.arena_size) != bool(self.chunk_size) or (self.arenas and self.arena_size):
            sizes = f"arena_size is {self.arena_size}, chunk_size {self.chunk_size}"
            raise Invalid(f"{sizes} and {len(self.arenas)} arenas do not fit together")


@dataclass
class Attach(Message):
    """A thread of the client wants rings of its own."""

    KIND: ClassVar[int] = 3
    reply: Region  # where the server WRITEs replies, and where the thread's sleeping word stands
    pairs: Descriptors  # of the client's queue pairs, one for each partition


@dataclass
class Attached(Message):
    """The rings: slot k of partition p's requests stands at request_offsets[p] + k * slot size; likewise the responses."""

    KIND: ClassVar[int] = 4
    channel: U32  # names it in Detach
    request: Region  # client-writable
    response: Region  # read-only
    staging: MaybeRegion  # client-writable; None where the service takes no large values
    request_offsets: Offsets
    response_offsets: Offsets
    staging_offsets: Offsets
    reply_offsets: Offsets  # in the client's own reply region
    pairs: Descriptors  # of the server's queue pairs, one for each partition

    def check(self) -> None:
        lists = ("request_offsets", "response_offsets", "reply_offsets", "pairs")
        lengths = {name: len(getattr(self, name)) for name in (*lists, *(["staging_offsets"] if self.staging else []))}
        if len(set(lengths.values())) != 1:
            raise Invalid(f"{', '.join(lengths)} have {', '.join(map(str, lengths.values()))} "
                          "items instead of equally many")


@dataclass
class Detach(Message):
    """The thread's end: its rings may go.  There is no answer."""

    KIND: ClassVar[int] = 5
    channel: U32


@dataclass
class Map(Message):
    """The client is about to READ in this chunk of an arena."""

    KIND: ClassVar[int] = 12
    partition: Annotated[int, Integer(0, MAX_PARTITIONS - 1)]
    chunk: U32  # from its byte chunk * chunk_size on


@dataclass
class Mapped(Message):
    """Now it can."""

    KIND: ClassVar[int] = 13
    memory: Region  # read-only


@dataclass
class GetStats(Message):
    """What does the server know about itself?"""

    KIND: ClassVar[int] = 6


@dataclass
class Stats(Message):
    """Workers, clients, addresses, times: whatever the server tells."""

    KIND: ClassVar[int] = 7
    figures: Annotated[dict[str, Any], Figures()]


@dataclass
class Greet(Message):
    """A client's first words over a network."""

    KIND: ClassVar[int] = 8
    nonce: Nonce


@dataclass
class Challenge(Message):
    """The server's."""

    KIND: ClassVar[int] = 9
    nonce: Nonce
    secret: Annotated[bool, Flag()]  # whether the client is to prove that it knows one


@dataclass
class Prove(Message):
    """The client knows the secret."""

    KIND: ClassVar[int] = 10
    proof: Proof


@dataclass
class Proven(Message):
    """So does the server."""

    KIND: ClassVar[int] = 11
    proof: Proof


@dataclass
class GetMemory(Message):
    """Memory beside what Welcome offers."""

    KIND: ClassVar[int] = 14
    which: U64  # what it means is the service's own


@dataclass
class SharedMemory(Message):
    """That memory."""

    KIND: ClassVar[int] = 15
    region: Region


@dataclass
class Refused(Message):
    """No, and why."""

    KIND: ClassVar[int] = 255
    error: Annotated[str, Text(64)]  # a class of rfp.errors
    message: Annotated[str, Text(2048)]
    hint: Annotated[str | None, Maybe(Text(2048))]

    @classmethod
    def of(cls, error: Exception) -> Refused:
        """What to send when `error` was raised."""
        message = Exception.__str__(error) or type(error).__name__
        if not isinstance(error, RfpError):
            return cls(ServerRefused.__name__, printable(f"{type(error).__name__}: {message}"), None)
        return cls(type(error).__name__, printable(message), error.hint and printable(error.hint))

    def exception(self) -> RfpError:
        """The same on this side."""
        kind = getattr(errors, self.error, None)
        if kind is not ConnectionFailed and not (isinstance(kind, type) and issubclass(kind, (ServerRefused, HandshakeFailed))):
            kind = ServerRefused
        error: RfpError = kind(self.message, hint=self.hint)
        return error


def printable(text: str, limit: int = 2048) -> str:
    """A text as a peer takes it, to be shown: what is not printable is escaped, and what is too long cut.

    >>> printable("caf\\udce9\\n")                        # a file name with a byte that is not UTF-8
    'caf\\\\xe9\\\\n'
    """
    shown = "".join(c if c.isprintable() else _escaped(c) for c in text)
    return shown if len(shown) <= limit else shown[: limit - 3] + "..."


def _escaped(c: str) -> str:
    byte = ord(c) - 0xDC00  # as os.fsdecode() has it
    return f"\\x{byte:02x}" if 0x80 <= byte <= 0xFF else c.encode("unicode_escape").decode()
