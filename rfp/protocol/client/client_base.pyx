"""The client side of a service: how each call is made, and on which channel."""

import itertools
import threading
import time
import weakref

from cpython.exc cimport PyErr_CheckSignals

from rfp.core.core cimport rfp_now
from rfp.fabric.fabric cimport queue_pair
from rfp.protocol.client.client_ring cimport (
    CLOSED, DONE, NO_SLOT, PENDING, PROTOCOL_ERROR, RAISED, RETRY, TIMED_OUT, client_ring_abandon,
    client_ring_discard, client_ring_flush, client_ring_payload, client_ring_pop,
    client_ring_response, client_ring_submit,
)
from rfp.protocol.client.client_wait cimport client_ring_wait
from rfp.protocol.wire cimport RFP_OPCODE_PING

from rfp.core.at_exit import at_exit
from rfp.core.forks import in_child, notice
from rfp.errors import (
    Busy, CallerError, Closed, ConnectionFailed, DeadlineExceeded, Forked, HandshakeFailed,
    OutcomeUnknown, WrongType, not_copied, out_of_bounds, shown,
)

cdef extern from "rfp/core/tls_cache.h" nogil:
    struct rfp_thread_cache:
        uint64_t identity
        void *channel
    rfp_thread_cache rfp_thread

cdef extern from "rfp/core/born.h" nogil:
    uint64_t *rfp_born_word()

born = rfp_born_word()

cdef enum:
    CALIBRATION_PINGS = 9          # that calibrate a ring
    INTERRUPT_NS_MAX = 100000000   # in which an interrupted call returns

PAUSE_S_MIN, PAUSE_S_MAX = 0.001, 0.25      # between attempts to reconnect
ATTEMPT_S_MAX = 1.0        # of one attempt: between two, a thread checks for a closed handle
TIME_S_MIN = 1e-9          # the clocks count nanoseconds
TIME_S_MAX = 1e9           # longer times do not fit into 64 bits of nanoseconds

identities = itertools.count(1)
clients = weakref.WeakSet()


class ThreadChannel:
    """A thread's hold on its channel: when the thread ends, the channel becomes a spare one."""

    def __init__(self, spare, channel):
        self.spare = spare
        self.channel = channel

    def __del__(self):
        if self.channel is not None:
            self.channel.spare(self.spare)


# The parts of a call


cdef outcome call_submit(channel *ch, client_call *c) noexcept nogil:
    """Build the call's request and post it."""
    c.submitted = c.submit(ch, c)
    if not c.submitted:
        return NO_SLOT
    client_ring_flush(c.ring)
    return PENDING


cdef object call_finish(ClientBase client, client_call *c):
    """Return the value of the response that has come, and free its slot."""
    try:
        return c.finish(client, c, client_ring_response(c.ring))
    finally:
        client_ring_pop(c.ring)


cdef object attempt_request(ClientBase client, Channel channel, client_call *c):
    c.result = client.exchange(channel, c)
    return call_finish(client, c) if c.result == DONE else None


cdef object attempt_each_worker(ClientBase client, Channel channel, client_call *c):
    cdef list values = []
    cdef uint32_t i
    for i in range(channel.c.count):
        c.worker = i
        value = attempt_request(client, channel, c)
        if c.result != DONE:
            return None
        values.append(value)
    return values


cdef bint submit_ping(channel *ch, client_call *c) noexcept nogil:
    c.ring = ch.rings[c.worker]
    if client_ring_payload(c.ring) == NULL:
        return False
    client_ring_submit(c.ring, RFP_OPCODE_PING, 0, 0, 0, tag_of(c))
    return True


cdef object finish_ping(ClientBase client, client_call *c, const rfp_response_header *response):
    return None


cdef object attempt_pings(ClientBase client, Channel channel, client_call *c):
    """Return the seconds in which all workers have responded."""
    cdef uint64_t started = rfp_now()
    attempt_each_worker(client, channel, c)
    return (rfp_now() - started) / 1e9


