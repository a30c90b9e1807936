"""Overlapping tiles: the dataset that a detector sees when it runs on windows of each image.

Along each axis, windows of S pixels begin at 0, S - overlap, 2 (S - overlap) and so on; the last one is moved back to end
with the image (as in SAHI, Akyon et al. 2022). Each window is an image of its own. A box is cut to every window that it
intersects, and each piece is an instance. Small pieces are dropped, but never the largest piece of a box.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Int64
from numpy import ndarray

from detect.data.coco_columns import Annotations, Images
from detect.data.coco_dataset import CocoDataset
from detect.data.resize import ResizeRule, parse_resize

MIN_SHARE = 0.1  # share of a box's area below which a piece is dropped: SAHI's min_area_ratio


def cut_tiles(dataset: CocoDataset, rule: str | ResizeRule) -> CocoDataset:
    """Cut the images of a dataset into tiles for a rule ``tiles:S:OVERLAP``; for any other rule return it unchanged.

    Tiles have ids from 1 by image, row and column, and keep the file name of their image. Annotations keep their ids, so one
    id can be in several tiles. Cutting tiles again changes nothing.

    Raises:
        ValueError: the dataset has keypoints, which are not cut.

    >>> from detect.data import read_coco
    >>> dataset = read_coco({
    ...     "images": [{"id": 4, "width": 150, "height": 90}], "categories": [{"id": 1, "name": "cell"}],
    ...     "annotations": [{"id": 7, "image_id": 4, "category_id": 1, "bbox": [40, 10, 40, 20]}],
    ... })
    >>> tiled = cut_tiles(dataset, "tiles:100:20")  # windows begin at 0 and 50 (80 would exceed the image)
    >>> tiled.images.wh.tolist(), tiled.instances.boxes_xywh.tolist()
    ([[100, 90], [100, 90]], [[40.0, 10.0, 40.0, 20.0], [0.0, 10.0, 30.0, 20.0]])
    """
    rule = parse_resize(rule)
    if rule.name != "tiles":
        return dataset
    if dataset.annotations.keypoints is not None:
        raise ValueError("keypoints are not cut into tiles: read the dataset without them")
    size, overlap = rule.sizes
    images = dataset.images
    counts = num_tiles(images.wh, size, overlap)  # (columns, rows) of windows of each image
    of_image = np.repeat(np.arange(len(images)), counts.prod(axis=1))
    names = tuple(images.file_names[row] for row in of_image.tolist())
    tiles = Images(np.arange(1, len(of_image) + 1), np.minimum(images.wh, size)[of_image], names)
    return replace(dataset, images=tiles, annotations=_cut(dataset.annotations, images, counts, size, overlap))


def tile_starts(length: int, size: int, overlap: int) -> Int64[ndarray, " n"]:
    """The first pixel of each tile along an axis of ``length`` pixels.

    >>> tile_starts(250, 100, 20), tile_starts(90, 100, 20)
    (array([  0,  80, 150]), array([0]))
    """
    (count,) = num_tiles(np.array([length]), size, overlap).tolist()
    return np.minimum(np.arange(count) * (size - overlap), max(length - size, 0))


def num_tiles(lengths: Int64[ndarray, "*n"], size: int, overlap: int) -> Int64[ndarray, "*n"]:
    """The number of tiles along axes of these lengths in pixels.

    >>> num_tiles(np.array([250, 90]), 100, 20)
    array([3, 1])
    """
    return -(-np.maximum(lengths - size, 0) // (size - overlap)) + 1


def _cut(
    annotations: Annotations, images: Images, counts: Int64[ndarray, "b 2"], size: int, overlap: int
) -> Annotations:
    """The pieces that are kept; ``counts`` are (columns, rows) of tiles of each image."""
    rows, windows = _windows_of(annotations, images, counts, size, overlap)
    of_image = annotations.image_rows[rows]
    starts = np.minimum(windows * (size - overlap), np.maximum(images.wh[of_image] - size, 0))
    boxes = annotations.boxes_xywh[rows]
    low = np.clip(boxes[:, :2] - starts, 0, size)
    extents = np.clip(boxes[:, :2] + boxes[:, 2:] - starts, 0, size) - low
    share = extents.prod(axis=1) / boxes[:, 2:].prod(axis=1)
    order = np.lexsort((-np.arange(len(rows)), share, rows))
    largest = np.zeros(len(annotations), np.int64)
    largest[rows[order]] = order  # the last write wins: the largest share of a box, and the first piece of equals
    kept = np.flatnonzero((share >= MIN_SHARE) | (np.arange(len(rows)) == largest[rows]))
    per_image = counts.prod(axis=1)
    first = (per_image.cumsum() - per_image)[of_image]
    tile = first + windows[:, 1] * counts[of_image, 0] + windows[:, 0]
    kept = kept[np.lexsort((rows[kept], tile[kept]))]
    pieces = annotations.take(rows[kept])
    boxes_xywh = np.concatenate([low, extents], axis=1)[kept]
    return replace(pieces, image_rows=tile[kept], boxes_xywh=boxes_xywh, area=pieces.area * share[kept])


def _windows_of(
    annotations: Annotations, images: Images, counts: Int64[ndarray, "b 2"], size: int, overlap: int
) -> tuple[Int64[ndarray, " m"], Int64[ndarray, "m 2"]]:
    """All pairs of a box and a window that intersect: the box's row, and the window's (column, row)."""
    boxes, step = annotations.boxes_xywh, size - overlap
    last = counts[annotations.image_rows] - 1
    low = np.clip(np.floor((boxes[:, :2] - size) / step).astype(np.int64) + 1, 0, last)
    end = boxes[:, :2] + boxes[:, 2:]
    high = np.clip(np.ceil(end / step).astype(np.int64) - 1, 0, last)
    moved_back = images.wh[annotations.image_rows] - size  # where the last window begins
    high = np.where(moved_back < end, last, high)
    spans = high - low + 1
    per_box = spans.prod(axis=1)
    rows = np.repeat(np.arange(len(boxes)), per_box)
    within = np.arange(len(rows)) - (np.cumsum(per_box) - per_box)[rows]
    across, down = within % spans[rows, 0], within // spans[rows, 0]
    return rows, low[rows] + np.stack([across, down], axis=1)
