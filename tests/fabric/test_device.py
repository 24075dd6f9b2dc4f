"""Which device, port and GID are chosen for a peer, why, and the error if none can be chosen."""

from __future__ import annotations

import ipaddress
import resource

import pytest
from fake_sysfs import add_interface, add_port

from rfp.address import RdmaOptions, parse
from rfp.errors import ConnectionFailed, FabricError, InvalidArgument
from rfp.fabric import memory_limits
from rfp.fabric.verbs import select_device as device

V1, V2 = "IB/RoCE v1", "RoCE v2"
LOCAL = "fe80::1"


def choose(root, host="peer", *, source="10.0.0.1", interface="", **options):
    return device.choose(
        host,
        RdmaOptions(**options),
        sysfs=root / "sys",
        route=lambda _: source and ipaddress.ip_address(source),
        holder=lambda *_: interface,
    )


@pytest.fixture
def root(tmp_path):
    add_port(
        tmp_path,
        "rxe0",
        gids={0: (LOCAL, V2, "eth0"), 1: ("10.0.0.1", V1, "eth0"), 2: ("10.0.0.1", V2, "eth0")},
    )
    add_port(
        tmp_path,
        "mlx5_0",
        1,
        gids={0: (LOCAL, V2, "eth1"), 3: ("10.1.0.1", V2, "eth1"), 4: ("2001:db8::1", V2, "eth1")},
    )
    add_port(tmp_path, "mlx5_0", 2, state="1: DOWN", gids={0: ("10.2.0.1", V2, "eth2")})
    return tmp_path


@pytest.mark.parametrize(
    ("source", "place"),
    [
        ("10.0.0.1", ("rxe0", 1, 2)),
        ("10.1.0.1", ("mlx5_0", 1, 3)),
        ("2001:db8::1", ("mlx5_0", 1, 4)),
    ],
)
def test_the_gid_that_carries_the_address_which_routes_to_the_peer_is_chosen_roce_v2_first(
    root, source, place
):
    choice = choose(root, source=source)
    assert (choice.device, choice.port, choice.gid_index) == place
    assert choice.gid == source
    assert f"RoCE v2; it has {source}, the address that routes to peer" in str(choice)


def test_roce_v1_is_chosen_if_there_is_no_other_gid(tmp_path):
    add_port(tmp_path, "old0", gids={0: ("10.0.0.1", V1, "eth0")})
    choice = choose(tmp_path)
    assert (choice.gid_index, choice.reason.partition(";")[0]) == (0, "RoCE v1")


def test_an_address_of_no_device_is_an_error_that_names_the_devices_addresses(root):
    with pytest.raises(
        FabricError,
        match=r"no RDMA device has the address 192.0.2.1, "
        r"which routes to peer .*10.0.0.1, 10.1.0.1",
    ):
        choose(root, source="192.0.2.1")


def test_a_port_that_is_down_is_not_chosen(root):
    with pytest.raises(FabricError, match=r"10.2.0.1, which routes"):
        choose(root, source="10.2.0.1")
    with pytest.raises(FabricError, match="mlx5_0:2 is DOWN"):
        choose(root, device="mlx5_0", port=2)


@pytest.mark.parametrize("host", ["", "0.0.0.0", "::", "localhost"])
def test_without_an_address_the_first_active_port_is_chosen_with_the_gid_of_the_widest_scope(
    root, host
):
    choice = choose(root, host, source=None)
    assert (choice.device, choice.port, choice.gid_index) == ("mlx5_0", 1, 3)
    assert "first active" in choice.reason


