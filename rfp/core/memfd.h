/* Memory that can be handed to another process: a memfd, sealed so that its size cannot change. */
#ifndef RFP_CORE_MEMFD_H
#define RFP_CORE_MEMFD_H

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "rfp/core/limits.h"
#include "rfp/core/private_map.h"

/* Newer than the C library's headers on the oldest distributions that we build on. */
#ifndef F_ADD_SEALS
#define F_ADD_SEALS 1033
#define F_GET_SEALS 1034
#define F_SEAL_SEAL 0x0001
#define F_SEAL_SHRINK 0x0002
#define F_SEAL_GROW 0x0004
#endif
#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 8U
#endif

/* SHRINK: a truncation cannot make the peer fault.  SEAL: verified seals stay. */
#define RFP_SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)
#define RFP_LEAST_PIECE (64u << 10) /* bytes: of every size that pages have */

/* A new memfd, or -1 with errno. */
static inline int rfp_memfd_create(void)
{
    /* Some machines (vm.memfd_noexec=2) allow only memory that can never be executed; older kernels
     * do not know the flag. */
    int fd = memfd_create("rfp", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);
    if (fd < 0 && errno == EINVAL) fd = memfd_create("rfp", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    return fd;
}

/* Sizes and maps; no page is populated yet (see rfp_memfd_fill), and an untouched page takes no
 * memory.  Returns the mapping, or NULL with errno and nothing mapped. */
static inline char *rfp_memfd_map_empty(int fd, uint64_t length)
{
    char *base;
    int error;
    if (ftruncate(fd, (off_t)length)) return NULL;
    base = (char *)mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED) return NULL;
    if (length >= RFP_HUGE_PAGE) madvise(base, length, MADV_HUGEPAGE); /* may be refused */
    if (!madvise(base, length, MADV_DONTFORK)) return base;
    error = errno;
    munmap(base, length);
    errno = error;
    return NULL;
}

/* Preallocates a range of such a mapping; offset: of a page.  Returns 0, or an errno; EINTR: handle
 * the signal, and call again.
 *
 * Huge pages come only from a page fault in memory so advised, never from fallocate: hence this
 * order.  Both report a lack of memory as an error instead of a SIGBUS.  Kernels before 6.10 abort
 * a fallocate on tmpfs at every signal, with all that it had allocated; so the call works in pieces
 * (smaller ones after a signal, lest a timer of the program keep it from ever finishing). */
static inline int rfp_memfd_fill(int fd, char *base, uint64_t offset, uint64_t length)
{
    uint64_t piece = 8 * RFP_HUGE_PAGE;
    if (length >= RFP_HUGE_PAGE && !madvise(base + offset, length, MADV_POPULATE_WRITE)) return 0;
    while (length) {
        if (piece > length) piece = length;
        if (!fallocate(fd, 0, (off_t)offset, (off_t)piece)) {
            offset += piece;
            length -= piece;
        } else if (errno != EINTR || piece <= RFP_LEAST_PIECE) {
            return errno;
        } else {
            piece = piece / 2 / RFP_LEAST_PIECE * RFP_LEAST_PIECE;
            if (!piece) piece = RFP_LEAST_PIECE;
        }
    }
    return 0;
}

/* Sizes, maps and preallocates.  Returns the mapping, or NULL with errno and nothing mapped. */
static inline char *rfp_memfd_map_new(int fd, uint64_t length)
{
    char *base = rfp_memfd_map_empty(fd, length);
    int error = 0;
    if (!base) return NULL;
    do error = rfp_memfd_fill(fd, base, 0, length);
    while (error == EINTR);
    if (!error) return base;
    munmap(base, length);
    errno = error;
    return NULL;
}

/* Afterwards no process can resize it, and, unless it is writable, only the owner's own mapping can
 * write to it. */
static inline int rfp_memfd_seal(int fd, int writable)
{
    return fcntl(fd, F_ADD_SEALS, writable ? RFP_SEALS : RFP_SEALS | F_SEAL_FUTURE_WRITE);
}

/* Maps a peer's memfd that has been verified.  Returns the mapping, or NULL with errno. */
static inline char *rfp_memfd_map(int fd, uint64_t length, int writable)
{
    int protection = writable ? PROT_READ | PROT_WRITE : PROT_READ;
    char *base = (char *)mmap(NULL, length, protection, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED) return NULL;
    if (length >= RFP_HUGE_PAGE) madvise(base, length, MADV_HUGEPAGE);
    if (madvise(base, length, MADV_DONTFORK)) {
        int error = errno;
        munmap(base, length);
        errno = error;
        return NULL;
    }
    return base;
}

/* The results of rfp_memfd_check. */
#define RFP_MEMFD_GOOD 0
#define RFP_MEMFD_FOREIGN 1 /* not a regular file in memory */
#define RFP_MEMFD_SEALS 2   /* required seals are missing */
#define RFP_MEMFD_SIZE 3    /* its size is not the promised one */

/* Whether a received descriptor is memory of exactly this length that no process can resize, and,
 * unless it is writable, that only its owner can write.  Checks the seals first: only a sealed size
 * stays as fstat reported it. */
static inline int rfp_memfd_check(int fd, uint64_t length, int writable)
{
    int required = writable ? RFP_SEALS : RFP_SEALS | F_SEAL_FUTURE_WRITE;
    struct stat status;
    int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0 || fstat(fd, &status) || !S_ISREG(status.st_mode)) return RFP_MEMFD_FOREIGN;
    if ((seals & required) != required) return RFP_MEMFD_SEALS;
    if (status.st_size < 0 || (uint64_t)status.st_size != length) return RFP_MEMFD_SIZE;
    return RFP_MEMFD_GOOD;
}

#endif
