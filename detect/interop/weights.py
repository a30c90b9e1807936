"""Convert the weights of a RetinaNet (ResNet, pyramid and head) to another framework, where they compute the same.

torchvision's FCOS is converted to this package's head with a centerness output, and back.

torchvision, detectron2, mmdetection and this package ("ours") differ in the names of tensors (weight_names.py), the class
rows, the order of anchors in a cell, the input of the stem, and the eps of batch norms. All of these are converted.
Settings that weights do not hold - strides, the input of P6, a ReLU, the kind of norm - are listed in notes
(weight_notes.py).

The input of a stem is ``"rgb"``: red, green, blue, minus the mean and divided by the standard deviation of ImageNet
(torchvision in units of 1, mmdetection in units of 1/255: the same numbers); or ``"bgr"``: blue, green, red from 0 to 255,
minus the mean only (ResNets trained in Caffe: detectron2, and mmdetection's configurations named ``caffe``).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from detect.detectors.pretrained_weights import plain_names
from detect.errors import ConvertError
from detect.interop.weight_names import (
    COCO_IDS,
    EPS,
    FRAMEWORKS,
    NO_CATEGORY,
    PRIOR,
    REMADE,
    TRACKED,
    Layout,
    batch_norms,
    has_centerness,
    keys_of,
    modern_key,
    read_layout,
    recognise_framework,
)
from detect.interop.weight_notes import RESNET50, Conversion, notes_on

SLOTS = len(COCO_IDS) + len(NO_CATEGORY)  # torchvision has a row for every id below 91
PRIOR_BIAS = -math.log((1 - PRIOR) / PRIOR)
STD_RGB = (58.395, 57.12, 57.375)  # 255 * (0.229, 0.224, 0.225), torchvision's and mmdetection's

STEM = "backbone.conv1.weight"
P6 = "pyramid.extra.0.weight"
CLASSES = ("head.class_outputs.0.weight", "head.class_outputs.0.bias")
BOXES = ("head.box_outputs.0.weight", "head.box_outputs.0.bias")


@dataclass(frozen=True)
class ConvertedWeights:
    """A state dict for the target, and notes for the user. Unchanged tensors are shared with the source."""

    state: dict[str, Tensor]
    notes: tuple[str, ...] = ()


def convert_weights(
    state: Mapping[str, Tensor],
    to: str,
    *,
    source: str | None = None,
    num_classes: int | None = None,
    num_sizes: int = 3,
    num_ratios: int = 3,
    source_input: str | None = None,
    source_eps: float | None = None,
) -> ConvertedWeights:
    """Convert the weights of a RetinaNet to another framework.

    Converting there and back gives the same tensors bit for bit, except those that a note names: the stem (rounding), class
    rows without a category, and batch norms whose eps changed.

    Args:
        state: every tensor of the network by name, as returned by ``state_dict()``, and from a checkpoint's file by
            :func:`~detect.detectors.pretrained_weights.load_checkpoint`. The prefixes of DistributedDataParallel,
            torch.compile and Lightning (``module.``, ``_orig_mod.``, ``model.``) are removed.
        to: ``"torchvision"``, ``"detectron2"``, ``"mmdet"``, ``"ours"``, or ``"imported"`` for the model that
            :func:`~detect.interop.torchvision.import_head` makes.
        source: one of the same; by default recognised from the names.
        num_classes: class rows to write, 80 or 91, if the source has COCO's 80 or 91; by default 91 for torchvision, 80
            for detectron2 and mmdetection, and the source's number for ours. Other numbers stay unchanged.
        num_sizes: anchor sizes per cell; for free shapes, the number of shapes, with ``num_ratios=1``. Not read
            for an FCOS, whose outputs tell the number.
        num_ratios: aspect ratios per cell.
        source_input: input of the source's stem, ``"rgb"`` or ``"bgr"``; by default ``"bgr"`` for detectron2 alone.
        source_eps: eps of the source's batch norms; by default 0 for weights that look like torchvision's COCO_V1 (v1,
            frozen norms, 91 rows), else 1e-5.

    Raises:
        ConvertError: the framework is unknown, values are no tensors, keys are missing or unexpected, two keys are one
            without their prefixes, or tensors do not fit the numbers of anchors and classes.

    >>> from detect.ops.torchvision_import import import_torchvision
    >>> models = import_torchvision().models.detection
    >>> with torch.device("meta"):
    ...     model = models.retinanet_resnet50_fpn(weights=None, weights_backbone=None)
    >>> converted = convert_weights(model.state_dict(), "detectron2")
    >>> converted.state["head.cls_score.weight"].shape  # 9 anchors * 80 classes
    torch.Size([720, 256, 3, 3])
    """
    if to not in FRAMEWORKS or source not in (None, *FRAMEWORKS) or source_input not in (None, "rgb", "bgr"):
        known = ", ".join(FRAMEWORKS)
        got = f"got {to=}, {source=}, {source_input=}"
        raise ConvertError(f"to and source are one of {known}, and source_input is 'rgb' or 'bgr': {got}")
    state = plain_names(_checked(state))
    rename = str if has_centerness(state) else modern_key  # FCOS never had other names
    kept = {rename(key): tensor for key, tensor in state.items() if not key.startswith(REMADE)}
    source = source or recognise_framework(kept)
    layout = read_layout(source, kept)
    names = zip(keys_of("ours", layout), keys_of(source, layout), strict=True)
    weights = {ours: kept[theirs] for ours, theirs in names}

    if layout.centerness:  # of no framework whose anchors are in another order
        num_sizes, num_ratios = len(weights[BOXES[0]]) // 4, 1
    rows = _class_rows(weights, num_sizes * num_ratios)
    p6_from_p5 = weights[P6].shape[0] == weights[P6].shape[1]  # torchvision's own rule (LastLevelP6P7)
    conversion = Conversion(
        source=source,
        to=to,
        layout=layout,
        stem_input=source_input or FRAMEWORKS[source].stem_input,
        eps=_eps_of(source, layout, rows, p6_from_p5=p6_from_p5) if source_eps is None else source_eps,
        p6_from_p5=p6_from_p5,
        rows=(rows, _new_class_rows(rows, source, to, num_classes)),
    )
    weights |= _convert_backbone(weights, conversion)
    weights |= _convert_outputs(weights, conversion, num_sizes, num_ratios)
    fitted, new_layout = _fit(weights, conversion)

    dropped = Counter(key.split(".")[0] for key in state if key.startswith(REMADE))
    dropped.update(_kind(key) for key in weights if key not in fitted)
    added = Counter(_kind(key) for key in fitted if key not in weights)
    names = zip(keys_of(to, new_layout), keys_of("ours", new_layout), strict=True)
    return ConvertedWeights({theirs: fitted[ours] for theirs, ours in names}, notes_on(conversion, dropped, added))


def _checked(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    others = state.items() if isinstance(state, Mapping) else [("the state", state)]
    for name, value in others:
        if not isinstance(value, Tensor):
            raise ConvertError(
                f"{name} is of type {type(value).__name__}, not a tensor: give a network's state dict, as load_checkpoint "
                "reads it"
            )
    return state


def _class_rows(weights: Mapping[str, Tensor], num_anchors: int) -> int:
    """Return the class rows per anchor, after checking them against the box outputs."""
    class_channels, box_channels = len(weights[CLASSES[0]]), len(weights[BOXES[0]])
    if num_anchors < 1 or class_channels % num_anchors or not class_channels or box_channels != 4 * num_anchors:
        raise ConvertError(
            f"{class_channels} outputs for classes and {box_channels} for boxes do not fit {num_anchors} anchors in a cell "
            "(num_sizes * num_ratios): classes * anchors and 4 * anchors"
        )
    return class_channels // num_anchors


def _new_class_rows(rows: int, source: str, to: str, asked: int | None) -> int:
    if asked not in (None, rows) and not {rows, asked} <= {SLOTS, len(COCO_IDS)}:
        raise ConvertError(f"{rows} rows of classes cannot become {asked}: only COCO's {SLOTS} and {len(COCO_IDS)} can")
    if asked is not None:
        return asked
    of_coco = rows in (SLOTS, len(COCO_IDS)) and FRAMEWORKS[source].coco_rows in (None, rows)
    return (of_coco and FRAMEWORKS[to].coco_rows) or rows


def _eps_of(source: str, layout: Layout, rows: int, *, p6_from_p5: bool) -> float:
    """Return 0 for weights that look like torchvision's COCO_V1, which was trained with frozen norms, else ``EPS``."""
    resnet50 = layout.bottleneck and layout.blocks == RESNET50
    coco_v1 = source in ("torchvision", "imported") and resnet50 and not layout.tracked and p6_from_p5 and rows == SLOTS
    return 0.0 if coco_v1 else EPS