def test_the_callers_device_port_and_gid_are_chosen(root):
    choice = choose(root, device="rxe0", gid_index=0)
    assert (choice.device, choice.gid_index, choice.gid) == ("rxe0", 0, LOCAL)
    assert "requested" in choice.reason
    choice = choose(root, source="192.0.2.1", device="rxe0")
    assert (choice.device, choice.gid_index) == ("rxe0", 2)
    assert "none of its GIDs has the address 192.0.2.1" in choice.reason


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"device": "mlx9"}, "no RDMA device mlx9.*mlx5_0:1, mlx5_0:2, rxe0:1"),
        ({"port": 7}, "port 7"),
        ({"device": "rxe0", "gid_index": 5}, "rxe0:1 has no GID 5.*0, 1, 2"),
    ],
)
def test_an_unknown_device_port_or_gid_is_refused_and_the_known_ones_are_named(
    root, options, reason
):
    with pytest.raises(InvalidArgument, match=reason):
        choose(root, **options)


def test_a_machine_without_devices_is_an_error(tmp_path):
    with pytest.raises(FabricError, match="there is no RDMA device.*rfp doctor"):
        choose(tmp_path)


def test_infiniband_is_found_beneath_the_interface_that_has_the_address(tmp_path):
    add_port(tmp_path, "mlx5_0", link="InfiniBand", gids={0: ("fe80::aabb:1", "IB/RoCE v1", "")})
    add_port(tmp_path, "mlx5_1", link="InfiniBand", gids={0: ("fe80::aabb:2", "IB/RoCE v1", "")})
    gid = ipaddress.IPv6Address("fe80::aabb:2").packed.hex(":")
    add_interface(tmp_path, "ib1", hardware="80:00:00:48:" + gid)
    choice = choose(tmp_path, interface="ib1")
    assert (choice.device, choice.gid_index) == ("mlx5_1", 0)
    assert "InfiniBand beneath 10.0.0.1" in choice.reason


def test_iwarp_is_named_and_not_chosen(tmp_path):
    add_port(tmp_path, "siw0", node="4: RNIC", gids={0: ("10.0.0.1", V2, "eth0")})
    with pytest.raises(FabricError, match="siw0:1 is iWARP"):
        choose(tmp_path)


def test_gids_behind_an_empty_entry_of_a_table_are_found(tmp_path):
    add_port(
        tmp_path, "rxe0", gids={0: (LOCAL, V2, "eth0"), 20: ("10.0.0.1", V2, "eth0")}, table=1024
    )
    assert choose(tmp_path).gid_index == 20


def test_the_route_to_a_host_is_the_kernels():
    assert (
        device.route("")
        is device.route("0.0.0.0")
        is device.route("127.0.0.1")
        is device.route("::")
        is None
    )
    with pytest.raises(ConnectionFailed, match="cannot find a route to"):
        device.route("no-such-host.invalid")
    assert device.holder(ipaddress.ip_address("127.0.0.1")) == "lo"
    assert device.holder(ipaddress.ip_address("192.0.2.77")) == ""


def test_an_address_carries_the_options_of_a_queue_pair():
    text = "rdma://node7:7001?device=rxe0&timeout=14&retry_cnt=3&patience=2s"
    options = parse(text).rdma
    assert (options.timeout, options.retry_cnt, options.patience) == (14, 3, 2_000_000_000)
    assert str(parse(text)) == text


def test_lockable_memory_is_the_limit_less_the_pinned_memory(tmp_path, monkeypatch):
    status = tmp_path / "status"
    monkeypatch.setattr(resource, "getrlimit", lambda _: (8 << 20, 8 << 20))
    status.write_text("CapEff:\t0000000000000000\nVmPin:\t    1024 kB\n")
    assert memory_limits.lockable(status) == 7 << 20
    status.write_text("CapEff:\t0000000000000000\nVmPin:\t    9999999 kB\n")
    assert memory_limits.lockable(status) == 0
    status.write_text("CapEff:\t0000000000004000\nVmPin:\t    0 kB\n")  # CAP_IPC_LOCK
    assert memory_limits.lockable(status) == memory_limits.UNLIMITED
    monkeypatch.setattr(
        resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    )
    status.write_text("CapEff:\t0000000000000000\n")
    assert memory_limits.lockable(status) == memory_limits.UNLIMITED
    assert memory_limits.lockable() > 0
