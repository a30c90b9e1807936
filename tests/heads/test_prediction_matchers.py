"""Task-aligned assignment and SimOTA: by hand, as plain loops, and as the frameworks' own code."""

from __future__ import annotations

import math
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from assigners import Fields, mmdet_assigner, ultralytics_assigner
from builders import dataset_of
from torch.testing import assert_close

from detect.anchors.anchor_set import AnchorSet
from detect.anchors.assign import assign, level_hw
from detect.anchors.generator import AnchorGenerator
from detect.anchors.instances import ResizedInstances
from detect.conventions import BACKGROUND, IGNORE
from detect.data import read_coco
from detect.heads import prediction_matchers
from detect.heads.criterion import RetinaNetCriterion
from detect.heads.image_targets import ImageTargets
from detect.heads.prediction_matchers import SimOta, TaskAligned
from detect.heads.retinanet import HeadOutput
from detect.ops.boxes import DistanceCoder, pairwise_iou
from detect.ops.matcher import Predictions, perfect_predictions
from detect.samples import sample_annotations

STRIDES = (8, 16, 32)
MATCHERS = [TaskAligned(), TaskAligned(rule="yolo"), SimOta()]
POINTS = AnchorGenerator(AnchorSet.of([[(stride, stride)] for stride in STRIDES], strides=STRIDES))


def grids(image_hw=(96, 128)):
    return POINTS.generate(level_hw(POINTS, image_hw), image_hw).level_grids


def random_scene(seed: int, count: int = 8, num_classes: int = 3) -> tuple[torch.Tensor, Predictions]:
    """Boxes in eighths of a pixel, and predictions around each point, near an object where it lies in one."""
    random = torch.Generator().manual_seed(seed)
    low = torch.rand(count, 2, generator=random) * torch.tensor([100.0, 70.0])
    wh = 6 + 40 * torch.rand(count, 2, generator=random) ** 2
    boxes = (torch.cat([low, low + wh], dim=1) * 8).round() / 8
    every = torch.cat([level.boxes() for level in grids()])
    predicted = perfect_predictions(grids(), boxes).boxes
    middle = ((every[:, :2] + every[:, 2:]) / 2).repeat(1, 2)
    predicted = torch.where(predicted.any(dim=1, keepdim=True), predicted, middle + torch.tensor([-9.0, -9, 9, 9]))
    predicted = predicted + 4 * torch.randn(len(every), 4, generator=random)
    logits = 2 * torch.randn(len(every), num_classes, generator=random)
    return boxes, Predictions(logits, predicted, torch.randint(0, num_classes, (count,), generator=random))


def centers() -> torch.Tensor:
    every = torch.cat([level.boxes() for level in grids()])
    return (every[:, :2] + every[:, 2:]) / 2


# ---- by hand: one row of four cells of 8 px; an instance over the first three

(ROW,) = AnchorGenerator(AnchorSet.of([[(8, 8)]], strides=[8])).generate([(1, 4)]).level_grids
BOX = torch.tensor([[0.0, 0.0, 24.0, 8.0]])


def test_the_best_aligned_anchors_inside_learn():
    predicted = torch.tensor([[0.0, 0, 24, 8], [0, 0, 12, 8], [0, 0, 24, 8], [0, 0, 24, 8]])  # IoU 1, 1/2, 1, 1
    logits = torch.tensor([[0.0], [3.0], [math.log(3)], [9.0]])  # scores 1/2, .95, 3/4, 1
    predictions = Predictions(logits, predicted, torch.tensor([0]))
    # the fourth is best but outside: mmdetection's rule gives it a place and then drops it, ultralytics' does not
    assert TaskAligned(topk=2).match([ROW], BOX, predictions).tolist() == [-1, -1, 0, -1]
    assert TaskAligned(topk=2, rule="yolo").match([ROW], BOX, predictions).tolist() == [0, -1, 0, -1]
    matcher = TaskAligned(topk=3)
    matches, quality = matcher.match_softly([ROW], BOX, predictions)
    assert matches.tolist() == [0, -1, 0, -1]
    # alignments 1/2 and 3/4, highest IoU 1: soft targets 2/3 and 1
    assert_close(quality, torch.tensor([2 / 3, 0, 1, 0]))


