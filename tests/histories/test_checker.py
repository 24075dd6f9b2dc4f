"""The checker's verdicts on histories that are known to be legal or wrong."""

from __future__ import annotations

import pytest

from .checker import check
from .group_model import DONE, NOTHING, Group
from .history import FOREVER, UNKNOWN, Call, Step, single
from .key_model import MISMATCH, MS, Key
from .recorder import Recorder, block_of, lines, name_of, snapshot_of, steps_of, value_of
from .store_runs import versions
from .structure_runs import without_traces

N = NOTHING
GROUP = Group(["queue", "table", "tree"])


def one(name, arguments, answer, begin, end=FOREVER, caller="p"):
    return single(caller, name, arguments, answer, begin, end)


def together(kind, calls, begin, end, *, outcome="well", whole=True, owed=FOREVER):
    """A batch or a transaction: each of its calls takes a tenth of its time."""
    length = (end - begin) // 10 if end != FOREVER else 1
    listed = [
        Call(name, arguments, answer, begin + at * length, begin + (at + 1) * length - 1)
        for at, (name, arguments, answer) in enumerate(calls)
    ]
    steps = block_of("p", kind, listed, end, outcome, whole)
    for step in steps:
        step.owed = owed
    return steps


def put(value, version, begin, end, ttl=None):
    return one("put", ("k", value, ttl), version, begin, end)


def get(answer, begin, end):
    return one("get", ("k",), answer, begin, end)


LEGAL_KEYS = {
    "a read during a put sees the old value or the new one": [
        put("a", 5, 0, 10),
        put("b", 6, 20, 50),
        get("a", 30, 40),
        get("b", 32, 42),
    ],
    "an unanswered put happens late": [
        put("a", 5, 0, 10),
        one("put", ("k", "b", None), UNKNOWN, 20),
        get("a", 30, 40),
        get("b", 50, 60),
    ],
    "an unanswered put never happens": [
        put("a", 5, 0, 10),
        one("put", ("k", "b", None), UNKNOWN, 20),
        get("a", 30, 40),
        get("a", 50, 60),
    ],
    "two counts at once": [
        one("incr", ("n", 1), 2, 0, 20),
        one("incr", ("n", 1), 1, 0, 20),
        get("2", 30, 40),
    ],
    "a refused CAS returns the present version": [
        put("a", 5, 0, 10),
        one("put_if_version", ("k", "b", None, 4), (MISMATCH, 5), 20, 30),
        get("a", 40, 50),
    ],
    "a count changes the version": [
        one("incr", ("k", 1), 1, 0, 10),
        one("item", ("k",), ("1", 7), 20, 30),
        one("put_if_version", ("k", "b", None, 7), 9, 40, 50),
    ],
    "a value expires": [
        put("a", 5, 0, 10, ttl=0.005),
        get("a", 4 * MS, 4 * MS + 1),
        get(N, 5 * MS, 5 * MS + 20),
    ],
    "a touch extends the time to live": [
        put("a", 5, 0, 10, ttl=0.005),
        one("touch", ("k", 0.1), True, 100, 200),
        get("a", 90 * MS, 91 * MS),
    ],
    "a restart removes all values": [
        put("a", 5, 0, 10),
        one("reset", (), None, 20, 40),
        get("a", 22, 30),
        get(N, 32, 50),
        put("b", 9, 60, 70),
    ],
    "a delete during a get": [
        put("a", 5, 0, 10),
        one("delete", ("k",), True, 20, 40),
        get(N, 22, 28),
        get(N, 30, 50),
    ],
}
ILLEGAL_KEYS = {
    "a stale read": [put("a", 5, 0, 10), put("b", 6, 20, 30), get("a", 40, 50)],
    "a read that goes back": [
        put("a", 5, 0, 10),
        put("b", 6, 20, 90),
        get("b", 30, 40),
        get("a", 50, 60),
    ],
    "a lost update": [put("a", 5, 0, 10), put("b", 6, 20, 30), get(N, 40, 50)],
    "a lost count": [one("incr", ("n", 1), 1, 0, 20), one("incr", ("n", 1), 1, 0, 20)],
    "a value that reappears after a delete": [
        put("a", 5, 0, 10),
        one("delete", ("k",), True, 20, 30),
        get("a", 40, 50),
    ],
    "a value that reappears after a get that found none": [
        put("a", 5, 0, 10),
        one("delete", ("k",), UNKNOWN, 20),
        get(N, 40, 50),
        get("a", 60, 70),
    ],
    "a version assigned twice": [put("a", 5, 0, 10), put("b", 5, 20, 30)],
    "a version that decreases": [put("a", 5, 0, 10), put("b", 4, 20, 30)],
    "a version that decreases after a delete": [
        put("a", 5, 0, 10),
        one("delete", ("k",), True, 20, 30),
        put("b", 4, 40, 50),
    ],
    "success of both of two CAS": [
        put("a", 5, 0, 10),
        one("put_if_version", ("k", "b", None, 5), 6, 20, 40),
        one("put_if_version", ("k", "c", None, 5), 7, 20, 40),
    ],
    "success of both of two put_if_absent": [
        one("put_if_absent", ("k", "b", None), 6, 20, 40),
        one("put_if_absent", ("k", "c", None), 7, 20, 40),
    ],
    "a CAS refused for its own version": [
        put("a", 5, 0, 10),
        one("put_if_version", ("k", "b", None, 5), (MISMATCH, 5), 20, 30),
    ],
    "a value that expires too early": [put("a", 5, 0, 10, ttl=0.005), get(N, 3 * MS, 4 * MS)],
    "a value that expires too late": [put("a", 5, 0, 10, ttl=0.005), get("a", 50 * MS, 51 * MS)],
    "a value that reappears after it expired": [
        put("a", 5, 0, 10, ttl=0.005),
        get(N, 5 * MS, 6 * MS),
        get("a", 7 * MS, 8 * MS),
    ],
    "the old value after a restart": [
        put("a", 5, 0, 10),
        one("reset", (), None, 20, 40),
        get("a", 50, 60),
    ],
    "an unanswered put that happens twice": [
        one("put", ("k", "b", None), UNKNOWN, 0),
        get("b", 10, 20),
        put("c", 7, 30, 40),
        get("b", 50, 60),
    ],
    "an item with another version than its put": [
        put("a", 5, 0, 10),
        one("item", ("k",), ("a", 6), 20, 30),
    ],
    "a mixture of two values": [put("a", 5, 0, 10), get("torn: a 3", 20, 30)],
    "a value that no put stored": [put("a", 5, 0, 10), get("b", 20, 30)],
}


