"""A whole RetinaNet: it agrees with torchvision's, and takes its levels and shapes from the anchors."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from detect.anchors.anchor_set import AnchorSet
from detect.detectors.backbones import build_backbone
from detect.detectors.retinanet import RetinaNetDetector
from detect.errors import ConfigError
from detect.heads.criterion import RetinaNetCriterion
from detect.heads.postprocess import PostProcess
from detect.heads.retinanet import HeadOutput

ANCHORS = AnchorSet.of(
    [[(8, 8), (12, 9), (9, 12)], [(16, 16), (24, 16), (16, 24)], [(32, 32), (48, 32), (32, 48)]], strides=(4, 8, 16)
)


def detector_of(anchors: AnchorSet = ANCHORS, num_classes: int = 1, **options: object) -> RetinaNetDetector:
    backbone = build_backbone("tiny", strides=(4, 8, 16, 32), in_channels=1, seed=0)
    return RetinaNetDetector(backbone, anchors, num_classes, seed=0, **options)


def test_every_weight_learns(nuclei_batch):
    for anchors in (ANCHORS, AnchorSet.of([[(8, 8)], [(64, 64), (99, 64)]], strides=(4, 64))):
        detector = detector_of(anchors)
        sum(detector.losses(nuclei_batch.images, nuclei_batch.targets)).backward()
        assert all(parameter.grad is not None for parameter in detector.parameters())


def test_levels_and_shapes_are_those_of_the_anchors():
    """2 shapes on 8 x 12 cells, 1 on 1 x 1, and a level without shapes, which is none."""
    anchors = AnchorSet.of([[(8, 8), (9, 9)], [], [(64, 64)]], strides=(4, 8, 64))
    detector = detector_of(anchors, num_classes=3)
    logits, deltas = detector(torch.rand(1, 1, 32, 48))
    assert (logits.shape, deltas.shape) == ((1, 2 * 8 * 12 + 1, 3), (1, 2 * 8 * 12 + 1, 4))
    assert_close(logits.sigmoid().mean(), torch.tensor(0.01), rtol=0.1, atol=0.0)


def test_anchors_lie_where_their_levels_are(monkeypatch):
    """Of one sure cell with deltas of 0 the anchor is found: cell (3, 5) of stride 8 has its middle at (44, 28)."""
    detector = detector_of(AnchorSet.of([[(8, 8)], [(20, 10)]], strides=(4, 8))).eval()
    logits = torch.full((1, 32 * 32 + 16 * 16, 1), -9.0)
    logits[0, 32 * 32 + 3 * 16 + 5] = 3.0
    monkeypatch.setattr(
        detector.head, "forward", lambda features: HeadOutput(logits, torch.zeros(1, len(logits[0]), 4))
    )
    (found,) = detector.detect(torch.rand(1, 1, 128, 128), torch.tensor([[128, 128]]))
    assert_close(found.boxes, torch.tensor([[34.0, 23.0, 54.0, 33.0]]))
    (found,) = detector.detect(torch.rand(1, 1, 128, 128), torch.tensor([[30, 40]]))  # cut to the image without padding
    assert_close(found.boxes, torch.tensor([[34.0, 23.0, 40.0, 30.0]]))


def test_the_losses_are_those_of_the_criterion(nuclei_batch):
    criterion = RetinaNetCriterion(box_loss="l1", box_weight=3.0)
    detector = detector_of(criterion=criterion)
    images, targets = nuclei_batch.images, nuclei_batch.targets
    anchors = detector.grid.generate([(32, 32), (16, 16), (8, 8)])
    assert_close(detector.losses(images, targets), criterion(detector(images), anchors, targets))


def test_part_of_a_batch_is_found_as_in_the_whole(nuclei_batch):
    """Norms of groups: no image changes what another one gives."""
    detector = detector_of(post_process=PostProcess(score_threshold=0.005))
    whole = detector.detect(nuclei_batch.images, nuclei_batch.image_hw)
    (alone,) = detector.detect(nuclei_batch.images[2:3], nuclei_batch.image_hw[2:3])
    assert len(alone.scores) > 10
    assert_close(alone.scores, whole[2].scores)
    assert_close(alone.boxes, whole[2].boxes, rtol=0, atol=1e-3)


def test_images_are_normalised_inside(nuclei_batch):
    images = nuclei_batch.images
    plain, own = detector_of(mean=(0.0,), std=(1.0,)), detector_of(mean=(0.2,), std=(0.1,))
    assert_close(own(images), plain((images - 0.2) / 0.1), rtol=1e-4, atol=1e-5)
    assert {"normalise.mean", "normalise.std"} <= set(own.state_dict())


def test_detecting_leaves_the_detector_and_gradients_alone(nuclei_batch):
    detector = detector_of()
    before = copy.deepcopy(detector.state_dict())
    detector.detect(nuclei_batch.images, nuclei_batch.image_hw)
    assert detector.training
    assert_close(detector.state_dict(), before, rtol=0, atol=0)
    loss: Tensor = sum(detector.losses(nuclei_batch.images, nuclei_batch.targets))
    assert loss.requires_grad  # anchors that were first anchors without gradients serve training too


def test_anchors_that_no_level_can_hold_are_named():
    with pytest.raises(ConfigError, match=r"need maps of \[2\]"):
        detector_of(AnchorSet.of([[(8, 8)], [(9, 9)]], strides=(2, 4)))
