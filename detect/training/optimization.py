"""AdamW, the schedule of its learning rate, and the exponential moving average of the weights."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

STEP_DECAY = 0.1  # factor of the step schedule at each milestone


def make_optimizer(model: nn.Module, *, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019); biases and the scales of norms do not decay."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [each for each in parameters if each.ndim > 1], "weight_decay": weight_decay},
        {"params": [each for each in parameters if each.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=learning_rate)


def average_weights(model: nn.Module, *, decay: float) -> AveragedModel:
    """Copy a model; each ``update_parameters(model)`` of the copy sets average <- d * average + (1 - d) * weight.

    At step t, counted from 0, d is (1 + t) / (10 + t) until that exceeds ``decay`` (TensorFlow's ExponentialMovingAverage
    with ``num_updates``), so that a short run forgets its initial weights. Buffers are copied. The copy, ``module``, is in
    evaluation mode.

    >>> model = nn.Linear(1, 1, bias=False)
    >>> _ = model.weight.data.fill_(0.0)
    >>> average = average_weights(model, decay=0.995)
    >>> _ = model.weight.data.fill_(1.0)
    >>> average.update_parameters(model)  # d = 1 / 10
    >>> round(average.module.weight.item(), 4)
    0.9

    Raises:
        ValueError: the decay is not from 0 to below 1.
    """
    if not 0 <= decay < 1:
        raise ValueError(f"need 0 <= decay < 1, got {decay}")

    @torch.no_grad()
    def update(averages: list[Tensor], weights: list[Tensor], num_averaged: Tensor | int) -> None:
        step = int(num_averaged) - 1
        torch._foreach_lerp_(averages, weights, 1 - min(decay, (1 + step) / (10 + step)))

    average = AveragedModel(model, multi_avg_fn=update)
    average.update_parameters(model)  # the first update copies, so that step 0 is already an average
    average.module.eval().requires_grad_(False)
    return average


def rate_factor(
    step: int,
    num_steps: int,
    *,
    warmup_steps: int = 0,
    schedule: str = "cosine",
    milestones: Sequence[float] = (2 / 3, 8 / 9),
) -> float:
    """The factor on the highest learning rate at a step, counted from 0.

    The rate rises linearly over the warm-up (Goyal et al. 2017, section 2.2) and reaches 1 at its last step. Then it falls
    to 0 along half a cosine (Loshchilov and Hutter 2017, equation 5), or to a tenth at each milestone, a share of all steps.

    >>> [round(rate_factor(step, 10, warmup_steps=2), 3) for step in range(10)]
    [0.5, 1.0, 0.962, 0.854, 0.691, 0.5, 0.309, 0.146, 0.038, 0.0]
    >>> [round(rate_factor(step, 4, schedule="step", milestones=(0.5, 0.75)), 3) for step in range(4)]
    [1.0, 1.0, 0.1, 0.01]

    Raises:
        ValueError: the schedule is unknown.
    """
    if schedule not in {"cosine", "step"}:
        raise ValueError(f"schedule is 'cosine' or 'step', got {schedule!r}")
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if schedule == "step":
        return float(STEP_DECAY ** sum(step >= share * num_steps for share in milestones))
    done = (step + 1 - warmup_steps) / max(num_steps - warmup_steps, 1)
    return 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
