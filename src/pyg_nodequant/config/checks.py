r"""Checks whose errors name the setting, what is allowed and what it got."""

from __future__ import annotations

import math


def check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    r"""Raises :class:`ValueError` unless :obj:`value` is in :obj:`allowed`."""
    if value not in allowed:
        raise ValueError(f"'{name}' needs to be one of {', '.join(allowed)} "
                         f"(got '{value}')")


def check_number(
    name: str,
    value: float,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    integer: bool = False,
    open_low: bool = False,
) -> None:
    r"""Raises :class:`ValueError` unless :obj:`low <= value <= high`."""
    kind = "an integer" if integer else "a number"
    types = int if integer else (int, float)
    is_number = isinstance(value, types) and not isinstance(value, bool)
    valid = (is_number and math.isfinite(value)
             and (value > low if open_low else value >= low) and value <= high)
    if not valid:
        if math.isinf(high) and math.isinf(low):
            bounds = ""
        elif math.isinf(high):
            bounds = f" {'above' if open_low else 'of at least'} {low:g}"
        else:
            bounds = f" in {'(' if open_low else '['}{low:g}, {high:g}]"
        raise ValueError(f"'{name}' needs to be {kind}{bounds} (got {value})")
