/* Caches the channel that this thread used last, so that a call finds it without a dictionary.
 *
 * The pointer is borrowed: the identity is unique to one connection of one handle, and is revoked
 * before its channels are freed.  The channel names its owner, the address of one thread's cache:
 * an entry whose channel has another owner is stale.  Python's thread-local data may end long
 * before the operating system's thread does (a thread of a C library has a new Python thread state
 * in each callback; a greenlet ends inside its thread), and another thread may have taken the
 * channel since. */
#ifndef RFP_CORE_TLS_CACHE_H
#define RFP_CORE_TLS_CACHE_H

#include <stdint.h>

struct rfp_thread_cache {
    uint64_t identity; /* 0: empty */
    void *channel;
};

static __thread struct rfp_thread_cache rfp_thread;

#endif
