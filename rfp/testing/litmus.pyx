"""Litmus tests of the fabric's promises, over any provider: for the tests, and for a new machine.

Tests of the fabric's order have two sides, for two threads or processes over one connection.  They
use the memory of the waiting side: its owner writes the line at `offset`, its peer the line after
it.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

from rfp.core.core cimport (
    rfp_copy_out, rfp_load64, rfp_load64_acquire, rfp_now, rfp_random_below, rfp_store64,
    rfp_store64_release,
)
from rfp.core.limits cimport RFP_LINE
from rfp.core.system cimport sched_yield
from rfp.fabric.fabric cimport (
    READ, SIGNALED, SUCCESS, WRITE, WRITE_NOTIFY, EventChannel, QueuePair, Region, RemoteRegion,
    completion, queue_pair, work_request,
)
from rfp.errors import ConnectionFailed, DeadlineExceeded

cdef enum:
    WORDS_MAX = 512            # of a message
    YIELD_SPINS = 200          # before the processor is yielded: the peer may need this one
    SPREAD_NS = 128            # ns, about, by which each side varies its timing
    AIM_STEP = 8
    FARTHEST = 4000            # ns of aim: beyond it the two sides do not run at the same time

cdef enum:                     # how a side ended
    SIDE_DONE = 0
    SIDE_LATE = 1
    SIDE_FAILED = 2


cdef inline void linger(uint64_t n) noexcept nogil:
    # About a nanosecond each.
    cdef uint64_t idle = 0
    while n:
        n -= 1
        rfp_store64(&idle, n)


cdef int one(queue_pair *pair, work_request *request, uint64_t deadline) noexcept nogil:
    cdef completion done
    cdef int spins = 0
    while pair.ops.post(pair, request, 1) == 0:
        if rfp_now() > deadline:
            return SIDE_LATE
    while pair.ops.poll(pair, &done, 1) == 0:
        spins += 1
        if spins % YIELD_SPINS == 0:
            sched_yield()
            if rfp_now() > deadline:
                return SIDE_LATE
    return SIDE_DONE if done.status == SUCCESS else SIDE_FAILED


cdef ended(int how):
    if how == SIDE_LATE:
        raise DeadlineExceeded("the litmus test did not end in time")
    if how == SIDE_FAILED:
        raise ConnectionFailed("a work request of the litmus test failed")


def sleeper(EventChannel channel not None, Region memory not None, uint64_t offset, uint64_t rounds,
            *, double step=1.0, int limit=10, double timeout=20.0):
    """Wait `rounds` times for the writes of waker(), sleeping.

    Args:
        channel: on which to sleep.
        memory: of this side.
        offset: of the two lines, in bytes.
        rounds: number of waits.
        step: seconds of a sleep; a wake-up is lost if the sleep ends by time-out although the data
            is there.
        limit: end after so many lost wake-ups.
        timeout: seconds.

    Returns:
        The number of lost wake-ups.
    """
    cdef char *said = memory.c.base + offset
    cdef char *heard = said + RFP_LINE
    cdef uint64_t i, ns = <uint64_t>(step * 1e9), random = 1
    cdef uint64_t deadline = rfp_now() + <uint64_t>(timeout * 1e9)
    cdef uint32_t armed
    cdef int lost = 0, how = SIDE_DONE
    cdef uint64_t aim = 0
    cdef bint early
    with nogil:
        for i in range(1, rounds + 1):
            # The two sides race only if they meet within some 100 ns.  So aim at the arrival of the
            # data: start later after a round that had to sleep, earlier after one that had not.
            linger(aim + rfp_random_below(&random, SPREAD_NS))
            early = False
            while True:
                armed = channel.c.ops.prepare_wait(&channel.c)
                if rfp_load64_acquire(heard) >= i:
                    channel.c.ops.cancel_wait(&channel.c)
                    break
                early = True
                if not channel.c.ops.wait(&channel.c, armed, ns) and rfp_load64_acquire(heard) >= i:
                    lost += 1
                    break
                if rfp_now() > deadline:
                    how = SIDE_LATE
                    break
            if lost >= limit or how != SIDE_DONE:
                break
            if early and aim < FARTHEST:
                aim += AIM_STEP
            elif not early and aim:
                aim -= AIM_STEP
            rfp_store64_release(said, i)
        rfp_store64_release(said, ~<uint64_t>0)     # the waker must not wait for more rounds
    ended(how)
    return lost


def waker(QueuePair pair not None, Region local not None, RemoteRegion remote not None,
          uint64_t offset, uint64_t rounds, *, double timeout=20.0):
    """Run the other side of sleeper(): a WRITE_NOTIFY for each round.

    local: 128 bytes of it, at `offset`, are used.
    """
    cdef char *said = local.c.base + offset
    cdef char *heard = said + RFP_LINE
    cdef uint64_t i = 0, deadline = rfp_now() + <uint64_t>(timeout * 1e9), random = 2
    cdef int how = SIDE_DONE, spins = 0
    cdef work_request read, write
    memset(&read, 0, sizeof(read))
    read.opcode, read.flags, read.length = READ, SIGNALED, 8
    read.local, read.local_offset = &local.c, offset + RFP_LINE
    read.remote, read.remote_offset = &remote.c, offset
    write = read
    write.opcode, write.local_offset, write.remote_offset = WRITE_NOTIFY, offset, offset + RFP_LINE
    with nogil:
        rfp_store64(heard, 0)
        while i < rounds and how == SIDE_DONE:
            how = one(&pair.c, &read, deadline)
            if rfp_load64(heard) < i:
                spins += 1
                if spins % YIELD_SPINS == 0:
                    sched_yield()
                    if rfp_now() > deadline:
                        how = SIDE_LATE
                continue
            if rfp_load64(heard) == ~<uint64_t>0:
                break
            i += 1
            rfp_store64(said, i)
            linger(rfp_random_below(&random, SPREAD_NS))
            if how == SIDE_DONE:
                how = one(&pair.c, &write, deadline)
    ended(how)


def publisher(Region memory not None, uint64_t offset, uint64_t length, uint64_t rounds, *,
              double timeout=20.0):
    """Publish `rounds` messages of `length` bytes as the protocol does: the first word last.

    The message is at offset + 64; each stays unchanged until fetcher() has it.  length: a multiple
    of 8, at most 4096.
    """
    cdef uint64_t[WORDS_MAX] message
    cdef char *taken = memory.c.base + offset
    cdef char *slot = taken + RFP_LINE
    cdef uint64_t i, word, deadline = rfp_now() + <uint64_t>(timeout * 1e9), random = 3
    cdef int how = SIDE_DONE, spins = 0
    if not 8 < length <= 8 * WORDS_MAX or length % 8:
        raise ValueError(f"a message has 16 to {8 * WORDS_MAX} bytes")
    with nogil:
        for i in range(1, rounds + 1):
            for word in range(length // 8):
                message[word] = i
            linger(rfp_random_below(&random, SPREAD_NS))
            rfp_copy_out(slot + 8, &message[1], length - 8)
            rfp_store64_release(slot, i)
            while rfp_load64_acquire(taken) < i and how == SIDE_DONE:
                spins += 1
                if spins % YIELD_SPINS == 0:
                    sched_yield()
                    if rfp_now() > deadline:
                        how = SIDE_LATE
            if how != SIDE_DONE:
                break
    ended(how)


def fetcher(QueuePair pair not None, Region local not None, RemoteRegion remote not None,
            uint64_t offset, uint64_t length, uint64_t rounds, *, double timeout=20.0):
    """Run the other side of publisher(): fetch each message with READs of all of it.

    local: offset + 64 + length bytes of it are used.

    Returns:
        The number of torn messages: with the new first word, but not all other new words.
    """
    cdef char *copy = local.c.base + offset + RFP_LINE
    cdef uint64_t i, word, torn = 0, old, deadline = rfp_now() + <uint64_t>(timeout * 1e9)
    cdef int how = SIDE_DONE, spins = 0
    cdef work_request read, acknowledge
    memset(&read, 0, sizeof(read))
    read.opcode, read.flags, read.length = READ, SIGNALED, length
    read.local, read.local_offset = &local.c, offset + RFP_LINE
    read.remote, read.remote_offset = &remote.c, offset + RFP_LINE
    acknowledge = read
    acknowledge.opcode, acknowledge.length = WRITE, 8
    acknowledge.local_offset, acknowledge.remote_offset = offset, offset
    with nogil:
        for i in range(1, rounds + 1):
            rfp_store64(copy, 0)
            while how == SIDE_DONE and rfp_load64(copy) != i:
                how = one(&pair.c, &read, deadline)
                spins += 1
                if spins % YIELD_SPINS == 0:
                    sched_yield()
                    if rfp_now() > deadline:
                        how = SIDE_LATE
            old = 0
            for word in range(1, length // 8):
                old += rfp_load64(copy + 8 * word) != i
            torn += old != 0
            rfp_store64(local.c.base + offset, i)
            if how == SIDE_DONE:
                how = one(&pair.c, &acknowledge, deadline)
            if how != SIDE_DONE:
                break
    ended(how)
    return torn


def round_trips(QueuePair pair not None, Region local not None, RemoteRegion remote not None,
                uint32_t opcode, uint64_t offset, uint64_t length, int rounds, *,
                double timeout=20.0):
    """Execute requests one after the other.

    Returns:
        The time of each from post to completion: a list of nanoseconds.
    """
    cdef work_request request
    cdef uint64_t begin, deadline = rfp_now() + <uint64_t>(timeout * 1e9)
    cdef int how = SIDE_DONE
    memset(&request, 0, sizeof(request))
    request.opcode, request.flags, request.length = opcode, SIGNALED, length
    request.local, request.local_offset = &local.c, offset
    request.remote, request.remote_offset = &remote.c, offset
    took = []
    while len(took) < rounds:
        with nogil:
            begin = rfp_now()
            how = one(&pair.c, &request, deadline)
            begin = rfp_now() - begin
        ended(how)
        took.append(begin)
    return took


def burst(QueuePair pair not None, Region local not None, RemoteRegion remote not None,
          uint32_t opcode, list offsets not None, uint64_t length):
    """Post one request for each offset (the same on both sides), at most 512, with one doorbell.

    The id of a request is its index in the list.  All but the last are unsignaled.

    Returns:
        The number accepted.
    """
    cdef work_request requests[WORDS_MAX]
    cdef int n = len(offsets)
    if not 0 < n <= WORDS_MAX:
        raise ValueError(f"a burst has 1 to {WORDS_MAX} requests, not {n}")
    memset(requests, 0, sizeof(requests))
    for i in range(n):
        requests[i].id, requests[i].opcode, requests[i].length = i, opcode, length
        requests[i].local, requests[i].remote = &local.c, &remote.c
        requests[i].local_offset = requests[i].remote_offset = offsets[i]
    requests[n - 1].flags = SIGNALED
    with nogil:
        n = pair.c.ops.post(&pair.c, requests, n)
    return n
