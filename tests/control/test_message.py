"""The fields of a peer's message are validated one by one."""

import json
import os

import pytest
from control_tools import attach, attached, hello, memory, welcome
from hypothesis import given, settings
from hypothesis import strategies as st
from slower import examples

from rfp import errors
from rfp.control import (
    Attach,
    Attached,
    Detach,
    Handle,
    Hello,
    Message,
    Refused,
    Stats,
    Welcome,
    frame,
)
from rfp.errors import HandshakeFailed, InvalidArgument


def travel(message):
    """Encode a message and decode it as the peer does, without a socket."""
    body, fds = message.to_message()
    return type(message).from_message(json.loads(json.dumps(body)), fds)


def test_each_message_arrives_as_it_was_sent():
    for message in (
        hello(),
        welcome(),
        attach(),
        attached(),
        Detach(3),
        Stats({"workers": [{"busy": 0.5, "name": "w0"}]}),
    ):
        assert travel(message) == message


def test_each_kind_has_its_own_number():
    assert len(Message.KINDS) == len({kind.title() for kind in Message.KINDS.values()})


def test_file_descriptors_are_assigned_to_their_fields():
    fds = [memory() for _ in range(3)]
    message = travel(welcome(fds))
    assert [h.fd for h in message.handles()] == fds
    taken = message.arenas[1].take()
    assert taken == fds[1]
    assert message.arenas[1].take() == -1
    message.close()  # closes the other two
    for fd in (fds[0], fds[2]):
        with pytest.raises(OSError):
            os.fstat(fd)
    os.close(taken)


def test_a_received_message_closes_the_descriptors_that_were_not_taken():
    fd = memory()
    with travel(attach(fd)):
        pass
    with pytest.raises(OSError):
        os.fstat(fd)


BODY, _ = welcome().to_message()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("features", -1),
        ("features", 2**32),
        ("features", True),
        ("features", 1.0),
        ("features", "1"),
        ("features", None),
        ("slot_size", 0),
        ("slot_size", 100),
        ("slot_size", 1 << 30),
        ("slots", 0),
        ("slots", 4097),
        ("seed", 2**64),
        ("partitions", 0),
        ("partitions", 65),
        ("partitions", 2),
        ("arenas", {}),
        ("arenas", [1]),
        ("arenas", [{}]),
        ("arenas", [{"descriptor": 1}]),
        ("arenas", [{"descriptor": "!"}]),
        ("arenas", [{"descriptor": "A" * 1000}]),
        ("arenas", [{"descriptor": "", "fd": 0}]),
        ("arenas", [{"descriptor": "", "fd": -1}]),
        ("arenas", [{"descriptor": "é"}]),
        ("bells", [{"descriptor": "", "fd": "0"}]),
        ("bells", 7),
        ("name", "x" * 129),
        ("name", "\x1b[2J"),
        ("name", "\ud800"),
        ("arena_size", 1),
        ("chunk_size", 1),
        ("beat", 1),
        ("name", 1),
        ("hash", "x" * 17),
        ("pid", -1),
        ("arenas", [{"descriptor": ""}] * 65),
    ],
)
def test_a_field_out_of_bounds_is_refused_by_name(field, value):
    with pytest.raises(HandshakeFailed, match=f"'welcome'.*{field}"):
        Welcome.from_message({**BODY, field: value}, [])


LATER = {  # fields that are newer than the first minor version
    "arena_size",
    "chunk_size",
    "beat",
    "owner_line",
    "owner",
    "time_namespace",
}


@pytest.mark.parametrize("field", sorted(BODY.keys() - LATER))
def test_a_missing_field_is_refused_by_name(field):
    body = {name: value for name, value in BODY.items() if name != field}
    with pytest.raises(HandshakeFailed, match=f"{field} is missing"):
        Welcome.from_message(body, [])


def test_the_fields_of_the_first_minor_version_are_enough():
    assert (
        Welcome.from_message({name: value for name, value in BODY.items() if name not in LATER}, [])
        == welcome()
    )


def test_arenas_are_sent_whole_or_in_chunks_but_not_both():
    handle = Handle(b"beat")
    chunked = welcome(arenas=[], bells=None, arena_size=10, chunk_size=4, beat=handle)
    assert Welcome.from_message(*chunked.to_message()) == chunked
    with pytest.raises(
        InvalidArgument, match="arena_size is 10, chunk_size 4 and 1 arenas do not fit together"
    ):
        welcome(arena_size=10, chunk_size=4).to_message()


def test_a_field_of_a_later_minor_version_is_skipped():
    assert Welcome.from_message({**BODY, "from_the_future": [1, 2]}, []) == welcome()


def test_an_own_message_out_of_bounds_raises_invalid_argument():
    with pytest.raises(InvalidArgument, match=r"'hello'.*name"):
        hello(name="x" * 1000).to_message()
    with pytest.raises(InvalidArgument, match=r"partitions"):
        welcome(partitions=3).to_message()


