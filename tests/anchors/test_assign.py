"""Counts of what a matcher does are those of the matchers themselves, on every sample."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from builders import grid_anchors, instances_of, part_of
from numpy.testing import assert_array_equal
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

from detect.anchors.anchor_set import AnchorSet
from detect.anchors.assign import assign, level_hw
from detect.anchors.generator import AnchorGenerator
from detect.anchors.instances import ResizedInstances
from detect.data import read_coco
from detect.ops.matcher import Atss, MaxIoU
from detect.samples import SAMPLES

SIZES = [(20.0, 27.3), (45.0,), (99.0,), (160.0,), (300.0,)]


def images_of(instances: ResizedInstances, grid: AnchorGenerator):
    """Rows, boxes, anchors and numbers of anchors of the levels for each image."""
    image_rows = instances.dataset.instances.image_rows
    for image in np.unique(image_rows):
        rows = np.flatnonzero(image_rows == image)
        width, height = instances.canvas_wh[rows[0]].tolist()
        placed = grid.generate(level_hw(grid, (height, width)), (height, width))
        yield rows, torch.from_numpy(instances.boxes[rows]).float(), placed.boxes, placed.num_per_level


def counted(matches: torch.Tensor, num_per_level: list[int], num_instances: int) -> np.ndarray:
    """Positives of each instance and level."""
    learns = matches == torch.arange(num_instances)[:, None]
    return torch.stack([level.sum(dim=1) for level in learns.split(num_per_level, dim=1)], dim=1).numpy()


@pytest.fixture(scope="module")
def torchvision_matcher() -> dict[bool, Matcher]:
    return {low: Matcher(0.5, 0.4, allow_low_quality_matches=low) for low in (True, False)}


def test_numbers_by_hand():
    # stride 16, shape 16 x 16, centres in the middle: anchors are the cells themselves.
    # 1 is cell (0, 0), IoU 1; 2 reaches it with 240 / 256 and loses it; 3, 5 x 5 in one cell, has 25 / 256;
    # 4, 16 x 14, has 224 / 256 with its own cell; 5 is midway between two cells: 128 / 384 with each
    boxes = [[0, 0, 16, 16], [0, 0, 16, 15], [40, 40, 5, 5], [16, 48, 16, 14], [24, 16, 16, 16]]
    result = assign(instances_of(boxes), AnchorGenerator(AnchorSet.of([[(16, 16)]], strides=[16])))
    assert_array_equal(result.positives.ravel(), [1, 0, 1, 1, 2])
    assert_array_equal(result.by_threshold.ravel(), [1, 0, 0, 1, 0])
    assert_array_equal(result.candidates.ravel(), [1, 1, 0, 1, 0])
    assert_array_equal(result.low_quality_only, [2, 4])
    assert_array_equal(result.unassigned, [1])
    (level,) = result.by_level
    assert vars(level) == {
        "name": "P4", "num_anchors": 16, "positives": 5, "by_threshold": 2, "ignored": 0, "ambiguous": 1
    }  # fmt: skip
    assert vars(result.overall) == {
        "name": "all", "count": 5, "positives": 1.0, "low_quality_only": 2, "unassigned": 1, "ambiguous_lost": 1
    }  # fmt: skip


def test_the_first_and_last_anchors_of_a_level_are_its_own():
    # the corners of both levels: cells of 16 px and of 32 px
    boxes = [[0, 0, 16, 16], [48, 48, 16, 16], [0, 0, 32, 32], [32, 32, 32, 32]]
    result = assign(instances_of(boxes), AnchorGenerator(AnchorSet.of([[(16, 16)], [(32, 32)]], strides=(16, 32))))
    assert_array_equal(result.positives, [[1, 0], [1, 0], [0, 1], [0, 1]])
    assert_array_equal(result.candidates, result.positives)
    assert_array_equal(result.num_anchors, [16, 4])


def test_forced_an_instance_that_loses_its_anchor_gets_it_back_and_leaves_the_better_one_with_nothing():
    # both have the first cell as their best anchor, by 1 and by 240 / 256: the last of them takes it
    grid = AnchorGenerator(AnchorSet.of([[(16, 16)]], strides=[16]))
    result = assign(instances_of([[0, 0, 16, 16], [0, 0, 16, 15]]), grid, MaxIoU(low_quality_mode="forced"))
    assert_array_equal(result.candidates.ravel(), [1, 1])
    assert_array_equal(result.low_quality_only, [1])
    assert_array_equal(result.unassigned, [0])


def test_an_anchor_between_the_thresholds_is_ignored():
    # 16 x 7 in a cell of 16 x 16: 112 / 256 = .4375; the low-quality rule makes it positive
    grid = AnchorGenerator(AnchorSet.of([[(16, 16)]], strides=[16]))
    assert assign(instances_of([[0, 0, 16, 7]]), grid, MaxIoU(allow_low_quality_matches=False)).ignored.tolist() == [1]
    assert assign(instances_of([[0, 0, 16, 7]]), grid).ignored.tolist() == [0]


@pytest.mark.parametrize(
    ("sample", "resize", "step"), [("bccd", "letterbox:250", 6), ("nuclei", "none", 1), ("nuclei", "stretch:97x75", 2)]
)
def test_every_sample_has_the_counts_of_torchvisions_matcher(sample, resize, step, torchvision_matcher):
    instances = part_of(sample, resize, step)
    grid = AnchorGenerator.of_sizes(SIZES)
    result = assign(instances, grid)
    ignored, ambiguous, anchors = np.zeros((3, 5), np.int64)
    for rows, boxes, every, per_level in images_of(instances, grid):
        iou = box_iou(boxes, every)
        with_low, without = (torchvision_matcher[low](iou) for low in (True, False))
        assert_array_equal(result.positives[rows], counted(with_low, per_level, len(rows)))
        assert_array_equal(result.by_threshold[rows], counted(without, per_level, len(rows)))
        reached = iou >= 0.5
        assert_array_equal(
            result.candidates[rows], [[int(part.sum()) for part in row.split(per_level)] for row in reached]
        )
        levels = torch.stack([with_low == Matcher.BETWEEN_THRESHOLDS, reached.sum(dim=0) > 1]).split(per_level, dim=1)
        ignored += [int(level[0].sum()) for level in levels]
        ambiguous += [int(level[1].sum()) for level in levels]
        anchors += per_level
    assert_array_equal(result.ignored, ignored)
    assert_array_equal(result.ambiguous, ambiguous)
    assert_array_equal(result.num_anchors, anchors)
    assert len(result.low_quality_only) > 0


@pytest.mark.parametrize("shapes", [[[(20, 20)], [(40, 40)], [(80, 80)]], [[(20, 30), (16, 16)], [(40, 40), (60, 30)]]])
@pytest.mark.parametrize("sample", SAMPLES)
def test_atss_is_the_matchers(sample, shapes):
    instances = part_of(sample, "letterbox:200", step=9)
    grid = AnchorGenerator(AnchorSet.of(shapes, strides=(8, 16, 32)[: len(shapes)]))
    matcher = Atss(per_shape=False)  # the matcher is given cells of one anchor
    result = assign(instances, grid, matcher)
    for rows, boxes, every, per_level in images_of(instances, grid):
        matches = matcher.match(grid_anchors(every, per_level).level_grids, boxes)
        assert_array_equal(result.positives[rows], counted(matches, per_level, len(rows)))
    assert_array_equal(result.by_threshold, result.positives)
    assert len(result.low_quality_only) == result.ignored.sum() == 0


def test_a_box_that_meets_no_anchor_is_unassigned():
    # stride 32, anchors of 4 x 4 around (16, 16) and (48, 48): nothing at (0, 0)
    grid = AnchorGenerator(AnchorSet.of([[(4, 4)]], strides=[32]))
    for rule in (MaxIoU(), MaxIoU(low_quality_mode="forced"), Atss()):
        assert_array_equal(assign(instances_of([[0, 0, 4, 4], [14, 14, 4, 4]]), grid, rule).unassigned, [0])


def test_nothing_to_assign_and_a_wrong_number():
    empty = ResizedInstances.of(read_coco({"images": [], "annotations": [], "categories": []}), "none")
    result = assign(empty, AnchorGenerator.of_sizes(SIZES))
    assert result.positives.shape == (0, 5)
    assert result.by_category == result.neglected == ()
    assert np.isnan(result.overall.positives)
    with pytest.raises(ValueError, match="num_candidates from 1, got 0"):
        Atss(0)
