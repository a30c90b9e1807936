"""The learning rate of a step."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from torch.optim.lr_scheduler import CosineAnnealingLR

from detect.training.step import rate_factor


def test_cosine_by_hand():
    # five steps of warm-up to 1, then of 10 - 5 = 5 steps the halves of 1 + cos(pi * k / 5)
    found = [rate_factor(step, 10, warmup_steps=5) for step in range(10)]
    assert_allclose(found[:5], [0.2, 0.4, 0.6, 0.8, 1.0])
    assert_allclose(found[5:], [0.9045085, 0.6545085, 0.3454915, 0.0954915, 0.0], atol=1e-7)


def test_cosine_is_torchs():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = CosineAnnealingLR(optimizer, T_max=20)
    for step in range(20):
        optimizer.step()
        scheduler.step()
        assert_allclose(rate_factor(step, 20), scheduler.get_last_lr()[0], atol=1e-12)


def test_steps_fall_to_a_tenth_at_each_share():
    found = [rate_factor(step, 9, schedule="step", milestones=(2 / 3, 8 / 9)) for step in range(9)]
    assert_allclose(found, [1, 1, 1, 1, 1, 1, 0.1, 0.1, 0.01])


@given(st.integers(1, 500), st.integers(0, 600), st.sampled_from(["cosine", "step"]))
def test_it_rises_then_falls_and_never_exceeds_one(num_steps, warmup, schedule):
    found = [rate_factor(step, num_steps, warmup_steps=warmup, schedule=schedule) for step in range(num_steps)]
    rising, falling = found[: warmup or 1], found[max(warmup - 1, 0) :]
    assert all(0 <= factor <= 1 for factor in found)
    assert rising == sorted(rising)
    assert falling == sorted(falling, reverse=True)


def test_an_unknown_schedule():
    with pytest.raises(ValueError, match="'linear'"):
        rate_factor(0, 1, schedule="linear")
