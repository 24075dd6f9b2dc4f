/* An older kernel, for LD_PRELOAD.
 *
 * It has no MADV_POPULATE_WRITE.  A timer of the program interrupts fallocate if it is called for
 * more than it can do between two ticks; it then frees all that it had allocated. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

int fallocate(int fd, int mode, off_t offset, off_t length)
{
    if (length > atol(getenv("BETWEEN_TWO_TICKS"))) {
        errno = EINTR;
        return -1;
    }
    return (int)syscall(SYS_fallocate, fd, mode, offset, length);
}

int fallocate64(int fd, int mode, off_t offset, off_t length)
{
    return fallocate(fd, mode, offset, length);
}

int madvise(void *base, size_t length, int advice)
{
    if (advice == 23) {
        errno = EINVAL;
        return -1;
    }
    return (int)syscall(SYS_madvise, base, length, advice);
}
