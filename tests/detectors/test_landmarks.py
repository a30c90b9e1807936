"""A landmark detector: what it reads from the maps it learns from are the points themselves."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import random_images
from torch import nn
from torch.testing import assert_close

from detect.detectors import landmarks
from detect.detectors.backbones import build_backbone
from detect.detectors.landmarks import LandmarkDetector
from detect.errors import ConfigError
from detect.keypoints.keypoints import Keypoints
from detect.keypoints.peaks import Peaks
from detect.losses import batch_normalizer, image_normalizer


def detector_of(num_types: int = 1, stride: int = 2, **options: object) -> LandmarkDetector:
    backbone = build_backbone("tiny", strides=(2, 4, 8, 16), in_channels=1, seed=0)
    return LandmarkDetector(backbone, num_types, stride=stride, seed=0, **options)


@pytest.mark.parametrize("stride", [2, 4])
def test_the_maps_that_it_learns_give_back_the_points(stride):
    """To between the pixels, in indices of pixels; beyond the image but inside the padding there are none."""
    points = [torch.tensor([[10.25, 20.5], [40.0, 7.75]]), torch.tensor([[30.0, 30.0], [55.0, 30.0]])]
    detector = detector_of(stride=stride)
    targets = detector.targets(torch.zeros(2, 1, 60, 61), Keypoints.of(points))
    assert targets.heatmaps.shape == (2, 1, 60 // stride, -(-61 // stride))
    peaks = detector.read_points(targets.heatmaps, torch.tensor([[60, 61], [60, 40]]))
    assert_close(peaks.of_image(0).cells.sort(dim=0).values, points[0].sort(dim=0).values, rtol=0, atol=1e-3)
    assert_close(peaks.of_image(1).cells, points[1][:1], rtol=0, atol=1e-3)
    assert_close(peaks.in_image(1), peaks.cells)  # maps of stride 1 are the image


def test_covariance_is_in_square_pixels(monkeypatch):
    """1 and .25 square cells of stride 4 are 16 and 4 square pixels."""
    in_cells = torch.diag(torch.tensor([1.0, 0.25]))[None]
    one = Peaks(torch.ones(1, 2), torch.ones(1), *torch.zeros(2, 1, dtype=torch.int64), in_cells, 1, 1)
    monkeypatch.setattr(landmarks, "find_peaks", lambda *_, **__: one)
    peaks = detector_of(stride=4).read_points(torch.zeros(1, 1, 4, 4), torch.tensor([[16, 16]]))
    assert_close(peaks.covariance, torch.diag(torch.tensor([16.0, 4.0]))[None])
    assert_close(peaks.cells, torch.full((1, 2), 5.5))  # the middle of pixels 4 to 7


def test_before_anything_is_learnt_every_cell_has_the_prior(nuclei_batch):
    """A logit of -4.6; the focal loss of a negative with p = .01 is 1e-4 * .01, that of each point .98 * 4.6."""
    detector = detector_of(num_types=2)
    logits = detector(nuclei_batch.images).logits
    assert logits.shape == (4, 2, 64, 64)
    assert_close(logits.mean().item(), math.log(0.01 / 0.99), rtol=0.02, atol=0.0)
    loss = detector.losses(nuclei_batch.images[:1], Keypoints.of([torch.tensor([[[9.0, 9.0], [50.0, 9.0]]])]))
    assert_close(loss.heatmap.item(), 0.99**2 * -math.log(0.01), rtol=0.05, atol=0.0)


def test_losses_are_divided_over_the_points():
    """By the batch's, 3 and 0 but at least one an image: 4. Or by each image's: 2 * 3 (the first has nearly all)."""
    images = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    points = Keypoints.of([torch.tensor([[5.0, 5.0], [20.0, 5.0], [9.0, 25.0]]), torch.zeros(0, 2)])
    given = {"batch": batch_normalizer, "image": image_normalizer, "none": torch.ones_like}
    loss = {name: detector_of(normalizer=rule).losses(images, points).heatmap for name, rule in given.items()}
    assert_close(loss["batch"], loss["none"] / 4)
    assert_close(loss["image"], loss["none"] / 6, rtol=0.01, atol=0.0)


def test_numpy_and_torch_landmarks_give_the_same_loss(nuclei_batch):
    own = nuclei_batch.landmarks
    tensors = Keypoints(
        *(torch.from_numpy(np.asarray(each)) for each in (own.points, own.image, own.types, own.visibility)),
        own.num_images,
    )
    detector = detector_of()
    assert_close(detector.losses(nuclei_batch.images, own), detector.losses(nuclei_batch.images, tensors))


def test_nothing_is_taught_in_ignored_regions():
    """They are boxes in continuous pixels: pixels 16 to 19 are columns 8 and 9 of stride 2, and none beside."""
    detector = detector_of()
    images = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    none = Keypoints.of([torch.zeros(0, 2)])
    strip = torch.tensor([[16.0, 0.0, 20.0, 32.0]])
    weights = detector.targets(images, none, [strip]).weights
    assert_close(weights[0, 0].sum(dim=0), torch.tensor([16.0] * 8 + [0.0] * 2 + [16.0] * 6))
    everything, nothing = detector.losses(images, none, ignored=[None]), detector.losses(images, none)
    assert_close(everything, nothing)
    assert 0 < detector.losses(images, none, ignored=[strip]).heatmap < nothing.heatmap
    detector.losses(images, none).heatmap.backward()


@pytest.mark.parametrize("stride", [2, 4])
def test_heatmaps_over_all_turns_turn_with_the_image(stride):
    images, image_hw = random_images(2, 1, 32, 48), torch.tensor([[32, 48]] * 2)
    detector = detector_of(stride=stride, threshold=0.005).eval()

    def heatmaps(images):
        return detector(images).logits.sigmoid()

    def over_turns(images):
        return detector._over_turns(images, heatmaps(images))

    whole = over_turns(images)
    assert_close(over_turns(images.flip(-1)).flip(-1), whole)
    assert_close(over_turns(images.rot90(1, (-2, -1))).rot90(-1, (-2, -1)), whole)
    assert (heatmaps(images.flip(-1)).flip(-1) - heatmaps(images)).abs().max() > 1e-5
    found, wanted = detector.detect(images, image_hw, turned=True), detector.read_points(whole, image_hw)
    assert len(found.cells) > 4
    assert_close(found.cells, wanted.cells)


def test_odd_images_are_turned_with_their_cells():
    images = random_images(1, 1, 33, 47)
    detector = detector_of(stride=4).eval()
    upright = detector(images).logits.sigmoid()
    whole = detector._over_turns(images, upright)
    assert whole.shape == upright.shape == (1, 1, 9, 12)
    padded = torch.nn.functional.pad(images, (0, 1, 0, 3))
    others = detector._over_turns(padded, detector(padded).logits.sigmoid())
    assert_close((whole - upright / 8), others - detector(padded).logits.sigmoid() / 8)


@pytest.mark.parametrize("stride", [2, 4])
def test_every_weight_learns(stride, nuclei_batch):
    detector = detector_of(stride=stride)
    detector.losses(nuclei_batch.images, nuclei_batch.landmarks).heatmap.backward()
    assert all(parameter.grad is not None for parameter in detector.parameters())


def test_a_stride_that_the_backbone_lacks_is_named():
    with pytest.raises(ConfigError, match=r"need maps of \[1\]"):
        detector_of(stride=1)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("count", [1, 3])
def test_sizes_of_another_number_of_images_are_refused(nuclei_batch, count):
    # one size would be that of both images; with three and one image there would be points of three
    sizes = nuclei_batch.image_hw[:1].repeat(count, 1)
    with pytest.raises(ValueError, match=rf"one height and width for each image, \(2, 2\), got \({count}, 2\)"):
        detector_of().detect(nuclei_batch.images[:2], sizes)
    if count == 3:
        with pytest.raises(ValueError, match=r"for each image, \(1, 2\), got \(3, 2\)"):
            detector_of().detect(nuclei_batch.images[:1], sizes)


def test_targets_and_regions_of_another_number_of_images_are_refused(nuclei_batch):
    detector, images, points = detector_of(), nuclei_batch.images, nuclei_batch.landmarks
    with pytest.raises(ValueError, match="targets of 4 images and 1 keypoint types for heatmaps of 3 and 2"):
        detector_of(num_types=2).num_positives(images[:3], points)
    for ignored in ([None] * 3, [None] * 5, [torch.zeros(0, 4)]):
        with pytest.raises(ValueError, match=f"regions to ignore of {len(ignored)} images or maps, for 4 images of 1"):
            detector.losses(images, points, ignored=ignored)


def rods_of(*angles: float) -> Keypoints:
    """One image with a point for each angle, 12 px apart."""
    points = torch.tensor([[9.3 + 12 * (number % 4), 8.6 + 12 * (number // 4)] for number in range(len(angles))])
    return replace(Keypoints.of([points]), angles=torch.tensor(angles))


@pytest.mark.parametrize("orientation", ["directed", "axis"])
@pytest.mark.parametrize("stride", [2, 4])
def test_the_orientations_that_it_learns_give_back_the_angles(orientation, stride):
    """From the drawn targets to 1e-4 rad; those of an axis modulo a half turn."""
    angles = (torch.rand(16, generator=torch.Generator().manual_seed(0)) * 2 - 1) * math.pi
    detector = detector_of(stride=stride, sigma_cells=1.0, orientation=orientation)
    targets = detector.targets(torch.zeros(1, 1, 60, 60), rods_of(*angles.tolist()))
    maps = torch.zeros(1, 2, *targets.heatmaps.shape[2:])
    rows, columns = targets.positives[:, 2:].T
    maps[0][:, rows, columns] = targets.orientations.T
    peaks = detector.read_points(targets.heatmaps, torch.tensor([[60, 60]]), maps)
    order = ((peaks.cells - 8) / 12).round() @ torch.tensor([1.0, 4.0])
    difference = peaks.take(order.argsort()).angles - angles
    turns = 2 if orientation == "axis" else 1
    assert_close((turns * difference).cos(), torch.ones(16), rtol=0, atol=1e-7)
    assert peaks.of_image(0).angles.shape == (16,)
    assert detector.read_points(targets.heatmaps, torch.tensor([[60, 60]])).angles is None


def test_orientations_are_learned_at_the_points_alone_and_unknown_ones_not():
    """By hand: at a head of zeros each known point costs |cos| + |sin|, over the 3 points; twice the angle of an axis."""
    images, points = torch.rand(1, 1, 32, 48), rods_of(0.0, math.pi / 4, math.nan)
    for orientation, wanted in (("directed", 1 + math.sqrt(2)), ("axis", 2.0)):
        detector = detector_of(orientation=orientation, orientation_weight=0.5)
        nn.init.zeros_(detector.head.orientation_output.weight)
        maps = list[torch.Tensor]()
        detector.head.orientation_output.register_forward_hook(lambda *each, maps=maps: maps.append(each[2]))
        losses = detector.losses(images, points)
        assert_close(losses.orientation.item(), 0.5 * wanted / 3)
        (gradient,) = torch.autograd.grad(losses.orientation, maps[-1])
        cells = gradient.abs().sum(dim=1)[0].nonzero()
        assert cells.tolist() == [[4, 4], [4, 10]]  # (8.6, 9.3) and (8.6, 21.3) in cells of 2 px


def test_without_orientation_nothing_changes():
    plain, oriented = detector_of(), detector_of(orientation="axis")
    for name, weights in plain.state_dict().items():
        assert_close(weights, oriented.state_dict()[name], rtol=0, atol=0)
    images, points = torch.rand(1, 1, 32, 48), rods_of(0.5)
    assert plain.losses(images, points)._fields == ("heatmap",)
    assert_close(plain.losses(images, points).heatmap, oriented.losses(images, points).heatmap)
    assert plain.eval().detect(images, torch.tensor([[32, 48]])).angles is None


def test_points_without_angles_and_unknown_words_are_refused():
    with pytest.raises(ValueError, match="a detector with orientation='axis' needs points with angles"):
        detector_of(orientation="axis").losses(torch.zeros(1, 1, 32, 32), Keypoints.of([torch.zeros(1, 2)]))
    with pytest.raises(ValueError, match="orientation is one of none, directed, axis, got 'up'"):
        detector_of(orientation="up")
