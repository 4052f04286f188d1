"""Sizes in words."""

import pytest

from gatebook.files.sizes import format_bytes


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (12345, "12.3 kB"),
        (999_999, "1.00 MB"),
        (13838323712, "13.8 GB"),
        (9996, "10.0 kB"),
    ],
)
def test_bytes_have_three_significant_digits(value, text):
    assert format_bytes(value) == text
