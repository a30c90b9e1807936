"""The boxes of a dataset as a detector sees them after its resize rule, their groups and their weights."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, wraps
from typing import Any, TypeVar, cast

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray

from detect.anchors.histogram import ShapeHistogram
from detect.conventions import MEDIUM_LARGE_PX, SMALL_MEDIUM_PX
from detect.data import CocoDataset
from detect.data.dataset_counts import DatasetCounts
from detect.data.resize import ResizedImages, ResizeRule, parse_resize
from detect.data.tiles import cut_tiles
from detect.errors import FitError
from detect.ops.box_arrays import row_blocks

RATIO_EDGES = (1 / 3, 2 / 3, 3 / 2, 3.0)  # of height / width
BALANCES = ("none", "category", "size")
SIZES = ("small", "medium", "large")
MAX_NAMES = 20  # category names listed in a message

Group = tuple[int, int]  # a category id, and the number of a range of sizes

Fit = TypeVar("Fit", bound=Callable[..., Any])


@dataclass(frozen=True)
class ResizedInstances:
    """Columns over the instances of a dataset, without crowd regions, in pixels of the network's input.

    A column is computed when it is first asked for.
    """

    dataset: CocoDataset
    rule: ResizeRule

    @classmethod
    def of(cls, dataset: CocoDataset, rule: str | ResizeRule) -> ResizedInstances:
        """The instances of a dataset after a resize rule; ``tiles`` cuts the images first (:mod:`detect.data.tiles`).

        Raises:
            ResizeError: the text is not a resize rule.
            CocoError: the rule depends on the sizes of images, and some are not known.
        """
        rule = parse_resize(rule)
        if rule.name != "none":
            dataset.require_sizes("--images FOLDER reads them from the image files, or --resize none does without")
        return cls(cut_tiles(dataset, rule), rule)

    def take(self, rows: Int64[ndarray, " m"]) -> ResizedInstances:
        """These instances, in this order."""
        return replace(self, dataset=replace(self.dataset, annotations=self.dataset.instances.take(rows)))

    @cached_property
    def boxes(self) -> Float64[ndarray, "n 4"]:
        """(x0, y0, x1, y1)"""
        boxes, (boxes_xywh, image_rows) = np.empty((len(self), 4)), self._columns
        for rows in row_blocks(len(self)):
            boxes[rows] = self.resized_images.take(image_rows[rows]).move_boxes(boxes_xywh[rows])
        return boxes

    @cached_property
    def shapes(self) -> Float64[ndarray, "n 2"]:
        """(width, height)"""
        shapes, (boxes_xywh, image_rows) = np.empty((len(self), 2)), self._columns
        for rows in row_blocks(len(self)):
            for axis, scale in enumerate(self.resized_images.scale_xy.take(image_rows[rows], axis=0).T):
                shapes[rows, axis] = boxes_xywh[rows, axis + 2] * scale
        return shapes

    @cached_property
    def canvas_wh(self) -> Int64[ndarray, "n 2"]:
        """(width, height) of the network's input for the image of each instance."""
        return self.image_canvas_wh.take(self._columns[1], axis=0)

    @cached_property
    def resized_images(self) -> ResizedImages:
        """The images of the dataset after the rule."""
        return self.rule.resize_images(self.dataset.images.wh)

    @cached_property
    def histogram(self) -> ShapeHistogram:
        return ShapeHistogram.of(self.shapes)

    @property
    def image_canvas_wh(self) -> Int64[ndarray, "b 2"]:
        """(width, height) of the network's input for each image of the dataset."""
        return self.resized_images.canvas_wh

    def require_boxes(self) -> None:
        """Raise FitError if there are no boxes, with the number of invalid entries and the first of them."""
        require_boxes(DatasetCounts.of(self.dataset))

    def __len__(self) -> int:
        return len(self.dataset.instances)

    @property
    def _columns(self) -> tuple[Float64[ndarray, "n 4"], Int64[ndarray, " n"]]:
        instances = self.dataset.instances
        return instances.boxes_xywh, instances.image_rows


