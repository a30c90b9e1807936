"""Pictures to look at: what was found in an image, as boxes or points, and, where it is known, what is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64
from numpy import ndarray
from PIL import Image, ImageDraw, ImageFont, ImageOps

from detect.data.images import as_rgb
from detect.report.plots import visible

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


COLORS = ("#ffd43b", "#4dabf7", "#ff6b6b", "#69db7c", "#da77f2", "#ffa94d")  # seen on dark images and on bright ones
TRUTH_COLOR, SHADOW_COLOR = "#ffffff", "#000000"
TEXT_PX = 11
RADIUS_PX, CROSS_PX = 6, 5
NAME_CHARS = 20


@dataclass(frozen=True, eq=False)
class Marks:
    """What is drawn over one image, in its own pixels, continuous: boxes x0 y0 x1 y1 and points x y.

    ``classes`` choose colours, of boxes first, then of points; ``texts``, one for each box or none, are written where there
    is room.
    """

    boxes: Float[ndarray, "n 4"]
    points: Float[ndarray, "m 2"]
    classes: Int64[ndarray, " k"]
    texts: tuple[str, ...] = ()

    @classmethod
    def none(cls) -> Marks:
        """Nothing to draw."""
        return cls(np.zeros((0, 4)), np.zeros((0, 2)), np.zeros(0, np.int64))


def detection_picture(image: Image.Image, found: Marks, truth: Marks | None = None) -> Image.Image:
    """What was found, in colours, over an image of all greys; what is there, where it is known, thin and white beneath.

    Small images are enlarged by a whole number, so that a shift by half a pixel can be seen.

    >>> found = Marks(np.array([[2.0, 1.0, 6.0, 3.0]]), np.zeros((0, 2)), np.zeros(1, np.int64))
    >>> picture = detection_picture(Image.new("L", (8, 4)), found)
    >>> picture.size, picture.getpixel((2 * 64, 100)), picture.getpixel((200, 100))
    ((512, 256), (255, 212, 59), (0, 0, 0))
    """
    factor = picture_factor(image)
    picture = Image.fromarray(stretched(image, factor).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    if truth is not None:
        _draw_truth(draw, truth, factor)
    _draw_found(draw, found, factor)
    return picture


def class_color(number: int) -> str:
    """The colour of a class."""
    return COLORS[number % len(COLORS)]


def score_text(name: str, score: float) -> str:
    """What is written at a box; without a name the score alone.

    >>> score_text("cell", 0.876), score_text("", 0.5)
    ('cell 0.88', '0.50')
    """
    return f"{visible(name, NAME_CHARS)} {score:.2f}".strip()


def _draw_truth(draw: ImageDraw.ImageDraw, truth: Marks, factor: float) -> None:
    """Boxes and crosses, white on a dark edge, to be seen on any ground."""
    for color, width in ((SHADOW_COLOR, 3), (TRUTH_COLOR, 1)):
        for box in _corners(truth, factor):
            draw.rectangle(box, outline=color, width=width)
        arm = CROSS_PX + (width > 1)
        for x, y in (truth.points * factor).tolist():
            draw.line((x - arm, y, x + arm, y), fill=color, width=width)
            draw.line((x, y - arm, x, y + arm), fill=color, width=width)


def _draw_found(draw: ImageDraw.ImageDraw, found: Marks, factor: float) -> None:
    """Boxes and circles in the colour of their class, then the texts, lest a later box hides them."""
    colors = [class_color(number) for number in found.classes.tolist()]
    boxes = _corners(found, factor)
    for box, color in zip(boxes, colors, strict=False):
        draw.rectangle(box, outline=color, width=2)
    for (x, y), color in zip((found.points * factor).tolist(), colors[len(boxes) :], strict=True):
        draw.ellipse((x - RADIUS_PX, y - RADIUS_PX, x + RADIUS_PX, y + RADIUS_PX), outline=color, width=2)
    font = ImageFont.load_default(TEXT_PX)
    for (x0, y0, x1, _), color, text in zip(boxes, colors, found.texts, strict=False):
        wide, high = draw.textbbox((0, 0), text, font=font)[2:]
        if wide + 4 <= x1 - x0:
            top = y0 - high - 3 if y0 >= high + 3 else y0
            draw.rectangle((x0, top, x0 + wide + 4, top + high + 3), fill=color)
            draw.text((x0 + 2, top + 1), text, fill="black", font=font)


def _corners(marks: Marks, factor: float) -> list[tuple[float, float, float, float]]:
    """Boxes as Pillow draws them: their last pixels are theirs."""
    return [(x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)) for x0, y0, x1, y1 in (marks.boxes * factor).tolist()]
