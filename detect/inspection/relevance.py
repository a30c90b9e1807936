"""Layer-wise relevance propagation (LRP; Bach et al. 2015) through whole detectors, and Deep Taylor decomposition.

Relevance starts as the answer and is shared out, layer by layer, among the inputs of each layer. A layer with outputs z
gives its input x the relevance x c, where c is a backward pass in which z is divided by another sum (Montavon et al. 2019,
"Layer-Wise Relevance Propagation: An Overview", section 10.3.2). With P the sum of contributions that have the sign of z:

===========  ==================================================  =====================================================
rule         shares in proportion to the contributions to        source
===========  ==================================================  =====================================================
``epsilon``  z, plus a stabiliser of its sign                    Bach et al. 2015, equation 58
``gamma``    z + gamma P                                         Montavon et al. 2019; both signs: Andeol et al. 2021
``z-plus``   P: for z above 0, the limit of a large gamma        Bach et al. 2015, alpha 1 and beta 0
box          z - (lowest input) W+ - (highest input) W-          Montavon et al. 2017, "Deep Taylor", section 4.2
===========  ==================================================  =====================================================

The box rule holds for the first convolution, whose input are pixels: without it a pixel of value 0 has no relevance.

A norm, with its statistics held fixed, is a factor and a shift for each channel, and is folded into the convolution before
it. A sum of two branches follows the same rule as a layer with weights of 1; activations pass relevance on as it is;
maximum, cropping and resizing follow their gradient. Biases and the shifts of norms take their share under ``epsilon`` and
``gamma``. Under ``z-plus`` they take none, except for the bias of the output layer: it is the class's prior, no evidence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from detect.inspection.folding import FoldedNorms, Layer, depends
from detect.inspection.operations import Function, gradients, rewritten, with_gradient
from detect.inspection.targets import Scalar

RULES = ("composite", "epsilon", "gamma", "z-plus")
GAMMA = 0.25  # Montavon et al. 2019, section 10.3
EPSILON = 0.01  # of the root mean square of a layer's outputs
LEAST = 1e-6  # likewise, where only a division by 0 has to be avoided
KINDS = ("pixels", "biases", "stabiliser")  # of what gets relevance
HEAD, OUTPUT = "head.", "output"  # in the names of our detectors' weights


@dataclass(frozen=True, eq=False)
class Relevance:
    """Relevance of each pixel of an image, and what did not reach a pixel; together they are the answer.

    Attributes:
        pixels: (h, w), summed over channels.
        biases: what biases and the shifts of norms took.
        stabiliser: what the stabiliser took.
        padding: what went to pixels that the network adds right and below.
    """

    pixels: Float[Tensor, "h w"]
    biases: float
    stabiliser: float
    padding: float

    @property
    def total(self) -> float:
        """The sum of all parts."""
        return float(self.pixels.sum()) + self.biases + self.stabiliser + self.padding


def propagate_relevance(
    module: nn.Module,
    scalar: Scalar,
    image: Float[Tensor, "d h w"],
    rule: str = "composite",
    *,
    box: bool = True,
) -> Relevance:
    """Share out an answer among the pixels of an image.

    Args:
        rule: one of ``RULES``; ``"composite"`` is epsilon in the output layers and z-plus below them (Kohlbrenner et al.
            2020, "Towards Best Practice in Explaining Neural Network Decisions with LRP").
        box: follow the box rule in the first convolution, else its own rule. Pixels are from 0 to 1.

    Raises:
        ValueError: there is no such rule, or the answer does not depend on a convolution of ``module``.
    """
    if rule not in RULES:
        raise ValueError(f"rule is one of {', '.join(RULES)}, got {rule!r}")
    rules = _Propagate(module, rule, _bounds(module, image) if box else None)
    with torch.enable_grad(), rewritten(module, rules):
        answer = scalar(image.detach()[None]).sum()
        if not rules.leaves or not answer.requires_grad:
            raise ValueError("relevance needs an answer of a network with convolutions, computed by module.forward")
        kinds, leaves = zip(*rules.leaves, strict=True)
        shares = [(leaf * slope).detach() for leaf, slope in zip(leaves, gradients(answer, list(leaves)), strict=True)]
    by_kind = {wanted: [own for kind, own in zip(kinds, shares, strict=True) if kind == wanted] for wanted in KINDS}
    pixels = sum((own[0].sum(dim=0) for own in by_kind["pixels"]), torch.zeros(()))
    inside = pixels[: image.shape[-2], : image.shape[-1]]
    biases, stabiliser = (sum(float(own.sum()) for own in by_kind[kind]) for kind in KINDS[1:])
    return Relevance(inside, biases, stabiliser, float(pixels.sum() - inside.sum()))


class _Propagate(FoldedNorms):
    """Rewrites a forward pass so that leaf x gradient is relevance; ``leaves`` has them with their kinds."""

    def __init__(self, module: nn.Module, rule: str, bounds: tuple[Tensor, Tensor] | None) -> None:
        super().__init__(module)
        self.rule, self.bounds = rule, bounds
        self.outputs = _output_names(list(self.names.values()))
        self.leaves: list[tuple[str, Tensor]] = []

    def convolution(self, function: Function, cells: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        first = self.num_calls == 0
        return super().convolution(function, self._leaf("pixels", cells) if first else cells, *args, **kwargs)

    def lone_norm(self, value: Tensor, cells: Tensor, factor: Tensor, shift: Tensor) -> Tensor:
        return with_gradient(value, factor * cells + self._leaf("biases", shift))

    def activation(self, function: Function, cells: Tensor) -> Tensor:
        value = function(cells.detach())
        ratio = torch.where(cells == 0, 0, value / cells.detach())
        return with_gradient(value, cells * ratio)

    def add(self, function: Function, first: Any, second: Any) -> Tensor:
        if self.num_calls == 0:
            return function(first, second)
        if not (depends(first) and depends(second)):
            terms = [each if depends(each) else self._leaf("biases", torch.as_tensor(each)) for each in (first, second)]
            return function(*terms)
        total, positive = first + second, first.clamp(min=0) + second.clamp(min=0)
        return self._by_rule(self.rule, total.detach(), total, positive)

    def multiply(self, function: Function, first: Any, second: Any) -> Tensor:
        product = function(first, second)
        if depends(first) and depends(second):  # half to each (Achtibat et al. 2024, "AttnLRP", section 3.2)
            return with_gradient(product, product / 2)
        return product

    def layer_output(self, layer: Layer) -> Tensor:
        cells, weight, size, rule = layer.cells, layer.weight, layer.size, self.rule
        if rule == "composite":
            rule = "epsilon" if layer.name in self.outputs else "z-plus"
        total = size * layer.apply(cells, weight)
        value = (total + layer.shift).detach()
        if layer.call == 0 and self.bounds is not None:
            low, high = (self._leaf("pixels", bound.expand_as(cells)) for bound in self.bounds)
            ends = layer.apply(low, weight.clamp(min=0)) + layer.apply(high, weight.clamp(max=0))
            return self._stabilised(value, total - size * ends, LEAST)
        positive = layer.apply(cells.clamp(min=0), weight.clamp(min=0))
        if bool((cells < 0).any()):
            positive = positive + layer.apply(cells.clamp(max=0), weight.clamp(max=0))
        if rule != "z-plus":
            bias = self._leaf("biases", layer.shift)
            return self._by_rule(rule, value, total + bias, size * positive + bias.clamp(min=0))
        if layer.name in self.outputs:
            evidence = self._by_rule("z-plus", value - layer.shift, total, size * positive)
            return evidence + self._leaf("biases", layer.shift)
        return self._by_rule("z-plus", value, total, size * positive)

    def _by_rule(self, rule: str, value: Tensor, total: Tensor, positive: Tensor) -> Tensor:
        """``value`` with the gradient that shares it among the contributions to ``total``."""
        if rule == "epsilon":
            return self._stabilised(value, total, EPSILON)
        favoured = torch.where(value > 0, positive, total - positive)
        return self._stabilised(value, total + GAMMA * favoured if rule == "gamma" else favoured, LEAST)

    def _stabilised(self, value: Tensor, shared: Tensor, epsilon: float) -> Tensor:
        """``value`` with the gradient of ``shared``, scaled to it; a stabiliser keeps ``shared`` away from 0."""
        size = epsilon * shared.detach().square().mean().sqrt() + torch.finfo(shared.dtype).tiny
        shared = shared + self._leaf("stabiliser", torch.where(shared < 0, -size, size))
        return with_gradient(value, shared * (value / shared).detach())

    def _leaf(self, kind: str, value: Tensor) -> Tensor:
        leaf = value.detach().clone().requires_grad_()
        self.leaves.append((kind, leaf))
        return leaf


def _bounds(module: nn.Module, image: Tensor) -> tuple[Tensor, Tensor]:
    """Black and white as the first convolution reads them, (1, d, 1, 1)."""
    black = image.new_zeros(1, image.shape[0], 1, 1)
    normalise = getattr(module, "normalise", nn.Identity())
    return normalise(black), normalise(torch.ones_like(black))


def _output_names(names: list[str]) -> set[str]:
    """The weights of the output layers: in our heads those named so, else the last of the network."""
    weights = [name for name in names if name.endswith("weight")]
    return {name for name in weights if name.startswith(HEAD) and OUTPUT in name} or set(weights[-1:])
