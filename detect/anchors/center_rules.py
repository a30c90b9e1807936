"""The matching rules of YOLO: anchors compete by shape, in the cells around a box's centre.

    side ratio    YOLOv5 and v7: on every level, each anchor whose sides differ from the box's by less than a factor, in the
                  cell of the centre and in neighbours on the centre's side
    best shape    darknet: the anchor of highest IoU by shape over all levels, in the cell of the centre; for YOLOv4 also
                  those above a threshold

A slot is an anchor of one cell. In darknet a slot that several boxes want learns the last of them; YOLOv5 learns them all.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float64, Int64
from numpy import ndarray

from detect.anchors.anchor_set import AnchorSet
from detect.anchors.assignment import Assignment
from detect.anchors.grid_convention import num_cells
from detect.anchors.instances import ResizedInstances
from detect.catalog.matching import BestShape, SideRatio
from detect.ops.box_arrays import shape_iou, side_ratio

CenterRule = SideRatio | BestShape
Similarity = Float64[ndarray, "n a"]


def similarity(instances: ResizedInstances, anchors: AnchorSet, rule: CenterRule) -> Similarity:
    """What a rule compares: the side ratio, or the IoU by shape, of each instance with each anchor, level after level."""
    compare = side_ratio if isinstance(rule, SideRatio) else shape_iou
    shapes = [np.array(shape) for level in anchors.levels for shape in level.shapes]
    return np.stack([compare(instances.shapes, shape) for shape in shapes], axis=1)


def assign_by_center(instances: ResizedInstances, anchors: AnchorSet, rule: CenterRule) -> Assignment:
    """Give each instance the anchors that a rule around its centre gives it.

    >>> from detect.data import read_coco
    >>> dataset = read_coco({
    ...     "images": [{"id": 1, "width": 64, "height": 64}], "categories": [{"id": 1, "name": "cell"}],
    ...     "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [15, 15, 20, 20]}],
    ... })
    >>> instances = ResizedInstances.of(dataset, "none")
    >>> anchors = AnchorSet.of([[(16, 16), (99, 99)], [(40, 40)]], strides=(8, 16))
    >>> [assign_by_center(instances, anchors, rule).positives.tolist() for rule in (SideRatio(), BestShape())]
    [[[3, 3]], [[1, 0]]]
    """
    values = similarity(instances, anchors, rule)
    if isinstance(rule, SideRatio):
        wanted = values > 1 / rule.ratio
    else:
        best = values.argmax(axis=1)[:, None] == np.arange(values.shape[1])
        wanted = best if rule.iou is None else best | (values > rule.iou)
    counts = np.zeros((2, len(instances), len(anchors.levels)), np.int64)
    ambiguous, first = np.zeros(len(anchors.levels), np.int64), 0
    for number, level in enumerate(anchors.levels):
        own = slice(first, first + len(level.shapes))
        rows, slots = _slots(instances, level.stride, wanted[:, own], rule)
        order = np.lexsort((rows, slots))
        last = np.flatnonzero(np.diff(slots[order], append=-1))
        kept = rows if isinstance(rule, SideRatio) else rows[order][last]
        counts[:, :, number] = [np.bincount(each, minlength=len(instances)) for each in (kept, rows)]
        ambiguous[number] = (np.diff(last, prepend=-1) > 1).sum()
        first = own.stop
    return Assignment(
        instances,
        tuple(level.name for level in anchors.levels),
        positives=counts[0],
        by_threshold=counts[0],
        candidates=counts[1],
        num_anchors=_num_anchors(instances, anchors),
        ignored=np.zeros_like(ambiguous),
        ambiguous=ambiguous,
    )


def _slots(
    instances: ResizedInstances, stride: int, wanted: Bool[ndarray, "n k"], rule: CenterRule
) -> tuple[Int64[ndarray, " m"], Int64[ndarray, " m"]]:
    """The slots of a level that instances want: the instance's row, and the slot."""
    cells_wh = num_cells(instances.canvas_wh, stride)
    most_x, most_y = cells_wh.max(axis=0, initial=1).tolist()
    image_rows = instances.dataset.instances.image_rows
    rows, slots = [], []
    for inside, cells in _cells(instances, stride, cells_wh, rule):
        here, anchor = np.nonzero(wanted & inside[:, None])
        x, y = cells[here].T
        rows.append(here)
        slots.append(((image_rows[here] * most_y + y) * most_x + x) * wanted.shape[1] + anchor)
    return np.concatenate(rows), np.concatenate(slots)


def _cells(
    instances: ResizedInstances, stride: int, cells_wh: Int64[ndarray, "n 2"], rule: CenterRule
) -> Iterator[tuple[Bool[ndarray, " n"], Int64[ndarray, "n 2"]]]:
    """The cell of each centre, and the neighbours that a rule adds, with the instances that have this neighbour."""
    position = (instances.boxes[:, :2] + instances.boxes[:, 2:]) / 2 / stride
    cells = np.clip(np.floor(position).astype(np.int64), 0, cells_wh - 1)
    yield np.ones(len(cells), bool), cells
    if not isinstance(rule, SideRatio) or not rule.neighbours:
        return
    for axis in (0, 1):
        own, size = position[:, axis], cells_wh[:, axis]
        lower, upper = (own % 1 < 0.5) & (own > 1), ((size - own) % 1 < 0.5) & (size - own > 1)
        for has, step in ((lower, -1), (upper, 1)):
            moved = np.floor(position + 0.5 * step * np.eye(2)[axis]).astype(np.int64)
            yield has, np.clip(moved, 0, cells_wh - 1)


def _num_anchors(instances: ResizedInstances, anchors: AnchorSet) -> Int64[ndarray, " l"]:
    """Anchors of each level over all images that have instances."""
    rows = np.unique(instances.dataset.instances.image_rows, return_index=True)[1]
    canvas_wh = instances.canvas_wh[rows]
    cells = [num_cells(canvas_wh, level.stride).prod(axis=1).sum() for level in anchors.levels]
    return np.array([count * len(level.shapes) for count, level in zip(cells, anchors.levels, strict=True)], np.int64)
