"""Anchors as frameworks are configured: every size by every ratio on each level, fitted on the grid.

Three layouts, each a case of the next, and all of them of free (width, height) lists:

    octaves       one list of ratios, and sizes in strides 2**(i / s) times one base    mmdetection's octave_base_scale
    grid          one list of ratios, and a list of sizes for each level                 detectron2, torchvision
    level-grids   a list of ratios and a list of sizes for each level                    torchvision's AnchorGenerator

A size is the root of an area in pixels, a ratio is height / width. The score that a layout loses against free lists is its
penalty.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from detect.anchors.anchor_set import AnchorSet
from detect.fitting.coordinate_search import mean_best, searched
from detect.fitting.gains import Boxes
from detect.fitting.grid_fit import GridFit, fit_on_grid, score_on_grid
from detect.ops.time_limit import best_until, tell

LAYOUTS = ("octaves", "grid", "level-grids")
DEFAULT_SIZE_IN_STRIDES = 4.0  # Lin et al. 2017, section 4; the default of torchvision, detectron2 and mmdetection
FACTOR_STEP = 0.03  # nepers
POLISH_STEP = 0.03
LEAST = 1e-3  # nepers between two sizes or ratios of a level


@dataclass(frozen=True)
class StructuredFit:
    """Sizes and ratios, their score, and the score of free shapes; made by :func:`fit_layouts`."""

    layout: str
    sizes: tuple[tuple[float, ...], ...]
    """In pixels, for each level."""
    ratios: tuple[tuple[float, ...], ...]
    """Height / width, for each level."""
    anchors: AnchorSet
    """On each level ratio after ratio, and for each its sizes: torchvision's order."""
    score: float
    default_score: float
    """Score of the frameworks' default anchors, scaled by the best single factor."""
    default_factor: float
    free_score: float
    """Score of the same number of free shapes on each level; NaN for octaves alone, which do without these."""

    @property
    def penalty(self) -> float:
        """The score that the layout loses against free shapes."""
        return self.free_score - self.score


@dataclass(frozen=True, eq=False)
class _Grid:
    """Logarithms of sizes and ratios for each level, or a direction in which a search moves them."""

    sizes: Float64[ndarray, "l s"]
    ratios: Float64[ndarray, "l r"]

    @property
    def shapes(self) -> Float64[ndarray, "l k 2"]:
        half = self.ratios[:, :, None] / 2
        sizes = self.sizes[:, None]
        shapes: Float64[ndarray, "l k 2"] = np.exp(np.stack([sizes - half, sizes + half], axis=-1))
        return shapes.reshape(len(self.sizes), -1, 2)

    def level_shapes(self, level: int) -> Float64[ndarray, "k 2"]:
        return self.shapes[level]

    def touches(self, level: int) -> bool:
        return bool(self.sizes[level].any() or self.ratios[level].any())

    def apart(self) -> _Grid:
        """Equal sizes or ratios of a level moved apart: frameworks take no anchor twice."""
        return _Grid(_apart(self.sizes), _apart(self.ratios))

    def moved(self, direction: _Grid, step: float) -> _Grid:
        return _Grid(self.sizes + step * direction.sizes, self.ratios + step * direction.ratios)


