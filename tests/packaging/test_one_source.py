"""Each fact has one source: a C declaration, a constant, a size, a list of words, an algorithm."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.pure

ROOT = Path(__file__).parents[2]
PACKAGES = ("rfp", "rnvm", "structures", "bench")
SUFFIXES = {".py", ".pyx", ".pxd", ".h"}
# Names that each module of a kind must have: bench's experiments state a question.
REQUIRED_NAMES = {"QUESTION"}

# What must not be written a second time, as a pattern; and the files that may contain it.
FACTS = {
    "a cache line's size": (
        r"\b\w*LINE(_BYTES)?\s*=?\s*64\b|\bmultiple=64\b|\b33 \* 64\b|\bslot_size % 64\b",
        {"rfp/core/limits.h"},
    ),
    "a page's size": (
        r"PAGE(_BYTES)?\s*(=|\s)\s*4096\b|\bmultiple of 4096\b",
        {"rfp/core/limits.h"},
    ),
    "a huge page's size": (r"HUGE\w*\s+\(?(2u? << 20|0x200000)", {"rfp/core/limits.h"}),
    "the system's page": (r"sysconf\(.*PAGE_?SIZE", {"rfp/core/limits.pyx", "rfp/core/born.h"}),
    "the limit of workers": (
        r"(WORKERS|PARTITIONS)\w*\s*(=|\s)\s*64\b|(IntRange|between)\(1, 64\)",
        {"rfp/core/limits.h"},
    ),
    "the limit of slots": (r"SLOTS(_MAX)?\s*(=|\s)\s*256\b", {"rfp/core/limits.h"}),
    "the classes of response sizes": (r"(SIZES|CLASSES)\s*(=|\s)\s*65\b", {"rfp/core/limits.h"}),
    "the sizes of headers": (r"HEADER\w*(, \w+)?\s*(=|\s)\s*(24|32)\b", {"rfp/protocol/wire.h"}),
    "rights of a region": (r"REMOTE_(READ|WRITE|ATOMIC)\s*=\s*\d", {"rfp/fabric/fabric.pxd"}),
    "features of a connection": (
        r"(RESPONSE_CRC|DIRECT_READS|NAMED_PLACES)(\s*=|\s)\s*[128]u?\b",
        {"rfp/protocol/wire.h"},
    ),
    "modes": (r'"auto", "fetch"', {"rfp/core/choices.py"}),
    "idle behaviours": (r'"adaptive", "spin"', {"rfp/core/choices.py"}),
    "eviction policies": (r'"clock", "bucket"|"clock": ', {"rfp/core/choices.py"}),
    "the hash of keys": (r'"xxh3-64"', {"rfp/protocol/handshake_layout.py"}),
    "owners of blocks": (r"\b0x(4000|8000|c000|C000)u?\b", {"rnvm/format/layout.h"}),
    "a page of a pool": (r"RNVM_PAGE\s+\d", set()),
    "a process's identity": (r"\)\[19\]|0x3fffff\b", {"rfp/core/process.py"}),
    "random numbers": (
        r"(?i)0x9e3779b97f4a7c15|0xbf58476d1ce4e5b9|0x2545f4914f6cdd1d|6364136223846793005",
        {"rfp/core/random.h"},
    ),
    "a deadline from now": (
        r"now_ns\(\) \+ int\(\w+ \* 1e9\)|clock\.now\(\) \+|deadline / 1e9",
        {"rfp/core/clock.py"},
    ),
}  # fmt: skip

NAME = re.compile(r"_?[A-Z][A-Z0-9_]*")
TEXT = re.compile(r'("""|\'\'\')(?s:.*?)\1')


def sources(root: Path) -> Iterator[tuple[str, str]]:
    """(path, text) of each source of our own."""
    for package in PACKAGES:
        for file in sorted((root / package).rglob("*")):
            if file.suffix in SUFFIXES and "vendor" not in file.parts:
                yield str(file.relative_to(root)), file.read_text()


def without_comments(path: str, text: str) -> str:
    """The text with comments and docstrings blanked, and as many lines."""
    if path.endswith(".h"):
        return re.sub(r"/\*(?s:.*?)\*/", lambda m: "\n" * m[0].count("\n"), text)
    text = TEXT.sub(lambda m: "\n" * m[0].count("\n"), text)
    return re.sub(r"(?m)(?:^|[ \t])#.*$", "", text)


