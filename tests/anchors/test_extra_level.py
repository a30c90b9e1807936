"""What a level of half the finest stride covers in addition, and what it costs."""

from __future__ import annotations

import json

import pytest
from builders import instances_of
from numpy.testing import assert_allclose

from detect.anchors.anchor_set import AnchorSet
from detect.anchors.extra_level import ExtraLevel, extra_level
from detect.anchors.generator import AnchorGenerator
from detect.anchors.head_cost import HeadSize
from detect.anchors.instances import ResizedInstances
from detect.anchors.metrics import anchor_metrics


def extra_of(instances: ResizedInstances, grid: AnchorGenerator) -> ExtraLevel:
    metrics = anchor_metrics(instances, grid.anchors, convention=grid.convention)
    extra = extra_level(metrics, HeadSize(1), threshold=0.5)
    assert extra is not None
    return extra


def test_small_boxes_want_halved_shapes_and_misplaced_ones_a_closer_grid():
    grid = AnchorGenerator(AnchorSet.of([[(16, 16)]], strides=[16]))
    # 8 x 8 in the first cell of stride 8: 64 / 256 with 16 x 16, 1 with its half
    small = extra_of(instances_of([[0, 0, 8, 8], [0, 0, 16, 16]]), grid)
    assert (small.scale, small.shapes, small.gained, small.recall, small.average_iou) == (
        0.5,
        ((8.0, 8.0),),
        1,
        1.0,
        1.0,
    )
    # 16 x 16 at (4, 4): centre (12, 12). Of stride 16 the nearest is (8, 8): 144 / 368; of stride 8 it is (12, 12)
    misplaced = extra_of(instances_of([[4, 4, 16, 16]]), grid)
    assert (misplaced.scale, misplaced.gained, misplaced.average_iou) == (1.0, 1, 1.0)
    # 16 cells of 16 px, 64 of 8 px: four times as many
    assert (misplaced.anchors_added, misplaced.flops_added, misplaced.pays) == (4.0, 4.0, True)
    assert (misplaced.name, misplaced.stride, misplaced.finest) == ("P3", 8, "P4")


@pytest.mark.parametrize("convention", ["torchvision", "effdet"])
def test_it_is_what_a_set_with_that_level_covers(nuclei, convention):
    sizes = [(16, 24), (40,)]
    grid = AnchorGenerator.of_sizes(sizes, strides=(8, 16), convention=convention)
    extra = extra_of(nuclei, grid)
    size = tuple(extra.scale * each for each in sizes[0])
    whole = AnchorGenerator.of_sizes([size, *sizes], strides=(4, 8, 16), convention=convention)
    score = anchor_metrics(nuclei, whole.anchors, convention=whole.convention)
    assert_allclose([extra.recall, extra.average_iou], [score.grid_recall(0.5), score.grid_average_iou])
    before = anchor_metrics(nuclei, grid.anchors, convention=grid.convention)
    assert_allclose(extra.gained_share, extra.recall - before.grid_recall(0.5))
    assert json.loads(json.dumps(extra.to_dict()))["stride"] == 4


def test_what_is_covered_already_does_not_pay():
    extra = extra_of(instances_of([[0, 0, 16, 16]]), AnchorGenerator(AnchorSet.of([[(16, 16)]], strides=[16])))
    assert (extra.gained, extra.pays) == (0, False)
    assert extra.words.endswith("it does not pay")
