"""Request distributions and key names, compatible with YCSB's; docs/benchmarks.md lists the
differences."""

from libc.string cimport memcpy

from rfp.core.core cimport RFP_RANDOM_STEP, rfp_now, rfp_random_mix

from rfp.errors import InvalidArgument, bad_choice, out_of_bounds

DISTRIBUTIONS = {"uniform": UNIFORM, "zipfian": ZIPFIAN, "zipfian_exact": ZIPFIAN_EXACT,
                 "latest": LATEST, "hotspot": HOTSPOT, "sequential": SEQUENTIAL,
                 "exponential": EXPONENTIAL}

YCSB_ITEMS = 1e10 + 1
YCSB_ZETA = 26.46902820178302
YCSB_ALPHA = 1.0 / (1.0 - 0.99)
YCSB_SECOND = 1.0 + pow(0.5, 0.99)
YCSB_ETA = (1.0 - pow(2.0 / YCSB_ITEMS, 1.0 - 0.99)) / (1.0 - YCSB_SECOND / YCSB_ZETA)


cdef void seed_random(xoshiro *r, uint64_t seed) noexcept nogil:
    """Fills the state from splitmix64, which never gives four zeros in a row."""
    cdef int i
    for i in range(4):
        r.s[i] = rfp_random_mix(seed)
        seed += RFP_RANDOM_STEP


cdef void set_zipf(zipf *z, uint64_t items) noexcept nogil:
    z.low = zipf_integral(1.5) - 1.0
    z.shortcut = 2.0 - zipf_inverse(zipf_integral(2.5) - exp(-0.99 * log(2.0)))
    grow_zipf(z, items)


cdef void grow_zipf(zipf *z, uint64_t items) noexcept nogil:
    z.items = items
    z.high = zipf_integral(<double>items + 0.5)


cdef uint32_t write_key(char *to, uint64_t number, int padding, bint hashed) noexcept nogil:
    cdef char digits[20]
    cdef uint32_t n = 0, length = 4
    if hashed:
        number = fnv64(number)
    while True:
        digits[19 - n] = <char>(48 + number % 10)
        number //= 10
        n += 1
        if number == 0:
            break
    memcpy(to, b"user", 4)
    while padding > <int>n:
        to[length] = 48
        length += 1
        padding -= 1
    memcpy(to + length, digits + 20 - n, n)
    return length + n


cdef int set_generator(generator *g, int kind, uint64_t first, uint64_t count, uint64_t expected,
                       uint64_t seed, double hot_data, double hot_share, double percentile,
                       double fraction, uint64_t records, uint64_t *cursor) noexcept nogil:
    """Fills `g`.  expected: inserts that ZIPFIAN leaves room for.  records: the base of
    EXPONENTIAL's fraction."""
    g.kind = kind
    g.first = first
    g.count = count
    g.space = count + expected + 1
    g.hot = <uint64_t>(<double>count * hot_data)
    g.hot_share = 0.0 if g.hot == 0 else 1.0 if g.hot == count else hot_share
    g.rate = -log(1.0 - percentile / 100.0) / (<double>records * fraction)
    g.cursor = cursor
    set_zipf(&g.law, count)
    seed_random(&g.random, seed)
    return 0


cdef class Generator:
    """Draws record numbers by a request distribution.

    Args:
        distribution: a name of DISTRIBUTIONS.
        count: records, from `first` on.
        expected: inserts that `zipfian` leaves room for.
        seed: the same seed gives the same numbers.
        hot_data, hot_share: `hotspot`'s shares of the records and of the requests.
        percentile, fraction: `exponential` sends this percentage of requests to this fraction of
            the newest records.

    Raises:
        InvalidArgument: unknown distribution, or an argument out of range.

    >>> Generator("sequential", 3).sample(5)
    [0, 1, 2, 0, 1]
    """
    cdef generator c
    cdef uint64_t cursor
    cdef readonly uint64_t last

    def __init__(self, str distribution, uint64_t count, *, uint64_t first=0, uint64_t expected=0,
                 uint64_t seed=1, double hot_data=0.2, double hot_share=0.8, double percentile=95.0,
                 double fraction=0.8571428571):
        check_distribution(distribution)
        if count == 0:
            raise InvalidArgument("cannot choose from 0 records",
                                  hint="set recordcount to at least 1")
        self.last = first + count - 1
        set_generator(&self.c, DISTRIBUTIONS[distribution], first, count, expected, seed, hot_data,
                      hot_share, percentile, fraction, first + count, &self.cursor)

    def next(self, last=None) -> int:
        """Return the next number; last: the newest record that exists (default: the last of the
        initial ones)."""
        return next_number(&self.c, self.last if last is None else last)

    def sample(self, Py_ssize_t n) -> list:
        """Return the next n numbers."""
        cdef Py_ssize_t _i
        return [next_number(&self.c, self.last) for _i in range(n)]

    def rate(self, Py_ssize_t n) -> float:
        """Return the nanoseconds per number, over n of them without the GIL."""
        cdef Py_ssize_t _i
        cdef uint64_t start, end
        with nogil:
            start = rfp_now()
            for _i in range(n):
                next_number(&self.c, self.last)
            end = rfp_now()
        return (end - start) / <double>n


def check_distribution(str distribution):
    """Raise InvalidArgument if the name is not in DISTRIBUTIONS."""
    if distribution not in DISTRIBUTIONS:
        raise bad_choice("distribution", distribution, DISTRIBUTIONS)


def ycsb_hash(uint64_t number) -> int:
    """Return YCSB's 64-bit FNV hash of a number."""
    return fnv64(number)


def key_name(uint64_t number, *, int padding=1, bint hashed=True) -> bytes:
    """Return the key of a record: "user" and its number, hashed unless `hashed` is false, with at
    least `padding` digits.

    >>> key_name(5, padding=8, hashed=False)
    b'user00000005'
    """
    cdef char key[KEY_ROOM_BYTES]
    if padding > PADDING_MAX:
        raise out_of_bounds("zeropadding", padding, 0, PADDING_MAX)
    cdef uint32_t length = write_key(key, number, padding, hashed)
    return key[:length]
