"""Matching any anchors: by hand, against torchvision's matcher, and by loops written from the definitions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from builders import one_cell, random_boxes
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

from detect.ops import matcher as matching
from detect.ops.boxes import pairwise_iou
from detect.ops.grid_matcher import LevelGrid
from detect.ops.matcher import BACKGROUND, IGNORE, Atss, MaxIoU, ignore_regions, match_boxes


class Waits(TorchDispatchMode):
    """Counts the operators for which a CPU would wait for an accelerator: their sizes or values depend on the data."""

    NAMES = ("nonzero", "_local_scalar_dense", "masked_select", "equal", "unique2", "_unique2", "bincount")

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, operator: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        name = operator.name().partition("::")[2].partition(".")[0]
        rows = arguments[1] if name in {"index", "index_put_", "index_put"} else ()
        if name in self.NAMES or any(row is not None and row.dtype in (torch.bool, torch.uint8) for row in rows):
            self.names.append(name)
        return operator(*arguments, **(options or {}))


def test_the_three_grades_by_hand():
    box = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    # anchors 10 wide and 10, 20, 22.5, 25.1, 30 high hold the box: IoU 1, .5, .44, .398, .33
    anchors = torch.tensor([[0, 0, 10, height] for height in (10, 20, 22.5, 25.1, 30)])
    assert match_boxes(anchors, box).tolist() == [0, 0, IGNORE, BACKGROUND, BACKGROUND]


def test_an_instance_with_only_poor_anchors_gets_all_of_its_best():
    box = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    anchors = torch.tensor([[0.0, 0.0, 10, 30], [0.0, 0.0, 30, 10], [0.0, 0.0, 10, 31]])
    assert match_boxes(anchors, box).tolist() == [0, 0, BACKGROUND]
    assert match_boxes(anchors, box, matcher=MaxIoU(allow_low_quality_matches=False)).tolist() == [BACKGROUND] * 3


def test_low_quality_own_and_forced_by_hand():
    # the anchor is 10 x 10; instance 0 is 10 x 6 of it (IoU .6), instance 1 is 10 x 2 of it (IoU .2), and has no better one
    anchors = torch.tensor([[0.0, 0.0, 10.0, 10.0], [200.0, 200.0, 210.0, 210.0]])
    boxes = torch.tensor([[0.0, 0.0, 10.0, 6.0], [0.0, 6.0, 10.0, 8.0]])
    assert match_boxes(anchors, boxes, matcher=MaxIoU(low_quality_mode="own")).tolist() == [0, BACKGROUND]
    assert match_boxes(anchors, boxes, matcher=MaxIoU(low_quality_mode="forced")).tolist() == [1, BACKGROUND]
    # both fight for it: of several the last instance has it
    twice = torch.cat([boxes, boxes[1:]])
    assert match_boxes(anchors, twice, matcher=MaxIoU(low_quality_mode="forced")).tolist() == [2, BACKGROUND]


@pytest.mark.parametrize("mode", ["own", "forced"])
def test_a_box_that_meets_no_anchor_makes_none_positive(mode):
    anchors = random_boxes(500, seed=0)
    far = torch.tensor([[900.0, 900.0, 950.0, 950.0], [5.0, 5.0, 5.0, 9.0]])  # beyond all anchors, and without a width
    assert (match_boxes(anchors, far, matcher=MaxIoU(low_quality_mode=mode)) == BACKGROUND).all()


@pytest.mark.parametrize("low_quality", [True, False])
@pytest.mark.parametrize("num_boxes", [1, 7, 60])
@pytest.mark.parametrize("chunk", [1, 5000, 2**22])
def test_it_is_torchvisions_matcher(monkeypatch, low_quality, num_boxes, chunk):
    monkeypatch.setattr(matching, "CHUNK_PAIRS", chunk)
    anchors, boxes = random_boxes(700, seed=1), random_boxes(num_boxes, seed=2)
    matcher = Matcher(0.5, 0.4, allow_low_quality_matches=low_quality)
    ours = match_boxes(anchors, boxes, matcher=MaxIoU(allow_low_quality_matches=low_quality))
    assert_close(ours, matcher(box_iou(boxes, anchors)))


def test_forced_matches_follow_mmdetections_loop(monkeypatch):
    monkeypatch.setattr(matching, "CHUNK_PAIRS", 3000)
    anchors, boxes = random_boxes(700, seed=3), random_boxes(40, seed=4)
    iou = pairwise_iou(boxes, anchors)
    best, instance = iou.max(dim=0)
    expected = torch.where(best >= 0.5, instance, IGNORE)
    expected[best < 0.4] = BACKGROUND
    for row, of_box in enumerate(iou):  # max_iou_assigner.py: each in turn takes all that tie with its best
        if of_box.max() > 0:
            expected[of_box == of_box.max()] = row
    assert_close(match_boxes(anchors, boxes, matcher=MaxIoU(low_quality_mode="forced")), expected)


def test_nothing_to_match_is_background():
    anchors = random_boxes(5, seed=0)
    assert match_boxes(anchors, torch.zeros(0, 4)).tolist() == [BACKGROUND] * 5
    assert match_boxes(torch.zeros(0, 4), anchors).tolist() == []
    assert Atss().match([one_cell(anchors)], torch.zeros(0, 4)).tolist() == [BACKGROUND] * 5


def test_bad_thresholds_are_named():
    with pytest.raises(ValueError, match="need 0 < bg_iou_thresh <= fg_iou_thresh <= 1"):
        MaxIoU(fg_iou_thresh=0.3)
    with pytest.raises(ValueError, match="low_quality_mode is"):
        MaxIoU(low_quality_mode="yes")


def test_atss_is_the_papers_algorithm():
    levels, boxes = (
        [random_boxes(300, seed=5), random_boxes(80, seed=6), random_boxes(6, seed=7)],
        random_boxes(15, seed=8),
    )
    anchors = torch.cat(levels)
    iou = pairwise_iou(boxes, anchors)
    expected, taken = [BACKGROUND] * len(anchors), [0.0] * len(anchors)
    starts = [0, 300, 380]
    for row, box in enumerate(boxes):
        center = (box[:2] + box[2:]) / 2
        candidates = []
        for start, level in zip(starts, levels, strict=True):
            distance = ((level[:, :2] + level[:, 2:]) / 2 - center).norm(dim=1)
            candidates += [start + index for index in distance.argsort(stable=True)[:9].tolist()]
        overlaps = iou[row, candidates]
        least = overlaps.mean() + overlaps.std()
        for index in candidates:
            x, y = ((anchors[index, :2] + anchors[index, 2:]) / 2).tolist()
            inside = box[0] < x < box[2] and box[1] < y < box[3]
            if iou[row, index] >= least and inside and iou[row, index] > taken[index]:
                expected[index], taken[index] = row, float(iou[row, index])
    found = Atss(per_shape=False).match([one_cell(level) for level in levels], boxes)
    assert found.tolist() == expected
    assert sum(match >= 0 for match in expected) > 20


def test_atss_takes_candidates_for_each_anchor_of_a_cell():
    # 3 x 3 cells with two anchors each: of nine and of 18 candidates, all 18 anchors; of 2 for each, the 4 nearest
    shapes = torch.tensor([[0.0, 0.0, 8.0, 8.0], [1.0, 1.0, 7.0, 7.0]])
    level, box = LevelGrid(3, 3, (8.0, 8.0), shapes), torch.tensor([[6.0, 8.0, 16.0, 16.0]])
    near = [8, 9, 6, 7]  # the cells of centres (12, 12) and (4, 12); the box's centre is (11, 12)
    iou = pairwise_iou(box, level.boxes())[0]
    for each, candidates in ((Atss(2), near), (Atss(4, per_shape=False), near), (Atss(9), range(18))):
        overlaps = iou[list(candidates)]
        wanted = [row for row in candidates if iou[row] >= overlaps.mean() + overlaps.std()]
        found = (each.match([level], box) >= 0).nonzero()[:, 0].tolist()
        assert found == sorted(row for row in wanted if row in {8, 9})  # only these have their centre inside
    assert len(Atss(1, per_shape=False).foreground_pairs([level], box).anchors) <= 1


def test_foreground_pairs_of_max_iou_are_the_entries_of_the_matrix_that_reach_the_threshold():
    level = LevelGrid(9, 11, (8.0, 8.0), torch.tensor([[-8.0, -8.0, 16.0, 16.0], [-20.0, 0.0, 28.0, 8.0]]))
    boxes = random_boxes(20, seed=9, side=70)
    pairs = MaxIoU(fg_iou_thresh=0.3, bg_iou_thresh=0.2).foreground_pairs([level], boxes)
    iou = pairwise_iou(boxes, level.boxes())
    found = zip(pairs.instances.tolist(), pairs.anchors.tolist(), strict=True)
    assert sorted(found) == [tuple(entry) for entry in (iou >= 0.3).nonzero().tolist()]
    assert len(pairs.iou) > 20
    assert_close(pairs.iou, iou[pairs.instances, pairs.anchors], rtol=0, atol=0)
    assert_close(pairs.anchor_boxes, level.boxes()[pairs.anchors], rtol=0, atol=0)


def test_foreground_pairs_of_atss_are_the_anchors_that_each_instance_gets_alone():
    levels, boxes = [one_cell(random_boxes(300, seed=5)), one_cell(random_boxes(80, seed=6))], random_boxes(15, seed=8)
    pairs = Atss(4).foreground_pairs(levels, boxes)
    for row in range(len(boxes)):
        alone = Atss(4).match(levels, boxes[row : row + 1])
        assert_close(pairs.anchors[pairs.instances == row].sort().values, (alone == 0).nonzero()[:, 0])
    assert len(pairs.anchors) >= len(boxes)


def test_regions_are_ignored_by_the_share_of_the_anchor_that_they_cover():
    anchors = torch.tensor(
        [[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 20.0], [0.0, 0.0, 10.0, 21.0], [0.0, 0.0, 10.0, 9.0]]
    )
    crowd = torch.tensor([[0.0, 0.0, 100.0, 10.0]])
    # the crowd covers all, one half, a little less than one half of the first three; the last is an instance's
    matches = torch.tensor([BACKGROUND, BACKGROUND, BACKGROUND, 0])
    assert ignore_regions(matches, anchors, crowd).tolist() == [IGNORE, IGNORE, BACKGROUND, 0]
    assert ignore_regions(matches, anchors, torch.zeros(0, 4)).tolist() == matches.tolist()


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("num_matches", "num_anchors"), [(1, 4), (4, 1), (3, 4)])
def test_matches_of_another_number_than_the_anchors_are_refused(num_matches, num_anchors):
    matches, anchors = torch.full((num_matches,), BACKGROUND), random_boxes(num_anchors, seed=0)
    with pytest.raises(ValueError, match=rf"{num_anchors} anchors need one match each, got \({num_matches},\)"):
        ignore_regions(matches, anchors, anchors[:1])


@pytest.mark.parametrize("mode", ["own", "forced"])
def test_comparing_all_pairs_waits_for_no_accelerator(mode):
    anchors, boxes = random_boxes(300, 0), random_boxes(40, 1)
    with Waits() as waits:
        match_boxes(anchors, boxes, matcher=MaxIoU(low_quality_mode=mode))
    assert waits.names == []
