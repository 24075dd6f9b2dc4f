"""The rings of one client on an event loop.

No wake-up is lost
    As a sleeping thread (protocol/client/client_wait.pyx), the loop (1) calls prepare_wait, (2)
    WRITEs WAIT into the oldest request of each ring, (3) polls each ring once more with a READ that
    begins after both, and only then returns to the loop.  (1) is done once for all rings: over
    verbs, a second prepare_wait would take another ring's event.  A notification after (1) stays in
    the descriptor.  If (3) finds responses, (2) and (3) are repeated for the requests that are the
    oldest then.  While a READ of (3) is under way, the loop calls turn() again and again.

Flushing
    The first request of an idle ring is posted at once, and polled for some microseconds.  All
    others of one turn of the loop are posted together, by turn().
"""

import asyncio
import os
import threading
from collections import OrderedDict

from cpython.pythread cimport PyThread_get_thread_ident
from cython cimport final
from libc.string cimport memset
from posix.unistd cimport close as close_fd

from rfp.core.core cimport (
    rfp_fence_full, rfp_now, rfp_pause, rfp_spin_lost, rfp_spin_ns, rfp_spin_won,
)
from rfp.fabric.fabric cimport event_channel, queue_pair
from rfp.protocol.client.client_base cimport IDLE_NS_MAX, born, call_finish, tag_of
from rfp.protocol.client.client_ring cimport (
    CLOSED, DISCONNECTED, DONE, IDLE, PENDING, PROTOCOL_ERROR, RETRY, TIMED_OUT,
    client_ring_abandon_one,
    NOT_POSTED, client_ring_abandon, client_ring_discard, client_ring_flush, client_ring_room,
    client_ring_step, client_ring_tag, client_slot,
)
from rfp.protocol.client.client_wait cimport (
    SLEEP_NS_MAX, client_ring_check_alive, request_wakeup,
)
from rfp.protocol.wire cimport RFP_MODE_FETCH, RFP_MODE_REPLY

from rfp.core.forks import live, notice
from rfp.errors import (
    CallerError, Closed, ConnectionFailed, DeadlineExceeded, Forked, OutcomeUnknown,
)

cdef enum:
    HITS_MAX = 64                  # calls that complete inline between two turns of the loop
    HITS_PER_CLOCK = 16
    HITS_NS_MAX = 100000
    BYTES_PER_CLOCK = 16384
    INLINE_NS = 5000               # in which the first response of an idle ring is polled for
    POLLS_PER_CLOCK = 16
    SETTLE_NS_MAX = 100000000      # in which the requests of an interrupted thread are answered
    RESTLESS_NS_MAX = 1000000      # of polls in each turn of the loop; then once a millisecond
    IDLE_WAKEUPS_MAX = 1000
    ARM_ROUNDS_MAX = 8             # of requests that a fast server answers while the loop arms


