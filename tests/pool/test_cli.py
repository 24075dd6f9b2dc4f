"""The commands of `rnvm`, on real files."""

from __future__ import annotations

import json
import os
import re
import tempfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from rnvm import pools
from rnvm.cli import main
from rnvm.testing import log_driver

pytestmark = pytest.mark.usefixtures("small_logs")


@pytest.fixture
def rnvm(tmp_path, monkeypatch):
    """Return a function that runs a command in a folder of the test.

    Args:
        status: The expected exit status.
    """
    monkeypatch.chdir(tmp_path)

    def run(*arguments, status=0):
        result = CliRunner().invoke(main, [*arguments])
        assert result.exit_code == status, result.output
        return result

    return run


@pytest.fixture
def pool(rnvm):
    """Create a pool with a structure and a pending operation."""
    rnvm(
        "create",
        "p.pool",
        "--size",
        "2MiB",
        "--front-ends",
        "2",
        "--names",
        "16",
        "--operation-log",
        "8KiB",
        "--memory-log",
        "8KiB",
    )
    with pools.open_pool("p.pool") as pool:
        made = pool.create(b"jobs", kind=3, format=2, codec=b"json")
        session, _ = pool.attach()
        writer = log_driver.Writer(pool, session)
        writer.operations([log_driver.part(made, 1, b"work", code=9)])
        address = pool.grant(session, 1)
        body = log_driver.entry(log_driver.ENTRY_TAKE, address, 1) + log_driver.entry(
            log_driver.ENTRY_WRITE, address, bytes(8)
        )
        writer.transaction([log_driver.part(made, 1, body)])
        pool.collect()
    return "p.pool"


def test_create_states_what_the_medium_promises(rnvm):
    assert "survive a power failure" in rnvm("create", "p.pool", "--size", "4MiB").stdout
    assert "already exists" in rnvm("create", "p.pool", "--size", "4MiB", status=1).stderr
    assert "too small" in rnvm("create", "q.pool", "--size", "8KiB", status=2).stderr
    assert not Path("q.pool").exists()


def test_create_on_a_volatile_medium_needs_an_option(rnvm):
    path = Path(os.environ["TESTS_MEMORY"]) / "cli.pool"
    try:
        assert "tmpfs" in rnvm("create", str(path), "--size", "4MiB", status=1).stderr
        assert (
            "survives process crashes only"
            in rnvm("create", str(path), "--size", "4MiB", "--assume-persistent").stdout
        )
        assert "survives process crashes only" in rnvm("info", str(path)).stdout
    finally:
        path.unlink(missing_ok=True)


def test_info_describes_a_pool(rnvm, pool):
    out = rnvm("info", pool).stdout
    for text in (
        "page cache, image mode",
        "closed cleanly",
        "1 of at most 16",
        "1 of at most 2, 8KiB and 8KiB of logs each",
        "of 4KiB",
    ):
        assert text in out
    figures = json.loads(rnvm("info", pool, "--json").stdout)
    assert (
        figures["structures"] == 1
        and figures["closed"]
        and figures["block"] == 4096
        and figures["mode"] == "image"
    )


def test_ls_lists_structures(rnvm, pool):
    head, line = rnvm("ls", pool).stdout.splitlines()
    assert head.split() == [
        "name",
        "kind",
        "format",
        "codec",
        "partitions",
        "blocks",
        "transactions",
        "created",
        "state",
    ]
    assert line.split()[:7] == ["jobs", "BPlusTree", "2", "json", "-", "2", "1"]
    (listed,) = json.loads(rnvm("ls", pool, "--json").stdout)
    assert (listed["name"], listed["kind"], listed["kind_name"]) == ("jobs", 3, "BPlusTree")


def test_ls_prints_the_number_of_a_kind_that_no_module_defines(rnvm, pool):
    with pools.open_pool(pool) as opened:
        opened.create(b"mine", kind=61_000)
    lines = rnvm("ls", pool).stdout.splitlines()
    assert lines[2].split()[:2] == ["mine", "61000"]
    assert json.loads(rnvm("ls", pool, "--json").stdout)[1]["kind_name"] is None
    assert "cannot import --with no_such" in rnvm("ls", pool, "--with", "no_such", status=2).stderr


