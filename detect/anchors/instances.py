"""The boxes of a dataset as a detector sees them: after its resize rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray

from detect.anchors.histogram import ShapeHistogram
from detect.conventions import MEDIUM_LARGE_PX, SMALL_MEDIUM_PX
from detect.data import CocoDataset
from detect.data.resize import ResizeRule
from detect.data.tiles import cut_tiles
from detect.errors import FitError
from detect.ops.box_arrays import row_blocks


@dataclass(frozen=True)
class ResizedInstances:
    """Columns over the instances of a dataset (crowd regions left out), in pixels of the network's input."""

    dataset: CocoDataset
    rule: ResizeRule
    boxes: Float64[ndarray, "n 4"]
    """(x0, y0, x1, y1)"""
    shapes: Float64[ndarray, "n 2"]
    """(width, height)"""
    canvas_wh: Int64[ndarray, "n 2"]
    """The size of the network's input for the image that the instance is in."""

    @classmethod
    def of(cls, dataset: CocoDataset, rule: ResizeRule) -> ResizedInstances:
        """The instances of a dataset under a resize rule; ``tiles`` cut it first (:mod:`detect.data.tiles`)."""
        dataset = cut_tiles(dataset, rule)
        instances = dataset.instances
        images = rule.resize_images(dataset.images.wh)
        boxes, shapes = np.empty((len(instances), 4)), np.empty((len(instances), 2))
        canvas_wh = np.empty((len(instances), 2), np.int64)
        for rows in row_blocks(len(instances)):
            boxes_xywh, resized = instances.boxes_xywh[rows], images.take(instances.image_rows[rows])
            boxes[rows] = resized.move_boxes(boxes_xywh)
            shapes[rows] = boxes_xywh[:, 2:] * resized.scale_xy
            canvas_wh[rows] = resized.canvas_wh
        return cls(dataset, rule, boxes, shapes, canvas_wh)

    @cached_property
    def histogram(self) -> ShapeHistogram:
        """The counts of their shapes."""
        return ShapeHistogram.of(self.shapes)

    def require_boxes(self) -> None:
        """Fail where there is nothing to fit to, and say what became of the entries.

        Raises:
            FitError: no usable boxes.
        """
        if len(self):
            return
        dataset = self.dataset
        crowd = f", {len(dataset.crowd)} are crowd regions" if len(dataset.crowd) else ""
        first = f": {dataset.invalid[0]}" if dataset.invalid else ""
        where = ", ".join(dataset.files)
        raise FitError(f"{where}: no usable boxes; {len(dataset.invalid)} entries refused{crowd}{first}")

    def __len__(self) -> int:
        return len(self.boxes)


RATIO_EDGES = (1 / 3, 2 / 3, 3 / 2, 3.0)


@dataclass(frozen=True, eq=False)
class InstanceGroup:
    """Some of the instances, by their rows."""

    name: str
    rows: Int64[ndarray, " m"]


def area_ranges(instances: ResizedInstances) -> tuple[InstanceGroup, ...]:
    """Small, medium and large, by the square root of the area after the resize rule (COCO's 32 and 96 pixels)."""
    size = np.sqrt(instances.shapes.prod(axis=1))
    names = (f"small, under {SMALL_MEDIUM_PX:.0f} px", "medium", f"large, from {MEDIUM_LARGE_PX:.0f} px")
    return banded(size, (SMALL_MEDIUM_PX, MEDIUM_LARGE_PX), names)


def ratio_bins(instances: ResizedInstances) -> tuple[InstanceGroup, ...]:
    """Bands of height / width."""
    ratio = instances.shapes[:, 1] / instances.shapes[:, 0]
    names = ("wide, h/w under 1/3", "h/w 1/3 to 2/3", "h/w 2/3 to 3/2", "h/w 3/2 to 3", "tall, h/w from 3")
    return banded(ratio, RATIO_EDGES, names)


