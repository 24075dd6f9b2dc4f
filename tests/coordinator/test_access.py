"""TLS, users and passwords, and what a coordinator refuses."""

from __future__ import annotations

import contextlib

import coordination_services
import pytest
from polling import until

from rfp.errors import CoordinatorRefused, CoordinatorUnavailable, FabricError, InvalidArgument
from rnvm.coordinator.state import State

pytestmark = [pytest.mark.every_case, pytest.mark.pure]


@pytest.mark.parametrize("kind", ["etcd", "zk"])
def test_the_connections_may_use_tls(opened, tmp_path, monkeypatch, kind):
    running = coordination_services.SERVICES[kind](tmp_path, tls=True, listen="0.0.0.0")
    with contextlib.closing(running) as service:
        coordinator = opened(service.address("g"))
        first = coordinator.create(State.first(b"one"))
        second = coordinator.compare_and_set(first, first.next(b"two"))
        with coordinator.watch() as watch, coordinator.register("a", lease=60) as registration:
            assert watch.wait(20)
            assert coordinator.read() == second
            assert coordinator.members() == [registration.member]
        for untrusted in (f"{kind}://{service.hosts}/g?tls=on", f"{kind}://{service.hosts}/g"):
            with pytest.raises(CoordinatorUnavailable):
                opened(untrusted).read(timeout=0.3)

        # As if the machine trusted the authority.
        monkeypatch.setenv("SSL_CERT_FILE", str(service.tls.ca))
        mine = service.tls.options.partition("&")[2]
        port = service.ports[0][0]
        assert opened(f"{kind}://localhost:{port}/g?{mine}").read() == second
        (tmp_path / "other").mkdir()
        other = coordination_services.Tls(tmp_path / "other")
        for untrusted in (f"localhost:{port}/g?ca={other.ca}&{mine}", f"127.0.0.2:{port}/g?{mine}"):
            stranger = opened(f"{kind}://{untrusted}")
            until(lambda stranger=stranger: "certificate verify failed" in failure(stranger))


def failure(coordinator) -> str:
    with pytest.raises(CoordinatorUnavailable) as refused:
        coordinator.read(timeout=0.3)
    return str(refused.value)


def test_a_file_of_tls_that_cannot_be_read_is_named(opened, service, tmp_path):
    for name in (f"{tmp_path}/none.pem", "%00"):
        with pytest.raises(FabricError, match="cannot use TLS for .*check ca="):
            opened(f"{service.kind}://localhost:1/g?ca={name}")


def test_a_private_key_with_a_password_is_refused_and_no_terminal_prompts(
    opened, service, tmp_path
):
    from cryptography.hazmat.primitives import serialization as pem

    files = coordination_services.Tls(tmp_path)
    key = pem.load_pem_private_key(files.key.read_bytes(), None)
    kind = pem.BestAvailableEncryption(b"secret")
    files.key.write_bytes(key.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, kind))
    with pytest.raises(FabricError, match="the private key is encrypted .*without a password"):
        opened(f"{service.kind}://localhost:1/g?cert={files.cert}&key={files.key}")


def test_a_password_file_that_cannot_be_read_is_named(opened, service, tmp_path):
    for name in (f"{tmp_path}/none", "%00"):
        with pytest.raises(InvalidArgument, match="cannot read the password file"):
            opened(f"{service.kind}://localhost:1/g?user=me&password_file={name}")


@pytest.fixture
def password_file(tmp_path):
    path = tmp_path / "password"
    path.write_text("secret\n")
    return path


def test_etcd_authenticates_a_user(opened, tmp_path, password_file):
    wrong = tmp_path / "wrong"
    wrong.write_text("guess\n")
    with contextlib.closing(coordination_services.Etcd(tmp_path)) as service:
        everything = {"key": "AA==", "range_end": "AA==", "permType": "READWRITE"}
        for path, message in (
            ("user/add", {"name": "root", "password": "root"}),
            ("role/add", {"name": "root"}),
            ("user/grant", {"user": "root", "role": "root"}),
            ("user/add", {"name": "me", "password": "secret"}),
            ("user/add", {"name": "guest", "password": "secret"}),
            ("role/add", {"name": "member"}),
            ("role/grant", {"name": "member", "perm": everything}),
            ("user/grant", {"user": "me", "role": "member"}),
            ("enable", {}),
        ):
            assert "header" in service.ask(0, f"/v3/auth/{path}", message)
        address = service.address("g")
        coordinator = opened(f"{address}?user=me&password_file={password_file}")
        first = coordinator.create(State.first(b"one"))
        with coordinator.watch() as watch, coordinator.register("a", lease=60):
            assert watch.wait(20)
            assert [each.name for each in coordinator.members()] == ["a"]
        coordinator._token = "expired"  # as after the time-out of etcd's tokens
        assert coordinator.read() == first
        coordinator._token = "expired"
        with coordinator.watch() as watch:
            assert watch.wait(20)
        for refused in (
            address,
            f"{address}?user=guest&password_file={password_file}",
            f"{address}?user=me&password_file={wrong}",
        ):
            with pytest.raises(CoordinatorRefused, match="check user= and password_file="):
                opened(refused).read()
            with pytest.raises(CoordinatorRefused):
                opened(refused).register("a", lease=5)


def test_zookeeper_keeps_the_nodes_of_a_user(opened, tmp_path, password_file):
    with contextlib.closing(coordination_services.ZooKeeper(tmp_path)) as service:
        address = service.address("g")
        coordinator = opened(f"{address}?user=me&password_file={password_file}")
        first = coordinator.create(State.first(b"one"))
        with coordinator.watch() as watch, coordinator.register("a", lease=60):
            assert watch.wait(20)
            assert [each.name for each in coordinator.members()] == ["a"]
        stranger = opened(address)
        with pytest.raises(CoordinatorRefused, match="check user= and password_file="):
            stranger.read()
        with pytest.raises(CoordinatorRefused):
            stranger.compare_and_set(first, first.next(b"two"))
        with pytest.raises(CoordinatorRefused):
            stranger.register("a", lease=5)
        assert coordinator.read() == first
