# Random numbers, request distributions and key names, as plain C structs: drawing a request costs
# some tens of nanoseconds.
#
# Other modules cimport the functions with a `generator` or an `xoshiro` argument; the rest is
# implementation.

from libc.math cimport exp, expm1, floor, log, log1p, pow
from libc.stdint cimport int64_t, uint32_t, uint64_t

from rfp.core.core cimport rfp_add64

cdef extern from *:
    """
    #include <stdint.h>
    static inline uint64_t bench_high(uint64_t a, uint64_t b)
    {
        return (uint64_t)(((unsigned __int128)a * b) >> 64);
    }
    """
    uint64_t high_product "bench_high"(uint64_t a, uint64_t b) noexcept nogil

cdef enum distribution:
    UNIFORM = 0
    ZIPFIAN = 1                # YCSB's: Zipf's law over 10^10 items, hashed onto the records
    ZIPFIAN_EXACT = 2          # Zipf's law, exponent 0.99, over the records, most popular first
    LATEST = 3                 # Zipf's law over the distance from the newest record
    HOTSPOT = 4
    SEQUENTIAL = 5
    EXPONENTIAL = 6


cdef struct xoshiro:           # xoshiro256**
    uint64_t s[4]

cdef inline uint64_t random_bits(xoshiro *r) noexcept nogil:
    cdef uint64_t x = r.s[1] * 5
    cdef uint64_t result = ((x << 7) | (x >> 57)) * 9
    cdef uint64_t t = r.s[1] << 17
    r.s[2] ^= r.s[0]
    r.s[3] ^= r.s[1]
    r.s[1] ^= r.s[2]
    r.s[0] ^= r.s[3]
    r.s[2] ^= t
    r.s[3] = (r.s[3] << 45) | (r.s[3] >> 19)
    return result

cdef inline double random_unit(xoshiro *r) noexcept nogil:
    """Returns a number in [0, 1)."""
    return <double>(random_bits(r) >> 11) * (1.0 / 9007199254740992.0)

cdef inline uint64_t random_below(xoshiro *r, uint64_t n) noexcept nogil:
    """Returns a number in [0, n); its bias is n / 2^64."""
    return high_product(random_bits(r), n)

cdef void seed_random(xoshiro *r, uint64_t seed) noexcept nogil


# Zipf's law over the ranks 0 .. items - 1, by rejection-inversion: exact, without a table.
cdef struct zipf:
    uint64_t items
    double low, high, shortcut

cdef void set_zipf(zipf *z, uint64_t items) noexcept nogil
cdef void grow_zipf(zipf *z, uint64_t items) noexcept nogil

cdef inline double zipf_integral(double x) noexcept nogil:
    """Returns the integral of x^-0.99 from 1 to x."""
    return expm1(0.01 * log(x)) * 100.0

cdef inline double zipf_inverse(double y) noexcept nogil:
    return exp(log1p(y * 0.01) * 100.0)

cdef inline uint64_t zipf_rank(zipf *z, xoshiro *r) noexcept nogil:
    cdef double y, x, k
    while True:
        y = z.high + random_unit(r) * (z.low - z.high)
        x = zipf_inverse(y)
        k = floor(x + 0.5)
        if k < 1:
            k = 1
        elif k > z.items:
            k = z.items
        # The first test accepts nearly always; the second one costs one more logarithm and makes
        # the result exact.
        if k - x <= z.shortcut or y >= zipf_integral(k + 0.5) - exp(-0.99 * log(k)):
            return <uint64_t>k - 1


cdef struct generator:
    int kind
    uint64_t first             # the records are first .. first + count - 1
    uint64_t count
    uint64_t space             # ZIPFIAN: the greatest number of records ever, the range of the hash
    uint64_t hot               # HOTSPOT: this many first records
    double hot_share           # receive this share of the requests
    double rate                # EXPONENTIAL
    uint64_t *cursor           # SEQUENTIAL: shared by all threads
    zipf law
    xoshiro random