def category_groups(instances: ResizedInstances) -> tuple[InstanceGroup, ...]:
    """One band for each category that has instances, in the order of their ids."""
    ids, rows = np.unique(instances.dataset.instances.category_ids, return_inverse=True)
    order = np.argsort(rows, kind="stable")
    parts = np.split(order, np.cumsum(np.bincount(rows, minlength=len(ids)))[:-1])
    name = instances.dataset.category_name
    return tuple(InstanceGroup(name(int(key)), part) for key, part in zip(ids, parts, strict=False) if len(part))


def banded(values: Float64[ndarray, " n"], edges: Sequence[float], names: Sequence[str]) -> tuple[InstanceGroup, ...]:
    """A band for each interval between edges; a value on an edge belongs above it.

    >>> [band.rows.tolist() for band in banded(np.array([5.0, 32.0, 7.0]), (32.0,), ("small", "large"))]
    [[0, 2], [1]]
    """
    band = np.searchsorted(edges, values, side="right")
    return tuple(InstanceGroup(name, np.flatnonzero(band == number)) for number, name in enumerate(names))


BALANCES = ("none", "category", "size")


def instance_weights(
    instances: ResizedInstances, *, balance: str = "none", factors: Mapping[str, float] | None = None
) -> Float64[ndarray, " n"]:
    """A weight for each instance; their mean is 1.

    Args:
        instances: boxes after the detector's resize rule.
        balance: ``category`` or ``size`` (small, medium, large): each that has instances has the same weight in all.
        factors: by the name of a category, or ``small``, ``medium`` or ``large``; they multiply.

    Raises:
        FitError: a name is neither; or nothing has a weight.
        ValueError: another balance, or a factor below 0 or not finite.

    >>> from detect.data import read_coco
    >>> from detect.data.resize import parse_resize
    >>> from detect.samples import sample_annotations
    >>> instances = ResizedInstances.of(read_coco(sample_annotations("bccd")), parse_resize("none"))
    >>> weights = instance_weights(instances, balance="category")
    >>> [float(round(weights[band.rows].sum() / len(instances), 3)) for band in category_groups(instances)]
    [0.333, 0.333, 0.333]
    """
    if balance not in BALANCES:
        raise ValueError(f"balance {balance!r} is not one of {', '.join(BALANCES)}")
    categories, sizes = category_groups(instances), area_ranges(instances)
    weights = np.ones(len(instances))
    for band in {"none": (), "category": categories, "size": sizes}[balance]:
        weights[band.rows] = 1 / max(len(band.rows), 1)
    named = {band.name.split(",")[0]: band for band in sizes} | {band.name: band for band in categories}
    for name, factor in (factors or {}).items():
        if not 0 <= factor < np.inf:
            raise ValueError(f"weight of {name!r} must be a finite number from 0, got {factor}")
        weights[_band(named, name, instances).rows] *= factor
    if len(weights) and not weights.any():
        raise FitError("all instances have weight 0")
    return weights / (weights.mean() if len(weights) else 1.0)


def weighted_histograms(
    shapes: Float64[ndarray, "n 2"], weights: Float64[ndarray, " n"], cells_per_octave: int
) -> tuple[list[ShapeHistogram], list[float]]:
    """A histogram for each weight above 0 that occurs, and these weights.

    >>> histograms, weights = weighted_histograms(np.ones((3, 2)), np.array([2.0, 0.5, 0.5]), 16)
    >>> [histogram.num_boxes for histogram in histograms], weights
    ([2, 1], [0.5, 2.0])
    """
    values = np.unique(weights[weights > 0])
    parts = [ShapeHistogram.of(shapes[weights == value], cells_per_octave=cells_per_octave) for value in values]
    return parts, values.tolist()


def _band(named: Mapping[str, InstanceGroup], name: str, instances: ResizedInstances) -> InstanceGroup:
    if name in named:
        return named[name]
    if name in _names(instances):
        return InstanceGroup(name, np.zeros(0, np.int64))
    raise FitError(
        f"no category or size is named {name!r}: {', '.join([*_names(instances)[:20], 'small', 'medium', 'large'])}"
    )


def _names(instances: ResizedInstances) -> Sequence[str]:
    dataset = instances.dataset
    return [dataset.category_name(key) for key in sorted(dataset.categories)]
