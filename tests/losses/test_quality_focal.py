"""The quality focal loss: by hand, against its formula written out for every logit, at its limits."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.testing import assert_close

from detect.conventions import BACKGROUND, IGNORE
from detect.losses import focal_loss, quality_focal_loss


@pytest.fixture
def heads() -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(2, 40, 5, generator=random, dtype=torch.float64)
    classes = torch.randint(IGNORE, 5, (2, 40), generator=random)
    return logits, classes, torch.rand(2, 40, generator=random, dtype=torch.float64)


def written_out(logits: Tensor, classes: Tensor, quality: Tensor, gamma: float, weights: Tensor) -> Tensor:
    """abs(y - p)**gamma * cross-entropy of every logit (Li et al. 2020, equation 6)."""
    own = functional.one_hot(classes.clamp(min=0), logits.shape[2]).bool() & (classes >= 0)[..., None]
    target = torch.where(own, quality[..., None], 0.0)
    p = logits.sigmoid()
    entropy = -target * p.log() - (1 - target) * (1 - p).log()
    costs = weights * (target - p).abs() ** gamma * entropy
    return (costs * (classes != IGNORE)[..., None]).sum(dim=(1, 2))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("weights", [None, torch.tensor([0.5, 1, 2, 3, 1], dtype=torch.float64)])
def test_it_is_its_formula_and_so_are_its_slopes(heads, gamma, weights):
    logits, classes, quality = heads
    logits.requires_grad_()
    factors = torch.ones(5, dtype=torch.float64) if weights is None else weights
    expected = written_out(logits, classes, quality, gamma, factors)
    found = quality_focal_loss(logits, classes, quality, gamma=gamma, class_weights=weights)
    assert_close(found, expected)
    scales = torch.tensor([1.0, 3.0], dtype=torch.float64)  # images are summed each by itself
    slopes = [torch.autograd.grad((sums * scales).sum(), logits)[0] for sums in (found, expected)]
    assert_close(*slopes)


def test_of_full_quality_it_is_the_focal_loss_without_its_balance(heads):
    logits, classes, quality = heads
    found = quality_focal_loss(logits, classes, torch.ones_like(quality))
    assert_close(found, 2 * focal_loss(logits, classes, alpha=0.5))


def test_a_score_that_is_its_quality_costs_nothing_and_has_no_slope():
    quality = torch.tensor([[0.5, 0.75]])
    logits = quality.logit()[..., None].requires_grad_()
    cost = quality_focal_loss(logits, torch.tensor([[0, 0]]), quality)
    (slope,) = torch.autograd.grad(cost.sum(), logits)
    assert_close(cost, torch.zeros(1))
    assert_close(slope, torch.zeros(1, 2, 1))


def test_ignored_anchors_and_the_quality_of_background_are_not_read():
    logits = torch.tensor([[[0.0], [math.nan], [0.0]]])
    classes, quality = torch.tensor([[0, IGNORE, BACKGROUND]]), torch.tensor([[1.0, math.nan, math.nan]])
    assert_close(quality_focal_loss(logits, classes, quality), torch.tensor([math.log(2) / 2]))


def test_quality_gets_no_gradient(heads):
    logits, classes, quality = heads
    quality.requires_grad_()
    assert not quality_focal_loss(logits, classes, quality).requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_float32(heads, dtype):
    logits, classes, quality = heads
    logits = logits.to(dtype)
    found = quality_focal_loss(logits, classes, quality)
    assert_close(found, quality_focal_loss(logits.float(), classes, quality))
    assert found.dtype == torch.float32


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_logits_of_a_hundred_stay_finite(gamma):
    logits = torch.tensor([[[100.0, -100.0], [100.0, -100.0]]], requires_grad=True)
    # a miss of 100, and two false alarms of 100
    found = quality_focal_loss(logits, torch.tensor([[1, BACKGROUND]]), torch.ones(1, 2), gamma=gamma)
    (slope,) = torch.autograd.grad(found.sum(), logits)
    assert_close(found, torch.tensor([300.0]))
    assert_close(slope, torch.tensor([[[1.0, -1.0], [1.0, 0.0]]]))


@pytest.mark.parametrize("shape", [(0, 4, 3), (2, 0, 3), (2, 4, 3)])
def test_nothing_positive_is_ordinary(shape):
    logits = torch.full(shape, -200.0)
    classes = torch.full(shape[:2], BACKGROUND)
    assert_close(quality_focal_loss(logits, classes, torch.zeros(shape[:2])), torch.zeros(shape[0]))
