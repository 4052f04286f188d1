"""Numbers, sizes and durations as a reader sees them."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatebook.figures import words

NAN = float("nan")


@pytest.mark.parametrize(
    ("numbers", "estimate", "interval"),
    [
        ((0.7356, 0.7312, 0.7401), "0.7356", "[0.7312, 0.7401]"),
        ((0.73561, 0.71, 0.76), "0.736", "[0.710, 0.760]"),
        ((-0.0831, -0.0967, -0.0702), "−0.083", "[−0.097, −0.070]"),
        ((-0.0003, -0.05, 0.05), "0.000", "[−0.050, 0.050]"),
        ((0.0, 0.0, 0.0), "0.000", "[0.000, 0.000]"),
        ((0.125, 0.125, 0.125), "0.1250", "[0.1250, 0.1250]"),
        ((12.0, 9.96, 29.9), "12", "[10, 30]"),
        # Half-width 0.0996 rounds up to 0.10: two digits end at the second decimal.
        ((1.0, 0.9004, 1.0996), "1.00", "[0.90, 1.10]"),
        ((1234567.2, 1200000.0, 1270000.0), "1,234,567", "[1,200,000, 1,270,000]"),
        ((3.4e-7, 3.1e-7, 3.9e-7), "3.40 × 10⁻⁷", "[3.10, 3.90] × 10⁻⁷"),
        ((-2.5e15, -3.0e15, -2.0e15), "−2.50 × 10¹⁵", "[−3.00, −2.00] × 10¹⁵"),
        # Rounding noise of a constant is not shown as precision.
        ((0.1 + 0.2, 0.3, 0.1 + 0.2), "0.300000", "[0.300000, 0.300000]"),
        ((0.7356, NAN, 0.74), "0.7356", "interval not available"),
        ((0.7356, None, None), "0.7356", "interval not available"),
        ((NAN, 0.1, 0.2), "not available", "interval not available"),
        ((None, None, None), "not available", "interval not available"),
        ((math.inf, 0.1, math.inf), "not available", "interval not available"),
    ],
)
def test_estimate_and_interval_get_the_decimals_of_the_half_width(numbers, estimate, interval):
    assert words.format_estimate(*numbers) == (estimate, interval)


numbers = st.floats(min_value=-1e9, max_value=1e9).filter(lambda value: value == 0 or abs(value) > 1e-3)


@given(st.tuples(numbers, numbers, numbers).map(sorted))
def test_estimate_texts_agree_in_decimals_and_round_the_numbers(ordered):
    low, estimate, high = ordered
    text = words.format_estimate(estimate, low, high)
    shown = [text.estimate, *text.interval.strip("[]").split(", ")]
    shown = [part.replace("−", "-").replace(",", "") for part in shown]
    decimals = {len(part.partition(".")[2]) for part in shown}
    assert len(decimals) == 1
    for part, value in zip(shown, (estimate, low, high), strict=True):
        assert abs(float(part) - value) <= 0.5 * 10.0 ** -min(decimals) * (1 + 1e-6)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.125, "0.125"),
        (4.15888, "4.159"),
        (0, "0"),
        (-0.0, "0"),
        (100.0, "100"),
        (-2.0, "−2"),
        (1234567.8, "1,234,568"),
        (0.0000123, "1.23 × 10⁻⁵"),
        (NAN, "not available"),
        (None, "not available"),
    ],
)
def test_number_has_four_significant_digits(value, text):
    assert words.format_number(value) == text


@pytest.mark.parametrize(
    ("value", "numbers", "text"),
    [
        (5.699, (5.7, 4.1, 7.5), "5.7"),
        (0.99, (0.7356, 0.7312, 0.7401), "0.9900"),
        (0.03125, (5.7, 4.1, 7.5), "0.03"),  # a smaller number keeps its first digit
        (0, (5.7, 4.1, 7.5), "0"),
        (0.125, (0.5, NAN, NAN), "0.125"),
        (None, (5.7, 4.1, 7.5), "not available"),
    ],
)
def test_a_number_beside_an_estimate_has_its_decimals(value, numbers, text):
    assert words.format_beside(value, *numbers) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1 thousand"),
        (612345, "612 thousand"),
        (999_600, "1 million"),
        (6.92e9, "6.92 billion"),
    ],
)
def test_a_large_count_has_three_digits_and_a_word(value, text):
    assert words.format_large(value) == text


@pytest.mark.parametrize(("value", "text"), [(0, "0"), (999, "999"), (4812331, "4,812,331"), (-1200, "−1,200")])
def test_count_has_thousands_separators(value, text):
    assert words.format_count(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.6, "1 min 00 s"),
        (185.2, "3 min 05 s"),
        (3599.7, "1 h 00 min"),
        (3840, "1 h 04 min"),
        (360000, "100 h 00 min"),
    ],
)
def test_duration_has_its_two_largest_units(seconds, text):
    assert words.format_duration(seconds) == text
