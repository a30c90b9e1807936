"""Anchor text of efficientdet-pytorch: fields of a model's configuration.

Its generator makes, for each of ``num_scales`` octaves, the factors ``aspect_ratios`` of width and height times
``anchor_scale`` strides. With one octave and a scale of 1, the factors are any shapes that all levels share in strides.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from detect.anchors.anchor_set import AnchorSet
from detect.errors import ConvertError
from detect.interop.anchor_text import (
    Conversion,
    Shape,
    center_note,
    in_strides,
    is_same,
    numbers,
    quotient,
    strides_of_levels,
)

TEXT = """\
{levels}config.num_scales = {num_scales}
config.anchor_scale = {scale}
config.aspect_ratios = {factors}  # width, height{unit}"""
STOCK_LEVELS = (3, 7)


def effdet(anchors: AnchorSet) -> Conversion:
    """Fields of the configuration, from which ``effdet.create_model_from_config`` makes a model.

    Raises:
        ConvertError: levels do not share their shapes in strides, or are no pyramid.
    """
    strides = strides_of_levels(anchors)
    if any(stride & (stride - 1) or stride != strides[0] << number for number, stride in enumerate(strides)):
        raise ConvertError(f"takes strides that are powers of 2, each twice the one before; this set has {strides}")
    first, *others = in_strides(anchors)
    for shapes, level in zip(others, anchors.levels[1:], strict=True):
        if not all(map(is_same, shapes, first)):
            raise ConvertError(f"takes the same shapes in strides on every level; those of {level.name} differ")
    num_scales = _num_scales(first)
    scale = float(f"{math.sqrt(math.prod(first[0])):.6g}") if num_scales > 1 else 1.0
    factors = [(quotient(w, scale), quotient(h, scale)) for w, h in first[: len(first) // num_scales]]
    text = TEXT.format(
        levels=_levels(strides),
        num_scales=num_scales,
        scale=scale,
        factors=numbers(factors, "()"),
        unit=" in strides" * (num_scales == 1),
    )
    return Conversion(text, center_note(anchors, "efficientdet-pytorch"))


def _num_scales(shapes: Sequence[Shape]) -> int:
    """The most octaves that the shapes are, in order; 1 for free shapes."""
    for num_scales in range(len(shapes), 1, -1):
        group = len(shapes) // num_scales
        factors = [2 ** (number // group / num_scales) for number in range(len(shapes))]
        octaves = [(shapes[n % group][0] * each, shapes[n % group][1] * each) for n, each in enumerate(factors)]
        if group * num_scales == len(shapes) and all(map(is_same, shapes, octaves)):
            return num_scales
    return 1


def _levels(strides: Sequence[int]) -> str:
    """The fields of the levels where they are not P3 to P7."""
    first, last = (stride.bit_length() - 1 for stride in (strides[0], strides[-1]))
    if (first, last) == STOCK_LEVELS:
        return ""
    return f"config.min_level, config.max_level, config.num_levels = {first}, {last}, {last - first + 1}\n"
