/* A word in shared memory that shows whether the thread that owns it still runs.
 *
 * A process that READs another one's memory must not use that memory after the other one has ended,
 * because a successor may serve newer data.  A robust futex gives the exact answer for the cost of
 * one load: the kernel marks the word while the owner's thread exits, before it closes the files of
 * the process, and so before a successor can take the lock on its address.
 *
 *   hold      the owner's thread registers the line as its robust list, with one held futex
 *   alive     the word contains the thread's id, without the mark
 *   release   the word is 0, and the thread has its former list again
 *
 * The list is in the shared line itself, not the C library's in the thread's private memory: when
 * the kernel kills a process because memory runs out, it may free private memory before the thread
 * exits, and would then find no list and mark nothing.
 *
 * A file that only its lock's holder may write was rejected: it stays valid between the death of
 * its holder and the next holder, and a process that truncates the file kills all processes that
 * map it.
 */
#ifndef RFP_CORE_OWNER_WORD_H
#define RFP_CORE_OWNER_WORD_H

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "rfp/core/atomics.h"
#include "rfp/core/limits.h"

#define RFP_OWNER_MAX FUTEX_TID_MASK

struct rfp_owner_line {
    struct robust_list_head head; /* addresses of the owner's process; readers use the word alone */
    struct robust_list entry;
    uint32_t word;
};
_Static_assert(sizeof(struct rfp_owner_line) <= RFP_LINE, "owner line");
#define RFP_OWNER_WORD offsetof(struct rfp_owner_line, word)

/* The list that a thread had before it became an owner. */
struct rfp_owner_before {
    struct robust_list_head *head;
    size_t length;
};

/* Returns 0 and the content of the word, or an errno. */
static inline int rfp_owner_hold(void *memory, uint32_t *owner, struct rfp_owner_before *before)
{
    struct rfp_owner_line *line = (struct rfp_owner_line *)memory;
    if (syscall(SYS_get_robust_list, 0, &before->head, &before->length)) return errno;
    line->head.list.next = &line->entry;
    line->head.futex_offset = (long)(RFP_OWNER_WORD - offsetof(struct rfp_owner_line, entry));
    line->head.list_op_pending = NULL;
    line->entry.next = &line->head.list;
    *owner = (uint32_t)syscall(SYS_gettid);
    rfp_store32(&line->word, 0);
    if (syscall(SYS_set_robust_list, &line->head, sizeof(line->head))) return errno;
    rfp_store32_release(&line->word, *owner);
    return 0;
}

/* For the owner's thread: from here on no reader uses what it reads. */
static inline void rfp_owner_release(void *memory, const struct rfp_owner_before *before)
{
    rfp_store32(&((struct rfp_owner_line *)memory)->word, 0);
    rfp_fence_full();
    syscall(SYS_set_robust_list, before->head, before->length);
}

static inline int rfp_owner_alive(const void *word, uint32_t owner)
{
    uint32_t content = rfp_load32_acquire(word) & (FUTEX_TID_MASK | FUTEX_OWNER_DIED);
    return owner && content == owner;
}

struct rfp_owner_probe {
    void *memory;
    uint32_t owner;
    int error;
};

static inline void *rfp_owner_hold_and_end(void *argument)
{
    struct rfp_owner_probe *probe = (struct rfp_owner_probe *)argument;
    struct rfp_owner_before before;
    probe->error = rfp_owner_hold(probe->memory, &probe->owner, &before);
    return NULL;
}

/* Returns whether the kernel marks the word of a thread that has ended: some sandboxes accept
 * robust futexes and ignore them.  The kernel marks the word before the thread can be joined. */
static inline int rfp_owner_supported(void *memory)
{
    struct rfp_owner_probe probe = {memory, 0, 0};
    pthread_t thread;
    if (pthread_create(&thread, NULL, rfp_owner_hold_and_end, &probe)) return 0;
    if (pthread_join(thread, NULL) || probe.error) return 0;
    return !rfp_owner_alive((char *)memory + RFP_OWNER_WORD, probe.owner);
}

#endif
