"""The client side of a service (the contract is in client_base.pxd)."""

import itertools
import threading
import time
import weakref

from cpython.exc cimport PyErr_CheckSignals

from rfp.core.core cimport rfp_now
from rfp.fabric.fabric cimport queue_pair
from rfp.protocol.client.client_ring cimport (
    CLOSED, DISCONNECTED, DONE, PROTOCOL_ERROR, TIMED_OUT, client_ring_abandon, client_ring_discard,
    client_ring_flush, client_ring_payload, client_ring_pop, client_ring_submit,
)
from rfp.protocol.client.client_wait cimport client_ring_wait
from rfp.protocol.wire cimport RFP_OPCODE_PING

from rfp.core.at_exit import at_exit
from rfp.core.forks import in_child, notice
from rfp.errors import (Busy, CallerError, Closed, ConnectionFailed, DeadlineExceeded, Forked, HandshakeFailed, InvalidArgument,
                        OutcomeUnknown, WrongType, not_copied, shown)

cdef extern from "rfp/core/tls_cache.h" nogil:
    struct rfp_thread_cache:
        uint64_t identity
        void *channel
    rfp_thread_cache rfp_thread

cdef extern from "rfp/core/born.h" nogil:
    uint64_t *rfp_born_word()

born = rfp_born_word()

cdef enum:
    CALIBRATION_PINGS = 9  # pings that calibrate a ring
    INTERRUPT_NS_MAX = 100000000  # ns in which calls return once they are interrupted
    IDLE_NS_MAX = 50000000  # ns without a call after which the first one asks whether the server lives

PAUSE_S_MIN, PAUSE_S_MAX = 0.001, 0.25      # seconds between attempts to reconnect
ATTEMPT_S_MAX = 1.0                         # seconds: between two attempts a thread sees that the handle was closed
TIME_S_MAX = 1e9                            # seconds: what is more would not fit into 64 bits of nanoseconds

identities = itertools.count(1)
clients = weakref.WeakSet()


class ThreadChannel:
    """What a thread holds of a handle: when the thread ends, its channel goes back to the handle's spare ones."""

    def __init__(self, spare, channel):
        self.spare = spare
        self.channel = channel

    def __del__(self):
        if self.channel is not None:
            self.channel.spare(self.spare)


