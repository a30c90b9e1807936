"""How each operator of PyTorch changes receptive fields.

Rules are for ATen operators, to which the layers of any network come down when it runs. An operator without a rule is taken
to see all of its inputs, which is never too little; :class:`FieldTracker` lists these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from detect.inspection.field_arrays import (
    EMPTY,
    Fields,
    adaptive_table,
    merged,
    transposed_table,
    weight_table,
    window_table,
)
from detect.inspection.layers import on_axis

Shape = tuple[int, ...]

# operators on single elements that PyTorch does not tag as such
UNTAGGED = """hardswish hardsigmoid hardtanh leaky_relu silu mish gelu elu softplus prelu _prelu_kernel where masked_fill
relu6 log_sigmoid_forward"""


class NoRuleError(Exception):
    """A rule does not cover how this operator is called: its result is taken to see all of its inputs."""


@dataclass(frozen=True, eq=False)
class Call:
    """An operator that is called: its arguments, the fields of those that depend on the image, and the result's shape."""

    func: Any
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    fields: Callable[[Any], Fields | None]
    shape: Shape

    def first(self) -> Fields:
        """The fields of the first argument."""
        found = self.fields(self.args[0])
        if found is None:
            raise NoRuleError
        return found

    def operands(self) -> list[Fields]:
        """The fields of all arguments that depend on the image."""
        leaves = tree_leaves((self.args, self.kwargs))
        return [found for each in leaves if (found := self.fields(each)) is not None]

    def parts(self) -> list[Fields]:
        """The fields of each tensor in the first argument, a list; of those that do not see the image too."""
        return [_fields_or_nothing(self, tensor) for tensor in self.args[0]]

    def argument(self, name: str, default: Any = None) -> Any:
        """An argument by its name in the operator's schema."""
        if name in self.kwargs:
            return self.kwargs[name]
        for position, each in enumerate(self.func._schema.arguments):
            if each.name == name:
                return self.args[position] if position < len(self.args) else each.default_value
        return default


def apply_rule(call: Call) -> tuple[Fields, bool]:
    """The fields of a call's result, and whether a rule for it was known."""
    rule = RULES.get(rule_name(call.func))
    try:
        if rule is not None:
            return rule(call), True
        if torch.Tag.pointwise in call.func.tags:
            return _elementwise(call), True
    except NoRuleError:
        pass
    return everything(call), False


def everything(call: Call) -> Fields:
    """Every element of the result depends on all elements of the operands."""
    operands = [each.reduced(range(len(each.shape)), whole=True) for each in call.operands()]
    scalars = [each.viewed(()) for each in operands]
    return merged(scalars, call.shape)


def _elementwise(call: Call) -> Fields:
    return merged(call.operands(), call.shape)


def _move(call: Call) -> Fields:
    """A view or copy that moves elements: done to the planes, expanded along all axes, which costs nothing for views."""
    return _moved_along(call, range(len(call.first().shape)))


def _move_along(name: str) -> Callable[[Call], Fields]:
    """A rule for operators that move elements along the axes of an argument alone, such as ``roll``."""

    def rule(call: Call) -> Fields:
        dims, rank = call.argument(name), len(call.first().shape)
        return _moved_along(call, [dim % rank for dim in (dims if isinstance(dims, list | tuple) else [dims])])

    return rule


def _move_rows_and_columns(call: Call) -> Fields:
    rank = len(call.first().shape)
    return _moved_along(call, range(rank - 2, rank))


def _moved_along(call: Call, dims: Sequence[int]) -> Fields:
    """The fields after the operator itself moved the planes, which are expanded along these axes."""

    def move(plane: Tensor) -> Tensor:
        result = call.func(plane, *call.args[1:], **call.kwargs)
        return result[0] if isinstance(result, tuple | list) else result

    return call.first().expanded(dims).moved(call.shape, move)


def _view(call: Call) -> Fields:
    return call.first().viewed(call.shape)


def _pad(call: Call) -> Fields:
    """Constant padding sees nothing."""
    found, pads = call.first(), list(call.args[1])
    for number, (before, after) in enumerate(zip(pads[::2], pads[1::2], strict=True)):
        dim, size = len(found.shape) - 1 - number, found.shape[len(found.shape) - 1 - number]
        if before or after:
            table = window_table(size, size + before + after, kernel=1, stride=1, padding=before)
            found = found.expanded([dim] if size == 1 else []).windows(dim, table)
    return found


def _cat(call: Call) -> Fields:
    return _joined(call.parts(), int(call.argument("dim", 0)) % len(call.shape), call.shape)


def _stack(call: Call) -> Fields:
    """Like cat, after an axis of size 1 was added."""
    dim = int(call.argument("dim", 0)) % len(call.shape)
    parts = [each.viewed((*each.shape[:dim], 1, *each.shape[dim:])) for each in call.parts()]
    return _joined(parts, dim, call.shape)


