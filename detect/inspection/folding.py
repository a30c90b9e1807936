"""Convolutions with the norms behind them folded in, as rules of relevance and patterns need them.

A group norm with its statistics held fixed, and a batch norm in evaluation, is a factor and a shift for each channel. Rules
that look at the sign of a weight or of an activation are about the two together: a convolution's output before its norm has
no meaningful 0.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from detect.inspection.operations import Function, Rewriting, with_gradient


@dataclass(frozen=True, eq=False)
class Layer:
    """One call of a convolution or a matrix product, with the norm behind it.

    Its output is ``size * apply(cells, weight) + shift``: the size is positive, since the sign of a norm's factor has been
    moved into the weight. ``name`` is the weight's, empty for one that the module does not own; ``call`` counts layers.
    """

    name: str
    call: int
    cells: Tensor
    weight: Tensor
    apply: Callable[[Tensor, Tensor], Tensor]
    size: Tensor
    shift: Tensor


class FoldedNorms(Rewriting, ABC):
    """Calls :meth:`layer_output` for each convolution, and again, folded, for each norm that follows one."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.names: Mapping[int, str] = {id(parameter): name for name, parameter in module.named_parameters()}
        self.start()

    def start(self) -> None:
        """Forget the calls of the last forward pass."""
        self.num_calls = 0
        self.layers: dict[int, tuple[Tensor, Layer]] = {}  # by the id of their output, which is kept alive

    @abstractmethod
    def layer_output(self, layer: Layer) -> Tensor:
        """The output of a layer."""

    def lone_norm(self, value: Tensor, cells: Tensor, factor: Tensor, shift: Tensor) -> Tensor:
        """The output of a norm that does not follow a convolution."""
        return with_gradient(value, factor * cells + shift)

    def convolution(self, function: Function, cells: Tensor, weight: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        bias, rest = (args[0], args[1:]) if args else (kwargs.pop("bias", None), ())
        axes = (1,) * (weight.ndim - 2)  # of a matrix product, channels come last
        shift = cells.new_zeros(()) if bias is None else bias.detach().reshape(-1, *axes)
        name, size = self.names.get(id(weight), ""), cells.new_ones(())
        apply = lambda cells, weight: function(cells, weight, None, *rest, **kwargs)  # noqa: E731
        layer = Layer(name, self.num_calls, cells, weight.detach(), apply, size, shift)
        self.num_calls += 1
        output = self.layer_output(layer)
        self.layers[id(output)] = output, layer
        return output

    def norm(self, name: str, /, function: Function, cells: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        factor, shift = fixed_norm(name, cells.detach(), *args, **kwargs)
        if id(cells) not in self.layers:
            return self.lone_norm(function(cells.detach(), *args, **kwargs), cells, factor, shift)
        layer = self.layers[id(cells)][1]
        signs = torch.where(factor[:1] < 0, -1.0, 1.0).reshape(-1, *(1,) * (layer.weight.ndim - 1))  # as of all images
        shift = shift + factor * layer.shift
        return self.layer_output(replace(layer, weight=layer.weight * signs, size=factor.abs(), shift=shift))


def fixed_norm(name: str, cells: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
    """The factor and the shift of each channel that equal a norm with the statistics of ``cells``.

    ``name`` is group_norm or batch_norm, the arguments are those of the function in ``torch.nn.functional``.

    >>> cells = torch.tensor([1.0, 3.0]).reshape(1, 1, 1, 2)
    >>> fixed_norm("group_norm", cells, 1, eps=0.0)
    (tensor([[[[1.]]]]), tensor([[[[-2.]]]]))
    """
    given = inspect.signature(getattr(functional, name)).bind(cells, *args, **kwargs)
    given.apply_defaults()
    options = given.arguments
    ones, channels = (1,) * (cells.ndim - 2), cells.shape[1]
    if name == "group_norm":
        grouped = cells.reshape(len(cells), options["num_groups"], -1)
        repeats = channels // options["num_groups"]
        mean = grouped.mean(dim=2).repeat_interleave(repeats, dim=1)
        variance = grouped.var(dim=2, unbiased=False).repeat_interleave(repeats, dim=1)
    else:
        mean, variance = options["running_mean"][None], options["running_var"][None]
    factor = (variance + options["eps"]).rsqrt()
    if options["weight"] is not None:
        factor = factor * options["weight"].detach()
    shift = -mean * factor if options["bias"] is None else options["bias"].detach() - mean * factor
    return factor.reshape(-1, channels, *ones), shift.reshape(-1, channels, *ones)


def depends(value: object) -> bool:
    """Whether a value depends on the image."""
    return isinstance(value, Tensor) and value.requires_grad
