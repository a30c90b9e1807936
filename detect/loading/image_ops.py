"""Images as tensors: decoded, resized by a detector's rule, padded to the network's input; and their mean and deviation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64, Shaped
from numpy import ndarray
from PIL import Image
from torch import Tensor

from detect.data.resize import ResizeRule
from detect.detectors.pretrained_weights import Normalization
from detect.errors import ImageError
from detect.loading.transforms import Transform
from detect.ops.torchvision_import import import_torchvision

if TYPE_CHECKING:
    from detect.loading.dataset import DetectionData

MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # Pillow's, by channels
SIXTEEN_BITS = 2**16 - 1
GREY_LEVEL = 1 / 255


@dataclass(frozen=True, eq=False)
class Picture:
    """Pixel values of an image or of a window of it, as uint8 or as float32 from 0 to 1.

    ``transform`` maps the image to these pixels. ``frame_wh`` is the size that the resize rule applies to: that of the
    whole image, rotated with it, whatever the window shows.
    """

    values: Shaped[Tensor, "d h w"]
    transform: Transform
    frame_wh: tuple[int, int]

    @property
    def wh(self) -> tuple[int, int]:
        """Width and height of the values."""
        return self.values.shape[2], self.values.shape[1]


@dataclass(frozen=True, eq=False)
class Content:
    """A resized picture, as float32 from 0 to 1, and its position in the network's input, to which ``transform`` maps it."""

    values: Float[Tensor, "d h w"]
    transform: Transform
    offset_xy: tuple[int, int]
    canvas_wh: tuple[int, int]

    @property
    def end_hw(self) -> Int64[Tensor, " 2"]:
        """Height and width up to the end of the content, without the padding on the right and below."""
        (x, y), (_, height, width) = self.offset_xy, self.values.shape
        return torch.tensor([y + height, x + width])

    def on_canvas(self, channels: int) -> Float[Tensor, "{channels} h2 w2"]:
        """The network's input: the content on black; grey is repeated in all channels."""
        (x, y), (width, height) = self.offset_xy, self.canvas_wh
        canvas = self.values.new_zeros(channels, height, width)
        canvas[:, y : y + self.values.shape[1], x : x + self.values.shape[2]] = self.values
        return canvas


def decode_image(image: Image.Image, *, channels: int = 3) -> Picture:
    """Decode the pixel values of an image.

    Grey images keep one channel even if ``channels`` is 3; :meth:`Content.on_canvas` repeats it. 16-bit values are divided
    by 65,535: cutting them to 8 bits would lose contrast, and stretching them would make images incomparable.

    >>> decode_image(Image.new("I;16", (2, 1), 13107)).values
    tensor([[[0.2000, 0.2000]]])

    Raises:
        ValueError: ``channels`` is not 1, 3 or 4.
        ImageError: values exceed 16 bits, fractions exceed 0 to 1, or the colours cannot be converted.
    """
    if channels not in MODES:
        raise ValueError(f"images have 1, 3 or 4 channels, got {channels}")
    if image.mode[0] in "IF":
        values = torch.from_numpy(_deep_values(image)).permute(2, 0, 1)
    else:
        is_grey = image.mode in {"1", "L"} and channels < 4
        try:
            array = np.array(image.convert("L" if is_grey else MODES[channels]))
        except ValueError as error:
            raise ImageError(str(error)) from None
        values = torch.from_numpy(array if array.ndim == 3 else array[..., None]).permute(2, 0, 1)
    return Picture(values, Transform(image.size), image.size)