def require_boxes(counts: DatasetCounts) -> None:
    """See :meth:`ResizedInstances.require_boxes`."""
    if counts.num_boxes:
        return
    crowd = f", {counts.num_crowd} are crowd regions" if counts.num_crowd else ""
    first = f": {counts.invalid[0]}" if len(counts.invalid) else ""
    invalid = f"{len(counts.invalid)} entries are invalid"
    raise FitError(f"{', '.join(counts.files)}: no usable boxes; {invalid}{crowd}{first}")


def tells_left_out(fit: Fit) -> Fit:
    """Decorate a function of boxes: its FitError also says how many entries of the dataset were invalid."""

    @wraps(fit)
    def run(boxes: Any, *args: Any, **options: Any) -> Any:
        try:
            return fit(boxes, *args, **options)
        except FitError as error:
            dataset = boxes.dataset if isinstance(boxes, ResizedInstances) else boxes.counts
            raise FitError(dataset.with_left_out(str(error))) from None

    return cast("Fit", run)


@dataclass(frozen=True, eq=False)
class InstanceGroup:
    """A named group of instances, given by their rows."""

    name: str
    rows: Int64[ndarray, " m"]


def area_ranges(instances: ResizedInstances) -> tuple[InstanceGroup, ...]:
    """Small, medium and large: sqrt(area) after the resize rule below 32, from 32 to 96, from 96 pixels (COCO's limits)."""
    size = np.sqrt(instances.shapes.prod(axis=1))
    names = (f"small, under {SMALL_MEDIUM_PX:.0f} px", "medium", f"large, from {MEDIUM_LARGE_PX:.0f} px")
    return _bins(size, (SMALL_MEDIUM_PX, MEDIUM_LARGE_PX), names)


def ratio_bins(instances: ResizedInstances) -> tuple[InstanceGroup, ...]:
    """Five ranges of height / width, with the limits ``RATIO_EDGES``."""
    ratio = instances.shapes[:, 1] / instances.shapes[:, 0]
    names = ("wide, h/w under 1/3", "h/w 1/3 to 2/3", "h/w 2/3 to 3/2", "h/w 3/2 to 3", "tall, h/w from 3")
    return _bins(ratio, RATIO_EDGES, names)


def category_groups(instances: ResizedInstances) -> tuple[InstanceGroup, ...]:
    """One group for each category that has instances, in the order of category ids."""
    parts = rows_by_value(instances.dataset.instances.category_ids)
    name = instances.dataset.category_name
    return tuple(InstanceGroup(name(key), rows) for key, rows in parts.items())


def rows_by_value(values: Int64[ndarray, " n"]) -> dict[int, Int64[ndarray, " m"]]:
    """The rows of each distinct value, in rising order of the values.

    >>> rows_by_value(np.array([7, 4, 7]))
    {4: array([1]), 7: array([0, 2])}
    """
    distinct, counts = np.unique(values, return_counts=True)
    parts = np.split(np.argsort(values, kind="stable"), np.cumsum(counts)[:-1])
    return dict(zip(distinct.tolist(), parts, strict=False))  # without values there is one empty part


def instance_weights(
    instances: ResizedInstances, *, balance: str = "none", factors: Mapping[str, float] | None = None
) -> Float64[ndarray, " n"]:
    """Weights of instances for a fit, with mean 1.

    Args:
        instances: boxes after the detector's resize rule.
        balance: ``category`` or ``size`` (small, medium, large) gives every such group the same total weight; ``none``
            weights all instances alike.
        factors: further factors from 0, by category name or ``small``, ``medium``, ``large``; they multiply.

    Raises:
        FitError: a name in ``factors`` is unknown, or all weights are 0.
        ValueError: ``balance`` is unknown, or a factor is negative or not finite.

    >>> from detect.data import read_coco
    >>> from detect.samples import sample_annotations
    >>> instances = ResizedInstances.of(read_coco(sample_annotations("bccd")), "none")
    >>> weights = instance_weights(instances, balance="category")
    >>> [float(round(weights[group.rows].sum() / len(instances), 3)) for group in category_groups(instances)]
    [0.333, 0.333, 0.333]
    """
    groups = groups_of(instances)
    keys, of_box, counts = np.unique(groups, axis=0, return_inverse=True, return_counts=True)
    numbers = {(x, y): count for (x, y), count in zip(keys.tolist(), counts.tolist(), strict=True)}
    weights = group_weights(numbers, instances.dataset, balance=balance, factors=factors)
    return np.array(list(weights.values()), float)[of_box.reshape(-1)]