def blocks(text: str) -> Iterator[tuple[str, list[str]]]:
    """(opening line, body) of each block at the left margin that has a body."""
    lines = text.split("\n")
    at = 0
    while at < len(lines):
        end = at + 1
        while end < len(lines) and (not lines[end] or lines[end].startswith(" ")):
            end += 1
        if lines[at] and not lines[at].startswith(" "):
            yield lines[at], lines[at + 1 : end]
        at = end


def externs_of(path: str, text: str) -> Iterator[str]:
    """Names of C functions, types and constants that a .pyx or .pxd file declares."""
    if not path.endswith((".pyx", ".pxd")):
        return
    for head, body in blocks(without_comments(path, text)):
        if not head.startswith("cdef extern from"):
            continue
        inside: list[tuple[int, str]] = []
        for line in filter(str.strip, body):
            depth = len(line) - len(line.lstrip())
            while inside and inside[-1][0] >= depth:
                inside.pop()
            kind = inside[-1][1] if inside else ""
            opening = re.match(r'\s*(?:ctypedef )?(struct|union|enum)\b ?(\w*)(?: "(\w+)")?', line)
            if opening and line.endswith(":"):
                inside.append((depth, opening[1]))
                if opening[2]:
                    yield opening[3] or opening[2]
            elif kind == "enum":
                yield from (each.split()[0] for each in line.split(",") if each.strip())
            elif kind or depth > 4 or line.strip() == "pass":
                continue
            elif call := re.search(r'(\w+)(?: "(\w+)")?\s*\(', line):
                yield call[2] or call[1]
            else:
                declared = re.sub(r"^\s*(?:(?:const|unsigned|ctypedef) )*\w+ ", "", line)
                yield from (each.strip(" *").split()[0] for each in declared.split(","))


def constants_of(path: str, text: str) -> Iterator[str]:
    """Names of constants that a file defines at its top level."""
    if path.endswith(".py"):
        for node in ast.parse(text).body:
            targets: list[ast.expr] = []
            if isinstance(node, ast.Assign):
                targets = node.targets
            elif isinstance(node, ast.AnnAssign) and node.value is not None:
                targets = [node.target]
            for target in targets:
                for each in target.elts if isinstance(target, ast.Tuple) else [target]:
                    if isinstance(each, ast.Name) and NAME.fullmatch(each.id):
                        yield each.id
    elif path.endswith(".h"):
        text = without_comments(path, text)
        # Alternatives of one #if are one definition.
        yield from {
            name
            for name in re.findall(r"(?m)^#define ([A-Z][A-Z0-9_]*)(?![\w(])", text)
            if not name.endswith("_H")
        }
        for body in re.findall(r"\benum\b[^{;()]*\{([^}]*)\}", text):
            yield from re.findall(r"(?:^|,)\s*([A-Z][A-Z0-9_]*)\b", body)
    else:
        for head, body in blocks(without_comments(path, text)):
            if re.match(r"cp?def enum\b", head):
                for line in body:
                    yield from re.findall(r"(?:^|,)\s*([A-Z][A-Z0-9_]*)\b", line)
            elif assigned := re.match(r"(?:cdef [\w *\[\]]*?)?([A-Z_][A-Z0-9_, ]*?)\s*=[^=]", head):
                yield from (
                    each.strip() for each in assigned[1].split(",") if NAME.fullmatch(each.strip())
                )


def more_than_once(root: Path, names_of) -> dict[str, list[str]]:
    found = defaultdict(list)
    for path, text in sources(root):
        for name in names_of(path, text):
            found[name].append(path)
    return {name: paths for name, paths in sorted(found.items()) if len(paths) > 1}


def declared_twice(root: Path) -> dict[str, list[str]]:
    return more_than_once(root, externs_of)


def defined_twice(root: Path) -> dict[str, list[str]]:
    found = more_than_once(root, constants_of)
    return {name: paths for name, paths in found.items() if name not in REQUIRED_NAMES}


