import os
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfp import address
from rfp.address import Address, RdmaOptions, ShmOptions, default, parse, unique
from rfp.errors import InvalidAddress

pytestmark = pytest.mark.pure


def test_an_shm_address_has_a_path_and_typed_options():
    found = parse("shm:///run/x/y?rtt=2us&in_iops=1.5M&out_iops=500k")
    assert found == Address(
        "shm", path="/run/x/y", options=ShmOptions(rtt=2000, in_iops=1_500_000, out_iops=500_000)
    )
    assert found.shm.emulated
    assert not parse("shm:///run/x/y").shm.emulated


def test_an_rdma_address_has_host_port_and_typed_options():
    found = parse("rdma://node-7.lan:7001?device=rxe0&port=2&gid_index=1")
    assert found == Address("rdma", host="node-7.lan", port=7001, options=RdmaOptions("rxe0", 2, 1))
    assert parse("rdma://[fe80::1%eth0]:0").host == "fe80::1%eth0"


def test_an_address_of_one_provider_has_no_options_of_the_other():
    with pytest.raises(InvalidAddress):
        _ = parse("rdma://h:1").shm
    with pytest.raises(InvalidAddress):
        _ = parse("shm:///x").rdma


def test_a_relative_path_becomes_absolute(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert parse("shm://here").path == str(tmp_path / "here")
    monkeypatch.setenv("HOME", "/home/me")
    assert parse("shm://~/cache").path == "/home/me/cache"


def test_a_parsed_address_is_returned_unchanged():
    found = parse("shm:///x")
    assert parse(found) is found


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/run/x",
        "shm",
        "shm:",
        "shm:/x",
        "http://x",
        "tcp://h:1",
        "shm://",
        "shm:///x/",
        "shm://?rtt=1us",
        "shm:///a%00b",
        "rdma://",
        "rdma://h",
        "rdma://:1",
        "rdma://h:",
        "rdma://h:x",
        "rdma://h:65536",
        "rdma://fe80::1:7",
        "rdma://[h]:7",
        "rdma://[::1]",
        "rdma://a b:1",
        "rdma://h/x:1",
        "rdma://h:1?gid_index=5000",
        "rdma://h:1?device=../x",
        "rdma://h:1?port=0",
        "rdma://h:1?port=x",
        "shm:///x?rtt",
        "shm:///x?rtt=",
        "shm:///x?rtt=fast",
        "shm:///x?rtt=2us&rtt=2us",
        "shm:///x?&",
        "shm:///x?device=rxe0",
        "rdma://h:1?rtt=2us",
        b"shm:///x",
        None,
    ],
)
def test_an_invalid_address_is_refused(text):
    with pytest.raises(InvalidAddress):
        parse(text)


def test_an_unknown_option_is_refused_with_the_known_ones():
    with pytest.raises(InvalidAddress, match=r"'ttl'.*rtt, in_iops or out_iops"):
        parse("shm:///x?ttl=5")
    with pytest.raises(InvalidAddress, match=r"'rtt'.*device, port, gid_index"):
        parse("rdma://h:1?rtt=5us")


def test_an_invalid_value_is_refused_with_the_reason_and_an_example():
    with pytest.raises(InvalidAddress, match=r"rtt: invalid duration '2': it has no unit.*2us"):
        parse("shm:///x?rtt=2")


def test_a_path_of_107_bytes_is_accepted_and_one_of_108_is_refused_with_a_hint():
    assert len(parse("shm:///" + "a" * 106).path) == 107
    with pytest.raises(InvalidAddress, match=r"108 bytes.*107.*shorter"):
        parse("shm:///" + "a" * 107)
    with pytest.raises(InvalidAddress):
        parse("shm:///" + "é" * 54)  # bytes count, not characters


paths = (
    st.binary(min_size=1, max_size=60)
    .filter(lambda b: b"\0" not in b and not b.endswith(b"/"))
    .map(lambda b: os.path.abspath(os.fsdecode(b"/" + b)))
    .filter(lambda p: not p.endswith("/"))
)
iops = st.integers(0, 2**40)