cdef class Call:
    """One request and its result.

    A call is started by Rings.start(), and can be awaited then.
    """

    def __cinit__(self):
        memset(&self.unmade, 0, sizeof(self.unmade))
        self.c = &self.unmade

    cdef int choose(self, Channel owner) except -1:
        raise NotImplementedError

    cdef object finish(self, ClientBase base):
        return call_finish(base, self.c)

    cdef void drop(self) noexcept:
        pass

    cdef void release_memory(self) noexcept:
        pass

    @property
    def finished(self):
        """Return whether there is a value, an error or an outcome."""
        return self.state == COMPLETE

    @property
    def answered(self):
        """Return whether the server has answered."""
        return self.state == COMPLETE and self.c.result == DONE

    @property
    def deadline_ns(self):
        return self.c.deadline_ns

    def result(self):
        """Return the value of an answered call, or raise its error."""
        if self.error is not None:
            raise self.error
        return self.value

    def leave(self):
        """Give up waiting: the response will be discarded."""
        if self.rings is not None:
            self.rings.leave(self)

    def raise_or_retry(self):
        """Raise the error of a call without an answer; return if it must be made again."""
        if self.rings is None:
            raise CallerError("the call was not started")
        cdef client_call *c = self.c
        cdef ClientBase base = self.rings.base
        cdef bint repeatable = c.repeatable or not c.submitted
        address = base.connection.address
        if c.result == TIMED_OUT:
            raise DeadlineExceeded(f"timed out waiting for a response from {address}",
                                   hint=None if repeatable else "the change may still happen")
        if c.result == CLOSED or base.is_closed:
            raise Closed("this handle is closed" if repeatable else
                         "this handle is closed; the change may still happen")
        because = "invalid response (protocol error)" if c.result == PROTOCOL_ERROR \
            else "the server no longer runs"
        if not repeatable:
            raise OutcomeUnknown(
                f"the connection to {address} was lost after the request was sent ({because})",
                hint="check whether the change happened before you repeat it")
        if c.result == PROTOCOL_ERROR:
            raise ConnectionFailed(f"the connection to {address} was closed: {because}",
                                   hint="check the version and the health of the server")
        if not base.reconnect:
            raise ConnectionFailed(f"the connection to {address} was lost: {because}",
                                   hint="connect again, or use reconnect=True")
        if rfp_now() >= c.deadline_ns:
            raise ConnectionFailed(f"the connection to {address} was lost: {because}")
        self.state = UNSENT
        self.waiter = None

    def expire(self):
        """Raise the error of a call whose deadline has passed."""
        self.c.result = TIMED_OUT
        self.raise_or_retry()

    # The protocol of an awaitable

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        if self.state == COMPLETE:
            raise StopIteration
        if self.rings is None:
            raise CallerError("the call was not started")
        if self.waiter is None or self.waiter.done():
            self.waiter = self.rings.loop.create_future()
        self.waiter._asyncio_future_blocking = True
        return self.waiter

    def send(self, value):
        return self.__next__()

    def throw(self, kind, value=None, traceback=None):
        """Leave the call, as its task was cancelled, and raise the exception."""
        self.leave()
        if value is None:
            value = kind() if isinstance(kind, type) else kind
        if self.c.submitted and not self.c.repeatable and value.__context__ is None:
            value.__context__ = OutcomeUnknown(
                "a call was cancelled after its request was sent: the change may still happen")
        raise value

    def close(self):
        self.leave()


