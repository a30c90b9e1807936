"""What a box gains from a shape that lies on the grid of a pyramid level: at its own position, or at any.

Centres of one level are a stride apart along each axis, and the nearest is the best (:mod:`detect.anchors.placed`).
Along an axis, a box of extent w and an anchor of extent W whose centres lie u apart overlap by

    x(u) = min(w, W, (w + W) / 2 - u),  at least 0:  a plateau of min(w, W) up to u = |w - W| / 2, then a ramp of slope -1.

**At its own position** (:class:`OwnPositions`) u is known for each level. **At any position** (:class:`AnyPosition`),
where a cell of a histogram stands for many boxes, u and v are uniform from 0 to half a stride, which leaves out the
borders of the image. With S the sum of both areas, IoU is x y / (S - x y), and its mean has a closed form: over
plateaus it is constant, over a plateau P and a ramp its integral is a logarithm, and over two ramps a dilogarithm,
since

    d2/dxdy Li2(x y / S) = 1 / (S - x y).

IoU reaches t where x y >= S t / (1 + t): the share of positions is an area under a hyperbola.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from numpy import ndarray
from scipy.special import spence

from detect.anchors.anchor_set import CENTER_OF_CELL
from detect.anchors.histogram import ShapeHistogram
from detect.anchors.instances import ResizedInstances
from detect.anchors.placed import _distance_to_grid
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
        center_offset: float = CENTER_OF_CELL,
        stride_rule: str = "exact",
    ) -> OwnPositions:
        """The instances of a dataset on levels of these strides.

        Args:
            instances: boxes after the detector's resize rule.
            strides: of the levels, in pixels, from fine to coarse.
            objective: see :meth:`ShapeGain.parse`.
            center_offset: where in its cell an anchor lies, from 0 (corner) to 1; 0.5 is the middle.
            stride_rule: what a level's stride is, see :class:`detect.anchors.grid.Dialect`.

        Raises:
            FitError: no boxes.
            ValueError: an objective that does not parse, or strides that do not rise.
        """
        _check(len(instances), strides)
        corners = instances.boxes.T
        extents, centers = corners[2:] - corners[:2], (corners[:2] + corners[2:]) / 2
        canvas = instances.canvas_wh.T
        far = np.array(
            [
                [_distance_to_grid(centers[k], canvas[k], stride, stride_rule, center_offset) for k in (0, 1)]
                for stride in strides
            ]
        )
        order = np.lexsort((*far.reshape(-1, far.shape[-1]), *extents))  # sums then do not depend on the data's order
        weights = np.full(len(instances), 1 / len(instances))
        return cls(
            extents[:, order], far[:, :, order], weights, tuple(strides), center_offset, ShapeGain.parse(objective)
        )

    def gains(self, level: int, shapes: Float64[ndarray, "a 2"]) -> Float64[ndarray, "a n"]:
        """What each box has from each shape on a level: that of the best of all anchors of this shape and level.

        >>> from detect.coco import read_coco
        >>> from detect.resize import parse_resize
        >>> dataset = read_coco({
        ...     "images": [{"id": 1, "width": 64, "height": 64}], "categories": [{"id": 1, "name": "cell"}],
        ...     "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 32, 32]}],
        ... })
        >>> boxes = OwnPositions.of(ResizedInstances.of(dataset, parse_resize("none")), (16, 64))
        >>> boxes.gains(0, np.array([[32.0, 32.0], [48.0, 48.0]])).round(4)
        array([[0.3913],
               [0.4444]])
        """
        return self.gain.of_iou(_iou(self.extents, self.far[level], shapes))


@dataclass(frozen=True, eq=False)
class AnyPosition:
    """Cells of a histogram, whose boxes may lie anywhere against the grid; made by :meth:`of`."""

    extents: Float64[ndarray, "2 n"]
    """Widths, and heights, in pixels."""
    weights: Float64[ndarray, " n"]
    """Positive; their sum is 1."""
    strides: tuple[int, ...]
    center_offset: float
    gain: ShapeGain
    histogram_error: float
    """How far the mean IoU over the cells can lie from that over the boxes; of recall there is no such bound."""

    @classmethod
    def of(
        cls,
        histogram: ShapeHistogram,
        strides: Sequence[int],
        *,
        objective: str = "iou",
        center_offset: float = CENTER_OF_CELL,
    ) -> AnyPosition:
        """The cells of a histogram on levels of these strides; a cell's boxes are all taken for its mean.

        A mean over positions of IoU changes by no more than \\|d ln w\\| + \\|d ln h\\|, as IoU itself does: the histogram's
        error bound holds.

        Raises:
            FitError: no boxes.
            ValueError: an objective that does not parse, or strides that do not rise.
        """
        _check(len(histogram), strides)
        gain = ShapeGain.parse(objective)
        weights = histogram.counts / histogram.num_boxes
        error = (1 - gain.recall_share) * histogram.iou_error_bound
        return cls(histogram.shapes.T.copy(), weights, tuple(strides), center_offset, gain, error)

    def gains(self, level: int, shapes: Float64[ndarray, "a 2"]) -> Float64[ndarray, "a n"]:
        """What each cell has from each shape on a level, in the mean over positions.

        A box and an anchor of 16 pixels on a stride of 16 overlap by 8 to 16 pixels along each axis.

        >>> cells = AnyPosition.of(ShapeHistogram.of(np.array([[16.0, 16.0]])), (16, 32))
        >>> cells.gains(0, np.array([[16.0, 16.0], [20.0, 20.0]])).round(4)
        array([[0.4086],
               [0.4148]])
        """
        areas = self.extents.prod(axis=0) + shapes.prod(axis=1)[:, None]
        return mean_gain(*overlaps_of(self.extents, shapes, self.strides[level]), areas, self.gain)


PlacedGain = OwnPositions | AnyPosition


def placed_gain(
    instances: ResizedInstances,
    strides: Sequence[int],
    *,
    objective: str = "iou",
    center_offset: float = CENTER_OF_CELL,
    stride_rule: str = "exact",
    few_boxes: int = FEW_BOXES,
) -> PlacedGain:
    """The instances at their own positions where there are few, else their shapes at any position.

    Arguments are those of :class:`OwnPositions`; at any position, offset and rule of the centres make no difference.

    >>> from detect.coco import read_coco
    >>> from detect.resize import parse_resize
    >>> from detect.samples import sample_annotations
    >>> instances = ResizedInstances.of(read_coco(sample_annotations("nuclei")), parse_resize("none"))
    >>> placed_gain(instances, (4, 8, 16)).far.shape[2] == len(instances)
    True
    """
    if len(instances) <= few_boxes:
        return OwnPositions.of(
            instances, strides, objective=objective, center_offset=center_offset, stride_rule=stride_rule
        )
    return AnyPosition.of(_few_cells(instances.histogram), strides, objective=objective, center_offset=center_offset)


@dataclass(frozen=True, eq=False)
class Overlap:
    """How far two intervals overlap along an axis when their centres lie anywhere from 0 to half a stride apart."""

    highest: Float64[ndarray, "*s"]
    """On the plateau."""
    lowest: Float64[ndarray, "*s"]
    """At half a stride."""
    level: Float64[ndarray, "*s"]
    """Share of positions on the plateau."""
    half: float
    """Half a stride, in pixels."""

    @classmethod
    def of(cls, extents: Float64[ndarray, "*n"], others: Float64[ndarray, "*a"], stride: int) -> Overlap:
        half = stride / 2
        highest = np.minimum(extents, others)
        lowest = np.clip((extents + others) / 2 - half, 0, highest)
        return cls(highest, lowest, np.minimum(np.abs(extents - others) / 2, half) / half, half)

    @property
    def ramp(self) -> Float64[ndarray, "*s"]:
        return self.highest - self.lowest


def overlaps_of(
    extents: Float64[ndarray, "2 n"], shapes: Float64[ndarray, "a 2"], stride: int
) -> tuple[Overlap, Overlap]:
    """Along both axes, of each box with each shape."""
    return Overlap.of(extents[0], shapes[:, :1], stride), Overlap.of(extents[1], shapes[:, 1:], stride)


def mean_gain(x: Overlap, y: Overlap, areas: Float64[ndarray, "*s"], gain: ShapeGain) -> Float64[ndarray, "*s"]:
    """The mean over positions of the gain, for overlaps along both axes and sums of both areas."""
    result = np.zeros(np.broadcast_shapes(x.highest.shape, y.highest.shape, areas.shape))
    if gain.recall_share < 1:
        result += (1 - gain.recall_share) * mean_iou(x, y, areas)
    if gain.recall_share > 0:
        result += gain.recall_share * share_above(x, y, areas * (gain.reaches / (1 + gain.reaches)))
    return result


def mean_iou(x: Overlap, y: Overlap, areas: Float64[ndarray, "*s"]) -> Float64[ndarray, "*s"]:
    """The mean of x y / (areas - x y), in closed form."""
    flat = x.highest * y.highest
    total = x.level * y.level * (flat / (areas - flat))
    for one, other in ((x, y), (y, x)):
        high, low = one.highest * other.highest, one.highest * other.lowest
        ramp = areas / one.highest * np.log((areas - low) / (areas - high)) - other.ramp
        total += one.level * ramp / other.half
    corner = _dilogarithm(flat / areas) + _dilogarithm(x.lowest * y.lowest / areas)
    corner -= _dilogarithm(x.lowest * y.highest / areas) + _dilogarithm(x.highest * y.lowest / areas)
    return total + (areas * corner - x.ramp * y.ramp) / (x.half * y.half)


def share_above(x: Overlap, y: Overlap, least: Float64[ndarray, "*s"]) -> Float64[ndarray, "*s"]:
    """The share of positions at which x y is at least so much, in closed form."""
    total = x.level * y.level * (x.highest * y.highest >= least)
    for one, other in ((x, y), (y, x)):
        reached = other.highest - np.clip(least / one.highest, other.lowest, other.highest)
        total += one.level * reached / other.half
    # on two ramps: for x from a on some y >= least / x reach it, from b on all
    a = np.clip(least / y.highest, x.lowest, x.highest)
    b = np.clip(np.divide(least, y.lowest, out=np.full_like(a, np.inf), where=y.lowest > 0), a, x.highest)
    some = y.highest * (b - a) - least * np.log(b / np.maximum(a, 1e-300))
    return total + (some + y.ramp * (x.highest - b)) / (x.half * y.half)


def _dilogarithm(z: Float64[ndarray, "*s"]) -> Float64[ndarray, "*s"]:
    result: Float64[ndarray, "*s"] = spence(1 - z)
    return result


def _iou(
    extents: Float64[ndarray, "2 n"], far: Float64[ndarray, "2 n"], shapes: Float64[ndarray, "a 2"]
) -> Float64[ndarray, "a n"]:
    overlaps = [overlap_at(extents[k], far[k], shapes[:, k : k + 1]) for k in (0, 1)]
    both = np.multiply(*overlaps)
    union = extents.prod(axis=0) + shapes.prod(axis=1)[:, None]
    union -= both
    return np.divide(both, union, out=both)


def overlap_at(
    extents: Float64[ndarray, "*n"], far: Float64[ndarray, "*n"], others: Float64[ndarray, "a 1"]
) -> Float64[ndarray, "a n"]:
    """Overlap along one axis of intervals whose centres lie ``far`` apart."""
    overlap = others / 2 + (extents / 2 - far)
    np.minimum(overlap, extents, out=overlap)
    return np.clip(overlap, 0.0, others, out=overlap)


def _few_cells(histogram: ShapeHistogram) -> ShapeHistogram:
    """Neighbouring cells joined until few are left."""
    joined, cells_per_octave = histogram, histogram.cells_per_octave
    while len(joined) > MAX_CELLS and cells_per_octave % 2 == 0:
        cells_per_octave //= 2
        joined = ShapeHistogram.of(histogram.shapes, counts=histogram.counts, cells_per_octave=cells_per_octave)
    return joined


def _check(count: int, strides: Sequence[int]) -> None:
    if not count:
        raise FitError("no boxes to fit anchors to")
    if not strides or min(strides) < 1 or list(strides) != sorted(set(strides)):
        raise ValueError(f"need different strides from 1, from fine to coarse, got {list(strides)}")