def fit_layouts(
    boxes: Boxes,
    *,
    widest: str = "level-grids",
    scales: int = 3,
    ratios: int = 3,
    free: GridFit | None = None,
    start: AnchorSet | None = None,
    draft: int | None = None,
) -> tuple[StructuredFit, ...]:
    """The best sizes and ratios that a search finds for each of ``LAYOUTS`` up to the widest, the narrowest first.

    A layout is never worse than a narrower one, and never worse than scaled default anchors.

    Args:
        boxes: the boxes to fit to, see :func:`detect.fitting.any_position.boxes_on_grid`.
        widest: one of ``LAYOUTS``.
        scales: number of sizes on each level.
        ratios: number of ratios on each level.
        free: the fit of ``scales * ratios`` free shapes on each level, if it exists already; octaves alone need none.
        start: anchors to start from as well; a layout that they have is not inferior to them.
        draft: search on at most this many boxes, spread over all sizes; only the widest layout is polished on all.

    Raises:
        ValueError: the layout is not known, or a number is below 1.

    >>> from detect.anchors.histogram import ShapeHistogram
    >>> from detect.fitting.any_position import AnyPosition
    >>> cells = AnyPosition.of(ShapeHistogram.of(np.array([[40.0, 10.0], [20.0, 20.0], [160.0, 40.0]])), (2, 8))
    >>> (fit,) = fit_layouts(cells, widest="octaves", scales=1, ratios=2)
    >>> [round(size) for (size,) in fit.sizes], [round(ratio) for ratio in fit.ratios[0]]
    ([20, 80], [0, 1])
    >>> fit.score > fit.default_score + 0.01
    True
    """
    if widest not in LAYOUTS:
        raise ValueError(f"layout {widest!r} is not one of {', '.join(LAYOUTS)}")
    if min(scales, ratios) < 1:
        raise ValueError(f"need scales >= 1 and ratios >= 1, got {scales=}, {ratios=}")
    if free is None and widest != LAYOUTS[0]:
        free = fit_on_grid(boxes, per_level=scales * ratios, certify=None)
    some = boxes.thinned(draft) if draft else boxes
    factor, scaled = _best_factor(some, _default(some, scales, ratios))
    default_score = score_on_grid(boxes, _anchors(boxes, scaled))
    best, fits = scaled, []
    for layout in LAYOUTS[: LAYOUTS.index(widest) + 1]:
        tell(f"searching for {layout}")
        starts = itertools.chain([best, scaled], _starts(some, layout, scales, ratios, free, start))
        ends = (searched(some, each, list(_moves(layout, each))) for each in starts)
        best = best_until([*ends, best], key=partial(mean_best, some))
        if len(some) < len(boxes):
            if layout != widest:
                continue
            best = searched(boxes, best, list(_moves(layout, best)), first_step=POLISH_STEP)
        best = best.apart()
        anchors = _anchors(boxes, best)
        sizes, of_level = (tuple(tuple(np.exp(row).tolist()) for row in part) for part in (best.sizes, best.ratios))
        scores = score_on_grid(boxes, anchors), default_score, factor, free.score if free else math.nan
        fits.append(StructuredFit(layout, sizes, of_level, anchors, *scores))
    return tuple(fits)


def _default(boxes: Boxes, scales: int, ratios: int) -> _Grid:
    """Octave steps from four strides, and ratios from 1/2 to 2."""
    strides = np.log(np.array(boxes.strides, float))[:, None]
    sizes = np.log(DEFAULT_SIZE_IN_STRIDES) + np.arange(scales) / scales * np.log(2) + strides
    ends = np.log(2) if ratios > 1 else 0.0
    return _Grid(sizes, np.tile(np.linspace(-ends, ends, ratios), (len(strides), 1)))


def _best_factor(boxes: Boxes, grid: _Grid) -> tuple[float, _Grid]:
    """The factor for all sizes with the highest score (the nearest to 1 on ties), and the scaled grid."""
    everything = _Grid(np.ones_like(grid.sizes), np.zeros_like(grid.ratios))
    extents = np.log(np.sqrt(boxes.extents.prod(axis=0)))
    low, high = extents.min() - grid.sizes.max(), extents.max() + 1 - grid.sizes.min()
    steps = np.linspace(low, high, int(np.ceil((high - low) / FACTOR_STEP)) + 1).tolist()

    def score(step: float) -> float:
        return mean_best(boxes, grid.moved(everything, step))

    step = best_until(sorted(steps, key=abs), score)
    step = best_until([step, *(step + FACTOR_STEP * np.linspace(-1, 1, 31)).tolist()], score)
    return float(np.exp(step)), grid.moved(everything, step)