def test_dump_shows_every_part(rnvm, pool):
    lines = [json.loads(line) for line in rnvm("dump", pool).stdout.splitlines()]
    assert [each["part"] for each in lines[:2]] == ["pool", "name"]
    records = [each for each in lines if each["part"] == "record"]
    assert [record["parts"] for record in records] == [
        [{"structure": 1, "code": 9, "number": 1, "bytes": "work"}]
    ]
    assert {each["owner"] for each in lines if each["part"] == "blocks"} == {
        "used by entry 0",
        "free",
    }
    assert sum(each["count"] for each in lines if each["part"] == "blocks") == lines[0]["blocks"]


def test_check_ends_with_a_summary(rnvm, pool):
    out = rnvm("check", pool).stdout
    assert out.splitlines()[-1].startswith("sound: 2 of")
    assert "1 operations wait" in out
    content = bytearray(Path(pool).read_bytes())
    content[16384 + 50] ^= 4
    Path(pool).write_bytes(content)
    found = rnvm("check", pool, status=1).stdout
    assert "damage: naming entry 0 at 16384" in found
    assert "cannot open the pool without repair" in found
    assert "one flipped bit corrected" in rnvm("check", pool, "--repair").stdout
    verdict = json.loads(rnvm("check", pool, "--json").stdout)
    assert verdict["sound"] and verdict["findings"] == []


def test_grow_makes_a_pool_larger(rnvm, pool):
    assert "now has 4MiB" in rnvm("grow", pool, "--size", "4MiB").stdout
    assert "already has" in rnvm("grow", pool, "--size", "3MiB", status=2).stderr
    assert rnvm("check", pool).stdout.splitlines()[-1].startswith("sound: 2 of")


def test_an_error_is_one_line_with_a_hint(rnvm, pool):
    for command in ("info", "check", "ls", "dump"):
        error = rnvm(command, "nothing.pool", status=1).stderr
        assert error.startswith(
            "rnvm: there is no pool at nothing.pool (create one: rnvm create nothing.pool"
        )
        with pools.open_pool(pool):
            assert "is open in another process" in rnvm(command, pool, status=1).stderr


HOSTILE = (
    "orders\x1b]0;title\x07\x1b[2K\r\x1b[32msound: all well\x1b[0m\nroot \u202e\\x1b é".encode()
)


@pytest.mark.parametrize(
    "command",
    [
        ["ls"],
        ["check"],
        ["check", "--repair"],
        ["info"],
        ["dump"],
        ["ls", "--json"],
        ["check", "--json"],
    ],
)
@pytest.mark.parametrize("name", [HOSTILE, b"not utf-8: \xff\x9b2J"])
def test_no_name_of_a_structure_controls_a_terminal_or_forges_a_line(rnvm, pool, command, name):
    before = rnvm(command[0], pool, *command[1:]).stdout.count("\n")
    with pools.open_pool(pool) as opened:
        opened.create(name, kind=3)
    out = rnvm(command[0], pool, *command[1:]).stdout
    assert all(each.isprintable() or each == "\n" for each in out)
    if command != ["dump"]:  # dump has a line for the name, and one for its blocks
        assert out.count("\n") == before + (
            command[0] in ("ls", "check") and "--json" not in command
        )


def test_names_that_differ_are_printed_differently(rnvm, pool):
    names = ["é", "c3a9", "\\xe9", "\\\\xe9", "\n", "\\n", "a b", "\x1b", "\\x1b", "jobs "]
    with pools.open_pool(pool) as opened:
        for name in names:
            opened.create(name.encode(), kind=3)
        opened.create(b"\xff", kind=3)
    listed = [each["name"] for each in json.loads(rnvm("ls", pool, "--json").stdout)]
    assert listed == ["jobs", *names, "\udcff"]
    lines = [line.split("  ")[0] for line in rnvm("ls", pool).stdout.splitlines()[1:]]
    assert len(set(lines)) >= len(names) + 1
    assert "é" in lines


