"""Objects too large for a detector whose cells predict the distances to the sides of a box in a limited number of bins.

With distribution focal loss (Li et al. 2020, generalized focal loss, section 3.2) a distance is an expectation over the bins
0 to ``reg_max`` - 1, in strides of the cell's level: no side is farther than that from the centre of the cell. The cells of
the coarsest level that are nearest to the middle of a box need the shortest distances; if these do not span the box, no cell
predicts all of its sides.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from detect.advice.level_cells import LevelCells
from detect.anchors.instances import ResizedInstances
from detect.ops.box_arrays import row_blocks


def longest_distances(instances: ResizedInstances, stride: int) -> Float64[ndarray, " n"]:
    """The distance from the best cell of a level to the farthest side of each box, in strides of the level.

    >>> from detect.data import read_coco
    >>> dataset = read_coco({
    ...     "images": [{"id": 1, "width": 128, "height": 128}], "categories": [{"id": 1, "name": "cell"}],
    ...     "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 96, 64]}],
    ... })
    >>> longest_distances(ResizedInstances.of(dataset, "none"), 32)  # centres at 16, 48, 80; 48 in the middle of 96
    array([1.5])
    """
    image_rows = instances.dataset.instances.image_rows
    sizes = LevelCells(instances.image_canvas_wh, (stride,)).sizes[:, 0]
    longest = np.empty(len(instances))
    for rows in row_blocks(len(instances)):
        low, high = instances.boxes[rows, :2] / stride, instances.boxes[rows, 2:] / stride
        middle = (low + high) / 2
        centers = np.clip(np.floor(middle), 0, sizes[image_rows[rows]] - 1) + 0.5
        longest[rows] = np.maximum(centers - low, high - centers).max(axis=1)
    return longest


def smallest_reach(instances: ResizedInstances, stride: int) -> int:
    """The smallest whole number of strides with which some cell of a level reaches every side of every object."""
    return int(np.ceil(longest_distances(instances, stride).max(initial=1.0) - 1e-9))


def attainable_iou(instances: ResizedInstances, stride: int, reach: int) -> Float64[ndarray, " n"]:
    """The highest IoU with each object that a prediction of a level can have: its sides are cut to twice the reach."""
    return np.minimum(2.0 * reach * stride / instances.shapes, 1.0).prod(axis=1)
