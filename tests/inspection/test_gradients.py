"""Gradients, integrated and guided, and occlusion, beside Captum where its hooks fit the network."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from captum import attr
from planted import Answer, nuclei_image, seeded, shipped_retinanet, strongest_logit
from torch import nn
from torch.testing import assert_close

from detect.inspection.gradients import (
    deconvolution,
    guided_backprop,
    input_x_gradient,
    integrated_gradients,
    occlusion,
    saliency,
    smooth_grad,
)


def plain_network() -> nn.Sequential:
    """Layers that Captum's hooks can replace: modules, each used once and not in place."""
    first, second = partial(nn.Conv2d, 2, 4, 3, padding=1), partial(nn.Conv2d, 4, 4, 3, padding=1)
    return seeded(lambda: nn.Sequential(first(), nn.ReLU(), nn.MaxPool2d(2), second(), nn.ReLU()))


def plain_answer(module):
    return lambda images: module(images)[:, :, 2, 3].sum(dim=1)


IMAGE = torch.rand(2, 12, 14, generator=torch.Generator().manual_seed(1))


@pytest.mark.filterwarnings("ignore:Setting backward hooks on ReLU")
@pytest.mark.parametrize(("own", "other"), [(guided_backprop, "GuidedBackprop"), (deconvolution, "Deconvolution")])
def test_rectified_gradients_are_captum_s_on_a_network_that_its_hooks_fit(own, other):
    module = plain_network()
    wanted = getattr(attr, other)(Answer(module, plain_answer)).attribute(IMAGE[None].requires_grad_())[0].sum(dim=0)
    assert_close(own(module, plain_answer(module), IMAGE), wanted.detach())


def test_saliency_is_the_absolute_gradient():
    module = nn.Conv2d(2, 1, 1, bias=False)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([2.0, -3.0]).reshape(1, 2, 1, 1))
    scalar = lambda images: module(images)[:, 0, 1, 2]  # noqa: E731
    wanted = torch.zeros(12, 14)
    wanted[1, 2] = 5.0
    assert_close(saliency(scalar, IMAGE), wanted)
    wanted[1, 2] = 2 * IMAGE[0, 1, 2] - 3 * IMAGE[1, 1, 2]
    assert_close(input_x_gradient(scalar, IMAGE), wanted)


def test_smooth_grad_of_a_linear_answer_is_its_gradient_and_its_noise_has_a_seed():
    weights = torch.rand(2, 12, 14, generator=torch.Generator().manual_seed(2))
    assert_close(smooth_grad(lambda images: (images * weights).sum(dim=(1, 2, 3)), IMAGE), weights.sum(dim=0))
    maps = [smooth_grad(plain_answer(plain_network()), IMAGE, seed=seed) for seed in (0, 0, 1)]
    assert_close(maps[0], maps[1], rtol=0, atol=0)
    assert (maps[0] - maps[2]).abs().max() > 1e-4


def test_integrated_gradients_sum_to_the_difference_of_the_answers_on_the_shipped_detector():
    detector, image = shipped_retinanet(), nuclei_image()
    scalar, black = strongest_logit(detector, image), torch.zeros_like(image)
    with torch.no_grad():
        answer, of_black = scalar(torch.stack([image, black])).tolist()
    assert abs(answer - of_black) > 0.1
    assert_close(float(integrated_gradients(scalar, image, black).sum()), answer - of_black, rtol=0.01, atol=0)


def test_a_number_of_steps_is_taken_as_it_is():
    module = plain_network()
    scalar, black = plain_answer(module), torch.zeros_like(IMAGE)
    wanted = attr.IntegratedGradients(scalar).attribute(IMAGE[None], baselines=black[None], n_steps=3)[0].sum(dim=0)
    assert_close(integrated_gradients(scalar, IMAGE, black, num_steps=3), wanted.detach().float())


def test_occlusion_is_the_mean_fall_over_the_squares_that_cover_a_pixel():
    image, black = torch.ones(1, 4, 4), torch.zeros(1, 4, 4)
    heatmap = occlusion(lambda images: images[:, 0, 0, 0], image, black, window_px=2)
    assert heatmap[0, 0] == 1  # the one square that covers the corner
    assert heatmap[0, 1] == 0.5  # two squares, one of them with the corner
    assert heatmap[1, 1] == 0.25
    assert heatmap[2:].abs().max() == 0
