"""Draw predictions and ground truth over images: heatmaps, boxes, points, and contact sheets of them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int64
from numpy import ndarray
from PIL import Image, ImageDraw, ImageFont, ImageOps

from detect.conventions import TYPE_COLORS
from detect.data.images import as_rgb
from detect.report.plots import visible

HEAT = np.array([[10, 20, 80], [40, 90, 220], [60, 220, 220], [250, 220, 60], [240, 60, 40]], float)  # RGB, cold to hot
MAX_OPACITY = 0.6
CLIPPED_PERCENT = 0.5  # darkest and lightest pixels that the contrast stretch clips; without it dim images show nothing
LONGEST_PX = 512  # longer side of a picture: exact for large images, the most for small ones
CROSS_SHARE = 0.012  # arm of a cross / longer side of the picture
POINT_COLOR = (255, 255, 255)
TRUTH_COLOR, SHADOW_COLOR = "#ffffff", "#000000"
TEXT_PX = 11
RADIUS_PX, CROSS_PX, DIRECTION_PX = 6, 5, 24
NAME_CHARS = 20


def heatmap_overlay(
    image: Image.Image,
    heatmap: Float[ndarray, "h w"],
    points: Float[ndarray, "n 2"],
    *,
    stride: float,
    angles: Float[ndarray, " n"] | None = None,
    two_sided: bool = False,
) -> Image.Image:
    """Draw one heatmap over its image, and points as crosses, with their ``angles`` as in :class:`Marks`.

    Each cell covers its own ``stride`` x ``stride`` pixels of the image, so a shift by half a cell is visible. Values of the
    heatmap outside 0 to 1 are clipped. Points are (x, y) in continuous pixels of the image.

    >>> picture = heatmap_overlay(Image.new("L", (8, 4)), np.eye(1, 2), np.array([[2.0, 2.0]]), stride=4)
    >>> picture.size, picture.getpixel((10, 10)), picture.getpixel((500, 10))  # MAX_OPACITY of the hottest colour
    ((512, 256), (144, 36, 24), (0, 0, 0))
    """
    picture, factor = enlarged(image)
    centers = [(np.arange(side) + 0.5) / factor / stride for side in picture.shape[:2]]
    rows, columns = (
        np.minimum(each, cells - 1).astype(int) for each, cells in zip(centers, heatmap.shape, strict=True)
    )
    heat = np.clip(heatmap[rows[:, None], columns], 0, 1)
    opacity = MAX_OPACITY * heat[..., None] ** 0.75
    blended = Image.fromarray((picture * (1 - opacity) + palette_colors(heat, HEAT) * opacity).astype(np.uint8))
    draw, arm = ImageDraw.Draw(blended), max(3.0, CROSS_SHARE * max(blended.size))
    _draw_crosses(draw, points * factor, arm, fill=POINT_COLOR)
    marks = Marks(np.zeros((0, 4)), points, np.zeros(0, np.int64), angles=angles, two_sided=two_sided)
    for line in _direction_lines(marks, factor):
        draw.line(line, fill=POINT_COLOR)
    return blended


def contact_sheet(pictures: Sequence[Image.Image], *, columns: int = 4, gap: int = 8) -> Image.Image:
    """Arrange pictures row by row on white.

    >>> contact_sheet([Image.new("RGB", (20, 10))] * 5, columns=3, gap=1).size  # 3 * (20 + 1) + 1, 2 * (10 + 1) + 1
    (64, 23)

    Raises:
        ValueError: ``pictures`` is empty.
    """
    if not pictures:
        raise ValueError("need at least one picture, got none")
    wide, high = (max(picture.size[axis] for picture in pictures) + gap for axis in (0, 1))
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (min(columns, len(pictures)) * wide + gap, rows * high + gap), "white")
    for number, picture in enumerate(pictures):
        sheet.paste(picture, (gap + number % columns * wide, gap + number // columns * high))
    return sheet


def enlarged(image: Image.Image) -> tuple[Float[ndarray, "h w 3"], float]:
    """Return RGB values from 0 to 255, with stretched contrast, and the scale at which the image is drawn.

    The scale is a whole number for small images, so that a shift by half a pixel is visible, and below 1 for large ones.

    >>> [enlarged(Image.new("L", (side, side)))[1] for side in (200, 1024)]
    [2, 0.5]
    """
    picture, factor = resized(stretch_contrast(image), LONGEST_PX)
    return np.asarray(picture, float), factor


def resized(image: Image.Image, longest_px: int) -> tuple[Image.Image, float]:
    """Return an image enlarged by a whole factor up to a longer side, or reduced to it; and the factor."""
    factor = longest_px / max(image.size)
    factor = max(1, int(factor)) if factor >= 1 else factor
    size = max(1, round(image.width * factor)), max(1, round(image.height * factor))
    return image.resize(size, Image.Resampling.NEAREST if factor >= 1 else Image.Resampling.BOX), factor


def png_bytes(picture: Image.Image) -> bytes:
    """Return a picture as the content of a PNG."""
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()


def stretch_contrast(image: Image.Image) -> Image.Image:
    """Return an image as RGB with its brightness stretched over the full range, hue unchanged."""
    return ImageOps.autocontrast(as_rgb(image), cutoff=CLIPPED_PERCENT, preserve_tone=True)


def palette_colors(share: Float[ndarray, "h w"], palette: Float[ndarray, "n 3"]) -> Float[ndarray, "h w 3"]:
    """Return colours between the first of a palette, for 0, and the last, for 1."""
    steps = np.linspace(0, 1, len(palette))
    return np.stack([np.interp(share, steps, channel) for channel in palette.T], axis=-1)


@dataclass(frozen=True, eq=False)
class Marks:
    """Boxes (x0, y0, x1, y1) and points (x, y) to draw over one image, in its continuous pixels.

    ``classes`` chooses the colours of the boxes, then of the points. ``texts``, one for each box or empty, are written where
    they fit. ``angles`` of the points, in radians from x towards y and NaN where unknown, are drawn as lines from them, and
    to both sides if they are ``two_sided``.
    """

    boxes: Float[ndarray, "n 4"]
    points: Float[ndarray, "m 2"]
    classes: Int64[ndarray, " k"]
    texts: tuple[str, ...] = ()
    angles: Float[ndarray, " m"] | None = None
    two_sided: bool = False


def detection_picture(image: Image.Image, predicted: Marks, truth: Marks | None = None) -> Image.Image:
    """Draw predictions in the colours of their classes, over the ground truth in thin white lines.

    >>> predicted = Marks(np.array([[2.0, 1.0, 6.0, 3.0]]), np.zeros((0, 2)), np.zeros(1, np.int64))
    >>> picture = detection_picture(Image.new("L", (8, 4)), predicted)
    >>> picture.size, picture.getpixel((2 * 64, 100)), picture.getpixel((200, 100))
    ((512, 256), (255, 212, 59), (0, 0, 0))
    """
    pixels, factor = enlarged(image)
    picture = Image.fromarray(pixels.astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    if truth:
        _draw_truth(draw, truth, factor)
    _draw_predicted(draw, predicted, factor)
    return picture


def class_color(number: int) -> str:
    """Return the colour of a class; colours repeat after six classes."""
    return TYPE_COLORS[number % len(TYPE_COLORS)]


def score_text(name: str, score: float) -> str:
    """Return the text at a box: name and score, or the score alone.

    >>> score_text("cell", 0.876), score_text("", 0.5)
    ('cell 0.88', '0.50')
    """
    return f"{visible(name, NAME_CHARS)} {score:.2f}".strip()


def _draw_truth(draw: ImageDraw.ImageDraw, truth: Marks, factor: float) -> None:
    """Boxes and crosses, white with a dark edge, visible on any background."""
    for color, width in ((SHADOW_COLOR, 3), (TRUTH_COLOR, 1)):
        edge = width // 2  # lines are drawn inwards from the corners
        for x0, y0, x1, y1 in _corners(truth, factor):
            draw.rectangle((x0 - edge, y0 - edge, x1 + edge, y1 + edge), outline=color, width=width)
        _draw_crosses(draw, truth.points * factor, CROSS_PX + (width > 1), fill=color, width=width)
        for line in _direction_lines(truth, factor):
            draw.line(line, fill=color, width=width)


def _draw_crosses(draw: ImageDraw.ImageDraw, points: Float[ndarray, "n 2"], arm: float, **line: Any) -> None:
    for x, y in points.tolist():
        draw.line((x - arm, y, x + arm, y), **line)
        draw.line((x, y - arm, x, y + arm), **line)


def _draw_predicted(draw: ImageDraw.ImageDraw, predicted: Marks, factor: float) -> None:
    """Boxes and circles in the colour of their class, then the texts, so that no box hides a text."""
    colors = [class_color(number) for number in predicted.classes.tolist()]
    boxes = _corners(predicted, factor)
    for box, color in zip(boxes, colors, strict=False):
        draw.rectangle(box, outline=color, width=2)
    for (x, y), color in zip((predicted.points * factor).tolist(), colors[len(boxes) :], strict=True):
        draw.ellipse((x - RADIUS_PX, y - RADIUS_PX, x + RADIUS_PX, y + RADIUS_PX), outline=color, width=2)
    for line, color in zip(_direction_lines(predicted, factor), colors[len(boxes) :], strict=False):
        draw.line(line, fill=color, width=2)
    font = ImageFont.load_default(TEXT_PX)
    for (x0, y0, x1, _), color, text in zip(boxes, colors, predicted.texts, strict=False):
        wide, high = draw.textbbox((0, 0), text, font=font)[2:]
        if wide + 4 <= x1 - x0:
            top = y0 - high - 3 if y0 >= high + 3 else y0
            draw.rectangle((x0, top, x0 + wide + 4, top + high + 3), fill=color)
            draw.text((x0 + 2, top + 1), text, fill="black", font=font)


def _direction_lines(marks: Marks, factor: float) -> list[tuple[float, float, float, float]]:
    """A line for each point with an angle; of length 0 if it is not known."""
    if marks.angles is None:
        return []
    angles, middle = np.nan_to_num(marks.angles), marks.points * factor
    arms = DIRECTION_PX * np.stack([np.cos(angles), np.sin(angles)], axis=1) * np.isfinite(marks.angles)[:, None]
    start = middle - arms if marks.two_sided else middle
    return [tuple(line) for line in np.concatenate([start, middle + arms], axis=1).tolist()]


def _corners(marks: Marks, factor: float) -> list[tuple[float, float, float, float]]:
    """Boxes in Pillow's convention, where the last row and column belong to the box."""
    return [(x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)) for x0, y0, x1, y1 in (marks.boxes * factor).tolist()]
