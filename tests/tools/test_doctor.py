"""`rfp doctor`: each fault of a machine is found, named, and reported with a remedy."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from fake_sysfs import add_interface, add_machine, add_port

from rfp import cli
from rfp.errors import FabricError, Unsupported
from rfp.fabric import memory_limits
from rfp.fabric.verbs.select_device import Choice
from rfp.tools import doctor as examination
from rfp.tools.doctor import GOOD, LIMITED, NOT_OK, NOT_RUN, Finding, Machine, examine

V1, V2 = "IB/RoCE v1", "RoCE v2"


@pytest.fixture
def root(tmp_path):
    """Return the root of a machine without faults."""
    add_machine(tmp_path)
    add_port(tmp_path, "rxe0", gids={0: ("fe80::1", V2, "eth0"), 1: ("10.0.0.1", V2, "eth0")})
    add_interface(tmp_path, "eth0")
    return tmp_path


def diagnose(
    root,
    *,
    library="/lib/libibverbs.so.1",
    known=("rxe0",),
    lockable=memory_limits.UNLIMITED,
    access=lambda path: True,
    self_test=lambda host, options: "READ 2 us",
    choose=lambda host, options: Choice("rxe0", 1, 1, "10.0.0.1", "why"),
):
    def answer(value):
        if isinstance(value, Exception):
            raise value
        return value

    provider = SimpleNamespace(library=lambda: answer(library), devices=lambda: list(answer(known)))
    machine = Machine(
        root=root,
        provider=lambda: provider,
        lockable=lambda: lockable,
        access=access,
        choose=choose,
    )
    return {finding.question: finding for finding in examine(machine=machine, self_test=self_test)}


def bad(findings):
    return {name for name, finding in findings.items() if finding.state == NOT_OK}


def test_a_machine_without_faults_needs_no_remedy(root):
    findings = diagnose(root)
    assert {finding.state for finding in findings.values()} == {GOOD}
    assert not any(finding.remedy for finding in findings.values())
    assert list(findings) == [
        "kernel modules",
        "library",
        "provider plugins",
        "devices",
        "ports",
        "GIDs",
        "MTU",
        "rights",
        "locked memory",
        "huge pages",
        "choice",
        "self-test",
    ]


def test_each_missing_part_is_reported_on_a_machine_without_rdma(tmp_path):
    findings = diagnose(tmp_path, known=FabricError("cannot list the RDMA devices"))
    assert bad(findings) == {"kernel modules", "devices", "rights"}
    assert "modprobe ib_core ib_uverbs" in findings["kernel modules"].remedy
    assert "rdma link add rxe0" in findings["devices"].remedy
    assert {
        findings[name].state
        for name in ("provider plugins", "ports", "GIDs", "MTU", "choice", "self-test")
    } == {NOT_RUN}


def test_a_missing_library_is_named_with_the_command_that_installs_it(root):
    findings = diagnose(
        root, library=Unsupported("no libibverbs.so.1", hint="apt install libibverbs1")
    )
    assert (findings["library"].answer, findings["library"].remedy) == (
        "no libibverbs.so.1",
        "apt install libibverbs1",
    )


def test_a_device_without_a_plugin_is_named(root):
    finding = diagnose(root, known=())["provider plugins"]
    assert (finding.state, "rxe0" in finding.answer, "ibverbs-providers" in finding.remedy) == (
        NOT_OK,
        True,
        True,
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"state": "1: DOWN"}, "rxe0:1 is DOWN"),
        ({"node": "4: RNIC"}, "iWARP"),
        ({"gids": {}}, "no GID"),
    ],
)
def test_a_port_that_cannot_be_used_is_named_with_its_reason(tmp_path, change, words):
    add_machine(tmp_path)
    add_port(tmp_path, "rxe0", **{"gids": {0: ("10.0.0.1", V2, "eth0")}, **change})
    finding = diagnose(tmp_path)["ports"]
    assert finding.state == NOT_OK
    assert words in finding.answer
    assert "ip link set" in finding.remedy


@pytest.mark.parametrize(
    ("gids", "words"),
    [({0: ("10.0.0.1", V1, "eth0")}, "RoCE v1"), ({0: ("fe80::1", V2, "eth0")}, "IP address")],
)
def test_gids_that_peers_can_hardly_reach_are_a_warning(tmp_path, gids, words):
    add_machine(tmp_path)
    add_port(tmp_path, "rxe0", gids=gids)
    finding = diagnose(tmp_path)["GIDs"]
    assert finding.state == LIMITED
    assert words in finding.remedy


def test_a_small_mtu_is_a_warning(root):
    add_interface(root, "eth0", mtu=1500)
    finding = diagnose(root)["MTU"]
    assert (finding.state, "eth0 1500" in finding.answer, "mtu 4200" in finding.remedy) == (
        LIMITED,
        True,
        True,
    )


def test_a_device_that_this_user_may_not_open_is_named(root):
    finding = diagnose(root, access=lambda path: False)["rights"]
    assert (finding.state, "uverbs0" in finding.answer, "udev" in finding.remedy) == (
        NOT_OK,
        True,
        True,
    )


def test_the_remedy_in_a_container_is_to_start_it_with_other_options(tmp_path):
    (tmp_path / ".dockerenv").touch()
    findings = diagnose(tmp_path)
    assert "--device=/dev/infiniband" in findings["rights"].remedy
    assert "host of this container" in findings["kernel modules"].remedy


@pytest.mark.parametrize(
    ("lockable", "state"), [(8 << 20, NOT_OK), (1 << 30, LIMITED), (memory_limits.UNLIMITED, GOOD)]
)
def test_too_little_locked_memory_is_reported_with_the_line_to_add(root, lockable, state):
    finding = diagnose(root, lockable=lockable)["locked memory"]
    assert finding.state == state
    assert state == GOOD or "memlock unlimited" in finding.remedy


def test_a_kernel_without_huge_pages_is_a_warning(root):
    (root / "sys/kernel/mm/transparent_hugepage/enabled").write_text("always madvise [never]\n")
    assert diagnose(root)["huge pages"].state == LIMITED


def test_a_failure_of_the_device_is_reported_unchanged(root):
    def fail(*_):
        raise FabricError("transport retry counter exceeded", hint="check the firewall")

    finding = diagnose(root, self_test=fail)["self-test"]
    assert finding == Finding(
        "self-test", NOT_OK, "transport retry counter exceeded", "check the firewall"
    )
    findings = diagnose(root, choose=fail)
    assert (findings["choice"].state, findings["self-test"].state) == (NOT_OK, NOT_RUN)


@pytest.mark.parametrize("failed", [False, True])
def test_the_command_prints_all_findings_and_its_status_states_whether_rdma_works(
    monkeypatch, failed
):
    findings = [
        Finding("kernel modules", GOOD, "loaded"),
        Finding("huge pages", LIMITED, "none", "echo madvise"),
    ]
    if failed:
        findings.append(Finding("devices", NOT_OK, "there is no RDMA device", "buy one"))
    monkeypatch.setattr(examination, "examine", lambda host, options: iter(findings))
    result = CliRunner().invoke(cli.main, ["doctor", "node7"])
    assert result.exit_code == (1 if failed else 0)
    for finding in findings:
        assert f"{finding.question}: {finding.answer}" in result.output
        assert finding.remedy in result.output
    assert (
        "do not work here: devices" if failed else "rdma:// addresses work here"
    ) in result.output


def test_the_command_ends_with_a_verdict_on_this_machine():
    result = CliRunner().invoke(cli.main, ["doctor"])
    assert result.exit_code in (0, 1)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert ("rdma:// addresses work here." in result.output) == (result.exit_code == 0)


@pytest.mark.verbs
def test_the_doctor_finds_that_rdma_works_if_there_is_a_device():
    result = CliRunner().invoke(cli.main, ["doctor"])
    assert result.exit_code == 0, result.output
    assert "self-test: WRITE" in result.output