@pytest.mark.parametrize("name", LEGAL_KEYS)
def test_a_legal_history_of_a_key_is_explained(name):
    verdict = check(LEGAL_KEYS[name], Key())
    assert verdict.decided
    assert verdict.legal, verdict.reason


@pytest.mark.parametrize("name", ILLEGAL_KEYS)
def test_a_wrong_history_of_a_key_is_found(name):
    verdict = check(ILLEGAL_KEYS[name], Key())
    assert not verdict.legal
    assert verdict.reason


def test_a_value_may_be_evicted_at_any_moment_and_stays_absent():
    evicted = [put("a", 5, 0, 10), get(N, 20, 30)]
    assert check(evicted, Key(evicts=True)).legal
    assert not check(evicted, Key()).legal
    assert not check([*evicted, get("a", 40, 50)], Key(evicts=True)).legal
    assert not check(
        [put("a", 5, 0, 10), put("b", 6, 20, 30), get("a", 40, 50)], Key(evicts=True)
    ).legal
    assert check(
        [one("incr", ("k", 1), 1, 0, 10), one("incr", ("k", 1), 1, 20, 30)], Key(evicts=True)
    ).legal


def test_versions_of_different_keys_are_compared():
    def puts(*versions_and_times):
        return [
            Call("put", ("k", "v", None), version, begin, end)
            for version, begin, end in versions_and_times
        ]

    assert versions(puts((5, 0, 10), (7, 5, 15), (6, 7, 20), (8, 16, 30))).legal
    assert not versions(puts((5, 0, 10), (5, 20, 30))).legal
    assert not versions(puts((6, 0, 10), (5, 20, 30))).legal


SET = "set"


def snapshot(reads, begin, end):
    return snapshot_of(
        "p",
        [Call(name, arguments, answer, end, end) for name, arguments, answer in reads],
        begin,
        end,
    )


