"""DeepLift (Shrikumar et al. 2017, "Learning Important Features Through Propagating Activation Differences") for detectors.

The rescale rule replaces the slope of a function at the image by the slope between baseline and image. A group norm is a
product of two functions of its input, whose slopes are exact as well: the difference of a product u v is that of u times the
mean v, plus that of v times the mean u. So the map sums to the answer less the baseline's.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from detect.inspection.folding import depends
from detect.inspection.operations import Function, Rewriting, with_gradient
from detect.inspection.targets import Scalar

ELEMENTWISE = frozenset({"exp", "log", "sqrt", "square", "clamp", "clip", "abs"})  # besides activations
SMALL = 1e-5  # differences below it, relative to the value, take the slope at the image


def deep_lift(scalar: Scalar, image: Float[Tensor, "d h w"], baseline: Float[Tensor, "d h w"]) -> Float[Tensor, "h w"]:
    """What each pixel's difference from the baseline adds to the answer, summed over channels.

    Complete for networks of convolutions, sums, activations, group norms, batch norms and maximum pooling.
    """
    with torch.enable_grad():
        both = torch.stack([image, baseline]).detach().requires_grad_()
        with Rescale():
            answer = scalar(both)[0]
        (slope,) = torch.autograd.grad(answer, both)
    return ((image - baseline) * slope[0]).sum(dim=0)


class Rescale(Rewriting):
    """Slopes between the halves of a batch: images, then their baselines."""

    def activation(self, function: Function, cells: Tensor) -> Tensor:
        return _rescaled(function, cells)

    def norm(self, name: str, /, function: Function, cells: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if name != "group_norm":
            return function(cells, *args, **kwargs)
        given = inspect.signature(functional.group_norm).bind(cells, *args, **kwargs)
        given.apply_defaults()
        num_groups, weight, bias, epsilon = (given.arguments[each] for each in ("num_groups", "weight", "bias", "eps"))
        grouped = cells.reshape(len(cells), num_groups, -1)
        centered = grouped - grouped.mean(dim=2, keepdim=True)
        variance = _rescaled(torch.square, centered).mean(dim=2, keepdim=True)
        normed = self.multiply(torch.mul, centered, _rescaled(torch.rsqrt, variance + epsilon)).reshape_as(cells)
        axes = (-1, *(1,) * (cells.ndim - 2))
        normed = normed if weight is None else normed * weight.detach().reshape(axes)
        return normed if bias is None else normed + bias.detach().reshape(axes)

    def multiply(self, function: Function, first: Any, second: Any) -> Tensor:
        product = function(first, second)
        if depends(first) and depends(second) and len(first) == len(second):
            return with_gradient(product, first * _mean_of_halves(second) + second * _mean_of_halves(first))
        return product

    def other(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        name = getattr(function, "__name__", "").rstrip("_")
        if name in ELEMENTWISE and depends(args[0]):
            return _rescaled(lambda cells: function(cells.clone(), *args[1:], **kwargs), args[0])
        if function is functional.max_pool2d:
            return _max_pool(*args, **kwargs)
        return function(*args, **kwargs)


def _rescaled(function: Function, cells: Tensor) -> Tensor:
    """A function of each value, with the slope between the halves of the batch."""
    value = function(cells.detach())
    with torch.enable_grad():
        leaf = cells.detach().requires_grad_()
        (slope,) = torch.autograd.grad(function(leaf).sum(), leaf)
    (change, change_of_value), half = (_difference(each) for each in (cells.detach(), value)), len(cells) // 2
    is_small = change.abs() <= SMALL * cells.detach()[:half].abs() + torch.finfo(cells.dtype).tiny
    slope = torch.where(is_small, slope[:half], change_of_value / torch.where(is_small, 1, change))
    return with_gradient(value, cells * torch.cat([slope, slope]))


def _difference(cells: Tensor) -> Tensor:
    half = len(cells) // 2
    return cells[:half] - cells[half:]


def _mean_of_halves(cells: Tensor) -> Tensor:
    mean = (cells[: len(cells) // 2] + cells[len(cells) // 2 :]).detach() / 2
    return torch.cat([mean, mean])


def _max_pool(cells: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, **options: Any) -> Tensor:
    """Maximum pooling as a chain of the larger of two, a + relu(b - a), whose slopes are exact."""
    if options.pop("ceil_mode", False) or options.pop("return_indices", False):
        raise ValueError("DeepLift takes maximum pooling without ceil_mode and return_indices")
    size, step, pad = (
        (each, each) if isinstance(each, int) else tuple(each) for each in (kernel_size, stride or kernel_size, padding)
    )
    lowest = float(cells.detach().min()) - 1
    wide = functional.pad(cells, (pad[1], pad[1], pad[0], pad[0]), value=lowest)
    height, width = ((wide.shape[axis - 2] - size[axis]) // step[axis] + 1 for axis in (0, 1))
    taps = [
        wide[..., y : y + height * step[0] : step[0], x : x + width * step[1] : step[1]][..., :height, :width]
        for y in range(size[0])
        for x in range(size[1])
    ]
    largest = taps[0]
    for tap in taps[1:]:
        largest = largest + _rescaled(partial(torch.clamp, min=0), tap - largest)
    return largest