def resize_picture(picture: Picture, rule: ResizeRule) -> Content:
    """Resize a picture by a rule: bilinear, and antialiased if it shrinks, as Pillow does.

    torchvision's result depends on the processor: with AVX2 one value in a thousand is a grey level off, without it more.

    >>> from detect.data.resize import parse_resize
    >>> content = resize_picture(decode_image(Image.new("L", (100, 50), 255)), parse_resize("letterbox:64"))
    >>> content.values.shape, content.offset_xy, content.end_hw.tolist(), content.on_canvas(3).shape
    (torch.Size([1, 32, 64]), (0, 16), [48, 64], torch.Size([3, 64, 64]))
    """
    resized = rule.resize_images(np.array([picture.frame_wh], np.int64))
    (content,), (canvas,), (scale,), (offset,) = (
        each.tolist() for each in (resized.content_wh, resized.canvas_wh, resized.scale_xy, resized.offset_xy)
    )
    values = picture.values
    if picture.wh != tuple(content):
        values = _resized(values, (content[0], content[1]))
    if values.dtype == torch.uint8:
        values = values / 255
    (frame_w, frame_h), (width, height) = picture.frame_wh, picture.wh
    window_scale = (scale[0] * frame_w / width, scale[1] * frame_h / height)
    transform = Transform(picture.wh, window_scale, (offset[0], offset[1]))
    return Content(values, transform, (int(offset[0]), int(offset[1])), (canvas[0], canvas[1]))


def measure_normalization(data: DetectionData, *, max_images: int = 2000) -> Normalization:
    """Measure mean and standard deviation of each channel of resized images, before augmentation and without padding.

    At most ``max_images`` are measured, evenly spaced. The standard deviation is at least one grey level of 255, so that a
    constant channel can be divided by it.

    >>> from detect.data import read_coco
    >>> from detect.data.resize import parse_resize
    >>> from detect.loading.dataset import DetectionData
    >>> from detect.samples import sample_annotations
    >>> file = sample_annotations("nuclei")
    >>> data = DetectionData(read_coco(file), file.parent / "images", resize=parse_resize("none"), channels=1)
    >>> (mean,), (std,) = measure_normalization(data)
    >>> len(data), round(mean, 3), round(std, 3)
    (80, 0.043, 0.06)
    """
    rows = data.image_rows[:: -(-len(data) // max_images)].tolist()
    return normalization_of(
        resize_picture(data.open(row), data.resize).values.expand(data.channels, -1, -1) for row in rows
    )


def normalization_of(images: Iterable[Float[Tensor, "d _ _"]]) -> Normalization:
    """Mean and standard deviation of each channel over all pixels of images of any size, one image in memory at a time.

    Moments are merged about the running mean (Chan, Golub and LeVeque 1983); sums of squares would lose a small deviation.

    >>> normalization_of([torch.zeros(1, 1, 1), torch.ones(1, 1, 1)])
    ((0.5,), (0.5,))
    """
    num_pixels = 0
    mean, squares = torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    for image in images:
        pixels = image.flatten(1).double()
        image_mean = pixels.mean(dim=1)
        share = pixels.shape[1] / (num_pixels + pixels.shape[1])
        difference = image_mean - mean
        mean = mean + share * difference
        squares = squares + ((pixels - image_mean[:, None]) ** 2).sum(dim=1) + share * num_pixels * difference**2
        num_pixels += pixels.shape[1]
    std = (squares / num_pixels).sqrt().clamp(min=GREY_LEVEL)
    return tuple(mean.tolist()), tuple(std.tolist())


def torchvision_functional() -> ModuleType:
    """Import torchvision's functional transforms, version 2; raises MissingExtraError without torchvision."""
    import_torchvision()
    return import_module("torchvision.transforms.v2.functional")


def _resized(values: Shaped[Tensor, "d h w"], wh: tuple[int, int]) -> Shaped[Tensor, "d h2 w2"]:
    bands = (Image.fromarray(band).resize(wh, Image.Resampling.BILINEAR) for band in values.numpy())
    return torch.from_numpy(np.stack([np.asarray(band) for band in bands]))


def _deep_values(image: Image.Image) -> Float32[ndarray, "h w 1"]:
    """Scale 16-bit integers to 0..1, and check that fractions lie in it."""
    largest = 1 if image.mode.startswith("F") else SIXTEEN_BITS
    values = np.asarray(image)
    low, high = values.min(), values.max()
    if not 0 <= low <= high <= largest:
        raise ImageError(f"values from {low:g} to {high:g}: a deep image has 16 bits, or fractions from 0 to 1")
    return (values / np.float32(largest)).astype(np.float32)[..., None]
