"""Request distributions compared with the exact laws, and with YCSB's formulas in plain Python."""

import math
from collections import Counter

import pytest

from bench._generators import DISTRIBUTIONS, Generator, key_name, ycsb_hash
from rfp.errors import InvalidArgument

DRAWS = 200_000


def chi_square(counts, expected):
    """Compute the statistic over the cells that expect at least five; the rest are one cell."""
    observed_rest = expected_rest = statistic = 0.0
    cells = 0
    for cell, share in expected.items():
        want = share * DRAWS
        if want < 5:
            observed_rest += counts.get(cell, 0)
            expected_rest += want
        else:
            statistic += (counts.get(cell, 0) - want) ** 2 / want
            cells += 1
    if expected_rest >= 5:
        statistic += (observed_rest - expected_rest) ** 2 / expected_rest
        cells += 1
    return statistic, cells - 1


def fits(counts, expected):
    """Whether chi-square is within five standard deviations of its mean.

    A wrong law is hundreds of deviations away.
    """
    statistic, freedom = chi_square(counts, expected)
    return sum(counts.values()) == DRAWS and statistic < freedom + 5 * math.sqrt(
        2 * max(freedom, 1)
    )


def zipf_law(items):
    weights = [rank**-0.99 for rank in range(1, items + 1)]
    total = sum(weights)
    return {rank: weight / total for rank, weight in enumerate(weights)}


@pytest.mark.parametrize("items", [1, 2, 3, 10, 1000])
def test_zipfian_exact_follows_zipfs_law_over_the_records(items):
    assert fits(Counter(Generator("zipfian_exact", items, seed=7).sample(DRAWS)), zipf_law(items))


def test_chi_square_rejects_a_similar_law():
    weights = [rank**-0.95 for rank in range(1, 1001)]
    wrong = {rank: weight / sum(weights) for rank, weight in enumerate(weights)}
    assert not fits(Counter(Generator("zipfian_exact", 1000, seed=7).sample(DRAWS)), wrong)


def test_uniform_draws_all_records_equally_often():
    counts = Counter(Generator("uniform", 500, first=100, seed=3).sample(DRAWS))
    assert fits(counts, {100 + n: 1 / 500 for n in range(500)})


def test_hotspot_sends_its_share_to_the_hot_records():
    counts = Counter(Generator("hotspot", 1000, seed=3, hot_data=0.1, hot_share=0.7).sample(DRAWS))
    assert fits(counts, {n: 0.7 / 100 if n < 100 else 0.3 / 900 for n in range(1000)})


@pytest.mark.parametrize(("hot_data", "only"), [(0.0, range(10)), (1.0, range(10))])
def test_hotspot_without_hot_or_without_cold_records_is_uniform(hot_data, only):
    counts = Counter(Generator("hotspot", 10, hot_data=hot_data, hot_share=0.8).sample(DRAWS))
    assert fits(counts, dict.fromkeys(only, 0.1))


def test_sequential_begins_again_after_the_last_record():
    assert Generator("sequential", 4, first=10).sample(9) == [10, 11, 12, 13, 10, 11, 12, 13, 10]


def test_exponential_draws_its_percentage_from_the_newest_fraction():
    generator = Generator("exponential", 1000, seed=5, percentile=95, fraction=0.2)
    rate = -math.log(0.05) / 200
    inside = 1 - math.exp(-rate * 1000)  # a draw beyond the oldest record is repeated
    expected = {
        999 - back: (math.exp(-rate * back) - math.exp(-rate * (back + 1))) / inside
        for back in range(1000)
    }
    assert fits(Counter(generator.sample(DRAWS)), expected)


def test_latest_follows_zipfs_law_from_the_newest_record_backwards():
    counts = Counter(999 - n for n in Generator("latest", 1000, seed=11).sample(DRAWS))
    assert fits(counts, zipf_law(1000))


def test_latest_includes_inserted_records():
    generator = Generator("latest", 10, seed=11)
    counts = Counter(4999 - generator.next(4999) for _ in range(DRAWS))
    assert fits(counts, zipf_law(5000))


# YCSB's scrambled Zipfian, written from its formulas.

ITEMS, ZETA, THETA = 10**10 + 1, 26.46902820178302, 0.99


def reference_hash(number):
    value = 0xCBF29CE484222325
    for _ in range(8):
        value = ((value ^ (number & 0xFF)) * 1099511628211) % 2**64
        number >>= 8
    return 2**64 - value if value >= 2**63 else value


def reference_rank(u):
    eta = (1 - (2 / ITEMS) ** (1 - THETA)) / (1 - (1 + 0.5**THETA) / ZETA)
    if u * ZETA < 1:
        return 0
    if u * ZETA < 1 + 0.5**THETA:
        return 1
    return int(ITEMS * (eta * u - eta + 1) ** (1 / (1 - THETA)))


