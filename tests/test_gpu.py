"""On a GPU everything gives what it gives on the CPU, and waits for the GPU no more often than its docstring says."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import pytest
import torch
from builders import random_boxes, random_images
from torch import Tensor
from torch.testing import assert_close

from detect.anchors.anchor_set import AnchorSet
from detect.anchors.generator import AnchorGenerator, GridAnchors
from detect.detectors.backbones import build_backbone
from detect.detectors.landmarks import LandmarkDetector
from detect.detectors.retinanet import RetinaNetDetector
from detect.heads.criterion import RetinaNetCriterion
from detect.heads.image_targets import ImageTargets
from detect.heads.postprocess import PostProcess
from detect.heads.prediction_matchers import SimOta, TaskAligned
from detect.heads.retinanet import HeadOutput
from detect.keypoints.keypoints import Keypoints
from detect.keypoints.peaks import find_peaks
from detect.keypoints.targets import render_heatmaps
from detect.ops.matcher import Atss, MaxIoU
from detect.training.logs import read_log
from detect.training.loop import train

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

CUDA = torch.device("cuda")
ANCHORS = AnchorSet.of([[(12, 12), (20, 14)], [(30, 30), (44, 28)], [(70, 60), (90, 90)]], strides=(8, 16, 32))
NUM_IMAGES, NUM_CLASSES, SIDE = 4, 3, 128


def anchors_on(device: torch.device | str) -> GridAnchors:
    return AnchorGenerator(ANCHORS).generate([(16, 16), (8, 8), (4, 4)], device=device)


def targets_on(device: torch.device | str, count: int = 12) -> list[ImageTargets]:
    made = []
    for image in range(NUM_IMAGES):
        boxes = random_boxes(count, image)
        crowd = boxes[:1] + 20 if image == 1 else None
        classes = torch.arange(count) % NUM_CLASSES
        made.append(ImageTargets(boxes.to(device), classes.to(device), None if crowd is None else crowd.to(device)))
    made[2] = ImageTargets(boxes[:0].to(device), classes[:0].to(device))
    return made


def output_on(device: torch.device | str) -> HeadOutput:
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(NUM_IMAGES, 672, NUM_CLASSES, generator=random) - 3
    deltas = 0.2 * torch.randn(NUM_IMAGES, 672, 4, generator=random)
    return HeadOutput(logits.to(device).requires_grad_(), deltas.to(device).requires_grad_())


def points_on(device: torch.device | str, most: int = 60) -> list[Tensor]:
    random = torch.Generator().manual_seed(0)
    return [(torch.rand(count, 2, generator=random) * SIDE).to(device) for count in (most, 0, 1, 7)]


def waits(work: Callable[[], object]) -> int:
    """How often the CPU waits for the GPU in one call, after a first one."""
    work()
    torch.cuda.synchronize()
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")  # which warns once itself, of being a prototype
            work()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("called a synchronizing" in str(warning.message) for warning in caught)


@pytest.mark.parametrize("matcher", [MaxIoU(), MaxIoU(allow_low_quality_matches=False), Atss()], ids=repr)
def test_matches_are_those_of_the_cpu(matcher):
    boxes = random_boxes(200, 0)
    expected = matcher.match(anchors_on("cpu").level_grids, boxes)
    matches = matcher.match(anchors_on(CUDA).level_grids, boxes.to(CUDA))
    assert matches.device.type == "cuda"
    assert_close(matches.cpu(), expected, rtol=0, atol=0)


@pytest.mark.parametrize("matcher", [TaskAligned(), TaskAligned(rule="yolo"), SimOta()], ids=repr)
def test_matches_by_predictions_are_those_of_the_cpu(matcher):
    criterion = RetinaNetCriterion(matcher=matcher, class_loss="quality_focal", positive_weights=(1.0, 2.0, 3.0))
    found = []
    for device in ("cpu", CUDA):
        output, targets = output_on(device), targets_on(device)
        matches = criterion.to(device).match(anchors_on(device), targets, output)
        losses = criterion(output, anchors_on(device), targets)
        found.append([matches.cpu(), *(each.detach().cpu() for each in losses)])
    assert_close(found[1], found[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("box_loss", ["l1", "giou"])
@pytest.mark.parametrize("class_loss", ["focal", "quality_focal"])
def test_losses_and_gradients_are_those_of_the_cpu(box_loss, class_loss):
    criterion = RetinaNetCriterion(box_loss=box_loss, class_loss=class_loss)
    results = []
    for device in ("cpu", CUDA):
        output = output_on(device)
        losses = criterion(output, anchors_on(device), targets_on(device))
        gradients = torch.autograd.grad(losses.classification + losses.box, tuple(output))
        results.append([each.detach().cpu() for each in (*losses, *gradients)])
    assert_close(results[1], results[0], rtol=1e-4, atol=1e-6)


def test_detections_are_those_of_the_cpu():
    own, other = (
        PostProcess()(output_on(device), anchors_on(device), image_hw=[(SIDE, SIDE)] * NUM_IMAGES)
        for device in ("cpu", CUDA)
    )
    assert sum(len(each.scores) for each in own) > 50
    for expected, found in zip(own, other, strict=True):
        assert found.boxes.device.type == "cuda"
        assert_close(found.boxes.cpu(), expected.boxes, rtol=1e-4, atol=1e-3)
        assert_close(found.classes.cpu(), expected.classes, rtol=0, atol=0)


def test_heatmaps_and_their_peaks_are_those_of_the_cpu():
    expected, targets = (render_heatmaps(points_on(device), (SIDE, SIDE), stride=2.0) for device in ("cpu", CUDA))
    maps = torch.as_tensor(targets.heatmaps)
    assert maps.device.type == "cuda"
    assert_close(maps.cpu(), torch.as_tensor(expected.heatmaps), rtol=1e-5, atol=1e-6)
    own, other = (find_peaks(each) for each in (maps.cpu(), maps))
    assert len(own.scores) > 30
    assert_close(other.cells.cpu(), own.cells, rtol=0, atol=1e-3)


@pytest.mark.parametrize("task", ["boxes", "landmarks"])
def test_a_detector_gives_the_losses_and_detections_of_the_cpu(task):
    if task == "boxes":
        backbone = build_backbone("tiny", strides=(8, 16, 32), in_channels=1, seed=0)
        model, targets = RetinaNetDetector(backbone, ANCHORS, NUM_CLASSES, seed=1), targets_on
    else:
        model = LandmarkDetector(build_backbone("tiny", strides=(2, 4, 8), in_channels=1, seed=0), seed=1)

        def targets(device: torch.device | str) -> Keypoints:
            return Keypoints.of(points_on(device))

    images, losses = random_images(NUM_IMAGES, 1, SIDE, SIDE), []
    for device in ("cpu", CUDA):
        moved = copy.deepcopy(model).to(device)
        losses.append(sum(moved.losses(images.to(device), targets(device))).detach().cpu())
    assert_close(losses[1], losses[0], rtol=2e-3, atol=1e-4)  # convolutions in TF32


def test_a_run_on_the_gpu_learns(tiny, tmp_path):
    train(tiny("optimisation.accelerator=cuda", "optimisation.epochs=3"))
    losses = [row["loss"] for row in read_log(tmp_path / "run" / "epochs.csv")]
    assert losses[2] < losses[0]


def test_the_criterion_waits_as_often_as_it_says_for_any_number_of_boxes():
    output, anchors = output_on(CUDA), anchors_on(CUDA)
    targets = [targets_on(CUDA, count) for count in (2, 200)]
    few, many = (waits(lambda each=each: RetinaNetCriterion()(output, anchors, each)) for each in targets)
    assert few == many <= 8  # and not for each image


def test_rendering_waits_as_often_for_any_number_of_points():
    points = [points_on(CUDA, most) for most in (5, 500)]
    few, many = (waits(lambda each=each: render_heatmaps(each, (SIDE, SIDE))) for each in points)
    assert few == many
