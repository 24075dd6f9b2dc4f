"""Uses objects without a complete __init__ in every way, in children, and prints the crashes.

As a program, `half_made.py` prints one line for each finding: the type, the way in which the object
was created, the use, and the end of the process.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import importlib
import inspect
import operator
import os
import pickle
import pkgutil
import signal
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

PACKAGES = ("rfp", "rnvm", "structures", "bench")
SECONDS = 10  # time-out of one call
HEAP = 1 << 9  # Py_TPFLAGS_HEAPTYPE: a class statement of Python
SKIPPED = {
    "__class__",
    "__init_subclass__",
    "__subclasshook__",
    "__new__",
    "__getattribute__",
    "__dir__",
    "__doc__",
    "__reduce_ex__",
}
GIVEN = (
    [()]
    + [(None,) * n for n in range(1, 8)]
    + [(0,) * n for n in range(1, 5)]
    + [(1,), (b"k",), (b"k", b"v"), (b"k", 1), ("k",)]
    + [([],), ([b"k"],), ([(b"k", b"v")],), (0, b"v"), (1, 1, b"v"), (b"k", bytearray(8))]
)


def modules() -> Iterator[Any]:
    for package in PACKAGES:
        yield importlib.import_module(package)
        for found in pkgutil.walk_packages(
            importlib.import_module(package).__path__, package + "."
        ):
            if found.name.rpartition(".")[2] != "__main__":
                with contextlib.suppress(ImportError):  # plots, libibverbs may not be installed
                    yield importlib.import_module(found.name)


def extension_types() -> list[type]:
    """Return every extension type of the packages, public or not."""
    found = {}
    for module in modules():
        for thing in vars(module).values():
            if (
                isinstance(thing, type)
                and not thing.__flags__ & HEAP
                and thing.__module__.partition(".")[0] in PACKAGES
            ):
                found[f"{thing.__module__}.{thing.__qualname__}"] = thing
    return [found[name] for name in sorted(found)]


def ways(cls: type) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield the ways in which an object of this type can exist without a complete __init__."""
    yield "__new__", lambda: cls.__new__(cls)
    for n in range(1, 13):
        yield f"{n} x None", lambda n=n: cls(*[None] * n)
    yield "a subclass without __init__", lambda: subclass(cls)()
    yield "resurrected", lambda: resurrected(cls)
    yield "an __init__ that failed", lambda: failed(cls)


def subclass(cls: type) -> type:
    return type("Sub", (cls,), {"__init__": lambda self: None})


def resurrected(cls: type) -> object:
    kept = []
    made = type("Back", (cls,), {"__init__": lambda self: None, "__del__": kept.append})()
    made.me = made
    del made
    gc.collect()
    return kept.pop()


def failed(cls: type) -> object:
    """Return an object whose __init__ raised, as a subclass that catches the exception has it."""
    made = cls.__new__(cls)
    with contextlib.suppress(Exception):
        made.__init__()
    with contextlib.suppress(Exception):
        made.__init__(None, None)
    return made