def test_simota_gives_an_instance_as_many_anchors_as_its_predictions_overlap_it():
    predicted = torch.tensor([[0.0, 0, 24, 8], [0, 0, 12, 8], [0, 0, 18, 8], [0, 0, 24, 8]])  # IoU 1, 1/2, 3/4, 1
    predictions = Predictions(torch.zeros(4, 1), predicted, torch.tensor([0]))
    # 3.25 in all: three; the fourth is outside the box and costs more than any other
    assert SimOta().match([ROW], BOX, predictions).tolist() == [0, 0, 0, -1]
    assert SimOta(topk=2).match([ROW], BOX, predictions).tolist() == [0, -1, 0, -1]


# ---- plain loops


def loop_of_task_aligned(matcher: TaskAligned, boxes: torch.Tensor, predictions: Predictions) -> list[int]:
    iou, scores = pairwise_iou(boxes, predictions.boxes).tolist(), predictions.logits.sigmoid().tolist()
    wanted: dict[int, list[int]] = {}
    for row, (x0, y0, x1, y1) in enumerate(boxes.tolist()):
        own = int(predictions.classes[row])
        value = [scores[a][own] ** matcher.alpha * iou[row][a] ** matcher.beta for a in range(len(scores))]
        for a in sorted(range(len(scores)), key=lambda a, value=value: -value[a])[: matcher.topk]:
            x, y = centers()[a].tolist()
            if value[a] > 0 and min(x - x0, y - y0, x1 - x, y1 - y) > 0.01:
                wanted.setdefault(a, []).append(row)
    return [max(wanted.get(a, [-1]), key=lambda row, a=a: iou[row][a]) for a in range(len(scores))]


def loop_of_simota(boxes: torch.Tensor, predictions: Predictions) -> list[int]:
    iou, every = pairwise_iou(boxes, predictions.boxes), centers()
    strides = torch.cat([torch.full((level.num_anchors,), level.stride_xy[0]) for level in grids()])
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    in_box = ((every > boxes[:, None, :2]) & (every < boxes[:, None, 2:])).all(dim=-1)
    near = ((every - middle[:, None]).abs() < 2.5 * strides[:, None]).all(dim=-1)
    candidates = (in_box | near).any(dim=0).nonzero()[:, 0].tolist()
    target = torch.eye(predictions.logits.shape[1])[predictions.classes]
    cost = torch.stack(
        [
            torch.nn.functional.binary_cross_entropy_with_logits(
                predictions.logits, each.expand_as(predictions.logits), reduction="none"
            ).sum(dim=1)
            for each in target
        ]
    )
    cost = cost - 3 * (iou + 1e-7).log() + 1e5 * ~(in_box & near)
    wanted: dict[int, list[int]] = {}
    for row in range(len(boxes)):
        best = sorted(iou[row, candidates].tolist(), reverse=True)[:10]
        for a in sorted(candidates, key=lambda a, row=row: float(cost[row, a]))[: max(int(sum(best)), 1)]:
            wanted.setdefault(a, []).append(row)
    found = [BACKGROUND] * len(every)
    for a, rows in wanted.items():
        found[a] = rows[0] if len(rows) == 1 else int(cost[:, a].argmin())
    return found


@pytest.mark.parametrize("seed", range(8))
def test_both_are_their_plain_loops(seed):
    boxes, predictions = random_scene(seed)
    for matcher in (TaskAligned(), TaskAligned(topk=4, alpha=0.5, beta=2.0)):
        found = matcher.match(grids(), boxes, predictions).tolist()
        assert found == loop_of_task_aligned(matcher, boxes, predictions)
    assert SimOta().match(grids(), boxes, predictions).tolist() == loop_of_simota(boxes, predictions)


# ---- the frameworks' code


