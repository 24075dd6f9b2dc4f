"""Says whether there is one order of all steps of a history that agrees with every answer and with the order in time.

Goes through the history in the order in time and keeps all that may be: configurations, each a state of the model and what of the
steps under way has taken effect.  Where a step ends, each configuration in which it has not taken effect yet is replaced by all in
which it just did, after any of the others under way (just-in-time linearization: Wing and Gong's search with Lowe's memo on state and
steps that are done).  So at a quiescent moment nothing is left but the possible states, and a history may be as long as it likes.

What may never happen (a call without an answer) stays under way for ever.  A configuration that still has it to come is worth more than
the same state without, so only the former is kept, and unanswered calls do not multiply what may be.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from .history import FOREVER, Call, Step

MOST = 20_000  # configurations at one moment; beyond them nothing is decided


class Model(Protocol):
    """One object, or several that are changed in one step."""

    def begin(self) -> Iterable[Hashable]:
        """The states in which it may be at first."""

    def changes(self, call: Call) -> bool:
        """Whether a call with this answer may change any state."""

    def after(self, state: Any, call: Call) -> Iterable[Hashable]:
        """All states in which it may be after this call gave its answer; none if it cannot give that.  UNKNOWN is any answer."""


@dataclass
class Verdict:
    """What was found: legal, or the step that cannot be explained, with what led to it; or too much to decide."""

    legal: bool
    decided: bool = True
    steps: int = 0
    most: int = 0
    told: str = ""
    found: list[Step] = field(default_factory=list)

    def __bool__(self) -> bool:
        return self.legal


Done = frozenset[tuple[int, int]]  # number of a step under way, calls of it that have taken effect


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
        """Where calls first to last (not included) of a step lead."""
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
        """What may happen next.  A step that never changes anything happens as soon as it can: it stands in nobody's way."""
        progress = dict(done)
        found: list[tuple[Hashable, Done]] = []
        tried: set[tuple[Any, ...]] = set()
        for number, begun in self.under_way.items():
            step = self.steps[number]
            at = progress.get(number, 0)
            if at == len(step.calls):
                continue
            if (
                step.end == FOREVER and not step.due
            ):  # of several that do the same, the first will do
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
        """The step ends: what it did has taken effect."""
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
        """What was acknowledged of a step without an end has taken effect."""
        self.configurations = self.reach(number, self.steps[number].due)
        return bool(self.configurations)

    def reach(self, number: int, wanted: int) -> set[tuple[Hashable, Done]]:
        """The nearest configurations in which so many calls of the step have taken effect."""
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
            if len(seen) > MOST:
                raise OverflowError
        return reached

    def worth(self, configurations: set[tuple[Hashable, Done]]) -> set[tuple[Hashable, Done]]:
        """Without those that are another one with less of what need not happen."""
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
        """The same for two steps that do the same whenever they happen."""
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
        """Whether what `less` has spent is part of what `more` has; two that do the same are worth the same."""
        if less <= more:
            return True
        left = [self.kind(*each) for each in more - less]
        for each in less - more:
            if self.kind(*each) not in left:
                return False
            left.remove(self.kind(*each))
        return True


def check(steps: Iterable[Step], model: Model, *, shown: int = 12) -> Verdict:
    """Searches for an order; what is said about a history that has none names the first step that nothing explains."""
    steps = sorted(steps, key=lambda step: step.begin)
    events: list[
        tuple[int, int, int, int]
    ] = []  # time; 0: a call begins, 1: a step ends, 2: it is owed; step; calls begun
    for number, step in enumerate(steps):
        step.number = number
        events += [(call.begin, 0, number, begun) for begun, call in enumerate(step.calls, 1)]
        if step.end != FOREVER:
            events.append((step.end, 1, number, 0))
        elif step.due:
            events.append((step.owed, 2, number, 0))
    events.sort()  # what begins at the moment at which another ends overlaps it
    search = _Search(steps, model)
    verdict = Verdict(True, steps=len(steps))
    ended: list[int] = []
    for _, what, number, begun in events:
        if not what:
            search.under_way[number] = begun
            continue
        before = search.configurations
        try:
            explained = search.end(number) if what == 1 else search.owed(number)
        except OverflowError:
            return Verdict(
                True, decided=False, steps=len(ended), most=MOST, told="too many configurations"
            )
        if not explained:
            around = [steps[other] for other in ended[-shown:]]
            beside = [steps[other] for other in search.under_way if other != number]
            lines = ["nothing explains:", f"  {steps[number]}", "under way then:", *(f"  {step}" for step in beside),
                     "ended before:", *(f"  {step}" for step in around), "what may have been then:",
                     *(f"  {state!r}" for state in list({state for state, _ in before})[:5])]  # fmt: skip
            return Verdict(
                False,
                steps=len(ended),
                most=search.most,
                told="\n".join(lines),
                found=[steps[number]],
            )
        ended.append(number)
    verdict.most = search.most
    return verdict
