"""What training images undergo so that a detector meets more than it was given."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil

import numpy as np
import torch
from jaxtyping import Float, Shaped
from numpy.random import Generator
from torch import Tensor

from detect.loading.image_ops import Content, Picture, torchvision_functional

Range = tuple[float, float]

SMALLEST_BLUR_PX = 0.25  # beside a pixel's own weight the next one's is exp(-1 / (2 * .25^2)) = .0003
TINY = 1e-6


@dataclass(frozen=True)
class Augment:
    """Mirrors, quarter turns and zoom of the picture, then changes of its intensities; each drawn anew for each image.

    Args:
        flips: mirror left and right, and up and down, each every other time.
        turns: turn by 0, 90, 180 or 270 degrees; an image that is not square changes its size by it.
        zoom: enlarge by a factor in this range, drawn so that twice and half are as likely. What sticks out is cut at a
            place drawn at random; what is left free has the picture's median colour.
        min_visible: a box keeps this part of its area or becomes an ignored region.
        gain: intensities times a factor in this range, drawn likewise.
        gamma: intensities, as parts of the picture's highest, to a power in this range, drawn likewise.
        noise: Gaussian, of a standard deviation from 0 to this part of the picture's own: a dim picture is not drowned.
        blur_px: Gaussian, every other time, of a sigma from 0 to this, in pixels of the network's input.

    Raises:
        ValueError: a range that is not positive and rising, or a number out of its own.
    """

    flips: bool = True
    turns: bool = True
    zoom: Range = (0.75, 1.4)
    min_visible: float = 0.4
    gain: Range = (0.7, 1.4)
    gamma: Range = (0.7, 1.4)
    noise: float = 0.1
    blur_px: float = 1.0

    def __post_init__(self) -> None:
        for name in ("zoom", "gain", "gamma"):
            low, high = getattr(self, name)
            if not 0 < low <= high < np.inf:
                raise ValueError(f"{name} is a range of positive factors, got {low} to {high}")
        if not (0 <= self.noise < np.inf and 0 <= self.blur_px < np.inf and 0 <= self.min_visible <= 1):
            raise ValueError(
                f"need noise and blur_px of at least 0, min_visible from 0 to 1, got {self.noise}, {self.blur_px} and "
                f"{self.min_visible}"
            )

    def move(self, picture: Picture, random: Generator) -> Picture:
        """The picture mirrored, turned and zoomed."""
        mirrored_x, mirrored_y = random.random(2) < 0.5
        quarters = int(random.integers(4))
        zoom, place_xy = _factor(self.zoom, random), random.random(2)
        if self.turns:
            picture = turn(picture, quarters)
        if self.flips:
            picture = mirror(picture, along_x=bool(mirrored_x), along_y=bool(mirrored_y))
        return zoom_picture(picture, zoom, (float(place_xy[0]), float(place_xy[1])))

    def recolour(self, content: Content, random: Generator) -> Content:
        """The content blurred, brighter or darker, and with noise; from 0 to 1."""
        blur = max(random.uniform(-1, 1), 0) * self.blur_px
        gain, gamma = _factor(self.gain, random), _factor(self.gamma, random)
        noise = random.random() * self.noise
        values = blurred(content.values, blur).clamp(min=0)  # a negative number has no power
        brightest = values.max().clamp(min=TINY)
        values = (values / brightest).pow_(gamma).mul_(brightest * gain)
        if noise > 0:
            noise *= float(values.std(correction=0))
            generator = torch.Generator().manual_seed(int(random.integers(2**62)))
            values.add_(torch.randn(values.shape, generator=generator), alpha=noise)
        return replace(content, values=values.clamp_(0, 1))


def mirror(picture: Picture, *, along_x: bool, along_y: bool) -> Picture:
    """The picture with its columns, its rows or both in reverse."""
    width, height = picture.wh
    axes = [axis for axis, wanted in ((2, along_x), (1, along_y)) if wanted]
    if not axes:
        return picture
    scale = (-1.0 if along_x else 1.0, -1.0 if along_y else 1.0)
    offset = (float(width * along_x), float(height * along_y))
    return replace(picture, values=picture.values.flip(axes), view=picture.view.then(scale, offset))


def turn(picture: Picture, quarters: int) -> Picture:
    """The picture turned counter-clockwise by so many quarters: rows become columns, and are then in reverse."""
    for _ in range(quarters % 4):
        swapped = Picture(
            picture.values.transpose(1, 2), picture.view.then(swapped=True), (picture.frame_wh[1], picture.frame_wh[0])
        )
        picture = mirror(swapped, along_x=False, along_y=True)
    return picture


def zoom_picture(picture: Picture, factor: float, place_xy: Range) -> Picture:
    """The window that, resized to the picture's size, shows it so many times larger.

    The window has whole pixels, so that nothing is resampled here. ``place_xy``, from 0 to 1, is where it lies between its
    first and its last place: within the picture, or, where the window is larger, around it.
    """
    width, height = picture.wh
    window_w, window_h = (max(round(size / factor), 1) for size in (width, height))
    x, y = (
        round(place * (size - window))
        for place, size, window in zip(place_xy, (width, height), (window_w, window_h), strict=True)
    )
    functional = torchvision_functional()
    values = picture.values
    if window_w > width or window_h > height:
        margins = [-min(x, 0), -min(y, 0), max(x + window_w - width, 0), max(y + window_h - height, 0)]
        values = functional.pad(values, margins, fill=_median(values))
    values = functional.crop(values, max(y, 0), max(x, 0), window_h, window_w)
    return replace(picture, values=values, view=picture.view.then(offset_xy=(float(-x), float(-y))))


def blurred(values: Float[Tensor, "d h w"], sigma_px: float) -> Float[Tensor, "d h w"]:
    """Smoothed by a Gaussian; by one of less than a quarter pixel not at all, as it would change nothing."""
    if sigma_px < SMALLEST_BLUR_PX:
        return values
    size = 2 * ceil(2 * sigma_px) + 1
    if min(values.shape[1:]) <= size // 2:  # the border is reflected
        return values
    return torchvision_functional().gaussian_blur(values, [size, size], [sigma_px, sigma_px])


def _factor(limits: Range, random: Generator) -> float:
    """Between the limits, uniform in its logarithm."""
    low, high = limits
    return float(low * (high / low) ** random.random())


def _median(values: Shaped[Tensor, "d h w"]) -> list[float]:
    """Of each channel, on a grid of at most some thousand pixels."""
    step_y, step_x = (-(-size // 64) for size in values.shape[1:])
    return values[:, ::step_y, ::step_x].flatten(1).median(dim=1).values.tolist()
