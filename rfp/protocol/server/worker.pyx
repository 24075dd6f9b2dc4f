# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""A worker: the thread that serves rings (the contract is in worker.pxd)."""

import contextlib
import os
import threading

from cpython.exc cimport PyErr_CheckSignals
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from rfp.core.core cimport (
    rfp_futex_wait, rfp_futex_wake, rfp_load64_acquire, rfp_now, rfp_pause, rfp_spin_lost,
    rfp_spin_ns, rfp_spin_won, rfp_store64_release, rfp_tick_length, rfp_ticks,
)
from rfp.protocol.server.server_ring cimport (
    ServerRing, ring_notify, ring_publish, ring_room, ring_take,
)
from rfp.protocol.server.service cimport request, response
from rfp.protocol.wire cimport RFP_LINE, RFP_OPCODE_PING, RFP_RESPONSE_HEADER, RFP_TAKE_VALID

from rfp.errors import Closed, InvalidArgument, QuotaExceeded
from rfp.protocol.server.real_thread import RealThread


cdef enum:
    ADD = 1
    REMOVE = 2
    STOP = 3
    SLEEP = 100000000      # ns: the longest sleep, unless the service wants it shorter; orders and notifications end it at once
    TEND = 1000000         # ns between two tend() of a busy worker
    PROMPT = 2000          # ns after which a waiting client is not kept for the rest of its group
    TURNS = 64             # idle turns between two looks at the clock
    WATCH = 4              # the same where tend() has to look for work
    PATIENCE = 10000       # looks whether an order was carried out before sleeping until it is
    ORDER = 10000000       # ns of such a sleep


