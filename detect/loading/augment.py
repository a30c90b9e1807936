"""Augmentation of training images: flips, quarter turns and zoom, then changes of intensity."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil

import torch
from jaxtyping import Float, Shaped
from numpy.random import Generator
from torch import Tensor

from detect.loading.image_ops import Content, Picture, torchvision_functional

Range = tuple[float, float]

SMALLEST_BLUR_PX = 0.25  # the neighbour's weight relative to the pixel's own is exp(-1 / (2 * .25^2)) = .0003
EPSILON = 1e-6


@dataclass(frozen=True)
class Augment:
    """Geometric changes, then photometric ones, drawn anew for each image. Factors are uniform in their logarithm.

    Args:
        flips: flip left to right with probability .5.
        turns: rotate by 0, 90, 180 or 270 degrees, and flip upside down with probability .5: for images without an up and
            down, such as those of microscopes. An image that is not square swaps its width and height.
        zoom: range of the scale factor. A larger image is cropped at random; a smaller one is surrounded by its median.
        min_visible: a box that keeps a smaller share of its area becomes an ignored region.
        gain: range of the factor on intensities.
        gamma: range of the exponent on intensities relative to the brightest.
        noise: largest standard deviation of Gaussian noise, relative to that of the image, so that dim images survive.
        blur_px: largest sigma of a Gaussian blur, in pixels of the network's input; half of the images stay sharp.
    """

    flips: bool = True
    turns: bool = False
    zoom: Range = (0.75, 1.4)
    min_visible: float = 0.4
    gain: Range = (0.7, 1.4)
    gamma: Range = (0.7, 1.4)
    noise: float = 0.1
    blur_px: float = 1.0

    def apply_geometric(self, picture: Picture, random: Generator) -> Picture:
        """Rotate, flip and zoom a picture."""
        along_x, along_y = random.random(2) < 0.5
        quarters = int(random.integers(4))
        factor, position_xy = _log_uniform(self.zoom, random), random.random(2)
        if self.turns:
            picture = rotate90(picture, quarters)
        picture = flip(picture, along_x=self.flips and bool(along_x), along_y=self.turns and bool(along_y))
        return zoom_window(picture, factor, (float(position_xy[0]), float(position_xy[1])))

    def apply_photometric(self, content: Content, random: Generator) -> Content:
        """Blur, brighten or darken, and add noise; values stay within 0 to 1."""
        blur = max(random.uniform(-1, 1), 0) * self.blur_px
        gain, gamma = _log_uniform(self.gain, random), _log_uniform(self.gamma, random)
        noise = random.random() * self.noise
        values = gaussian_blur(content.values, blur).clamp(min=0)  # powers of negative numbers are not defined
        brightest = values.max().clamp(min=EPSILON)
        values = (values / brightest).pow_(gamma).mul_(brightest * gain)
        if noise > 0:
            noise *= float(values.std(correction=0))
            generator = torch.Generator().manual_seed(int(random.integers(2**62)))
            values.add_(torch.randn(values.shape, generator=generator), alpha=noise)
        return replace(content, values=values.clamp_(0, 1))


def flip(picture: Picture, *, along_x: bool, along_y: bool) -> Picture:
    """Reverse the order of columns, of rows, or of both."""
    width, height = picture.wh
    axes = [axis for axis, wanted in ((2, along_x), (1, along_y)) if wanted]
    if not axes:
        return picture
    scale = (-1.0 if along_x else 1.0, -1.0 if along_y else 1.0)
    offset = (float(width * along_x), float(height * along_y))
    return replace(picture, values=picture.values.flip(axes), transform=picture.transform.then(scale, offset))


def rotate90(picture: Picture, quarters: int) -> Picture:
    """Rotate counter-clockwise by a number of quarter turns, each a transposition and a vertical flip."""
    for _ in range(quarters % 4):
        width, height = picture.frame_wh
        transposed = Picture(picture.values.transpose(1, 2), picture.transform.then(swapped=True), (height, width))
        picture = flip(transposed, along_x=False, along_y=True)
    return picture


def zoom_window(picture: Picture, factor: float, position_xy: Range) -> Picture:
    """Take the window that shows the picture ``factor`` times larger once it is resized to the picture's size.

    The window has whole pixels, so nothing is resampled here. ``position_xy``, from 0 to 1, places it between the first and
    the last possible position: inside the picture, or around the picture if the window is larger.
    """
    width, height = picture.wh
    window_w, window_h = (max(round(size / factor), 1) for size in (width, height))
    x, y = round(position_xy[0] * (width - window_w)), round(position_xy[1] * (height - window_h))
    functional = torchvision_functional()
    values = picture.values
    if window_w > width or window_h > height:
        margins = [-min(x, 0), -min(y, 0), max(x + window_w - width, 0), max(y + window_h - height, 0)]
        values = functional.pad(values, margins, fill=_median(values))
    values = functional.crop(values, max(y, 0), max(x, 0), window_h, window_w)
    return replace(picture, values=values, transform=picture.transform.then(offset_xy=(float(-x), float(-y))))


def gaussian_blur(values: Float[Tensor, "d h w"], sigma_px: float) -> Float[Tensor, "d h w"]:
    """Blur by a Gaussian; values stay as they are below a quarter pixel, and if the image is smaller than the kernel."""
    size = 2 * ceil(2 * sigma_px) + 1
    if sigma_px < SMALLEST_BLUR_PX or min(values.shape[1:]) <= size // 2:  # the border is reflected
        return values
    return torchvision_functional().gaussian_blur(values, [size, size], [sigma_px, sigma_px])


def _log_uniform(limits: Range, random: Generator) -> float:
    low, high = limits
    return float(low * (high / low) ** random.random())


def _median(values: Shaped[Tensor, "d h w"]) -> list[float]:
    """The median of each channel over at most about 64 x 64 pixels, evenly spaced."""
    step_y, step_x = (-(-size // 64) for size in values.shape[1:])
    return values[:, ::step_y, ::step_x].flatten(1).median(dim=1).values.tolist()
