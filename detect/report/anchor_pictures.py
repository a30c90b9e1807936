"""Instances with the lowest IoU, drawn over their images, as markup that holds the pictures.

All coordinates are (x0, y0, x1, y1) in pixels of the original image, without the resize rule.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64
from numpy import ndarray
from PIL import Image

from detect.anchors.metrics import AnchorMetrics
from detect.data.images import ImageFiles
from detect.errors import ImageError
from detect.report.page import block
from detect.report.pictures import stretch_contrast
from detect.report.tables import escape
from detect.wording import plural

MAX_PICTURES, MAX_TRIED = 12, 50
CONTEXT = 2.5  # side of a window / longer side of the box
LEAST_PX = 64
BESIDE_ANCHOR = 1.1
RIM_PX = 2  # empty pixels beside the image, so that its edge is visible
LONGEST_PX = 320  # longer side of a stored picture
JPEG_QUALITY = 85
BOX_COLOR, ANCHOR_COLOR, HALO_COLOR = "#ffd23f", "#4cc9f0", "#10202c"

Corners = Float64[ndarray, " 4"]


@dataclass(frozen=True, eq=False)
class WorstPicture:
    """One instance over its image: row of the instance, its box, and its best anchor on the grid.

    ``window`` is the square that is shown, ``part`` its intersection with the image, ``jpeg`` the pixels of that part.
    """

    row: int
    box: Corners
    anchor: Corners
    window: tuple[int, int, int, int]
    part: tuple[int, int, int, int]
    jpeg: bytes


@dataclass(frozen=True)
class WorstPictures:
    """Pictures of the instances with the lowest IoU, and the reason for each instance left out."""

    drawn: tuple[WorstPicture, ...]
    left_out: tuple[str, ...]


def worst_pictures(score: AnchorMetrics, folder: str | Path, count: int = MAX_PICTURES) -> WorstPictures:
    """Draw the instances with the lowest IoU whose image can be opened; the others are listed with the reason.

    Raises:
        ValueError: the resize rule makes tiles; the position of a tile in its image is not stored.
    """
    if score.instances.rule.name == "tiles":
        raise ValueError("instances of tiles cannot be drawn: the position of a tile in its image is not stored")
    rows = score.worst(max(MAX_TRIED, count))
    dataset = score.instances.dataset
    resized = score.instances.rule.resize_images(dataset.images.wh[dataset.instances.image_rows[rows]])
    scale, offset = np.tile(resized.scale_xy, 2), np.tile(resized.offset_xy, 2)
    boxes, anchors = ((corners - offset) / scale for corners in (score.instances.boxes[rows], score.best_anchors(rows)))
    files = ImageFiles(dataset, Path(folder))
    drawn, left_out = [], []
    for row, box, anchor in zip(rows.tolist(), boxes, anchors, strict=True):
        try:
            drawn.append(_picture(score, row, box, anchor, files))
        except ImageError as error:
            left_out.append(str(error))
        if len(drawn) == count:
            break
    return WorstPictures(tuple(drawn), tuple(left_out))


def worst_block(score: AnchorMetrics, folder: str | Path) -> str:
    """Return the pictures and a sentence on how to read them, as markup."""
    title = "Instances with the lowest IoU over their images"
    if score.instances.rule.name == "tiles":
        return block(title, "Not drawn: the position of a tile in its image is not stored.", "")
    found = worst_pictures(score, folder)
    caption = (
        "The yellow box is the instance; the dashed blue one is its best anchor on the grid, of "
        f"“{escape(score.anchors.name)}”. Contrast is stretched."
    )
    if found.left_out:
        first = escape(found.left_out[0])
        others = ", and others" if len(found.left_out) > 1 else ""
        caption += f" {plural(len(found.left_out), 'instance')} left out: {first}{others}."
    figures = "\n".join(_figure(score, picture) for picture in found.drawn)
    content = f'<div class="pictures">\n{figures}\n</div>' if found.drawn else '<p class="none">No picture.</p>'
    return block(f"{title} <b>{len(found.drawn)}</b>", caption, content)


def _picture(score: AnchorMetrics, row: int, box: Corners, anchor: Corners, files: ImageFiles) -> WorstPicture:
    dataset = score.instances.dataset
    number = int(dataset.instances.image_rows[row])
    width, height = dataset.images.wh[number].tolist()
    window = window_around(box, anchor, (width, height))
    part = (max(window[0], 0), max(window[1], 0), min(window[2], width), min(window[3], height))
    crop = stretch_contrast(files.open(number)).crop(part)
    factor = min(1.0, LONGEST_PX / max(crop.size))
    crop = crop.resize((max(1, round(crop.width * factor)), max(1, round(crop.height * factor))), Image.Resampling.BOX)
    stored = io.BytesIO()
    crop.save(stored, "JPEG", quality=JPEG_QUALITY)
    return WorstPicture(row, box, anchor, window, part, stored.getvalue())


def window_around(box: Corners, anchor: Corners, image_wh: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return a square of whole pixels (x0, y0, x1, y1) that holds a box, its anchor and their surroundings.

    The box is in the middle, unless the image's edge is near: then the window shifts to show more of the image.

    >>> box, anchor = np.array([100.0, 100.0, 140.0, 110.0]), np.array([90.0, 90.0, 150.0, 120.0])
    >>> window_around(box, anchor, (640, 480))  # 2.5 * 40 is 100
    (70, 55, 170, 155)
    >>> window_around(box, anchor, (150, 480))
    (52, 55, 152, 155)
    """
    middle = (box[:2] + box[2:]) / 2
    reach = float(np.abs(anchor - np.tile(middle, 2)).max()) * 2 * BESIDE_ANCHOR
    helpful = max(LEAST_PX, CONTEXT * float((box[2:] - box[:2]).max()))
    side = math.ceil(max(reach, min(helpful, max(image_wh) + 2 * RIM_PX)))
    x0, y0 = (
        _start(math.floor(float(middle[axis]) - side / 2), side, anchor[[axis, axis + 2]].tolist(), image_wh[axis])
        for axis in (0, 1)
    )
    return x0, y0, x0 + side, y0 + side


