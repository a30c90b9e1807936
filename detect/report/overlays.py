"""Pictures to look at: heatmaps over their images, with the points they were drawn for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from PIL import Image, ImageDraw, ImageOps

from detect.images import as_rgb

HEAT = np.array([[10, 20, 80], [40, 90, 220], [60, 220, 220], [250, 220, 60], [240, 60, 40]], float)  # cold to hot
MOST_OPAQUE = 0.6
DARKEST_AND_LIGHTEST = 0.5  # percent of pixels: the rest is stretched over all greys, or dim images would show nothing
LONGEST_PX = 512  # small images are enlarged by whole factors to at most this, large ones are made as small
MARK = 0.012  # of the picture's longer side
POINT_COLOR = (255, 255, 255)


def heatmap_overlay(
    image: Image.Image, heatmap: Float[ndarray, "h w"], points: Float[ndarray, "n 2"], *, stride: float
) -> Image.Image:
    """One map, from 0 to 1, over its image, and points (x, y) in continuous pixels of the image as crosses.

    Each cell of the map covers the pixels that it stands for, so a shift by half a cell would be seen.

    >>> picture = heatmap_overlay(Image.new("L", (8, 4)), np.eye(1, 2), np.array([[2.0, 2.0]]), stride=4)
    >>> picture.size, picture.getpixel((10, 10)), picture.getpixel((500, 10))  # MOST_OPAQUE of the hottest colour
    ((512, 256), (144, 36, 24), (0, 0, 0))
    """
    factor = picture_factor(image)
    picture = stretched(image, factor)
    rows, columns = (
        np.minimum((np.arange(side) + 0.5) / factor / stride, cells - 1).astype(int)
        for side, cells in zip(picture.shape[:2], heatmap.shape, strict=True)
    )
    heat = np.clip(heatmap[rows[:, None], columns], 0, 1)
    opacity = MOST_OPAQUE * heat[..., None] ** 0.75
    blended = Image.fromarray((picture * (1 - opacity) + _colors(heat) * opacity).astype(np.uint8))
    draw, arm = ImageDraw.Draw(blended), max(3.0, MARK * max(blended.size))
    for x, y in (points * factor).tolist():
        draw.line((x - arm, y, x + arm, y), fill=POINT_COLOR)
        draw.line((x, y - arm, x, y + arm), fill=POINT_COLOR)
    return blended


def contact_sheet(pictures: Sequence[Image.Image], *, columns: int = 4, gap: int = 8) -> Image.Image:
    """Pictures side by side, row by row, on white.

    >>> contact_sheet([Image.new("RGB", (20, 10))] * 5, columns=3, gap=1).size  # 3 * (20 + 1) + 1, 2 * (10 + 1) + 1
    (64, 23)

    Raises:
        ValueError: no pictures.
    """
    if not pictures:
        raise ValueError("a sheet needs at least one picture, got none")
    wide, high = (max(picture.size[axis] for picture in pictures) + gap for axis in (0, 1))
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (min(columns, len(pictures)) * wide + gap, rows * high + gap), "white")
    for number, picture in enumerate(pictures):
        sheet.paste(picture, (gap + number % columns * wide, gap + number // columns * high))
    return sheet


def picture_factor(image: Image.Image) -> float:
    """How much larger, by a whole number, or smaller an image is drawn.

    >>> picture_factor(Image.new("L", (200, 100))), picture_factor(Image.new("L", (1024, 512)))
    (2, 0.5)
    """
    factor = LONGEST_PX / max(image.size)
    return max(1, int(factor)) if factor >= 1 else factor


def stretched(image: Image.Image, factor: float) -> Float[ndarray, "h w 3"]:
    """The colours of an image made larger or smaller, over all greys."""
    all_greys = ImageOps.autocontrast(as_rgb(image), cutoff=DARKEST_AND_LIGHTEST, preserve_tone=True)
    size = [max(1, round(side * factor)) for side in image.size]
    smooth = Image.Resampling.NEAREST if factor >= 1 else Image.Resampling.BOX
    return np.asarray(all_greys.resize((size[0], size[1]), smooth), float)


def _colors(heat: Float[ndarray, "h w"]) -> Float[ndarray, "h w 3"]:
    place = heat * (len(HEAT) - 1)
    low = np.minimum(place.astype(int), len(HEAT) - 2)
    return HEAT[low] + (place - low)[..., None] * (HEAT[low + 1] - HEAT[low])
