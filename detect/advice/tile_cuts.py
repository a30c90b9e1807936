"""Objects that overlapping tiles cut: no tile of this size and overlap holds them whole, so none can return them whole.

Tiles are those of :mod:`detect.data.tiles`, as SAHI lays them. Along an axis, the tile that begins last before an object
reaches farthest beyond it, so an object is whole in some tile if it ends within that one, along both axes. Objects with no
side longer than the overlap are always whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64
from numpy import ndarray

from detect.advice.lost_sums import ids_of
from detect.anchors.instances import ResizedInstances
from detect.data.tiles import num_tiles
from detect.ops.box_arrays import row_blocks, xywh_to_xyxy
from detect.ops.exact_sums import FirstItems, Sums

WHOLE_SHARE = 0.995  # of the objects that fit into a tile: an overlap that keeps as many whole is enough
MIN_SHRINK = 2.0  # images that a detector shrinks by as much are worth cutting


@dataclass(frozen=True, eq=False)
class TileCuts:
    """What tiles of one size and overlap, in pixels, do to the objects of a dataset; made by :func:`tile_cuts`."""

    size: int
    overlap: int
    is_whole: Bool[ndarray, " n"]
    """Whether some tile holds an object whole; one as large as a tile may be held by none at any overlap."""
    num_tiles: Int64[ndarray, " b"]
    """Tiles of each image."""

    @property
    def cut(self) -> Int64[ndarray, " m"]:
        """Rows of the objects that no tile holds whole."""
        return np.flatnonzero(~self.is_whole)


def tile_cuts(
    boxes: Float64[ndarray, "n 4"],
    image_rows: Int64[ndarray, " n"],
    *,
    image_wh: Int64[ndarray, "b 2"],
    size: int,
    overlap: int,
) -> TileCuts:
    """Which objects (x0, y0, x1, y1), in pixels of their images, tiles of ``size`` and ``overlap`` pixels hold whole.

    >>> boxes = np.array([[85.0, 10, 95, 20], [75, 10, 105, 20]])  # tiles begin at 0, 80 and 150
    >>> cuts = tile_cuts(boxes, np.zeros(2, int), image_wh=np.array([[250, 90]]), size=100, overlap=20)
    >>> cuts.is_whole, cuts.num_tiles
    (array([ True, False]), array([3]))

    Raises:
        ValueError: the overlap is not from 0 to less than the size.
    """
    if not 0 <= overlap < size:
        raise ValueError(f"need 0 <= overlap < size, got {overlap} and {size}")
    whole = np.empty(len(boxes), bool)
    for rows in row_blocks(len(boxes)):
        low, high = boxes[rows, :2], boxes[rows, 2:]
        last = np.maximum(image_wh[image_rows[rows]] - size, 0)  # where the last tile begins
        starts = np.where(low >= last, last, np.floor(low / (size - overlap)) * (size - overlap))
        whole[rows] = (high <= np.maximum(starts, 0) + size).all(axis=1)
    return TileCuts(size, overlap, whole, num_tiles(image_wh, size, overlap).prod(axis=1))


def smallest_overlap(
    boxes: Float64[ndarray, "n 4"],
    image_rows: Int64[ndarray, " n"],
    *,
    image_wh: Int64[ndarray, "b 2"],
    size: int,
    share: float = WHOLE_SHARE,
) -> int | None:
    """The smallest overlap, in pixels, from which on every overlap holds this share of the objects whole.

    Objects larger than a tile do not count. None if no overlap up to half of the size does: then larger tiles cost less.

    >>> boxes = np.array([[75.0, 10, 105, 20], [0, 0, 10, 10]])
    >>> smallest_overlap(boxes, np.zeros(2, int), image_wh=np.array([[250, 90]]), size=100)
    25
    """
    side = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0)
    num_fitting = int((side <= size).sum())
    enough = None
    for overlap in range(size // 2, -1, -1):
        rows = np.flatnonzero((side > overlap) & (side <= size))
        cuts = tile_cuts(boxes[rows], image_rows[rows], image_wh=image_wh, size=size, overlap=overlap)
        if len(cuts.cut) > (1 - share) * num_fitting:
            break
        enough = overlap
    return enough


@dataclass(frozen=True)
class Tiling:
    """Tiles to look at, of a detector's input size."""

    size: int
    overlap: int
    is_enough: bool
    """Whether the overlap holds 99.5 % of the objects whole that fit into a tile; else it is half of the tile's size."""
    shrink: float
    """By how much the detector shrinks whole images: the median over objects of size in the image / size after it."""


def tiling_for(instances: ResizedInstances) -> Tiling | None:
    """Tiles as wide as the first size of the resize rule; None if it shrinks the images by less than ``MIN_SHRINK``."""
    dataset, own = instances.dataset, instances.dataset.instances
    if instances.rule.name not in ("letterbox", "stretch", "shortest") or not len(own):
        return None
    shrink = float(np.median(np.sqrt(own.boxes_xywh[:, 2:].prod(axis=1) / instances.shapes.prod(axis=1))))
    if shrink < MIN_SHRINK:
        return None
    boxes, size = xywh_to_xyxy(own.boxes_xywh), instances.rule.sizes[0]
    overlap = smallest_overlap(boxes, own.image_rows, image_wh=dataset.images.wh, size=size)
    return Tiling(size, size // 2 if overlap is None else overlap, overlap is not None, shrink)


@dataclass(frozen=True)
class TileAdvice(Sums):
    """A detector run on tiles of its input size instead of whole images."""

    tiling: Tiling
    cut: FirstItems[int]
    """Ids of the objects that no tile holds whole."""
    num_tiles: int
    num_images: int
    num_pixels: int
    """Pixels of all resized images."""

    @classmethod
    def of(cls, instances: ResizedInstances, tiling: Tiling) -> TileAdvice:
        """Count what tiles do to the objects of a dataset, or of a shard."""
        own, image_wh = instances.dataset.instances, instances.dataset.images.wh
        how: dict[str, Any] = {"image_wh": image_wh, "size": tiling.size, "overlap": tiling.overlap}
        cuts = tile_cuts(xywh_to_xyxy(own.boxes_xywh), own.image_rows, **how)
        pixels = int(instances.image_canvas_wh.prod(axis=1).sum())
        return cls(tiling, ids_of(own.ids[cuts.cut]), int(cuts.num_tiles.sum()), len(image_wh), pixels)

    @property
    def per_image(self) -> float:
        return self.num_tiles / self.num_images

    @property
    def cost(self) -> float:
        """Compute of the tiles of an image / compute of the resized image."""
        return self.num_tiles * self.tiling.size**2 / self.num_pixels