def uses(thing: object) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield all uses of an object."""
    cls = type(thing)
    for name in sorted(set(dir(cls)) - SKIPPED):
        described = inspect.getattr_static(cls, name, None)
        if not callable(described) and not isinstance(described, (staticmethod, classmethod)):
            yield name, lambda name=name: getattr(thing, name)
            yield f"{name} = None", lambda name=name: setattr(thing, name, None)
            yield f"{name} = 1", lambda name=name: setattr(thing, name, 1)
            continue
        for given in GIVEN:
            yield (
                f"{name}{given!r:.40}",
                lambda name=name, given=given: consumed(getattr(thing, name)(*given)),
            )
    yield "itself", lambda: operator.eq(thing, thing)
    yield "iter", lambda: list(zip(range(3), thing))
    yield "with", lambda: entered(thing)
    yield "in a cycle", lambda: cycle(thing)
    for name, function in COPIES.items():
        yield name, lambda function=function: refused(function, thing)


def consumed(result: object) -> None:
    if inspect.isgenerator(result):
        next(result)


def entered(thing: Any) -> None:
    with thing:
        pass


def cycle(thing: object) -> None:
    holder = [thing]
    holder.append(holder)
    del holder
    gc.collect()


COPIES = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    **{
        f"pickle {protocol}": lambda thing, protocol=protocol: pickle.dumps(thing, protocol)
        for protocol in range(6)
    },
}


class Copied(BaseException):
    pass


def refused(function: Callable[[object], object], thing: object) -> None:
    if type(thing).__flags__ & HEAP:
        return  # a class of Python may be copied if all its attributes may be
    try:
        function(thing)
    except TypeError:
        return
    except Exception as error:
        raise Copied(f"refused by {type(error).__name__}: {error}") from None
    if function is copy.copy or function is copy.deepcopy:
        raise Copied("copied")
    raise Copied("pickled")


Way = tuple[str, Callable[[], object]]
CREATION, DESTRUCTION = -1, 1 << 30  # beside the numbers of the uses


def attempt(ways: Iterable[Way], begin: tuple[int, int], report: Callable[[str], object]) -> None:
    """Use all objects in the child, from this way and use on, and report each use before it."""
    for at, (how, make) in enumerate(ways):
        if at < begin[0]:
            continue
        report(f"{at} {CREATION} {how}: its creation\n")
        try:
            thing = make()
        except Exception:
            continue
        for number, (name, use) in enumerate(uses(thing)):
            if (at, number) < begin:
                continue
            report(f"{at} {number} {how}: {name!r}\n")
            signal.alarm(SECONDS)
            try:
                use()
            except Copied as error:
                report(f"! {how}: {name}: {error}\n")
            except BaseException as error:  # any other exception is correct
                del error
        signal.alarm(0)
        report(f"{at} {DESTRUCTION} {how}: its destruction\n")
        thing = use = None
        gc.collect()


def crashes(ways: Sequence[Way]) -> Iterator[str]:
    """Yield a text for each use of an object that ends the process, or copies the object.

    All objects are used in one child; after a crash the next child continues.
    """
    begin = (0, CREATION)
    while True:
        theirs, ours = os.pipe()
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):
                null = os.open(os.devnull, os.O_RDWR)
                for fd in (0, 1, 2):
                    os.dup2(null, fd)
                attempt(
                    ways,
                    begin,
                    lambda text, ours=ours: os.write(ours, text.encode(errors="replace")),
                )
                os._exit(0)
            os._exit(1)
        os.close(ours)
        with os.fdopen(theirs, errors="replace") as pipe:
            lines = pipe.read().splitlines()
        status = os.waitpid(child, 0)[1]
        yield from (line[2:] for line in lines if line.startswith("!"))
        if status == 0:
            return
        at, number, last = next(
            line.split(" ", 2) for line in reversed(lines) if not line.startswith("!")
        )
        signalled = os.WIFSIGNALED(status)
        end = signal.Signals(os.WTERMSIG(status)).name if signalled else status
        yield f"{last}: {end}"
        # After a crash outside the uses of an object, the next object is used.
        inside = CREATION < int(number) < DESTRUCTION
        begin = (int(at), int(number) + 1) if inside else (int(at) + 1, CREATION)


def main() -> None:
    warnings.simplefilter("ignore")
    wanted = sys.argv[1:]
    types = extension_types()
    gc.collect()
    gc.freeze()  # else each child's collection would copy the memory of all objects
    for cls in types:
        if not wanted or cls.__name__ in wanted:
            for finding in crashes([*ways(cls)]):
                print(f"{cls.__module__}.{cls.__qualname__}: {finding}", flush=True)
    print(f"{len(types)} types", flush=True)


if __name__ == "__main__":
    main()
