"""The worker's loop: poll rings, execute requests, run commands, sleep when idle.

The loop of worker_run(), from one poll of all rings to the next:

    run commands -> poll every ring -> requests found: next poll, tick() at most 1 ms apart
                                    -> none: spin -> prepare_wait -> poll again -> wait -> tick()

A worker sleeps only after prepare_wait() has announced it and one more poll of everything that it
serves has found nothing: its commands, all rings, and tick() if the service has work without
requests.  So a client that writes a request or a record before it can see the announcement is found
by that poll, and a client that writes later sees the announcement and notifies.
"""

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
from rfp.core.limits cimport RFP_LINE, RFP_SIZE_CLASSES
from rfp.protocol.server.server_ring cimport (
    ServerRing, ring_notify, ring_publish, ring_room, ring_take,
)
from rfp.protocol.server.service cimport request, response
from rfp.protocol.wire cimport RFP_OPCODE_PING, RFP_RESPONSE_HEADER, RFP_TAKE_VALID

from rfp.core.choices import IDLES
from rfp.errors import Closed, InvalidArgument, QuotaExceeded, bad_choice
from rfp.protocol.server.real_thread import RealThread


cdef enum:
    COMMAND_ADD = 1
    COMMAND_REMOVE = 2
    COMMAND_STOP = 3
    # Longest sleep, unless the service wants shorter ones; commands and notifications end a sleep
    # at once.
    WORKER_SLEEP_NS_MAX = 100000000
    TICK_NS = 1000000      # between two tick() of a busy worker
    # after this time a waiting client is notified before the rest of its group is executed
    NOTIFY_NS_MAX = 2000
    IDLE_TURNS_PER_CLOCK = 64  # idle polls between two reads of the clock
    IDLE_TURNS_PER_TICK = 4  # the same if tick() must check for work
    # polls for the completion of a command before sleeping until it is complete
    COMMAND_POLLS_MAX = 10000
    COMMAND_SLEEP_NS = 10000000  # length of one such sleep


cdef uint32_t serve(worker *w, server_ring *ring, double ns_per_tick) noexcept nogil:
    """Executes the requests of one ring, at most a group; returns their number."""
    cdef request taken[REQUESTS_AT_ONCE]
    cdef response answer
    cdef char *copy
    cdef char *slot
    cdef uint32_t n = 0
    cdef uint32_t i
    cdef uint32_t published = 0
    cdef uint32_t unnotified = 0    # published, but `wait` not read yet
    cdef uint32_t most = min(<uint32_t> REQUESTS_AT_ONCE, ring.slots)
    cdef uint64_t start, now, last, notified_at
    if ring.replies:
        most = min(most, ring_room(ring))
    while n < most and ring_take(ring, n, w.copies + <uint64_t> n * w.slot_size,
                                 &taken[n]) == RFP_TAKE_VALID:
        n += 1
    if n == 0:
        return 0
    start = last = notified_at = rfp_ticks()
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
        answer.yield_after = answer.retry_later = False
        answer.result = 0
        if taken[i].opcode != RFP_OPCODE_PING:
            w.service.execute(w.service.context, &taken[i], &answer)
        if answer.retry_later:
            w.retry_later = True
            ring.deferred_since = ring.deferred_since if ring.deferred_since else last
            break
        if ring.deferred_since:
            # The request has taken that long from its client's point of view.
            last = ring.deferred_since
            ring.deferred_since = 0
        now = rfp_ticks()
        ring_publish(ring, copy, answer.length, <uint64_t> (ns_per_tick * <double> (now - last)),
                     answer.status, answer.kind, answer.result)
        last = now
        w.sizes[min((RFP_RESPONSE_HEADER + answer.length + RFP_LINE - 1) // RFP_LINE,
                    <uint32_t> RFP_SIZE_CLASSES - 1)] += 1
        published += 1
        unnotified += 1
        if ns_per_tick * <double> (now - notified_at) > NOTIFY_NS_MAX:
            ring_notify(ring, unnotified)
            unnotified = 0
            notified_at = now
        if answer.yield_after:
            # Requests taken beyond this one stay in the ring; the next poll takes them again.
            break
    if unnotified:
        ring_notify(ring, unnotified)
    w.served += published
    w.busy += <uint64_t> (ns_per_tick * <double> (last - start))
    return published


