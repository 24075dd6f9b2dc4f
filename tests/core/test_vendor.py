"""The files in rfp/vendor have the recorded origin, and the same declarations as the system's."""

import hashlib
import os
import re
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.pure

ROOT = Path(__file__).parents[2]
VENDOR = ROOT / "rfp" / "vendor"
SYSTEM = Path("/usr/include/infiniband/verbs.h")
COMPILER = os.environ.get("CC", "cc").split()


def compile_c(source: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [
        *COMPILER,
        "-std=gnu11",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-fsyntax-only",
        f"-I{ROOT}",
        *options,
        "-x",
        "c",
        "-",
    ]
    # ccache would create files of its own, which the leak check would report.
    return subprocess.run(
        command,
        input=source,
        capture_output=True,
        text=True,
        env={**os.environ, "CCACHE_DISABLE": "1"},
    )


def test_every_vendored_file_has_the_recorded_checksum():
    sums = dict(
        re.findall(r"^\| `(\S+)` .* `([0-9a-f]{64})` \|$", (VENDOR / "README.md").read_text(), re.M)
    )
    assert sums.keys() == {file.name for file in VENDOR.iterdir()} - {"README.md"}
    for name, expected in sums.items():
        assert hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() == expected, name


def test_the_declarations_of_libibverbs_need_only_the_headers_of_the_c_library():
    run = compile_c('#include "rfp/core/verbs.h"\n', "-D_GNU_SOURCE", "-M")
    assert run.returncode == 0, run.stderr
    included = set(re.findall(r"\S+\.h\b", run.stdout))
    assert {Path(name).name for name in included if name.startswith(str(ROOT))} == {
        "verbs.h",
        "verbs_abi.h",
        "ibverbs.h",
    }
    assert [name for name in included if "infiniband" in name or "/rdma/" in name] == []


@pytest.mark.skipif(not SYSTEM.exists(), reason="the headers of libibverbs are not installed")
def test_the_declarations_of_the_vendored_excerpt_equal_those_of_the_system():
    """The sizes, offsets and values of types, and the prototypes of functions, are the same."""
    run = compile_c('#include <infiniband/verbs.h>\n#include "rfp/core/verbs_abi.h"\n')
    assert run.returncode == 0, run.stderr


@pytest.mark.skipif(not SYSTEM.exists(), reason="the headers of libibverbs are not installed")
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("rfp/core/verbs_abi.h", ("struct ibv_wc, status, 8", "struct ibv_wc, status, 12")),
        ("rfp/core/verbs_abi.h", ("IBV_WC_WR_FLUSH_ERR, 5", "IBV_WC_WR_FLUSH_ERR, 6")),
        (
            "rfp/vendor/ibverbs.h",
            ("int ibv_dealloc_pd(struct ibv_pd *pd)", "void ibv_dealloc_pd(struct ibv_pd *pd)"),
        ),
    ],
    ids=["offset", "value", "prototype"],
)
def test_the_comparison_finds_a_difference(old, new, tmp_path):
    text = (ROOT / old).read_text()
    assert new[0] in text
    changed = tmp_path / old
    changed.parent.mkdir(parents=True)
    changed.write_text(text.replace(*new))
    run = compile_c(
        '#include <infiniband/verbs.h>\n#include "rfp/core/verbs_abi.h"\n', f"-iquote{tmp_path}"
    )
    assert run.returncode != 0
    assert "error" in run.stderr


def test_every_type_that_the_core_uses_has_its_assertions():
    """A struct of libibverbs whose members Cython code names is in the list of assertions."""
    asserted = set(
        re.findall(
            r"RFP_ABI_MEMBER\((?:struct|union) (ibv_\w+)",
            (ROOT / "rfp/core/verbs_abi.h").read_text(),
        )
    )
    declared = set()
    for file in (ROOT / "rfp").rglob("*.pxd"):
        declared |= set(
            re.findall(
                r"^    (?:struct|union) (ibv_\w+):\n        (?!pass)", file.read_text(), re.M
            )
        )
    assert declared, "no declaration found"
    assert declared - asserted == set()
