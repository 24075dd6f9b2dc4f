"""A client written from the documentation alone, with other libraries, is served like our own."""

from __future__ import annotations

import json
import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from server_addresses import HOST

import rfp

pytestmark = [pytest.mark.softroce, pytest.mark.timeout(180)]

SECRET = b"sixteen bytes or more of it"


class Other:
    """The other client's process."""

    def __init__(self, server: rfp.Server, secret: Path) -> None:
        port = server.address.rpartition(":")[2].partition("?")[0]
        command = [
            "/usr/bin/python3",
            str(Path(__file__).with_name("client.py")),
            HOST,
            port,
            str(secret),
        ]
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("PYTHON")
        }
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def request(self, word: str, *arguments: bytes) -> object:
        assert self.process.stdin
        assert self.process.stdout
        print(
            word, *(argument.hex() for argument in arguments), file=self.process.stdin, flush=True
        )
        answer = json.loads(self.process.stdout.readline() or '{"error": "it has ended"}')
        assert "error" not in answer, answer["error"]
        return answer["answer"]


@pytest.fixture(scope="module")
def server() -> Iterator[rfp.Server]:
    with rfp.Server(memory="64MiB", workers=2, address=f"rdma://{HOST}:0", secret=SECRET) as server:
        yield server


@pytest.fixture(scope="module")
def ours(server: rfp.Server) -> Iterator[rfp.Client]:
    with rfp.connect(server.address, secret=SECRET, timeout=30) as kv:
        kv.ping()
        yield kv


@pytest.fixture(scope="module")
def other(server: rfp.Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Other]:
    secret = tmp_path_factory.mktemp("secret") / "secret"
    secret.write_bytes(SECRET + b"\n")
    client = Other(server, secret)
    try:
        client.request("ping")  # connects here, not in the first test
        yield client
    finally:
        client.process.stdin.close()
        try:
            client.process.wait(10)
        finally:
            client.process.kill()
            client.process.wait()
            client.process.stdout.close()


def test_each_client_reads_the_values_of_the_other_one(ours, other):
    for n in range(8):  # keys of both workers
        key = b"key %d" % n
        version = ours.put(key, b"ours %d" % n)
        assert other.request("get", key) == {"value": (b"ours %d" % n).hex(), "by": "value"}
        put = other.request("put", key, b"theirs %d" % n)
        assert put["by"] == "value"
        assert put["version"] > version
        assert ours.get(key) == b"theirs %d" % n
        assert ours.item(key).version == put["version"]


def test_a_result_is_sent_by_reply_on_request(ours, other):
    ours.put(b"answered", b"by WRITE")
    assert other.request("get-reply", b"answered") == {"value": b"by WRITE".hex(), "by": "value"}
    assert other.request("get", b"answered") == {"value": b"by WRITE".hex(), "by": "value"}


def test_a_deleted_key_is_absent_for_both_clients(ours, other):
    ours.put(b"gone", b"soon")
    assert other.request("delete", b"gone") is True
    assert ours.get(b"gone") is None
    assert other.request("delete", b"gone") is False
    assert other.request("get", b"gone") is None


def test_a_response_longer_than_the_first_read_is_read_whole(ours, other):
    value = random.Random(1).randbytes(1500)
    ours.put(b"longer", value)
    assert other.request("get", b"longer") == {"value": value.hex(), "by": "value"}


def test_a_large_value_is_read_by_reference(ours, other):
    value = random.Random(2).randbytes(700_001)
    ours.put(b"large", value)
    assert other.request("get", b"large") == {"value": value.hex(), "by": "reference"}


def test_a_large_value_is_put_through_staging(ours, other):
    value = random.Random(3).randbytes(200_003)
    put = other.request("put", b"staged", value)
    assert put["by"] == "staging"
    assert ours.get(b"staged") == value
    assert ours.item(b"staged").version == put["version"]


def test_every_worker_answers_pings(other):
    assert other.request("ping") == [0, 0]


def test_a_client_without_the_secret_is_not_served(server, tmp_path):
    (tmp_path / "wrong").write_bytes(b"not the secret, not at all")
    client = Other(server, tmp_path / "wrong")
    client.process.stdin.close()
    assert client.process.wait(60) != 0
    client.process.stdout.close()