def _fields_or_nothing(call: Call, tensor: Tensor) -> Fields:
    """The fields of a tensor, which see nothing if it does not depend on the image."""
    found = call.fields(tensor)
    if found is not None:
        return found
    plane = torch.full((1,) * tensor.ndim, EMPTY, dtype=torch.int32)
    example = call.operands()[0]
    return Fields(tuple(tensor.shape), (plane,) * len(example.planes), example.image_hw)


def _joined(parts: Sequence[Fields], dim: int, shape: Shape) -> Fields:
    """The fields of tensors one after the other along an axis; other axes keep size 1 where all do."""
    planes = []
    for own in zip(*(part.planes for part in parts), strict=True):
        common = np.broadcast_shapes(*(tuple(1 if d == dim else n for d, n in enumerate(p.shape)) for p in own))
        sized = [
            plane.expand([part.shape[dim] if d == dim else n for d, n in enumerate(common)])
            for plane, part in zip(own, parts, strict=True)
        ]
        plane = torch.cat(sized, dim)
        first = plane.narrow(dim, 0, 1)
        planes.append(first if bool((plane == first).all()) else plane)
    return Fields(shape, tuple(planes), parts[0].image_hw)


def _convolution(call: Call) -> Fields:
    weight, groups = call.args[1], int(call.argument("groups", 1))
    if call.fields(weight) is not None:
        raise NoRuleError  # weights that depend on the image
    stride, padding, dilation = (call.argument(name) for name in ("stride", "padding", "dilation"))
    make = transposed_table if call.argument("transposed") else window_table
    found = _mixed_channels(call.first(), groups, call.shape[1])
    for dim in range(2, len(call.shape)):
        options = {"stride": stride, "padding": padding, "dilation": dilation}
        one = {name: on_axis(value, dim - 2) for name, value in options.items()}
        found = found.windows(dim, make(found.shape[dim], call.shape[dim], kernel=weight.shape[dim], **one))
    return found


