"""Methods of attribution on a network whose answer comes from one patch, and on the shipped detectors."""

from __future__ import annotations

import pytest
import torch
from planted import PATCH, StripeFinder, nuclei_image, shipped_landmarks, shipped_retinanet, stripe_answer, stripes_at
from torch.testing import assert_close

from detect.inspection.attribution import METHODS, Settings, attribute
from detect.inspection.judging import energy_inside
from detect.inspection.patterns import learn_patterns
from detect.inspection.targets import class_logit, peak_logit

# share of the positive attribution inside the 7 x 7 pixels that decide, which are 6 % of the image
SHARES = dict.fromkeys(METHODS, 1.0)
SHARES["occlusion"] = 0.832  # squares of 4 pixels reach over the edge
SHARES["grad-cam"] = 0.904  # one weight for a whole map, where half a stripe beside the patch responds too


def stripe_settings(module: StripeFinder) -> Settings:
    images = torch.stack([stripes_at(4 + k % 20, 4 + 7 * k % 20, seed=k) for k in range(32)])
    return Settings(patterns=learn_patterns(module, [images]), window_px=4)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_points_at_the_patch_that_decides(method):
    module, image = StripeFinder(), stripes_at()
    heatmap = attribute(module, stripe_answer(module), image, method, stripe_settings(module))
    assert heatmap.shape == image.shape[1:]
    assert_close(energy_inside(heatmap, PATCH), SHARES[method], rtol=0, atol=0.01)


@pytest.mark.parametrize("method", METHODS)
def test_the_network_is_left_as_it_was(method):
    module, image = StripeFinder(), stripes_at()
    settings, before = stripe_settings(module), module(image[None])[0]
    weights = {name: each.clone() for name, each in module.state_dict().items()}
    random = torch.get_rng_state()
    attribute(module, stripe_answer(module), image, method, settings)
    assert_close(torch.get_rng_state(), random, rtol=0, atol=0)
    assert_close(dict(module.state_dict()), weights, rtol=0, atol=0)
    assert all(each.requires_grad and each.grad is None for each in module.parameters())
    assert not any(each._forward_hooks or each._forward_pre_hooks for each in module.modules())
    assert_close(module(image[None])[0], before, rtol=0, atol=0)


@pytest.mark.parametrize("method", [name for name in METHODS if name not in ("integrated-gradients", "occlusion")])
def test_shared_heads_shortcuts_and_group_norms_are_no_obstacle(method):
    image = nuclei_image(48)
    retinanet, landmarks = shipped_retinanet(), shipped_landmarks()
    for module, scalar in ((retinanet, class_logit(retinanet, 200, 0)), (landmarks, peak_logit(landmarks, 0, 8, 8))):
        settings = Settings(patterns=learn_patterns(module, [image[None]]) if method.startswith("pattern") else None)
        heatmap = attribute(module, scalar, image, method, settings)
        assert heatmap.shape == (48, 48)
        assert heatmap.isfinite().all()
        if method not in ("grad-cam", "odam"):  # whose positive part may be empty with random weights
            assert heatmap.abs().sum() > 0


def test_an_image_whose_size_is_no_multiple_of_the_stride_has_a_map_of_its_size():
    detector = shipped_retinanet()
    image = nuclei_image(64)[:, :45, :51]
    for method in ("lrp", "odam", "guided-backprop"):
        assert attribute(detector, class_logit(detector, 30, 0), image, method).shape == (45, 51)


def test_a_batch_norm_that_is_folded_gives_the_map_of_the_folded_network():
    module, image = StripeFinder(), stripes_at()
    folded = StripeFinder()
    factor = module.norm.weight / (module.norm.running_var + module.norm.eps).sqrt()
    folded.edges = torch.nn.Conv2d(1, 2, 3, padding=1)
    with torch.no_grad():
        folded.edges.weight.copy_(module.edges.weight * factor[:, None, None, None])
        folded.edges.bias.copy_(module.norm.bias - module.norm.running_mean * factor)
    folded.norm = torch.nn.Identity()
    for method in ("lrp", "lrp-epsilon", "lrp-gamma", "deep-taylor", "deep-lift"):
        maps = [attribute(each, stripe_answer(each), image, method) for each in (module, folded)]
        assert_close(*maps, rtol=1e-4, atol=1e-5)


def test_unknown_methods_and_missing_patterns_are_named():
    module, image = StripeFinder(), stripes_at()
    with pytest.raises(ValueError, match=r"^no method 'lime': there are saliency, smoothgrad, .*odam$"):
        attribute(module, stripe_answer(module), image, "lime")
    with pytest.raises(ValueError, match=r"^patterns are learned from training images: see learn_patterns$"):
        attribute(module, stripe_answer(module), image, "pattern-net")
