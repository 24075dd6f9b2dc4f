# Functions of the C library and of the compiler that Cython's libc and posix packages do not
# declare.  This file has no module.

from posix.time cimport timespec

cdef extern from "<poll.h>" nogil:
    struct pollfd:
        int fd
        short events
        short revents
    int poll(pollfd *fds, unsigned long n, int timeout)
    int ppoll(pollfd *fds, unsigned long n, const timespec *timeout, const void *mask)
    enum:
        POLLIN
        POLLRDHUP

cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_mutex_t:
        pass
    int pthread_mutex_init(pthread_mutex_t *mutex, const void *attributes)
    int pthread_mutex_destroy(pthread_mutex_t *mutex)
    int pthread_mutex_lock(pthread_mutex_t *mutex)
    int pthread_mutex_trylock(pthread_mutex_t *mutex)
    int pthread_mutex_unlock(pthread_mutex_t *mutex)

cdef extern from "<sched.h>" nogil:
    int sched_yield()

cdef extern from "<signal.h>" nogil:
    enum:
        SIGSTOP
        SIGTRAP
    int raise_signal "raise"(int signal)

cdef extern from "<stdlib.h>" nogil:
    void *aligned_alloc(size_t alignment, size_t n)

cdef extern from "<sys/random.h>" nogil:
    ssize_t getrandom(void *bytes, size_t n, unsigned int flags)

cdef extern from "<unistd.h>" nogil:
    enum:
        SEEK_DATA
        SEEK_HOLE

cdef extern from *:
    """
    #include <sys/mman.h>
    #ifndef MAP_SYNC
    #define MAP_SYNC 0x80000
    #endif
    #ifndef MAP_SHARED_VALIDATE
    #define MAP_SHARED_VALIDATE 0x03
    #endif
    """
    enum:
        MAP_SYNC
        MAP_SHARED_VALIDATE

cdef extern from * nogil:
    int __builtin_ctz(unsigned int n)
    int __builtin_ctzll(unsigned long long n)
    int __builtin_clzll(unsigned long long n)
    int __builtin_popcountll(unsigned long long n)
    unsigned long long __builtin_bswap64(unsigned long long n)
