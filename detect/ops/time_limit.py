"""A limit on the time of a search, which then ends with the best that it has; and what it is doing meanwhile.

Searches ask :func:`is_over` in their loops, and :func:`tell` what they do. Both concern the limit around the call, as
``numpy.errstate`` does: in the same thread alone, and until the block ends. Without one, or if it is not reached, nothing
depends on a clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

Item = TypeVar("Item")


class TimeLimit:
    """A number of seconds, from now on, and whether a search was cut by it; made by :func:`time_limit`."""

    def __init__(self, seconds: float, on_step: Callable[[str], object], clock: Callable[[], float]) -> None:
        self.seconds, self.on_step = seconds, on_step
        self.was_reached = False
        self._clock, self._end = clock, clock() + seconds

    @property
    def stopped_after_s(self) -> float | None:
        """The seconds, if a search was cut by them."""
        return self.seconds if self.was_reached else None

    def is_over(self) -> bool:
        """Whether the time is up, which is noted: whoever asks ends what he does."""
        self.was_reached = self.was_reached or self._clock() >= self._end
        return self.was_reached


_AROUND: ContextVar[TimeLimit | None] = ContextVar("_AROUND", default=None)


@contextmanager
def time_limit(
    seconds: float,
    on_step: Callable[[str], object] = lambda _: None,
    *,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[TimeLimit]:
    """Let the searches in a block end after some seconds in all, with the best they have by then.

    Args:
        on_step: called with what a search does next, in words.
        clock: the time in seconds.

    Raises:
        ValueError: the seconds are negative or not a number.

    >>> with time_limit(0) as limit:
    ...     best_until([1, 4, 2], lambda number: number), limit.was_reached
    (1, True)
    """
    if not seconds >= 0:
        raise ValueError(f"need seconds >= 0, got {seconds}")
    limit = TimeLimit(seconds, on_step, clock)
    before = _AROUND.set(limit)
    try:
        yield limit
    finally:
        _AROUND.reset(before)


def is_over() -> bool:
    """Whether the time of the block around the call is up; never without a limit."""
    limit = _AROUND.get()
    return limit is not None and limit.is_over()


def tell(step: str) -> None:
    """Say what is done next."""
    if limit := _AROUND.get():
        limit.on_step(step)


def best_until(items: Iterable[Item], key: Callable[[Item], Any]) -> Item:
    """The item of the highest key, the first on ties, among those that the time suffices for: at least the first.

    >>> best_until(["a", "ccc", "bbb"], key=len)
    'ccc'
    """
    best: list[tuple[Item, Any]] = []
    for item in items:
        value = key(item)
        if not best or value > best[0][1]:
            best = [(item, value)]
        if is_over():
            break
    return best[0][0]