def scene_of(sample: str, image: int) -> tuple[torch.Tensor, Predictions]:
    dataset = read_coco(sample_annotations(sample))
    instances = ResizedInstances.of(dataset.take_images(np.array([image])), "letterbox:128")
    boxes = torch.from_numpy((instances.boxes * 8).round() / 8).float()
    boxes = boxes[(boxes[:, 2:] > boxes[:, :2]).all(dim=1)]
    return boxes, random_scene(image, count=len(boxes))[1]


SCENES = [("random", seed) for seed in range(40)] + [
    (sample, row) for sample in ("bccd", "nuclei") for row in range(0, 78, 6)
]


def scene(kind: str, number: int) -> tuple[torch.Tensor, Predictions]:
    return random_scene(number, count=1 + number % 12) if kind == "random" else scene_of(kind, number)


def priors() -> torch.Tensor:
    strides = torch.cat([torch.full((level.num_anchors,), level.stride_xy[0]) for level in grids()])
    return torch.cat([centers(), strides[:, None], strides[:, None]], dim=1)


@pytest.mark.filterwarnings("ignore:.torch.cuda.amp:FutureWarning")
@pytest.mark.skipif(not find_spec("mmdet"), reason="mmdetection is not installed")
@pytest.mark.parametrize(("kind", "number"), SCENES)
def test_mmdetections_assigners_find_the_same(monkeypatch, kind, number):
    boxes, predictions = scene(kind, number)
    every = torch.cat([level.boxes() for level in grids()])
    truth = Fields(bboxes=boxes, labels=predictions.classes)
    given = Fields(priors=every, bboxes=predictions.boxes, scores=predictions.logits.sigmoid())
    tood = mmdet_assigner("task_aligned_assigner", "TaskAlignedAssigner", topk=13)
    assert_close(TaskAligned().match(grids(), boxes, predictions), tood.assign(given, truth).gt_inds - 1)
    monkeypatch.setattr(prediction_matchers, "OUTSIDE_COST", 1e3)  # 1e5 leaves costs of two digits after the point
    given.priors = priors()
    simota = mmdet_assigner("sim_ota_assigner", "SimOTAAssigner", inf=1e3)
    assert_close(SimOta().match(grids(), boxes, predictions), simota.assign(given, truth).gt_inds - 1)


@pytest.mark.skipif(not find_spec("ultralytics"), reason="ultralytics is not installed")
@pytest.mark.parametrize(("kind", "number"), SCENES)
def test_ultralytics_assigner_finds_the_same_positives_and_soft_targets(kind, number):
    boxes, predictions = scene(kind, number)
    peer = ultralytics_assigner()(topk=10, alpha=0.5, beta=6.0, stride=[8, 16, 32], num_classes=3)
    truth = predictions.classes[None, :, None], boxes[None], torch.ones(1, len(boxes), 1)
    _, _, scores, positive, rows = peer(predictions.logits.sigmoid()[None], predictions.boxes[None], centers(), *truth)
    weights = scores[0].sum(dim=1)
    matcher = TaskAligned(topk=10, alpha=0.5, beta=6.0, rule="yolo", min_side=16.0)
    matches, quality = matcher.match_softly(grids(), boxes, predictions)
    learned = positive[0] & (weights > 0)  # a positive of weight 0 teaches nothing
    assert_close(quality, weights, rtol=1e-4, atol=1e-6)
    assert_close(torch.where(quality > 0, matches, BACKGROUND), torch.where(learned, rows[0], BACKGROUND))


# ---- the rules that both share


@pytest.mark.parametrize("matcher", MATCHERS, ids=str)
def test_an_image_without_instances_is_background(matcher):
    _, predictions = random_scene(0)
    nothing = Predictions(predictions.logits, predictions.boxes, torch.zeros(0, dtype=torch.int64))
    assert (matcher.match(grids(), torch.zeros(0, 4), nothing) == BACKGROUND).all()
    assert len(matcher.foreground_pairs(grids(), torch.zeros(0, 4), nothing).anchors) == 0


