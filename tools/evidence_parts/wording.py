"""Numbers, tables and verdicts as text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from evidence_parts.resampling import Interval

NOTHING = "-"


def number(value: float | None, digits: int = 3) -> str:
    """Write a number with this number of decimals, or a dash.

    >>> number(0.12345), number(None)
    ('0.123', '-')
    """
    return NOTHING if value is None or value != value else f"{value:.{digits}f}"  # noqa: PLR0124 - NaN


def with_deviation(spread: tuple[float, float | None] | None) -> str:
    """Write a mean and its deviation, if it has one.

    >>> with_deviation((0.5, 0.012)), with_deviation((0.5, None))
    ('0.500 ± 0.012', '0.500')
    """
    if spread is None:
        return NOTHING
    return number(spread[0]) if spread[1] is None else f"{number(spread[0])} ± {number(spread[1])}"


def between(interval: Interval | None) -> str:
    """Write the bounds of an interval."""
    return NOTHING if interval is None else f"{number(interval.low)} to {number(interval.high)}"


def signed(interval: Interval | None) -> str:
    """Write a difference with its interval.

    >>> signed(Interval(-0.1, -0.2, 0.05))
    '-0.100 (-0.200 to +0.050)'
    """
    if interval is None:
        return NOTHING
    return f"{interval.value:+.3f} ({interval.low:+.3f} to {interval.high:+.3f})"


def verdict(interval: Interval | None, *, more_is_better: bool = True) -> str:
    """Say whether a difference is better, worse or within noise.

    >>> verdict(Interval(0.1, 0.05, 0.2)), verdict(Interval(0.1, -0.05, 0.2))
    ('better', 'within noise')
    """
    if interval is None:
        return NOTHING
    return ("within noise", "better", "worse")[interval.side * (1 if more_is_better else -1)]


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a Markdown table: the first column aligned left, the others right."""
    lines = [f"| {' | '.join(headers)} |", "|---|" + "---:|" * (len(headers) - 1)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def listed(items: Sequence[str]) -> str:
    """Join items as a sentence lists them.

    >>> listed(["a", "b", "c"]), listed([])
    ('a, b and c', 'none')
    """
    if not items:
        return "none"
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
