"""Rewrite the operations of a forward pass so that its backward pass follows other rules than the gradient's.

Guided backpropagation, DeepLift, LRP and pattern attribution are each a backward pass with its own rules. Libraries attach
such rules to modules, which fails where a detector calls ``functional.relu``, adds a shortcut, or applies one module to
several pyramid levels. Here the rules are attached to the operations themselves: while the network runs, every call of torch
passes through :class:`Rewriting`, whose methods return tensors with the same values and another gradient. Weights
stay as they are. In-place operations are computed out of place; code that ignores the result of such a call would notice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

ACTIVATIONS = frozenset(("relu", "relu6", "hardtanh", "leaky_relu", "elu", "selu", "gelu", "silu", "mish", "hardswish"))
ACTIVATIONS |= {"hardsigmoid", "sigmoid", "tanh", "softplus"}
CONVOLUTIONS = frozenset({"conv1d", "conv2d", "conv3d", "linear"})
NORMS = frozenset({"group_norm", "batch_norm"})
Function = Callable[..., Tensor]


class Rewriting(TorchFunctionMode):
    """Operations of a network by kind; a subclass overrides the kinds whose gradient it replaces.

    ``function`` is torch's own. It is called out of place, so an override may call it on the same tensors again.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "").rstrip("_")
        if name in ACTIVATIONS:
            kwargs.pop("inplace", None)
            return self.activation(lambda cells: func(cells.clone(), *args[1:], **kwargs), args[0])
        if name in CONVOLUTIONS:
            return self.convolution(func, *args, **kwargs)
        if name in NORMS:
            return self.norm(name, func, *args, **kwargs)
        if name in {"add", "mul"} and len(args) == 2 and not kwargs:
            own = getattr(torch, name)
            return self.add(own, *args) if name == "add" else self.multiply(own, *args)
        return self.other(func, *args, **kwargs)

    def activation(self, function: Function, cells: Tensor) -> Tensor:
        """A function of each value by itself."""
        return function(cells)

    def convolution(self, function: Function, cells: Tensor, weight: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """A convolution or a matrix product; the first of ``args`` is the bias."""
        return function(cells, weight, *args, **kwargs)

    def norm(self, _: str, /, function: Function, cells: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """A norm; the first argument is its name in ``NORMS``."""
        return function(cells, *args, **kwargs)

    def add(self, function: Function, first: Any, second: Any) -> Tensor:
        """The sum of two tensors, or of a tensor and a number."""
        return function(first, second)

    def multiply(self, function: Function, first: Any, second: Any) -> Tensor:
        """The product of two tensors, or of a tensor and a number."""
        return function(first, second)

    def other(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Any other function, such as those that select or average values; its gradient stays."""
        return function(*args, **kwargs)


@contextmanager
def rewritten(module: nn.Module, rules: Rewriting) -> Iterator[Rewriting]:
    """Apply the rules while ``module`` runs, and only then: what is computed from its output has its own gradient.

    The weights are constants meanwhile, so what has a gradient depends on the image.
    """
    learned = [parameter for parameter in module.parameters() if parameter.requires_grad]
    running: list[int] = []

    def start(*_: object) -> None:
        running.append(1)
        rules.__enter__()  # type: ignore[no-untyped-call]

    def stop(*_: object) -> None:
        if running:
            running.pop()
            rules.__exit__(None, None, None)  # type: ignore[no-untyped-call]

    hooks = [module.register_forward_pre_hook(start), module.register_forward_hook(stop, always_call=True)]
    for parameter in learned:
        parameter.requires_grad_(False)
    try:
        yield rules
    finally:
        for hook in hooks:
            hook.remove()
        for parameter in learned:
            parameter.requires_grad_(True)


def with_gradient(value: Tensor, source: Tensor) -> Tensor:
    """The value of one tensor with the gradient of another of the same shape.

    >>> x = torch.tensor([3.0], requires_grad=True)
    >>> y = with_gradient(x.detach() ** 2, 10 * x)
    >>> y.backward()
    >>> y.detach(), x.grad
    (tensor([9.]), tensor([10.]))
    """
    return source + (value - source).detach()


def gradient_of(scalar: Callable[[Tensor], Tensor], image: Float[Tensor, "d h w"]) -> Float[Tensor, "d h w"]:
    """The gradient of a scalar at one image; 0 where it does not depend on the image."""
    with torch.enable_grad():
        images = image.detach()[None].clone().requires_grad_()
        return gradients(scalar(images).sum(), [images])[0][0]


def gradients(answer: Float[Tensor, ""], tensors: list[Tensor]) -> list[Tensor]:
    """The gradient of an answer for each tensor; zeros for those that it does not depend on."""
    if not answer.requires_grad:
        return [torch.zeros_like(each) for each in tensors]
    found = torch.autograd.grad(answer, tensors, allow_unused=True)
    return [torch.zeros_like(each) if grad is None else grad for each, grad in zip(tensors, found, strict=True)]
