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
LONGEST_PX = 512  # small images are enlarged to about this
MARK = 0.012  # of the picture's longer side
POINT_COLORS = ((255, 255, 255), (255, 80, 220))  # what was asked for, what was found


def heatmap_overlay(
    image: Image.Image, heatmap: Float[ndarray, "h w"], points: Sequence[Float[ndarray, "_ 2"]] = ()
) -> Image.Image:
    """One map, from 0 to 1, over its image, and up to two sets of points (x, y) in continuous pixels of the image.

    Each cell of the map covers the pixels that it stands for, so a shift by half a cell would be seen.
    """
    factor = max(1, LONGEST_PX // max(image.size))
    wide, high = image.width * factor, image.height * factor
    stretched = ImageOps.autocontrast(as_rgb(image), cutoff=DARKEST_AND_LIGHTEST, preserve_tone=True)
    picture = np.asarray(stretched.resize((wide, high), Image.Resampling.NEAREST), float)
    rows, columns = (np.arange(side) * cells // side for side, cells in zip((high, wide), heatmap.shape, strict=True))
    heat = np.clip(heatmap[rows[:, None], columns], 0, 1)
    opacity = MOST_OPAQUE * heat[..., None] ** 0.75
    blended = Image.fromarray((picture * (1 - opacity) + _colors(heat) * opacity).astype(np.uint8))
    draw, arm = ImageDraw.Draw(blended), max(3.0, MARK * max(wide, high))
    for each, color in zip(points, POINT_COLORS, strict=False):
        for x, y in (each * factor).tolist():
            draw.line((x - arm, y, x + arm, y), fill=color)
            draw.line((x, y - arm, x, y + arm), fill=color)
    return blended


def contact_sheet(pictures: Sequence[Image.Image], *, columns: int = 4, gap: int = 8) -> Image.Image:
    """Pictures side by side, row by row, on white."""
    wide, high = (max(picture.size[axis] for picture in pictures) + gap for axis in (0, 1))
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (min(columns, len(pictures)) * wide + gap, rows * high + gap), "white")
    for number, picture in enumerate(pictures):
        sheet.paste(picture, (gap + number % columns * wide, gap + number // columns * high))
    return sheet


def _colors(heat: Float[ndarray, "h w"]) -> Float[ndarray, "h w 3"]:
    place = heat * (len(HEAT) - 1)
    low = np.minimum(place.astype(int), len(HEAT) - 2)
    return HEAT[low] + (place - low)[..., None] * (HEAT[low + 1] - HEAT[low])
