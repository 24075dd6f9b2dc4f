# cython: boundscheck=True, wraparound=True, cdivision=False
"""The event channels and queue pairs of the verbs provider: they own the structs of datapath."""

import os
import random

cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.errno cimport errno
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy, memset
from posix.fcntl cimport F_GETFL, F_SETFL, O_NONBLOCK, fcntl
from posix.unistd cimport close as close_fd

from rfp.core.forks import live
from rfp.fabric.verbs import select_device as devices
from rfp.core.descriptor cimport (
    RFP_DESCRIPTOR_VERSION, RFP_PAIR_MAGIC, RFP_PROVIDER_VERBS, rfp_descriptor_sum,
)
from rfp.core.system cimport (
    pthread_mutex_destroy, pthread_mutex_init, pthread_mutex_lock, pthread_mutex_unlock,
)
from rfp.core.verbs cimport (
    IBV_ACCESS_REMOTE_ATOMIC, IBV_ACCESS_REMOTE_READ, IBV_ACCESS_REMOTE_WRITE, IBV_ATOMIC_NONE,
    IBV_LINK_LAYER_ETHERNET, IBV_QPS_INIT, IBV_QPS_RTR, IBV_QPS_RTS, IBV_QPT_RC,
    IBV_QP_ACCESS_FLAGS, IBV_QP_AV, IBV_QP_DEST_QPN, IBV_QP_MAX_DEST_RD_ATOMIC,
    IBV_QP_MAX_QP_RD_ATOMIC, IBV_QP_MIN_RNR_TIMER, IBV_QP_PATH_MTU, IBV_QP_PKEY_INDEX, IBV_QP_PORT,
    IBV_QP_RETRY_CNT, IBV_QP_RNR_RETRY, IBV_QP_RQ_PSN, IBV_QP_SQ_PSN, IBV_QP_STATE, IBV_QP_TIMEOUT,
    IBV_WC_LOC_QP_OP_ERR, IBV_WC_REM_ACCESS_ERR, IBV_WC_REM_INV_REQ_ERR, IBV_WC_RETRY_EXC_ERR,
    IBV_WC_RNR_RETRY_EXC_ERR, ibv_qp_attr, ibv_qp_init_attr, ibv_req_notify_cq,
)
from rfp.fabric.fabric cimport QUEUE_DEPTH, RemoteRegion, take_descriptor
from rfp.fabric.verbs.datapath cimport (
    QUEUES_MAX, QUEUE_PAIRS, RECEIVES, closed_operations, drain, pair_flush, pair_prepare, receive,
    receiver, unconnected_operations, verbs_operations,
)
from rfp.fabric.verbs.device cimport device_error, open_library, verbs
from rfp.errors import CallerError, Closed, FabricError, HandshakeFailed

cdef extern from "<sys/eventfd.h>" nogil:
    int eventfd(unsigned int initial, int flags)
    enum:
        EFD_CLOEXEC
        EFD_NONBLOCK

# bytes requested; the device returns what it grants
cdef uint32_t VERBS_INLINE_BYTES = 256


