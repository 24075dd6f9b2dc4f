"""Searches for one order of all steps of a history that agrees with all answers and all times.

The search processes the history in order of time and keeps every possible configuration: a state of
the model, and for each step in progress, how many of its calls have taken effect. When a step ends,
each configuration in which it has not taken effect yet is replaced by all configurations in which
it has just done so, after any of the others in progress (just-in-time linearization: Wing and
Gong's search with Lowe's memo of state and completed steps). At a quiescent moment only the
possible states are left, so the length of a history is not limited.

A call without an answer may never happen, so it stays in progress for ever. A configuration in
which it may still happen covers the same state in which it has happened. Only the former is kept,
so unanswered calls do not multiply the configurations.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from .history import FOREVER, Call, Step

CONFIGURATIONS_MAX = 20_000  # at one moment; with more of them the history is undecided


class Model(Protocol):
    """The state of one object, or of several that one step may change."""

    def begin(self) -> Iterable[Hashable]:
        """Return the possible states at the beginning."""

    def changes(self, call: Call) -> bool:
        """Whether a call with this answer may change any state."""

    def after(self, state: Any, call: Call) -> Iterable[Hashable]:
        """Return all possible states after this call and its answer.

        Returns: no state if the call cannot give that answer. UNKNOWN means any answer.
        """


@dataclass
class Verdict:
    """The result: legal, or a step without explanation and the steps before it, or undecided."""

    legal: bool
    decided: bool = True
    steps: int = 0
    most: int = 0
    reason: str = ""
    found: list[Step] = field(default_factory=list)

    def __bool__(self) -> bool:
        return self.legal


# Number of a step in progress, and the number of its calls that have taken effect.
Done = frozenset[tuple[int, int]]


class _Search:
    def __init__(self, steps: list[Step], model: Model) -> None:
        self.steps, self.model = steps, model
        self.under_way: dict[int, int] = {}  # number of a step -> calls of it that have begun
        self.configurations: set[tuple[Hashable, Done]] = {
            (state, frozenset()) for state in model.begin()
        }
        self.cache: dict[tuple[Hashable, int, int, int], frozenset[Hashable]] = {}
        self.kinds: dict[tuple[int, int], tuple[Any, ...]] = {}
        self.harmless: dict[int, bool] = {}
        self.most = 0

    def states(self, state: Hashable, step: Step, first: int, last: int) -> frozenset[Hashable]:
        """Return the states after calls first to last (not included) of a step."""
        key = (state, step.number, first, last)
        found = self.cache.get(key)
        if found is None:
            states = {state}
            for call in step.calls[first:last]:
                states = {after for before in states for after in self.model.after(before, call)}
                if not states:
                    break
            found = self.cache[key] = frozenset(states)
        return found

    def free(self, step: Step) -> bool:
        found = self.harmless.get(step.number)
        if found is None:
            found = step.end != FOREVER and not any(self.model.changes(call) for call in step.calls)
            self.harmless[step.number] = found
        return found

    def moves(self, state: Hashable, done: Done) -> list[tuple[Hashable, Done]]:
        """Return the possible next configurations.

        A step that changes no state takes effect as soon as it can: it excludes no other step.
        """
        progress = dict(done)
        found: list[tuple[Hashable, Done]] = []
        tried: set[tuple[Any, ...]] = set()
        for number, begun in self.under_way.items():
            step = self.steps[number]
            at = progress.get(number, 0)
            if at == len(step.calls):
                continue
            # Of several equal steps without an end, it is enough to try the first.
            if step.end == FOREVER and not step.due:
                kind = self.kind(number, at)
                if kind in tried:
                    continue
                tried.add(kind)
            for cut in step.cuts:
                if cut <= at or (cut > begun and len(step.cuts) > 1):
                    continue
                new = (done - {(number, at)}) | {(number, cut)}
                for after in self.states(state, step, at, cut):
                    if after == state and cut == len(step.calls) and self.free(step):
                        return [(after, new)]
                    if after != state or step.due > at:
                        found.append((after, new))
        return found

    def end(self, number: int) -> bool:
        """End the step: all its calls have taken effect."""
        mark = (number, len(self.steps[number].calls))
        reached = {
            (state, done - {mark})
            for state, done in self.reach(number, len(self.steps[number].calls))
        }
        del self.under_way[number]
        self.configurations = self.worth(reached)
        self.most = max(self.most, len(self.configurations))
        if len(self.cache) > 100_000:
            self.cache.clear()
        return bool(reached)

    def owed(self, number: int) -> bool:
        """Let the acknowledged calls of a step without an end take effect."""
        self.configurations = self.reach(number, self.steps[number].due)
        return bool(self.configurations)

    def reach(self, number: int, wanted: int) -> set[tuple[Hashable, Done]]:
        """Return the nearest configurations in which so many calls of the step took effect."""
        reached: set[tuple[Hashable, Done]] = set()
        todo = list(self.configurations)
        seen = set(todo)
        while todo:
            state, done = todo.pop()
            if any(each == number and at >= wanted for each, at in done):
                reached.add((state, done))
                continue
            for move in self.moves(state, done):
                if move not in seen:
                    seen.add(move)
                    todo.append(move)
            if len(seen) > CONFIGURATIONS_MAX:
                raise OverflowError
        return reached

    def worth(self, configurations: set[tuple[Hashable, Done]]) -> set[tuple[Hashable, Done]]:
        """Drop each configuration that another one covers.

        The other one has the same state, and has spent fewer of the calls that need not happen.
        """
        if not any(
            self.steps[number].due == 0
            for number in self.under_way
            if self.steps[number].end == FOREVER
        ):
            return configurations
        groups: dict[tuple[Hashable, Done], list[frozenset[Any]]] = {}
        for state, done in configurations:
            free, bound = set(), set()
            for number, at in done:
                step = self.steps[number]
                (free if step.end == FOREVER and not step.due else bound).add((number, at))
            groups.setdefault((state, frozenset(bound)), []).append(frozenset(free))
        kept = set()
        for (state, bound), all_free in groups.items():
            least: list[frozenset[Any]] = []
            for free in sorted(set(all_free), key=len):
                if not any(self.covers(other, free) for other in least):
                    least.append(free)
            kept |= {(state, bound | free) for free in least}
        return kept

    def kind(self, number: int, at: int) -> tuple[Any, ...]:
        """Return a key that is equal for two steps with the same effect at any time."""
        found = self.kinds.get((number, at))
        if found is None:
            calls = self.steps[number].calls
            found = (
                at,
                *(
                    (
                        call.name,
                        call.arguments,
                        call.answer,
                        call.begin if call.name == "touch" else 0,
                    )
                    for call in calls
                ),
            )
            self.kinds[number, at] = found
        return found

    def covers(self, less: frozenset[tuple[int, int]], more: frozenset[tuple[int, int]]) -> bool:
        """Whether the spent calls of `less` are part of those of `more`, compared by kind."""
        if less <= more:
            return True
        left = [self.kind(*each) for each in more - less]
        for each in less - more:
            if self.kind(*each) not in left:
                return False
            left.remove(self.kind(*each))
        return True


def check(steps: Iterable[Step], model: Model, *, shown: int = 12) -> Verdict:
    """Search for one order; if there is none, the verdict names the first unexplained step."""
    steps = sorted(steps, key=lambda step: step.begin)
    # Time; 0: a call begins, 1: a step ends, 2: a step is owed; number of the step; calls begun.
    events: list[tuple[int, int, int, int]] = []
    for number, step in enumerate(steps):
        step.number = number
        events += [(call.begin, 0, number, begun) for begun, call in enumerate(step.calls, 1)]
        if step.end != FOREVER:
            events.append((step.end, 1, number, 0))
        elif step.due:
            events.append((step.owed, 2, number, 0))
    events.sort()  # a call that begins at the moment at which a step ends overlaps it
    search = _Search(steps, model)
    verdict = Verdict(True, steps=len(steps))
    ended: list[int] = []
    for _, event, number, begun in events:
        if not event:
            search.under_way[number] = begun
            continue
        before = search.configurations
        try:
            explained = search.end(number) if event == 1 else search.owed(number)
        except OverflowError:
            return Verdict(
                True,
                decided=False,
                steps=len(ended),
                most=CONFIGURATIONS_MAX,
                reason="too many configurations",
            )
        if not explained:
            around = [steps[other] for other in ended[-shown:]]
            beside = [steps[other] for other in search.under_way if other != number]
            lines = [
                "no order explains:",
                f"  {steps[number]}",
                "in progress at that time:",
                *(f"  {step}" for step in beside),
                "ended before:",
                *(f"  {step}" for step in around),
                "possible states at that time:",
                *(f"  {state!r}" for state in list({state for state, _ in before})[:5]),
            ]
            return Verdict(
                False,
                steps=len(ended),
                most=search.most,
                reason="\n".join(lines),
                found=[steps[number]],
            )
        ended.append(number)
    verdict.most = search.most
    return verdict
