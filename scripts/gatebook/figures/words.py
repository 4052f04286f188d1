"""Numbers, sizes and durations as a reader sees them, in figures, findings and pages."""

import math
from collections.abc import Sequence
from typing import NamedTuple

NOT_AVAILABLE = "not available"
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


class EstimateText(NamedTuple):
    """An estimate and its interval as texts with equal decimals, such as `0.7356` and `[0.7312, 0.7401]`."""

    estimate: str
    interval: str


def available(value: float | None) -> bool:
    """Whether `value` is a finite number."""
    return value is not None and math.isfinite(value)


def _place(value: float, digits: int) -> int:
    """Power of ten of the last of `digits` significant digits of `value`; of zero, that of the number one."""
    return int(f"{value:.{digits - 1}e}".partition("e")[2]) - digits + 1


def _alike(values: Sequence[float], place: int) -> tuple[list[str], str]:
    """Texts of `values` down to the power of ten `place`, and the power of ten that all of them share, or ''.

    At most six significant digits of the largest value follow, as in the tables: beyond them stands rounding noise.
    Very small and very large numbers share one power of ten, so that they can be compared at sight.
    """
    largest = max(abs(value) for value in values)
    place = max(place, _place(largest, 6))
    power = 0 if largest == 0 or 1e-4 <= largest < 1e12 else _place(largest, 1)
    decimals = max(power - place, 0)
    scaled = [round(value / 10.0**power, decimals) + 0.0 for value in values]  # + 0.0 turns -0.0 into 0.0
    texts = [f"{value:,.{decimals}f}".replace("-", "−") for value in scaled]
    return texts, f" × 10{str(power).translate(_SUPERSCRIPTS)}" if power else ""


def format_estimate(estimate: float | None, low: float | None, high: float | None) -> EstimateText:
    """Estimate and interval with two significant digits of the interval's half-width.

    All three numbers get the same decimals; digits before the decimal point are never rounded away. Without an
    interval, or with one of width zero, the estimate gets four significant digits. None, NaN and infinity are not
    available.
    """
    if not available(estimate):
        return EstimateText(NOT_AVAILABLE, f"interval {NOT_AVAILABLE}")
    if not (available(low) and available(high)):
        return EstimateText(format_number(estimate), f"interval {NOT_AVAILABLE}")
    (middle, lower, upper), power = _alike([estimate, low, high], _last_place(estimate, low, high))
    return EstimateText(f"{middle}{power}", f"[{lower}, {upper}]{power}")


def _last_place(estimate: float, low: float, high: float) -> int:
    half_width = (high - low) / 2
    return _place(half_width, 2) if half_width > 0 else _place(estimate, 4)


def format_beside(value: float | None, estimate: float, low: float | None, high: float | None) -> str:
    """A number that stands beside an estimate, with the decimals of `format_estimate`; a smaller one has one digit."""
    if not value or not all(map(available, (value, estimate, low, high))):
        return format_number(value)
    (text,), power = _alike([value], min(_last_place(estimate, low, high), _place(value, 1)))
    return text + power


def format_number(value: float | None) -> str:
    """One number with four significant digits, without trailing zeros; digits before the point are all kept."""
    if not available(value):
        return NOT_AVAILABLE
    (text,), power = _alike([value], _place(value, 4))
    return (text.rstrip("0").rstrip(".") if "." in text else text) + power


def format_count(value: int) -> str:
    """An integer with thousands separators."""
    return f"{value:,d}".replace("-", "−")


def format_large(value: int) -> str:
    """A count with three significant digits and a word for its power of ten, such as `6.92 billion`."""
    for word, power in (("billion", 10**9), ("million", 10**6), ("thousand", 10**3)):
        if value >= 0.9995 * power:
            return f"{float(f'{value / power:.3g}'):g} {word}"
    return str(value)


def format_duration(seconds: float) -> str:
    """A duration in its two largest units, such as `3 min 05 s`; below ten seconds with one decimal."""
    if round(seconds, 1) < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60:,d} h {minutes % 60:02d} min"
