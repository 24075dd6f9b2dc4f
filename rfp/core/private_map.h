/* Memory of this process alone, which may be registered with a device. */
#ifndef RFP_CORE_PRIVATE_MAP_H
#define RFP_CORE_PRIVATE_MAP_H

#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

#include "rfp/core/limits.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

/* Mapped, filled with zeros, populated, and not inherited by a child: a page shared with a child
 * would be copied for one of them, and the device would go on with the other's.  Returns NULL with
 * errno on failure. */
static inline char *rfp_anonymous_map(uint64_t length)
{
    char *base = (char *)mmap(NULL, length, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int error = 0;
    if (base == MAP_FAILED) return NULL;
    if (madvise(base, length, MADV_DONTFORK)) error = errno;
    if (!error && length >= RFP_HUGE_PAGE) madvise(base, length, MADV_HUGEPAGE);
    if (!error && madvise(base, length, MADV_POPULATE_WRITE)) {
        if (errno == EINVAL) memset(base, 0, length); /* a kernel before 5.14 */
        else error = errno;
    }
    if (!error) return base;
    munmap(base, length);
    errno = error;
    return NULL;
}

#endif