def _starts(
    boxes: Boxes, layout: str, scales: int, ratios: int, free: GridFit | None, start: AnchorSet | None
) -> Iterator[_Grid]:
    """Quantiles of the boxes' ratios; and free or given shapes of each level, split into sizes and ratios."""
    logs = np.log(boxes.extents)
    order = np.argsort(logs[1] - logs[0], kind="stable")
    shares = np.cumsum(boxes.weights[order])
    rows = np.searchsorted(shares, (np.arange(ratios) + 0.5) / ratios * shares[-1]).clip(max=len(order) - 1)
    own_ratios = np.tile((logs[1] - logs[0])[order][rows], (len(boxes.strides), 1))
    yield _best_factor(boxes, _Grid(_default(boxes, scales, ratios).sizes, own_ratios))[1]
    given = [free.anchors, start] if free and layout != "octaves" else [start]
    for anchors in filter(None, given):
        if [len(level.shapes) for level in anchors.levels] == [scales * ratios] * len(boxes.strides):
            yield _split(boxes, anchors, layout, scales, ratios)


def _split(boxes: Boxes, anchors: AnchorSet, layout: str, scales: int, ratios: int) -> _Grid:
    """Sizes and ratios close to the shapes of each level: their own if they have the layout."""
    shapes = np.log(np.array([level.shapes for level in anchors.levels]))
    sizes, of_level = np.sort(shapes.sum(axis=2) / 2, axis=1), np.sort(shapes[:, :, 1] - shapes[:, :, 0], axis=1)
    split = of_level.reshape(len(sizes), ratios, scales).mean(axis=2)
    if layout != "level-grids":
        split = np.tile(np.sort(of_level.ravel()).reshape(ratios, -1).mean(axis=1), (len(sizes), 1))
    sizes = sizes.reshape(len(sizes), scales, ratios).mean(axis=2)
    if layout == "octaves":
        octaves = _default(boxes, scales, ratios).sizes
        sizes = octaves + (sizes - octaves).mean()
    return _Grid(sizes, split)


def _moves(layout: str, grid: _Grid) -> Iterator[_Grid]:
    """The directions that a layout allows: all sizes, then each of its parameters."""
    no_sizes, no_ratios, levels = np.zeros_like(grid.sizes), np.zeros_like(grid.ratios), np.eye(len(grid.sizes))
    yield _Grid(no_sizes + 1, no_ratios)
    if layout != "octaves":
        for level, number in itertools.product(levels, np.eye(no_sizes.shape[1])):
            yield _Grid(np.outer(level, number), no_ratios)
    for number in np.eye(no_ratios.shape[1]):
        yield _Grid(no_sizes, np.tile(number, (len(levels), 1)))
        if layout == "level-grids":
            yield from (_Grid(no_sizes, np.outer(level, number)) for level in levels)


def _apart(rows: Float64[ndarray, "l k"]) -> Float64[ndarray, "l k"]:
    """Values of a row that are at least ``LEAST`` apart, in the same order.

    >>> _apart(np.array([[0.5, 0.1, 0.1], [0.1, 0.2, 0.3]])).tolist()
    [[0.5, 0.1, 0.101], [0.1, 0.2, 0.3]]
    """
    order, steps = np.argsort(rows, axis=1, kind="stable"), LEAST * np.arange(rows.shape[1])
    rising = np.maximum.accumulate(np.take_along_axis(rows, order, axis=1) - steps, axis=1) + steps
    apart = np.empty_like(rows)
    np.put_along_axis(apart, order, rising, axis=1)
    return apart


def _anchors(boxes: Boxes, grid: _Grid) -> AnchorSet:
    return AnchorSet.of(list(grid.shapes), strides=boxes.strides, center_offset=boxes.center_offset, name="fitted")