# YCSB's constants: zeta(10^10, 0.99), and the values that its Zipfian computes from it once.
cdef double YCSB_ZETA
cdef double YCSB_ITEMS
cdef double YCSB_ETA
cdef double YCSB_ALPHA
cdef double YCSB_SECOND        # below this times zeta the rank is 1

cdef inline uint64_t ycsb_rank(xoshiro *r) noexcept nogil:
    """Returns a rank by the approximation of Gray et al. (SIGMOD 1994) that YCSB uses, over its
    10^10 items."""
    cdef double u = random_unit(r)
    cdef double uz = u * YCSB_ZETA
    if uz < 1.0:
        return 0
    if uz < YCSB_SECOND:
        return 1
    return <uint64_t>(YCSB_ITEMS * pow(YCSB_ETA * u - YCSB_ETA + 1.0, YCSB_ALPHA))

cdef inline uint64_t fnv64(uint64_t number) noexcept nogil:
    """Returns YCSB's hash of a number: FNV-1a over its eight bytes, without the sign."""
    cdef uint64_t h = 0xCBF29CE484222325u
    cdef int _i
    for _i in range(8):
        h = (h ^ (number & 0xFF)) * 1099511628211u
        number >>= 8
    return 0 - h if h >> 63 else h

cdef inline uint64_t exponential_below(xoshiro *r, double rate, uint64_t n) noexcept nogil:
    """Returns a whole number in [0, n), distributed like exponential draws repeated until one is
    below n.

    It computes the number without that loop, which would hardly ever end if the rate is small.
    """
    cdef double back
    cdef double u = random_unit(r)
    if rate * <double>n < 1e-12:             # flat
        return <uint64_t>(u * <double>n)
    back = -log1p(u * expm1(-rate * <double>n)) / rate
    return <uint64_t>back if back < <double>n else n - 1

cdef enum:
    ATTEMPTS_MAX = 65536

cdef inline uint64_t next_number(generator *g, uint64_t last) noexcept nogil:
    """Returns the number of the record to request; `last` is the newest that exists."""
    cdef uint64_t n
    cdef uint32_t _attempt
    for _attempt in range(ATTEMPTS_MAX):
        if g.kind == ZIPFIAN:
            n = g.first + fnv64(ycsb_rank(&g.random)) % g.space
        elif g.kind == UNIFORM:
            n = g.first + random_below(&g.random, g.count)
        elif g.kind == ZIPFIAN_EXACT:
            n = g.first + zipf_rank(&g.law, &g.random)
        elif g.kind == LATEST:
            if last - g.first + 1 != g.law.items:
                grow_zipf(&g.law, last - g.first + 1)
            n = last - zipf_rank(&g.law, &g.random)
        elif g.kind == HOTSPOT:
            if random_unit(&g.random) < g.hot_share:
                n = g.first + random_below(&g.random, g.hot)
            else:
                n = g.first + g.hot + random_below(&g.random, g.count - g.hot)
        elif g.kind == SEQUENTIAL:
            n = g.first + rfp_add64(g.cursor, 1) % g.count
        else:
            n = last - exponential_below(&g.random, g.rate, last - g.first + 1)
        if n <= last:
            return n
    # Only if nearly all drawn records do not exist yet: zipfian with room for very many inserts.
    return g.first + random_below(&g.random, last - g.first + 1)

# Writes "user" and the number, zero-padded, at most KEY_ROOM_BYTES bytes; returns the length.
cdef enum:
    KEY_ROOM_BYTES = 50
    PADDING_MAX = 46

cdef uint32_t write_key(char *to, uint64_t number, int padding, bint hashed) noexcept nogil

cdef int set_generator(generator *g, int kind, uint64_t first, uint64_t count, uint64_t expected,
                       uint64_t seed, double hot_data, double hot_share, double percentile,
                       double fraction, uint64_t records, uint64_t *cursor) noexcept nogil
