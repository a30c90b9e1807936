"""How numbers are written in JSON: as whole numbers such as 10, or with a point such as 10.0.

Columns hold floats; the style of an entry's numbers, kept in the bits of one integer, gives their text again.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt16
from numpy import ndarray

LARGEST_WHOLE = 2.0**53  # beyond it a float does not hold each whole number
WHOLE_BIT = {"x": 1, "y": 2, "width": 4, "height": 8, "area": 16, "angle": 32, "rotation": 64}
BOOL_BIT = 128  # iscrowd is true or false, not 1 or 0
LIST_SHIFT = 8  # the bits from here on are the style of a list
LIST_STYLES = ("whole", "point", "whole visibility", "whole where possible")


def read_numbers(values: Sequence[float]) -> tuple[Float64[ndarray, " n"], Bool[ndarray, " n"], Bool[ndarray, " n"]]:
    """Numbers as floats, whether each is written as a whole number, and whether the float and this give it again.

    >>> read_numbers([10, 10.5, 2**53 + 1])[1:]
    (array([ True, False,  True]), array([ True,  True, False]))
    """
    numbers = np.fromiter(values, float, len(values))
    is_whole = numbers == np.rint(numbers)
    rows = np.flatnonzero(is_whole)  # of coordinates with decimals, few
    is_whole[rows] = [type(values[row]) is int for row in rows.tolist()]
    return numbers, is_whole, ~is_whole | (np.abs(numbers) < LARGEST_WHOLE)


def list_styles(lists: Sequence[Sequence[float]]) -> tuple[UInt16[ndarray, " n"], Bool[ndarray, " n"]]:
    """The first of ``LIST_STYLES`` by which each list is written, as bits, and whether there is one.

    >>> bits, found = list_styles([[1, 2, 2], [1.5, 2.0, 2], [1.5, 2, 2], [1, 2.0, 0]])
    >>> (bits >> LIST_SHIFT).tolist(), found.tolist()
    ([0, 2, 3, 0], [True, True, True, False])
    """
    lengths = np.fromiter(map(len, lists), np.int64, len(lists))
    numbers, is_whole, exact = read_numbers(list(chain.from_iterable(lists)))
    rows, place = _rows_and_places(lengths)
    bits, found = np.zeros(len(lists), np.uint16), np.zeros(len(lists), bool)
    for style in reversed(range(len(LIST_STYLES))):
        fails = (_whole_in(style, numbers, place) != is_whole) | ~exact
        fits = np.bincount(rows, fails, len(lists)) == 0
        bits[fits], found = style << LIST_SHIFT, found | fits
    return bits, found


def restore_list(numbers: Sequence[float], bits: int) -> list[float]:
    """The numbers of a list as they were written.

    >>> restore_list([1.5, 2.0, 2.0], 2 << LIST_SHIFT)
    [1.5, 2.0, 2]
    """
    array = np.array(numbers, float)
    is_whole = _whole_in(bits >> LIST_SHIFT, array, np.arange(len(array)))
    return [int(number) if whole else number for number, whole in zip(numbers, is_whole.tolist(), strict=True)]


def _rows_and_places(lengths: Int64[ndarray, " n"]) -> tuple[Int64[ndarray, " m"], Int64[ndarray, " m"]]:
    """The list that each number lies in, and its place there."""
    starts = np.cumsum(lengths) - lengths
    return np.repeat(np.arange(len(lengths)), lengths), np.arange(lengths.sum()) - np.repeat(starts, lengths)


def _whole_in(style: int, numbers: Float64[ndarray, " n"], place: Int64[ndarray, " n"]) -> Bool[ndarray, " n"]:
    """Whether each number of a list is a whole number in a style."""
    name = LIST_STYLES[style]
    if name == "whole visibility":
        return place % 3 == 2
    if name == "whole where possible":
        return numbers == np.rint(numbers)
    return np.full(len(numbers), name == "whole")
