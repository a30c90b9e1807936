"""Objects over their images, with their surroundings, as markup that holds the pictures.

All coordinates are (x0, y0, x1, y1) in pixels of the original image, without the resize rule.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64
from numpy import ndarray
from PIL import Image

from detect.data import CocoDataset
from detect.data.images import ImageFiles
from detect.errors import ImageError
from detect.ops.box_arrays import xywh_to_xyxy
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
class ObjectPicture:
    """One object over its image: its row, its box, and an anchor beside it if there is one.

    ``window`` is the square that is shown, ``part`` its intersection with the image, ``jpeg`` the pixels of that part.
    """

    row: int
    box: Corners
    anchor: Corners | None
    window: tuple[int, int, int, int]
    part: tuple[int, int, int, int]
    jpeg: bytes


@dataclass(frozen=True)
class ObjectPictures:
    """Pictures of objects, and the reason for each object left out."""

    drawn: tuple[ObjectPicture, ...]
    left_out: tuple[str, ...]


def object_pictures(
    dataset: CocoDataset,
    rows: Sequence[int],
    folder: str | Path,
    *,
    anchors: Float64[ndarray, "n 4"] | None = None,
    count: int = MAX_PICTURES,
) -> ObjectPictures:
    """Draw the first ``count`` instances whose image can be opened; the others are listed with the reason.

    ``anchors`` has one box to draw beside each instance.
    """
    files = ImageFiles(dataset, Path(folder))
    boxes = xywh_to_xyxy(dataset.instances.boxes_xywh[list(rows)])
    drawn: list[ObjectPicture] = []
    left_out = []
    for place, row in enumerate(rows):
        if len(drawn) == count:
            break
        try:
            drawn.append(_picture(dataset, row, boxes[place], None if anchors is None else anchors[place], files))
        except ImageError as error:
            left_out.append(str(error))
    return ObjectPictures(tuple(drawn), tuple(left_out))


def pictures_block(
    title: str, caption: str, found: ObjectPictures, dataset: CocoDataset, heading: Callable[[int], str]
) -> str:
    """Return the pictures and a caption on how to read them; ``heading`` gives markup above the names of a row."""
    if found.left_out:
        first = escape(found.left_out[0])
        others = ", and others" if len(found.left_out) > 1 else ""
        caption += f" {plural(len(found.left_out), 'instance')} left out: {first}{others}."
    figures = "\n".join(_figure(dataset, picture, heading(picture.row)) for picture in found.drawn)
    content = f'<div class="pictures">\n{figures}\n</div>' if found.drawn else '<p class="none">No picture.</p>'
    return block(f"{title} <b>{len(found.drawn)}</b>", caption, content)


def _picture(dataset: CocoDataset, row: int, box: Corners, anchor: Corners | None, files: ImageFiles) -> ObjectPicture:
    number = int(dataset.instances.image_rows[row])
    width, height = dataset.images.wh[number].tolist()
    window = window_around(box, box if anchor is None else anchor, (width, height))
    part = (max(window[0], 0), max(window[1], 0), min(window[2], width), min(window[3], height))
    crop = stretch_contrast(files.open(number)).crop(part)
    factor = min(1.0, LONGEST_PX / max(crop.size))
    crop = crop.resize((max(1, round(crop.width * factor)), max(1, round(crop.height * factor))), Image.Resampling.BOX)
    stored = io.BytesIO()
    crop.save(stored, "JPEG", quality=JPEG_QUALITY)
    return ObjectPicture(row, box, anchor, window, part, stored.getvalue())


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


def _figure(dataset: CocoDataset, picture: ObjectPicture, heading: str) -> str:
    instances, row = dataset.instances, picture.row
    name = dataset.images.file_names[int(instances.image_rows[row])]
    category = dataset.category_name(int(instances.category_ids[row]))
    (x0, y0, x1, y1), (left, top, right, bottom) = picture.part, picture.window
    anchor = "" if picture.anchor is None else f"\n{_outline(picture.anchor, ANCHOR_COLOR, dashed=True)}"
    return f"""<figure>
<svg viewBox="{left} {top} {right - left} {bottom - top}" role="img" aria-label="annotation {instances.ids[row]}">
<image x="{x0}" y="{y0}" width="{x1 - x0}" height="{y1 - y0}" preserveAspectRatio="none"
href="data:image/jpeg;base64,{base64.b64encode(picture.jpeg).decode()}"/>
{_outline(picture.box, BOX_COLOR)}{anchor}
</svg>
<figcaption>{heading}<br>
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
