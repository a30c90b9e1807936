"""Objects that get no positive, by the matching rule of a detector: anchors, cells, peaks or queries."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Int64
from numpy import ndarray

from detect.advice.anchor_losses import AnchorChoice, without_anchor
from detect.advice.cell_ownership import cell_ownership
from detect.advice.fcos_assignment import fcos_positives
from detect.advice.level_cells import LevelCells, Regions, box_regions
from detect.advice.lost_objects import LostObjects, beyond_limit
from detect.anchors.instances import ResizedInstances
from detect.anchors.known import stock_anchors
from detect.catalog.detectors import AnchorDetector, Detector
from detect.catalog.matching import CenterInBox, CenterPeak, FcosRanges, OneQuery


def unlearned_objects(
    instances: ResizedInstances, detector: Detector, anchors: AnchorChoice | None = None
) -> LostObjects:
    """The objects that no anchor, cell or query of the detector learns.

    >>> from detect.catalog.detectors import load_detector
    >>> from detect.data import read_coco
    >>> from detect.samples import sample_annotations
    >>> instances = ResizedInstances.of(read_coco(sample_annotations("nuclei")), "letterbox:128")
    >>> found = unlearned_objects(instances, load_detector("tood"))
    >>> found.num_lost, len(instances)
    (36, 318)

    Args:
        instances: after the detector's resize rule, or another one.
        detector: of the catalog.
        anchors: of a detector with anchors; by default those that it ships with.
    """
    rule = detector.matching
    image_rows, canvas_wh = instances.dataset.instances.image_rows, instances.image_canvas_wh
    if isinstance(rule, OneQuery):
        found = beyond_limit("no positive", instances, detector.queries)
        return found or LostObjects.of("no positive", np.zeros(len(instances), bool))
    if isinstance(rule, CenterPeak):
        return _same_peak(instances, detector.strides[0])
    if isinstance(rule, FcosRanges):
        grid: dict[str, Any] = {"canvas_wh": canvas_wh, "strides": detector.strides}
        positives = fcos_positives(instances.boxes, image_rows, **grid, rule=rule)
        return LostObjects.of("no positive", positives == 0)
    if isinstance(rule, CenterInBox):
        return _without_own_cell(instances, detector.strides, rule)
    if not isinstance(detector, AnchorDetector):
        raise TypeError(f"{detector.name} has anchors, but no description of them")
    return LostObjects.of("no positive", without_anchor(instances, anchors or stock_anchors(detector), detector))


def _without_own_cell(instances: ResizedInstances, strides: list[int], rule: CenterInBox) -> LostObjects:
    below, to = (strides[min(level, len(strides) - 1)] for level in (rule.widen_below or 0, rule.widen_to))
    widened = {} if rule.widen_below is None else {"below_px": below, "to_px": to}
    regions = box_regions(instances.boxes, len(strides), margin_px=rule.margin_px, **widened)
    grid = LevelCells(instances.image_canvas_wh, tuple(strides), rule.origin)
    image_rows = instances.dataset.instances.image_rows
    if rule.any_box:
        return _more_than_cells(regions, image_rows, grid)
    owned = cell_ownership(regions, image_rows, grid)
    num_contested = int(owned.num_outnumbered.sum())
    return LostObjects("no positive", owned.without_cell, num_contested, np.flatnonzero(owned.is_contested))


def _more_than_cells(regions: Regions, image_rows: Int64[ndarray, " n"], grid: LevelCells) -> LostObjects:
    """The objects beyond the number of cells inside any box of their image."""
    counts, most = np.bincount(image_rows, minlength=len(grid.canvas_wh)), np.zeros(len(grid.canvas_wh), np.int64)
    np.maximum.at(most, image_rows, grid.count(regions, image_rows))
    rows = np.flatnonzero((most < counts)[image_rows])  # elsewhere the cells of one box are enough
    beyond = counts - np.maximum(most, grid.count_distinct(regions[rows], image_rows[rows]))
    num_lost = int(np.maximum(beyond, 0).sum())
    return LostObjects("no positive", np.zeros(0, np.int64), num_lost, np.flatnonzero(beyond[image_rows] > 0))


def _same_peak(instances: ResizedInstances, stride: int) -> LostObjects:
    """Objects of one category whose centres lie in one cell: the map has one peak for all of them."""
    own = instances.dataset.instances
    grid = LevelCells(instances.image_canvas_wh, (stride,))
    middle = (instances.boxes[:, :2] + instances.boxes[:, 2:]) / 2
    cells = np.minimum(np.floor(middle / stride), grid.sizes[own.image_rows, 0] - 1)
    keys = np.stack([own.image_rows, own.category_ids, *cells.T.astype(np.int64)], axis=1)
    _, peak, counts = np.unique(keys, axis=0, return_inverse=True, return_counts=True)
    contested = np.flatnonzero(counts[peak.ravel()] > 1)
    return LostObjects("no positive", np.zeros(0, np.int64), len(peak) - len(counts), contested)
