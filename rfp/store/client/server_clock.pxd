# The server's clock, as a client over a network knows it: an upper bound, from READs of the word
# that the server's heartbeat stores (ns of its monotonic clock).
#
# A word may be old: the server's heartbeat may be late.  But a word that differs from the one READ
# before was stored after that earlier READ was posted.  So the server's clock is at most the word,
# plus this process's time since it posted the earlier READ, plus the drift between both clocks.  If
# this process was paused and its clock with it, a word just READ is later than this sum; then the
# word counts, which is late by the heartbeat's period: readers leave a margin.

from libc.stdint cimport uint64_t

cdef enum:
    SERVER_CLOCK_MARGIN_NS = 1000000000
    DRIFT_SHIFT = 10               # clocks differ by less than 1 ns in 2^10

cdef struct server_clock:
    uint64_t word                  # READ last; 0: none
    uint64_t posted                # ns: when its last READ was posted
    uint64_t base                  # a word, and the time when the READ before was posted; 0: none
    uint64_t base_posted

cdef inline uint64_t server_clock_after(uint64_t word, uint64_t posted,
                                        uint64_t now) noexcept nogil:
    return word + (now - posted) + (now - posted >> DRIFT_SHIFT)

# Notes a word whose READ was posted at `posted`.
cdef inline void server_clock_note(server_clock *c, uint64_t word, uint64_t posted,
                                   uint64_t now) noexcept nogil:
    if word < c.word:                          # of a READ of another thread, overtaken
        return
    if word != c.word:
        if c.word and (not c.base or server_clock_after(word, c.posted, now) <
                       server_clock_after(c.base, c.base_posted, now)):
            c.base = word
            c.base_posted = c.posted
        c.word = word
        c.posted = posted
    elif posted > c.posted:
        c.posted = posted

# Returns whether a time of the server's clock (ns) is certainly in the future.
cdef inline bint server_clock_is_before(const server_clock *c, uint64_t time,
                                        uint64_t now) noexcept nogil:
    cdef uint64_t latest
    if not c.base:
        return False
    latest = max(server_clock_after(c.base, c.base_posted, now), c.word)
    return time > latest and time - latest > SERVER_CLOCK_MARGIN_NS
