"""Counts and lists in sentences and in lines."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

MAX_LINES = 5  # items below their number
MAX_NAME = 60  # characters of a name in a table

# control characters, line separators, characters that turn the direction of what follows, and halves of pairs
_OBEYED = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def plural(count: int, noun: str) -> str:
    """A count with its noun.

    >>> plural(1, "box"), plural(2400, "image"), plural(2, "category")
    ('1 box', '2,400 images', '2 categories')
    """
    if count != 1:
        noun = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}es" if noun.endswith("x") else f"{noun}s"
    return f"{count:,} {noun}"


def by_nouns(counts: Mapping[str, int]) -> dict[str, int]:
    """The counts by their nouns, in the plural unless the count is 1.

    >>> by_nouns({"image": 2400, "category": 1})
    {'images': 2400, 'category': 1}
    """
    return {plural(count, noun).split(" ", 1)[1]: count for noun, count in counts.items()}


def significant(value: float, digits: int) -> str:
    """A number with this many significant digits, and always those before its point.

    >>> significant(2.25, 2), significant(99.6, 2), significant(1234.5, 3)
    ('2.2', '100', '1,234')
    """
    return f"{value:.{digits}g}" if abs(value) < 10**digits - 0.5 else f"{value:,.0f}"


def listed(items: Iterable[object], *, most: int = 3, between: str = ", ") -> str:
    """The first ``most`` items, and how many more there are.

    >>> listed([3, 5, 8, 13, 21]), listed(["cat"])
    ('3, 5, 8, and 2 more', 'cat')
    """
    every = list(items)
    more = [f"and {len(every) - most:,} more"] if len(every) > most else []
    return between.join([*map(str, every[:most]), *more])


def listed_below(what: str, items: Any, *, others: str) -> list[str]:
    """Lines: how many there are, the first ``MAX_LINES`` of them, and what lists them all; none without items.

    >>> lines = listed_below("invalid", [3, 5, 8, 13, 21, 34], others="--findings")
    >>> lines[:2], lines[-1]
    (['6 invalid:', '  3'], '  and 1 more: --findings lists them all')
    """
    if not len(items):
        return []
    more = [f"and {len(items) - MAX_LINES:,} more: {others} lists them all"] if len(items) > MAX_LINES else []
    return [f"{len(items):,} {what}:", *(f"  {item}" for item in [*items[:MAX_LINES], *more])]


def printable(text: str, *, lines: bool = False) -> str:
    """The text with each character that a terminal would obey written as its escape; with ``lines`` it may have several.

    >>> printable("cell" + chr(27) + "[2J") == "cell" + chr(92) + "x1b[2J"
    True
    """
    return _OBEYED.sub(lambda found: found[0] if lines and found[0] in "\t\n" else repr(found[0])[1:-1], text)


def shortened(name: str) -> str:
    """A name of at most ``MAX_NAME`` characters, without the middle of a longer one.

    >>> shortened("cell"), shortened("a" * 40 + "b" * 400), len(shortened("c" * 61))
    ('cell', 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa…bbbbbbbbbbbbbbbbbbbbbbbbbbbbb', 60)
    """
    return name if len(name) <= MAX_NAME else f"{name[: MAX_NAME // 2]}…{name[1 - MAX_NAME // 2 :]}"