cdef class ClientBase:
    """A handle to a server: usable from many threads, each of which gets rings of its own.

    open_connection: called with a deadline (ns), returns a connection; its close() ends what these share.  timeout: seconds
    a call may take unless it says otherwise.  reconnect: whether to find the server again after it was lost.
    """

    def __init__(self, open_connection, *, timeout=5.0, bint reconnect=True):
        notice()
        self.timeout = seconds_of(timeout)
        self.reconnect = reconnect
        self.lock = threading.RLock()
        self.threads = threading.local()
        self.spare = []
        self.old = []
        self.open_connection = open_connection
        try:
            self.connection = open_connection(self.deadline(None))
        except BaseException:
            open_connection.close()
            raise
        self.identity = next(identities)
        clients.add(self)

    cdef uint64_t deadline(self, object timeout) except 0:
        """The moment (ns) at which a call with this timeout (seconds, None for the handle's) must return."""
        self.called = rfp_now()
        return self.called + <uint64_t> ((self.timeout if timeout is None else seconds_of(timeout)) * 1e9)

    cdef Channel acquire_channel(self, uint64_t deadline):
        """This thread's channel, marked busy; every enter has its leave."""
        cdef Channel channel
        cdef queue_pair *pair
        while True:
            # From this look until `busy` is set no other thread can run: close() and reap_lost() find the one or the other.
            while (rfp_thread.identity != self.identity or self.identity == 0 or
                   (<Channel> rfp_thread.channel).c.owner != <void *> &rfp_thread or
                   not born[0]):
                if not born[0]:
                    notice()
                if self.is_closed and not self.is_forked:
                    raise closed("this handle is closed")
                self.find_channel(deadline)
            channel = <Channel> rfp_thread.channel
            if channel.c.busy:
                held = getattr(self.threads, "held", None)
                if held is None or held.channel is not channel:
                    # Another greenlet of this thread is inside a call: this one gets a channel of its own.
                    self.find_channel(deadline)
                    continue
                raise CallerError("this thread is inside another call of this handle",
                                  hint="do not use a handle in a signal handler or "
                                       "finalizer that may interrupt its calls")
            # A server that ended while nobody called is found out before anything is sent to it: then the call can be made
            # at the next one, without a doubt about its outcome.
            if self.called - channel.c.used >= IDLE_NS_MAX:
                pair = channel.c.rings[0].pair
                if not pair.ops.alive(pair):
                    self.lost(channel.connection, "the server no longer runs")
                    continue
            channel.c.used = self.called
            channel.c.busy = 1
            return channel

    cdef void release_channel(self, Channel channel) noexcept:
        channel.c.busy = 0
        if self.unfinished:
            self.unfinished = False
            self.close_connections()

    def find_channel(self, uint64_t deadline):
        """The slow way to this thread's channel, into rfp_thread: connects again or attaches if need be."""
        cdef Channel channel = None
        if self.is_forked:
            raise Forked("this handle belongs to the parent process",
                         hint="connect again in the child, or use 'spawn'")
        # The lock is held while reconnecting: the other threads need the result as well, and wait no longer than it may take.
        if not self.lock.acquire(timeout=max(0.0, (<double> deadline - <double> rfp_now()) / 1e9)):
            raise DeadlineExceeded("timed out waiting for another thread that is connecting",
                                   hint="give a larger timeout=")
        try:
            while channel is None:
                if self.is_closed:
                    raise Closed("this handle is closed")
                if self.identity == 0:
                    self.connect_again(deadline)
                held = getattr(self.threads, "held", None)
                if held is not None and held.channel is not None and held.channel.connection is self.connection:
                    channel = held.channel
                    break
                if held is not None:
                    held.channel = None
                try:
                    channel = self.attach(deadline)
                except ConnectionFailed as error:
                    # No call was under way that could have noticed it: this one does.
                    self.lost(self.connection, error)
                    if isinstance(error, HandshakeFailed) or rfp_now() >= deadline:
                        raise
                    time.sleep(PAUSE_S_MIN)
                    continue
            channel.c.owner = <void *> &rfp_thread
            rfp_thread.channel = <void *> channel
            rfp_thread.identity = self.identity
        finally:
            self.lock.release()

    cdef Channel checkout_channel(self, uint64_t deadline):
        """A channel that belongs to no thread; it is busy until it is given back."""
        cdef Channel channel
        with self.lock:
            if self.is_closed:
                raise Closed("this handle is closed")
            held = getattr(self.threads, "held", None)
            try:
                channel = self.attach(deadline)
                self.threads.held.channel = None
            finally:
                self.threads.held = held        # also when there is no other: this thread goes on using its own
            channel.c.busy = 1
            return channel

    cdef void return_channel(self, Channel channel) noexcept:
        self.spare.append(channel)
        self.release_channel(channel)

    cdef Channel attach(self, uint64_t deadline):
        """A channel on the present connection for this thread: one that an ended thread left, or a new one."""
        cdef Channel channel
        for channel in self.spare[::-1]:
            # Its thread state ended without its thread, which is inside a call.
            if channel.c.busy:
                continue
            self.spare.remove(channel)
            if channel.connection is self.connection:
                self.threads.held = ThreadChannel(self.spare, channel)
                return channel
        connection = self.connection
        channel = connection.attach(deadline)
        if self.is_closed:                      # by a signal handler: that has unmapped the rings
            connection.detach(channel)
            raise closed("this handle is closed")
        # Busy and held while we calibrate: a signal handler that closes the handle then leaves the rest to us.
        channel.c.busy = 1
        try:
            self.threads.held = ThreadChannel(self.spare, channel)
            self.prepare(channel)
            self.calibrate(channel, deadline)
        except BaseException:
            held = getattr(self.threads, "held", None)
            if held is not None and held.channel is channel:
                held.channel = None
            if rfp_thread.channel == <void *> channel:
                # A signal handler has called this handle meanwhile and found this channel: the entry must not outlive it.
                rfp_thread.identity = 0
            self.release_channel(channel)
            connection.detach(channel)
            raise
        self.release_channel(channel)
        return channel

    def prepare(self, Channel owner not None):
        """Sets up a new channel the way this handle was asked to work."""

    def connect_again(self, uint64_t deadline):
        """Finds the server again; raises ConnectionFailed at the deadline."""
        cdef double pause = PAUSE_S_MIN
        if not self.reconnect:
            raise ConnectionFailed(f"the connection to {self.connection.address} was lost: {self.lost_because}",
                                   hint="connect again, or use reconnect=True")
        self.reap_lost()
        while True:
            if self.is_closed:
                raise Closed("this handle is closed")
            try:
                connection = self.open_connection(min(deadline, rfp_now() + <uint64_t> (ATTEMPT_S_MAX * 1e9)))
                if self.is_closed:
                    connection.close()
                    raise Closed("this handle is closed")
                self.connection = connection
                self.identity = next(identities)
                self.lost_because = None
                return
            except HandshakeFailed:
                raise
            except (ConnectionFailed, DeadlineExceeded) as error:
                left = (<double> deadline - <double> rfp_now()) / 1e9
                if left <= pause:
                    raise ConnectionFailed(f"the connection to {self.connection.address} was lost ({self.lost_because}), and the "
                                           f"server did not come back before the deadline: {error}") from None
            time.sleep(pause)
            pause = min(2 * pause, PAUSE_S_MAX)

    def reap_lost(self):
        """Closes lost connections whose calls have all returned."""
        for connection in list(self.old):
            if not any(channel.busy for channel in connection.channels):
                connection.close()
                self.old.remove(connection)

    cdef int lost(self, object connection, object because) except -1:
        """Marks a connection as lost, if it is still the present one; calls of other threads find out by themselves.

        Without the lock, which a thread that connects again holds for longer than this one may wait; no other can run in between.
        """
        if self.identity != 0 and connection is self.connection:
            self.identity = 0
            self.lost_because = because
            self.old.append(connection)
        return 0

    cdef int wait(self, Channel channel, client_ring *ring, uint64_t deadline) except -1:
        """Waits for the oldest request of the ring; a signal's exception abandons what is in the ring."""
        cdef int found
        cdef uint64_t until
        cdef uint64_t now = rfp_now()
        while True:
            until = min(deadline, now + SIGNAL_POLL_NS)
            with nogil:
                found = client_ring_wait(ring, until)
            if found != TIMED_OUT:
                return found
            now = rfp_now()
            if now >= deadline:
                return TIMED_OUT
            try:
                self.signals()
            except BaseException:
                client_ring_abandon(ring)
                raise

    cdef int signals(self) except -1:
        """Runs the handlers of signals that have come; to be called at least every SLICE by all that does not wait()."""
        PyErr_CheckSignals()
        if self.is_forked:
            raise Forked("the call belongs to the parent process: a signal handler forked inside it")
        return 0

    cdef int make_room(self, Channel channel, client_ring *ring, uint64_t deadline) except -1:
        """Waits for the oldest answer that nobody waits for any more."""
        cdef int found
        if ring.lost:
            return ring.lost
        ring.slot[ring.tail].abandoned = False
        found = self.wait(channel, ring, deadline)
        if found == DONE:
            client_ring_discard(ring)
            return RETRY
        client_ring_abandon(ring)
        return FULL if found == TIMED_OUT else found

    cdef int raise_or_retry(self, int found, uint64_t deadline, bint repeatable) except -1:
        """A call did not end with DONE: raises what the caller should know, or returns if the call is to be made again."""
        if found == TIMED_OUT:
            raise DeadlineExceeded(f"timed out waiting for a response from {self.connection.address}",
                                   hint=None if repeatable else "the change may still happen")
        if found == RETRY:
            return self.signals()
        if found == FULL:
            raise Busy("all slots wait for the responses of calls that timed out",
                       hint="wait; check whether the server is slow or stopped")
        if found == CLOSED or self.is_closed:
            raise closed("this handle is closed" if repeatable else
                         "this handle is closed; the change may still happen")
        because = "invalid response (protocol error)" if found == PROTOCOL_ERROR else "the server no longer runs"
        held = getattr(self.threads, "held", None)
        if held is not None and held.channel is not None:
            failure = next((ring.pair.failure for ring in held.channel.rings if ring.pair.failure), None)
            because = f"{because}: {failure}" if failure else because
            self.lost(held.channel.connection, because)
        if not repeatable:
            raise OutcomeUnknown(f"the connection to {self.connection.address} was lost after the request was sent ({because})",
                                 hint="check whether the change happened before you repeat it")
        if found == PROTOCOL_ERROR:             # and would do so again
            raise ConnectionFailed(f"the connection to {self.connection.address} was closed: {because}",
                                   hint="check the version and the health of the server")
        if not self.reconnect:
            raise ConnectionFailed(f"the connection to {self.connection.address} was lost: {because}",
                                   hint="connect again, or use reconnect=True")
        if rfp_now() >= deadline:
            raise ConnectionFailed(f"the connection to {self.connection.address} was lost: {because}")
        return 0

    def ping(self, *, timeout=None):
        """The time, in seconds, in which every worker of the server has answered an empty request, one after the other."""
        cdef uint64_t deadline = self.deadline(timeout)
        cdef uint64_t started
        cdef Channel owner
        cdef client_ring *ring
        cdef uint32_t i
        cdef int found = DONE
        while True:
            owner = self.acquire_channel(deadline)
            try:
                started = rfp_now()
                for i in range(owner.c.count):
                    ring = owner.c.rings[i]
                    if client_ring_payload(ring) == NULL:
                        found = self.make_room(owner, ring, deadline)
                        break
                    client_ring_submit(ring, RFP_OPCODE_PING, 0, 0, 0, 0)
                    with nogil:
                        client_ring_flush(ring)
                    found = self.wait(owner, ring, deadline)
                    if found == TIMED_OUT:
                        client_ring_abandon(ring)
                    if found != DONE:
                        break
                    client_ring_pop(ring)
            finally:
                self.release_channel(owner)
            if found == DONE:
                return (rfp_now() - started) / 1e9
            self.raise_or_retry(found, deadline, True)

    def close(self):
        """Ends the connection; calls of other threads that are under way raise Closed.  Safe to call again."""
        notice()
        self.is_closed = True
        self.identity = 0
        # Whoever holds the lock for long is connecting or attaching: that ends with the connection.
        if not self.lock.acquire(timeout=0.1):
            self.connection.control.shutdown()
            self.lock.acquire()
        try:
            if self.is_ended:
                return
            self.is_ended = True
            self.identity = 0
            if self.is_forked:
                return
            held = getattr(self.threads, "held", None)
            if held is not None and held.channel is not None and held.channel.busy:
                # Inside a call of this very thread (a signal handler, say): that call raises Closed and then ends the rest.
                held.channel.interrupt()
                self.unfinished = True
                return
            self.close_connections()
        finally:
            self.lock.release()

    def close_connections(self):
        """Waits for the calls under way and gives everything back."""
        cdef double pause = 0.00001
        cdef uint64_t shutdown_at = rfp_now() + INTERRUPT_NS_MAX
        connections = [self.connection, *self.old]
        while True:
            # Calls return within microseconds once interrupted; nothing may be unmapped under them.
            busy = [channel for connection in connections for channel in connection.channels if channel.busy]
            for channel in busy:
                channel.interrupt()
            if not busy:
                break
            if rfp_now() > shutdown_at:         # one that waits on the control channel, and not for its rings
                for connection in connections:
                    connection.control.shutdown()
            time.sleep(pause)
            pause = min(2 * pause, 0.01)
        for connection in connections:
            connection.close()
        self.old.clear()
        self.spare.clear()
        self.open_connection.close()

    @property
    def closed(self):
        return self.is_closed

    def forked(self):
        """The child of a fork has no part in the connection."""
        self.is_forked = True
        self.identity = 0
        self.lock = threading.RLock()
        for connection in [self.connection, *self.old]:
            connection.forked()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def __reduce__(self):
        raise not_copied(self, "connect again: each process, and each copy, needs a handle of its own")

    def __del__(self):
        # Without close(): a program that forgets it leaks nothing.
        if self.connection is not None and not self.is_closed:
            self.close()

    def calibrate(self, Channel channel not None, uint64_t deadline):
        """Counts how many looks fit into a round trip, ring by ring: the unit in which failed fetches count."""
        cdef client_ring *ring
        cdef uint32_t i, trial
        cdef int found
        for i in range(channel.c.count):
            ring = channel.c.rings[i]
            counts = []
            for trial in range(CALIBRATION_PINGS):
                found = DISCONNECTED
                if client_ring_payload(ring) != NULL:
                    client_ring_submit(ring, RFP_OPCODE_PING, 0, 0, 0, 0)
                    with nogil:
                        client_ring_flush(ring)
                    found = self.wait(channel, ring, deadline)
                if found == TIMED_OUT:
                    raise DeadlineExceeded("timed out waiting for the server, "
                                           "which accepted the connection",
                                           hint="check whether it is stopped or overloaded")
                if self.is_closed:
                    raise Closed("this handle is closed")
                if found != DONE:
                    raise ConnectionFailed("the server exited during the connection setup")
                counts.append(ring.slot[ring.tail].polls)
                client_ring_pop(ring)
            ring.polls_per_round_trip = max(1, sorted(counts)[CALIBRATION_PINGS // 2])
            ring.slow = 0


def forget_parents_clients():
    born[0] = 1
    for client in list(clients):
        client.forked()


def closed(message):
    """What a call of a closed handle raises.  At exit only daemon threads are left beside the one that ends the interpreter: it
    ends all that they do without a word, and so it does their calls."""
    while _handles_closed and threading.current_thread() is not threading.main_thread():
        time.sleep(TIME_S_MAX / 1000)
    return Closed(message, hint="save data at exit in a function registered with atexit"
                  if _handles_closed else None)


_handles_closed = False


def close_clients():
    """At exit, while all that close() needs is still there."""
    global _handles_closed
    _handles_closed = True
    for client in list(clients):
        client.close()


in_child(forget_parents_clients)
at_exit(close_clients)


cdef double seconds_of(object timeout) except -1:
    """A time in seconds that a caller gave, checked."""
    cdef double seconds = number_of("timeout", timeout)
    if not 0 < seconds < TIME_S_MAX:
        raise InvalidArgument("timeout must be positive and less than "
                              f"{TIME_S_MAX:.0e}, got {shown(timeout)}",
                              hint="give seconds")
    return seconds


cdef double number_of(str name, object value) except? -1:
    """A number of seconds that a caller gave; infinity for one that is larger than any."""
    try:
        return value
    except TypeError:
        raise WrongType(f"{name} must be a number of seconds, not {shown(value)}") from None
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")
