"""A group's state: what is read is checked."""

from __future__ import annotations

import json

import pytest

from rfp.errors import GroupDamaged, InvalidArgument
from rnvm.coordinator.registration import Member
from rnvm.group import registered
from rnvm.group.registered import Registered
from rnvm.group.state import EPOCH_MAX, GroupState, Listed, decode

pytestmark = pytest.mark.pure

A, B = Listed("a", "1" * 32), Listed("b", "2" * 32)
STATE = GroupState("f" * 32, 3, "a", (A, B), 1)
GOOD = json.loads(STATE.encode())


def test_what_was_written_is_read():
    assert decode(STATE.encode(), "etcd") == STATE


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2}, {"group": "F" * 32}, {"group": 5}, {"epoch": 0}, {"epoch": True},
        {"epoch": 1.5}, {"epoch": EPOCH_MAX + 1}, {"epoch": 10**400}, {"primary": "c"},
        {"primary": ["a"]}, {"primary": 1}, {"in_sync": []}, {"in_sync": {}}, {"in_sync": [["a"]]},
        {"in_sync": [["a", 1]]}, {"in_sync": [[1, "1" * 32]]}, {"in_sync": [[["a"], "1" * 32]]},
        {"in_sync": [["a", "1" * 32], ["a", "2" * 32]]},
        {"in_sync": [["a", "1" * 32], ["b", "1" * 32]]},
        {"in_sync": [["a", "1" * 31]]}, {"in_sync": [["a" * 32, "1" * 32]]},
        {"in_sync": [["a/", "1" * 32]], "primary": None},
        {"min_mirrors": -1}, {"min_mirrors": 9}, {"min_mirrors": None}, {"more": 1},
    ],
    ids=repr,
)  # fmt: skip
def test_anything_else_is_refused(change):
    with pytest.raises(GroupDamaged, match="etcd contains no state of a group"):
        decode(json.dumps({**GOOD, **change}).encode(), "etcd")


@pytest.mark.parametrize(
    "raw", [b"", b"null", b"[1]", b"\xff", b"{", b"[" * 5000, STATE.encode() + b"x",
            b'{"epoch":1,' + STATE.encode()[1:], STATE.encode().replace(b"3", b"NaN", 1)],
    ids=["empty", "null", "list", "bytes", "open", "deep", "more", "twice", "nan"],
)  # fmt: skip
def test_other_bytes_are_refused(raw):
    with pytest.raises(GroupDamaged, match="contains no state of a group"):
        decode(raw, "etcd")


MEMBER = Registered(A, "shm:///run/a", "mirror")


def test_what_a_member_registered_with_is_read():
    assert registered.decode(Member("a", "0" * 16, MEMBER.encode())) == MEMBER


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("a", b""), ("a", b"\xff"), ("a", b"{"), ("a", b"null"), ("a", b"[]"), ("a", b"{}"),
        ("a", b"[" * 5000), ("a", MEMBER.encode().replace(b'"mirror"', b"1")),
        ("a", MEMBER.encode().replace(b"/run/a", b"/run/" + b"a" * 1024)),
        ("a" * 32, MEMBER.encode()),
    ],
    ids=["empty", "bytes", "open", "null", "list", "keys", "deep", "number", "long", "name"],
)  # fmt: skip
def test_what_another_program_registered_is_no_member(name, raw):
    assert registered.decode(Member(name, "0" * 16, raw)) is None


def test_a_state_that_cannot_be_is_not_made():
    with pytest.raises(InvalidArgument, match="the primary 'c' is not in sync"):
        GroupState("f" * 32, 1, "c", (A,), 0)
    with pytest.raises(InvalidArgument, match="members in sync must be between 1 and 9, got 0"):
        STATE.without("a", "b")


def test_an_election_names_the_winner_and_leaves_it_alone_before_it_may_answer():
    elected = STATE.opened_by(B)
    assert elected == GroupState("f" * 32, 4, "b", (A, B), 1)
    assert elected.alone(B) == GroupState("f" * 32, 4, "b", (B,), 1)


def test_without_its_primary_a_group_has_none():
    assert STATE.without("a") == GroupState("f" * 32, 3, None, (B,), 1)
    assert STATE.without("b").primary == "a"