@given(paths, st.integers(0, 2**50), iops, iops)
def test_an_shm_address_round_trips(path, rtt, in_iops, out_iops):
    made = Address("shm", path=path, options=ShmOptions(rtt, in_iops, out_iops))
    assert parse(str(made)) == made
    assert str(parse(str(made))) == str(made)


hosts = st.from_regex(r"[a-z0-9][a-z0-9.-]{0,20}", fullmatch=True) | st.ip_addresses().map(str)


@given(
    hosts,
    st.integers(0, 65535),
    st.sampled_from(["", "rxe0", "mlx5_1"]),
    st.integers(0, 255),
    st.integers(-1, 255),
)
def test_an_rdma_address_round_trips(host, port, device, device_port, gid_index):
    made = Address(
        "rdma", host=host, port=port, options=RdmaOptions(device, device_port, gid_index)
    )
    assert parse(str(made)) == made


@given(
    st.text(max_size=40)
    | st.builds(
        "{}://{}?{}".format,
        st.sampled_from(["shm", "rdma"]),
        st.text(max_size=20),
        st.text(max_size=20),
    )
)
def test_any_text_is_an_address_or_raises_invalid_address(text):
    try:
        found = parse(text)
    except InvalidAddress:
        return
    assert parse(str(found)) == found


def test_the_default_is_in_the_runtime_directory(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert default() == Address("shm", path=f"{tmp_path}/rfp/default")
    assert not (tmp_path / "rfp").exists()  # default() creates no folder


@pytest.mark.parametrize("runtime", [None, "", "relative", "/does/not/exist"])
def test_without_a_runtime_directory_the_default_is_in_tmp(monkeypatch, runtime):
    if runtime is None:
        monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    else:
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
    assert default().path == f"/tmp/rfp-{os.geteuid()}/default"


def test_a_runtime_directory_of_another_user_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(InvalidAddress, match=r"belongs to user.*unset XDG_RUNTIME_DIR"):
        default()


def test_a_default_directory_that_others_can_reach_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (tmp_path / "rfp").mkdir(mode=0o700)
    default()
    (tmp_path / "rfp").chmod(0o710)
    with pytest.raises(InvalidAddress, match=r"mode 0710.*chmod 700"):
        default()


def test_a_default_directory_that_is_a_link_or_a_file_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "rfp").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InvalidAddress, match=r"symbolic link"):
        default()
    (tmp_path / "rfp").unlink()
    (tmp_path / "rfp").touch(0o700)
    with pytest.raises(InvalidAddress, match=r"not a directory"):
        default()


def test_a_directory_of_another_user_is_refused(monkeypatch, tmp_path):
    directory = tmp_path / "theirs"
    directory.mkdir(mode=0o700)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(InvalidAddress, match=r"belongs to user"):
        address.check_private(str(directory))


def test_unique_addresses_differ_and_are_in_the_folder_of_the_default(monkeypatch, private):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(private))
    made = {unique().path for _ in range(100)}
    assert len(made) == 100
    assert {os.path.dirname(path) for path in made} == {os.path.dirname(default().path)}


def test_a_runtime_directory_too_deep_for_a_socket_is_refused(monkeypatch, tmp_path):
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(deep))
    with pytest.raises(InvalidAddress, match=r"107"):
        default()


def test_a_private_directory_is_accepted_and_a_missing_one_is_not(private):
    assert address.check_private(str(private))
    assert stat.S_IMODE(os.stat(private).st_mode) == 0o700
    assert not address.check_private(str(private / "missing"))


def test_the_hint_does_not_advise_a_runtime_directory_whose_path_is_too_long(tmp_path, monkeypatch):
    runtime = tmp_path / ("x" * 90)
    runtime.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    for make in (address.default, address.unique, lambda: address.parse("shm:///" + "a" * 107)):
        with pytest.raises(InvalidAddress) as refusal:
            make()
        assert "xxx" not in refusal.value.hint
        assert f"/tmp/rfp-{os.geteuid()}" in refusal.value.hint
