"""What fits need of the boxes of a dataset: counts by shape, and few boxes at their positions. Those of shards add up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray

from detect.anchors.histogram import ShapeHistogram
from detect.anchors.instances import Group, ResizedInstances, group_weights, groups_of, require_boxes, sizes_counted
from detect.data import CocoDataset
from detect.data.dataset_counts import DatasetCounts
from detect.ops.exact_sums import Sums, add_up

FEW_BOXES = 20_000  # at most this many boxes are counted in cells fine enough to tell them apart
FINE_CELLS_PER_OCTAVE = 1024
FEW_PLACED = 5000  # at most this many boxes are fitted at their own positions
EVERY: Group = (0, 0)  # the key of all boxes together


@dataclass(frozen=True, eq=False)
class CountedShapes:
    """The histogram of boxes, and that in finer cells of at most ``FEW_BOXES`` boxes."""

    histogram: ShapeHistogram
    fine: ShapeHistogram | None

    @classmethod
    def of(cls, shapes: Float64[ndarray, "n 2"]) -> CountedShapes:
        few = len(shapes) <= FEW_BOXES
        fine = ShapeHistogram.of(shapes, cells_per_octave=FINE_CELLS_PER_OCTAVE) if few else None
        return cls(ShapeHistogram.of(shapes), fine)

    def __add__(self, other: CountedShapes) -> CountedShapes:
        both, fine = self.histogram + other.histogram, None
        if self.fine is not None and other.fine is not None and both.num_boxes <= FEW_BOXES:
            fine = self.fine + other.fine
        return CountedShapes(both, fine)

    @property
    def best(self) -> ShapeHistogram:
        """The histogram in the finest cells."""
        return self.histogram if self.fine is None else self.fine


@dataclass(frozen=True, eq=False)
class PlacedBoxes:
    """Boxes and the (width, height) of their inputs, with their groups; or only their number, above ``FEW_PLACED``."""

    boxes: Float64[ndarray, "n 4"]
    canvas_wh: Int64[ndarray, "n 2"]
    groups: Int64[ndarray, "n 2"]
    num_boxes: int

    @classmethod
    def of(cls, instances: ResizedInstances, groups: Int64[ndarray, "n 2"]) -> PlacedBoxes:
        if len(instances) > FEW_PLACED:  # then their boxes are not computed
            return cls(np.zeros((0, 4)), np.zeros((0, 2), np.int64), groups[:0], len(instances))
        return cls(instances.boxes, instances.canvas_wh, groups, len(instances))

    def __add__(self, other: PlacedBoxes) -> PlacedBoxes:
        columns = ("boxes", "canvas_wh", "groups")
        joined = {name: np.concatenate([getattr(self, name), getattr(other, name)]) for name in columns}
        return PlacedBoxes(**joined, num_boxes=self.num_boxes + other.num_boxes).if_few()

    def if_few(self) -> PlacedBoxes:
        """The same; without the boxes if they are many."""
        if self.num_boxes <= FEW_PLACED:
            return self
        return PlacedBoxes(self.boxes[:0], self.canvas_wh[:0], self.groups[:0], self.num_boxes)

    def __len__(self) -> int:
        return len(self.boxes)


@dataclass(frozen=True)
class Smallest:
    """The (width, height) of the box of least area, if there are boxes."""

    wh: tuple[float, float] | None

    @classmethod
    def of(cls, shapes: Float64[ndarray, "n 2"]) -> Smallest:
        size = np.sqrt(shapes[:, 0] * shapes[:, 1])  # a product over a short last axis is several times slower
        near = shapes[size == size.min(initial=np.inf)]
        return cls(min(map(tuple, near.tolist()), default=None))

    def __add__(self, other: Smallest) -> Smallest:
        both = [each.wh for each in (self, other) if each.wh is not None]
        return Smallest(min(both, key=lambda wh: (np.sqrt(wh[0] * wh[1]), wh), default=None))


@dataclass(frozen=True, eq=False)
class BoxStatistics(Sums):
    """The boxes of a dataset, or of a shard of it, counted for a fit; by group if fits weigh groups."""

    resize: str
    counts: DatasetCounts
    of_group: Mapping[Group, CountedShapes]
    placed: PlacedBoxes
    smallest: Smallest
    canvases: Mapping[tuple[int, int], int]
    """How many images have an input of each (width, height)."""

    @classmethod
    def of(cls, instances: ResizedInstances, *, by_group: bool = False) -> BoxStatistics:
        """Count instances; ``by_group`` by category and range of sizes, as :meth:`fit_boxes` needs it for weights."""
        groups = groups_of(instances) if by_group else np.zeros((len(instances), 2), np.int64)
        return cls(
            str(instances.rule),
            DatasetCounts.of(instances.dataset),
            _by_group(instances.shapes, groups),
            PlacedBoxes.of(instances, groups),
            Smallest.of(instances.shapes),
            sizes_counted(instances.image_canvas_wh),
        )

    @classmethod
    def read(cls, dataset: CocoDataset, *, rule: str, by_group: bool = False) -> BoxStatistics:
        """Count the boxes of a dataset, or of a shard, under a resize rule."""
        return cls.of(ResizedInstances.of(dataset, rule), by_group=by_group)

    def fit_boxes(self, *, balance: str = "none", factors: Mapping[str, float] | None = None) -> FitBoxes:
        """The boxes for a fit; the weights are those of :func:`detect.anchors.instances.instance_weights`."""
        placed = self.placed if self.placed.num_boxes <= FEW_PLACED else None
        weight_of = dict.fromkeys(self.of_group, 1.0)
        weights = None
        if balance != "none" or factors:
            numbers = {group: each.histogram.num_boxes for group, each in self.of_group.items()}
            weight_of = group_weights(numbers, self.counts, balance=balance, factors=factors)
            if placed:
                weights = np.array([weight_of[x, y] for x, y in placed.groups.tolist()], float)
        of_weight: dict[float, CountedShapes] = {}
        for group, each in self.of_group.items():
            weight = weight_of[group]
            of_weight[weight] = of_weight[weight] + each if weight in of_weight else each
        own = (self.resize, self.counts, self.canvases, self.smallest)
        return FitBoxes(*own, of_weight, placed, weights, weighted=balance != "none" or bool(factors))


@dataclass(frozen=True, eq=False)
class FitBoxes:
    """The boxes of a dataset as fits see them, with their weights."""

    resize: str
    counts: DatasetCounts
    canvases: Mapping[tuple[int, int], int]
    smallest: Smallest
    of_weight: Mapping[float, CountedShapes]
    """The boxes of each weight."""
    placed: PlacedBoxes | ResizedInstances | None
    """The boxes, where they are at hand or few."""
    weights: Float64[ndarray, " n"] | None
    """The weight of each placed box; None for equal weights."""
    weighted: bool

    @classmethod
    def of(cls, boxes: ResizedInstances | FitBoxes, weights: Float64[ndarray, " n"] | None = None) -> FitBoxes:
        """Instances, with a weight for each or without; boxes for a fit are returned as they are.

        >>> from detect.data import read_coco
        >>> from detect.samples import sample_annotations
        >>> instances = ResizedInstances.of(read_coco(sample_annotations("bccd")), "none")
        >>> FitBoxes.of(instances).num_boxes, len(FitBoxes.of(instances, np.ones(4886)).of_weight)
        (4886, 1)
        """
        if isinstance(boxes, FitBoxes):
            return boxes
        if weights is None:
            found = {1.0: CountedShapes.of(boxes.shapes)} if len(boxes) else {}
        else:
            values = np.unique(weights).tolist()
            found = {value: CountedShapes.of(boxes.shapes[weights == value]) for value in values}
        own = (str(boxes.rule), DatasetCounts.of(boxes.dataset), sizes_counted(boxes.image_canvas_wh))
        return cls(*own, Smallest.of(boxes.shapes), found, boxes, weights, weighted=weights is not None)

    @property
    def num_boxes(self) -> int:
        return self.every.histogram.num_boxes

    @cached_property
    def every(self) -> CountedShapes:
        """All boxes, whatever their weight."""
        none = CountedShapes.of(np.zeros((0, 2)))
        return add_up([none, *self.of_weight.values()])

    @property
    def weighted_parts(self) -> tuple[list[CountedShapes], list[float]]:
        """The boxes of each positive weight, and these weights in rising order."""
        own = [(each, weight) for weight, each in sorted(self.of_weight.items()) if weight > 0]
        return [each for each, _ in own], [weight for _, weight in own]

    def require_boxes(self) -> None:
        """Raise FitError if there are no boxes, with the number of invalid entries and the first of them."""
        require_boxes(self.counts)


def _by_group(shapes: Float64[ndarray, "n 2"], groups: Int64[ndarray, "n 2"]) -> dict[Group, CountedShapes]:
    if not groups.any():
        return {EVERY: CountedShapes.of(shapes)} if len(shapes) else {}
    keys, of_box = np.unique(groups, axis=0, return_inverse=True)
    own = (np.flatnonzero(of_box.reshape(-1) == number) for number in range(len(keys)))
    return {(x, y): CountedShapes.of(shapes[rows]) for (x, y), rows in zip(keys.tolist(), own, strict=True)}
