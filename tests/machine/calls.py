"""The calls of structures; for each, its valid answers and the content after it, by that before.

A content is a tuple. A mapping has its items in the order of their keys. A stack has its values
from the bottom. A queue has three tuples:
values that came back, values that wait, and the reservations (token, value).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from structure_kinds import NAMES

from rfp.errors import Empty, LeaseEnded

Content = tuple[Any, ...]

UNKNOWN = object()  # in the place of an answer that is missing
LEASE_SECONDS = 1e6  # does not end during a test
EMPTY: dict[str, Content] = {name: ((), (), ()) if name == "queue" else () for name in NAMES}


@dataclass(frozen=True)
class Call:
    """A call of a method.

    run: calls a handle, with a timeout or None.
    follow: returns the possible contents after the call, from the content before and the answer (an
    exception's class, if one was raised); none if the answer is wrong.
    changes: whether it changes the structure.
    grows: whether it may fail because the pool is full.
    several: whether it is several operations.
    """

    text: str
    run: Callable[[Any, float | None], Any]
    follow: Callable[[Content, Any], list[Content]]
    changes: bool = False
    grows: bool = False
    several: bool = False

    def answer(self, handle: Any, timeout: float | None) -> Any:
        """Return the method's result, or the class of the exception that the content causes."""
        try:
            return self.run(handle, timeout)
        except (KeyError, Empty, LeaseEnded) as error:
            return type(error)


def sure(answer: Any, expected: Any, content: Content) -> list[Content]:
    """Return this content if the answer is the expected one, and no content if not."""
    return [content] if answer is UNKNOWN or answer == expected else []


# Queues


def put(value: bytes) -> Call:
    return Call(
        f"put({value[:12]!r})",
        lambda queue, timeout: queue.put(value, timeout=timeout),
        lambda content, answer: sure(answer, None, (content[0], (*content[1], value), content[2])),
        changes=True,
        grows=True,
    )


def put_many(values: list[bytes]) -> Call:
    """Put few enough values for one operation."""
    return Call(
        f"put_many({len(values)})",
        lambda queue, timeout: queue.put_many(values, timeout=timeout),
        lambda content, answer: sure(
            answer, len(values), (content[0], (*content[1], *values), content[2])
        ),
        changes=True,
        grows=True,
    )


def put_later(value: bytes) -> Call:
    """Put a value that is not delivered during a test."""
    return Call(
        f"put({value[:12]!r}, delay)",
        lambda queue, timeout: queue.put(value, delay=LEASE_SECONDS, timeout=timeout),
        lambda content, answer: sure(answer, None, content),
        changes=True,
        grows=True,
    )


def taken(content: Content) -> tuple[Any, Content]:
    """Return the first value of a queue, and the content without it."""
    back, waiting, reserved = content
    if back:
        return back[0], (back[1:], waiting, reserved)
    if waiting:
        return waiting[0], (back, waiting[1:], reserved)
    return Empty, content


def get() -> Call:
    def follow(content: Content, answer: Any) -> list[Content]:
        value, left = taken(content)
        return sure(answer, value, left)

    return Call("get()", lambda queue, timeout: queue.get(timeout=timeout), follow, changes=True)


def peek() -> Call:
    return Call(
        "peek()",
        lambda queue, timeout: queue.peek(timeout=timeout),
        lambda content, answer: sure(answer, taken(content)[0], content),
    )


def reserve() -> Call:
    def follow(content: Content, answer: Any) -> list[Content]:
        value, (back, waiting, reserved) = taken(content)
        if value is Empty:
            return sure(answer, Empty, content)
        token = (
            b""
            if answer is UNKNOWN
            else answer[0]
            if isinstance(answer, tuple) and answer[1] == value
            else None
        )
        if token is None or (token and token in dict(reserved)):
            return []
        return [(back, waiting, (*reserved, (token, value)))]

    return Call(
        "reserve()",
        lambda queue, timeout: queue.reserve(lease=LEASE_SECONDS, timeout=timeout),
        follow,
        changes=True,
    )


def settled(token: bytes, back: bool) -> Callable[[Content, Any], list[Content]]:
    def follow(content: Content, answer: Any) -> list[Content]:
        returned, waiting, reserved = content
        if token not in dict(reserved):
            return sure(answer, LeaseEnded, content)
        left = tuple(each for each in reserved if each[0] != token)
        return sure(
            answer, None, ((*returned, dict(reserved)[token]) if back else returned, waiting, left)
        )

    return follow


def ack(token: bytes) -> Call:
    return Call(
        "ack()",
        lambda queue, timeout: queue.ack(token, timeout=timeout),
        settled(token, False),
        changes=True,
    )


def nack(token: bytes) -> Call:
    return Call(
        "nack()",
        lambda queue, timeout: queue.nack(token, timeout=timeout),
        settled(token, True),
        changes=True,
    )


def extend(token: bytes) -> Call:
    return Call(
        "extend()",
        lambda queue, timeout: queue.extend(token, LEASE_SECONDS, timeout=timeout),
        lambda content, answer: sure(
            answer, None if token in dict(content[2]) else LeaseEnded, content
        ),
        changes=True,
    )


def read_queue() -> Call:
    return Call(
        "list()",
        lambda queue, _: (list(queue), len(queue), queue.reserved),
        lambda content, answer: sure(
            answer,
            ([*content[0], *content[1]], len(content[0]) + len(content[1]), len(content[2])),
            content,
        ),
    )


# Stacks


def push(value: bytes) -> Call:
    return Call(
        f"push({value[:12]!r})",
        lambda stack, timeout: stack.push(value, timeout=timeout),
        lambda content, answer: sure(answer, None, (*content, value)),
        changes=True,
        grows=True,
    )


def push_many(values: list[bytes]) -> Call:
    return Call(
        f"push_many({[value[:12] for value in values]})",
        lambda stack, timeout: stack.push_many(values, timeout=timeout),
        lambda content, answer: sure(answer, len(values), (*content, *values)),
        changes=True,
        grows=True,
    )


def on_top(content: Content) -> Any:
    return content[-1] if content else Empty


def pop_top() -> Call:
    return Call(
        "pop()",
        lambda stack, timeout: stack.pop(timeout=timeout),
        lambda content, answer: sure(answer, on_top(content), content[:-1]),
        changes=True,
    )


def peek_top() -> Call:
    return Call(
        "peek()",
        lambda stack, timeout: stack.peek(timeout=timeout),
        lambda content, answer: sure(answer, on_top(content), content),
    )


def read_stack() -> Call:
    return Call(
        "list()",
        lambda stack, _: (list(stack), len(stack)),
        lambda content, answer: sure(answer, ([*content[::-1]], len(content)), content),
    )


# Mappings


def with_items(content: Content, items: dict[bytes, bytes]) -> Content:
    return tuple(sorted({**dict(content), **items}.items()))


def without(content: Content, key: bytes) -> Content:
    return tuple(item for item in content if item[0] != key)


def store(key: bytes, value: bytes) -> Call:
    return Call(
        f"set({key!r}, {value[:12]!r})",
        lambda mapping, timeout: mapping.set(key, value, timeout=timeout),
        lambda content, answer: sure(answer, None, with_items(content, {key: value})),
        changes=True,
        grows=True,
    )


def setdefault(key: bytes, value: bytes) -> Call:
    def follow(content: Content, answer: Any) -> list[Content]:
        there = dict(content).get(key)
        return sure(
            answer,
            value if there is None else there,
            with_items(content, {key: value}) if there is None else content,
        )

    return Call(
        f"setdefault({key!r}, {value[:12]!r})",
        lambda mapping, timeout: mapping.setdefault(key, value, timeout=timeout),
        follow,
        changes=True,
        grows=True,
    )


def delete(key: bytes) -> Call:
    return Call(
        f"del [{key!r}]",
        lambda mapping, timeout: (
            mapping.__delitem__(key)
            if timeout is None
            else mapping.pop(key, timeout=timeout) and None
        ),
        lambda content, answer: sure(
            answer, None if key in dict(content) else KeyError, without(content, key)
        ),
        changes=True,
    )


def pop(key: bytes) -> Call:
    return Call(
        f"pop({key!r}, None)",
        lambda mapping, timeout: mapping.pop(key, None, timeout=timeout),
        lambda content, answer: sure(answer, dict(content).get(key), without(content, key)),
        changes=True,
    )


def popitem(ordered: bool) -> Call:
    def follow(content: Content, answer: Any) -> list[Content]:
        if not content:
            return sure(answer, KeyError, content)
        may = [
            item
            for item in (content[:1] if ordered else content)
            if answer is UNKNOWN or answer == item
        ]
        return [without(content, key) for key, _ in may]

    return Call(
        "popitem()", lambda mapping, timeout: mapping.popitem(timeout=timeout), follow, changes=True
    )


def clear() -> Call:
    return Call(
        "clear()",
        lambda mapping, timeout: mapping.clear(timeout=timeout),
        lambda content, answer: sure(answer, None, ()),
        changes=True,
    )


def update(items: dict[bytes, bytes]) -> Call:
    """Update, one operation for each item: without an answer, some items may have been stored.

    items: at least one. An empty update is no call of the structure: it takes no lock and ends no
    other front-end's transaction.
    """

    def follow(content: Content, answer: Any) -> list[Content]:
        if answer is not UNKNOWN:
            return sure(answer, None, with_items(content, items))
        first = list(items.items())
        return [with_items(content, dict(first[:n])) for n in range(len(first) + 1)]

    def run(mapping: Any, timeout: float | None) -> None:
        if timeout is None:
            mapping.update(items)
        else:  # the method takes no time-out
            for key, value in items.items():
                mapping.set(key, value, timeout=timeout)

    return Call(f"update({sorted(items)})", run, follow, changes=True, grows=True, several=True)


def bulk_load(items: dict[bytes, bytes]) -> Call:
    return Call(
        f"bulk_load({sorted(items)})",
        lambda tree, timeout: tree.bulk_load(items, timeout=timeout),
        lambda content, answer: sure(answer, len(items), with_items(content, items)),
        changes=True,
        grows=True,
    )


def look_up(key: bytes) -> Call:
    return Call(
        f"get({key!r})",
        lambda mapping, timeout: (mapping.get(key, timeout=timeout), key in mapping),
        lambda content, answer: sure(
            answer, (dict(content).get(key), key in dict(content)), content
        ),
    )


def read_mapping() -> Call:
    return Call(
        "items()",
        lambda mapping, _: (tuple(sorted(mapping.items())), len(mapping)),
        lambda content, answer: sure(answer, (content, len(content)), content),
    )


def range_of(lo: bytes, hi: bytes, reverse: bool) -> Call:
    def follow(content: Content, answer: Any) -> list[Content]:
        expected = [item for item in content if lo <= item[0] < hi]
        return sure(answer, expected[::-1] if reverse else expected, content)

    return Call(
        f"range({lo!r}, {hi!r})", lambda tree, _: list(tree.range(lo, hi, reverse=reverse)), follow
    )


def both_ends() -> Call:
    def follow(content: Content, answer: Any) -> list[Content]:
        return sure(answer, (content[0], content[-1]) if content else KeyError, content)

    return Call("first(), last()", lambda tree, _: (tree.first(), tree.last()), follow)


def neighbours(key: bytes) -> Call:
    def ask(find: Callable[[bytes], Any]) -> Any:
        try:
            return find(key)
        except KeyError:
            return None

    def follow(content: Content, answer: Any) -> list[Content]:
        up = [item for item in content if item[0] >= key]
        down = [item for item in content if item[0] <= key]
        return sure(answer, ((down or [None])[-1], (up or [None])[0], len(up)), content)

    return Call(
        f"floor, ceiling, count({key!r})",
        lambda tree, _: (ask(tree.floor), ask(tree.ceiling), tree.count(key)),
        follow,
    )


def read_all(kind: str) -> Call:
    """Return the call that reads the whole structure."""
    return {"queue": read_queue, "stack": read_stack}.get(kind, read_mapping)()


def check() -> Call:
    return Call(
        "check()",
        lambda structure, timeout: structure.check(timeout=timeout),
        lambda content, answer: [content],
    )