@final
cdef class Rings:
    """The rings of one connection.

    Args:
        base: the client that the connection belongs to.
        owner: its channel, made by open_channel().
        identity: of the connection, from open_channel().
        loop: the running event loop.
    """

    def __cinit__(self, ClientBase base not None, Channel owner not None, uint64_t identity, loop):
        self.polled = self.process = -1
        self.base = base
        self.owner = owner
        self.identity = identity
        self.loop = loop
        # asyncio's own loops have a deque of what may run now.
        self.ready = getattr(loop, "_ready", None)
        self.thread = <uint64_t> PyThread_get_thread_ident()
        self.in_flight = {}
        self.queues = [OrderedDict() for _ in range(owner.c.count)]
        self.spin.ns = INLINE_NS if os.cpu_count() > 1 else 0
        self.guarded = owner.connection.fabric.closing_revokes
        if not self.is_usable():                # lost meanwhile: the next call connects again
            self.ended = True
            return
        # A copy: the channel closes its own with the connection, in another thread perhaps, and the
        # loop's poll must not refer to a number that is in use again.
        self.polled = os.dup(owner.events.fileno())
        loop.add_reader(self.polled, self.readable)
        if owner.connection.pidfd >= 0:
            # The end of the stream does not prove that the server runs: a child that it has forked
            # may have the other end.
            self.process = os.dup(owner.connection.pidfd)
            loop.add_reader(self.process, self.exited)
        live.add(self)

    def __dealloc__(self):
        if self.polled >= 0:
            close_fd(self.polled)
        if self.process >= 0:
            close_fd(self.process)

    def _forget(self):
        """In the child of a fork: drop the copies of the descriptors.

        The loop's poll object is shared with the parent: nothing is removed from it.
        """
        self.ended = True
        self.close_copies()

    def close_copies(self):
        fds = (self.polled, self.process)
        self.polled = self.process = -1
        for fd in fds:
            if fd >= 0:
                os.close(fd)

    cdef void enter(self) noexcept:
        # Memory stays mapped while a function is inside: an object that the garbage collector ends
        # there may let another thread run, which closes the connection.
        self.inside += 1
        self.owner.c.busy = 1

    cdef void exit(self) noexcept:
        self.inside -= 1
        if self.inside == 0:
            self.base.release_channel(self.owner)

    @property
    def in_use(self):
        """Return whether a function of this object is on the stack."""
        return self.inside > 0

    cdef bint is_usable(self) noexcept:
        return not self.ended and self.base.identity == self.identity and born[0]

    cdef bint is_ready(self) noexcept:
        return self.thread == <uint64_t> PyThread_get_thread_ident() and self.is_usable()

    @property
    def usable(self):
        """Return whether calls can be made on this connection."""
        if not self.is_usable() and not self.ended and born[0]:
            self.lose(DISCONNECTED)
        return self.is_usable()

    def check(self):
        """Raise if the running task may not use this client."""
        if not born[0]:
            notice()
        if self.base.is_forked:
            raise Forked("this handle belongs to the parent process",
                         hint="connect again in the child, or use 'spawn'")
        if asyncio.get_running_loop() is not self.loop:
            raise CallerError("this handle belongs to another event loop",
                              hint="connect in each loop that uses the server")

    cdef bint hit(self, uint64_t length) noexcept:
        if self.hits == 0:
            self.hits_since = rfp_now()
        self.hits += 1
        if self.hits < HITS_MAX and (self.hits % HITS_PER_CLOCK and length < BYTES_PER_CLOCK or
                                     rfp_now() - self.hits_since < HITS_NS_MAX):
            return False
        if self.hits >= HITS_MAX and self.ready is not None and not self.ready and \
                rfp_now() - self.hits_since < HITS_NS_MAX:
            # No task could run.  Descriptors and timers wait for the time limit.
            self.hits -= HITS_PER_CLOCK
            return False
        self.hits = 0
        return True

    @property
    def must_yield(self):
        """Count a call that completed inline; return whether the task must let the loop run."""
        return self.hit(0)

    # Sending

    def start(self, Call call not None, bint poll=True):
        """Send a call's request, or queue it; return whether its response is here already."""
        return self.begin(call, poll)

    cdef bint begin(self, Call call, bint poll) except -1:
        self.enter()
        try:
            return self.begin_inside(call, poll)
        finally:
            self.exit()

    cdef bint begin_inside(self, Call call, bint poll) except -1:
        cdef client_ring *ring
        cdef outcome result
        cdef uint32_t polls = 0
        cdef uint64_t until, spin_ns
        cdef queue_pair *pair
        if call.c.submit == NULL or call.state != UNSENT:
            raise CallerError("the call cannot be started")
        call.rings = self
        call.waiter = None
        call.c.submitted = False
        call.c.result = PENDING
        if call.c.now_ns - self.owner.c.used >= IDLE_NS_MAX:
            # Detect a server that ended while the loop did not run, before a request is sent: the
            # call is then made at the next server, and its outcome is certain.
            pair = self.owner.c.rings[0].pair
            if not pair.ops.alive(pair):
                self.lose(DISCONNECTED)
                call.c.result = DISCONNECTED
                call.state = COMPLETE
                return True
        self.owner.c.used = call.c.now_ns
        call.choose(self.owner)
        ring = call.c.ring
        queue = self.queues[call.c.worker]
        if queue or client_ring_room(ring) == 0 or not self.submit(call):
            call.state = QUEUED
            queue[call] = None
            self.watch(call)
            self.soon()
            return False
        spin_ns = rfp_spin_ns(&self.spin)
        if poll and ring.count == 1 and spin_ns:
            client_ring_flush(ring)
            until = 0
            while True:
                result = client_ring_step(ring)
                if result != PENDING:
                    break
                rfp_pause()
                polls += 1
                if polls % POLLS_PER_CLOCK == 0:
                    if until == 0:
                        until = rfp_now() + spin_ns
                    elif rfp_now() >= until:
                        break
            if result == DONE:
                rfp_spin_won(&self.spin)
                self.inline += 1
                self.take(ring)
                return call.state == COMPLETE
            rfp_spin_lost(&self.spin)
        elif poll and ring.count == 1:
            rfp_spin_lost(&self.spin)
        self.watch(call)
        self.soon()
        return False

    cdef bint submit(self, Call call) except -1:
        """Build the request in a slot."""
        cdef client_ring *ring = call.c.ring
        cdef uint32_t sequence = ring.sequence
        if not call.c.submit(&self.owner.c, call.c):
            return False
        call.c.submitted = True
        call.sequence = sequence
        call.state = SENT
        self.in_flight[tag_of(call.c)] = call
        return True

    # Receiving

    cdef int step(self) except -1:
        """Take the responses that have come, send queued requests, post all."""
        cdef client_ring *ring
        cdef outcome result
        cdef Call call
        cdef uint32_t i
        for i in range(self.owner.c.count):
            ring = self.owner.c.rings[i]
            queue = self.queues[i]
            while ring.count > ring.unsent:
                result = client_ring_step(ring)
                if result != DONE:
                    break
                self.take(ring)
                if not self.is_usable():
                    return 0
            while queue and client_ring_room(ring):
                call = next(iter(queue))
                if not self.submit(call):
                    break
                del queue[call]
            if ring.unsent > ring.due:
                self.leave_cancelled(ring)
                client_ring_flush(ring)
            if ring.lost:
                self.lose(<outcome> ring.lost)
                return 0
        return 0

    cdef int leave_cancelled(self, client_ring *ring) except -1:
        """Withdraw requests that are about to be posted, of tasks that were cancelled meanwhile."""
        cdef Call call
        cdef uint32_t i, slot
        for i in range(ring.due, ring.unsent):
            slot = (ring.head + ring.slots - ring.unsent + i) % ring.slots
            call = None if ring.slot[slot].abandoned else \
                self.in_flight.get(ring.slot[slot].tag)
            if call is not None and call.waiter is not None and call.waiter.cancelled():
                self.leave(call)
        return 0

    cdef int take(self, client_ring *ring) except -1:
        """Finish the call whose response is the oldest of its ring."""
        cdef Call call = self.in_flight.pop(client_ring_tag(ring), None)
        self.taken += 1
        if call is None:
            client_ring_discard(ring)
            return 0
        call.c.result = DONE
        try:
            call.value = call.finish(self.base)
        except Exception as error:
            call.error = error
        call.state = COMPLETE
        wake(call)
        if call.c.result != DONE:
            self.lose(call.c.result)
        return 0

    cdef int leave(self, Call call) except -1:
        """Give up waiting for a call."""
        if call.state == QUEUED:
            self.queues[call.c.worker].pop(call, None)
        elif call.state == SENT:
            self.in_flight.pop(tag_of(call.c), None)
            if self.is_usable() and client_ring_abandon_one(
                    call.c.ring, call.sequence, not call.c.repeatable) == NOT_POSTED:
                call.c.submitted = False
        elif call.state == COMPLETE and call.c.result == DONE and self.is_usable():
            call.drop()
        call.release_memory()
        call.state = LEFT
        return 0

    # The loop

    cdef int soon(self) except -1:
        if not self.scheduled:
            self.scheduled = True
            self.loop.call_soon(self.turn)
        return 0

    def turn(self):
        """Callback of the loop: post what its tasks have submitted, then sleep."""
        self.scheduled = False
        self.hits = 0
        self.turns += 1
        if self.usable:
            self.step_and_sleep()

    cdef int step_and_sleep(self) except -1:
        self.enter()
        try:
            self.step()
        finally:
            # Whatever has failed, the other tasks' responses need a wake-up.
            try:
                if self.is_usable():
                    self.sleep()
            finally:
                self.exit()
        return 0

    def exited(self):
        """Callback of the loop: the server's process has ended."""
        if self.usable:
            self.enter()
            try:
                self.step()                     # it may have responded before
            finally:
                self.exit()
                self.lose(DISCONNECTED)

    def readable(self):
        """Callback of the loop: the server, or its end, has made the descriptor readable."""
        cdef event_channel *events = &self.owner.events.c
        self.hits = 0
        self.wakeups += 1
        if not self.usable:
            return
        events.ops.wait(events, self.armed_as, 0)
        self.armed = False
        if events.ended:
            self.exited()
            return
        self.step_and_sleep()
        self.idle_wakeups += 1
        if self.taken != self.idle_taken:
            self.idle_taken = self.taken
            self.idle_wakeups = 0
        elif self.idle_wakeups > IDLE_WAKEUPS_MAX and self.is_usable():
            self.lose(PROTOCOL_ERROR)           # the server floods the descriptor

    cdef int sleep(self) except -1:
        """Return to the loop until a notification, or until the next poll."""
        cdef event_channel *events = &self.owner.events.c
        cdef uint32_t i
        for i in range(self.owner.c.count):
            if self.owner.c.rings[i].count:
                break
        else:
            if self.armed:
                events.ops.cancel_wait(events)
                self.armed = False
            return 0
        if self.arm() or not self.is_usable():
            self.restless_ns = 0
        elif self.restless_ns == 0 or self.taken != self.restless_taken:
            self.restless_ns = rfp_now()
            self.restless_taken = self.taken
            self.soon()
        elif rfp_now() - self.restless_ns < RESTLESS_NS_MAX:
            self.soon()
        elif not self.scheduled:                # the network or its other side is very slow
            self.scheduled = True
            self.loop.call_later(RESTLESS_NS_MAX / 1e9, self.turn)
        return 0

    cdef bint arm(self) except -1:
        """Take the next steps towards a sleep; return whether the loop may sleep now."""
        cdef event_channel *events = &self.owner.events.c
        cdef uint64_t before
        cdef uint32_t i
        if not self.armed:
            self.armed_as = events.ops.prepare_wait(events)
            self.armed = True
            for i in range(self.owner.c.count):
                self.sleepers[i].sequence = 0
        for _ in range(ARM_ROUNDS_MAX):
            self.request_wakeups()
            before = self.taken
            self.step()
            if not self.is_usable() or self.may_sleep():
                return True
            if self.taken == before and not self.owner.c.rings[0].direct:
                return False
        return False

    cdef void request_wakeups(self) noexcept:
        """WRITE WAIT into the oldest request of each ring that does not contain it yet."""
        cdef client_ring *ring
        cdef client_slot *slot
        cdef sleeper *s
        cdef uint32_t i
        for i in range(self.owner.c.count):
            ring = self.owner.c.rings[i]
            if ring.count == ring.unsent:
                continue
            slot = &ring.slot[ring.tail]
            s = &self.sleepers[i]
            if slot.sequence != s.sequence or ring.torn != s.torn or \
                    slot.mode == RFP_MODE_FETCH and not slot.wakeup_requested:
                s.sequence = slot.sequence
                s.torn = ring.torn
                s.polls_required = slot.polls + (1 if slot.stage == IDLE else 2)
                if slot.mode == RFP_MODE_REPLY:
                    s.polls_required = slot.polls + 1
                elif not slot.wakeup_requested:
                    request_wakeup(ring)
        rfp_fence_full()

    cdef bint may_sleep(self) noexcept:
        """Return whether a poll that began after prepare_wait and WAIT has brought nothing."""
        cdef client_ring *ring
        cdef client_slot *slot
        cdef sleeper *s
        cdef uint32_t i
        for i in range(self.owner.c.count):
            ring = self.owner.c.rings[i]
            # Posted WRITEs must complete before the loop sleeps: polling moves them on.
            if ring.due or ring.writing:
                return False
            if ring.count == ring.unsent:
                continue
            slot = &ring.slot[ring.tail]
            s = &self.sleepers[i]
            if slot.sequence != s.sequence or ring.torn != s.torn or \
                    slot.polls < s.polls_required or \
                    slot.mode == RFP_MODE_FETCH and not slot.wakeup_requested:
                return False
        return True

    # Deadlines

    cdef int watch(self, Call call) except -1:
        """Make sure that the loop runs at the call's deadline."""
        cdef uint64_t now
        if self.timer is None or call.c.deadline_ns < self.timer_ns:
            now = rfp_now()
            if self.timer is not None:
                self.timer.cancel()
            self.timer_ns = call.c.deadline_ns
            self.timer = self.loop.call_later(
                (call.c.deadline_ns - now) / 1e9 if call.c.deadline_ns > now else 0, self.expire)
        if self.guarded and self.guard is None:
            self.guard = self.loop.call_later(SLEEP_NS_MAX / 1e9, self.check_server)
        return 0

    def expire(self):
        """Callback of the loop: finish the calls whose deadlines have passed."""
        self.timer = None
        if not self.usable:
            return
        self.enter()
        try:
            self.expire_inside()
        finally:
            self.exit()

    def expire_inside(self):
        cdef Call call
        cdef Call first = None
        self.step()                             # a late loop must not discard what has come
        now = rfp_now()
        for call in [*self.in_flight.values(), *[each for queue in self.queues for each in queue]]:
            if call.c.deadline_ns > now:
                if first is None or call.c.deadline_ns < first.c.deadline_ns:
                    first = call
                continue
            self.leave(call)
            call.c.result = TIMED_OUT
            call.state = COMPLETE
            wake(call)
        if first is not None and self.is_usable():
            self.watch(first)

    def check_server(self):
        """Callback of the loop: poll whether the server's machine runs, while calls wait."""
        self.guard = None
        if not self.usable:
            return
        self.enter()
        try:
            self.check_inside()
        finally:
            self.exit()

    def check_inside(self):
        cdef uint32_t i
        self.step()
        for i in range(self.owner.c.count):
            if not self.is_usable() or not self.owner.c.rings[i].count:
                continue
            if not client_ring_check_alive(self.owner.c.rings[i], rfp_now()):
                self.lose(DISCONNECTED)
                return
            self.guard = self.guard or self.loop.call_later(SLEEP_NS_MAX / 1e9, self.check_server)

    # The end

    cdef int lose(self, outcome result) except -1:
        """The connection is lost: finish all calls with this outcome."""
        self.base.lost(self.owner.connection,
                       "invalid response (protocol error)" if result == PROTOCOL_ERROR
                       else "the server no longer runs") if self.base.identity == self.identity \
            else None
        return self.finish_all(result)

    cdef int finish_all(self, outcome result) except -1:
        cdef Call call
        if self.ended:
            return 0
        self.ended = True
        calls = [*self.in_flight.values(), *[each for queue in self.queues for each in queue]]
        self.in_flight.clear()
        for queue in self.queues:
            queue.clear()
        try:
            for call in calls:
                # Requests that were not posted are not executed.
                call.c.submitted = call.state == SENT and not is_unsent(call.c.ring, call.sequence)
                call.c.result = result
                call.state = COMPLETE
                wake(call)
        finally:
            self.release()
        return 0

    cdef int release(self) except -1:
        """Remove the callbacks from the loop."""
        cdef int fd
        for handle in (self.timer, self.guard):
            if handle is not None:
                handle.cancel()
        self.timer = self.guard = None
        live.discard(self)
        try:
            if born[0] and not self.loop.is_closed():
                for fd in (self.polled, self.process):
                    if fd >= 0:
                        self.loop.remove_reader(fd)
        finally:
            self.close_copies()
        return 0

    def end(self):
        """Finish all calls: the handle is being closed.  Safe to call again."""
        self.finish_all(CLOSED)

    @property
    def counters(self):
        """Return the counters of the channel, and of this loop."""
        return {**self.owner.counters, "turns": self.turns, "wakeups": self.wakeups,
                "inline": self.inline}


