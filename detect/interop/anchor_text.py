"""What the writers of anchor texts share: their result, sizes by ratios found in free shapes, and printed numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from detect.anchors.anchor_set import CENTER_OF_CELL, DIGITS, AnchorSet

ROUNDING = 1e-5  # relative: the error of a ratio of two numbers in a file, of six digits
SIZE_ROUNDING = 3e-6
SAME = 3 * ROUNDING

Shape = tuple[float, float]


@dataclass(frozen=True)
class Conversion:
    """A configuration text, and notes for the user."""

    text: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ShapeGrid:
    """A level whose shapes are all sizes by all ratios: (size / sqrt(ratio), size * sqrt(ratio)).

    Both are in the order in which the level's shapes first have them.
    """

    sizes: tuple[float, ...]
    ratios: tuple[float, ...]
    ratio_outer: bool
    """The shapes go through all sizes of one ratio, then of the next."""
    size_outer: bool
    """The shapes go through all ratios of one size, then of the next."""

    def is_like(self, other: ShapeGrid) -> bool:
        """Whether both have the same sizes, ratios and order."""
        if (len(self.sizes), self.ratio_outer, self.size_outer) != (
            len(other.sizes),
            other.ratio_outer,
            other.size_outer,
        ):
            return False
        pairs = zip(self.sizes + self.ratios, other.sizes + other.ratios, strict=True)
        return all(math.isclose(own, others, rel_tol=2 * SAME) for own, others in pairs)


def find_grid(shapes: Sequence[Shape]) -> ShapeGrid | None:
    """The sizes and ratios whose products are these shapes, or None.

    >>> find_grid([(20, 10), (40, 20), (10, 20), (20, 40)])
    ShapeGrid(sizes=(14.1421, 28.2843), ratios=(0.5, 2.0), ratio_outer=True, size_outer=False)
    """
    sizes = _distinct((math.sqrt(w * h) for w, h in shapes), SIZE_ROUNDING)
    ratios = _distinct((h / w for w, h in shapes), ROUNDING)
    if len(sizes) * len(ratios) != len(shapes):
        return None
    by_ratio = [_shape(size, ratio) for ratio in ratios for size in sizes]
    by_size = [_shape(size, ratio) for size in sizes for ratio in ratios]
    if not all(any(is_same(pair, shape) for shape in shapes) for pair in by_ratio):
        return None
    in_order = [all(map(is_same, order, shapes)) for order in (by_ratio, by_size)]
    return ShapeGrid(sizes, ratios, *in_order)


def find_grids(anchors: AnchorSet) -> list[ShapeGrid]:
    """Sizes and ratios of every level, or an empty list if a level is not sizes by ratios."""
    grids = [find_grid(level.shapes) for level in anchors.levels]
    return [grid for grid in grids if grid is not None] if None not in grids else []


def in_strides(anchors: AnchorSet) -> list[list[Shape]]:
    """The shapes of each level as multiples of its stride."""
    return [[(w / level.stride, h / level.stride) for w, h in level.shapes] for level in anchors.levels]


def is_same(one: Shape, other: Shape) -> bool:
    """Whether two shapes are equal in the digits of a file."""
    return all(map(partial(math.isclose, rel_tol=SAME), one, other))


def strides_of_levels(anchors: AnchorSet) -> list[int]:
    return [level.stride for level in anchors.levels]


def center_note(anchors: AnchorSet, framework: str) -> tuple[str, ...]:
    """A note for a framework that centres anchors on the middle of the cell, if the set has another place."""
    if anchors.center_offset == CENTER_OF_CELL:
        return ()
    return (
        f"{framework} centres anchors on the middle of the cell, this set {anchors.center_offset:g} cells from its corner",
    )


def shortest(value: float, is_enough: Callable[[float], bool]) -> float:
    """The value in as few significant digits as are enough.

    >>> shortest(2 / 3, lambda value: abs(value - 2 / 3) < 0.01)
    0.67
    """
    rounded = (float(f"{value:.{digits}g}") for digits in range(1, 10))
    return next((each for each in rounded if is_enough(each)), value)


def quotient(value: float, divisor: float) -> float:
    """value / divisor in as few digits as give the value back in the digits of a file.

    >>> quotient(18.3274, 32)
    0.57273
    """
    return shortest(value / divisor, lambda short: in_file(short * divisor) == in_file(value))


def in_file(value: float) -> str:
    """The number in the digits of a file."""
    return f"{value:.{DIGITS}g}"


def numbers(rows: Sequence[float] | Sequence[Sequence[float]], inner: str = "[]") -> str:
    """Write numbers as a list in Python, JSON and YAML; ``inner`` are the brackets of nested lists.

    >>> numbers([(10, 13.5), (16, 30)], "()")
    '[(10, 13.5), (16, 30)]'
    """
    parts = (f"{row:.9g}" if isinstance(row, int | float) else inner[0] + numbers(row)[1:-1] + inner[1] for row in rows)
    return f"[{', '.join(parts)}]"


def one_row_a_level(anchors: AnchorSet, write: Callable[[Sequence[Shape]], str], indent: int) -> str:
    """One line for each level, with its name and stride in a comment."""
    rows = (f"{write(level.shapes)},  # {level.name}, stride {level.stride}" for level in anchors.levels)
    return "\n".join(" " * indent + row for row in rows)


def _shape(size: float, ratio: float) -> Shape:
    return size / math.sqrt(ratio), size * math.sqrt(ratio)


def _distinct(values: Iterable[float], rounding: float) -> tuple[float, ...]:
    """The different values in order of appearance, each the mean of its likes, shortened within a relative error."""
    groups: list[list[float]] = []
    for value in values:
        like = next((group for group in groups if math.isclose(value, group[0], rel_tol=SAME)), None)
        if like is None:
            groups.append([value])
        else:
            like.append(value)
    means = [math.fsum(group) / len(group) for group in groups]
    return tuple(shortest(mean, partial(math.isclose, mean, rel_tol=rounding)) for mean in means)
