/* A word in shared memory that shows whether the thread that owns it still runs.
 *
 * A process that READs another one's memory must not use that memory after the other one has ended,
 * because a successor may serve newer data.  A robust futex gives the exact answer for the cost of
 * one load: the kernel marks the word while the owner's thread exits, before it closes the files of
 * the process, and so before a successor can take the lock on its address.
 *
 *   hold      the owner's thread locks a robust mutex of the line; the word contains its thread id
 *   alive     the word still contains this id, without the mark
 *   release   the owner's thread unlocks the mutex; the word is 0
 *
 * The mutex is the C library's, which owns the thread's robust list.  Its word's place within the
 * mutex is not in the C library's ABI but in the kernel's: the first entry of the list, plus the
 * list's futex offset.  A file that only its lock's holder may write was rejected: it stays valid
 * between the death of its holder and the next holder, and a process that truncates the file kills
 * all processes that map it.
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

#define RFP_OWNER_LINE 64 /* bytes; aligned to 8 */
#define RFP_OWNER_MAX FUTEX_TID_MASK

_Static_assert(sizeof(pthread_mutex_t) <= RFP_OWNER_LINE, "owner line");

/* Returns 0 and where the word is within the line and what it contains, or an errno. */
static inline int rfp_owner_hold(void *line, uint32_t *offset, uint32_t *owner)
{
    pthread_mutex_t *mutex = (pthread_mutex_t *)line;
    pthread_mutexattr_t attributes;
    struct robust_list_head *head = NULL;
    size_t length = 0;
    char *word;
    int error = pthread_mutexattr_init(&attributes);
    if (error) return error;
    if (!(error = pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED)) &&
        !(error = pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST)))
        error = pthread_mutex_init(mutex, &attributes);
    pthread_mutexattr_destroy(&attributes);
    if (error || (error = pthread_mutex_lock(mutex))) return error;
    if (syscall(SYS_get_robust_list, 0, &head, &length)) {
        error = errno;
    } else if (!head || length != sizeof(*head)) {
        error = ENOTSUP;
    } else {
        word = (char *)((uintptr_t)head->list.next & ~(uintptr_t)1) + head->futex_offset;
        *offset = (uint32_t)(word - (char *)line);
        if (word < (char *)mutex || word + 4 > (char *)(mutex + 1) || (*offset & 3))
            error = ENOTSUP;
        else if (!(*owner = rfp_load32(word) & FUTEX_TID_MASK)) error = ENOTSUP;
    }
    if (error) pthread_mutex_unlock(mutex);
    return error;
}

static inline void rfp_owner_release(void *line) { pthread_mutex_unlock((pthread_mutex_t *)line); }

static inline int rfp_owner_alive(const void *word, uint32_t owner)
{
    return (rfp_load32_acquire(word) & (FUTEX_TID_MASK | FUTEX_OWNER_DIED)) == owner;
}

struct rfp_owner_probe {
    char *line;
    uint32_t offset, owner;
    int error;
};

static inline void *rfp_owner_hold_and_end(void *argument)
{
    struct rfp_owner_probe *probe = (struct rfp_owner_probe *)argument;
    probe->error = rfp_owner_hold(probe->line, &probe->offset, &probe->owner);
    return NULL;
}

/* Returns whether the kernel marks the word of a thread that has ended: some sandboxes accept
 * robust futexes and ignore them.  The kernel marks the word before it lets the thread be joined. */
static inline int rfp_owner_supported(void *line)
{
    struct rfp_owner_probe probe = {(char *)line, 0, 0, 0};
    pthread_t thread;
    if (pthread_create(&thread, NULL, rfp_owner_hold_and_end, &probe)) return 0;
    if (pthread_join(thread, NULL) || probe.error) return 0;
    return !rfp_owner_alive((char *)line + probe.offset, probe.owner);
}

#endif
