"""What a box gains from a shape that lies on the grid of a pyramid level: at its own position, or at any.

Centres of one level are a stride apart along each axis, and the nearest is the best (:mod:`detect.anchors.grid_iou`).

**At its own position** (:class:`OwnPositions`) how far a box lies from the nearest centre is known for each level. **At any
position** (:class:`AnyPosition`), where a cell of a histogram stands for many boxes, the distance is uniform from 0 to half
a stride along each axis (:mod:`detect.anchors.position_means`), which leaves out the borders of the image.

**Levels by size** (``max_strides``). The finest grid covers every box best, but of a large box many anchors of a fine level
are then positive, and in a detector's loss large objects outvote small ones. With ``max_strides`` a box gains nothing from
levels of whose stride its size, the root of its area, is more than so many times; the coarsest level is for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float64
from numpy import ndarray

from detect.anchors.anchor_set import CENTER_OF_CELL
from detect.anchors.grid_iou import distance_to_grid, overlap_at
from detect.anchors.histogram import ShapeHistogram
from detect.anchors.instances import ResizedInstances, weighted_histograms
from detect.anchors.position_means import mean_gain, overlaps_of
from detect.anchors.shape_gain import ShapeGain
from detect.errors import FitError

FEW_BOXES = 5000  # so many are fitted at their own positions
MAX_CELLS = 2000  # of a histogram; finer ones are joined


@dataclass(frozen=True, eq=False)
class OwnPositions:
    """Boxes where they are, each with its distance to the nearest centre of each level; made by :meth:`of`."""

    extents: Float64[ndarray, "2 n"]
    """Widths, and heights, in pixels."""
    far: Float64[ndarray, "l 2 n"]
    """Distance in pixels to the nearest centre of each level, along x and y."""
    weights: Float64[ndarray, " n"]
    """Positive; their sum is 1."""
    served: Bool[ndarray, "l n"]
    """Which levels are for which box."""
    strides: tuple[int, ...]
    center_offset: float
    gain: ShapeGain
    histogram_error: float = 0.0

    @classmethod
    def of(
        cls,
        instances: ResizedInstances,
        strides: Sequence[int],
        *,
        objective: str = "iou",
        weights: Float64[ndarray, " n"] | None = None,
        center_offset: float = CENTER_OF_CELL,
        stride_mode: str = "exact",
        max_strides: float | None = None,
    ) -> OwnPositions:
        """The instances of a dataset on levels of these strides.

        Args:
            instances: boxes after the detector's resize rule.
            strides: of the levels, in pixels, from fine to coarse.
            objective: see :meth:`ShapeGain.parse`.
            weights: how much each instance counts, alike by default; those of weight 0 are left out.
            center_offset: where in its cell an anchor lies, from 0 (corner) to 1; 0.5 is the middle.
            stride_mode: what a level's stride is, see :class:`detect.anchors.generator.Convention`.
            max_strides: how many of a level's strides a box's size is at most; no limit by default.

        Raises:
            FitError: no boxes.
            ValueError: an objective that does not parse, negative weights, strides that do not rise, an unknown rule, or a
                limit that is not positive.
        """
        _check(len(instances), strides)
        corners = instances.boxes.T
        extents, centers = corners[2:] - corners[:2], (corners[:2] + corners[2:]) / 2
        canvas = instances.canvas_wh.T
        far = np.array(
            [
                [distance_to_grid(centers[k], canvas[k], stride, stride_mode, center_offset) for k in (0, 1)]
                for stride in strides
            ]
        )
        shares = _shares(len(instances), weights)
        order = np.lexsort(
            (shares, *far.reshape(-1, far.shape[-1]), *extents)
        )  # sums do not depend on the data's order
        order = order[shares[order] > 0]
        gain = ShapeGain.parse(objective)
        own = extents[:, order]
        served = levels_by_size(own, strides, max_strides)
        return cls(own, far[:, :, order], shares[order], served, tuple(strides), center_offset, gain)

    def gains(self, level: int, shapes: Float64[ndarray, "a 2"]) -> Float64[ndarray, "a n"]:
        """What each box has from each shape on a level: that of the best of all anchors of this shape and level.

        >>> from detect.data import read_coco
        >>> from detect.data.resize import parse_resize
        >>> dataset = read_coco({
        ...     "images": [{"id": 1, "width": 64, "height": 64}], "categories": [{"id": 1, "name": "cell"}],
        ...     "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 32, 32]}],
        ... })
        >>> boxes = OwnPositions.of(ResizedInstances.of(dataset, parse_resize("none")), (16, 64))
        >>> boxes.gains(0, np.array([[32.0, 32.0], [48.0, 48.0]])).round(4)
        array([[0.3913],
               [0.4444]])
        """
        return self.gain.of_iou(_iou(self.extents, self.far[level], shapes)) * self.served[level]


@dataclass(frozen=True, eq=False)
class AnyPosition:
    """Cells of a histogram, whose boxes may lie anywhere against the grid; made by :meth:`of`."""

    extents: Float64[ndarray, "2 n"]
    """Widths, and heights, in pixels."""
    weights: Float64[ndarray, " n"]
    """Positive; their sum is 1."""
    served: Bool[ndarray, "l n"]
    """Which levels are for which box."""
    strides: tuple[int, ...]
    center_offset: float
    gain: ShapeGain
    histogram_error: float
    """How far the mean IoU over the cells can lie from that over the boxes; of recall there is no such bound."""

    @classmethod
    def of(
        cls,
        histogram: ShapeHistogram | Sequence[ShapeHistogram],
        strides: Sequence[int],
        *,
        objective: str = "iou",
        weights: Sequence[float] | None = None,
        center_offset: float = CENTER_OF_CELL,
        max_strides: float | None = None,
    ) -> AnyPosition:
        """The cells of a histogram on levels of these strides; a cell's boxes are all taken for its mean.

        Of several histograms, ``weights`` are those of a box in each.

        A mean over positions of IoU changes by no more than \\|d ln w\\| + \\|d ln h\\|, as IoU itself does: the histogram's
        error bound holds. Of a cell that a limit of sizes may cut in two, all is counted as error.

        Raises:
            FitError: no boxes.
            ValueError: an objective that does not parse, or strides that do not rise.
        """
        parts = [histogram] if isinstance(histogram, ShapeHistogram) else list(histogram)
        _check(sum(map(len, parts)), strides)
        gain = ShapeGain.parse(objective)
        factors = np.ones(len(parts)) if weights is None else np.array(weights, np.float64)
        totals = np.concatenate([part.counts * factor for part, factor in zip(parts, factors, strict=True)])
        error = (1 - gain.recall_share) * max(part.iou_error_bound for part in parts)
        extents, shares = np.concatenate([part.shapes.T for part in parts], axis=1), totals / totals.sum()
        cell = 2 ** (1 / min(part.cells_per_octave for part in parts))
        served, larger = (levels_by_size(extents * factor, strides, max_strides) for factor in (1.0, cell))
        smaller = levels_by_size(extents / cell, strides, max_strides)
        error += float(shares[(larger != smaller).any(axis=0)].sum())
        return cls(extents, shares, served, tuple(strides), center_offset, gain, error)

    def gains(self, level: int, shapes: Float64[ndarray, "a 2"]) -> Float64[ndarray, "a n"]:
        """What each cell has from each shape on a level, in the mean over positions.

        A box and an anchor of 16 pixels on a stride of 16 overlap by 8 to 16 pixels along each axis.

        >>> cells = AnyPosition.of(ShapeHistogram.of(np.array([[16.0, 16.0]])), (16, 32))
        >>> cells.gains(0, np.array([[16.0, 16.0], [20.0, 20.0]])).round(4)
        array([[0.4086],
               [0.4148]])
        """
        areas = self.extents.prod(axis=0) + shapes.prod(axis=1)[:, None]
        return mean_gain(*overlaps_of(self.extents, shapes, self.strides[level]), areas, self.gain) * self.served[level]


PlacedGain = OwnPositions | AnyPosition


def placed_gain(
    instances: ResizedInstances,
    strides: Sequence[int],
    *,
    objective: str = "iou",
    weights: Float64[ndarray, " n"] | None = None,
    center_offset: float = CENTER_OF_CELL,
    stride_mode: str = "exact",
    max_strides: float | None = None,
    few_boxes: int = FEW_BOXES,
) -> PlacedGain:
    """The instances at their own positions where there are few, else their shapes at any position.

    Arguments are those of :class:`OwnPositions`; at any position, offset and rule of the centres make no difference.

    >>> from detect.data import read_coco
    >>> from detect.data.resize import parse_resize
    >>> from detect.samples import sample_annotations
    >>> instances = ResizedInstances.of(read_coco(sample_annotations("nuclei")), parse_resize("none"))
    >>> placed_gain(instances, (4, 8, 16)).far.shape[2] == len(instances)
    True
    """
    if len(instances) <= few_boxes:
        return OwnPositions.of(
            instances,
            strides,
            objective=objective,
            weights=weights,
            center_offset=center_offset,
            stride_mode=stride_mode,
            max_strides=max_strides,
        )
    parts, factors = [instances.histogram], [1.0]
    if weights is not None:
        parts, factors = weighted_histograms(instances.shapes, weights, instances.histogram.cells_per_octave)
    few = _few_cells(parts)
    cells = AnyPosition.of(
        few, strides, objective=objective, weights=factors, center_offset=center_offset, max_strides=max_strides
    )
    share = 1 - cells.gain.recall_share
    error = max(_error_of_joining(part, joined) for part, joined in zip(parts, few, strict=True))
    worst = max(joined.iou_error_bound for joined in few)  # in place of which the error is known better
    return replace(cells, histogram_error=cells.histogram_error + share * (error - worst))


def levels_by_size(
    extents: Float64[ndarray, "2 n"], strides: Sequence[int], max_strides: float | None
) -> Bool[ndarray, "l n"]:
    """Which levels are for boxes of which size; the last is for all.

    >>> levels_by_size(np.array([[8.0, 32.0, 99.0], [8.0, 50.0, 99.0]]), (4, 8, 16), 4)
    array([[ True, False, False],
           [ True, False, False],
           [ True,  True,  True]])

    Raises:
        ValueError: a limit that is not positive.
    """
    if max_strides is not None and not 0 < max_strides < np.inf:
        raise ValueError(f"need a positive limit of sizes in strides, got {max_strides}")
    limit = np.inf if max_strides is None else max_strides
    limits = np.array([*(limit * stride for stride in strides[:-1]), np.inf])
    served: Bool[ndarray, "l n"] = np.sqrt(extents.prod(axis=0)) <= limits[:, None]
    return served


def _iou(
    extents: Float64[ndarray, "2 n"], far: Float64[ndarray, "2 n"], shapes: Float64[ndarray, "a 2"]
) -> Float64[ndarray, "a n"]:
    overlaps = [overlap_at(extents[k], far[k], shapes[:, k : k + 1]) for k in (0, 1)]
    both = np.multiply(*overlaps)
    union = extents.prod(axis=0) + shapes.prod(axis=1)[:, None]
    union -= both
    return np.divide(both, union, out=both)


def _few_cells(histograms: Sequence[ShapeHistogram]) -> list[ShapeHistogram]:
    """Neighbouring cells joined until few are left."""
    joined, cells_per_octave = list(histograms), histograms[0].cells_per_octave
    while sum(map(len, joined)) > MAX_CELLS and cells_per_octave % 2 == 0:
        cells_per_octave //= 2
        joined = [
            ShapeHistogram.of(each.shapes, counts=each.counts, cells_per_octave=cells_per_octave) for each in histograms
        ]
    return joined


def _error_of_joining(fine: ShapeHistogram, joined: ShapeHistogram) -> float:
    """How far the mean IoU over joined cells can lie from that over the boxes, as their means are known to lie apart."""
    factor = fine.cells_per_octave // joined.cells_per_octave
    row = np.unique(fine.cells // factor, axis=0, return_inverse=True)[1].reshape(-1)
    moved = np.abs(np.log(fine.shapes / joined.shapes[row])).sum(axis=1)
    known = fine.iou_error_bound + float((moved * fine.counts).sum()) / max(fine.num_boxes, 1)
    return min(known, joined.iou_error_bound)


def _shares(count: int, weights: Float64[ndarray, " n"] | None) -> Float64[ndarray, " n"]:
    given = np.ones(count) if weights is None else weights
    if len(given) != count or not (np.isfinite(given).all() and (given >= 0).all() and given.any()):
        raise ValueError(f"need a finite weight from 0 for each of {count} boxes, not all 0")
    return given / given.sum()


def _check(count: int, strides: Sequence[int]) -> None:
    if not count:
        raise FitError("no boxes to fit anchors to")
    if not strides or min(strides) < 1 or list(strides) != sorted(set(strides)):
        raise ValueError(f"need different strides from 1, from fine to coarse, got {list(strides)}")
