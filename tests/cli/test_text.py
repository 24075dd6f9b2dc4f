import pytest

from rfp.cli.text import bar, clock, grouped, plural, share, short, size, table

pytestmark = pytest.mark.pure


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (7.4, "7"),
        (999, "999"),
        (999.6, "1.00k"),
        (1234, "1.23k"),
        (12_345, "12.3k"),
        (123_456, "123k"),
        (999_600, "1.00M"),
        (1_234_567, "1.23M"),
        (9_996, "10.0k"),
        (99_960, "100k"),
        (2.5e9, "2.50G"),
    ],
)
def test_a_rate_has_three_digits(number, text):
    assert short(number) == text


def test_sizes_times_shares_and_counts_have_their_format():
    assert [size(n) for n in (0, 1023, 1536, 5 << 20, 3 << 30)] == [
        "0 B",
        "1023 B",
        "1.5 KiB",
        "5.0 MiB",
        "3.0 GiB",
    ]
    assert [clock(s) for s in (0.9, 61, 3723, 90_061)] == [
        "0:00:00",
        "0:01:01",
        "1:02:03",
        "1d 1:01:01",
    ]
    assert [share(1, 3), share(0, 5), share(0, 0)] == ["33.3 %", "0.0 %", "-"]
    assert grouped(1234567) == "1,234,567"
    assert [plural(n, "worker") for n in (0, 1, 2)] == ["0 workers", "1 worker", "2 workers"]
    assert [plural(n, "process") for n in (0, 1, 2)] == ["0 processes", "1 process", "2 processes"]


def test_a_bar_is_filled_in_proportion_to_its_value():
    assert [bar(n, 4, 4) for n in (0, 1, 4, 9)] == ["[----]", "[#---]", "[####]", "[####]"]
    assert bar(1, 0, 4) == "[----]"


def test_columns_are_as_wide_as_their_longest_text():
    assert table(["a", "bbb"], [["xx", "1"], ["y", "22"]], "<>") == [
        "a   bbb",
        "xx    1",
        "y    22",
    ]
    assert table(["a", "b"], [], "<>") == ["a  b"]