LEGAL_GROUPS = {
    "a snapshot that is read late": [
        one(SET, ("table", "k", "a"), None, 0, 9),
        *snapshot([("get", ("table", "k"), "a"), ("items", ("tree",), ())], 10, 19),
        one(SET, ("table", "k", "b"), None, 20, 29),
        one(SET, ("tree", "k", "c"), None, 30, 39),
    ],
    "the ends of a mapping": [
        one(SET, ("tree", "k", "a"), None, 0, 9),
        one(SET, ("tree", "l", "b"), None, 10, 19),
        one("poplast", ("tree",), ("l", "b"), 20, 29),
        one("popfirst", ("tree",), ("k", "a"), 30, 39),
        one("poplast", ("tree",), N, 40, 49),
    ],
    "a get that passes over a delayed value": [
        one("later", ("queue", "a"), None, 0, 9),
        one("put", ("queue", "b"), None, 10, 19),
        one("get", ("queue",), "b", 20, 29),
        one("get", ("queue",), N, 30, 39),
        one("drain", ("queue",), "a", 40, 49),
        one("drain", ("queue",), N, 50, 59),
    ],
    "first in, first out": [
        one("put", ("queue", "a"), None, 0, 9),
        one("put", ("queue", "b"), None, 10, 19),
        one("get", ("queue",), "a", 20, 29),
        one("peek", ("queue",), "b", 30, 39),
        one("get", ("queue",), "b", 40, 49),
    ],
    "a value that came back is given out first": [
        one("put", ("queue", "a"), None, 0, 9),
        one("put", ("queue", "b"), None, 10, 19),
        one("reserve", ("queue",), ("01", "a"), 20, 29),
        one("nack", ("queue", "01"), DONE, 30, 39),
        one("get", ("queue",), "a", 40, 49),
        one("ack", ("queue", "01"), NOTHING, 50, 59),
    ],
    "a transaction over two structures": [
        one(SET, ("table", "k", "a"), None, 0, 9),
        *together(
            "transaction", [("pop", ("table", "k"), "a"), (SET, ("tree", "k", "a"), None)], 10, 100
        ),
        one("get", ("table", "k"), "a", 20, 50),
        one("get", ("tree", "k"), N, 30, 50),
        one("get", ("tree", "k"), "a", 60, 70),
    ],
    "a batch is seen at its end": [
        *together(
            "batch", [(SET, ("table", "k", "a"), None), (SET, ("table", "l", "b"), None)], 0, 100
        ),
        one("get", ("table", "k"), N, 30, 50),
        one("get", ("table", "l"), "b", 60, 70),
        one("get", ("table", "k"), "a", 80, 90),
    ],
    "a read of a batch before its first change is a read outside": [
        *together("batch", [("get", ("table", "k"), N), (SET, ("table", "l", "b"), None)], 0, 100),
        one(SET, ("table", "k", "a"), None, 12, 20),
        one("get", ("table", "l"), N, 30, 40),
    ],
    "a killed batch is visible later": [
        *together(
            "batch",
            [(SET, ("table", "k", "a"), None), (SET, ("table", "l", "b"), UNKNOWN)],
            0,
            FOREVER,
            outcome="cut",
            owed=55,
        ),
        one("get", ("table", "k"), N, 30, 50),
        one("get", ("table", "k"), "a", 60, 70),
    ],
    "a batch over two structures is seen in pieces": [
        *together(
            "batch", [(SET, ("table", "k", "a"), None), (SET, ("tree", "l", "b"), None)], 0, 100
        ),
        one("pop", ("table", "k"), "a", 51, 60),
        one("get", ("tree", "l"), N, 70, 80),
    ],
    "a batch that lost its session is seen in pieces": [
        *together(
            "batch",
            [(SET, ("table", "k", "a"), None), (SET, ("table", "l", "b"), None)],
            0,
            100,
            whole=False,
        ),
        one("get", ("table", "k"), "a", 30, 50),
        one("pop", ("table", "k"), "a", 51, 60),
        one("get", ("table", "l"), N, 70, 80),
    ],
    "a batch whose changes cancel each other happens at the only possible moment": [
        *together(
            "batch", [(SET, ("table", "k", "b"), None), ("pop", ("table", "k"), "b")], 0, 100
        ),
        one(SET, ("table", "k", "a"), None, 10, 20),
        one("get", ("table", "k"), "a", 30, 40),
        one("get", ("table", "k"), N, 110, 120),
    ],
    "an unanswered reservation": [
        one("put", ("queue", "a"), None, 0, 9),
        one("put", ("queue", "b"), None, 10, 19),
        one("reserve", ("queue",), UNKNOWN, 20),
        one("get", ("queue",), "b", 30, 39),
        one("get", ("queue",), N, 40, 49),
    ],
}
ILLEGAL_GROUPS = {
    "a snapshot of two moments": [
        one(SET, ("table", "k", "a"), None, 0, 9),
        one(SET, ("tree", "k", "c"), None, 10, 49),
        *snapshot([("get", ("table", "k"), "a"), ("get", ("tree", "k"), "c")], 20, 59),
        one(SET, ("table", "k", "b"), None, 60, 69),
        *snapshot([("get", ("table", "k"), "a"), ("get", ("tree", "k"), "c")], 70, 79),
    ],
    "a snapshot that shows a later change": [
        *snapshot([("get", ("table", "k"), "a")], 0, 9),
        one(SET, ("table", "k", "a"), None, 10, 19),
    ],
    "an item that is not at the end": [
        one(SET, ("tree", "k", "a"), None, 0, 9),
        one(SET, ("tree", "l", "b"), None, 10, 19),
        one("poplast", ("tree",), ("k", "a"), 20, 29),
    ],
    "a lost delayed value": [
        one("later", ("queue", "a"), None, 0, 9),
        one("drain", ("queue",), N, 10, 19),
    ],
    "a delayed value that is delivered twice": [
        one("later", ("queue", "a"), None, 0, 9),
        one("get", ("queue",), "a", 10, 19),
        one("get", ("queue",), "a", 20, 29),
    ],
    "half of a transaction": [
        one(SET, ("table", "k", "a"), None, 0, 9),
        *together(
            "transaction", [("pop", ("table", "k"), "a"), (SET, ("tree", "k", "a"), None)], 10, 100
        ),
        one("get", ("table", "k"), N, 20, 50),
        one("get", ("tree", "k"), N, 55, 70),
    ],
    "a transaction that saw half of another": [
        one(SET, ("tree", "k", "a"), None, 0, 9),
        *together("transaction", [("pop", ("table", "k"), N), ("pop", ("tree", "k"), N)], 10, 100),
        *together(
            "transaction", [("pop", ("tree", "k"), "a"), (SET, ("table", "k", "a"), None)], 20, 50
        ),
    ],
    "new, then old, of a transaction": [
        *together(
            "transaction",
            [(SET, ("table", "k", "a"), None), (SET, ("tree", "k", "a"), None)],
            10,
            100,
        ),
        one("get", ("tree", "k"), "a", 20, 50),
        one("get", ("table", "k"), N, 55, 70),
    ],
    "a lost set": [
        one(SET, ("table", "k", "a"), None, 0, 9),
        one("get", ("table", "k"), N, 10, 19),
    ],
    "not first in, first out": [
        one("put", ("queue", "a"), None, 0, 9),
        one("put", ("queue", "b"), None, 10, 19),
        one("get", ("queue",), "b", 20, 29),
        one("get", ("queue",), "a", 30, 39),
    ],
    "a value given out twice": [
        one("put", ("queue", "a"), None, 0, 9),
        one("get", ("queue",), "a", 10, 30),
        one("get", ("queue",), "a", 10, 30),
    ],
    "a lost value": [
        one("put", ("queue", "a"), None, 0, 9),
        one("get", ("queue",), N, 10, 19),
    ],
    "values that came back in the wrong order": [
        *(
            one("put", ("queue", value), None, at, at + 5)
            for at, value in ((0, "a"), (10, "b"), (20, "c"))
        ),
        one("reserve", ("queue",), ("01", "a"), 30, 39),
        one("reserve", ("queue",), ("02", "b"), 40, 49),
        one("nack", ("queue", "02"), DONE, 50, 59),
        one("nack", ("queue", "01"), DONE, 60, 69),
        one("get", ("queue",), "a", 70, 79),
    ],
    "a reservation of a value that no put stored": [
        *(
            one("put", ("queue", value), None, at, at + 5)
            for at, value in ((0, "a"), (10, "b"), (20, "c"))
        ),
        one("reserve", ("queue",), ("01", "b2"), 30, 39),
    ],
    "a peek that returns the third value while one of the first two is always first": [
        *(
            one("put", ("queue", value), None, at, at + 5)
            for at, value in ((0, "a"), (10, "b"), (20, "c"))
        ),
        one("reserve", ("queue",), ("01", "a"), 30, 39),
        one("reserve", ("queue",), ("02", "b"), 40, 49),
        one("nack", ("queue", "01"), DONE, 50, 59),
        one("peek", ("queue",), "c", 60, 99),
        one("nack", ("queue", "02"), DONE, 65, 69),
        one("reserve", ("queue",), ("03", "a"), 70, 79),
    ],
    "a torn batch": [
        *together(
            "batch", [(SET, ("table", "k", "a"), None), (SET, ("table", "l", "b"), None)], 0, 100
        ),
        one("get", ("table", "k"), "a", 30, 50),
        one("get", ("table", "l"), N, 60, 70),
    ],
    "a batch over two structures in the wrong order": [
        *together(
            "batch", [(SET, ("table", "k", "a"), None), (SET, ("tree", "l", "b"), None)], 0, 100
        ),
        one("get", ("tree", "l"), "b", 51, 60),
        one("get", ("table", "k"), N, 70, 80),
    ],
    "a change by another caller in the middle of a batch": [
        *together(
            "batch", [(SET, ("table", "k", "a"), None), (SET, ("table", "k", "b"), None)], 0, 100
        ),
        one("pop", ("table", "k"), "a", 30, 50),
    ],
    "a killed batch that lost an acknowledged change": [
        *together(
            "batch",
            [(SET, ("table", "k", "a"), None), (SET, ("table", "l", "b"), UNKNOWN)],
            0,
            FOREVER,
            outcome="cut",
            owed=55,
        ),
        one("get", ("table", "k"), N, 60, 70),
    ],
    "a stale read in a batch that lost its session": [
        *together(
            "batch",
            [(SET, ("table", "k", "a"), None), ("delete", ("table", "l"), NOTHING)],
            0,
            100,
            whole=False,
        ),
        one(SET, ("table", "l", "b"), None, 2, 7),
        one("get", ("table", "l"), "b", 120, 130),
    ],
    "a torn transaction": [
        *together(
            "transaction",
            [(SET, ("table", "k", "a"), None), (SET, ("tree", "k", "b"), None)],
            0,
            100,
        ),
        one("get", ("table", "k"), "a", 110, 120),
        one("get", ("tree", "k"), N, 130, 140),
    ],
    "a read transaction that mixes two moments": [
        *together(
            "transaction",
            [(SET, ("table", "k", "a"), None), (SET, ("tree", "k", "a2"), None)],
            0,
            20,
        ),
        *together(
            "transaction",
            [(SET, ("table", "k", "b"), None), (SET, ("tree", "k", "b2"), None)],
            50,
            60,
        ),
        *together(
            "transaction", [("get", ("table", "k"), "a"), ("get", ("tree", "k"), "b2")], 30, 90
        ),
    ],
    "a read transaction over changes that were no transaction, in the wrong order": [
        one(SET, ("table", "k", "a"), None, 0, 9),
        one(SET, ("tree", "k", "b"), None, 10, 19),
        *together("transaction", [("get", ("tree", "k"), "b"), ("get", ("table", "k"), N)], 0, 30),
    ],
    "a read transaction whose second read of a key differs": [
        *together("transaction", [("get", ("table", "k"), N), ("get", ("table", "k"), "a")], 0, 30),
        one(SET, ("table", "k", "a"), None, 10, 19),
    ],
    "a lost committed transaction": [
        *together(
            "transaction",
            [(SET, ("table", "k", "a"), None), (SET, ("tree", "k", "b"), None)],
            0,
            20,
        ),
        *together("transaction", [("get", ("table", "k"), N), ("get", ("tree", "k"), N)], 30, 40),
    ],
    "a dirty read of a transaction that was discarded": [
        *together("transaction", [(SET, ("table", "k", "a"), None)], 0, 40, outcome="not"),
        one("get", ("table", "k"), "a", 10, 20),
    ],
    "a dirty read of a transaction before its end": [
        *together(
            "transaction",
            [(SET, ("table", "k", "a"), None), (SET, ("tree", "k", "b"), None)],
            0,
            100,
        ),
        one("get", ("table", "k"), "a", 20, 30),
        one("get", ("tree", "k"), N, 40, 50),
    ],
    "a read transaction in the middle of a transaction of unknown outcome": [
        *together(
            "transaction",
            [(SET, ("table", "k", "a"), None), (SET, ("tree", "k", "b"), None)],
            0,
            20,
            outcome="unknown",
        ),
        *together("transaction", [("get", ("table", "k"), "a"), ("get", ("tree", "k"), N)], 30, 40),
    ],
    "an unanswered put whose value is given out twice": [
        one("put", ("queue", "a"), UNKNOWN, 0),
        one("get", ("queue",), "a", 10, 19),
        one("get", ("queue",), "a", 20, 29),
    ],
}