def groups_of(instances: ResizedInstances) -> Int64[ndarray, "n 2"]:
    """The category id of each instance, and the number of its range of sizes."""
    sizes = np.zeros(len(instances), np.int64)
    for number, group in enumerate(area_ranges(instances)):
        sizes[group.rows] = number
    return np.stack([instances.dataset.instances.category_ids, sizes], axis=1)


def group_weights(
    numbers: Mapping[Group, int],
    dataset: CocoDataset | DatasetCounts,
    *,
    balance: str = "none",
    factors: Mapping[str, float] | None = None,
) -> dict[Group, float]:
    """The weight of an instance of each group, from the groups' numbers of instances; see :func:`instance_weights`."""
    if balance not in BALANCES:
        raise ValueError(f"balance {balance!r} is not one of {', '.join(BALANCES)}")
    weights = dict.fromkeys(numbers, 1.0)
    if balance != "none":
        axis, totals = ("category", "size").index(balance), Counter[int]()
        for group, number in numbers.items():
            totals[group[axis]] += number
        weights = {group: 1 / totals[group[axis]] for group in numbers}
    names = {dataset.category_name(key): (0, key) for key in dataset.categories}
    names |= {size: (1, number) for number, size in enumerate(SIZES)}
    names |= {dataset.category_name(key): (0, key) for key, _ in numbers}
    for name, factor in (factors or {}).items():
        if not 0 <= factor < np.inf:
            raise ValueError(f"weight of {name!r} must be a finite number from 0, got {factor}")
        if name not in names:
            known = [*map(dataset.category_name, sorted(dataset.categories)[:MAX_NAMES]), *SIZES]
            raise FitError(f"no category or size is named {name!r}: {', '.join(known)}")
        axis, own = names[name]
        weights = {group: weight * factor if group[axis] == own else weight for group, weight in weights.items()}
    if weights and not any(weights.values()):
        raise FitError("all instances have weight 0")
    mean = math.fsum(numbers[group] * weight for group, weight in weights.items()) / max(sum(numbers.values()), 1)
    return {group: weight / mean for group, weight in weights.items()}


def sizes_counted(sizes_wh: Int64[ndarray, "b 2"]) -> dict[tuple[int, int], int]:
    """How often each (width, height) occurs.

    >>> sizes_counted(np.array([[64, 48], [32, 32], [64, 48]]))
    {(32, 32): 1, (64, 48): 2}
    """
    if sizes_wh.max(initial=0) >= 2**31:
        return dict(sorted(Counter(map(tuple, sizes_wh.tolist())).items()))
    codes, counts = np.unique(sizes_wh[:, 0] * 2**32 + sizes_wh[:, 1], return_counts=True)
    sizes = (divmod(code, 2**32) for code in codes.tolist())
    return dict(zip(sizes, counts.tolist(), strict=True))


def _bins(values: Float64[ndarray, " n"], edges: Sequence[float], names: Sequence[str]) -> tuple[InstanceGroup, ...]:
    """A group for each interval between edges; a value on an edge belongs to the interval above it."""
    bins = np.searchsorted(edges, values, side="right")
    return tuple(InstanceGroup(name, np.flatnonzero(bins == number)) for number, name in enumerate(names))