cdef uint32_t poll_once(worker *w, double ns_per_tick) noexcept nogil:
    """Polls every ring once; returns the number of requests executed."""
    cdef uint32_t served = 0
    cdef uint32_t i
    for i in range(w.count):
        served += serve(w, w.rings[i], ns_per_tick)
    return served


cdef void clear_backoff(worker *w) noexcept nogil:
    """Makes the next poll include every ring, also those that are polled less often."""
    cdef uint32_t i
    for i in range(w.count):
        w.rings[i].skip = 0


cdef bint outstanding(worker *w) noexcept nogil:
    cdef uint32_t i
    for i in range(w.count):
        if w.rings[i].replies and not w.rings[i].broken:
            return True
    return False


cdef bint found_work(worker *w, double ns_per_tick, bint *more) noexcept nogil:
    """Polls once for everything that the worker serves; *more: what tick() returned."""
    more[0] = False
    if rfp_load64_acquire(&w.submitted) != w.completed or poll_once(w, ns_per_tick) \
            or w.retry_later:
        return True
    if w.service.polls_when_idle and w.service.tick != NULL:
        more[0] = w.service.tick(w.service.context, rfp_now())
    return more[0]


cdef bint run_commands(worker *w) noexcept nogil:
    """Executes the submitted commands; returns False at COMMAND_STOP."""
    cdef uint64_t submitted = rfp_load64_acquire(&w.submitted)
    cdef command *next
    cdef uint32_t i
    while w.completed != submitted:
        next = &w.commands[w.completed % COMMANDS_MAX]
        if next.what == COMMAND_STOP:
            return False
        if next.what == COMMAND_ADD:
            w.service.opened(w.service.context, &next.ring.session)
            w.rings[w.count] = next.ring
            w.count += 1
        else:
            for i in range(w.count):
                if w.rings[i] == next.ring:
                    w.count -= 1
                    w.rings[i] = w.rings[w.count]
                    w.service.closed(w.service.context, &next.ring.session)
                    break
        complete_command(w)
    return True


cdef void complete_command(worker *w) noexcept nogil:
    rfp_store64_release(&w.completed, w.completed + 1)
    rfp_futex_wake(&w.completed)


cdef void worker_run(worker *w) noexcept nogil:
    """Runs until COMMAND_STOP: serves requests; without work, spins for a while, then sleeps until
    a client notifies."""
    cdef uint64_t now = rfp_now()
    cdef uint64_t ticks = rfp_ticks()
    cdef double ns_per_tick = 0.4
    cdef uint64_t calibrated = now
    cdef uint64_t start = now
    cdef uint64_t ticked_at = 0
    cdef uint64_t idle_since = 0
    cdef uint32_t idle = 0
    cdef uint32_t turns = IDLE_TURNS_PER_TICK if w.service.polls_when_idle else IDLE_TURNS_PER_CLOCK
    cdef uint32_t armed
    cdef bint woken
    cdef bint worked = False        # since the last sleep
    cdef bint more = False
    while run_commands(w):
        w.turns += 1
        if poll_once(w, ns_per_tick) or w.retry_later:
            w.channel.ops.replenish(w.channel)
            if idle and worked and w.spin.skip == 0:
                rfp_spin_won(&w.spin)
            worked = True
            idle = 0
            idle_since = 0
            # The clock is read once in 16 polls with work: tick() promises the service a clock that
            # is at most 1 ms old.
            if w.turns & 15 and not w.retry_later:
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
        if now - ticked_at > TICK_NS or more or w.retry_later or w.service.polls_when_idle:
            w.retry_later = False
            if now - calibrated > TICK_NS:
                # The result improves with the time since the start, so it is measured again now and
                # then.
                ns_per_tick = rfp_tick_length(start, ticks)
                calibrated = now
            more = w.service.tick != NULL and w.service.tick(w.service.context, now)
            ticked_at = now
            if more and w.service.polls_when_idle:
                if worked and w.spin.skip == 0:
                    rfp_spin_won(&w.spin)
                worked = True
                idle_since = now
        if idle == 0 or more or not w.sleeps or now - idle_since < rfp_spin_ns(&w.spin) \
                or outstanding(w):
            continue
        if worked:
            worked = False
            rfp_spin_lost(&w.spin)
        armed = w.channel.ops.prepare_wait(w.channel)
        clear_backoff(w)
        # This poll finds a request or a record written before its client could see the armed word;
        # a later client sees the word.
        if found_work(w, ns_per_tick, &more):
            w.channel.ops.cancel_wait(w.channel)
            worked = True
            idle = 0
            idle_since = 0
            continue
        w.sleeps_taken += 1
        woken = w.channel.ops.wait(
            w.channel, armed,
            w.service.max_sleep_ns if w.service.max_sleep_ns else WORKER_SLEEP_NS_MAX)
        w.wakes += woken
        clear_backoff(w)
        now = rfp_now()
        more = w.service.tick != NULL and w.service.tick(w.service.context, now)
        ticked_at = now
        idle = 0
        # One poll after a time-out is enough: the next sleep follows at once.
        idle_since = now - w.spin.ns
        if more and w.service.polls_when_idle:
            worked = True
            idle_since = now
        if not woken and poll_once(w, ns_per_tick):
            w.missed_wakeups += 1
            idle_since = 0
    # The sessions of the remaining rings end with the worker.
    while w.count:
        w.count -= 1
        w.service.closed(w.service.context, &w.rings[w.count].session)
    complete_command(w)