cdef bint is_unsent(client_ring *ring, uint32_t sequence) noexcept:
    cdef uint32_t i, slot
    for i in range(ring.unsent):
        slot = (ring.head + ring.slots - 1 - i) % ring.slots
        if ring.slot[slot].sequence == sequence:
            return True
    return False


cdef int wake(Call call) except -1:
    waiter = call.waiter
    if waiter is not None and not waiter.done():
        try:
            waiter.set_result(None)
        except RuntimeError:                    # its loop is closed: no task waits
            pass
    return 0


def open_channel(ClientBase base not None, uint64_t deadline):
    """Return a channel for an event loop and the identity of its connection; blocks.

    Connects again first if the connection was lost.
    """
    cdef Channel owner
    if not base.lock.acquire(
            timeout=max(0.0, (<double> deadline - <double> rfp_now()) / 1e9)):
        raise DeadlineExceeded("timed out waiting for another thread that is connecting",
                               hint="give a larger timeout=")
    try:
        if base.is_closed:
            raise Closed("this handle is closed")
        if base.identity == 0:
            base.connect_again(deadline)
        try:
            owner = base.checkout_channel(deadline, True)
        except ConnectionFailed as error:
            base.lost(base.connection, error)
            raise
        # The loop marks no calls (see the head of rings.pxd): close() need not wait for it.
        base.release_channel(owner)
        return owner, base.identity
    finally:
        base.lock.release()