@pytest.mark.parametrize("name", LEGAL_GROUPS)
def test_a_legal_history_of_structures_is_explained(name):
    verdict = check(LEGAL_GROUPS[name], GROUP)
    assert verdict.decided
    assert verdict.legal, verdict.reason


@pytest.mark.parametrize("name", ILLEGAL_GROUPS)
def test_a_wrong_history_of_structures_is_found(name):
    verdict = check(ILLEGAL_GROUPS[name], GROUP)
    assert not verdict.legal
    assert verdict.reason


def test_many_unanswered_calls_are_still_decided():
    steps = [one("pop", ("table", f"k{number % 4}"), UNKNOWN, number) for number in range(60)]
    steps += [one("put", ("queue", f"u{number}"), UNKNOWN, number) for number in range(60)]
    for number in range(60):
        begin = 1000 + 100 * number
        old = f"v{number - 3}" if number > 2 else N
        steps += [
            one(SET, ("table", f"k{number % 4}", f"v{number}"), None, begin, begin + 9),
            one("get", ("table", f"k{(number + 1) % 4}"), old, begin + 20, begin + 29),
            one("put", ("queue", f"v{number}"), None, begin + 30, begin + 39),
            one("get", ("queue",), f"v{number}", begin + 40, begin + 49),
        ]
    kept = without_traces(steps)
    assert len(kept) == len(steps) - 60
    assert check(kept, GROUP).legal
    assert not check([*kept, one("get", ("table", "k0"), "v1", 90_000, 90_001)], GROUP).legal


