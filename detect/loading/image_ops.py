"""Images as tensors: decoded, resized by a detector's rule, put on a canvas."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from types import ModuleType

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64, Shaped
from numpy import ndarray
from PIL import Image
from torch import Tensor

from detect.data.resize import ResizeRule
from detect.errors import ImageError
from detect.loading.transforms import View
from detect.ops.torchvision_import import import_torchvision

MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # Pillow's, by channels
SIXTEEN_BITS = 2**16 - 1


@dataclass(frozen=True, eq=False)
class Picture:
    """The stored values of an image, or of a window onto it: uint8, or float32 of 0..1.

    ``view`` leads from the image to these values' pixels. ``frame_wh`` is the size that the resize rule goes by: the
    image's, turned like it, however much of it the window shows.
    """

    values: Shaped[Tensor, "d h w"]
    view: View
    frame_wh: tuple[int, int]

    @property
    def wh(self) -> tuple[int, int]:
        """Columns and rows of the values."""
        return self.values.shape[2], self.values.shape[1]


@dataclass(frozen=True, eq=False)
class Content:
    """A picture at its size in the network's input, float32 of 0..1, and its place there."""

    values: Float[Tensor, "d h w"]
    view: View
    """From the picture to the network's input."""
    offset_xy: tuple[int, int]
    canvas_wh: tuple[int, int]

    @property
    def end_hw(self) -> Int64[Tensor, " 2"]:
        """Rows and columns up to where the content ends: what the rule pads right and below is not counted."""
        (x, y), (_, height, width) = self.offset_xy, self.values.shape
        return torch.tensor([y + height, x + width])

    def on_canvas(self, channels: int) -> Float[Tensor, "{channels} h2 w2"]:
        """The network's input: the content on black, grey repeated in all channels."""
        (x, y), (width, height) = self.offset_xy, self.canvas_wh
        canvas = self.values.new_zeros(channels, height, width)
        canvas[:, y : y + self.values.shape[1], x : x + self.values.shape[2]] = self.values
        return canvas


def picture_of(image: Image.Image, *, channels: int = 3) -> Picture:
    """The values of an image as they are stored.

    Grey images have one channel even where ``channels`` is 3; :meth:`Content.on_canvas` repeats it. Sixteen bits are divided
    by 65,535: neither cut to eight, nor stretched, which would make intensities of different images incomparable.

    >>> picture_of(Image.new("I;16", (2, 1), 13107)).values
    tensor([[[0.2000, 0.2000]]])

    Raises:
        ValueError: ``channels`` is none of 1, 3 and 4.
        ImageError: values beyond sixteen bits, fractions beyond 0..1, or colours that cannot be converted.
    """
    if channels not in MODES:
        raise ValueError(f"images have 1, 3 or 4 channels, got {channels}")
    if image.mode[0] in "IF":
        values = torch.from_numpy(_deep(image)).permute(2, 0, 1)
    else:
        is_grey = image.mode in {"1", "L"} and channels < 4
        try:
            array = np.array(image.convert("L" if is_grey else MODES[channels]))
        except ValueError as error:
            raise ImageError(str(error)) from None
        values = torch.from_numpy(array if array.ndim == 3 else array[..., None]).permute(2, 0, 1)
    return Picture(values, View(image.size), image.size)


def resize_picture(picture: Picture, rule: ResizeRule) -> Content:
    """A picture as a rule resizes it: bilinear; when it shrinks, a pixel is the mean over its area.

    >>> from detect.data.resize import parse_resize
    >>> content = resize_picture(picture_of(Image.new("L", (100, 50), 255)), parse_resize("letterbox:64"))
    >>> content.values.shape, content.offset_xy, content.end_hw.tolist(), content.on_canvas(3).shape
    (torch.Size([1, 32, 64]), (0, 16), [48, 64], torch.Size([3, 64, 64]))
    """
    resized = rule.resize_images(np.array([picture.frame_wh], np.int64))
    (content,), (canvas,), (scale,), (offset,) = (
        each.tolist() for each in (resized.content_wh, resized.canvas_wh, resized.scale_xy, resized.offset_xy)
    )
    values = picture.values
    if picture.wh != tuple(content):
        values = torchvision_functional().resize(values, content[::-1], antialias=True)
    if values.dtype == torch.uint8:
        values = values / 255
    of_window = [each * frame / size for each, frame, size in zip(scale, picture.frame_wh, picture.wh, strict=True)]
    view = View(picture.wh, (of_window[0], of_window[1]), (offset[0], offset[1]))
    return Content(values, view, (int(offset[0]), int(offset[1])), (canvas[0], canvas[1]))


def torchvision_functional() -> ModuleType:
    """torchvision's transforms v2 as functions.

    Raises:
        MissingExtraError: torchvision is not installed.
    """
    import_torchvision()
    return import_module("torchvision.transforms.v2.functional")


def _deep(image: Image.Image) -> Float32[ndarray, "h w 1"]:
    """Values of 16-bit integers or of fractions, from 0 to 1."""
    largest = 1 if image.mode.startswith("F") else SIXTEEN_BITS
    values = np.asarray(image)
    low, high = values.min(), values.max()
    if not 0 <= low <= high <= largest:
        raise ImageError(f"values from {low:g} to {high:g}: a deep image has 16 bits, or fractions from 0 to 1")
    return (values / np.float32(largest)).astype(np.float32)[..., None]
