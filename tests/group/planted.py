"""Faults: each takes one sentence out of the design.  The simulation must find every one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from rnvm.group import events as ev
from rnvm.group.member import Member, Role, Stage
from rnvm.group.serving import Serving
from rnvm.group.state import GroupState

from .simulation import Front, Process, Simulation

FAULTS: dict[str, Callable[[Simulation], None]] = {}


def fault(plant: Callable[[Simulation], None]) -> Callable[[Simulation], None]:
    FAULTS[plant.__name__] = plant
    return plant


def of_member(sim: Simulation, **methods: Any) -> None:
    sim.member_class = type("Planted", (sim.member_class,), methods)


def of_serving(sim: Simulation, **methods: Any) -> None:
    sim.serving_class = type("Planted", (Serving,), methods)


def of_process(sim: Simulation, **methods: Any) -> None:
    sim.process_class = type("Planted", (Process,), methods)


# Joining and leaving


@fault
def a_mirror_joins_before_its_acknowledgements_are_required(sim: Simulation) -> None:
    def advance(self: Member, now: int) -> None:
        Member._advance(self, now)
        for mirror in self.mirrors.values():
            if mirror.stage is Stage.JOINING and self._change is None and self.seen is not None:
                mirror.stage = Stage.ADDING
                self._send(self.seen.state.with_mirror(mirror.listed), now)

    of_member(sim, _advance=advance)


@fault
def a_joining_mirror_is_not_waited_for(sim: Simulation) -> None:
    def require(self: Serving, slots: Any, now: int, *, in_sync: int = 0) -> int:
        known = frozenset(slots) if in_sync == len(slots) else frozenset()
        return Serving.require(self, known, now, in_sync=in_sync)

    of_serving(sim, require=require)


@fault
def a_mirror_joins_without_an_acknowledgement_since_it_is_required(sim: Simulation) -> None:
    def in_force(self: Member, event: ev.InForce, now: int) -> None:
        Member._in_force(self, replace(event, frame=0), now)

    handle(sim, ev.InForce, in_force)


@fault
def a_leaving_mirror_is_not_waited_for(sim: Simulation) -> None:
    def lost(self: Member, event: ev.MirrorLost, now: int) -> None:
        Member._mirror_lost(self, event, now)
        mirror = self.mirrors.get(event.slot)
        if mirror is not None and mirror.stage in (Stage.LEAVING, Stage.REMOVING):
            left = {s for s, m in self.mirrors.items() if not m.lost}
            self._slots += 1
            self._do(ev.Slots(self._slots, frozenset(left), frozenset(left)))

    handle(sim, ev.MirrorLost, lost)


@fault
def a_removal_of_unknown_outcome_is_taken_for_made(sim: Simulation) -> None:
    def unknown(self: Member, event: ev.ChangeUnknown, now: int) -> None:
        change = self._change
        if self.role is Role.PRIMARY and change is not None:
            assert self.seen is not None
            seen = replace(self.seen, state=change.action.new)
            Member._change_made(self, ev.ChangeMade(event.serial, seen), now)
        else:
            Member._change_unknown(self, event, now)

    handle(sim, ev.ChangeUnknown, unknown)


@fault
def a_listed_copy_is_overwritten(sim: Simulation) -> None:
    def choose(self: Member, seen: ev.Seen, now: int) -> None:
        self._unresumable = None
        Member._choose(self, seen, now)
        self._out = [
            replace(each, resume=False) if isinstance(each, ev.Follow) else each
            for each in self._out
        ]

    of_member(sim, _choose=choose)


# Elections


@fault
def a_winner_does_not_wait_for_its_promise(sim: Simulation) -> None:
    def tick(self: Member, event: ev.Tick, now: int) -> None:
        self.promised = 0
        Member._tick(self, event, now)

    handle(sim, ev.Tick, tick)


@fault
def a_process_forgets_what_the_one_before_promised(sim: Simulation) -> None:
    def begin(self: Member, now: int) -> list[ev.Action]:
        self.promised = 0
        return Member.begin(self, now)

    of_member(sim, begin=begin)


@fault
def a_copy_that_was_removed_may_be_opened(sim: Simulation) -> None:
    def choose(self: Member, seen: ev.Seen, now: int) -> None:
        if self.copy.identity and not self.listed:
            others = [each for each in seen.state.in_sync if each.member != self.copy.member]
            state = replace(seen.state, in_sync=(self.copy.listed, *others))
            seen = self.seen = replace(seen, state=state)
        Member._choose(self, seen, now)

    of_member(sim, _choose=choose)


@fault
def an_election_keeps_the_others_in_sync(sim: Simulation) -> None:
    def send(self: Member, new: GroupState, now: int) -> None:
        if self.role is Role.CLAIMING:
            assert self.seen is not None
            new = replace(new, in_sync=self.seen.state.in_sync)
        Member._send(self, new, now)

    of_member(sim, _send=send)


@fault
def a_winner_serves_although_another_one_was_elected(sim: Simulation) -> None:
    def refused(self: Member, event: ev.ChangeRefused, now: int) -> None:
        if self.role is Role.CLAIMING and self._change is not None:
            new = replace(self._change.action.old, state=self._change.action.new)
            Member._change_made(self, ev.ChangeMade(event.serial, new), now)
        else:
            Member._change_refused(self, event, now)

    handle(sim, ev.ChangeRefused, refused)


@fault
def a_winner_serves_before_it_is_listed_alone(sim: Simulation) -> None:
    def do_change(self: Process, action: ev.Change) -> None:
        if self.machine.role is Role.CLAIMING:
            self.do_serve(ev.Serve())
        Process.do_change(self, action)

    def do_serve(self: Process, action: ev.Serve) -> None:
        if self.front is None and self.opening is not None:
            Process.do_serve(self, action)
        else:
            self.later(0, lambda: self.event(ev.Served()))

    of_process(sim, do_change=do_change, do_serve=do_serve)


@fault
def a_copy_is_moved_away_before_the_primary_answers(sim: Simulation) -> None:
    def do_follow(self: Process, action: ev.Follow) -> None:
        if not action.resume:
            self.pool.there = False
        Process.do_follow(self, action)

    sim.open_fails = 0.5  # it is needed only if the primary cannot serve
    of_process(sim, do_follow=do_follow)


@fault
def an_election_keeps_the_epoch(sim: Simulation) -> None:
    def send(self: Member, new: GroupState, now: int) -> None:
        if self.role is Role.CANDIDATE:
            new = replace(new, epoch=new.epoch - 1)
        Member._send(self, new, now)

    def made(self: Member, event: ev.ChangeMade, now: int) -> None:
        self.epoch = event.seen.state.epoch
        Member._change_made(self, event, now)

    of_member(sim, _send=send)
    handle(sim, ev.ChangeMade, made)


@fault
def a_primary_that_has_answered_gives_the_copies_before_back(sim: Simulation) -> None:
    def served(self: Member, event: ev.Served, now: int) -> None:
        self._kept_before = self._before
        Member._served(self, event, now)

    def failed(self: Member, event: ev.MediumFailed, now: int) -> None:
        Member._medium_failed(self, event, now)
        self._before = getattr(self, "_kept_before", None)

    handle(sim, ev.Served, served)
    handle(sim, ev.MediumFailed, failed)


# The promise


@fault
def a_primary_alone_serves_without_limit(sim: Simulation) -> None:
    def poll(self: Serving, now: int, *, min_mirrors: int = 0) -> None:
        Serving.poll(self, now, min_mirrors=min_mirrors)
        if not self._slots:
            self.until = max(self.until, now + 3600 * 1_000_000_000)

    of_serving(sim, poll=poll)


@fault
def reads_do_not_look_at_the_serving_word(sim: Simulation) -> None:
    class Always(Front):
        def serves(self, _until: int) -> bool:
            return True

    sim.front_class = Always


# Data


@fault
def a_mirror_acknowledges_before_it_has_the_frame(sim: Simulation) -> None:
    def take_frame(self: Process, front: Front, number: int) -> None:
        Process.take_frame(self, front, max(0, number - 2))

    of_process(sim, take_frame=take_frame)


@fault
def an_old_primary_joins_without_comparison(sim: Simulation) -> None:
    def erase(self: Process) -> None:
        log = self.pool.log
        Process.erase(self)
        self.pool.log = log

    def take_frame(self: Process, front: Front, number: int) -> None:
        log = self.pool.log
        self.pool.log = log + front.log[len(log) : front.lengths[number]]

    of_process(sim, erase=erase, take_frame=take_frame)


@fault
def fewer_mirrors_than_asked_for_are_enough(sim: Simulation) -> None:
    def poll(self: Serving, now: int, *, min_mirrors: int = 0) -> None:
        Serving.poll(self, now, min_mirrors=0)

    of_serving(sim, poll=poll)


def handle(sim: Simulation, kind: type, handler: Callable[..., None]) -> None:
    """Let a machine handle one kind of event in another way."""
    base = sim.member_class

    def take(self: Member, event: ev.Event, now: int) -> list[ev.Action]:
        if type(event) is kind:
            handler(self, event, now)
            return self._take_out()
        return base.take(self, event, now)

    of_member(sim, take=take)
