"""Connected rings within one process, on each provider, and a plain-Python model of them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

from rfp.core.limits import LINE
from rfp.fabric.fabric import (
    REMOTE_READ,
    REMOTE_WRITE,
    EventChannel,
    Fabric,
    QueuePair,
    Region,
    RemoteRegion,
)
from rfp.fabric.shm.region import ShmFabric
from rfp.protocol.client.client_ring import ClientRing
from rfp.protocol.handshake_layout import EVENTCOUNT_BYTES, NOTIFY, REPLIES
from rfp.protocol.server.server_ring import ServerRing
from rfp.protocol.server.service import Service
from rfp.protocol.server.worker import Worker
from rfp.testing import ring_harness as steps
from rfp.testing.reordering_fabric import ReorderFabric

REQUEST_HEADER, RESPONSE_HEADER, REFERENCE = 32, 24, 32
INLINE, BY_REFERENCE = 0, 1

# The providers, and one that is slower than any worker; each is called with a seed for each end.
PROVIDERS: dict[str, Callable[[int], Fabric]] = {
    "shm": lambda seed: ShmFabric(),
    "emulated": lambda seed: ShmFabric(rtt_ns=2_000),
    "reorder": lambda seed: ReorderFabric(seed=seed),
    "slow": lambda seed: ShmFabric(rtt_ns=20_000, in_iops=20_000),
}


class Ends(NamedTuple):
    """A client's ring and the server's end of it, with the memory that both work on."""

    client: ClientRing
    server: ServerRing
    requests: Region  # the server's, as the server sees it
    written: RemoteRegion  # the same, as the client sees it
    responses: Region  # the server's
    reply: Region  # the client's
    answered: RemoteRegion  # the same, as the server sees it
    client_pair: QueuePair
    server_pair: QueuePair
    client_events: EventChannel
    server_events: EventChannel
    scratch: Region  # the client's: requests under construction, then the data of its READs

    @property
    def largest_request(self) -> int:
        return self.slot_size - REQUEST_HEADER

    @property
    def largest_response(self) -> int:
        return self.slot_size - RESPONSE_HEADER

    @property
    def slot_size(self) -> int:
        return int(self.client.counters["slot_size"])


@contextlib.contextmanager
def connected(
    provider: str = "shm",
    *,
    slots: int = 8,
    slot_size: int = 512,
    seed: int = 1,
    checked: bool | None = None,
) -> Iterator[Ends]:
    """Yield both ends of one ring.

    Args:
        checked: Whether responses carry a checksum; None: if the provider needs it.
    """
    near, far = PROVIDERS[provider](2 * seed), PROVIDERS[provider](2 * seed + 1)
    with contextlib.ExitStack() as stack:
        own = stack.enter_context
        length = slots * slot_size

        def attach(fabric: Fabric, region: Region) -> RemoteRegion:
            return own(fabric.attach(region.descriptor(), os.dup(region.fileno())))

        requests = own(far.register(length, REMOTE_READ | REMOTE_WRITE))
        responses = own(far.register(length, REMOTE_READ))
        eventcounts = own(far.register(EVENTCOUNT_BYTES, REMOTE_READ | REMOTE_WRITE))
        reply = own(near.register(REPLIES + length, REMOTE_READ | REMOTE_WRITE))
        scratch = own(near.register(2 * length + LINE, 0))
        server_events, client_events = (
            own(far.event_channel(eventcounts, 0)),
            own(near.event_channel(reply, 0)),
        )
        server_pair = own(far.queue_pair(server_events, -1, -1))
        client_pair = own(near.queue_pair(client_events, -1, -1))
        replies = attach(far, reply)
        written = attach(near, requests)
        server_pair.connect(client_pair.descriptor(), replies)
        client_pair.connect(server_pair.descriptor(), attach(near, eventcounts))
        proven = not near.reads_ordered if checked is None else checked
        server = ServerRing(
            requests,
            0,
            responses,
            0,
            None,
            server_pair,
            replies,
            REPLIES,
            NOTIFY,
            slots,
            slot_size,
            proven,
        )
        client = ClientRing(
            client_pair,
            client_events,
            written,
            0,
            attach(near, responses),
            0,
            reply,
            REPLIES,
            scratch,
            0,
            slots,
            slot_size,
            proven,
        )
        yield Ends(
            client,
            server,
            requests,
            written,
            responses,
            reply,
            replies,
            client_pair,
            server_pair,
            client_events,
            server_events,
            scratch,
        )


@contextlib.contextmanager
def working(ends: Ends, service: Service, *, spin: bool = True) -> Iterator[Worker]:
    """Yield a worker that serves the ring in a thread.

    Args:
        spin: False has it sleep as soon as it has no work.
    """
    worker = Worker(service, ends.server_events, slot_size=ends.slot_size)
    if not spin:
        steps.impatient(worker)
    worker.start()
    try:
        worker.add(ends.server)
        yield worker
    finally:
        worker.stop()


# Polls until a provider must have made progress: the reordering one copies a line at a time.
POLLS = 20_000


def taken(ends: Ends) -> steps.Request | None:
    """Return the next request, which the client has flushed, as the server takes it."""
    for _ in range(POLLS):
        found, request = steps.take(ends.server)
        if found == "valid":
            return request
        steps.step(ends.client)
    return None


def answer(ends: Ends, payload: bytes, **kwargs: int) -> steps.Request:
    """Take one request, answer it, and check whether the client waits, as the server does."""
    request = taken(ends)
    assert request is not None, "the request did not arrive"
    assert steps.publish(ends.server, payload, **kwargs)
    steps.notify(ends.server)
    settle(ends)
    return request


def settle(ends: Ends) -> None:
    """Poll until the server's replies have landed."""
    for _ in range(POLLS):
        if not steps.complete(ends.server):
            return
    raise AssertionError("a reply did not complete")


def result(ends: Ends) -> steps.Response:
    """Return the oldest published response, as the client gets it, and free its slot."""
    for _ in range(POLLS):
        found = steps.step(ends.client)
        if found == "done":
            response = steps.result(ends.client)
            steps.pop(ends.client)
            return response
        assert found == "not yet", found
    raise AssertionError("the response did not arrive")


def call(ends: Ends, payload: bytes, answered: bytes) -> steps.Response:
    """Do one call, from start to end."""
    assert steps.submit(ends.client, payload) is not None
    steps.flush(ends.client)
    assert answer(ends, answered).payload == payload
    return result(ends)
