"""The harness that replaces rnvm.frontend.structure has the names that structures import."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def members(path: str) -> list[str]:
    """Return the fields and methods of the class Structure, in the order of its method table."""
    text = re.sub(r"#.*|\"\"\".*?\"\"\"", "", (ROOT / path).read_text())
    text = re.sub(r",\n +", ", ", text)
    body = text.partition("cdef class Structure:")[2]
    return [" ".join(line.split()) for line in body.splitlines() if line.startswith("    cdef ")]


def test_the_harness_class_of_structure_has_the_same_members_in_the_same_order():
    """Otherwise a structure's module copies a method table beyond its end."""
    found = members("structures/testing/harness.pxd")
    assert found and found == members("rnvm/frontend/structure.pxd")
