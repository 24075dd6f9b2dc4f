"""The plain memory of tests stands in for rnvm.frontend.structure: what modules of structures import from either is the same."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def members(path: str) -> list[str]:
    """The fields and methods of the class Structure, in the order in which its table of methods has them."""
    text = re.sub(r"#.*|\"\"\".*?\"\"\"", "", (ROOT / path).read_text())
    text = re.sub(r",\n +", ", ", text)
    body = text.partition("cdef class Structure:")[2]
    return [" ".join(line.split()) for line in body.splitlines() if line.startswith("    cdef ")]


def test_the_class_that_stands_in_for_structure_has_the_same_members_in_the_same_order():
    """Else a structure's module copies a table of methods beyond its end."""
    found = members("structures/testing/harness.pxd")
    assert found and found == members("rnvm/frontend/structure.pxd")
