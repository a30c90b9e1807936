"""The reach of predicted distances: by hand, and against a loop over all cells of a level."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from builders import instances_of

from detect.advice.distances import needed_reach
from detect.anchors.instances import ResizedInstances

WH = (100, 70)  # of stride 32: 4 by 3 cells, of which the last ones end beyond the image
STRIDE = 32


def random_instances(seed: int, *, least: float) -> ResizedInstances:
    """Boxes inside an image, of sides of at least ``least``; corners at whole and at half pixels meet centres of cells."""
    draws = np.random.default_rng(seed)
    shapes = least + draws.random((60, 2)) * (np.array(WH) - least)
    boxes = np.concatenate([draws.random((60, 2)) * (np.array(WH) - shapes), shapes], axis=1)
    return instances_of((np.floor(boxes * 2) / 2).clip([0, 0, 1, 1]).tolist(), image_wh=WH)


def sides_from_cells(box: np.ndarray) -> list[tuple[float, float, float, float]]:
    """The distances from every cell of the level to the four sides of a box, in strides."""
    columns, rows = range(-(-WH[0] // STRIDE)), range(-(-WH[1] // STRIDE))
    middles = itertools.product([(i + 0.5) * STRIDE for i in columns], [(i + 0.5) * STRIDE for i in rows])
    x0, y0, x1, y1 = (box / STRIDE).tolist()
    return [(x / STRIDE - x0, y / STRIDE - y0, x1 - x / STRIDE, y1 - y / STRIDE) for x, y in middles]


def test_a_box_is_as_far_as_its_farthest_side_from_the_best_cell():
    # centres at 16, 48, 80, 112: 48 is 48 from both ends of 0 to 96; 16 is 14 and 16 from the ends of 2 to 32
    assert needed_reach(instances_of([[0, 2, 96, 30], [2, 2, 30, 9]], image_wh=(128, 128)), STRIDE).tolist() == [2, 1]


@pytest.mark.parametrize("seed", range(3))
def test_the_best_cell_of_all_is_found(seed):
    instances = random_instances(seed, least=1.0)
    expected = [math.ceil(min(max(sides) for sides in sides_from_cells(box))) for box in instances.boxes]
    assert needed_reach(instances, STRIDE).tolist() == expected
    assert len(set(expected)) > 1


def test_a_whole_number_of_strides_is_enough_for_itself():
    assert len(needed_reach(instances_of([], image_wh=WH), STRIDE)) == 0
    # 56 is the centre of a cell, and 48 from both ends of 8 to 104: 3 strides of 16
    instances = instances_of([[8, 8, 96, 96], [8, 8, 96 + 1e-9, 96], [8, 8, 96.5, 96]], image_wh=(112, 112))
    assert needed_reach(instances, 16).tolist() == [3, 3, 4]