def _start(centered: int, side: int, anchor: Sequence[float], extent: int) -> int:
    """Start of a window along one axis: inside the span of image and anchor if the window fits into it."""
    low, high = min(0, math.floor(anchor[0])) - RIM_PX, max(extent, math.ceil(anchor[1])) + RIM_PX
    return min(max(centered, low), high - side) if side <= high - low else (low + high - side) // 2


def _figure(score: AnchorMetrics, picture: WorstPicture) -> str:
    dataset, row = score.instances.dataset, picture.row
    instances = dataset.instances
    name = dataset.images.file_names[int(instances.image_rows[row])]
    category = dataset.category_name(int(instances.category_ids[row]))
    (x0, y0, x1, y1), (left, top, right, bottom) = picture.part, picture.window
    return f"""<figure>
<svg viewBox="{left} {top} {right - left} {bottom - top}" role="img" aria-label="annotation {instances.ids[row]}">
<image x="{x0}" y="{y0}" width="{x1 - x0}" height="{y1 - y0}" preserveAspectRatio="none"
href="data:image/jpeg;base64,{base64.b64encode(picture.jpeg).decode()}"/>
{_outline(picture.box, BOX_COLOR)}
{_outline(picture.anchor, ANCHOR_COLOR, dashed=True)}
</svg>
<figcaption><b>IoU {score.best_iou[row]:.3f}</b>, on the grid {score.grid_best_iou[row]:.3f}<br>
{escape(category)}, annotation {instances.ids[row]}<br>{escape(name)}</figcaption>
</figure>"""


def _outline(corners: Sequence[float] | Corners, color: str, *, dashed: bool = False) -> str:
    """A coloured rectangle over a wider dark one, visible on any image."""
    x0, y0, x1, y1 = map(float, corners)
    place = f'x="{x0:.2f}" y="{y0:.2f}" width="{x1 - x0:.2f}" height="{y1 - y0:.2f}" fill="none"'
    dashes = ' stroke-dasharray="6 4"' if dashed else ""
    look = f'{dashes} vector-effect="non-scaling-stroke"'
    under = f'<rect {place} stroke="{HALO_COLOR}" stroke-opacity=".7" stroke-width="4"{look}/>'
    return f'{under}\n<rect {place} stroke="{color}" stroke-width="2"{look}/>'
