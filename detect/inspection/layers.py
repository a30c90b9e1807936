"""Every layer of a network: shapes, parameters with their formula, operations and activation memory.

The network runs once on an image without data. Operations are counted by PyTorch's own ``FlopCounterMode``: it sees the
operators that run, so that functional calls and attention count too, and it needs no package (torchinfo and fvcore count by
types of modules or by a trace). It counts convolutions, matrix products and attention, two operations for a multiplication
and an addition.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from detect.errors import ConfigError

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Layer:
    """A layer of a network, or the parameters that a module has beside its layers.

    Shapes are those of the tensors of all calls, without the batch axis; a layer that levels share has several.
    """

    name: str
    kind: str
    inputs: tuple[Shape, ...]
    outputs: tuple[Shape, ...]
    kernel: str
    parameters: int
    formula: str
    flops: int
    activation_bytes: int
    sizes: tuple[str, ...]
    """How the size of each output follows from that of its input; empty for layers without a kernel."""
    depth: str
    """Why a filter is as deep as it is; empty for layers without filters."""


@dataclass(frozen=True)
class LayerTable:
    """The layers in the order in which they run, those that do not run last, and totals."""

    layers: tuple[Layer, ...]
    image_chw: Shape
    parameters: int
    trainable: int
    flops: int
    activation_bytes: int


@dataclass
class _Calls:
    """What the calls of a module read and returned."""

    inputs: list[Shape] = field(default_factory=list)
    outputs: list[Shape] = field(default_factory=list)
    activation_bytes: int = 0
    place: float = math.inf


def list_layers(
    model: nn.Module, image_chw: Shape, *, run: Callable[[nn.Module, Tensor], Any] | None = None
) -> LayerTable:
    """The layers of a network for an image of (channels, height, width).

    >>> table = list_layers(nn.Sequential(nn.Conv2d(1, 32, 5), nn.MaxPool2d(2)), (1, 28, 28))
    >>> [(layer.formula, layer.outputs, layer.flops) for layer in table.layers]
    [('(5*5*1 + 1)*32', ((32, 24, 24),), 921600), ('', ((32, 12, 12),), 0)]

    ``run`` calls the model; by default on the image alone.

    Raises:
        ConfigError: the model fails on such an image.
    """
    own = {name: each for name, each in model.named_modules() if not list(each.children()) or _own_parameters(each)}
    calls = {name: _Calls() for name in own}
    hooks = [each.register_forward_hook(_watch(calls, name), with_kwargs=True) for name, each in own.items()]
    counter = FlopCounterMode(display=False)
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad(), counter:
            like = next(model.parameters(), torch.zeros(()))
            images = torch.zeros(1, *image_chw, device=like.device, dtype=like.dtype)
            run(model, images) if run else model(images)
    except Exception as error:
        size = "x".join(map(str, image_chw))
        raise ConfigError(f"the model fails on an image of {size}: {first_line(error)}") from None
    finally:
        for hook in hooks:
            hook.remove()
    flops = {name: sum(each.values()) for name, each in counter.get_flop_counts().items()}
    prefix = type(model).__name__
    layers = []
    for name in sorted(own, key=lambda name: calls[name].place):
        count = flops.get(f"{prefix}.{name}" if name else prefix, 0) if not list(own[name].children()) else 0
        layers.append(_layer(name, own[name], calls[name], count))
    parameters = list(model.parameters())
    return LayerTable(
        layers=tuple(layers),
        image_chw=image_chw,
        parameters=sum(each.numel() for each in parameters),
        trainable=sum(each.numel() for each in parameters if each.requires_grad),
        flops=counter.get_total_flops(),
        activation_bytes=sum(layer.activation_bytes for layer in layers),
    )


def of_part(table: LayerTable, name: str) -> list[Layer]:
    """The layers of a part of the network.

    Raises:
        ConfigError: the network has no such part.
    """
    found = [layer for layer in table.layers if layer.name == name or layer.name.startswith(f"{name}.")]
    if not found:
        raise unknown_layer(name, [layer.name for layer in table.layers])
    return found


def unknown_layer(name: str, known: Sequence[str]) -> ConfigError:
    """An error that names the layers whose names are close to one that does not exist."""
    close = get_close_matches(name, known, n=3)
    hint = f"did you mean {', '.join(close)}?" if close else "`detect backbone layers` lists them"
    return ConfigError(f"no layer {name!r} in the model: {hint}")


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its kind if there is none."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _own_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    return dict(module.named_parameters(recurse=False))


def _watch(calls: Mapping[str, _Calls], name: str) -> Callable[..., None]:
    """A hook that notes what a call reads and returns."""

    def watch(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        own = calls[name]
        if own.place == math.inf:
            own.place = sum(each.place < math.inf for each in calls.values())
        own.inputs += [tuple(each.shape[1:]) for each in tensors_in((args, kwargs))]
        returned = tensors_in(output)
        own.outputs += [tuple(each.shape[1:]) for each in returned]
        if not list(module.children()):
            own.activation_bytes += sum(each.numel() * each.element_size() for each in returned)

    return watch


def tensors_in(value: object) -> list[Tensor]:
    """The tensors of nested lists, tuples and mappings, in order.

    >>> len(tensors_in([torch.zeros(1), {"p3": torch.zeros(1), "p4": (torch.zeros(1), None)}]))
    3
    """
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        return [tensor for each in value.values() for tensor in tensors_in(each)]
    return [tensor for each in value for tensor in tensors_in(each)] if isinstance(value, list | tuple) else []


def _layer(name: str, module: nn.Module, calls: _Calls, flops: int) -> Layer:
    own = _own_parameters(module)
    beside = bool(list(module.children()))
    return Layer(
        name=name or "(model)",
        kind=f"{type(module).__name__}, own parameters" if beside else type(module).__name__,
        inputs=() if beside else tuple(calls.inputs),
        outputs=() if beside else tuple(calls.outputs),
        kernel="" if beside else _kernel(module),
        parameters=sum(each.numel() for each in own.values()),
        formula=_formula(module, own),
        flops=flops,
        activation_bytes=calls.activation_bytes,
        sizes=() if beside else tuple(_sizes(module, calls)),
        depth=depth_in_words(module),
    )


def _kernel(module: nn.Module) -> str:
    """Kernel, stride, padding, dilation and groups, those that are not the usual ones.

    >>> _kernel(nn.Conv2d(3, 64, 7, stride=2, padding=3))
    '7x7, stride 2, padding 3'
    """
    size = getattr(module, "kernel_size", None)
    if size is None:
        return ""
    text = "x".join(map(str, _pair(size)))
    for name, usual in (("stride", 1), ("padding", 0), ("dilation", 1), ("groups", 1)):
        value = getattr(module, name, usual)
        pair = [value] if isinstance(value, str) else _pair(usual if value is None else value)
        if set(pair) != {usual}:
            text += f", {name} {'x'.join(map(str, dict.fromkeys(pair)))}"
    return text


def _formula(module: nn.Module, own: Mapping[str, Tensor]) -> str:
    """How the number of parameters follows.

    >>> linear = nn.Linear(800, 256)
    >>> _formula(linear, dict(linear.named_parameters()))
    '(800 + 1)*256'
    """
    if not own:
        return ""
    weight, bias = own.get("weight"), own.get("bias")
    if weight is None or len(own) > 2 or not isinstance(module, nn.Linear | nn.modules.conv._ConvNd):
        return " + ".join("*".join(map(str, each.shape)) or "1" for each in own.values())
    if getattr(module, "transposed", False):
        filters, depth = weight.shape[1] * module.groups, weight.shape[0] // module.groups  # type: ignore[operator]
    else:
        filters, depth = weight.shape[:2]
    one = "*".join(map(str, [*weight.shape[2:], depth]))
    return f"{one}*{filters}" if bias is None else f"({one} + 1)*{filters}"


def _sizes(module: nn.Module, calls: _Calls) -> list[str]:
    """How each output's height and width follow from the input's, each rule once."""
    if getattr(module, "kernel_size", None) is None:
        return []
    lines: list[str] = []
    for before, after in zip(calls.inputs, calls.outputs, strict=False):
        axes = len(after) - 1
        for number in range(axes):
            line = size_in_words(module, before[len(before) - axes + number], number)
            made = after[len(after) - axes + number]
            agrees = line.endswith(f" {made}") or f"= {made}" in line
            lines.append(line if agrees else f"{line}; the layer gives {made}")
    return list(dict.fromkeys(lines))


def size_in_words(module: nn.Module, n: int, axis: int = 0) -> str:
    """How the size of a convolution's or pooling's output along an axis follows from the input's n.

    >>> size_in_words(nn.Conv2d(3, 64, 7, stride=2, padding=3), 224)
    '(224 + 2*3 - 7)/2 + 1 = 111.5 + 1, rounded down = 112'
    """
    kernel, dilation = on_axis(module.kernel_size, axis), on_axis(getattr(module, "dilation", 1), axis)
    stride = on_axis(getattr(module, "stride", None) or module.kernel_size, axis)
    if isinstance(module.padding, str):
        return f"padding {module.padding!r}: {n} stays {n}" if module.padding == "same" else f"{n} - {kernel} + 1"
    padding = on_axis(module.padding, axis)
    reach = dilation * (kernel - 1) + 1
    if getattr(module, "transposed", False):
        extra = on_axis(module.output_padding, axis)
        size = (n - 1) * stride - 2 * padding + reach + extra
        return f"({n} - 1)*{stride} - 2*{padding} + {reach} + {extra} = {size}"
    text = f"({n} + 2*{padding} - {reach})/{stride} + 1"
    spans = n + 2 * padding - reach
    down = spans // stride + 1
    if spans % stride == 0:
        return f"{text} = {down}"
    if getattr(module, "ceil_mode", False):
        up = down if down * stride >= n + padding else down + 1
        note = "rounded up (ceil_mode)" if up > down else "rounded down, as the last window would begin in the padding"
        return f"{text} = {spans / stride:g} + 1, {note} = {up}"
    return f"{text} = {spans / stride:g} + 1, rounded down = {down}"


def depth_in_words(module: nn.Module) -> str:
    """Why a filter is as deep as it is; empty for layers without filters.

    >>> depth_in_words(nn.Conv2d(64, 32, 3, groups=2))
    'each of the 32 filters is 32 deep, 3x3x32: it sums over all channels of its group, 64/2'
    """
    if not isinstance(module, nn.modules.conv._ConvNd) or module.transposed:
        return ""
    depth = module.in_channels // module.groups
    size = "x".join(map(str, [*module.kernel_size, depth]))
    channels = f"all {depth} channels of its input"
    if module.groups > 1:
        channels = f"all channels of its group, {module.in_channels}/{module.groups}"
    return f"each of the {module.out_channels} filters is {depth} deep, {size}: it sums over {channels}"


def _pair(value: int | Sequence[int]) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)


def on_axis(value: Any, axis: int) -> int:
    """The value of an axis among one for all or one for each."""
    return int(value) if not isinstance(value, list | tuple) else int(value[axis] if len(value) > 1 else value[0])