def _mixed_channels(found: Fields, groups: int, channels: int) -> Fields:
    """The hulls over the channels of each group."""
    before = found.shape[1]
    shape = (found.shape[0], channels, *found.shape[2:])
    if groups == 1 or all(plane.shape[1] == 1 for plane in found.planes):
        return Fields(shape, found.reduced([1]).planes, found.image_hw)
    grouped = found.viewed((found.shape[0], groups, before // groups, *found.shape[2:])).reduced([2])
    num_own = channels // groups
    planes = tuple(
        plane if plane.shape[1] == 1 else plane.expand(-1, -1, num_own, *[-1] * (plane.ndim - 3))
        for plane in grouped.expanded([1, 2]).planes
    )
    return Fields((found.shape[0], groups, num_own, *found.shape[2:]), planes, found.image_hw).viewed(shape)


def _pool(call: Call) -> Fields:
    found, kernel = call.first(), call.argument("kernel_size")
    spatial = len(kernel) if isinstance(kernel, list | tuple) else len(found.shape) - 2
    options = {"kernel": kernel, "stride": call.argument("stride") or kernel}
    options |= {"padding": call.argument("padding", 0), "dilation": call.argument("dilation", 1)}
    for number, dim in enumerate(range(len(found.shape) - spatial, len(found.shape))):
        one = {name: on_axis(value, number) for name, value in options.items()}
        found = found.windows(dim, window_table(found.shape[dim], call.shape[dim], **one))
    return found


def _adaptive_pool(call: Call) -> Fields:
    found = call.first()
    for dim in range(len(found.shape) - len(call.args[1]), len(found.shape)):
        found = found.windows(dim, adaptive_table(found.shape[dim], call.shape[dim]))
    return found.without_whole()


def _upsample(call: Call) -> Fields:
    """Each axis by itself; which elements have a weight is read from the operator's own result on unit vectors."""
    found = call.first()
    for number in range(2):
        dim, size = 2 + number, found.shape[2 + number]
        eye = torch.eye(size)
        image = eye.reshape(1, size, size, 1) if number == 0 else eye.reshape(1, size, 1, size)
        output = [call.shape[2], 1] if number == 0 else [1, call.shape[3]]
        weights = call.func(image, output, *call.args[2:], **call.kwargs).reshape(size, call.shape[dim])
        found = found.windows(dim, weight_table(weights))
    return found


def _reduce(call: Call) -> Fields:
    """Means, sums and maxima along axes."""
    found, dims = call.first(), call.argument("dim")
    dims = range(len(found.shape)) if dims is None or dims == [] else dims if isinstance(dims, list | tuple) else [dims]
    return _hull(found, [dim % len(found.shape) for dim in dims]).viewed(call.shape)


def _hull(found: Fields, dims: Sequence[int]) -> Fields:
    """The hull along axes; it counts as global only if the fields change along them."""
    changing = any(plane.shape[dim] > 1 for plane in found.planes for dim in dims)
    return found.reduced(dims, whole=changing)


def _softmax(call: Call) -> Fields:
    """Each element, and all along the axis."""
    found, dim = call.first(), int(call.argument("dim"))
    return merged([found, _hull(found, [dim % len(found.shape)])], call.shape)


def _layer_norm(call: Call) -> Fields:
    found, rank = call.first(), len(call.first().shape)
    return merged([found, _hull(found, range(rank - len(call.args[1]), rank))], call.shape)


def _group_norm(call: Call) -> Fields:
    found, groups = call.first(), int(call.argument("group"))
    batch, channels, *axes = found.shape
    grouped = found.viewed((batch, groups, channels // groups, *axes))
    hull = _hull(grouped, range(2, len(grouped.shape)))
    over = merged([hull], grouped.shape).viewed(found.shape)
    return merged([found, over], call.shape)


def _batch_norm(call: Call) -> Fields:
    """Running statistics see nothing; those of the batch see all of a channel, as in instance norm."""
    found = call.first()
    training = call.argument("training", call.argument("train", False))
    if not training or "no_training" in call.func._schema.name:
        return found
    return merged([found, _hull(found, [dim for dim in range(len(found.shape)) if dim != 1])], call.shape)


def _product(call: Call) -> Fields:
    """Matrix products: an element depends on a row of the first and a column of the second."""
    factors = list(call.args[-2:]) if "add" in call.func._schema.name else list(call.args[:2])
    parts = []
    for factor, dim in zip(factors, (-1, -2), strict=True):
        found = call.fields(factor)
        if found is not None:
            parts.append(_hull(found, [len(found.shape) + dim if len(found.shape) > 1 else 0]))
    start = call.fields(call.args[0]) if "add" in call.func._schema.name else None
    return merged([*parts, *([start] if start else [])], call.shape)


def _attention(call: Call) -> Fields:
    """A query's element depends on its token, and on all tokens of keys and values."""
    parts = []
    for number, tensor in enumerate(call.args[:3]):
        found = call.fields(tensor)
        if found is not None:
            rank = len(found.shape)
            parts.append(_hull(found, [rank - 1] if number == 0 else [rank - 2, rank - 1]))
    return merged(parts, call.shape)


def _named(names: str, rule: Callable[[Call], Fields]) -> dict[str, Callable[[Call], Fields]]:
    return dict.fromkeys(names.split(), rule)


def _copy(call: Call) -> Fields:
    return _fields_or_nothing(call, call.args[1])


RULES: dict[str, Callable[[Call], Fields]] = {
    **_named(UNTAGGED, _elementwise),
    **_named("clone _to_copy contiguous lift_fresh native_dropout", _elementwise),
    **_named("view _unsafe_view reshape unsqueeze squeeze view_copy _reshape_alias", _view),
    **_named("permute transpose t expand select slice alias detach diagonal unfold repeat", _move),
    **_named("pixel_shuffle pixel_unshuffle native_channel_shuffle channel_shuffle", _move),
    **_named("roll flip", _move_along("dims")),
    **_named("index_select", _move_along("dim")),
    **_named("reflection_pad2d replication_pad2d", _move_rows_and_columns),
    "constant_pad_nd": _pad,
    "copy": _copy,
    "cat": _cat,
    "stack": _stack,
    "convolution": _convolution,
    **_named("max_pool2d_with_indices max_pool2d avg_pool2d avg_pool1d max_pool3d_with_indices", _pool),
    **_named("_adaptive_avg_pool2d adaptive_max_pool2d adaptive_avg_pool2d", _adaptive_pool),
    **_named("upsample_nearest2d _upsample_nearest_exact2d upsample_bilinear2d upsample_bicubic2d", _upsample),
    **_named("_upsample_bilinear2d_aa _upsample_bicubic2d_aa", _upsample),
    **_named("mean sum amax amin max min var var_mean std prod linalg_vector_norm logsumexp", _reduce),
    **_named("_softmax _log_softmax _safe_softmax", _softmax),
    "native_layer_norm": _layer_norm,
    "native_group_norm": _group_norm,
    **_named("native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training", _batch_norm),
    **_named("_batch_norm_with_update _batch_norm_no_update cudnn_batch_norm", _batch_norm),
    **_named("mm bmm addmm baddbmm mv dot matmul linear", _product),
    **_named("_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_flash_attention", _attention),
    **_named("_scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention", _attention),
    **_named("_scaled_dot_product_attention_math _scaled_dot_product_fused_attention_overrideable", _attention),
}
SEES_ALONG = {_reduce, _softmax, _layer_norm, _group_norm, _batch_norm, _product, _attention, _adaptive_pool}


def sees_along(func: Any) -> bool:
    """Whether an operator combines all elements along some axes, as means, norms and attention do."""
    return RULES.get(rule_name(func)) in SEES_ALONG


def rule_name(func: Any) -> str:
    """The name of an operator without its namespace, and without the mark of those that work in place."""
    return str(func._schema.name).removeprefix("aten::").rstrip("_")
