from __future__ import annotations

import json

import pytest
from numpy.testing import assert_allclose

from detect.anchors.anchor_set import AnchorSet
from detect.anchors.coverage import coverage
from detect.anchors.finer_level import FinerLevel, finer_level
from detect.anchors.grid import AnchorGrid
from detect.anchors.head_cost import HeadSize
from detect.anchors.instances import ResizedInstances
from detect.coco import read_coco
from detect.resize import parse_resize


def found(instances: ResizedInstances, grid: AnchorGrid) -> FinerLevel:
    score = coverage(instances, grid.anchors, strides=grid.strides, rounded=grid.rounded)
    finer = finer_level(score, grid, HeadSize(1), threshold=0.5)
    assert finer is not None
    return finer


def of(boxes: list[list[float]]) -> ResizedInstances:
    annotations = [{"id": row + 1, "image_id": 1, "category_id": 1, "bbox": box} for row, box in enumerate(boxes)]
    images = [{"id": 1, "width": 64, "height": 64}]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "a"}]}
    return ResizedInstances.of(read_coco(content), parse_resize("none"))


def test_small_boxes_want_halved_shapes_and_misplaced_ones_a_closer_grid():
    grid = AnchorGrid(AnchorSet.of([[(16, 16)]], strides=[16]))
    # 8 x 8 in the first cell of stride 8: 64 / 256 with 16 x 16, 1 with its half
    small = found(of([[0, 0, 8, 8], [0, 0, 16, 16]]), grid)
    assert (small.scale, small.shapes, small.gained, small.recall, small.average_iou) == (
        0.5,
        ((8.0, 8.0),),
        1,
        1.0,
        1.0,
    )
    # 16 x 16 at (4, 4): centre (12, 12). Of stride 16 the nearest is (8, 8): 144 / 368; of stride 8 it is (12, 12)
    misplaced = found(of([[4, 4, 16, 16]]), grid)
    assert (misplaced.scale, misplaced.gained, misplaced.average_iou) == (1.0, 1, 1.0)
    # 16 cells of 16 px, 64 of 8 px: four times as many
    assert (misplaced.anchors_added, misplaced.flops_added, misplaced.pays) == (4.0, 4.0, True)
    assert (misplaced.name, misplaced.stride, misplaced.beside) == ("P3", 8, "P4")


@pytest.mark.parametrize("dialect", ["torchvision", "effdet"])
def test_it_is_what_a_set_with_that_level_covers(nuclei, dialect):
    sizes = [(16, 24), (40,)]
    grid = AnchorGrid.of_sizes(sizes, strides=(8, 16), dialect=dialect)
    finer = found(nuclei, grid)
    size = tuple(finer.scale * each for each in sizes[0])
    whole = AnchorGrid.of_sizes([size, *sizes], strides=(4, 8, 16), dialect=dialect)
    score = coverage(nuclei, whole.anchors, strides=whole.strides, rounded=whole.rounded)
    assert_allclose([finer.recall, finer.average_iou], [score.placed_recall(0.5), score.placed_average_iou])
    before = coverage(nuclei, grid.anchors, strides=grid.strides, rounded=grid.rounded)
    assert_allclose(finer.gained_share, finer.recall - before.placed_recall(0.5))
    assert json.loads(json.dumps(finer.to_dict()))["stride"] == 4


def test_what_is_covered_already_does_not_pay():
    finer = found(of([[0, 0, 16, 16]]), AnchorGrid(AnchorSet.of([[(16, 16)]], strides=[16])))
    assert (finer.gained, finer.pays) == (0, False)
    assert finer.words.endswith("it does not pay")
