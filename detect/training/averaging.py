"""An exponential moving average of a model's weights, which is steadier than the weights themselves."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

import torch
from torch import nn

Model = TypeVar("Model", bound=nn.Module)


class WeightAverage(Generic[Model]):
    """A copy of a model, in evaluation, whose weights follow: average <- d * average + (1 - d) * weight.

    d is (1 + t) / (10 + t) at the t-th step until that exceeds ``decay`` (TensorFlow's ExponentialMovingAverage with
    ``num_updates``): a short run is not held back by where it began. Buffers are copied as they are.

    >>> model = nn.Linear(1, 1, bias=False)
    >>> _ = model.weight.data.fill_(0.0)
    >>> average = WeightAverage(model, decay=0.995)
    >>> _ = model.weight.data.fill_(1.0)
    >>> average.update(model)  # d = 1 / 10
    >>> round(average.model.weight.item(), 4)
    0.9

    Raises:
        ValueError: a decay not from 0 to below 1.
    """

    def __init__(self, model: Model, *, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"need 0 <= decay < 1, got {decay}")
        self.decay = decay
        self.num_updates = 0
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: Model) -> None:
        """Follow the model by one step."""
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        self.num_updates += 1
        own, other = ([each.detach() for each in which.parameters()] for which in (self.model, model))
        torch._foreach_lerp_(own, other, 1 - decay)
        for mine, theirs in zip(self.model.buffers(), model.buffers(), strict=True):
            mine.copy_(theirs)

    def state_dict(self) -> dict[str, Any]:
        """The averaged weights and the number of steps."""
        return {"num_updates": self.num_updates, "weights": self.model.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self.num_updates = state["num_updates"]
        self.model.load_state_dict(state["weights"])
