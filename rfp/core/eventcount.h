/* Eventcount: a word on which one thread sleeps, and which a peer loads after it has written data.
 *
 * It is in memory that the sleeper owns and its peers may write: a waker must be able to reset the
 * word, or a wake-up between the sleeper's last check and its futex call would be lost.
 *
 *   sleeper: word = ARMED; full fence; check the data again; sleep while word == ARMED;
 *            word = AWAKE
 *   waker:   write the data; full fence; if word != AWAKE: exchange it for AWAKE, and wake if it
 *            was not yet
 *
 * The two fences are one handshake: at least one side observes the other's store.  A waker that
 * observes ARMED resets the word first, so a sleeper that has not yet reached the kernel finds the
 * word changed and returns at once.  One bit is enough: a waker that resets a later arming than the
 * one it observed causes one superfluous check and no late wake-up.
 *
 * POLLED instead of WAITING announces that the sleeper polls a descriptor, its end of a socket
 * pair: the waker sends a byte into the other end.  The byte stays in the socket, so the sleeper
 * may check other data after the arming, or return to an event loop.  A full socket contains bytes,
 * so a send that it refuses loses no wake-up.  send() never blocks and raises no signal, whatever
 * the peer does with its end.  An eventfd was rejected: both sides share its flags, so a peer could
 * make it blocking and stop a worker.
 */
#ifndef RFP_CORE_EVENTCOUNT_H
#define RFP_CORE_EVENTCOUNT_H

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>

#include "rfp/core/atomics.h"
#include "rfp/core/futex.h"
#include "rfp/core/limits.h"

#define RFP_EVENTCOUNT_AWAKE 0u
#define RFP_EVENTCOUNT_WAITING 1u
#define RFP_EVENTCOUNT_POLLED 2u

/* A cache line of its own, because peers load it after each notify. */
struct rfp_eventcount {
    uint32_t word;
    uint32_t reserved;
    /* emulated network: when the owner's in-bound engine is free (CLOCK_MONOTONIC, ns) */
    uint64_t in_bound;
    uint64_t unused[6];
};
_Static_assert(sizeof(struct rfp_eventcount) == RFP_LINE, "an eventcount fills a cache line");

/* armed: WAITING or POLLED. */
static inline uint32_t rfp_eventcount_prepare_wait(uint32_t *word, uint32_t armed)
{
    rfp_store32(word, armed);
    rfp_fence_full();
    return armed;
}

static inline void rfp_eventcount_cancel_wait(uint32_t *word)
{
    rfp_store32(word, RFP_EVENTCOUNT_AWAKE);
}

/* Returns 1: woken (perhaps spuriously), 0: time-out.  The word is AWAKE afterwards. */
static inline int rfp_eventcount_wait(uint32_t *word, uint32_t armed, uint64_t ns)
{
    int woken = rfp_futex_wait(word, armed, ns);
    return rfp_exchange32(word, RFP_EVENTCOUNT_AWAKE) != armed || woken;
}

/* The same after an arming with POLLED.  *ended becomes 1 once the other end is closed. */
static inline int rfp_eventcount_wait_polled(uint32_t *word, int fd, uint64_t ns, int *ended)
{
    struct pollfd polled = {fd, POLLIN, 0};
    uint64_t ms = (ns + 999999) / 1000000;
    char bytes[64];
    ssize_t n;
    int woken = poll(&polled, 1, ms > INT_MAX ? INT_MAX : (int)ms) > 0;
    if (woken) {
        /* MSG_DONTWAIT and not O_NONBLOCK: the peer made the socket, and shares that flag.  What a
         * peer sends beyond one read is left for the next call. */
        n = recv(fd, bytes, sizeof bytes, MSG_DONTWAIT);
        if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) *ended = 1;
    }
    return rfp_exchange32(word, RFP_EVENTCOUNT_AWAKE) == RFP_EVENTCOUNT_AWAKE || woken;
}

/* The waker's end of a sleeper's socket pair. */
struct rfp_waker {
    int fd;        /* -1: there is none */
    int closed;    /* nothing is sent any more */
    uint64_t debt; /* ns that sends took beyond their allowance */
};

#define RFP_SEND_NS_ALLOWED 20000
/* Much, because the time that a hypervisor takes from this thread counts too. */
#define RFP_SEND_DEBT_NS_MAX 50000000

static inline uint64_t rfp_thread_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* The sleeper decides how long a send takes: each epoll that contains its end adds to it.  So this
 * thread's time in it is limited.  A socket that fails or is too slow is closed for writing, and
 * the end of the stream is the last wake-up. */
static inline void rfp_waker_send(struct rfp_waker *w)
{
    uint64_t start;
    int failed;
    if (w->closed) return;
    start = rfp_thread_ns();
    failed = send(w->fd, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 && errno != EAGAIN;
    w->debt += rfp_thread_ns() - start;
    w->debt = w->debt > RFP_SEND_NS_ALLOWED ? w->debt - RFP_SEND_NS_ALLOWED : 0;
    if (failed || w->debt > RFP_SEND_DEBT_NS_MAX) {
        w->closed = 1;
        shutdown(w->fd, SHUT_WR);
    }
}

/* w: NULL if the sleeper cannot have a descriptor. */
static inline void rfp_eventcount_notify(uint32_t *word, struct rfp_waker *w)
{
    uint32_t armed;
    rfp_fence_full();
    if (rfp_load32(word) == RFP_EVENTCOUNT_AWAKE) return;
    armed = rfp_exchange32(word, RFP_EVENTCOUNT_AWAKE);
    if (armed == RFP_EVENTCOUNT_POLLED && w != NULL && w->fd >= 0)
        rfp_waker_send(w);
    else if (armed != RFP_EVENTCOUNT_AWAKE)
        rfp_futex_wake(word);
}

#endif
