"""Wait until a structure changes: a sleep on its sequence, or polls at growing intervals.

A thread that waits for a structure to reach some state (a queue to have a value) does

    1  attempt: a query; done if the state is reached
    2  begin(): value = sequence; call RNVM_WATCH            with the call lock
    3  attempt again
    4  wait(): sleep while sequence == value, or until the time is over; from 1

and the back-end (watches.pyx)

    RNVM_WATCH    report the changes so far; WATCHED = 1; full fence
    each turn     apply; report: if transactions were applied since the last report, wake as many
                  sleepers; if none sleeps, WATCHED = 0

No wake-up is lost.  A report ends a watch only if the sequence has moved since the last RNVM_WATCH,
so after step 2 either the structure is watched or step 4 returns at once.  A change that step 3 did
not see is applied after step 2, and its report finds the sleeper.  The back-end sleeps only after
it has announced that and collected records once more (worker.pyx).  A writer whose records become
durable without the back-end (log_writer: confirm_stores) wakes it if WATCHED is set: it stores the
record and then loads WATCHED, the back-end stores WATCHED and then collects records, each with a
full fence in between.

One sleeper is woken for each transaction, and not all of them: its own operation is a transaction,
which wakes the next one.  A sleeper that leaves without an attempt passes its wake-up on.  One that
is killed cannot, and the back-end may be: no sleep is longer than SLEEP_S_MAX, and each attempt
polls whether the back-end is alive.

Over a network nothing wakes a front-end.  wait() then pauses for an eighth of the time waited so
far, and begin() gives the structure's kept lock back: writers would wait for our next poll.
"""

import time

from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport uint32_t, uint64_t

from rfp.core.core cimport rfp_futex_wait, rfp_futex_wake, rfp_load64_acquire, rfp_now
from rfp.core.futex_wake_some cimport rfp_futex_wake_some
from rnvm.format.layout cimport RNVM_NAME_LIVE, rnvm_name_at
from rnvm.format.messages cimport RNVM_ABSENT, RNVM_GOOD, RNVM_WATCH
from rnvm.frontend.remote cimport remote_ask
from rnvm.frontend.session cimport Session
from rnvm.frontend.state cimport instance
from rnvm.frontend.status cimport GONE, OK
from rnvm.frontend.writer_lock cimport lock_release

from rfp.errors import CallerError

cdef enum:
    FUTILE_WAITS_MAX = 8       # then the kernel does not put this thread to sleep: poll
    AWAKE_POLLS_MAX = 50             # then try to sleep again
    FUTILE_NS = 20000          # a wait that lasted longer was a sleep

cdef double SLEEP_S_MAX = 0.5
cdef double POLL_PAUSE_S_MIN = 0.0001, POLL_PAUSE_S_MAX = 0.02
cdef double PAUSES_PER_WAIT = 8.0


cdef inline const char *sequence_word(const instance *s) noexcept nogil:
    """The structure's sequence in the mapped pool."""
    return s.fe.link.pool.base + rnvm_name_at(&s.fe.g, s.index) + RNVM_NAME_LIVE


cdef int watch_begin(instance *s, bint polls, uint32_t *value, const void **word) noexcept nogil:
    """RNVM_WATCH, after the sequence was read; polls: give the kept lock back instead."""
    cdef int status
    if polls:
        return OK if s.entered else lock_release(s)
    word[0] = sequence_word(s)
    value[0] = <uint32_t> rfp_load64_acquire(word[0])
    status = remote_ask(s.fe, RNVM_WATCH, s.id)
    return GONE if status == OK and s.fe.link.status == RNVM_ABSENT else status


cdef Watch watch_of(object structure, Session fe, instance *s):
    cdef Watch watch = Watch.__new__(Watch)
    watch.fe = fe
    watch.structure = structure
    watch.c = s
    watch.began_ns = rfp_now()
    return watch


cdef class Watch:

    cdef int check(self) except -1:
        if self.fe is None:
            raise CallerError("this watch belongs to no structure")
        return 0

    @property
    def polls(self):
        """Whether no wake-ups come: its caller polls after each wait."""
        return self.polling or self.word == NULL

    def begin(self, timeout=None):
        """Begin a moment: a change after it ends the next wait."""
        cdef Session fe = self.fe
        cdef uint32_t before = self.value
        cdef int status, unused = 0
        self.check()
        if self.polls_left:
            self.polls_left -= 1
            if not self.polls_left:
                self.polling = False
                self.futile = 0
        fe.acquire_call(timeout)
        try:
            while True:
                fe.ensure_session()
                if not fe.c.link.mapped:
                    self.polling = True
                    self.polls_left = 0
                with nogil:
                    status = watch_begin(self.c, self.polling, &self.value, &self.word)
                if status == OK:
                    break
                fe.raise_or_retry(self.c, status, False, &unused)
            if not self.polling and fe.c.link.status != RNVM_GOOD:
                self.polling = True             # the back-end is of an earlier release
        finally:
            fe.release_call()
        self.futile = self.futile + 1 if self.refused and self.value == before else 0
        self.woken = self.refused = False
        if self.futile > FUTILE_WAITS_MAX:
            self.polling = True
            self.polls_left = AWAKE_POLLS_MAX

    def rest(self):
        """A query has failed: the next wait is a pause.  The next sleeper is woken in our place."""
        self.leave()
        self.word = NULL

    cdef double pause(self, double seconds):
        """For how long to sleep before the next poll, at most so many seconds."""
        cdef double waited = (rfp_now() - self.began_ns) / 1e9
        return min(seconds, max(POLL_PAUSE_S_MIN, min(waited / PAUSES_PER_WAIT, POLL_PAUSE_S_MAX)))

    def wait(self, double seconds):
        """Sleep until the structure changes, for at most so many seconds; or for less than that.

        Any thread may call it, without a call of the front-end in progress.

        Returns: whether it has probably changed; False: the time is over
        """
        cdef Session fe = self.fe
        cdef const void *word
        cdef uint32_t value
        cdef uint64_t ns, began
        cdef int woken
        self.check()
        if self.polls:
            time.sleep(self.pause(seconds))
            return False
        if fe.is_closed or fe.waits_ended:
            return True
        ns = <uint64_t> (max(0.0, min(seconds, SLEEP_S_MAX)) * 1e9)
        word, value = self.word, self.value     # another thread may begin the next moment meanwhile
        fe.sleepers.append(self)                # under the GIL, like the close that reads it
        began = rfp_now()
        with nogil:
            woken = rfp_futex_wait(word, value, ns)
        self.refused = woken != 0 and rfp_now() - began < FUTILE_NS
        fe.sleepers.remove(self)
        self.woken = woken != 0
        PyErr_CheckSignals()
        return self.woken

    def leave(self):
        """End the wait without another attempt: the next sleeper is woken in our place."""
        if self.woken and not self.polls:
            rfp_futex_wake_some(self.word, 1)
        self.woken = False

    def take_over(self):
        """Take over the wake-up of another watch, whose thread makes no attempt."""
        self.woken = True


cdef int watches_wake(Session fe) except -1:
    cdef Watch each
    for each in fe.sleepers:
        rfp_futex_wake(each.word)
    return 0