def test_a_history_with_too_many_orders_is_undecided_and_not_wrong():
    steps = [one("put", ("queue", f"u{number}"), None, 0, 1000 + number) for number in range(12)]
    verdict = check(steps, GROUP)
    assert not verdict.decided


def test_a_record_cut_off_by_a_kill_is_read_to_its_last_whole_line(tmp_path):
    recorder = Recorder(tmp_path / "p.record")
    recorder.call("put", ("queue", "a"), lambda: None, lambda error: None)
    recorder.note("c", "put", ("queue", "b"))
    recorder.close()
    path = tmp_path / "p.record"
    path.write_bytes(path.read_bytes() + b'["a", 12')
    first, second = steps_of("p", lines(path))
    assert (first.calls[0].answer, second.calls[0].answer) == (None, UNKNOWN)
    assert first.end < second.begin < second.end == FOREVER


def test_a_transaction_killed_before_its_end_is_no_step_and_one_killed_in_its_end_may_happen(
    tmp_path,
):
    recorder = Recorder(tmp_path / "p.record")
    recorder.note("b", "transaction")
    recorder.call("set", ("table", "k", "a"), lambda: None, lambda error: None)
    assert steps_of("p", lines(tmp_path / "p.record")) == []
    recorder.note("x")
    recorder.close()
    (step,) = steps_of("p", lines(tmp_path / "p.record"))
    assert isinstance(step, Step)
    assert (step.end, step.due) == (FOREVER, 0)