def reference_shares(count):
    """Return the share of each record: exact for the first ranks, uniform for the rest."""
    shares = Counter()
    eta = (1 - (2 / ITEMS) ** (1 - THETA)) / (1 - (1 + 0.5**THETA) / ZETA)
    ranks = 3000

    def begins(rank):  # the least u that gives this rank
        return {0: 0.0, 1: 1 / ZETA}.get(
            rank, max(((rank / ITEMS) ** (1 - THETA) - 1 + eta) / eta, (1 + 0.5**THETA) / ZETA)
        )

    edges = [begins(rank) for rank in range(ranks + 1)]
    for rank in range(ranks):
        shares[reference_hash(rank) % count] += edges[rank + 1] - edges[rank]
    rest = 1 - edges[ranks]
    return {n: shares[n] + rest / count for n in range(count)}


def xoshiro(seed):
    mask, state = 2**64 - 1, []
    for _ in range(4):
        seed = (seed + 0x9E3779B97F4A7C15) & mask
        z = ((seed ^ seed >> 30) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ z >> 27) * 0x94D049BB133111EB) & mask
        state.append(z ^ z >> 31)
    while True:
        x = state[1] * 5 & mask
        result = ((x << 7 | x >> 57) & mask) * 9 & mask
        t = state[1] << 17 & mask
        state[2] ^= state[0]
        state[3] ^= state[1]
        state[1] ^= state[2]
        state[0] ^= state[3]
        state[2] ^= t
        state[3] = (state[3] << 45 | state[3] >> 19) & mask
        yield result


def test_zipfian_draws_the_numbers_of_ycsbs_formulas():
    bits = xoshiro(42)
    expected = [
        reference_hash(reference_rank((next(bits) >> 11) / 2**53)) % 1001 for _ in range(3000)
    ]
    expected = [n for n in expected if n <= 999]  # the number beyond is drawn again
    assert Generator("zipfian", 1000, seed=42).sample(len(expected)) == expected


def test_zipfian_has_the_shares_of_ycsb():
    counts = Counter(Generator("zipfian", 100, seed=9).sample(DRAWS))
    shares = reference_shares(101)
    kept = 1 - shares.pop(100)
    assert fits(counts, {n: share / kept for n, share in shares.items()})


def test_zipfian_draws_expected_inserts_only_after_they_happened():
    generator = Generator("zipfian", 100, expected=400, seed=9)
    drawn = generator.sample(5000)
    assert max(drawn) <= 99
    assert max(generator.next(499) for _ in range(5000)) > 400


@pytest.mark.parametrize(
    ("number", "hashed"),
    [(0, 6284781860667377211), (1, 8517097267634966620), (999, None), (2**40 + 17, None)],
)
def test_the_hash_equals_that_of_ycsb(number, hashed):
    assert ycsb_hash(number) == reference_hash(number)
    if hashed is not None:
        assert ycsb_hash(number) == hashed  # YCSB loads user6284781860667377211 first


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_every_distribution_draws_only_records_and_repeats_from_its_seed(distribution):
    drawn = Generator(distribution, 50, first=20, seed=4).sample(5000)
    assert set(drawn) <= set(range(20, 70))
    assert drawn == Generator(distribution, 50, first=20, seed=4).sample(5000)
    assert distribution == "sequential" or drawn != Generator(
        distribution, 50, first=20, seed=5
    ).sample(5000)


def test_key_names_are_hashed_or_ordered_and_padded():
    assert key_name(0) == b"user6284781860667377211"
    assert key_name(5, hashed=False) == b"user5"
    assert key_name(5, hashed=False, padding=12) == b"user000000000005"
    assert key_name(2**64 - 1, hashed=False) == b"user18446744073709551615"
    assert len(key_name(7, hashed=False, padding=46)) == 50
    with pytest.raises(InvalidArgument, match="zeropadding"):
        key_name(1, padding=47)


def test_an_unknown_distribution_and_an_empty_range_are_refused():
    with pytest.raises(InvalidArgument, match="expected uniform, zipfian"):
        Generator("gaussian", 10)
    with pytest.raises(InvalidArgument, match="recordcount"):
        Generator("uniform", 0)


@pytest.mark.parametrize("count", [1, 2, 3, 10])
def test_exponential_draws_every_record_also_the_oldest(count):
    assert set(Generator("exponential", count, seed=5).sample(20_000)) == set(range(count))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"fraction": 1e300},
        {"fraction": 1e-9},
        {"percentile": 1e-4},
        {"percentile": 99.9999},
        {"fraction": 1e308},
    ],
)
@pytest.mark.parametrize("count", [1, 7, 2**40])
def test_exponential_draws_within_the_records_for_extreme_options(options, count):
    assert all(0 <= n < count for n in Generator("exponential", count, **options).sample(2000))


def test_exponential_follows_the_law_of_repeated_draws():
    """YCSB draws until the record exists; this generator draws once, from the same law."""
    items, percentile, fraction = 50, 95.0, 0.857
    rate = -math.log(1 - percentile / 100) / (items * fraction)
    whole = 1 - math.exp(-rate * items)
    law = {
        items - 1 - back: (math.exp(-rate * back) - math.exp(-rate * (back + 1))) / whole
        for back in range(items)
    }
    assert fits(
        Counter(
            Generator(
                "exponential", items, percentile=percentile, fraction=fraction, seed=9
            ).sample(DRAWS)
        ),
        law,
    )


def test_zipfian_draws_if_it_expects_more_inserts_than_there_are_numbers():
    assert all(0 <= n < 10 for n in Generator("zipfian", 10, expected=2**62).sample(20))
