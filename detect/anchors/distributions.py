"""Distributions of boxes: counts per image, by position, by size, and by width and height."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray

from detect.anchors.instances import ResizedInstances
from detect.data import CocoDataset


def boxes_per_image(dataset: CocoDataset) -> Int64[ndarray, " images"]:
    return np.bincount(dataset.instances.image_rows, minlength=len(dataset.images))


def center_counts(dataset: CocoDataset, num_cells: int) -> Int64[ndarray, "rows columns"]:
    """Count box centres in a grid of ``num_cells`` x ``num_cells`` cells over each image, summed over images.

    A centre outside its image counts in the nearest cell.

    >>> from detect.data import read_coco
    >>> dataset = read_coco({
    ...     "images": [{"id": 1, "width": 640, "height": 480}], "categories": [{"id": 1, "name": "cell"}],
    ...     "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [600, 10, 20, 20]}],
    ... })
    >>> center_counts(dataset, 2)  # upper right
    array([[0, 1],
           [0, 0]])
    """
    instances = dataset.instances
    centers = instances.boxes_xywh[:, :2] + instances.boxes_xywh[:, 2:] / 2
    relative = centers / dataset.images.wh[instances.image_rows]
    column, row = np.clip(np.floor(relative * num_cells), 0, num_cells - 1).astype(np.int64).T
    return np.bincount(row * num_cells + column, minlength=num_cells**2).reshape(num_cells, num_cells)


def size_histogram(
    instances: ResizedInstances, *, per_octave: int
) -> tuple[Float64[ndarray, " edges"], Int64[ndarray, " bars"]]:
    """Count boxes by sqrt(area): the edges of the bars in pixels, ``per_octave`` bars per factor of two, and the counts."""
    return octave_histogram(np.sqrt(instances.shapes.prod(axis=1)), per_octave=per_octave)


def octave_histogram(
    size: Float64[ndarray, " n"], *, per_octave: int
) -> tuple[Float64[ndarray, " edges"], Int64[ndarray, " bars"]]:
    """Count sizes in bars of equal width in the logarithm: their edges in pixels, and the counts.

    >>> octave_histogram(np.array([4.0, 5, 9]), per_octave=1)
    (array([ 4.,  8., 16.]), array([2, 1]))
    """
    cells = np.floor(np.log2(size) * per_octave).astype(np.int64)
    first, last = (int(cells.min()), int(cells.max())) if len(cells) else (0, 0)
    edges = 2.0 ** (np.arange(first, last + 2) / per_octave)
    return edges, np.bincount(cells - first, minlength=last - first + 1)


@dataclass(frozen=True)
class ShapeCells:
    """Equal cells in the plane (log2 width, log2 height), and the cell of each shape."""

    x: Float64[ndarray, " columns_and_1"]
    y: Float64[ndarray, " rows_and_1"]
    """Edges of rows; like those of columns, in pixels."""
    flat: Int64[ndarray, " n"]
    """The index of the cell of each shape, row by row."""

    @classmethod
    def of(cls, shapes: Float64[ndarray, "n 2"], per_octave: int) -> ShapeCells:
        """Return the smallest block of cells that holds all shapes, ``per_octave`` cells per factor of two."""
        if not len(shapes):
            return cls(np.ones(1), np.ones(1), np.zeros(0, np.int64))
        cells = np.floor(np.log2(shapes.T.copy()) * per_octave).astype(np.int64)
        first, last = cells.min(axis=1), cells.max(axis=1)
        x, y = (2.0 ** (np.arange(*ends) / per_octave) for ends in zip(first, last + 2, strict=True))
        return cls(x, y, (cells[1] - first[1]) * (len(x) - 1) + cells[0] - first[0])

    def sums(self, values: Float64[ndarray, " n"]) -> Float64[ndarray, "rows columns"]:
        """Sum a value over the shapes in each cell; NaN if the cell is empty."""
        size = (len(self.y) - 1, len(self.x) - 1)
        total = np.bincount(self.flat, weights=values, minlength=size[0] * size[1])
        empty = np.bincount(self.flat, minlength=len(total)) == 0
        return np.where(empty, np.nan, total).reshape(size)
