"""Addresses of coordinators, and states as bytes."""

from __future__ import annotations

import pytest
import python_programs
from hypothesis import given
from hypothesis import strategies as st

from rfp.errors import GroupDamaged, InvalidAddress, InvalidArgument, Unsupported
from rnvm.coordinator.address import Options, is_coordinator, parse
from rnvm.coordinator.opening import open_coordinator
from rnvm.coordinator.registration import Member, member_of
from rnvm.coordinator.state import PAST_MAX, State, decode

pytestmark = pytest.mark.pure


@pytest.mark.parametrize(
    "text",
    [
        "etcd://a:2379/orders",
        "etcd://a:2379,b.c:2379,10.0.0.1:1/orders",
        "zk://[::1]:2181/a.b-c_d",
        "zk://[fe80::1%eth0]:2181",
        "etcd://a:1/g?ca=/etc/my%20ca.pem&cert=/c&key=/k",
        "zk://a:1/g?user=me&password_file=/run/secret",
        "etcd://a:1?tls=on",
    ],
)
def test_an_address_is_read_as_it_is_written(text):
    address = parse(text)
    assert str(address) == text
    assert parse(address) is address
    assert parse(str(address)) == address
    assert is_coordinator(text) and is_coordinator(address)


def test_an_address_of_a_service_is_completed_by_a_group():
    service = parse("zk://a:1,b:2?tls=on")
    assert service.group == ""
    assert str(service.of("orders")) == "zk://a:1,b:2/orders?tls=on"
    with pytest.raises(InvalidArgument, match="invalid group 'a/b'"):
        service.of("a/b")
    assert parse("etcd://a:1?tls=on").options == Options(tls="on")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "write etcd://HOST:PORT"),
        ("orders", "write etcd://HOST:PORT"),
        ("http://a:1/g", "write etcd://HOST:PORT"),
        ("etcd://", "'' has no valid host"),
        ("etcd://a/g", "'a' has no valid host"),
        ("etcd://a:1,/g", "'' has no valid host"),
        ("etcd://a b:1/g", "'a b:1' has no valid host"),
        ("etcd://::1:5/g", "has no valid host"),
        ("etcd://a:0/g", "has no port between 1 and 65535"),
        ("etcd://a:65536/g", "has no port between 1 and 65535"),
        ("etcd://a:x/g", "has no port between 1 and 65535"),
        ("etcd://a:1,a:1/g", "a node is given twice"),
        ("etcd://" + ",".join(f"a:{n}" for n in range(1, 34)) + "/g", "more than 32 nodes"),
        ("etcd://a:1/", "invalid group ''"),
        ("etcd://a:1/a/b", "invalid group 'a/b'"),
        ("etcd://a:1/..", "invalid group '..'"),
        ("etcd://a:1/" + "g" * 64, "invalid group"),
        ("etcd://a:1/g?x=1", "unknown option 'x'"),
        ("etcd://a:1/g?ca=", "option 'ca' has no value"),
        ("etcd://a:1/g?ca=1&ca=2", "option 'ca' is given twice"),
        ("etcd://a:1/g?tls=yes", "tls must be on"),
        ("etcd://a:1/g?cert=/c", "give both cert= and key="),
        ("etcd://a:1/g?user=me", "give both user= and password_file="),
        (7, "must be a str, not int"),
    ],
)
def test_an_invalid_address_is_refused_with_the_reason(text, expected):
    with pytest.raises(InvalidAddress) as refused:
        parse(text)
    assert expected in str(refused.value)


def test_a_coordinator_needs_a_group():
    with pytest.raises(InvalidAddress, match=r"names no group \(write etcd://a:1/GROUP\)"):
        open_coordinator("etcd://a:1?tls=on")


def test_other_addresses_are_not_those_of_coordinators():
    for text in ("shm:///run/me/x", "rdma://a:1", "", 7, None):
        assert not is_coordinator(text)


@given(st.binary(max_size=200), st.integers(0, PAST_MAX + 3))
def test_a_state_is_read_as_it_is_written(value, changes):
    state = State.first(b"first")
    for _ in range(changes):
        state = state.next(value)
    read = decode(state.encode(), "here", stamp=7)
    assert read == state
    assert (read.value, read.number) == (value if changes else b"first", changes + 1)
    assert len(read.past) == min(changes, PAST_MAX)
    assert len({read.id, *read.past}) == len(read.past) + 1


def test_a_key_of_another_program_is_no_member():
    assert member_of("a@0123456789abcdef", b"data") == Member("a", "0123456789abcdef", b"data")
    for key in ("", "a", "a@", "@0123456789abcdef", "a/b@0123456789abcdef", "a@0123456789ABCDEF"):
        assert member_of(key, b"data") is None


@given(st.binary(max_size=100))
def test_other_bytes_are_no_state(raw):
    with pytest.raises(GroupDamaged, match="here contains no state"):
        decode(raw, "here")


def test_a_cut_state_is_no_state():
    whole = State.first(b"").next(b"").encode()
    for length in range(len(whole)):
        with pytest.raises(GroupDamaged):
            decode(whole[:length], "here")


def test_without_kazoo_a_coordinator_of_zookeeper_names_the_extra():
    run = python_programs.run("-c", """
import sys
sys.modules["kazoo"] = None
from rnvm.coordinator.opening import open_coordinator
open_coordinator("etcd://a:1/g").close()
try:
    open_coordinator("zk://a:1/g")
except Exception as error:
    print(type(error).__name__, error)
""")  # fmt: skip
    assert run.stderr == b""
    assert run.stdout.decode().startswith(Unsupported.__name__)
    assert "pip install 'rfp-rnvm[zookeeper]'" in run.stdout.decode()