def _convert_backbone(weights: Mapping[str, Tensor], conversion: Conversion) -> dict[str, Tensor]:
    """Convert the stem to the target's input, and batch norms to its eps."""
    converted = {}
    if weights[STEM].shape[1] != len(STD_RGB):
        raise ConvertError(f"the stem takes {weights[STEM].shape[1]} channels, not 3 of colour")
    if conversion.stem_input != conversion.after.stem_input:
        converted[STEM] = _turn_stem(weights[STEM], to_bgr=conversion.stem_input == "rgb")
    if conversion.eps != EPS and conversion.source != conversion.to:
        for norm in batch_norms(conversion.layout):
            weight, variance = weights[f"{norm}.weight"], weights[f"{norm}.running_var"]
            converted[f"{norm}.weight"] = _carry_eps(weight, variance, conversion.eps)
    return converted


def _turn_stem(weight: Float[Tensor, "d 3 h w"], *, to_bgr: bool) -> Float[Tensor, "d 3 h w"]:
    """Convert a stem for (x - mean) / std in RGB to one for x - mean in BGR, or back."""
    std = torch.tensor(STD_RGB, dtype=torch.float64, device=weight.device)[:, None, None]
    exact = weight.double()
    return ((exact / std).flip(1) if to_bgr else exact.flip(1) * std).to(weight.dtype)


