/* The channel that this thread used last, so that a call finds it without a dictionary.
 * Borrowed: the identity is unique to one connection of one handle, and is taken back before its channels go. */
#ifndef RFP_CORE_THREAD_H
#define RFP_CORE_THREAD_H

#include <stdint.h>

struct rfp_thread_cache {
    uint64_t identity; /* 0: empty */
    void *channel;
};

static __thread struct rfp_thread_cache rfp_thread;

#endif
