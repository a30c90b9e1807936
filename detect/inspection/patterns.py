"""PatternNet and PatternAttribution (Kindermans et al. 2018, "Learning How to Explain Neural Networks").

A weight vector w finds a signal in its input by cancelling what distracts from it, so w does not look like the signal. The
pattern a does: the direction in which the input changes with the neuron's output. It is learned from images (section 4):

    a = (E+[x y] - E+[x] E[y]) / (w . the same),   y = w . x

E+ is the mean where the neuron, its norm included, is active: above 0 if an activation follows, else everywhere. A backward
pass with a in place of w shows the signal (PatternNet), one with w a its shares in the answer (PatternAttribution). A layer
that serves several levels has one pattern. A sum of two branches is a neuron with weights of 1, for each channel.
PatternNet's patterns have unit length here: as scaled above, the signals of neurons that share one add up, and in fifteen
layers of a trained detector grew to 1e28.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from detect.inspection.folding import FoldedNorms, Layer, depends
from detect.inspection.operations import Function, gradients, rewritten, with_gradient
from detect.inspection.targets import Scalar


@dataclass(frozen=True, eq=False)
class Patterns:
    """Patterns of a network: of each weight by its name, and the first branch's share of each sum, by channel."""

    weights: dict[str, Tensor]
    sums: list[Tensor]
    num_images: int


def learn_patterns(module: nn.Module, batches: Iterable[Float[Tensor, "_ _ _ _"]]) -> Patterns:
    """Learn the patterns of a network in evaluation mode from batches of its training images."""
    rules = _Learn(module)
    num_images = 0
    with torch.no_grad(), rewritten(module, rules):
        for images in batches:
            rules.start()
            module(images)
            rules.add_up()
            num_images += len(images)
    if not num_images:
        raise ValueError("patterns are learned from images, got none")
    weights = {name: _scaled(moments.signal(), rules.weights[name], 0) for name, moments in rules.moments.items()}
    return Patterns(weights, [_scaled(moments.signal(), 1, 0.5)[:, 0] for moments in rules.sums], num_images)


def pattern_map(
    module: nn.Module, scalar: Scalar, image: Float[Tensor, "d h w"], patterns: Patterns, *, attribution: bool
) -> Float[Tensor, "h w"]:
    """The signal of an answer, or with ``attribution`` the share of each pixel in it, summed over channels.

    The backward pass starts with 1, not with the answer: the logit of a detection may be negative.
    """
    rules = _Project(module, patterns, attribution=attribution)
    with torch.enable_grad(), rewritten(module, rules):
        answer = scalar(image.detach()[None]).sum()
        (signal,) = gradients(answer, rules.pixels) if rules.pixels else [image[None] * 0]
    height, width = image.shape[-2:]
    return signal[0].sum(dim=0)[:height, :width]


@dataclass(eq=False)
class _Moments:
    """Sums over positions of the inputs x of neurons and of their outputs y, where these are active and everywhere."""

    num: int = 0
    num_active: Any = 0.0
    y: Any = 0.0
    active_x: Any = 0.0
    active_xy: Any = 0.0

    def add_layer(self, layer: Layer, active: Tensor) -> None:
        """Add a call; the sum of g x over positions is the gradient of the sum of g y for the weight."""
        with torch.enable_grad():
            weight = layer.weight.clone().requires_grad_()
            y = layer.apply(layer.cells.detach(), weight)
            (active_x,) = torch.autograd.grad(y, weight, active.to(y), retain_graph=True)
            (active_xy,) = torch.autograd.grad(y, weight, active * y.detach())
        axis = -1 if weight.ndim == 2 else 1
        self._add(y.detach().movedim(axis, 1), active.movedim(axis, 1), active_x, active_xy)

    def add_sum(self, first: Tensor, second: Tensor, active: Tensor) -> None:
        """Add a call of a sum, whose neurons have two inputs."""
        y, terms = first + second, torch.stack([first, second], dim=2)
        axes = [0, *range(3, terms.ndim)]
        active_x = (active.unsqueeze(2) * terms).sum(dim=axes)
        self._add(y, active, active_x, (active.unsqueeze(2) * terms * y.unsqueeze(2)).sum(dim=axes))

    def _add(self, y: Tensor, active: Tensor, active_x: Tensor, active_xy: Tensor) -> None:
        axes = [0, *range(2, y.ndim)]
        self.num += y.numel() // y.shape[1]
        self.num_active, self.y = self.num_active + active.sum(dim=axes), self.y + y.sum(dim=axes)
        self.active_x, self.active_xy = self.active_x + active_x, self.active_xy + active_xy

    def signal(self) -> Tensor:
        """E+[x y] - E+[x] E[y] of each neuron, along the first axis; 0 for one that was never active."""
        axes = (-1, *(1,) * (self.active_x.ndim - 1))
        count, mean_y = self.num_active.clamp(min=1).reshape(axes), (self.y / max(self.num, 1)).reshape(axes)
        return self.active_xy / count - self.active_x / count * mean_y


