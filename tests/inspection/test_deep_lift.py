"""DeepLift is complete on the shipped detector, and equals Captum's where that fits."""

from __future__ import annotations

import pytest
import torch
from captum import attr
from planted import (
    Answer,
    nuclei_image,
    seeded,
    shipped_landmarks,
    shipped_retinanet,
    strongest_anchor,
    strongest_logit,
)
from torch import nn
from torch.testing import assert_close

from detect.inspection.deep_lift import deep_lift
from detect.inspection.targets import box_side, class_logit, peak_logit


def difference(scalar, image, baseline) -> float:
    with torch.no_grad():
        answer, of_baseline = scalar(torch.stack([image, baseline])).tolist()
    return answer - of_baseline


def summed(module):
    return lambda images: module(images).sum(dim=(1, 2, 3))


def test_the_map_sums_to_the_difference_of_the_answers_on_the_shipped_detectors():
    image = nuclei_image()
    black, detector, landmarks = torch.zeros_like(image), shipped_retinanet(), shipped_landmarks()
    anchor, anchor_box = strongest_anchor(detector, image), torch.tensor([10.0, 10.0, 28.0, 28.0])
    scalars = [class_logit(detector, anchor, 0), peak_logit(landmarks, 0, 12, 11)]
    scalars += [box_side(detector, anchor, anchor_box, side) for side in range(4)]
    for scalar in scalars:
        wanted = difference(scalar, image, black)
        assert_close(float(deep_lift(scalar, image, black).sum()), wanted, rtol=0.01, atol=1e-5)


def test_a_batch_norm_and_a_pool_keep_it_complete():
    layers = lambda: [nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.SiLU(), nn.MaxPool2d(3, 2, 1)]  # noqa: E731
    scalar = Answer(seeded(lambda: nn.Sequential(*layers(), nn.Conv2d(4, 1, 3))), summed)
    image, baseline = (torch.rand(1, 16, 16, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    wanted = difference(scalar, image, baseline)
    assert_close(float(deep_lift(scalar, image, baseline).sum()), wanted, rtol=1e-3, atol=1e-5)


@pytest.mark.filterwarnings("ignore:Setting forward, backward hooks")
def test_it_is_captum_s_on_a_network_that_its_hooks_fit():
    layers = seeded(lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 1, 3), nn.ReLU()), 3)
    nn.init.constant_(layers[2].bias, 0.5)
    module = Answer(layers, summed)
    image, baseline = (torch.rand(2, 9, 8, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    wanted = (
        attr.DeepLift(module).attribute(image[None].clone().requires_grad_(), baselines=baseline[None])[0].sum(dim=0)
    )
    assert wanted.abs().max() > 0
    assert_close(deep_lift(module, image, baseline), wanted.detach(), rtol=1e-4, atol=1e-6)


def test_an_image_without_a_difference_has_an_empty_map():
    detector, image = shipped_retinanet(), nuclei_image(32)
    assert deep_lift(strongest_logit(detector, image), image, image).abs().max() == 0
