"""Every source file that a page or picture names exists."""

import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.pure

ROOT = Path(__file__).parents[1]
FOLDERS = "rfp|rnvm|structures|bench|tests|scripts"
FILE = re.compile(rf"\b((?:{FOLDERS})/[\w/-]+\.(?:pyx|pxd|pyi|py|h|c))\b")
REJECTED = {"rfp/connect.py"}  # docs/decisions.md states why this file does not exist
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PICTURES = sorted((ROOT / "docs" / "pictures").glob("*.svg"))


@pytest.mark.parametrize("page", [*PAGES, *PICTURES], ids=lambda page: page.name)
def test_the_source_files_that_a_page_names_exist(page):
    names = set(FILE.findall(page.read_text())) - REJECTED
    missing = sorted(name for name in names if not (ROOT / name).exists())
    assert not missing


def test_the_picture_of_a_get_names_files_below_rfp():
    picture = (ROOT / "docs" / "pictures" / "get.svg").read_text()
    names = re.findall(r">([\w/]+\.(?:pyx|pxd))\b", picture)
    assert names
    assert not [name for name in names if not (ROOT / "rfp" / name).exists()]