def test_an_instance_that_no_prediction_overlaps():
    box = torch.tensor([[16.0, 16.0, 40.0, 40.0]])
    far = torch.tensor([[900.0, 900.0, 910.0, 910.0]]).expand(len(centers()), 4)
    predictions = Predictions(torch.zeros(len(far), 1), far, torch.tensor([0]))
    for rule in ("tood", "yolo"):
        matcher = TaskAligned(rule=rule)
        matches, quality = matcher.match_softly(grids(), box, predictions)
        assert (matches == BACKGROUND).all()
        assert float(quality.sum()) == 0
    (learned,) = (SimOta().match(grids(), box, predictions) >= 0).nonzero()
    x, y = centers()[learned[0]].tolist()
    assert 16 < min(x, y) <= max(x, y) < 40  # one anchor inside


@pytest.mark.parametrize("matcher", MATCHERS, ids=str)
def test_the_order_of_instances_does_not_matter(matcher):
    boxes, predictions = random_scene(3)
    turned = Predictions(predictions.logits, predictions.boxes, predictions.classes.flip(0))
    matches, back = matcher.match(grids(), boxes, predictions), matcher.match(grids(), boxes.flip(0), turned)
    assert_close(torch.where(back >= 0, len(boxes) - 1 - back, back), matches)


@pytest.mark.parametrize("matcher", MATCHERS, ids=str)
def test_matching_alone_gives_the_pairs_before_conflicts(matcher):
    boxes, predictions = random_scene(5)
    pairs = matcher.foreground_pairs(grids(), boxes, predictions)
    for row in range(len(boxes)):
        alone = Predictions(predictions.logits, predictions.boxes, predictions.classes[row : row + 1])
        own = matcher.match(grids(), boxes[row : row + 1], alone)
        if not isinstance(matcher, SimOta):  # whose candidates are those of the whole image
            assert sorted(pairs.anchors[pairs.instances == row].tolist()) == (own >= 0).nonzero()[:, 0].tolist()
    assert_close(pairs.iou >= 0, torch.ones_like(pairs.iou, dtype=torch.bool))


@pytest.mark.parametrize("matcher", MATCHERS, ids=str)
def test_crowd_regions_are_not_taught_as_background(matcher):
    anchors = POINTS.generate(level_hw(POINTS, (96, 128)), (96, 128))
    criterion = RetinaNetCriterion(matcher=matcher, coder=DistanceCoder(), box_loss="giou")
    boxes, predictions = random_scene(1)
    output = HeadOutput(predictions.logits[None], torch.zeros(1, len(centers()), 4))
    crowd = torch.tensor([[0.0, 0.0, 64.0, 96.0]])
    (plain,), (matches,) = (
        criterion.match(anchors, [ImageTargets(boxes, predictions.classes, ignored)], output)
        for ignored in (None, crowd)
    )
    inside = centers()[:, 0] < 64
    assert (matches[inside] != BACKGROUND).all()
    assert (plain[inside] == BACKGROUND).any()
    assert_close(matches[plain >= 0], plain[plain >= 0])
    assert (matches[~inside] != IGNORE).all()


def test_a_matcher_of_predictions_says_that_they_are_missing():
    with pytest.raises(ValueError, match="give the head's output too"):
        TaskAligned().match(grids(), torch.zeros(0, 4))


@pytest.mark.parametrize("options", [{"topk": 0}, {"beta": -1.0}, {"rule": "yolov8"}])
def test_arguments_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=r"need topk|rule is"):
        TaskAligned(**options)


def test_statistics_take_what_the_best_network_could_predict():
    # two instances of 32 px and 16 px on strides 8, 16, 32: 16 + 4 + 1 and 4 + 1 centres, the smaller box first
    instances = ResizedInstances.of(dataset_of([[0, 0, 32, 32], [64, 32, 16, 16]], side=96), "none")
    assert assign(instances, POINTS, TaskAligned(topk=50)).positives.sum(axis=1).tolist() == [21, 5]
    assert assign(instances, POINTS, TaskAligned(topk=13)).positives.sum(axis=1).tolist() == [13, 5]
    assert assign(instances, POINTS, SimOta()).positives.sum(axis=1).tolist() == [10, 5]
