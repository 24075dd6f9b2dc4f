"""Inserts into the example maps of PMDK, in C: Debian's libpmemobj-dev has their sources.

The maps are compiled as they are, with a loop around them (pmdk_maps.c).  The package lacks
ex_common.h, of which they need one function; that one is written here.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from bench.databases.rnvm import MEMORY
from bench.experiments.pool import folder_on
from bench.experiments.rows import Figures, Setting, Side
from bench.peers.process import PeerMissing
from bench.placement import pinned
from rfp.errors import RfpError

MAPS = ("btree", "ctree", "rbtree", "skiplist", "hashmap_tx")
# A folder into which the packages were extracted (dpkg-deb -x), instead of installed.
PMDK_ROOT = "PMDK_ROOT"
FOLDERS = ("map", "tree_map", "hashmap", "list_map", ".")
SOURCES = (
    "map/map.c", "map/map_btree.c", "map/map_ctree.c", "map/map_rbtree.c", "map/map_skiplist.c",
    "map/map_hashmap_tx.c", "tree_map/btree_map.c", "tree_map/ctree_map.c",
    "tree_map/rbtree_map.c", "list_map/skiplist_map.c", "hashmap/hashmap_tx.c",
)  # fmt: skip
EX_COMMON = """
#include <stdint.h>
static inline unsigned find_last_set_64(uint64_t v) { return 63u - (unsigned)__builtin_clzll(v); }
"""
HINT = "apt-get install libpmemobj-dev gcc"
COMPILER_S = 120
POOL_S = 60  # of a turn: opening the pool


def build(folder: Path) -> Path:
    """Compile the maps and the loop into `folder`; return the program.

    Raises:
        PeerMissing: the examples or a compiler are not installed, or do not fit together.
    """
    compiler = shutil.which("cc")
    root = Path(os.environ.get(PMDK_ROOT, "/"))
    examples = root / "usr/share/doc/libpmemobj-dev/examples"
    if not compiler or not (examples / "map/map.h").exists():
        raise PeerMissing("PMDK's example maps are not installed", hint=HINT)
    (folder / "ex_common.h").write_text(EX_COMMON)
    libraries = sorted(root.glob("usr/lib/*/libpmemobj.so"))
    program = folder / "pmdk_maps"
    arguments = [
        *("-O2", "-w", "-o", str(program), str(Path(__file__).with_suffix(".c"))),
        *(str(examples / source) for source in SOURCES),
        *(f"-I{place}" for place in (folder, *(examples / name for name in FOLDERS))),
        *(f"-I{root / 'usr/include'}", *(f"-L{each.parent}" for each in libraries)),
        *(f"-Wl,-rpath,{each.parent}" for each in libraries),
        *("-lpmemobj", "-lpmem", "-lpthread"),
    ]
    done = subprocess.run(
        [compiler, *arguments], capture_output=True, text=True, timeout=COMPILER_S
    )
    if done.returncode:
        first = next(iter(done.stderr.splitlines()), "no message")
        raise PeerMissing(f"cannot compile PMDK's example maps: {first}", hint=HINT)
    return program


@contextlib.contextmanager
def inserts(setting: Setting, keys_per_turn: int) -> Iterator[dict[str, Side]]:
    """Yield a side for each map: inserts of new keys of 8 bytes with values of 64 bytes, keys in
    random order, each durable: {"rate", "keys": those in the map afterwards}.

    Raises:
        PeerMissing: they are not installed.
    """
    with folder_on(MEMORY) as folder:
        program = build(folder)
        yield {name: side(setting, program, folder, name, keys_per_turn) for name in MAPS}


def side(setting: Setting, program: Path, folder: Path, name: str, keys_per_turn: int) -> Side:
    """Return one map's side: every turn is a run of the program on the same pool."""
    used = 0
    size = (64 << 20) + 600 * keys_per_turn * (setting.rounds + 1)

    def turn() -> Figures:
        nonlocal used
        arguments = [name, folder / name, size, used, keys_per_turn, setting.seconds]
        with pinned(setting.client):
            done = subprocess.run(
                [program, *map(str, arguments)],
                capture_output=True,
                text=True,
                timeout=POOL_S + 10 * setting.seconds,
                # Cache lines are flushed, as on persistent memory: no msync.
                env=os.environ | {"PMEM_IS_PMEM_FORCE": "1"},
            )
        if done.returncode:
            raise RfpError(f"PMDK's {name} failed: {done.stderr.strip()}")
        stored, elapsed = map(int, done.stdout.split())
        used += stored
        return {"rate": stored * 1e9 / elapsed, "keys": used}

    return turn