def test_lists_of_an_attached_message_must_be_equally_long():
    body, _ = attached(partitions=2).to_message()
    for field in ("request_offsets", "response_offsets", "reply_offsets", "staging_offsets"):
        with pytest.raises(HandshakeFailed, match=r"equally many"):
            Attached.from_message({**body, field: [0]}, [])
    with pytest.raises(HandshakeFailed, match=r"request_offsets.*multiple of 64"):
        Attached.from_message({**body, "request_offsets": [0, 63]}, [])


def test_a_file_descriptor_named_twice_or_never_is_refused():
    fds = [memory(), memory()]
    body, _ = welcome(fds).to_message()
    with pytest.raises(HandshakeFailed, match=r"another field"):
        Welcome.from_message({**body, "bells": {"descriptor": "", "fd": 0}}, fds)
    with pytest.raises(HandshakeFailed, match=r"1 file descriptors belong to no field"):
        Welcome.from_message({**body, "bells": {"descriptor": ""}}, fds)
    for fd in fds:
        os.close(fd)  # after an error the caller still owns it


@pytest.mark.parametrize("kind", ["pipe", "device", "directory", "socket"])
def test_a_file_descriptor_that_is_not_memory_is_refused(kind, tmp_path):
    import socket

    opened = []
    if kind == "pipe":
        opened = list(os.pipe())
    elif kind == "socket":
        opened = [s.detach() for s in socket.socketpair()]
    else:
        opened = [os.open("/dev/null" if kind == "device" else tmp_path, os.O_RDONLY)]
    try:
        with pytest.raises(HandshakeFailed, match=r"reply.*not memory"):
            Attach.from_message(attach(opened[0]).to_message()[0], opened[:1])
    finally:
        for fd in opened:
            os.close(fd)


def test_a_refusal_becomes_the_same_error_at_the_peer():
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(
            kind, (errors.ServerRefused, errors.HandshakeFailed)
        ):
            error = travel(Refused.of(kind("the fault", hint="the hint"))).exception()
            assert type(error) is kind
            assert str(error) == "the fault (the hint)"


def test_a_refusal_cannot_name_a_class_outside_the_servers_refusals():
    for name in ("SystemExit", "annotations", "__builtins__", "Closed", "RfpError", ""):
        assert type(Refused(name, "m", None).exception()) is errors.ServerRefused


def test_any_exception_can_be_sent_to_the_peer():
    assert (
        str(travel(Refused.of(ZeroDivisionError("1/0\n\x1b"))).exception())
        == "ZeroDivisionError: 1/0\\n\\x1b"
    )
    assert str(travel(Refused.of(errors.OutOfMemory("x" * 5000))).exception()) == "x" * 2045 + "..."


def test_figures_are_numbers_and_texts_of_bounded_depth():
    values = [
        {"a": value}
        for value in (float("nan"), float("inf"), 2**65, "\x1b", {"b": {"c": {"d": {}}}})
    ]
    for wrong in (*values, {"\n": 1}, [], 1):
        with pytest.raises(HandshakeFailed, match=r"figures"):
            Stats.from_message({"figures": wrong}, [])


def test_a_body_or_a_number_of_descriptors_beyond_the_limit_is_not_sent():
    with pytest.raises(InvalidArgument, match=r"exceeds the limits"):
        frame.pack(1, 0, {"x": "y" * frame.BODY_LIMIT}, 0)
    with pytest.raises(InvalidArgument, match=r"exceeds the limits"):
        frame.pack(1, 0, {}, frame.FD_LIMIT + 1)


def test_the_largest_welcome_fits_into_a_message():
    descriptor = b"d" * 256
    body, fds = welcome(
        partitions=64, arenas=[Handle(descriptor, 0)] * 64, bells=Handle(descriptor, 0)
    ).to_message()
    frame.pack(2, 0, body, len(fds))
    offsets = [2**63 - 64] * 64
    lists = dict.fromkeys(
        ("request_offsets", "response_offsets", "staging_offsets", "reply_offsets"), offsets
    )
    body, fds = attached(pairs=[descriptor] * 64, **lists).to_message()
    frame.pack(4, 0, body, len(fds))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=examples(300))
@given(st.sampled_from(sorted(Message.KINDS)), st.data())
def test_any_json_object_is_a_message_or_raises_handshake_failed(number, data):
    kind = Message.KINDS[number]
    names = st.sampled_from([*kind.specs(), "other"])
    body = data.draw(st.dictionaries(names, json_values, max_size=15))
    try:
        message = kind.from_message(body, [])
    except HandshakeFailed:
        return
    assert travel(message) == message


NOT_OBJECTS = [b"", b"{", b"[]", b"1", b"null", b"\xff\xfe", b'{"a": NaN}', b'{"a": Infinity}']


@pytest.mark.parametrize("text", [*NOT_OBJECTS, b"[" * 65000, b'{"a":' * 10000, b"9" * 65000])
def test_a_body_that_is_no_json_object_is_refused(text):
    with pytest.raises(HandshakeFailed):
        frame.unpack_body(text)


def test_a_refusal_of_another_major_version_can_be_read():
    assert Hello.KIND != Refused.KIND
    preface = frame.unpack_preface(frame.PREFACE.pack(frame.MAGIC, 9, 4, Refused.KIND, 0, 0, 2))
    with pytest.raises(HandshakeFailed, match=r"RFP 9\.4.*1\.4.*same"):
        frame.check_version(preface)