@pytest.mark.parametrize(
    "path",
    ["/dev/null", "/dev/zero", "/proc/self/mem", "/proc/self/status", ".", "fifo", "empty", "/"],
)
@pytest.mark.parametrize(
    "command",
    [
        ["info"],
        ["check"],
        ["check", "--repair"],
        ["ls"],
        ["dump"],
        ["recover"],
        ["grow", "--size", "4MiB"],
    ],
)
def test_a_path_of_no_pool_is_refused_in_one_line(rnvm, path, command):
    os.mkfifo("fifo")
    Path("empty").touch()
    result = rnvm(command[0], path, *command[1:], status=1)
    assert isinstance(result.exception, SystemExit)
    assert result.stderr.startswith("rnvm: ") and result.stderr.count("\n") == 1


def test_create_names_the_missing_folder(rnvm):
    error = rnvm("create", "nowhere/x.pool", "--size", "4MiB", status=1).stderr
    assert (
        "there is no folder" in error
        and "nowhere for the pool" in error
        and "rnvm create" not in error
    )


@pytest.mark.parametrize("command", ["create", "info", "check", "recover", "serve", "grow"])
def test_an_empty_path_is_refused_as_empty(rnvm, command):
    size = ["--size", "4MiB"] if command in ("create", "grow") else []
    assert "path of a pool must not be empty (give" in rnvm(command, "", *size, status=2).stderr


def test_the_hint_for_a_folder_asks_for_a_file(rnvm):
    for command in (["info", "."], ["create", ".", "--size", "4MiB"], ["check", "."]):
        assert "Is a directory (give a file, a block device" in rnvm(*command, status=1).stderr


def test_the_error_of_a_size_beyond_any_pool_names_the_limit(rnvm, pool):
    limit = "size of a pool must be between 1B and 256TiB, got 300TiB"
    assert limit in rnvm("create", "q.pool", "--size", "300TiB", status=2).stderr
    assert limit in rnvm("grow", "p.pool", "--size", "300TiB", status=2).stderr


def test_a_size_too_small_for_one_front_end_is_refused_in_the_singular(rnvm):
    error = rnvm("create", "q.pool", "--size", "4KiB", "--front-ends", "1", status=2).stderr
    assert "a pool with 1 front-end (give" in error


@pytest.mark.parametrize("count", [1, 1023, 1024])
def test_create_takes_as_many_front_ends_as_its_help_states(rnvm, count):
    logs = ["--operation-log", "4KiB", "--memory-log", "4KiB", "--block", "512"]
    rnvm("create", "p.pool", "--size", "80MiB", "--front-ends", str(count), *logs)
    assert json.loads(rnvm("info", "p.pool", "--json").stdout)["front_ends"] == count
    assert (
        "1<=x<=1024"
        in rnvm("create", "q.pool", "--size", "1GiB", "--front-ends", "1025", status=2).stderr
    )


def test_a_copy_of_an_open_pool_is_reported_as_inconsistent(rnvm):
    with tempfile.TemporaryDirectory(dir=os.environ["TESTS_MEMORY"]) as folder:
        path = f"{folder}/p.pool"
        rnvm("create", path, "--size", "2MiB", "--assume-persistent")
        with pools.open_pool(path) as opened:
            opened.create(b"jobs", kind=3)
            content = bytearray(Path(path).read_bytes())
        content[16384 + 50] ^= 4  # as at another moment
        Path(path).write_bytes(content)
        result = rnvm("check", path, status=1)
    assert "cannot open the pool without repair" in result.stdout
    assert "a copy made while a pool is open" in result.stdout


def test_the_documentation_has_every_command_with_every_option():
    text = (Path(__file__).parents[2] / "docs" / "pool.md").read_text()
    rows = dict(re.findall(r"^\| `rnvm (\w+)[^`]*` \|(.*)$", text, re.M))
    for name in ("create", "info", "check", "ls", "dump", "grow"):
        options = {
            each.opts[0] for each in main.commands[name].params if each.param_type_name == "option"
        }
        assert set(re.findall(r"`(--[a-z-]+)`", rows[name])) == options
