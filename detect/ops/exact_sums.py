"""Sums over the shards of a dataset: the same to the last bit for any split and any order, since they are sums of integers.

What is computed on one shard is an object of :class:`Sums`, or anything with ``+``; :func:`add_up` adds those of all shards.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import reduce
from typing import Any, Generic, TypeVar

import numpy as np
from jaxtyping import Shaped
from numpy import ndarray

from detect.ops.box_arrays import row_blocks

BITS = 40  # resolution of a summed number: 2**-40

Item = TypeVar("Item")
Sum = TypeVar("Sum")


class Sums:
    """Base of dataclasses whose fields are added one by one, see :func:`add`."""

    def __add__(self: Sum, other: Sum) -> Sum:
        names = [field.name for field in fields(self)]  # type: ignore[arg-type]
        return type(self)(**{name: add(getattr(self, name), getattr(other, name)) for name in names})


def add(one: Any, other: Any) -> Any:
    """Add what has a ``+``, tuples item by item, mappings key by key in the order of keys; all else must be equal.

    >>> add((1, {"b": 2}, "px"), (10, {"a": 5, "b": 3}, "px"))
    (11, {'a': 5, 'b': 5}, 'px')
    """
    if isinstance(one, tuple):
        return tuple(add(*pair) for pair in zip(one, other, strict=True))
    if isinstance(one, Mapping):
        both = {key: add(one[key], other[key]) for key in one.keys() & other.keys()}
        own = {**one, **other, **both}
        return {key: own[key] for key in sorted(own)}
    if hasattr(one, "__add__") and not isinstance(one, str | bool):
        return one + other
    if one != other:
        raise ValueError(f"cannot add what belongs to {one} and to {other}")
    return one


def add_up(parts: Iterable[Sum]) -> Sum:
    """The sum of one or more parts."""
    return reduce(add, parts)


@dataclass(frozen=True)
class ExactMean(Sums):
    """A mean of counts, or of numbers of about 1: their number, and their sum in units of ``2**-BITS``.

    >>> halves = ExactMean.of(np.array([0.5, 1.0])) + ExactMean.of(np.array([0.0]))
    >>> halves.value, ExactMean.of(np.array([True, False, True])).value
    (0.5, 0.6666666666666666)
    """

    count: int
    total: int

    @classmethod
    def of(cls, values: Shaped[ndarray, " n"]) -> ExactMean:
        if values.dtype.kind in "biu":
            return cls(len(values), int(values.sum()) << BITS)
        blocks = (values[rows] for rows in row_blocks(len(values)))  # sums of blocks do not exceed 64 bits
        return cls(len(values), sum(int(np.rint(block * 2.0**BITS).astype(np.int64).sum()) for block in blocks))

    @property
    def value(self) -> float:
        """The mean; NaN without values."""
        return self.total / (self.count << BITS) if self.count else float("nan")


def mean_or_nan(values: Shaped[ndarray, " n"]) -> float:
    """The mean of counts, or of numbers of about 1, whatever their order; NaN without values."""
    return ExactMean.of(values).value


@dataclass(frozen=True)
class FirstItems(Generic[Item]):
    """The number of items, and the first of them in their order, at most ``most``; a sequence of the latter.

    >>> FirstItems.of([8, 5, 9], most=2) + FirstItems.of([7], most=2)
    FirstItems(count=4, items=(5, 7), most=2)
    """

    count: int
    items: tuple[Item, ...]
    most: int

    @classmethod
    def of(cls, items: Iterable[Item], *, most: int) -> FirstItems[Item]:
        every = sorted(items, key=cls.order)
        return cls(len(every), tuple(every[:most]), most)

    @staticmethod
    def order(item: Any) -> Any:
        """What items are sorted by."""
        return item

    def __add__(self, other: FirstItems[Item]) -> FirstItems[Item]:
        items = tuple(heapq.merge(self.items, other.items, key=self.order))[: self.most]
        return type(self)(self.count + other.count, items, self.most)

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Item]:
        return iter(self.items)

    def __getitem__(self, rows: Any) -> Any:
        return self.items[rows]
