"""Pictures to look at: what was found in an image, as boxes or points, and, where it is known, what is there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64
from numpy import ndarray
from PIL import Image, ImageDraw, ImageFont

from detect.report.overlays import picture_factor, stretched
from detect.report.plots import visible

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