cdef uint32_t serve(worker *w, server_ring *ring, double tick) noexcept nogil:
    """Serves what stands in one ring, at most a group; returns how many."""
    cdef request taken[GROUP]
    cdef response answer
    cdef char *copy
    cdef char *slot
    cdef uint32_t n = 0
    cdef uint32_t i
    cdef uint32_t published = 0
    cdef uint32_t silent = 0        # published but not yet looked at for WAIT
    cdef uint32_t most = min(<uint32_t> GROUP, ring.slots)
    cdef uint64_t start, now, last, told
    if ring.replies:
        most = min(most, ring_room(ring))
    while n < most and ring_take(ring, n, w.copies + <uint64_t> n * w.slot_size, &taken[n]) == RFP_TAKE_VALID:
        n += 1
    if n == 0:
        return 0
    start = last = told = rfp_ticks()
    if w.service.prepare != NULL:
        for i in range(n):
            w.service.prepare(w.service.context, &taken[i], 0)
        if n > 1:
            for i in range(n):
                w.service.prepare(w.service.context, &taken[i], 1)
    for i in range(n):
        copy = w.copies + <uint64_t> i * w.slot_size
        slot = ring.responses + <uint64_t> ring.head * ring.slot_size
        answer.payload = slot + RFP_RESPONSE_HEADER
        answer.capacity = ring.slot_size - RFP_RESPONSE_HEADER
        answer.length = 0
        answer.status = 0
        answer.kind = 0
        answer.heavy = answer.later = False
        answer.result = 0
        if taken[i].opcode != RFP_OPCODE_PING:
            w.service.execute(w.service.context, &taken[i], &answer)
        if answer.later:
            w.later = True
            ring.put_off = ring.put_off if ring.put_off else last
            break
        if ring.put_off:
            # It has taken that long, as its client sees it.
            last = ring.put_off
            ring.put_off = 0
        now = rfp_ticks()
        ring_publish(ring, copy, answer.length, <uint64_t> (tick * <double> (now - last)), answer.status, answer.kind,
                     answer.result)
        last = now
        w.sizes[min((RFP_RESPONSE_HEADER + answer.length + RFP_LINE - 1) // RFP_LINE, <uint32_t> SIZES - 1)] += 1
        published += 1
        silent += 1
        if tick * <double> (now - told) > PROMPT:
            ring_notify(ring, silent)
            silent = 0
            told = now
        if answer.heavy:
            # What was taken beyond this one stays in the ring and is taken again at the next turn.
            break
    if silent:
        ring_notify(ring, silent)
    w.served += published
    w.busy += <uint64_t> (tick * <double> (last - start))
    return published


cdef uint32_t turn(worker *w, double tick) noexcept nogil:
    """Looks at every ring once; returns how many requests were served."""
    cdef uint32_t served = 0
    cdef uint32_t i
    for i in range(w.count):
        served += serve(w, w.rings[i], tick)
    return served


cdef void forgive(worker *w) noexcept nogil:
    """Lets the next turn look at every ring, also at those that are looked at less often."""
    cdef uint32_t i
    for i in range(w.count):
        w.rings[i].skip = 0


cdef bint outstanding(worker *w) noexcept nogil:
    cdef uint32_t i
    for i in range(w.count):
        if w.rings[i].replies and not w.rings[i].broken:
            return True
    return False


cdef bint obey(worker *w) noexcept nogil:
    """Carries out the orders that were given; returns False when it is to stop."""
    cdef uint64_t given = rfp_load64_acquire(&w.given)
    cdef order *next
    cdef uint32_t i
    while w.obeyed != given:
        next = &w.orders[w.obeyed % MOST_ORDERS]
        if next.what == STOP:
            return False
        if next.what == ADD:
            w.service.opened(w.service.context, &next.subject.session)
            w.rings[w.count] = next.subject
            w.count += 1
        else:
            for i in range(w.count):
                if w.rings[i] == next.subject:
                    w.count -= 1
                    w.rings[i] = w.rings[w.count]
                    w.service.closed(w.service.context, &next.subject.session)
                    break
        carried_out(w)
    return True


cdef void carried_out(worker *w) noexcept nogil:
    rfp_store64_release(&w.obeyed, w.obeyed + 1)
    rfp_futex_wake(&w.obeyed)


cdef void worker_run(worker *w) noexcept nogil:
    """The worker's life: serve; when there is nothing to do, spin for a while, then sleep until a client notifies."""
    cdef uint64_t now = rfp_now()
    cdef uint64_t ticks = rfp_ticks()
    cdef double tick = 0.4
    cdef uint64_t calibrated = now
    cdef uint64_t start = now
    cdef uint64_t tended = 0
    cdef uint64_t idle_since = 0
    cdef uint32_t idle = 0
    cdef uint32_t turns = WATCH if w.service.watchful else TURNS
    cdef uint32_t armed
    cdef bint woken
    cdef bint worked = False        # since the last sleep
    cdef bint more = False
    while obey(w):
        w.turns += 1
        if turn(w, tick) or w.later:
            w.channel.ops.tend(w.channel)
            if idle and worked and w.spin.skip == 0:
                rfp_spin_won(&w.spin)
            worked = True
            idle = 0
            idle_since = 0
            # The clock is read once in 16 turns with work: tend() promises the service a clock that is at most 1 ms old.
            if w.turns & 15 and not w.later:
                continue
            now = rfp_now()
        else:
            rfp_pause()
            idle += 1
            if idle % turns and (w.spin.ns or not w.sleeps):
                continue
            now = rfp_now()
            if idle_since == 0:
                idle_since = now
        if now - tended > TEND or more or w.later or w.service.watchful:
            w.later = False
            if now - calibrated > TEND:
                # The longer the way back to the start, the better this is; so it is done again now and then.
                tick = rfp_tick_length(start, ticks)
                calibrated = now
            more = w.service.tend != NULL and w.service.tend(w.service.context, now)
            tended = now
            if more and w.service.watchful:
                if worked and w.spin.skip == 0:
                    rfp_spin_won(&w.spin)
                worked = True
                idle_since = now
        if idle == 0 or more or not w.sleeps or now - idle_since < rfp_spin_ns(&w.spin) or outstanding(w):
            continue
        if worked:
            worked = False
            rfp_spin_lost(&w.spin)
        armed = w.channel.ops.arm(w.channel)
        forgive(w)
        # Whoever wrote before it could see the armed word is found now; whoever writes later sees it.
        if rfp_load64_acquire(&w.given) != w.obeyed or turn(w, tick) or w.later:
            w.channel.ops.disarm(w.channel)
            worked = True
            idle = 0
            idle_since = 0
            continue
        w.sleeps_taken += 1
        woken = w.channel.ops.sleep(w.channel, armed, w.service.nap if w.service.nap else SLEEP)
        w.wakes += woken
        forgive(w)
        now = rfp_now()
        more = w.service.tend != NULL and w.service.tend(w.service.context, now)
        tended = now
        idle = 0
        # One look after a time-out is enough: the next sleep follows at once.
        idle_since = now - w.spin.ns
        if more and w.service.watchful:
            worked = True
            idle_since = now
        if not woken and turn(w, tick):
            w.overslept += 1
            idle_since = 0
    # The sessions of rings that nobody removed end with the worker.
    while w.count:
        w.count -= 1
        w.service.closed(w.service.context, &w.rings[w.count].session)
    carried_out(w)


cdef class Worker:
    """Serves rings with a service, in a thread of its own that never waits for Python.

    service: what executes the requests; channel: what it sleeps on; idle: "adaptive" (spin 20 us, then sleep until notified)
    or "spin" (never sleep); slot_size: of the rings that it will serve.
    """

    def __cinit__(self, Service service not None, EventChannel channel not None, *, str idle="adaptive",
                  uint32_t slot_size=2112):
        memset(&self.c, 0, sizeof(self.c))
        if service.c.execute == NULL:
            raise InvalidArgument(f"a {type(service).__name__} that was never made serves nothing")
        if idle not in ("adaptive", "spin"):
            raise InvalidArgument(f"idle={idle!r} is not a way to idle", hint="adaptive or spin")
        self.service = service
        self.channel = channel
        self.rings = []
        self.lock = threading.Lock()
        self.c.service = &service.c
        self.c.channel = &channel.c
        self.c.slot_size = slot_size
        self.c.sleeps = idle == "adaptive"
        self.c.spin.ns = 20_000 if os.cpu_count() > 1 else 0
        self.c.copies = <char *> calloc(GROUP, slot_size)
        if self.c.copies == NULL:
            raise MemoryError()

    def __dealloc__(self):
        free(self.c.copies)

    def start(self, *, cpu=None):
        """Starts the thread; cpu: the processor to stay on, or None.

        Raises InvalidArgument (there is no such processor), FabricError (no thread can be started).
        """
        if cpu is not None and cpu not in os.sched_getaffinity(0):
            # Found out by the thread it would end the thread, and nobody would carry out its orders.
            raise InvalidArgument(f"there is no processor {cpu!r} for a worker",
                                  hint=f"this process may use {sorted(os.sched_getaffinity(0))}")
        with self.lock:
            if self.thread is None:
                self.thread = RealThread(self._run, "rfp-worker", (cpu,))
                try:
                    self.thread.start()
                except BaseException:
                    self.thread = None  # it carries out no orders: nobody may wait for that
                    raise

    def _run(self, cpu):
        if cpu is not None:
            with contextlib.suppress(OSError):  # taken away meanwhile: a worker that ended would carry out no orders
                os.sched_setaffinity(0, {cpu})
        with nogil:
            worker_run(&self.c)

    cdef uint64_t give(self, uint32_t what, server_ring *subject):
        """Gives an order, without waiting until it was carried out; the lock is held.  Returns its number."""
        cdef uint64_t given = self.c.given
        self.c.orders[given % MOST_ORDERS].what = what
        self.c.orders[given % MOST_ORDERS].subject = subject
        rfp_store64_release(&self.c.given, given + 1)
        self.c.channel.ops.wake(self.c.channel)
        return given

    cdef int wait(self, uint64_t number) except -1:
        """Waits until an order was carried out.  Raises what a signal handler raises meanwhile; it may be called again then.

        The worker polls for orders after each turn, so this is short; but an RPC handler may keep it for as long as it likes.
        """
        cdef uint32_t looks = 0
        cdef uint64_t obeyed
        with nogil:
            while True:
                obeyed = rfp_load64_acquire(&self.c.obeyed)
                if obeyed > number:
                    break
                looks += 1
                if looks < PATIENCE:
                    rfp_pause()
                else:
                    rfp_futex_wait(&self.c.obeyed, <uint32_t> obeyed, ORDER)
                    with gil:
                        PyErr_CheckSignals()
        return 0

    def add(self, ServerRing ring not None):
        """Begins to serve this ring, as soon as the worker is done with what it is at."""
        with self.lock:
            if self.thread is None:
                raise Closed("the worker does not run")
            if ring.c.slot_size > self.c.slot_size:
                raise InvalidArgument(f"slots of {ring.c.slot_size} bytes: this worker takes {self.c.slot_size}")
            if len(self.rings) >= MOST_RINGS:
                raise QuotaExceeded(f"this worker serves {MOST_RINGS} rings already", hint="close clients, or end threads")
            if self.c.given - rfp_load64_acquire(&self.c.obeyed) >= MOST_RINGS:
                # Only an RPC handler keeps a worker for so long.  What removes rings still finds room: see MOST_ORDERS.
                raise QuotaExceeded(f"this worker has not begun with {MOST_RINGS} orders before this one",
                                    hint="its handler has been at work for long: connect when it is done")
            self.give(ADD, &ring.c)
            self.rings.append(ring)

    def remove(self, ServerRing ring not None):
        """Ends serving this ring; when it returns, the worker touches nothing of it any more."""
        with self.lock:
            order = self._retire(ring)
            if order is not None:
                self.wait(order)

    def retire(self, ServerRing ring not None):
        """The same without waiting: returns what to ask retired() with.  The ring must be kept until then."""
        with self.lock:
            return self._retire(ring)

    def _retire(self, ServerRing ring):
        if ring not in self.rings:
            return None
        self.rings.remove(ring)
        return self.give(REMOVE, &ring.c) if self.thread is not None else None

    def retired(self, order):
        """Whether the worker touches nothing any more of the ring that retire() returned this for."""
        return order is None or self.thread is None or rfp_load64_acquire(&self.c.obeyed) > <uint64_t> order

    @property
    def inside(self):
        """Whether this is the worker's own thread: an RPC handler runs in it."""
        return self.thread is threading.current_thread()

    def stop(self):
        """Ends the thread and all sessions.  Safe to call again, also after a signal handler has raised out of it."""
        with self.lock:
            if self.thread is None:
                return
            if self.stopping is None:  # else a signal handler has raised out of an earlier call
                self.stopping = self.give(STOP, NULL)
            self.wait(self.stopping)
            self.thread.join()
            self.thread = None
            self.rings.clear()

    @property
    def running(self):
        return self.thread is not None

    @property
    def counters(self):
        """turns, requests served, seconds busy, sleeps and wakes so far, by name."""
        return {"turns": self.c.turns, "served": self.c.served, "busy": self.c.busy / 1e9,
                "sleeps": self.c.sleeps_taken, "wakes": self.c.wakes, "overslept": self.c.overslept, "rings": len(self.rings)}

    @property
    def sizes(self):
        """How many responses had each size, by cache lines of 64 bytes; the last class is for all that were longer."""
        return [self.c.sizes[i] for i in range(SIZES)]