def restated(root: Path) -> list[str]:
    found = []
    for path, text in sources(root):
        for number, line in enumerate(without_comments(path, text).split("\n"), 1):
            found += [
                f"{path}:{number}: {fact}: {line.strip()}"
                for fact, (pattern, homes) in FACTS.items()
                if path not in homes and re.search(pattern, line)
            ]
    return found


def test_each_c_name_is_declared_once() -> None:
    assert declared_twice(ROOT) == {}


def test_each_constant_is_defined_once() -> None:
    assert defined_twice(ROOT) == {}


def test_no_known_fact_is_restated() -> None:
    assert restated(ROOT) == []


@pytest.mark.parametrize("fact", [fact for fact, (_, homes) in FACTS.items() if homes])
def test_each_known_fact_is_where_it_is_said_to_be(fact: str) -> None:
    pattern, homes = FACTS[fact]
    for home in homes:
        assert re.search(pattern, without_comments(home, (ROOT / home).read_text())), home


@pytest.mark.parametrize(
    ("path", "text", "expected"),
    [
        ("rfp/fabric/shm.pxd",
         'cdef extern from "rfp/core/clock.h" nogil:\n    uint64_t rfp_now()\n',
         "rfp_now"),
        ("rnvm/a.pyx",
         'cdef extern from "<x.h>":\n    struct rfp_pair "rfp_twin":\n        int a\n',
         "rfp_twin"),
        ("rnvm/a.pyx", "cdef extern from *:\n    enum:\n        A\n        RFP_LINE\n", "RFP_LINE"),
    ],
)  # fmt: skip
def test_a_second_declaration_is_found(tmp_path: Path, path: str, text: str, expected: str) -> None:
    core = tmp_path / "rfp/core/core.pxd"
    core.parent.mkdir(parents=True)
    core.write_text(
        'cdef extern from "rfp/core/core.h" nogil:\n'
        "    uint64_t rfp_now()\n    struct rfp_twin:\n        int a\n    enum:\n        RFP_LINE\n"
    )
    assert declared_twice(tmp_path) == {}
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).write_text(text)
    assert list(declared_twice(tmp_path)) == [expected]


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("rfp/b.py", "A = 1\nSHOWN_MAX: int = 2\n"),
        ("rfp/b.py", "A, SHOWN_MAX = 1, 2\n"),
        ("rnvm/b.pyx", "cdef uint64_t SHOWN_MAX = 3\n"),
        ("rnvm/b.pxd", "cdef enum:  # bytes\n    SHOWN_MAX = 3\n"),
        ("structures/b.h", "#define SHOWN_MAX 3\n"),
        ("structures/b.h", "enum { A, SHOWN_MAX };\n"),
    ],
)
def test_a_second_definition_is_found(tmp_path: Path, path: str, text: str) -> None:
    (tmp_path / "rfp").mkdir()
    (tmp_path / "rfp/a.py").write_text("SHOWN_MAX = 1  # characters\n")
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).write_text(text)
    assert list(defined_twice(tmp_path)) == ["SHOWN_MAX"]


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("LINE = 64", "a cache line's size"),
        ("PAGE = 4096", "a page's size"),
        ('PAGE = os.sysconf("SC_PAGE_SIZE")', "the system's page"),
        ("MAX_PARTITIONS = 64", "the limit of workers"),
        ("    workers: between(1, 64)", "the limit of workers"),
        ("HEADER, REFERENCE = 24, 32", "the sizes of headers"),
        ("REMOTE_READ = 1", "rights of a region"),
        ("RESPONSE_CRC = 1", "features of a connection"),
        ('if mode not in ("auto", "fetch", "reply"):', "modes"),
        ('EVICTION = {"clock": 0, "bucket": 1}', "eviction policies"),
        ("NOBODY, GRANTED = 0, 0x4000", "owners of blocks"),
        ("x = x * 6364136223846793005 + 1", "random numbers"),
        ("until = clock.now_ns() + int(timeout * 1e9)", "a deadline from now"),
    ],
)
def test_a_restated_fact_is_found(tmp_path: Path, text: str, fact: str) -> None:
    (tmp_path / "rnvm").mkdir()
    (tmp_path / "rnvm/a.pyx").write_text(f'"""About {text}."""\n# {text}\n{text}\n')
    (found,) = restated(tmp_path)
    assert found.startswith(f"rnvm/a.pyx:3: {fact}: ")