def is_forked(ClientBase base not None):
    """Return whether this process is a forked child, in which the handle must not be used."""
    if not born[0]:
        notice()
    return base.is_forked


def begin_close(ClientBase base not None, bint waiting):
    """Let no call begin any more; does not block.

    waiting: whether a thread may wait on the control channel, which is ended then.
    """
    base.is_closed = True
    if waiting:
        base.connection.control.shutdown()


class Interruption:
    """A call of a synchronous handle in another thread, which the loop can interrupt.

    An interrupted thread takes the responses that its requests still get before it returns: a later
    change of the same key by the loop must not be overtaken.
    """

    def __init__(self, base):
        self.base = base
        self.channel = None
        self.interrupted = False
        self.lock = threading.Lock()

    def run(self, function, *args, **kwargs):
        """Call the function in this thread; raise Closed if it is interrupted."""
        cdef ClientBase base = self.base
        cdef Channel owner
        self.check()
        owner = own_channel(base, kwargs.get("timeout"))
        with self.lock:
            self.check()
            self.channel = owner
        try:
            return function(*args, **kwargs)
        finally:
            with self.lock:
                self.channel = None
            if self.interrupted and not base.is_closed:
                settle(base, owner)

    def check(self):
        if self.interrupted:
            raise Closed("the call was interrupted")

    def interrupt(self):
        """Make the call return; it raises Closed unless it is just complete.

        Returns:
            Whether the call has begun; otherwise it will not use its arguments any more.
        """
        with self.lock:
            self.interrupted = True
            channel = self.channel
            if channel is not None:
                channel.interrupt()
            return channel is not None


cdef int settle(ClientBase base, Channel owner) except -1:
    """Make an interrupted thread's channel usable again."""
    cdef uint64_t now = rfp_now()
    cdef uint64_t deadline = now + SETTLE_NS_MAX
    cdef outcome result
    cdef uint32_t i
    owner.c.closing = 0
    if owner.connection is not base.connection:
        return 0
    if base.acquire_channel(deadline, &now) is not owner:
        return 0
    try:
        for i in range(owner.c.count):
            if owner.c.rings[i].count:
                client_ring_abandon(owner.c.rings[i])
        for i in range(owner.c.count):
            while owner.c.rings[i].count and not owner.c.rings[i].lost:
                result = base.make_room(owner.c.rings[i], deadline)
                if result != RETRY:
                    break
    finally:
        base.release_channel(owner)
    return 0


cdef Channel own_channel(ClientBase base, timeout):
    """Return the channel of this thread."""
    cdef uint64_t now = rfp_now()
    cdef Channel owner = base.acquire_channel(base.deadline(timeout, now), &now)
    base.release_channel(owner)
    return owner
