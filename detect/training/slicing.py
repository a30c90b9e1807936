"""Prediction on overlapping tiles of a large image: which tile answers for an object, and what two tiles find twice.

Tiles are those of :mod:`detect.data.tiles`. An edge inside the image cuts objects and hides what lies beyond. Therefore the
tile that holds an object deepest, farthest from such edges, answers for it: what another tile finds there is dropped. A
piece of a cut object touches an edge, and a tile that holds the whole object holds the piece deeper. Two tiles that hold an
object about equally deep both keep it, and suppression merges the two. An object larger than the overlap may be whole in no
tile; its pieces are then kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64
from numpy import ndarray
from scipy.spatial import KDTree

from detect.data.resize import ResizeRule
from detect.data.tiles import tile_starts
from detect.ops.boxes import pairwise_iou
from detect.ops.nms import class_nms

DEPTH_SLACK = 0.2  # of the longer side: boxes of one object in two tiles may differ by half of it on each side
MERGED_CELLS = 2.0  # heatmap cells: maxima of one map are as far apart, and points of one object in two tiles nearer


@dataclass(frozen=True, eq=False)
class TileGrid:
    """The tiles of one image: all of the size ``tile_wh``, at each of the ``starts`` (along x, along y)."""

    image_wh: tuple[int, int]
    tile_wh: tuple[int, int]
    starts: tuple[Int64[ndarray, " u"], Int64[ndarray, " v"]]

    @classmethod
    def of(cls, image_wh: tuple[int, int], rule: ResizeRule) -> TileGrid:
        """The tiles of a rule ``tiles:S:OVERLAP``.

        >>> from detect.data.resize import parse_resize
        >>> TileGrid.of((150, 90), parse_resize("tiles:100:20")).corners
        array([[ 0,  0],
               [50,  0]])
        """
        size, overlap = rule.sizes
        width, height = image_wh
        starts = tile_starts(width, size, overlap), tile_starts(height, size, overlap)
        return cls(image_wh, (min(width, size), min(height, size)), starts)

    @property
    def corners(self) -> Int64[ndarray, "t 2"]:
        """The first pixel (x, y) of each tile, by row, then column."""
        x, y = np.meshgrid(*self.starts)
        return np.stack([x.ravel(), y.ravel()], axis=1)

    def answers_for(
        self, boxes: Float64[ndarray, "n 4"], tile: Int64[ndarray, " n"], slack_px: Float64[ndarray, " n"]
    ) -> Bool[ndarray, " n"]:
        """Whether the tile that found each box, in pixels of the image, holds it as deep as any other, up to the slack."""
        columns = len(self.starts[0])
        own, deepest = np.full(len(boxes), np.inf), np.full(len(boxes), np.inf)
        for axis, place in enumerate((tile % columns, tile // columns)):
            starts = self.starts[axis]
            ends = starts + self.tile_wh[axis]
            before = np.where(starts > 0, boxes[:, axis, None] - starts, np.inf)
            after = np.where(ends < self.image_wh[axis], ends - boxes[:, 2 + axis, None], np.inf)
            depth = np.minimum(before, after)  # of each box in each row or column of tiles
            own = np.minimum(own, depth[np.arange(len(boxes)), place])
            deepest = np.minimum(deepest, depth.max(axis=1))
        return own >= deepest - np.where(np.isfinite(deepest), slack_px, 0.0)


def merge_boxes(
    grid: TileGrid,
    boxes: Float64[ndarray, "n 4"],
    tile: Int64[ndarray, " n"],
    *,
    scores: Float64[ndarray, " n"],
    classes: Int64[ndarray, " n"],
    iou_threshold: float,
) -> Int64[ndarray, " k"]:
    """Rows of the boxes that stay: those their tile answers for, without those that a better one of another tile suppresses.

    Boxes of one class suppress each other. Boxes of one tile do not: the detector has compared them in its own way.

    >>> from detect.data.resize import parse_resize
    >>> grid = TileGrid.of((150, 90), parse_resize("tiles:100:50"))  # the overlap is 50 <= x < 100
    >>> boxes = np.array([[80.0, 10, 100, 40], [80, 10, 115, 40]])  # a piece of an object, and all of it
    >>> columns = {"scores": np.array([0.9, 0.8]), "classes": np.zeros(2, int)}
    >>> merge_boxes(grid, boxes, np.array([0, 1]), **columns, iou_threshold=0.5)
    array([1])
    """
    longer = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0)
    rows = np.flatnonzero(grid.answers_for(boxes, tile, DEPTH_SLACK * longer))
    own, by_score, of_class, of_tile = (torch.from_numpy(column[rows]) for column in (boxes, scores, classes, tile))
    kept = class_nms(own, by_score, classes=of_class, iou_threshold=iou_threshold)
    others = np.setdiff1d(np.arange(len(rows)), kept.numpy())
    is_near = pairwise_iou(own[others], own[kept]) > iou_threshold
    meets = (of_class[others, None] == of_class[kept]) & (of_tile[others, None] != of_tile[kept])
    back = others[~(is_near & meets).any(dim=1).numpy()]
    rows = rows[np.concatenate([kept.numpy(), back])]
    return rows[np.argsort(-scores[rows], kind="stable")]


def merge_points(
    grid: TileGrid,
    points: Float64[ndarray, "n 2"],
    tile: Int64[ndarray, " n"],
    *,
    scores: Float64[ndarray, " n"],
    classes: Int64[ndarray, " n"],
    cell_px: float,
) -> Int64[ndarray, " k"]:
    """Rows of the points that stay: those their tile answers for, without lower ones of other tiles near a higher one.

    Points of one class less than ``MERGED_CELLS`` apart are near; ``cell_px`` is a heatmap cell in pixels of the image.
    """
    distance = MERGED_CELLS * cell_px
    rows = np.flatnonzero(grid.answers_for(np.tile(points, 2), tile, np.full(len(points), distance)))
    return rows[merge_near(points[rows], tile[rows], scores=scores[rows], classes=classes[rows], distance=distance)]


def merge_near(
    points: Float64[ndarray, "n 2"],
    tile: Int64[ndarray, " n"],
    *,
    scores: Float64[ndarray, " n"],
    classes: Int64[ndarray, " n"],
    distance: float,
) -> Int64[ndarray, " k"]:
    """Rows of the points, by falling score, without those that are near a higher one of the same class in another tile."""
    rows = np.argsort(-scores, kind="stable")
    spread = np.column_stack([points[rows], classes[rows] * (2 * distance)])
    pairs = KDTree(spread).query_pairs(distance, output_type="ndarray")
    pairs = np.sort(pairs[tile[rows[pairs[:, 0]]] != tile[rows[pairs[:, 1]]]], axis=1)
    stays = np.ones(len(rows), bool)
    for higher, lower in pairs[np.lexsort(pairs.T[::-1])].tolist():
        stays[lower] &= not stays[higher]
    return rows[stays]