def test_a_mixture_of_two_values_has_no_name():
    sizes = [400]
    first, second = value_of("p0.1-1", sizes), value_of("p0.1-2", sizes)
    assert name_of(first, sizes) == "p0.1-1"
    assert name_of(b"17", sizes) == "17"
    assert name_of(first[:200] + second[200:], sizes).startswith("torn")
    assert name_of(first[:-1], sizes).startswith("torn")


def delivered(name, token, value, begin):
    return [
        one("reserve", (name,), (token, value), begin, begin + 4),
        one("nack", (name, token), DONE, begin + 5, begin + 9),
    ]


def test_a_value_that_came_back_too_often_is_in_the_dead_letter_queue():
    group = Group(["queue", "queue2"], {"queue": "queue2"}, 2)
    twice = [
        one("put", ("queue", "a"), None, 0, 9),
        *delivered("queue", "01", "a", 10),
        *delivered("queue", "02", "a", 20),
    ]
    moved = [
        one("get", ("queue",), N, 30, 39),
        *delivered("queue2", "03", "a", 40),
        one("get", ("queue2",), "a", 50, 59),
    ]
    assert check([*twice, *moved], group).legal
    assert not check([*twice[:3], *moved], group).legal
    assert not check([*twice, one("get", ("queue",), "a", 30, 39)], group).legal
    assert not check([*twice, one("drain", ("queue2",), N, 30, 39)], group).legal
    killed = one("nack", ("queue", "02"), UNKNOWN, 25)
    assert check([*twice[:-1], killed, *moved], group).legal
    assert check([*twice[:-1], killed, one("get", ("queue2",), N, 30, 39)], group).legal
