"""The level table, dropping levels, and the head that runs on what is kept."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from builders import instances_of, part_of
from numpy.testing import assert_allclose
from PIL import Image
from torch.testing import assert_close

from detect.anchors.anchor_set import AnchorSet
from detect.anchors.assign import assign
from detect.anchors.generator import AnchorGenerator
from detect.anchors.head_cost import HeadSize, level_costs
from detect.anchors.instances import ResizedInstances
from detect.anchors.levels import LevelReport, level_report
from detect.anchors.metrics import anchor_metrics
from detect.errors import FitError
from detect.heads.retinanet import RetinaNetHead
from detect.ops.matcher import MaxIoU
from detect.samples import sample_annotations

NUCLEI = AnchorSet.of(
    [[(9, 9), (13, 13)], [(18, 18)], [(24, 18), (18, 24), (26, 26)], [(80, 80)], [(300, 300)]],
    strides=(4, 8, 16, 32, 64),
)


def of(boxes: list[list[float]]) -> ResizedInstances:
    """Boxes with ids 5, 9, 13, ... in one image."""
    return instances_of(boxes, ids=[5 + 4 * row for row in range(len(boxes))], image_wh=(128, 128))


@pytest.fixture(scope="module")
def of_nuclei(nuclei) -> LevelReport:
    return level_report(nuclei, AnchorGenerator(NUCLEI))


def test_numbers_by_hand():
    # anchors 16 on stride 16, 40 on 32, 64 on 64, all squares in the middle of their cells. The first two boxes are cells
    # of P4, the third, 60 x 60 at (2, 2), is the first cell of P6 but for its rim: 3600 / 4096
    anchors = AnchorSet.of([[(16, 16)], [(40, 40)], [(64, 64)]], strides=(16, 32, 64))
    found = level_report(
        of([[0, 0, 16, 16], [16, 32, 16, 16], [2, 2, 60, 60]]), AnchorGenerator(anchors), head=HeadSize(1)
    )
    assert_allclose([level.preferred for level in found.levels], [2 / 3, 0, 1 / 3])
    assert_allclose([level.positives for level in found.levels], [2 / 3, 0, 1 / 3])
    assert [level.cost.anchors for level in found.levels] == [64, 16, 4]
    without_p4, without_p5, without_p6 = found.without_each
    assert list(without_p4.lost) == [5, 9]
    assert list(without_p5.lost) == []
    assert list(without_p6.lost) == [13]
    # without P6 the best of the third has 32 x 32 = (16, 16) .. (32, 32) of P5: anchors (-4, -4, 36, 36) and so on:
    # 34 * 34 / (3600 + 1600 - 1156), where the other cell's anchor (28, 28, 68, 68) overlaps as much
    assert_allclose(without_p6.average_iou, (2 + 1156 / 4044) / 3)
    assert without_p6.without_threshold == 1
    assert_allclose([without_p5.anchors_saved, without_p5.flops_saved], [16 / 84, 16 / 84])
    assert found.suggested.levels == (0, 2)
    assert found.advice == (
        "P4 has 66.7% of positives and the best anchor of 66.7% of instances; without it 2 instances are lost: "
        "annotations 5, 9; dropping it saves 76.2% of the anchors and 76.2% of the head's operations",
        "P5 has 0.0% of positives and the best anchor of 0.0% of instances; without it no instance is lost; "
        "dropping it saves 19.0% of the anchors and 19.0% of the head's operations",
        "P6 has 33.3% of positives and the best anchor of 33.3% of instances; without it 1 instance is lost: "
        "annotation 13; dropping it saves 4.8% of the anchors and 4.8% of the head's operations",
        "keep P4, P6: no instance is lost; this saves 19.0% of the anchors and 19.0% of the head's operations",
        "P3 with the shapes of P4 halved would cover 0 more (0.0% of instances) and add 3.0 times the anchors and 3.0 times "
        "the operations: it does not pay",
    )


@pytest.mark.parametrize("convention", ["torchvision", "effdet"])
def test_every_subset_is_what_its_own_grid_covers_and_gives(convention):
    nuclei = part_of("nuclei", "none", step=8)
    grid = AnchorGenerator.of_sizes([(10, 14), (22,), (40,)], strides=(4, 8, 16), convention=convention)
    found = level_report(nuclei, grid, head=HeadSize(1), threshold=0.6)
    ids = nuclei.dataset.instances.ids
    whole = found.score.grid_best_iou >= 0.6
    subsets = list(found.subsets())
    assert [kept.levels for kept in subsets] == [(0, 1, 2), (0, 1), (0, 2), (1, 2), (0,), (1,), (2,)]
    for kept in subsets:
        own = grid.select_levels(kept.levels)
        alone = anchor_metrics(nuclei, own.anchors, convention=own.convention)
        assert_allclose([kept.recall, kept.average_iou], [alone.grid_recall(0.6), alone.grid_average_iou])
        assert list(kept.lost) == ids[whole & (alone.grid_best_iou < 0.6)].tolist()
        assert kept.without_threshold == len(assign(nuclei, own, MaxIoU(allow_low_quality_matches=False)).unassigned)
        costs = level_costs(nuclei.canvas_wh[:1], own.anchors, HeadSize(1))  # images are all of one size
        of_all = sum(level.cost.flops for level in found.levels)
        assert_allclose(1 - kept.flops_saved, sum(cost.flops for cost in costs) / of_all)


def test_suggested_are_the_cheapest_levels_that_lose_next_to_nothing(of_nuclei, nuclei):
    assert "P6" in of_nuclei.suggested.dropped  # 300 px, in images of 128
    assert of_nuclei.suggested.recall >= of_nuclei.score.grid_recall(0.5) - 0.001
    cheaper = [kept for kept in of_nuclei.subsets() if kept.flops_saved > of_nuclei.suggested.flops_saved]
    assert cheaper
    assert all(len(kept.lost) > 0.001 * len(nuclei) for kept in cheaper)


@pytest.mark.parametrize("norm", [None, "group", "batch"])
@pytest.mark.parametrize("per_level", [True, False])
def test_the_head_gives_the_same_on_the_levels_that_are_kept(of_nuclei, nuclei, norm, per_level):
    anchors = (
        NUCLEI
        if per_level
        else AnchorSet.of([[(2 * s, 2 * s)] for s in (4, 8, 16, 32, 64)], strides=(4, 8, 16, 32, 64))
    )
    grid, kept = AnchorGenerator(anchors), of_nuclei.suggested.levels
    random = torch.Generator().manual_seed(0)
    head = RetinaNetHead(32, grid.num_anchors, 1, num_convs=1, norm=norm, generator=random).eval()
    name = nuclei.dataset.images.file_names[0]
    with Image.open(sample_annotations("nuclei").parent / "images" / name) as image:
        pixels = torch.from_numpy(np.array(image.convert("L"))).float()[None, None] / 255
    weight = torch.randn(32, 1, 1, 1, generator=random)
    maps = [
        torch.nn.functional.conv2d(torch.nn.functional.avg_pool2d(pixels, stride), weight)
        for stride in (4, 8, 16, 32, 64)
    ]
    with torch.no_grad():
        whole, some = head(maps), head.select_levels(kept)([maps[level] for level in kept])
    placed = grid.generate([(level.shape[2], level.shape[3]) for level in maps])
    rows = torch.cat([torch.arange(len(placed.boxes)).split(placed.num_per_level)[level] for level in kept])
    assert len(kept) < 5
    assert_close(some.logits, whole.logits[:, rows])
    assert_close(some.deltas, whole.deltas[:, rows])
    selected = grid.select_levels(kept).generate([(maps[level].shape[2], maps[level].shape[3]) for level in kept])
    assert_close(selected.boxes, placed.boxes[rows])


def test_advice_lists_ten_ids_and_counts_the_rest():
    boxes = [[float(16 * row), 0.0, 16.0, 16.0] for row in range(8)] + [
        [float(16 * row), 32.0, 16.0, 16.0] for row in range(4)
    ]
    grid = AnchorGenerator(AnchorSet.of([[(16, 16)], [(128, 128)]], strides=(16, 128)))
    found = level_report(of(boxes), grid)
    ids = ", ".join(str(5 + 4 * row) for row in range(10))
    assert f"12 instances are lost: annotations {ids}, and 2 more" in found.advice[0]


def test_to_dict_is_json(of_nuclei):
    content = json.loads(json.dumps(of_nuclei.to_dict()))
    assert len(content["subsets"]) == 31
    assert content["suggested"] == list(of_nuclei.suggested.levels)
    for subset, kept in zip(content["subsets"], of_nuclei.subsets(), strict=True):
        assert subset["lost"] == len(subset["lost_ids"]) == len(kept.lost)


def test_one_level_has_no_other_and_no_instances_give_no_advice_to_drop():
    one = level_report(of([[0, 0, 16, 16]]), AnchorGenerator(AnchorSet.of([[(16, 16)]], strides=[7])))
    assert one.without_each == ()
    assert one.extra_level is None
    assert one.advice == ("keep all levels: each covers instances that no other level covers",)
    empty = level_report(of([]), AnchorGenerator(NUCLEI))
    assert np.isnan(empty.levels[0].preferred)
    assert not empty.extra_level.pays
    assert empty.suggested.levels == (0, 1, 2, 3, 4)


def test_wrong_levels_are_named(of_nuclei):
    for wrong in ([], [0, 0], [5], [-1]):
        with pytest.raises(ValueError, match="need one or more different levels from 0 to 4"):
            of_nuclei.keep(wrong)
    many = AnchorSet.of([[(8, 8)]] * 11, strides=[2**power for power in range(11)])
    with pytest.raises(FitError, match="11 levels: subsets are compared for at most 10"):
        level_report(of([[0, 0, 16, 16]]), AnchorGenerator(many))


def test_only_subsets_that_no_other_beats_are_in_the_pareto_front():
    # anchors and boxes of the numbers by hand
    anchors = AnchorSet.of([[(16, 16)], [(40, 40)], [(64, 64)]], strides=(16, 32, 64))
    boxes = of([[0, 0, 16, 16], [16, 32, 16, 16], [2, 2, 60, 60]])
    found = level_report(boxes, AnchorGenerator(anchors), head=HeadSize(1))
    subsets = list(found.subsets())
    best = found.pareto_front
    for kept in subsets:
        beaten = any(
            other.flops_saved >= kept.flops_saved
            and len(other.lost) <= len(kept.lost)
            and (other.flops_saved, -len(other.lost)) != (kept.flops_saved, -len(kept.lost))
            for other in subsets
        )
        assert beaten != any(kept.levels == other.levels for other in best)
    # nothing is lost without P5; P6 alone, the cheapest, loses both small ones
    assert [kept.levels for kept in best] == [(0, 2), (0,), (2,)]
    assert [len(kept.lost) for kept in best] == [0, 1, 2]
