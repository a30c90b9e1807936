"""Free predictors: which of them is responsible, and what they learn."""

from __future__ import annotations

import math

import pytest
import torch
from evidence_parts import free_predictors
from torch.testing import assert_close

from detect.anchors.assign import assign
from detect.anchors.generator import AnchorGenerator
from detect.anchors.instances import ResizedInstances
from detect.conventions import BACKGROUND, IGNORE
from detect.data import read_coco
from detect.data.resize import parse_resize
from detect.heads.criterion import RetinaNetCriterion
from detect.heads.image_targets import ImageTargets
from detect.heads.retinanet import HeadOutput
from detect.ops.matcher import Predictions


def responsible(predicted, placed, boxes):
    predictions = Predictions(torch.zeros(len(predicted), 1), predicted, torch.zeros(len(boxes), dtype=torch.int64))
    return free_predictors.ResponsiblePredictor().match(placed.level_grids, boxes, predictions)


@pytest.fixture
def placed():
    """Levels of 2 x 2 cells of 8 px and 1 x 1 of 16 px, two predictors to a cell: rows 0 to 7, then 8 and 9."""
    anchors = free_predictors.free_priors((8, 16), 2)
    return AnchorGenerator(anchors).generate([(2, 2), (1, 1)])


def test_an_instance_has_the_level_of_its_size_and_the_cell_of_its_centre(placed):
    boxes = torch.tensor([[8.0, 0, 16, 8], [0, 8, 12, 16], [0, 0, 23, 23]])
    # roots of areas 8, 9.8 and 23; the middle of 16 and 32 in logs is 22.6: P3, P3, P4
    # centres (12, 4): row 0, column 1; (6, 12): row 1, column 0
    assert free_predictors.predictors_of(placed.level_grids, boxes) == [[2, 3], [4, 5], [8, 9]]


def test_an_instance_outside_the_map_has_the_nearest_cell(placed):
    assert free_predictors.predictors_of(placed.level_grids, torch.tensor([[14.0, -9, 22, -1]])) == [[2, 3]]


def test_the_predictor_that_overlaps_most_is_responsible(placed):
    predicted = torch.zeros(10, 4)
    predicted[2] = torch.tensor([8.0, 0, 16, 5])  # IoU 5 / 8, of the own cell
    predicted[3] = torch.tensor([8.0, 0, 16, 6])  # 6 / 8
    predicted[0] = torch.tensor([8.0, 0, 16, 8])  # 1, of another cell: ignored
    predicted[4] = torch.tensor([8.0, 0, 16, 3])  # 3 / 8: background
    matches = responsible(predicted, placed, torch.tensor([[8.0, 0, 16, 8]]))
    wanted = [BACKGROUND] * 10
    wanted[0] = wanted[2] = IGNORE
    wanted[3] = 0
    assert matches.tolist() == wanted


def test_an_overlap_of_a_half_is_ignored_and_less_is_background(placed):
    predicted = torch.zeros(10, 4)
    predicted[0] = torch.tensor([8.0, 0, 16, 4])  # 4 / 8
    predicted[1] = torch.tensor([8.0, 0, 16, 3.9])
    matches = responsible(predicted, placed, torch.tensor([[8.0, 0, 16, 8]]))
    assert matches[:2].tolist() == [IGNORE, BACKGROUND]
    assert matches[2] == 0  # of equals, here 0 and 0, the first


def test_two_instances_of_a_cell_share_its_predictors_the_best_pair_first(placed):
    boxes = torch.tensor([[8.0, 0, 16, 8], [8, 0, 16, 7], [8, 0, 16, 6]])
    predicted = torch.zeros(10, 4)
    predicted[2] = torch.tensor([8.0, 0, 16, 7])  # 7/8 of the first, 1 of the second, 6/7 of the third
    predicted[3] = torch.tensor([8.0, 0, 16, 4])  # 4/8, 4/7, 4/6
    # the second takes row 2; of the others the third has more of row 3; the first is learned by none
    matches = responsible(predicted, placed, boxes)
    assert matches[2:4].tolist() == [1, 2]


def test_an_image_without_instances_is_all_background(placed):
    matches = responsible(torch.rand(10, 4), placed, torch.zeros(0, 4))
    assert matches.tolist() == [BACKGROUND] * 10


def test_losses_of_free_predictors_by_hand(placed):
    # predictor 2 gives the box itself, all logits are 0: p = 1/2
    # focal: one positive 1/4 * 1/4 ln 2, no other overlaps by half, nine negatives 3/4 * 1/4 ln 2; one positive divides
    box = torch.tensor([[8.0, 0, 16, 8]])
    deltas = torch.zeros(1, 10, 4)
    deltas[0, :, 2:] = -3.0
    criterion = RetinaNetCriterion(matcher=free_predictors.ResponsiblePredictor(), box_loss="giou", box_weight=2.0)
    deltas[0, 2] = criterion.coder.encode(box[0], placed.boxes[2])
    found = criterion(HeadOutput(torch.zeros(1, 10, 1), deltas), placed, [ImageTargets(box, torch.tensor([0]))])
    assert_close(found.classification, torch.tensor((1 / 16 + 9 * 3 / 16) * math.log(2)))
    assert_close(found.box, torch.tensor(0.0), atol=1e-6, rtol=0)


def test_predictors_in_a_crowd_are_not_taught_to_be_background(placed):
    criterion = RetinaNetCriterion(matcher=free_predictors.ResponsiblePredictor())
    crowd = ImageTargets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.tensor([[-99.0, -99, 99, 99]]))
    output = HeadOutput(torch.zeros(1, 10, 1), torch.zeros(1, 10, 4))
    assert float(criterion(output, placed, [crowd]).classification) == 0


def test_positives_per_instance_are_one_but_in_crowded_cells():
    boxes = [[8, 0, 8, 8], [8, 0, 8, 7], [8, 0, 8, 6], [0, 8, 8, 8], [0, 0, 23, 23]]
    content = {
        "images": [{"id": 1, "width": 24, "height": 24}],
        "categories": [{"id": 1, "name": "cell"}],
        "annotations": [
            {"id": n, "image_id": 1, "category_id": 1, "bbox": box, "iscrowd": 0} for n, box in enumerate(boxes, 1)
        ],
    }
    instances = ResizedInstances.of(read_coco(content), parse_resize("none"))
    priors = free_predictors.free_priors((8, 16), 2)
    found = assign(instances, AnchorGenerator(priors), free_predictors.ResponsiblePredictor())
    assert found.overall.positives == 4 / 5  # three in a cell of two predictors


def test_free_predictors_learn(placed):
    criterion = RetinaNetCriterion(matcher=free_predictors.ResponsiblePredictor(), box_loss="giou")
    output = HeadOutput(torch.zeros(1, 10, 1, requires_grad=True), torch.zeros(1, 10, 4, requires_grad=True))
    target = ImageTargets(torch.tensor([[9.0, 1, 16, 8]]), torch.tensor([0]))
    sum(criterion(output, placed, [target])).backward()
    moved = output.deltas.grad[0].abs().sum(dim=1) > 0
    assert moved.nonzero().flatten().tolist() == [2]
