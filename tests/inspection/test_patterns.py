"""Patterns: the direction of a signal whatever distracts from it, moments by a loop, and maps of the two methods."""

from __future__ import annotations

import pytest
import torch
from planted import StripeFinder, seeded, shipped_retinanet, stripe_answer, stripes_at
from torch import nn
from torch.nn import functional
from torch.testing import assert_close

from detect.inspection.patterns import learn_patterns, pattern_map


def test_a_pattern_is_the_signal_s_direction_and_not_the_weight_s():
    """Kindermans et al. 2018, figure 2: x = signal (1, 0) y + distractor (1, 1) e, which the weight (1, -1) cancels."""
    random = torch.Generator().manual_seed(0)
    y, distractor = torch.randn(2, 20_000, generator=random)
    cells = torch.stack([y + distractor, distractor]).reshape(1, 2, 100, 200)
    for layers in ([], [nn.ReLU()]):  # the linear and the two-component estimator
        module = nn.Sequential(nn.Conv2d(2, 1, 1, bias=False), *layers).eval()
        with torch.no_grad():
            module[0].weight.copy_(torch.tensor([1.0, -1.0]).reshape(1, 2, 1, 1))
        pattern = learn_patterns(module, [cells]).weights["0.weight"].flatten()
        assert_close(pattern, torch.tensor([1.0, 0.0]), rtol=0, atol=0.03)


def test_patterns_are_those_of_the_formula_position_by_position():
    module = seeded(lambda: nn.Sequential(nn.Conv2d(2, 3, 3, stride=2, padding=1), nn.ReLU()))
    images = torch.rand(4, 2, 9, 8, generator=torch.Generator().manual_seed(1))
    weight, bias = module[0].weight.detach().flatten(1), module[0].bias.detach()
    patches = functional.unfold(images, 3, padding=1, stride=2).transpose(1, 2).flatten(0, 1)
    wanted = torch.zeros_like(weight)
    for neuron in range(3):
        y = patches @ weight[neuron]
        active = y + bias[neuron] > 0
        raw = (patches[active] * y[active, None]).mean(dim=0) - patches[active].mean(dim=0) * y.mean()
        wanted[neuron] = raw / (raw @ weight[neuron])
    patterns = learn_patterns(module, images.split(3))
    assert patterns.num_images == 4
    assert_close(patterns.weights["0.weight"].flatten(1), wanted, rtol=1e-3, atol=1e-4)


def test_a_neuron_that_is_never_active_has_no_pattern():
    module = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU()).eval()
    nn.init.constant_(module[0].bias, -100.0)
    assert learn_patterns(module, [torch.rand(1, 1, 4, 4)]).weights["0.weight"].abs().max() == 0


def test_shares_of_a_sum_add_up_and_a_branch_of_noise_gets_none():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.start = nn.Conv2d(2, 2, 1, bias=False)

        def forward(self, images):
            cells = self.start(images)
            return cells[:, :1] + cells[:, 1:]

    module = Branches().eval()
    with torch.no_grad():
        module.start.weight.copy_(torch.eye(2).reshape(2, 2, 1, 1))
    random = torch.Generator().manual_seed(0)
    images = torch.randn(1, 2, 100, 100, generator=random) * torch.tensor([1.0, 3.0]).reshape(1, 2, 1, 1)
    (share,) = learn_patterns(module, [images]).sums
    assert_close(share, torch.tensor([0.1]), rtol=0, atol=0.02)  # variances 1 and 9


def test_the_shares_of_pixels_add_up_to_the_start_where_all_neurons_are_active():
    """Each neuron's shares w a sum to 1, so what starts as 1 stays 1; the scalar's own neuron is the last layer."""
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 1, 3)).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.rand(parameter.shape, generator=torch.Generator().manual_seed(parameter.ndim)))
    images = torch.rand(8, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    patterns = learn_patterns(module, [images])
    heatmap = pattern_map(module, lambda x: module(x)[:, 0, 2, 3], images[0], patterns, attribution=True)
    assert_close(float(heatmap.sum()), 1.0, rtol=1e-4, atol=0)


def test_one_pattern_serves_all_levels_of_a_shared_head():
    detector = shipped_retinanet()
    patterns = learn_patterns(detector, [torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))])
    weights = {name: each.shape for name, each in detector.named_parameters() if each.ndim == 4}
    assert {name: each.shape for name, each in patterns.weights.items()} == weights
    assert len(patterns.sums) == 5 + 3 - 0  # one in each of five blocks, three in the pyramid


def test_images_are_needed():
    with pytest.raises(ValueError, match=r"^patterns are learned from images, got none$"):
        learn_patterns(StripeFinder(), [])


def test_the_map_is_that_of_the_answer_alone():
    module = StripeFinder()
    patterns = learn_patterns(module, [stripes_at()[None]])
    for attribution in (False, True):
        heatmap = pattern_map(module, stripe_answer(module), stripes_at(), patterns, attribution=attribution)
        assert heatmap[:8].abs().max() == 0  # out of reach