@cython.no_gc_clear                     # destroyed before the objects that it was made in
cdef class VerbsEventChannel(EventChannel):
    """A completion channel for notifies to the queue pairs that share it, with an eventfd."""

    def __init__(self, Device device not None):
        cdef channel_state *state = <channel_state *>calloc(1, sizeof(channel_state))
        if state == NULL:
            raise MemoryError
        self.device = device
        self.open = True
        self.state = state
        state.verbs = open_library()
        pthread_mutex_init(&state.lock, NULL)
        state.wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
        if state.wake >= 0:
            state.events = verbs.create_comp_channel(device.context)
        if state.events == NULL or fcntl(state.events.fd, F_SETFL,
                                         fcntl(state.events.fd, F_GETFL) | O_NONBLOCK) < 0:
            raise device_error(f"cannot create a completion channel on {device.choice.device}",
                               errno)
        self.c.ops = verbs_operations()
        self.c.state = state
        self.c.fd = state.events.fd
        live.add(self)

    def __dealloc__(self):
        self.release()

    cdef void release(self) noexcept:
        cdef channel_state *state = self.state
        cdef uint32_t i
        self.state = NULL
        self.c.state = NULL
        self.c.fd = -1
        self.c.ops = closed_operations()
        if state == NULL:
            return
        for i in range(state.used):
            verbs.destroy_cq(state.queues[i])
        if state.events != NULL:
            verbs.destroy_comp_channel(state.events)
        if state.wake >= 0:
            close_fd(state.wake)
        pthread_mutex_destroy(&state.lock)
        free(state.receivers)
        free(state)
        self.device = None

    cdef join(self, VerbsQueuePair pair):
        """Create a queue pair in a completion queue and an entry, and post its receives.

        Raises:
            FabricError: the device has no more of them.
        """
        cdef channel_state *state = self.state
        cdef receiver *places
        cdef receiver *place
        cdef uint32_t queue = 0
        cdef uint32_t index = 0
        cdef uint32_t n
        cdef int error = 0
        cdef ibv_cq *made
        cdef uint32_t capacity = min(<uint32_t>(QUEUE_PAIRS * RECEIVES),
                                     <uint32_t>self.device.limits.max_cqe)
        while queue < state.used and (state.members[queue] + 1) * RECEIVES > capacity:
            queue += 1
        if queue == QUEUES_MAX:
            raise FabricError("cannot add a connection: the event channel is full",
                              hint="use more workers, or fewer client threads")
        if queue == state.used:
            made = verbs.create_cq(self.device.context, <int>capacity, NULL, state.events, 0)
            if made == NULL:
                raise device_error(f"cannot create a completion queue of {capacity} entries on "
                                   f"{self.device.choice.device}", errno)
            pthread_mutex_lock(&state.lock)
            state.queues[queue] = made
            state.members[queue] = 0
            state.used += 1
            pthread_mutex_unlock(&state.lock)
            # The channel's thread may have armed the other queues already.
            ibv_req_notify_cq(made, 1)
        while index < state.places and state.receivers[index].qp != NULL:
            index += 1
        if index == state.places:
            n = max(<uint32_t>16, 2 * state.places)
            pthread_mutex_lock(&state.lock)
            places = <receiver *>realloc(state.receivers, n * sizeof(receiver))
            if places != NULL:
                memset(&places[state.places], 0, (n - state.places) * sizeof(receiver))
                state.receivers = places
                state.places = n
            pthread_mutex_unlock(&state.lock)
            if places == NULL:
                raise MemoryError
        pair.make(state.queues[queue])
        pthread_mutex_lock(&state.lock)
        place = &state.receivers[index]
        place.generation += 1
        place.queue = queue
        place.qp = pair.state.qp
        state.members[queue] += 1
        error = receive(place, index, RECEIVES)
        pthread_mutex_unlock(&state.lock)
        pair.place = index
        pair.joined = True
        self.pairs += 1
        if error:
            raise device_error("cannot post receives", error)

    cdef void leave(self, uint32_t index) noexcept:
        """Destroy the queue pair at an index, and drain its receives: others may need the room."""
        cdef channel_state *state = self.state
        cdef receiver *place
        with nogil:
            pthread_mutex_lock(&state.lock)
            place = &state.receivers[index]
            verbs.destroy_qp(place.qp)
            place.qp = NULL
            state.members[place.queue] -= 1
            drain(state)
            pthread_mutex_unlock(&state.lock)
        self.pairs -= 1
        if not self.open and self.pairs == 0:
            self.release()

    cpdef close(self):
        """Close the channel; prepare_wait(), wait() and notify() do nothing from then on.

        Call it only if no thread sleeps on it.  Its device objects go with the last queue pair on
        it.
        """
        live.discard(self)
        self.c.ops = closed_operations()
        self.open = False
        if self.pairs == 0:
            self.release()

    def _forget(self):
        if self.state != NULL:
            close_fd(self.state.events.fd)
            close_fd(self.state.wake)
        self.state = NULL
        self.close()


HINTS = {                      # remedies, by the status of a request that the device gave up
    IBV_WC_RETRY_EXC_ERR: "check the peer's process, host and link, and what is between (a "
                          "firewall on UDP port 4791, "
                          "different MTUs); on a slow network set a larger timeout= or retry_cnt=",
    IBV_WC_LOC_QP_OP_ERR: "check this host's link with `rfp doctor`",
    IBV_WC_RNR_RETRY_EXC_ERR: "check whether the peer's thread hangs: "
                              "it does not take notifications",
    IBV_WC_REM_ACCESS_ERR: "check whether the peer closed the region or "
                           "grants fewer rights than its descriptor",
    IBV_WC_REM_INV_REQ_ERR: "check whether the peer's device supports the operation (atomics)",
}


