"""The latency histogram compared with numpy's percentiles, to three digits."""

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from slower import examples

from bench._histogram import Histogram
from rfp.errors import InvalidArgument

NS_MAX = 2**42 - 1


def filled(values):
    histogram = Histogram()
    for value in values:
        histogram.record(int(value))
    return histogram


@pytest.mark.parametrize("p", [0, 1, 50, 90, 95, 99, 99.9, 99.99, 100])
@pytest.mark.parametrize("scale", [5, 8, 12])
def test_percentiles_are_numpys_to_three_digits(p, scale):
    values = numpy.random.default_rng(3).lognormal(scale, 1.5, 19_999).astype(numpy.int64)
    exact = numpy.percentile(values, p, method="inverted_cdf")
    assert exact <= filled(values).percentile(p) <= exact * 1.001


@settings(max_examples=examples(200), deadline=None)
@given(st.lists(st.integers(0, NS_MAX), min_size=1, max_size=50), st.integers(0, 1000))
def test_any_values_are_kept_to_within_a_thousandth(values, tenths):
    histogram = filled(values)
    # In whole numbers, since 99.9 % of 1000 values is rank 999 and not 1000.
    rank = max(-(-tenths * len(values) // 1000), 1)
    exact = sorted(values)[rank - 1]
    assert exact <= histogram.percentile(tenths / 10) <= exact + exact // 1024
    assert (histogram.count, histogram.minimum, histogram.maximum) == (
        len(values),
        min(values),
        max(values),
    )
    assert histogram.mean == pytest.approx(sum(values) / len(values))


def test_small_values_are_exact():
    histogram = filled(range(2048))
    assert [histogram.percentile(100 * (n + 1) / 2048) for n in range(2048)] == list(range(2048))


def test_a_value_beyond_the_maximum_counts_as_the_maximum():
    histogram = filled([2**50, 2**70])
    assert histogram.maximum == histogram.percentile(50) == NS_MAX


def test_an_empty_histogram_has_only_zeros():
    histogram = Histogram()
    values = (
        histogram.count,
        histogram.minimum,
        histogram.maximum,
        histogram.mean,
        histogram.percentile(99),
    )
    assert values == (0, 0, 0, 0, 0)
    assert histogram.buckets() == []


def test_a_merged_histogram_equals_the_histogram_of_all_values():
    a, b = [3, 5000, 10**9], [1, 70_000]
    merged = filled(a)
    merged.add(filled(b))
    both = filled(a + b)
    assert merged.buckets() == both.buckets()
    assert (merged.count, merged.minimum, merged.maximum, merged.mean) == (5, 1, 10**9, both.mean)


def test_since_has_the_values_that_were_counted_after_the_copy():
    histogram = filled([10, 100_000])
    before = histogram.copy()
    for value in (20, 30, 5_000_000):
        histogram.record(value)
    since = histogram.since(before)
    assert since.count == 3
    assert since.buckets() == filled([20, 30, 5_000_000]).buckets()
    assert since.mean == pytest.approx(5_000_050 / 3)
    assert (since.minimum, since.maximum) == (20, 5_000_000)


def test_a_value_may_be_counted_many_times_at_once():
    histogram = Histogram()
    histogram.record(500, 3)
    histogram.record(7, 0)
    assert (histogram.count, histogram.mean, histogram.minimum) == (3, 500, 500)


def test_negative_values_and_percentiles_above_100_are_refused():
    with pytest.raises(InvalidArgument, match="nanoseconds"):
        Histogram().record(-1)
    with pytest.raises(InvalidArgument, match="percentile"):
        Histogram().percentile(101)
