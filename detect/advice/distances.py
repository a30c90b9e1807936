"""Objects too large for a detector whose cells predict the distances to the sides of a box in a limited number of bins.

With distribution focal loss (Li et al. 2020, generalized focal loss, section 3.2) a distance is an expectation over the bins
0 to ``reg_max`` - 1, in strides of the cell's level: no side is farther than that from the centre of the cell. The cells of
the coarsest level that are nearest to the middle of a box need the shortest distances; if these do not span the box, no cell
predicts all of its sides.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray

from detect.advice.level_cells import LevelCells
from detect.anchors.instances import ResizedInstances
from detect.ops.box_arrays import row_blocks

ROUNDING = 1e-9  # strides


def needed_reach(instances: ResizedInstances, stride: int) -> Int64[ndarray, " n"]:
    """The smallest whole number of strides with which some cell of a level reaches every side of each object.

    >>> from detect.data import read_coco
    >>> dataset = read_coco({
    ...     "images": [{"id": 1, "width": 128, "height": 128}], "categories": [{"id": 1, "name": "cell"}],
    ...     "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 96, 64]}],
    ... })
    >>> needed_reach(ResizedInstances.of(dataset, "none"), 32)  # centres at 16, 48, 80: 1.5 strides from 48 to 0 and 96
    array([2])
    """
    needed = np.empty(len(instances), np.int64)
    for rows in row_blocks(len(instances)):
        needed[rows] = np.ceil(_from_best_cell(instances, stride, rows).max(axis=1) - ROUNDING)
    return needed


def _from_best_cell(instances: ResizedInstances, stride: int, rows: slice) -> Float64[ndarray, "m 4"]:
    """The distances to the left, upper, right and lower side from the cell nearest to the middle, in strides."""
    images = instances.dataset.instances.image_rows[rows]
    sizes = LevelCells(instances.image_canvas_wh, (stride,)).sizes[images, 0]
    low, high = instances.boxes[rows, :2] / stride, instances.boxes[rows, 2:] / stride
    centers = np.clip(np.floor((low + high) / 2), 0, sizes - 1) + 0.5
    return np.concatenate([centers - low, high - centers], axis=1)
