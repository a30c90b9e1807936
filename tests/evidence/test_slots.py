"""Keypoints by fixed slots: which slot has which point, and what it learns."""

from __future__ import annotations

import math

import numpy as np
import torch
from evidence_parts import slots
from torch.testing import assert_close

from detect.detectors.backbones import build_backbone
from detect.keypoints.keypoints import Keypoints


def test_instances_are_in_the_slots_of_their_places():
    points = np.array([[1.0, 2], [3, 4], [5, 6], [7, 8], [9, 9]])
    image, seen = np.array([1, 0, 1, 1, 1]), np.array([2, 2, 0, 1, 2])
    targets = Keypoints(points, image, np.zeros(5, np.int64), seen, 3)
    placed, present = slots.slot_targets(targets, 3, device="cpu")
    assert present.tolist() == [[True, False, False], [True, False, True], [False] * 3]  # the hidden one leaves a gap
    assert_close(placed[1], torch.tensor([[1.0, 2], [0, 0], [7, 8]]))  # the fourth of the image has no slot


def test_sorted_instances_are_in_slots_from_left_to_right():
    points = np.array([[5.0, 2], [3, 4], [1, 6], [7, 8], [2, 9]])
    targets = Keypoints(points, np.array([0, 1, 0, 1, 0]), np.zeros(5, np.int64), np.full(5, 2), 2)
    placed, present = slots.slot_targets(targets, 3, is_sorted=True, device="cpu")
    assert present.tolist() == [[True] * 3, [True, True, False]]
    assert_close(placed[0], torch.tensor([[1.0, 6], [2, 9], [5, 2]]))
    assert_close(placed[1, :2], torch.tensor([[3.0, 4], [7, 8]]))


def test_losses_of_slots_by_hand():
    output = torch.tensor([[[0.0, 0.5, 0.5], [math.log(3), 0.2, 0.9]]])
    points, present = torch.tensor([[[0.52, 0.8], [0.0, 0.0]]]), torch.tensor([[True, False]])
    losses = slots.slot_losses(output, points, present)
    # presence: -ln .5 and -ln .25, their mean; x: .02^2 / (2 * .05) = .004, y: .3 - .05 / 2 = .275; one point
    assert_close(losses.presence, torch.tensor((math.log(2) + math.log(4)) / 2))
    assert_close(losses.point, torch.tensor(5 * (0.004 + 0.275)))


def test_slots_without_any_point_learn_absence_alone():
    output = torch.zeros(2, 10, 3, requires_grad=True)
    losses = slots.slot_losses(output, torch.zeros(2, 10, 2), torch.zeros(2, 10, dtype=torch.bool))
    assert losses.point.item() == 0
    sum(losses).backward()
    assert bool((output.grad[..., 0] > 0).all())
    assert bool((output.grad[..., 1:] == 0).all())


def test_slots_are_read_in_pixels_of_the_input():
    backbone = build_backbone("tiny", strides=(2, 4, 8, 16, 32), in_channels=1, seed=0)
    detector = slots.SlotDetector(backbone, seed=1).eval()
    detector.output.weight.data.zero_()
    bias = detector.output.bias.data.view(10, 3)
    bias[:, 0] = -1.0
    bias[4] = torch.tensor([2.0, -0.25, 0.25])  # the middle less and plus a quarter
    peaks = detector.detect(torch.rand(2, 1, 32, 64), torch.tensor([[32, 64]] * 2))
    assert_close(peaks.cells, torch.tensor([[16.0, 24.0]] * 2))
    assert peaks.image.tolist() == [0, 1]
    assert_close(peaks.scores, torch.full((2,), 2.0).sigmoid())
