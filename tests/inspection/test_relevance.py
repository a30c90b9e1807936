"""LRP conserves relevance on the shipped detector, equals Captum's on plain networks and Deep Taylor by its formulas."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from captum.attr import LRP
from captum.attr._utils.lrp_rules import Alpha1_Beta0_Rule, EpsilonRule, GammaRule
from numpy.testing import assert_allclose
from planted import StripeFinder, nuclei_image, seeded, shipped_landmarks, shipped_retinanet, stripe_answer, stripes_at
from planted import strongest_logit as strongest
from torch import nn
from torch.testing import assert_close

from detect.inspection import relevance
from detect.inspection.relevance import RULES, propagate_relevance
from detect.inspection.targets import peak_logit


@pytest.mark.parametrize("box", [True, False])
@pytest.mark.parametrize("rule", RULES)
def test_pixels_biases_and_stabiliser_together_are_the_answer_of_the_shipped_detectors(rule, box):
    image = nuclei_image(48)
    detector, landmarks = shipped_retinanet(), shipped_landmarks()
    for module, scalar in ((detector, strongest(detector, image)), (landmarks, peak_logit(landmarks, 0, 8, 8))):
        answer = scalar(image[None]).item()
        found = propagate_relevance(module, scalar, image, rule, box=box)
        assert_close(found.total, answer, rtol=0.01, atol=0)
        if rule == "z-plus":  # all but the prior of the class, -4.6 or -2.2, goes to pixels
            prior = module.head.class_outputs[0].bias[0] if module is detector else module.head.heatmap_output.bias[0]
            assert_close(found.biases, prior.item(), rtol=1e-5, atol=1e-5)
            assert_close(float(found.pixels.sum()), answer - prior.item(), rtol=0, atol=0.01 * abs(answer))


def test_what_the_network_pads_is_counted():
    detector, image = shipped_retinanet(), nuclei_image(64)[:, :45, :50]
    scalar = strongest(detector, image)
    found = propagate_relevance(detector, scalar, image, "z-plus")
    assert found.pixels.shape == (45, 50)
    assert found.padding != 0
    assert_close(found.total, scalar(image[None]).item(), rtol=0.01, atol=0)


@pytest.mark.parametrize(
    ("rule", "other"),
    [("epsilon", EpsilonRule(1e-9)), ("gamma", GammaRule(0.25)), ("z-plus", Alpha1_Beta0_Rule())],
    ids=["epsilon", "gamma", "z-plus"],
)
def test_rules_are_captum_s_on_a_plain_network_without_biases(rule, other, monkeypatch):
    layers = [partial(nn.Conv2d, *shape, bias=False) for shape in ((1, 6, 3), (6, 4, 3), (4, 1, 5))]
    module = seeded(lambda: nn.Sequential(layers[0](), nn.ReLU(), layers[1](), nn.ReLU(), layers[2]()), 5)
    for layer in module[::2]:
        layer.rule = other
    image = torch.rand(1, 9, 9, generator=torch.Generator().manual_seed(0))
    assert module(image[None]) > 0
    wanted = LRP(module).attribute(image[None].clone().requires_grad_(), target=(0, 0, 0)).detach()[0, 0]
    monkeypatch.setattr(relevance, "EPSILON", 1e-9)
    found = propagate_relevance(module, lambda images: module(images)[:, 0, 0, 0], image, rule, box=False)
    assert_close(found.pixels, wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()))


def test_z_plus_with_the_box_rule_is_deep_taylor_by_its_formulas():
    """Two layers of neurons on 3 x 3 pixels, biases not above 0 (Montavon et al. 2017, sections 4.1 and 4.2)."""
    random = np.random.default_rng(0)
    first, second = random.normal(size=(5, 9)), random.normal(size=(1, 5))
    bias, pixels = -np.abs(random.normal(size=5)) / 10, random.random(9)
    hidden = np.maximum(first @ pixels + bias, 0)
    answer = max(float((second @ hidden)[0]), 0.0)
    assert answer > 0.1
    assert (hidden > 0).sum() >= 2
    shares = hidden * np.maximum(second[0], 0)
    of_hidden = shares / shares.sum() * answer  # the z+ rule
    wanted = np.zeros(9)
    for neuron in range(5):  # the box rule: roots towards black for positive weights, towards white for negative ones
        parts = pixels * first[neuron] - np.minimum(first[neuron], 0) * 1.0 - np.maximum(first[neuron], 0) * 0.0
        wanted += parts / parts.sum() * of_hidden[neuron]
    module = nn.Sequential(nn.Conv2d(1, 5, 3), nn.ReLU(), nn.Conv2d(5, 1, 1, bias=False), nn.ReLU()).eval()
    with torch.no_grad():
        module[0].weight.copy_(torch.from_numpy(first).reshape(5, 1, 3, 3))
        module[0].bias.copy_(torch.from_numpy(bias))
        module[2].weight.copy_(torch.from_numpy(second).reshape(1, 5, 1, 1))
    image = torch.from_numpy(pixels).float().reshape(1, 3, 3)
    found = propagate_relevance(module, lambda images: module(images)[:, 0, 0, 0], image, "z-plus", box=True)
    assert_allclose(found.pixels.flatten(), wanted, rtol=1e-4, atol=1e-5)
    assert found.biases == 0


def test_relevance_by_z_plus_has_one_sign_where_all_outputs_are_positive():
    module, image = StripeFinder(), stripes_at()
    assert propagate_relevance(module, stripe_answer(module), image, "z-plus").pixels.min() >= 0


def test_errors_say_what_is_wrong():
    module, image = StripeFinder(), stripes_at()
    with pytest.raises(ValueError, match=r"^rule is one of composite, epsilon, gamma, z-plus, got 'beta'$"):
        propagate_relevance(module, stripe_answer(module), image, "beta")
    with pytest.raises(ValueError, match=r"^relevance needs an answer of a network with convolutions"):
        propagate_relevance(module, lambda images: images.sum(dim=(1, 2, 3)), image)
