"""The instances of an image that a box head learns, and their checks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

INTEGERS = {torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}


@dataclass(frozen=True, eq=False)
class ImageTargets:
    """The instances of one image.

    Boxes are (x0, y0, x1, y1) in pixels of the network's input; (0, 4) or (0,) for an image without instances. Classes count
    from 0. ``ignored`` are regions such as crowds: an anchor that one of them covers by half is not taught as background.
    """

    boxes: Float[Tensor, "n 4"] | Float[Tensor, " 0"]
    classes: Integer[Tensor, " n"] | Float[Tensor, " 0"]
    ignored: Float[Tensor, "r 4"] | Float[Tensor, " 0"] | None = None


def checked_targets(targets: Sequence[ImageTargets], num_classes: int | None = None) -> list[ImageTargets]:
    """The targets of a batch in one form, boxes (n, 4) and classes int64, if a detector can learn them.

    Classes are from 0 to ``num_classes`` - 1; None sets no upper limit.

    >>> checked_targets([ImageTargets(torch.tensor([[24.0, 8.0, 16.0, 9.0]]), torch.tensor([0]))])  # a width, a height
    Traceback (most recent call last):
    ValueError: targets of image 0: box 0 is [24.0, 8.0, 16.0, 9.0], need finite x0 < x1 and y0 < y1

    Raises:
        ValueError: an array has another shape or type, a class is out of range, or a box or region is not finite or has no
            extent. The message gives the image's place in the batch and the row.
    """
    plain = [_in_one_form(image, number) for number, image in enumerate(targets)]
    if not plain:
        return plain
    boxes = torch.cat([rows for image in plain for rows in (image.boxes, image.ignored) if rows is not None])
    classes = torch.cat([image.classes for image in plain])
    limit = math.inf if num_classes is None else num_classes
    valid = torch.cat([_have_extent(boxes), (classes >= 0) & (classes < limit)])
    if not valid.all():  # waits for the device, once a batch: an invalid target would train without a sign of it
        raise ValueError(next(_faults(plain, limit)))
    return plain


def _in_one_form(image: ImageTargets, number: int) -> ImageTargets:
    """Boxes and regions as (n, 4) floats, classes in int64. Reads only shapes and types, so it does not wait."""
    name = f"targets of image {number}"
    if not isinstance(image, ImageTargets):
        raise ValueError(f"{name}: need ImageTargets, got {type(image).__name__}")
    for part, rows in vars(image).items():
        if not isinstance(rows, Tensor | None):
            raise ValueError(f"{name}: {part} are a tensor, got {type(rows).__name__}")
    boxes = _four_columns(image.boxes, f"{name}: boxes")
    regions = None if image.ignored is None else _four_columns(image.ignored, f"{name}: ignored regions")
    classes = image.classes
    if classes.shape != (len(boxes),):
        raise ValueError(f"{name}: one class for each box, got {len(boxes)} boxes and classes {tuple(classes.shape)}")
    if len(classes) and classes.dtype not in INTEGERS:
        raise ValueError(f"{name}: classes are integers, got {classes.dtype}")
    return ImageTargets(boxes, classes.long(), regions)


def _four_columns(rows: Tensor, name: str) -> Float[Tensor, "n 4"]:
    if rows.shape != (0,) and (rows.ndim != 2 or rows.shape[1] != 4):
        raise ValueError(f"{name} are (n, 4), got {tuple(rows.shape)}")
    rows = rows.reshape(-1, 4)
    return rows if rows.is_floating_point() else rows.float()


def _have_extent(boxes: Float[Tensor, "n 4"]) -> Bool[Tensor, " n"]:
    size = boxes[:, 2:] - boxes[:, :2]  # NaN or infinite where a corner is
    return ((size > 0) & (size < math.inf)).all(dim=1)


def _faults(targets: Sequence[ImageTargets], limit: float) -> Iterator[str]:
    last = "" if limit == math.inf else f" to {limit - 1}"
    for number, image in enumerate(targets):
        classes, regions = image.classes, image.boxes[:0] if image.ignored is None else image.ignored
        for name, rows, valid, need in (
            ("box", image.boxes, _have_extent(image.boxes), "finite x0 < x1 and y0 < y1"),
            ("the class of box", classes, (classes >= 0) & (classes < limit), f"a class from 0{last}"),
            ("ignored region", regions, _have_extent(regions), "finite x0 < x1 and y0 < y1"),
        ):
            for row in (~valid).nonzero()[:, 0].tolist():
                yield f"targets of image {number}: {name} {row} is {rows[row].tolist()}, need {need}"