@cython.no_gc_clear                     # destroyed before the objects that it was made in
cdef class VerbsQueuePair(QueuePair):
    """One end of a reliable connection."""

    def __cinit__(self):
        self.state = <pair_state *>calloc(1, sizeof(pair_state))
        if self.state == NULL:
            raise MemoryError
        pair_prepare(self.state)
        self.state.pidfd = self.state.control = -1
        self.c.state = self.state
        self.c.ops = unconnected_operations()
        self.c.needs_registration = True
        self.sequence = random.SystemRandom().getrandbits(24)

    def __init__(self, Domain domain not None, VerbsEventChannel channel not None, int pidfd,
                 int control, options):
        self.domain = domain
        self.channel = channel
        self.options = options
        self.state.pidfd, self.state.control = pidfd, control
        self.state.patience = options.patience
        self.state.channel = channel.state
        live.add(self)
        try:
            channel.join(self)
        except BaseException:
            self.close()
            raise

    def __dealloc__(self):
        if self.state != NULL:
            self.release()
            free(self.state)

    cdef void release(self) noexcept:
        """Destroy the queue pair on the device, if it exists; requests under way are flushed."""
        cdef pair_state *state = self.state
        if self.joined:
            self.joined = False
            self.channel.leave(self.place)
        elif state.qp != NULL:
            verbs.destroy_qp(state.qp)
        state.qp = NULL
        if state.queue != NULL:
            verbs.destroy_cq(state.queue)
        state.queue = NULL
        pair_flush(state)

    cdef make(self, ibv_cq *receives):
        cdef Domain domain = self.domain
        cdef Device device = domain.device
        cdef ibv_qp_init_attr how
        cdef ibv_qp_attr state
        cdef uint32_t inlined = VERBS_INLINE_BYTES
        cdef int error
        self.c.depth = min(<uint32_t>QUEUE_DEPTH, <uint32_t>(device.limits.max_qp_wr - 2))
        self.state.longest = min(<uint64_t>device.port.max_msg_sz
                                 or <uint64_t>1 << 31, <uint64_t>1 << 31)
        self.state.queue = verbs.create_cq(device.context, <int>self.c.depth + 2, NULL, NULL, 0)
        if self.state.queue == NULL:
            raise device_error(f"cannot create a completion queue on {device.choice.device}", errno)
        while True:
            memset(&how, 0, sizeof(how))
            how.send_cq = self.state.queue
            how.recv_cq = receives
            how.qp_type = IBV_QPT_RC
            # One more than may be posted: the liveness probe.
            how.cap.max_send_wr = self.c.depth + 1
            how.cap.max_recv_wr = RECEIVES
            how.cap.max_send_sge = how.cap.max_recv_sge = 1
            how.cap.max_inline_data = inlined
            self.state.qp = verbs.create_qp(domain.pd, &how)
            if self.state.qp != NULL:
                break
            if inlined == 0:
                raise device_error(f"cannot create a queue pair on {device.choice.device}", errno)
            inlined = inlined // 4 if inlined > 16 else 0
        self.c.max_inline = how.cap.max_inline_data
        memset(&state, 0, sizeof(state))
        state.qp_state = IBV_QPS_INIT
        state.port_num = device.choice.port
        # The regions' rights decide what peers may do; the queue pair does not restrict them
        # further.
        state.qp_access_flags = IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_WRITE
        if device.limits.atomic_cap != IBV_ATOMIC_NONE:
            state.qp_access_flags |= IBV_ACCESS_REMOTE_ATOMIC
        error = verbs.modify_qp(
            self.state.qp, &state,
            IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS)
        if error:
            raise device_error(f"cannot initialize a queue pair of {device.choice.device}", error)

    @property
    def number(self):
        """The device's number for it.

        Raises:
            Closed: the queue pair is closed.
        """
        if self.state.qp == NULL:
            raise Closed("the queue pair is closed")
        return self.state.qp.qp_num

    cpdef bytes descriptor(self):
        """Return the bytes that the peer's connect() needs.

        Raises:
            Closed: the queue pair is closed.
        """
        cdef rfp_verbs_pair_descriptor d
        if self.state.qp == NULL:
            raise Closed("the queue pair is closed")
        cdef Device device = self.domain.device
        memset(&d, 0, sizeof(d))
        d.magic, d.version, d.provider = RFP_PAIR_MAGIC, RFP_DESCRIPTOR_VERSION, RFP_PROVIDER_VERBS
        d.number, d.sequence = self.state.qp.qp_num, self.sequence
        memcpy(d.gid, device.gid.raw, 16)
        d.lid, d.mtu, d.link = device.port.lid, device.port.active_mtu, link(device)
        d.reads_in = reads(device.limits.max_qp_rd_atom)
        d.reads_out = reads(device.limits.max_qp_init_rd_atom)
        d.checksum = rfp_descriptor_sum(&d, sizeof(d))
        return PyBytes_FromStringAndSize(<char *>&d, sizeof(d))

    cpdef connect(self, bytes descriptor, RemoteRegion region):
        """Connect this end to the peer's.

        Args:
            descriptor: the descriptor() of the peer's queue pair.
            region: ignored.

        Raises:
            HandshakeFailed: the two ends are not compatible.
            FabricError: the device cannot reach the peer.
            CallerError: the queue pair is already connected.
            Closed: the queue pair is closed.
        """
        cdef rfp_verbs_pair_descriptor d
        if self.state.qp == NULL:
            raise Closed("the queue pair is closed")
        if self.connected:
            raise CallerError("the queue pair is already connected")
        cdef Device device = self.domain.device
        take_descriptor(descriptor, &d, sizeof(d), RFP_PAIR_MAGIC, RFP_PROVIDER_VERBS, "queue pair")
        if d.link != link(device):
            raise HandshakeFailed("one side is on InfiniBand and the other on Ethernet",
                                  hint="name a device of the same network with ?device=")
        if d.number >> 24 or d.sequence >> 24 or not 1 <= d.mtu <= 5:
            raise HandshakeFailed("invalid queue pair descriptor from the "
                                  "peer: its numbers are out of range")
        self.go(&d, device)
        self.connected = True
        self.c.reads_ordered = False
        self.c.max_outstanding_reads = max(1,
                                           min(reads(device.limits.max_qp_init_rd_atom),
                                               d.reads_in))
        self.c.ops = verbs_operations()

    cdef go(self, rfp_verbs_pair_descriptor *d, Device device):
        """Move the queue pair from INIT over ready-to-receive to ready-to-send."""
        cdef object options = self.options
        cdef ibv_qp_attr a
        cdef int error
        memset(&a, 0, sizeof(a))
        a.qp_state = IBV_QPS_RTR
        a.path_mtu = min(<int>d.mtu, device.port.active_mtu)
        a.dest_qp_num = d.number
        a.rq_psn = d.sequence
        a.max_dest_rd_atomic = min(reads(device.limits.max_qp_rd_atom), d.reads_out)
        a.min_rnr_timer = options.min_rnr_timer
        a.ah_attr.port_num = device.choice.port
        a.ah_attr.dlid = d.lid
        if link(device) == IBV_LINK_LAYER_ETHERNET or d.lid == 0:
            a.ah_attr.is_global = 1
            memcpy(a.ah_attr.grh.dgid.raw, d.gid, 16)
            a.ah_attr.grh.sgid_index = device.choice.gid_index
            a.ah_attr.grh.hop_limit = 64
            a.ah_attr.grh.traffic_class = options.traffic_class
        with nogil:
            error = verbs.modify_qp(
                self.state.qp, &a,
                IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN |
                IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER)
        if not error:
            memset(&a, 0, sizeof(a))
            a.qp_state = IBV_QPS_RTS
            a.timeout = options.timeout
            a.retry_cnt = options.retry_cnt
            a.rnr_retry = options.rnr_retry
            a.sq_psn = self.sequence
            a.max_rd_atomic = max(1, min(reads(device.limits.max_qp_init_rd_atom), d.reads_in))
            with nogil:
                error = verbs.modify_qp(
                    self.state.qp, &a,
                    IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY |
                    IBV_QP_SQ_PSN | IBV_QP_MAX_QP_RD_ATOMIC)
        if error:
            raise device_error(
                f"{device.choice.device} cannot connect to {devices.show_gid(bytes(d.gid[:16]))}",
                error,
                "check that there is a route and that both use one "
                f"RoCE version; this side uses {device.choice}")

    @property
    def failure(self):
        """Status text of the device for the first request that failed, or None."""
        cdef pair_state *state = self.state
        if state.refused:
            return f"the device rejected a request: {os.strerror(state.refused)}"
        if state.failure == 0:
            return None
        text = verbs.wc_status_str(state.failure).decode()
        return f"{text} (status {state.failure}, vendor error {state.failure_detail:#x})"

    def failed(self, uint32_t opcode, uint32_t status, str arguments=""):
        """Return the exception for a completion that was not SUCCESS.

        Its text is the device's status, and its hint the remedy for that status.
        """
        error = QueuePair.failed(self, opcode, status, arguments)
        error.hint = HINTS.get(self.state.failure, error.hint)
        return error

    cpdef close(self):
        """Destroy the queue pair: flush all requests, under way or posted later.

        The peer reaches no memory of this process through it any more.  Call it only if no thread
        uses the pair.
        """
        if self.channel is None:
            return
        live.discard(self)
        self.c.ops = closed_operations()
        self.release()
        self.state.pidfd = self.state.control = -1
        self.channel = self.domain = None

    def _forget(self):
        self.state.qp = NULL
        self.state.queue = NULL
        self.joined = False
        self.close()


cdef uint8_t link(Device device) noexcept:
    # 0: InfiniBand, from before there was a second link layer
    return device.port.link_layer if device.port.link_layer else 1


cdef uint8_t reads(int limit) noexcept:
    return <uint8_t>max(0, min(limit, 255))