def _scaled(signal: Tensor, weight: Tensor | float, otherwise: float) -> Tensor:
    """The signal of each neuron over its product with the weight, where that is above 0."""
    along = (signal * weight).flatten(1).sum(dim=1).reshape(-1, *(1,) * (signal.ndim - 1))
    return torch.where(along > 0, signal / along.clamp(min=torch.finfo(signal.dtype).tiny), otherwise)


class _Learn(FoldedNorms):
    """Adds up the moments of each layer and each sum."""

    def __init__(self, module: nn.Module) -> None:
        self.moments: dict[str, _Moments] = {}
        self.weights: dict[str, Tensor] = {}
        self.sums: list[_Moments] = []
        super().__init__(module)

    def start(self) -> None:
        super().start()
        self.calls: dict[int, tuple[Layer, Tensor]] = {}
        self.added: list[tuple[Tensor, Tensor, Tensor]] = []
        self.rectified: list[Tensor] = []

    def layer_output(self, layer: Layer) -> Tensor:
        output = layer.size * layer.apply(layer.cells, layer.weight) + layer.shift
        self.calls[layer.call] = layer, output  # replaced when a norm is folded in
        return output

    def add(self, function: Function, first: Any, second: Any) -> Tensor:
        total = function(first, second)
        if self.num_calls and _are_maps(first, second):
            self.added.append((first, second, total))
        return total

    def activation(self, function: Function, cells: Tensor) -> Tensor:
        self.rectified.append(cells)
        return function(cells)

    def add_up(self) -> None:
        """Add the calls of a forward pass to the moments of their layers and sums."""
        for layer, output in self.calls.values():
            self.weights[layer.name] = layer.weight
            self.moments.setdefault(layer.name, _Moments()).add_layer(layer, self._active(output))
        self.sums += [_Moments() for _ in self.added[len(self.sums) :]]
        for moments, (first, second, total) in zip(self.sums, self.added, strict=True):
            moments.add_sum(first, second, self._active(total))

    def _active(self, output: Tensor) -> Tensor:
        is_rectified = any(cells is output for cells in self.rectified)
        return output > 0 if is_rectified else torch.ones_like(output, dtype=torch.bool)


class _Project(FoldedNorms):
    """A backward pass with patterns; ``pixels`` is the input of the first convolution."""

    def __init__(self, module: nn.Module, patterns: Patterns, *, attribution: bool) -> None:
        super().__init__(module)
        self.patterns, self.attribution = patterns, attribution
        self.pixels: list[Tensor] = []
        self.num_sums = 0

    def convolution(self, function: Function, cells: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if not self.num_calls:
            cells = cells.detach().clone().requires_grad_()
            self.pixels.append(cells)
        return super().convolution(function, cells, *args, **kwargs)

    def layer_output(self, layer: Layer) -> Tensor:
        value = layer.size * layer.apply(layer.cells.detach(), layer.weight) + layer.shift
        pattern = self.patterns.weights[layer.name]
        if self.attribution:
            return with_gradient(value, layer.apply(layer.cells, layer.weight * pattern))
        unit = functional.normalize(pattern.flatten(1)).view_as(pattern)
        return with_gradient(value, layer.apply(layer.cells, unit))

    def add(self, function: Function, first: Any, second: Any) -> Tensor:
        total = function(first, second)
        if not (self.num_calls and _are_maps(first, second)):
            return total
        share = self.patterns.sums[self.num_sums].reshape(-1, *(1,) * (total.ndim - 2))
        self.num_sums += 1
        return with_gradient(total, share * first + (1 - share) * second) if depends(total) else total


def _are_maps(first: object, second: object) -> bool:
    """Whether two values are feature maps of one shape, whose sum is that of two branches."""
    return isinstance(first, Tensor) and isinstance(second, Tensor) and first.shape == second.shape and first.ndim > 2
