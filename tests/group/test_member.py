"""The state machine of a member, step by step: what it asks for, in which order, and what not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rnvm.group import events as ev
from rnvm.group.events import Copy, Seen
from rnvm.group.member import SECOND_NS, Member, Role
from rnvm.group.state import GroupState, Listed

pytestmark = pytest.mark.pure

GROUP = "a" * 32
A, B, C = Listed("a", "1" * 32), Listed("b", "2" * 32), Listed("c", "3" * 32)


class Play:
    """One member, and the test as everything around it."""

    def __init__(self, copy: Listed = A, epoch: int = 1, group: str = GROUP) -> None:
        self.now = 100 * SECOND_NS
        self.member = Member(Copy(group, copy.member, copy.identity, epoch), self.now)
        self.number = 0
        self.serial = 0  # of the read under way
        self.note(self.member.begin(self.now))

    def note(self, out: list[ev.Action]) -> None:
        self.out = out
        for each in out:
            if isinstance(each, ev.Read):
                self.serial = each.serial

    def take(self, event: ev.Event, after: float = 0) -> list[ev.Action]:
        self.now += int(after * SECOND_NS)
        self.note(self.member.take(event, self.now))
        return self.out

    def read(
        self, state: GroupState, registered: tuple[Listed, ...] = (), *, after: float = 0
    ) -> list[ev.Action]:
        """Answer the read that is under way, or the next one."""
        if not self.serial:
            self.take(ev.Hint())
        self.number += 1
        serial, self.serial = self.serial, 0
        seen = Seen(self.number, self.number, state)
        return self.take(ev.StateRead(serial, seen, frozenset(registered)), after)

    def made(self, change: ev.Change) -> list[ev.Action]:
        self.number = change.old.number + 1
        return self.take(ev.ChangeMade(change.serial, Seen(object(), self.number, change.new)))

    def changes(self) -> list[ev.Change]:
        return [each for each in self.out if isinstance(each, ev.Change)]

    def kinds(self) -> list[type]:
        return [type(each) for each in self.out]


def state(
    *in_sync: Listed, epoch: int = 1, primary: str | None = None, mirrors: int = 0
) -> GroupState:
    return GroupState(GROUP, epoch, primary, in_sync, mirrors)


def elected(*others: Listed) -> Play:
    """Its first change is made."""
    play = Play()
    play.made(*play.read(state(A, *others)))
    assert play.member.role is Role.ELECTED
    return play


def opening(*others: Listed) -> Play:
    play = elected(*others)
    assert play.take(ev.Tick(), 1) == [ev.Open(2, 0, alone=not others)]
    return play


def claiming(*others: Listed) -> tuple[Play, ev.Change]:
    """Its pool is open, and its second change under way."""
    play = opening(*others)
    (change,) = play.take(ev.Opened())
    assert isinstance(change, ev.Change)
    assert change.new == state(A, epoch=2, primary="a")
    assert play.member.role is Role.CLAIMING
    return play, change


def primary(*, mirror: bool = False) -> Play:
    play, change = claiming()
    assert play.made(change) == [ev.Serve()]
    assert play.member.role is Role.BEGINNING
    play.take(ev.Served())
    assert play.member.role is Role.PRIMARY
    if mirror:
        play.take(ev.MirrorLevel(1, B))
        (slots,) = [each for each in play.out if isinstance(each, ev.Slots)]
        play.take(ev.InForce(slots.serial, 5))
        play.take(ev.Acked(1, 5))
        play.made(*play.changes())
    return play


def test_a_listed_copy_without_a_primary_is_elected_and_opened_after_its_promise():
    play = Play()
    (change,) = play.read(state(A, B))
    assert isinstance(change, ev.Change)
    assert change.new == state(A, B, epoch=2, primary="a"), "B is as good until A may answer"
    assert play.made(change) == [ev.Keep(2)]
    assert play.member.role is Role.ELECTED
    assert play.take(ev.Tick(), 0.9) == []
    assert play.take(ev.Tick(), 0.2) == [ev.Open(2, 0, alone=False)]


def test_a_winner_serves_only_when_it_is_listed_alone():
    play, change = claiming(B)
    assert play.take(ev.Tick(), 0.1) == []
    assert play.made(change) == [ev.Serve()]


def test_a_winner_whose_state_was_replaced_since_does_not_open():
    play = elected()
    play.take(ev.Hint())
    play.read(state(B, epoch=3))
    assert play.member.role is Role.STARTING
    play.take(ev.Tick(), 2)
    assert not play.changes()


def test_a_primary_that_stepped_down_waits_for_a_promise_before_it_opens_its_pool_again():
    play = primary()
    play.take(ev.Hint())
    play.read(state(A, B, epoch=3, primary="b"), (A, B))
    assert isinstance(play.out[0], ev.Stop)
    play.take(ev.Stopped())
    play.made(*play.read(state(A, B, epoch=3)))
    assert play.take(ev.Tick(), 0.9) == []
    assert play.take(ev.Tick(), 0.2) == [ev.Open(4, 0, alone=False)]


def test_a_winner_whose_second_change_is_refused_does_not_serve():
    play, change = claiming(B)
    (read,) = play.take(ev.ChangeRefused(change.serial))
    assert isinstance(read, ev.Read)
    play.read(state(A, B, epoch=3, primary="b"), (A, B))
    assert play.out == [ev.Stop("b is the primary of epoch 3")]
    play.take(ev.Stopped())
    play.read(state(A, B, epoch=3, primary="b"), (A, B))
    assert play.out == [ev.Keep(3), ev.Follow(B, 3, resume=True)]


def test_a_winner_that_is_replaced_while_it_opens_its_pool_does_not_claim_it():
    play = opening(B)
    play.take(ev.Hint())
    assert play.read(state(A, B, epoch=3, primary="b"), (A, B)) == []
    assert play.take(ev.Opened()) == [ev.Stop("b is the primary of epoch 3")]


def test_a_winner_that_dies_before_it_serves_is_succeeded_by_another_listed_copy():
    play = Play(B)
    claimed = state(A, B, epoch=2, primary="a")
    play.read(claimed)
    assert not play.changes()
    (change,) = play.read(claimed, after=1)
    assert isinstance(change, ev.Change)
    assert change.new == state(A, B, epoch=3, primary="b")


def test_a_winner_whose_second_change_is_of_unknown_outcome_sends_it_again_before_it_serves():
    play, change = claiming(B)
    play.take(ev.ChangeUnknown(change.serial, "no answer"))
    assert change in play.take(ev.Tick(), 1)
    assert play.made(change) == [ev.Serve()]


@pytest.mark.parametrize(
    "copy", [replace(A, identity="9" * 32), replace(A, identity="")], ids=["other", "none"]
)
def test_the_name_alone_does_not_make_a_candidate(copy):
    play = Play(copy)
    assert play.read(state(A)) == []
    assert play.member.role is Role.STARTING
    assert play.member.trouble


@pytest.mark.parametrize(
    ("group", "epoch", "reason"),
    [("b" * 32, 1, "another group"), (GROUP, 2, "the coordinator has lost changes")],
)
def test_a_state_that_cannot_be_the_groups_is_refused(group, epoch, reason):
    play = Play(group=group, epoch=epoch)
    assert play.read(state(A)) == []
    assert play.member.role is Role.REFUSED
    assert reason in play.member.trouble


def test_a_state_with_a_smaller_number_than_before_is_refused():
    play = Play()
    play.number = 9
    play.read(state(B))
    play.number = 3
    play.take(ev.Tick(), 1)
    play.read(state(A))
    assert play.member.role is Role.REFUSED
    assert not play.changes()


def test_a_missing_state_is_refused_and_nothing_makes_one():
    play = Play()
    play.take(ev.ReadFailed(1, "there is none", damaged=True))
    assert play.member.role is Role.REFUSED
    for _ in range(50):
        assert {type(each) for each in play.take(ev.Tick(), 0.1)} <= {ev.Read}
        if play.out:
            play.take(ev.ReadFailed(play.out[0].serial, "there is none", damaged=True))


def follower() -> Play:
    play = Play(B)
    play.read(state(A, B, epoch=2, primary="a"), (A, B))
    assert play.out == [ev.Keep(2), ev.Follow(A, 2, resume=True)]
    return play


def test_a_mirror_does_not_campaign_while_its_primary_is_registered():
    play = follower()
    for _ in range(20):
        play.read(state(A, B, epoch=2, primary="a"), (A, B), after=1)
        assert not play.changes()
    assert play.member.role is Role.FOLLOWING


def test_a_mirror_does_not_campaign_while_frames_come():
    play = follower()
    for _ in range(20):
        play.take(ev.Heard())
        play.read(state(A, B, epoch=2, primary="a"), (B,), after=0.6)
    assert play.member.role is Role.FOLLOWING


def test_a_candidate_stops_acknowledging_before_it_sends_its_change():
    play = follower()
    play.read(state(A, B, epoch=2, primary="a"), (B,))
    play.read(state(A, B, epoch=2, primary="a"), (B,), after=1)
    assert play.out == [ev.Unfollow()]
    assert not play.changes()
    promised = play.now + SECOND_NS
    assert [type(each) for each in play.take(ev.Unfollowed(promised))] == [ev.Read]
    (change,) = play.read(state(A, B, epoch=2, primary="a"), (B,))
    assert isinstance(change, ev.Change)
    assert change.new == state(A, B, epoch=3, primary="b")
    play.made(change)
    assert play.member.promised == promised
    assert play.take(ev.Tick(), 0.9) == []
    assert [type(each) for each in play.take(ev.Tick(), 0.2)] == [ev.Open]


def test_a_candidate_with_an_unknown_outcome_sends_the_same_change_and_does_not_follow():
    play = Play(B)
    (change,) = play.read(state(A, B, epoch=2))
    play.take(ev.ChangeUnknown(change.serial, "no answer"))
    play.number = change.old.number - 1
    play.read(state(A, B, epoch=2, primary=None), (A, B))
    assert play.out == []
    assert ev.Follow not in play.kinds()
    assert change in play.take(ev.Tick(), 0.5)


def test_a_listed_copy_whose_stream_is_lost_waits_until_it_is_not_listed():
    play = follower()
    play.take(ev.FollowEnded("lost"))
    assert play.out == [ev.Unfollow()]
    play.take(ev.Unfollowed(0))
    for _ in range(5):
        play.read(state(A, B, epoch=2, primary="a"), (A, B), after=1)
        assert ev.Follow not in play.kinds()
    play.read(state(A, epoch=2, primary="a"), (A, B), after=1)
    assert play.out == [ev.Follow(A, 2, resume=False)]


def test_a_mirror_joins_after_its_acknowledgements_are_required_and_one_has_come():
    play = primary()
    (slots,) = play.take(ev.MirrorLevel(1, B))
    assert isinstance(slots, ev.Slots)
    assert (slots.required, slots.in_sync) == ({1}, set())
    assert play.take(ev.Acked(1, 100)) == []
    assert play.take(ev.InForce(slots.serial - 1, 3)) == []
    assert play.take(ev.InForce(slots.serial, 101)) == []
    assert play.take(ev.Acked(1, 100)) == []
    (change,) = play.take(ev.Acked(1, 101))
    assert isinstance(change, ev.Change)
    assert change.new == state(A, B, epoch=2, primary="a")
    (slots,) = play.made(change)
    assert isinstance(slots, ev.Slots)
    assert (slots.required, slots.in_sync) == ({1}, {1})


def test_a_join_of_unknown_outcome_stays_required_although_the_mirror_is_lost():
    play = primary()
    (slots,) = play.take(ev.MirrorLevel(1, B))
    play.take(ev.InForce(slots.serial, 5))
    (change,) = play.take(ev.Acked(1, 5))
    play.take(ev.ChangeUnknown(change.serial, "no answer"))
    play.take(ev.MirrorLost(1))
    assert ev.Slots not in play.kinds()
    play.read(state(A, epoch=2, primary="a"))
    assert ev.Slots not in play.kinds(), "it may take effect later"
    assert change in play.take(ev.Tick(), 1)
    (removal,) = play.made(change)
    assert isinstance(removal, ev.Change)
    assert removal.new == state(A, epoch=2, primary="a")


def test_a_mirror_that_is_lost_stays_required_until_its_removal_is_made():
    play = primary(mirror=True)
    slots, change = play.take(ev.MirrorLost(1))
    assert isinstance(slots, ev.Slots)
    assert isinstance(change, ev.Change)
    assert (slots.required, slots.in_sync) == ({1}, set())
    play.take(ev.ChangeUnknown(change.serial, "no answer"))
    play.read(state(A, B, epoch=2, primary="a"), after=3)
    assert ev.Slots not in play.kinds()
    play.take(ev.Tick(), 1)
    drop, slots = play.made(change)
    assert drop == ev.Drop(1)
    assert isinstance(slots, ev.Slots)
    assert slots.required == set()


def test_one_change_is_under_way_at_a_time():
    play = primary(mirror=True)
    play.take(ev.MirrorLost(1))
    (removal,) = play.changes()
    assert play.take(ev.MirrorLevel(2, C)) == []
    play.made(removal)
    (slots,) = [each for each in play.out if isinstance(each, ev.Slots)][-1:]
    assert slots.required == {2}
    assert not play.changes()


def test_a_primary_that_reads_a_later_epoch_steps_down():
    play = primary(mirror=True)
    play.read(state(B, epoch=3, primary="b"), (A, B))
    assert play.member.role is Role.STOPPING
    assert [type(each) for each in play.out] == [ev.Stop]
    play.take(ev.Stopped())
    play.read(state(B, epoch=3, primary="b"), (A, B))
    assert play.out == [ev.Keep(3), ev.Follow(B, 3, resume=False)]


def test_a_primary_goes_on_without_its_coordinator():
    play = primary(mirror=True)
    play.read(state(A, B, epoch=2, primary="a"), (A, B))
    for _ in range(100):
        play.take(ev.Tick(), 1)
        for each in play.out:
            assert isinstance(each, ev.Read)
            play.serial = 0
            play.take(ev.ReadFailed(each.serial, "no answer"))
    assert play.member.role is Role.PRIMARY
    assert "no answer" in play.member.trouble


def test_a_primary_whose_medium_failed_leaves_after_it_has_stopped():
    play = primary(mirror=True)
    assert play.take(ev.MediumFailed("broken")) == [ev.Stop("broken")]
    (change,) = play.take(ev.Stopped())
    assert isinstance(change, ev.Change)
    assert change.new == state(B, epoch=2)
    assert play.made(change) == [ev.Unregister()]
    assert play.member.role is Role.FAILED
    assert play.member.trouble == "broken"


def test_a_primary_alone_whose_medium_failed_stays_listed():
    play = primary()
    play.take(ev.MediumFailed("broken"))
    assert play.take(ev.Stopped()) == [ev.Unregister()]
    assert play.member.role is Role.FAILED


def test_a_winner_that_cannot_open_gives_the_others_back():
    play = opening(B, C)
    (change,) = play.take(ev.OpenFailed("damaged"))
    assert isinstance(change, ev.Change)
    assert change.new == state(B, C, epoch=2)
    assert play.made(change) == [ev.Unregister()]
    assert play.member.trouble == "damaged"


def test_a_winner_that_cannot_serve_gives_the_others_back():
    play, change = claiming(B, C)
    play.made(change)
    play.take(ev.OpenFailed("can't start new thread"))
    (change,) = play.changes()
    assert change.new == state(B, C, epoch=2)


@pytest.mark.parametrize("made", [True, False], ids=["made", "refused"])
def test_a_medium_that_fails_before_the_pool_is_served_gives_the_others_back(made):
    play, change = claiming(B, C)
    assert play.take(ev.MediumFailed("broken")) == [ev.Stop("broken")]
    assert play.take(ev.Stopped()) == [], "the outcome of its change is not known yet"
    if made:
        play.made(change)
    else:
        play.take(ev.ChangeRefused(change.serial))
        play.read(state(A, B, C, epoch=2, primary="a"))
    (change,) = play.changes()
    assert change.new == state(B, C, epoch=2)


def test_a_primary_that_has_served_gives_none_back():
    play, change = claiming(B, C)
    play.made(change)
    play.take(ev.Served())
    play.take(ev.MediumFailed("broken"))
    assert play.take(ev.Stopped()) == [ev.Unregister()], "only it has what it acknowledged"


def test_a_member_that_connects_again_is_removed_before_it_joins():
    play = primary(mirror=True)
    again = replace(B, identity="7" * 32)
    play.take(ev.MirrorLevel(2, again))
    (change,) = play.changes()
    assert change.new == state(A, epoch=2, primary="a")
    play.made(change)
    (slots,) = [each for each in play.out if isinstance(each, ev.Slots)][-1:]
    assert slots.required == {2}


# What goes wrong


def test_a_candidate_that_cannot_learn_the_outcome_ends_when_its_change_cannot_be_made_any_more():
    play = follower()
    play.take(ev.FollowEnded("lost"))
    play.take(ev.Unfollowed(0))
    old = state(A, B, epoch=2, primary="a")
    play.read(old, (B,))
    (change,) = play.read(old, (B,), after=2)
    for _ in range(3):  # the primary was only slow, and its set has changed often since
        play.take(ev.ChangeUnknown(change.serial, "32 states have followed"))
        play.take(ev.Tick(), 0.1)
    play.number += 40
    play.read(state(A, B, epoch=2, primary="a"), (A, B))
    assert play.member.role is Role.STARTING
    play.read(state(A, epoch=2, primary="a"), (A, B))
    assert play.member.role is Role.FOLLOWING


def test_a_primary_that_does_not_listen_yet_is_tried_again_after_growing_pauses():
    play = Play(B)
    there = state(A, epoch=2, primary="a")
    play.read(there, (A, B))
    asked = []
    for _ in range(400):  # 4 seconds
        for each in play.out:
            asked.append(type(each))
            if isinstance(each, ev.Follow):
                play.take(ev.FollowEnded("no server at a"))
            elif isinstance(each, ev.Unfollow):
                play.take(ev.Unfollowed(0))
            elif isinstance(each, ev.Read):
                play.read(there, (A, B))
            else:
                continue
            break
        else:
            play.take(ev.Tick(), 0.01)
    assert 3 <= asked.count(ev.Follow) <= 8
    assert asked.count(ev.Read) <= 10
    assert "no server at a" in play.member.trouble
    play.take(ev.Hint())
    play.read(there, (A, B))
    assert ev.Follow not in play.kinds(), "a hint does not shorten the pause"


def test_a_candidate_whose_file_is_in_use_keeps_its_epoch_later_and_opens_only_then():
    play = elected(B)
    for _ in range(3):
        assert play.take(ev.KeepFailed("rnvm check has it open", gone=False)) == []
        assert play.take(ev.Tick(), 0.2) == []
        assert play.take(ev.Tick(), 0.1)[0] == ev.Keep(2)
    assert play.take(ev.Tick(), 1) == [ev.Open(2, 0, alone=False)]


def test_a_winner_whose_copy_is_gone_gives_the_others_back():
    play = elected(B)
    *_, change = play.take(ev.KeepFailed("there is no pool", gone=True))
    assert isinstance(change, ev.Change)
    assert change.new == state(B, epoch=2)


def test_a_mirror_whose_file_is_in_use_follows_later():
    play = Play(B)
    play.read(state(A, epoch=2, primary="a"), (A, B))
    assert play.out == [ev.Keep(2), ev.Follow(A, 2, resume=False)]
    play.take(ev.KeepFailed("rnvm check has it open", gone=False))
    assert play.member.role is Role.STARTING
    play.take(ev.Tick(), 1)
    play.read(state(A, epoch=2, primary="a"), (A, B))
    assert play.out == [ev.Keep(2), ev.Follow(A, 2, resume=False)]


@pytest.mark.parametrize("identity", ["0" * 32, A.identity, B.identity], ids=["none", "own", "b"])
def test_a_mirror_with_an_identity_that_cannot_be_its_own_is_dropped(identity):
    play = primary(mirror=True)
    assert play.take(ev.MirrorLevel(2, Listed("c", identity))) == [ev.Drop(2)]
    assert play.member.role is Role.PRIMARY


def test_a_medium_that_fails_while_the_pool_is_opened_stops_it_before_another_one_may_answer():
    play = opening(B)
    assert play.take(ev.MediumFailed("broken")) == []
    assert play.take(ev.Opened()) == [ev.Stop("broken")]
    (change,) = play.take(ev.Stopped())
    assert isinstance(change, ev.Change)
    assert change.new == state(B, epoch=2), "it has answered nothing"


def test_a_medium_that_fails_before_the_pool_is_open_gives_the_others_back():
    play = opening(B)
    play.take(ev.MediumFailed("broken"))
    (change,) = play.take(ev.OpenFailed("broken"))
    assert isinstance(change, ev.Change)
    assert change.new == state(B, epoch=2)