cdef class ClientBase:
    """A handle to a server: usable from many threads, each of which gets rings of its own.

    Args:
        open_connection: called with a deadline (ns), returns a connection; its close() closes what
            the connections share.
        timeout: limit of a call without a timeout of its own, in seconds.
        reconnect: whether to connect again after the server was lost.
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
            self.connection = open_connection(self.deadline(None, rfp_now()))
        except BaseException:
            open_connection.close()
            raise
        self.identity = next(identities)
        clients.add(self)

    # Calls

    cdef int prepare_call(self, client_call *c, object timeout, bint repeatable,
                          attempt_function attempt, submit_function submit,
                          finish_function finish) except -1:
        """Fill a client_call; timeout: seconds, None for the handle's."""
        c.attempt = attempt
        c.submit = submit
        c.finish = finish
        c.repeatable = repeatable
        c.now_ns = rfp_now()
        c.deadline_ns = self.deadline(timeout, c.now_ns)
        return 0

    cdef uint64_t deadline(self, object timeout, uint64_t now) except 0:
        """Return when (ns) a call that begins now must return; timeout: None for the handle's."""
        return now + <uint64_t> ((self.timeout if timeout is None else seconds_of(timeout)) * 1e9)

    cdef object run(self, client_call *c):
        """Make a prepared call and return its value; repeat it while that is safe and useful."""
        cdef Channel channel
        while True:
            channel = self.acquire_channel(c.deadline_ns, &c.now_ns)
            c.submitted = False
            try:
                value = c.attempt(self, channel, c)
            finally:
                self.release_channel(channel)
            if c.result == DONE:
                return value
            self.raise_or_retry(c)
            c.now_ns = rfp_now()

    cdef outcome exchange(self, Channel channel, client_call *c) except RAISED:
        """Send the call's request and wait for its response; after DONE, call_finish() is due."""
        cdef outcome result
        with nogil:
            result = call_submit(&channel.c, c)
            if result == PENDING:
                # Do not read the clock: most responses come within a microsecond.
                result = client_ring_wait(c.ring, min(c.deadline_ns, c.now_ns + SIGNAL_POLL_NS))
        if result == NO_SLOT:
            return self.make_room(c.ring, c.deadline_ns)
        if result == TIMED_OUT:
            result = self.wait_on(c.ring, c.deadline_ns)
        if result == TIMED_OUT:
            client_ring_abandon(c.ring)
        return result

    cdef outcome wait(self, client_ring *ring, uint64_t deadline) except RAISED:
        """Wait for the ring's oldest request; an exception abandons all requests of the ring."""
        cdef outcome result
        with nogil:
            result = client_ring_wait(ring, min(deadline, rfp_now() + SIGNAL_POLL_NS))
        return self.wait_on(ring, deadline) if result == TIMED_OUT else result

    cdef outcome wait_on(self, client_ring *ring, uint64_t deadline) except RAISED:
        """Go on after a slice of waiting: poll for signals before each further slice."""
        cdef outcome result = TIMED_OUT
        cdef uint64_t now = rfp_now()
        while result == TIMED_OUT and now < deadline:
            try:
                self.poll_signals()
            except BaseException:
                client_ring_abandon(ring)
                raise
            with nogil:
                result = client_ring_wait(ring, min(deadline, now + SIGNAL_POLL_NS))
            now = rfp_now()
        return result

    cdef outcome make_room(self, client_ring *ring, uint64_t deadline) except RAISED:
        """Wait until the oldest abandoned request frees its slot: RETRY, or why it does not."""
        cdef outcome result
        if ring.lost:
            return <outcome> ring.lost
        ring.slot[ring.tail].abandoned = False
        result = self.wait(ring, deadline)
        if result == DONE:
            client_ring_discard(ring)
            return RETRY
        client_ring_abandon(ring)
        return NO_SLOT if result == TIMED_OUT else result

    cdef int poll_signals(self) except -1:
        """Run the handlers of pending signals.

        Loops that do not call wait() call this at least every SIGNAL_POLL_NS.
        """
        PyErr_CheckSignals()
        if self.is_forked:
            raise Forked(
                "the call belongs to the parent process: a signal handler forked inside it")
        return 0

    cdef int raise_or_retry(self, client_call *c) except -1:
        """Raise the error of a call whose attempt was not DONE; return if it must be repeated."""
        cdef bint repeatable = c.repeatable or not c.submitted
        if c.result == TIMED_OUT:
            raise DeadlineExceeded(
                f"timed out waiting for a response from {self.connection.address}",
                hint=None if repeatable else "the change may still happen")
        if c.result == RETRY:
            return self.poll_signals()
        if c.result == NO_SLOT:
            raise Busy("all slots wait for the responses of calls that timed out",
                       hint="wait; check whether the server is slow or stopped")
        if c.result == CLOSED or self.is_closed:
            raise closed("this handle is closed" if repeatable else
                         "this handle is closed; the change may still happen")
        because = "invalid response (protocol error)" if c.result == PROTOCOL_ERROR \
            else "the server no longer runs"
        held = getattr(self.threads, "held", None)
        if held is not None and held.channel is not None:
            failure = next((ring.pair.failure for ring in held.channel.rings if ring.pair.failure),
                           None)
            because = f"{because}: {failure}" if failure else because
            self.lost(held.channel.connection, because)
        if not repeatable:
            raise OutcomeUnknown(
                f"the connection to {self.connection.address} was lost after the request was sent "
                f"({because})", hint="check whether the change happened before you repeat it")
        if c.result == PROTOCOL_ERROR:          # a repeated call would fail in the same way
            raise ConnectionFailed(
                f"the connection to {self.connection.address} was closed: {because}",
                hint="check the version and the health of the server")
        if not self.reconnect:
            raise ConnectionFailed(
                f"the connection to {self.connection.address} was lost: {because}",
                hint="connect again, or use reconnect=True")
        if rfp_now() >= c.deadline_ns:
            raise ConnectionFailed(
                f"the connection to {self.connection.address} was lost: {because}")
        return 0

    def ping(self, *, timeout=None):
        """Return the seconds in which every worker, one after the other, answers an empty request.

        Args:
            timeout: seconds; None: that of the handle.

        Cost:
            2 network round trips for each worker.
        """
        cdef client_call c
        self.prepare_call(&c, timeout, True, attempt_pings, submit_ping, finish_ping)
        return self.run(&c)

    # Channels

    cdef channel *ready_channel(self) noexcept:
        cdef channel *ch
        if self.identity == 0 or not born[0]:
            return NULL
        if rfp_thread.identity != self.identity and not self.recall_channel():
            return NULL
        ch = &(<Channel> rfp_thread.channel).c
        return ch if ch.owner == <void *> &rfp_thread and not ch.busy else NULL

    cdef bint recall_channel(self) noexcept:
        """Put this thread's channel into rfp_thread, which another handle uses, too."""
        held = getattr(self.threads, "held", None)
        if held is None or held.channel is None or held.channel.connection is not self.connection:
            return False
        rfp_thread.channel = <void *> <Channel> held.channel
        rfp_thread.identity = self.identity
        return True

    cdef Channel acquire_channel(self, uint64_t deadline, uint64_t *now):
        """Return this thread's channel, marked busy; release_channel() must follow."""
        cdef Channel channel
        cdef queue_pair *pair
        while True:
            # From this check until `busy` is set no other thread can run: close() and reap_lost()
            # observe either the old identity or `busy`.
            while (rfp_thread.identity != self.identity or self.identity == 0 or
                   (<Channel> rfp_thread.channel).c.owner != <void *> &rfp_thread or
                   not born[0]):
                if not born[0]:
                    notice()
                if self.is_closed and not self.is_forked:
                    raise closed("this handle is closed")
                self.find_channel(deadline)
                now[0] = rfp_now()
            channel = <Channel> rfp_thread.channel
            if channel.c.busy:
                held = getattr(self.threads, "held", None)
                if held is None or held.channel is not channel:
                    # Another greenlet of this thread is inside a call: use another channel.
                    self.find_channel(deadline)
                    continue
                raise CallerError("this thread is inside another call of this handle",
                                  hint="do not use a handle in a signal handler or "
                                       "finalizer that may interrupt its calls")
            # Detect a server that exited between two calls before a request is sent to it: the
            # call can then be made at the next server, and its outcome is certain.
            if now[0] - channel.c.used >= IDLE_NS_MAX:
                pair = channel.c.rings[0].pair
                if not pair.ops.alive(pair):
                    self.lost(channel.connection, "the server no longer runs")
                    continue
            channel.c.used = now[0]
            channel.c.busy = 1
            return channel

    cdef void release_channel(self, Channel channel) noexcept:
        channel.c.busy = 0
        if self.unfinished:
            self.unfinished = False
            self.close_connections()

    def find_channel(self, uint64_t deadline):
        """Put this thread's channel into rfp_thread; connect again or attach if necessary."""
        cdef Channel channel = None
        if self.is_forked:
            raise Forked("this handle belongs to the parent process",
                         hint="connect again in the child, or use 'spawn'")
        # The lock is held while reconnecting: the other threads need the result as well.  They wait
        # at most until their own deadlines.
        if not self.lock.acquire(
                timeout=max(0.0, (<double> deadline - <double> rfp_now()) / 1e9)):
            raise DeadlineExceeded("timed out waiting for another thread that is connecting",
                                   hint="give a larger timeout=")
        try:
            while channel is None:
                if self.is_closed:
                    raise Closed("this handle is closed")
                if self.identity == 0:
                    self.connect_again(deadline)
                held = getattr(self.threads, "held", None)
                if held is not None and held.channel is not None and \
                        held.channel.connection is self.connection:
                    channel = held.channel
                    break
                if held is not None:
                    held.channel = None
                try:
                    channel = self.attach(deadline)
                except ConnectionFailed as error:
                    # No call was in progress that could have detected it.
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

    cdef Channel checkout_channel(self, uint64_t deadline, bint polled=False):
        """Return a channel that belongs to no thread; it is busy until return_channel()."""
        cdef Channel channel
        with self.lock:
            if self.is_closed:
                raise Closed("this handle is closed")
            held = getattr(self.threads, "held", None)
            try:
                channel = self.attach(deadline, polled)
                self.threads.held.channel = None
            finally:
                self.threads.held = held        # this thread keeps its own channel, if it has one
            channel.c.busy = 1
            return channel

    cdef void return_channel(self, Channel channel) noexcept:
        self.spare.append(channel)
        self.release_channel(channel)

    cdef Channel attach(self, uint64_t deadline, bint polled=False):
        """Return a channel of the present connection for this thread: a spare or a new one."""
        cdef Channel channel
        for channel in [] if polled else self.spare[::-1]:
            # Its thread is still inside a call: only its thread state has ended.
            if channel.c.busy:
                continue
            self.spare.remove(channel)
            if channel.connection is self.connection:
                self.threads.held = ThreadChannel(self.spare, channel)
                return channel
        connection = self.connection
        channel = connection.attach(deadline, polled=polled)
        if self.is_closed:                      # by a signal handler, which has unmapped the rings
            connection.detach(channel)
            raise closed("this handle is closed")
        # Busy and held during calibration: a signal handler that closes the handle then leaves
        # the rest to this thread.
        channel.c.busy = 1
        try:
            self.threads.held = ThreadChannel(self.spare, channel)
            self.configure_channel(channel)
            self.calibrate(channel, deadline)
        except BaseException:
            held = getattr(self.threads, "held", None)
            if held is not None and held.channel is channel:
                held.channel = None
            if rfp_thread.channel == <void *> channel:
                # A signal handler has used this handle and cached this channel: remove the entry.
                rfp_thread.identity = 0
            self.release_channel(channel)
            connection.detach(channel)
            raise
        self.release_channel(channel)
        return channel

    def configure_channel(self, Channel owner not None):
        """Set up the rings of a new channel by the options of this handle."""

    def calibrate(self, Channel owner not None, uint64_t deadline):
        """Count the polls of a round trip, ring by ring: the unit of failed fetches."""
        cdef client_call ping
        cdef uint32_t i, trial
        cdef uint64_t started, quickest = <uint64_t> -1
        self.prepare_call(&ping, None, True, attempt_each_worker, submit_ping, finish_ping)
        ping.deadline_ns = deadline
        for i in range(owner.c.count):
            ping.worker = i
            counts = []
            for trial in range(CALIBRATION_PINGS):
                started = rfp_now()
                ping.result = self.exchange(owner, &ping)
                quickest = min(quickest, rfp_now() - started)
                if ping.result == TIMED_OUT:
                    raise DeadlineExceeded("timed out waiting for the server, "
                                           "which accepted the connection",
                                           hint="check whether it is stopped or overloaded")
                if self.is_closed:
                    raise Closed("this handle is closed")
                if ping.result != DONE:
                    raise ConnectionFailed("the server exited during the connection setup")
                counts.append(ping.ring.slot[ping.ring.tail].polls)
                call_finish(self, &ping)
            ping.ring.polls_per_round_trip = max(1, sorted(counts)[CALIBRATION_PINGS // 2])
            ping.ring.slow = 0
        self.ping_ns = quickest

    # Connections

    def connect_again(self, uint64_t deadline):
        """Connect to the server again; ConnectionFailed at the deadline."""
        cdef double pause = PAUSE_S_MIN
        if not self.reconnect:
            raise ConnectionFailed(
                f"the connection to {self.connection.address} was lost: {self.lost_because}",
                hint="connect again, or use reconnect=True")
        self.reap_lost()
        while True:
            if self.is_closed:
                raise Closed("this handle is closed")
            try:
                connection = self.open_connection(
                    min(deadline, rfp_now() + <uint64_t> (ATTEMPT_S_MAX * 1e9)))
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
                    raise ConnectionFailed(
                        f"the connection to {self.connection.address} was lost "
                        f"({self.lost_because}), and the server did not come back before the "
                        f"deadline: {error}") from None
            time.sleep(pause)
            pause = min(2 * pause, PAUSE_S_MAX)

    def reap_lost(self):
        """Close lost connections whose calls have all returned."""
        for connection in list(self.old):
            if not any(channel.busy for channel in connection.channels):
                connection.close()
                self.old.remove(connection)

    cdef int lost(self, object connection, object because) except -1:
        """Mark a connection as lost, if it is still the present one.

        Calls of other threads detect the loss themselves.  This does not take the lock: a thread
        that connects again may hold it past this call's deadline.  The GIL keeps others out.
        """
        if self.identity != 0 and connection is self.connection:
            self.identity = 0
            self.lost_because = because
            self.old.append(connection)
        return 0

    def close(self):
        """Close the connection.  Safe to call again.

        Calls of other threads that are in progress raise Closed.
        """
        notice()
        self.is_closed = True
        self.identity = 0
        # A thread that holds the lock for long is connecting or attaching: the shutdown ends that.
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
                # Inside a call of this same thread (for example in a signal handler): that call
                # raises Closed and then closes the connections.
                held.channel.interrupt()
                self.unfinished = True
                return
            self.close_connections()
        finally:
            self.lock.release()

    def close_connections(self):
        """Wait for the calls in progress, then close the connections."""
        cdef double pause = 0.00001
        cdef uint64_t shutdown_at = rfp_now() + INTERRUPT_NS_MAX
        connections = [self.connection, *self.old]
        while True:
            # Interrupted calls return within microseconds; until then memory must stay mapped.
            busy = [channel for connection in connections for channel in connection.channels
                    if channel.busy]
            for channel in busy:
                channel.interrupt()
            if not busy:
                break
            if rfp_now() > shutdown_at:         # a call waits on the control channel instead
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
        """Return whether the handle was closed."""
        return self.is_closed

    def forked(self):
        """Disable the handle in the child of a fork: the connection belongs to the parent."""
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
        raise not_copied(
            self, "connect again: each process, and each copy, needs a handle of its own")

    def __del__(self):
        # A program that forgets close() leaks nothing.
        if self.connection is not None and not self.is_closed:
            self.close()


def forget_parents_clients():
    """Disable all clients in the child of a fork."""
    born[0] = 1
    for client in list(clients):
        client.forked()


def closed(message):
    """Return the error of a call of a closed handle; at exit, block daemon threads instead.

    At exit only daemon threads are left beside the thread that ends the interpreter.  The
    interpreter stops them without an error, and their calls too.
    """
    while _handles_closed and threading.current_thread() is not threading.main_thread():
        time.sleep(TIME_S_MAX / 1000)
    return Closed(message, hint="save data at exit in a function registered with atexit"
                  if _handles_closed else None)


_handles_closed = False


def close_clients():
    """Close all clients at exit, while the modules that close() needs still exist."""
    global _handles_closed
    _handles_closed = True
    for client in list(clients):
        client.close()


in_child(forget_parents_clients)
at_exit(close_clients)


cdef double seconds_of(object timeout) except -1:
    """Return a timeout in seconds after checking it."""
    cdef double seconds = number_of("timeout", timeout)
    if not TIME_S_MIN <= seconds <= TIME_S_MAX:
        raise out_of_bounds("timeout", timeout, TIME_S_MIN, TIME_S_MAX,
                            hint="give seconds, such as timeout=5")
    return seconds


cdef double wait_seconds_of(object timeout) except -1:
    cdef double seconds = number_of("timeout", timeout)
    if timeout == float("inf"):          # not an int that does not fit into a float
        return TIME_S_MAX
    if not 0 <= seconds <= TIME_S_MAX:
        raise out_of_bounds("timeout", timeout, 0, TIME_S_MAX,
                            hint='give seconds, or float("inf") to wait without limit')
    return seconds


cdef double number_of(str name, object value) except? -1:
    """Return a number of seconds; infinity if it does not fit into a float."""
    if isinstance(value, bool):          # get(True, 5) of other queues: block, timeout
        raise WrongType(f"{name} must be a number of seconds, not {shown(value)}")
    try:
        return value
    except TypeError:
        raise WrongType(f"{name} must be a number of seconds, not {shown(value)}") from None
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")