def _carry_eps(weight: Float[Tensor, " d"], variance: Float[Tensor, " d"], eps: float) -> Float[Tensor, " d"]:
    """Rescale the weight so that a norm with ``EPS`` computes what it computed with ``eps``.

    The scale changes and not the variance: var + eps - EPS would be negative where a channel hardly varies.
    """
    if not (variance + eps > 0).all():
        raise ConvertError(f"a batch norm has channels of no variance, which with {eps=:g} have no scale")
    exact = variance.double()
    return (weight * ((exact + EPS) / (exact + eps)).sqrt()).to(weight.dtype)


def _convert_outputs(
    weights: Mapping[str, Tensor], conversion: Conversion, num_sizes: int, num_ratios: int
) -> dict[str, Tensor]:
    """Convert the last convolutions: first the class rows, then the order of anchors."""
    outputs = {key: weights[key] for key in CLASSES + BOXES}
    if conversion.rows[0] != conversion.rows[1]:
        for key, fill in zip(CLASSES, (0.0, PRIOR_BIAS), strict=True):
            outputs[key] = _move_classes(outputs[key], num_sizes * num_ratios, fill)
    if conversion.before.size_major != conversion.after.size_major:
        outer, inner = (num_sizes, num_ratios) if conversion.before.size_major else (num_ratios, num_sizes)
        outputs = {key: _turn_anchors(output, outer, inner) for key, output in outputs.items()}
    return outputs


def _move_classes(output: Float[Tensor, "ac ..."], num_anchors: int, fill: float) -> Float[Tensor, "new ..."]:
    """Select COCO's 80 rows out of 91 for every anchor, or put 80 into their places among 91."""
    rows = output.reshape(num_anchors, -1, *output.shape[1:])
    if rows.shape[1] == SLOTS:
        return rows[:, list(COCO_IDS)].flatten(0, 1)
    slots = rows.new_full((num_anchors, SLOTS, *rows.shape[2:]), fill)
    slots[:, list(COCO_IDS)] = rows
    return slots.flatten(0, 1)


def _turn_anchors(output: Float[Tensor, "ad ..."], outer: int, inner: int) -> Float[Tensor, "ad ..."]:
    """Move anchor i * inner + j to j * outer + i."""
    return output.reshape(outer, inner, -1, *output.shape[1:]).transpose(0, 1).flatten(0, 2)


def _fit(weights: Mapping[str, Tensor], conversion: Conversion) -> tuple[dict[str, Tensor], Layout]:
    """Select the tensors of the target, by our names; those that only the target has are zeros."""
    after = conversion.after
    layout = replace(
        conversion.layout,
        biased=not conversion.layout.normed or after.biased_with_norm or conversion.layout.centerness,
        tracked=conversion.layout.tracked if after.tracked is None else after.tracked,
    )
    fitted = {}
    for key in keys_of("ours", layout):
        weight = weights[key.rpartition(".")[0] + ".weight"]
        zeros = weight.new_zeros((), dtype=torch.int64) if key.endswith(TRACKED) else weight.new_zeros(len(weight))
        fitted[key] = weights.get(key, zeros)
    for key in weights.keys() - fitted.keys():
        if key.endswith("bias") and weights[key].any():
            raise ConvertError(f"{key} (our name) is not zero: {conversion.to} has no bias before a GroupNorm")
    return fitted, layout


def _kind(key: str) -> str:
    return TRACKED if key.endswith(TRACKED) else "biases before a GroupNorm"
