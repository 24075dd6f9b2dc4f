"""Each part of `struct frontend` is assigned by one module only, the owner that state.pxd names."""

from __future__ import annotations

import functools
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
STATE = ROOT / "rnvm" / "frontend" / "state.pxd"
ALL_MODULES = "counters"
STRUCT = re.compile(r"^cdef struct (\w+):(.*(?:\n +#.*)*)", re.MULTILINE)
FIELD = re.compile(r"^    (\w+)(?:\[\d+\])? (\w+)(.*)", re.MULTILINE)
OWNER = re.compile(r"owner: (\w+)")
ASSIGNED = (
    r"\b(?:fe\.(?:c\.)?|self\.c\.){part}\b(?:\[[^]]*\])?((?:\.\w+|\[[^]]*\])*)"
    r"\s*([-+*|&^%]|//|<<|>>)?=(?!=)"
)
ADDRESS = r"&(?:\w+\.)*(?:fe\.(?:c\.)?|self\.c\.){part}\b(?!\.\w+\.)[\w.\[\]]*"


@functools.cache
def owners() -> dict[str, str]:
    """Return the fields of `struct frontend` with the module that owns each."""
    text = STATE.read_text()
    of_structs = {
        name: owner.group(1) for name, rest in STRUCT.findall(text) if (owner := OWNER.search(rest))
    }
    body = text.partition("cdef struct frontend:\n")[2].partition("\n\n")[0]
    found = {}
    for kind, field, rest in FIELD.findall(body):
        owner = OWNER.search(rest)
        found[field] = (
            owner.group(1) if owner else ALL_MODULES if kind == ALL_MODULES else of_structs[kind]
        )
    return found


def code_of(path: Path) -> str:
    """Return the source without comments and docstrings, one statement a line."""
    text = re.sub(r'"""(?:.|\n)*?"""', "", path.read_text())
    text = re.sub(r"#.*", "", text)
    return re.sub(r"\\\n\s*", " ", text)


def sources() -> list[Path]:
    """Return the source files that can access the state."""
    return [
        path
        for folder in ("rnvm", "structures")
        for path in sorted((ROOT / folder).rglob("*.p[yx][xd]"))
        if path != STATE and "rnvm.frontend.state cimport" in path.read_text()
    ]


def breaches(path: Path) -> list[str]:
    """Return assignments to parts that this module does not own, and pointers to them."""
    text, found = code_of(path), []
    for part, owner in owners().items():
        for match in re.finditer(ASSIGNED.format(part=part), text):
            counted = owner == ALL_MODULES and match.group(2) == "+"
            if path.stem != owner and not counted:
                found.append(f"{path.relative_to(ROOT)}: {match.group()} (owner: {owner})")
        if part == "g" or path.stem == owner:
            continue
        for match in re.finditer(ADDRESS.format(part=part), text):
            before = text[: match.start()].rpartition("\n")[2]
            if not re.search(r"\bbuffer_\w+\($", before):
                found.append(f"{path.relative_to(ROOT)}: {match.group()} (owner: {owner})")
    return found


def test_every_part_of_a_front_end_is_owned_by_a_module():
    found = owners()
    assert len(found) >= 15
    modules = {path.stem for path in STATE.parent.glob("*.pyx")} | {ALL_MODULES}
    assert set(found.values()) <= modules


def test_no_module_assigns_to_a_part_of_another_owner():
    found = [each for path in sources() for each in breaches(path)]
    assert found == []
    assert len(sources()) > 20


def test_an_assignment_elsewhere_is_found(tmp_path, monkeypatch):
    """The patterns of this file match each way in which a module could assign."""
    owners()
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    path = tmp_path / "other.pyx"
    ways = [
        "fe.link.error = LOST",
        "s.fe.cache.bytes -= 1",
        "self.c.session.number = self.x = 3",
        "found = fe.log[0].tail = 5",
        "fe.in_doubt.lsn[which] = 1",
        "fe.stats.reads = 0",
        "fe.in_doubt = written",
        "l = &fe.log[1]",
        "grown = &s.fe.space.granted",
    ]
    for way in ways:
        path.write_text(f"cdef void f(frontend *fe):\n    {way}\n")
        assert len(breaches(path)) == 1, way
    for way in [
        "fe.stats.reads += 1",
        "if fe.link.error == LOST:",
        "n = fe.log[0].tail",
        "f(&fe.g)",
        "buffer_truncate(&fe.answer, 0)",
        "fe.link.pool.base + 1",
    ]:
        path.write_text(f"cdef void f(frontend *fe):\n    {way}\n")
        assert breaches(path) == [], way