cdef class Worker:
    """Serves rings with a service, in a thread of its own that never waits for Python.

    Args:
        service: executes the requests.
        channel: event channel that the worker sleeps on.
        idle: "adaptive" (spin 20 us, then sleep until notified) or "spin" (never sleep).
        slot_size: largest slot of the rings that the worker will serve, in bytes.

    Raises:
        InvalidArgument: the service has no execute function, or `idle` is invalid.
        MemoryError: no memory for the copies of requests.
    """

    def __cinit__(self, Service service not None, EventChannel channel not None, *,
                  str idle="adaptive", uint32_t slot_size=2112):
        memset(&self.c, 0, sizeof(self.c))
        if service.c.execute == NULL:
            raise InvalidArgument(f"cannot serve with an uninitialized {type(service).__name__}")
        if idle not in IDLES:
            raise bad_choice("idle", idle, IDLES)
        self.service = service
        self.channel = channel
        self.rings = []
        self.lock = threading.Lock()
        self.c.service = &service.c
        self.c.channel = &channel.c
        self.c.slot_size = slot_size
        self.c.sleeps = idle == "adaptive"
        self.c.spin.ns = 20_000 if os.cpu_count() > 1 else 0
        self.c.copies = <char *> calloc(REQUESTS_AT_ONCE, slot_size)
        if self.c.copies == NULL:
            raise MemoryError()

    def __dealloc__(self):
        free(self.c.copies)

    def start(self, *, cpu=None):
        """Start the thread.

        Args:
            cpu: CPU to run on, or None for any.

        Raises:
            InvalidArgument: this process must not use that CPU.
            FabricError: the system cannot start a thread.
        """
        if cpu is not None and cpu not in os.sched_getaffinity(0):
            # Checked here: an error in the thread would end it, and no thread would execute its
            # commands.
            raise InvalidArgument(f"cannot pin a worker to CPU {cpu!r}",
                                  hint="choose a CPU that this process may use: "
                                       f"{sorted(os.sched_getaffinity(0))}")
        with self.lock:
            if self.thread is None:
                self.thread = RealThread(self._run, "rfp-worker", (cpu,))
                try:
                    self.thread.start()
                except BaseException:
                    self.thread = None  # it executes no commands: no caller may wait for it
                    raise

    def _run(self, cpu):
        if cpu is not None:
            # CPU removed in the meantime: the worker must run and execute commands all the same
            with contextlib.suppress(OSError):
                os.sched_setaffinity(0, {cpu})
        with nogil:
            worker_run(&self.c)

    cdef uint64_t submit(self, uint32_t what, server_ring *ring):
        """Submits a command without waiting for it; the caller holds the lock.  Returns the
        command's number."""
        cdef uint64_t submitted = self.c.submitted
        self.c.commands[submitted % COMMANDS_MAX].what = what
        self.c.commands[submitted % COMMANDS_MAX].ring = ring
        rfp_store64_release(&self.c.submitted, submitted + 1)
        self.c.channel.ops.notify(self.c.channel)
        return submitted

    cdef int wait(self, uint64_t number) except -1:
        """Waits until a command is complete.

        The worker checks for commands after each poll, so this is short; but an RPC handler may
        keep it for any time.  A signal handler's exception leaves this call; the caller may then
        call it again.
        """
        cdef uint32_t polls = 0
        cdef uint64_t completed
        with nogil:
            while True:
                completed = rfp_load64_acquire(&self.c.completed)
                if completed > number:
                    break
                polls += 1
                if polls < COMMAND_POLLS_MAX:
                    rfp_pause()
                else:
                    rfp_futex_wait(&self.c.completed, <uint32_t> completed, COMMAND_SLEEP_NS)
                    with gil:
                        PyErr_CheckSignals()
        return 0

    def add(self, ServerRing ring not None):
        """Serve this ring, beginning when the worker has finished its current work.

        Raises:
            Closed: the worker is not running.
            InvalidArgument: the ring's slots are larger than the worker's slot_size.
            QuotaExceeded: the worker serves RINGS_MAX rings, or has RINGS_MAX commands to execute.
        """
        with self.lock:
            if self.thread is None:
                raise Closed("the worker is closed")
            if ring.c.slot_size > self.c.slot_size:
                raise InvalidArgument(f"the ring's slots must have {self.c.slot_size} "
                                      f"bytes, got {ring.c.slot_size}")
            if len(self.rings) >= RINGS_MAX:
                raise QuotaExceeded(f"this worker already serves {RINGS_MAX} rings",
                                    hint="close clients, or end threads")
            if self.c.submitted - rfp_load64_acquire(&self.c.completed) >= RINGS_MAX:
                # Only an RPC handler keeps a worker for so long.  Commands that remove rings still
                # fit: see COMMANDS_MAX.
                raise QuotaExceeded(f"this worker has {RINGS_MAX} commands waiting",
                                    hint="connect again when the worker's handler has returned")
            self.submit(COMMAND_ADD, &ring.c)
            self.rings.append(ring)

    def remove(self, ServerRing ring not None):
        """Stop serving this ring.  After the return, the worker does not use the ring."""
        with self.lock:
            command = self._retire(ring)
            if command is not None:
                self.wait(command)

    def retire(self, ServerRing ring not None):
        """Do the same as remove() without waiting.  The caller keeps the ring until retired() is
        True.

        Returns:
            The argument for retired().
        """
        with self.lock:
            return self._retire(ring)

    def _retire(self, ServerRing ring):
        if ring not in self.rings:
            return None
        self.rings.remove(ring)
        return self.submit(COMMAND_REMOVE, &ring.c) if self.thread is not None else None

    def retired(self, command):
        """Return whether the worker no longer uses the ring that retire() returned this command
        for."""
        return command is None or self.thread is None \
            or rfp_load64_acquire(&self.c.completed) > <uint64_t> command

    @property
    def inside(self):
        """Whether the current thread is the worker's own: an RPC handler runs in it."""
        return self.thread is threading.current_thread()

    def stop(self):
        """End the thread and all sessions.  It is safe to call this again, also after a signal
        handler has raised out of it."""
        with self.lock:
            if self.thread is None:
                return
            if self.stopping is None:  # else a signal handler has raised out of an earlier call
                self.stopping = self.submit(COMMAND_STOP, NULL)
            self.wait(self.stopping)
            self.thread.join()
            self.thread = None
            self.rings.clear()

    @property
    def running(self):
        return self.thread is not None

    @property
    def counters(self):
        """Polls (turns), requests served, seconds busy, sleeps and wakes so far, by name."""
        return {"turns": self.c.turns, "served": self.c.served, "busy": self.c.busy / 1e9,
                "sleeps": self.c.sleeps_taken, "wakes": self.c.wakes,
                "missed_wakeups": self.c.missed_wakeups,
                "rings": len(self.rings)}

    @property
    def sizes(self):
        """Number of responses by size in cache lines of 64 bytes; the last class counts all longer
        ones."""
        return [self.c.sizes[i] for i in range(RFP_SIZE_CLASSES)]
