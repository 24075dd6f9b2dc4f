/* Whether this process is the one that set the word: the word is 1 in the process that set it, and
 * 0 in every child of a fork, even of a fork that Python does not see.  getpid() instead would add
 * a system call to each call. */
#ifndef RFP_CORE_BORN_H
#define RFP_CORE_BORN_H

#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef MADV_WIPEONFORK
#define MADV_WIPEONFORK 18 /* Linux 4.14 */
#endif

/* If the kernel lacks it, a word that is always 1: then only Python's own forks are noticed. */
static inline uint64_t *rfp_born_word(void)
{
    static uint64_t always;
    long size = sysconf(_SC_PAGESIZE);
    uint64_t *word = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (word != MAP_FAILED && madvise(word, size, MADV_WIPEONFORK)) {
        munmap(word, size);
        word = MAP_FAILED;
    }
    if (word == MAP_FAILED) word = &always;
    *word = 1;
    return word;
}

#endif
