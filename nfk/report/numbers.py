"""How numbers are written on the page: one way each, the same in every table and sentence."""

from __future__ import annotations

import math

MINUS = "\N{MINUS SIGN}"
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def percent(fraction: float) -> str:
    """0.9512 -> '95.1'; the column or the sentence says '%'."""
    return f"{100 * fraction:.1f}".replace("-", MINUS)


def with_error(fraction: float, error: float) -> str:
    """(0.9512, 0.0068) -> '95.1 ± 0.7', both in percent, held together on one line."""
    return f"{percent(fraction)}\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}{percent(error)}"


def points(difference: float) -> str:
    """A signed difference of two fractions in percentage points: 0.038 -> '+3.8', 0.0001 -> '0.0'."""
    shown = f"{100 * difference:+.1f}"
    return "0.0" if shown in ("+0.0", "-0.0") else shown.replace("-", MINUS)


def count(number: int) -> str:
    """16871 -> '16,871'."""
    return f"{number:,}".replace("-", MINUS)


def seconds(duration: float) -> str:
    """0.482 -> '0.48 s', 245 -> '4 min 05 s', 4500 -> '1 h 15 min'."""
    if duration < 59.95:
        return f"{duration:.2f} s" if duration < 9.995 else f"{duration:.1f} s"
    whole = round(duration)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(duration / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def number(value: bool | int | float | str) -> str:
    """Any value of a metric: counts with commas, others to four significant digits, words as they are."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return count(value)
    if not math.isfinite(value):
        return str(value).replace("-", MINUS)
    if value != 0 and not 1e-3 <= abs(value) < 1e6:
        return scientific(value)
    return f"{value:,.4g}".replace("-", MINUS)


def scientific(value: float) -> str:
    """2.13e-05 -> '2.1 × 10⁻⁵'."""
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa.replace('-', MINUS)} × 10{str(int(exponent)).translate(_SUPERSCRIPTS)}"
