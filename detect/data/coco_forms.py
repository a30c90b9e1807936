"""The forms of boxes in COCO files, and signs that a whole file has another form than the one it is read in.

COCO's boxes are x, y, width, height in pixels. Files with boxes of another form, or with wrong sizes of images, are read
without an error. What gives them away is the share of boxes that fit their image in one form but not in another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import numpy as np
from jaxtyping import Bool, Float64, Int64
from numpy import ndarray

from detect.data.coco_columns import NO_ROW, Images, ReadAnnotations
from detect.data.coco_entries import UNKNOWN_PX, BoxForm
from detect.errors import CocoError

NAMES = {
    "xywh": "(x, y, width, height)",
    "xyxy": "(x0, y0, x1, y1)",
    "cxcywh": "(centre x, centre y, width, height)",
    "normalised": "(x, y, width, height) from 0 to 1",
    "normalised-xyxy": "(x0, y0, x1, y1) from 0 to 1",
    "normalised-cxcywh": "(centre x, centre y, width, height) from 0 to 1",
}
LOOKED_AT = 10_000  # boxes at most, evenly spaced
MIN_MISFITS = 5  # boxes that do not fit, below which nothing is said
MIN_SHARE = 0.01  # the same as a share: TACO has .15 %
EXPLAINED = 0.05  # share of the misfits that another form may leave
STILL_OUTSIDE = 0.25  # of the points outside, that may be so with x and y exchanged too
NONSENSE_SHARE = 0.2  # of misfits that no form explains
MIN_AGREEMENT = 0.8  # by which areas agree with a form more than with the one read
LARGEST_NORMALISED = 1.5  # normalised boxes may reach a little outside their image
TINY_PX = 4  # no image is as small
SLACK_PX, SLACK_SHARE = 1.0, 0.01  # by which a box may reach out and still fit

Boxes = Float64[ndarray, "n 4"]
Sizes = Float64[ndarray, "n 2"]


def boxes_to_xywh(boxes: Boxes, image_wh: Sizes, form: BoxForm) -> Boxes:
    """Convert boxes of a form to (x, y, width, height) in pixels; ``image_wh`` is the size of each box's image.

    >>> boxes_to_xywh(np.array([[0.5, 0.5, 0.2, 0.1]]), np.array([[100.0, 50.0]]), "normalised-cxcywh")
    array([[40. , 22.5, 20. ,  5. ]])
    """
    if form.startswith("normalised"):
        boxes = boxes * np.tile(image_wh, 2)
    first, second = boxes[:, :2], boxes[:, 2:]
    if form.endswith("cxcywh"):
        first = first - second / 2
    elif form.endswith("xyxy"):
        second = second - first
    return np.concatenate([first, second], axis=1)


@np.errstate(over="ignore", invalid="ignore")  # boxes that are not finite are found later
def boxes_in_pixels(read: ReadAnnotations, images: Images, form: BoxForm) -> Boxes:
    """The boxes of annotations as (x, y, width, height) in pixels of their images."""
    image_wh = np.append(images.wh, [[1, 1]], axis=0)[read.columns.image_rows]  # any for an unknown image
    return boxes_to_xywh(read.columns.boxes_xywh, image_wh.astype(float), form)


def check_form(form: str) -> None:
    """Raise CocoError for an unknown form."""
    if form not in get_args(BoxForm):
        raise CocoError(f"bbox {form!r} is not one of {', '.join(get_args(BoxForm))}")


@np.errstate(over="ignore", invalid="ignore")  # the largest floats fit no image
def suspect_form(read: ReadAnnotations, images: Images, form: BoxForm) -> str | None:
    """Say what the boxes look like, and which option reads them so; None if they fit their images as they are read.

    Args:
        read: annotations with the boxes of the file, unconverted.
        images: their images; those of unknown size say nothing, except about normalised boxes.
        form: the form in which the boxes are read.
    """
    rows = slice(None, None, -(-len(read.columns) // LOOKED_AT) or 1)
    boxes, image_rows, area = (getattr(read.columns, name)[rows] for name in ("boxes_xywh", "image_rows", "area"))
    image_wh = np.append(images.wh, [[UNKNOWN_PX] * 2], axis=0)[image_rows].astype(float)
    usable = read.has_box[rows] & (image_rows != NO_ROW) & np.isfinite(boxes).all(axis=1)
    looked = _Looked(boxes, image_wh, area, image_rows).take(usable)
    known = looked.take((looked.image_wh != UNKNOWN_PX).all(axis=1))
    if looked.are_normalised:
        return _among_normalised(looked, form)
    return _among_pixels(known, images, form) if len(known.boxes) else None


def exchanged_points(read: ReadAnnotations, images: Images) -> tuple[str, ...]:
    """A warning if labelled points lie outside their images and nearly all would lie inside with x and y exchanged."""
    rows = np.flatnonzero(read.columns.image_rows != NO_ROW)
    tables = [(read.columns.keypoints or ())[row] for row in rows.tolist()]
    points = np.concatenate([np.zeros((0, 3)), *tables])
    image_wh = np.repeat(images.wh[read.columns.image_rows[rows]], [len(table) for table in tables], axis=0)
    known = (points[:, 2] > 0) & (image_wh != UNKNOWN_PX).all(axis=1) & np.isfinite(points).all(axis=1)
    xy, image_wh = points[known, :2], image_wh[known]
    # in either convention of pixels
    outside, exchanged = (int(((each < -0.5) | (each > image_wh)).any(axis=1).sum()) for each in (xy, xy[:, ::-1]))
    if outside <= max(1, MIN_SHARE * len(xy)) or exchanged > STILL_OUTSIDE * outside:
        return ()
    count = f"{outside:,} of {len(xy):,} labelled points lie outside their images"
    exchange = f"{exchanged or 'none'} of them if x and y are exchanged: correct the file"
    return (f"{', '.join(read.files)}: labels swap x and y? {count}, {exchange}",)


@dataclass(frozen=True)
class _Looked:
    """The boxes that are looked at, in the form of the file, with the size and the row of each one's image."""

    boxes: Boxes
    image_wh: Sizes
    area: Float64[ndarray, " n"]
    image_rows: Int64[ndarray, " n"]

    def take(self, rows: Bool[ndarray, " n"]) -> _Looked:
        return self if rows.all() else _Looked(*(column[rows] for column in vars(self).values()))

    @property
    def are_normalised(self) -> bool:
        """Whether nearly all numbers are those of normalised boxes: fractions, on images of more than a few pixels."""
        small = (np.abs(self.boxes) <= LARGEST_NORMALISED).all(axis=1)
        if not len(small) or small.mean() <= 1 - MIN_SHARE:
            return False
        fractions = (self.boxes % 1 != 0).any(axis=1)
        on_images = (self.image_wh > TINY_PX).any(axis=1) | (self.image_wh == UNKNOWN_PX).any(axis=1)
        return bool((fractions & on_images).mean() > 0.5)

    def misfits(self, form: BoxForm) -> Bool[ndarray, " n"]:
        """Whether each box of a form reaches outside its image, or has no size."""
        return _reach_out(boxes_to_xywh(self.boxes, self.image_wh, form), self.image_wh)

    def misfits_if_swapped(self) -> Bool[ndarray, " n"]:
        """The same with width and height exchanged in each image that then holds all its boxes, and does not as it is."""
        own, swapped = self.misfits("xywh"), _reach_out(self.boxes, self.image_wh[:, ::-1])
        num_images = self.image_rows.max() + 1
        any_own, any_swapped = (np.bincount(self.image_rows, each, num_images) > 0 for each in (own, swapped))
        return np.where((any_own & ~any_swapped)[self.image_rows], swapped, own)

    def agreement(self, form: BoxForm) -> float:
        """Share of boxes whose area is width * height in this form; 0 without areas."""
        _, _, width, height = boxes_to_xywh(self.boxes, self.image_wh, form).T
        area = width * height  # a product over a short last axis is several times slower
        return float((np.abs(self.area - area) <= 1 + SLACK_SHARE * np.abs(area)).mean())


def _among_normalised(looked: _Looked, form: BoxForm) -> str | None:
    """Boxes whose numbers lie from 0 to 1: which of three forms fits best."""
    unit = _Looked(looked.boxes, np.ones_like(looked.image_wh), looked.area, looked.image_rows)
    boxes = {each: boxes_to_xywh(unit.boxes, unit.image_wh, each) for each in get_args(BoxForm)[3:]}
    misfits = {each: _reach_out(own, unit.image_wh, SLACK_SHARE).mean() for each, own in boxes.items()}
    best: BoxForm = min(misfits, key=lambda each: misfits[each] if misfits[each] >= MIN_SHARE else 0.0)
    if form == best or (form in misfits and misfits[form] < MIN_SHARE):
        return None
    return _looks_like(
        best, f"nearly all numbers of {len(unit.boxes):,} boxes looked at lie from 0 to {LARGEST_NORMALISED}"
    )


def _among_pixels(looked: _Looked, images: Images, form: BoxForm) -> str | None:
    """Boxes in pixels: whether another form, or exchanged sides of images, explain nearly all misfits."""
    num_boxes, own = len(looked.boxes), int(looked.misfits(form).sum())
    misfits: dict[BoxForm, int] = {
        each: int(looked.misfits(each).sum()) for each in get_args(BoxForm)[:3] if each != form
    }
    best = min(misfits, key=misfits.__getitem__)
    allowed = EXPLAINED * own if own >= max(MIN_MISFITS, MIN_SHARE * num_boxes) else -1.0
    swapped = int(looked.misfits_if_swapped().sum()) if form == "xywh" and allowed >= 0 else num_boxes
    by_area = looked.agreement(best) - looked.agreement(form) > MIN_AGREEMENT and misfits[best] <= MIN_SHARE * num_boxes
    misfit = f"{_share(own, num_boxes)} of {num_boxes:,} boxes looked at do not fit their images"
    if misfits[best] <= min(allowed, swapped) or (by_area and num_boxes >= MIN_MISFITS):
        area = ", and area agrees with that" if by_area else ""
        return _looks_like(
            best, f"{misfit} as {NAMES[form]}, {_share(misfits[best], num_boxes)} as {NAMES[best]}{area}"
        )
    if swapped <= allowed:
        exchanged = f"{_share(swapped, num_boxes)} if the two are exchanged: correct the file"
        return f"labels swap x and y, or images width and height? {misfit}, {exchanged}"
    return _nonsense(images, own, num_boxes)


def _nonsense(images: Images, misfits: int, num_boxes: int) -> str | None:
    """What to say of sizes that no form of the boxes explains."""
    is_known = images.wh != UNKNOWN_PX
    known = images.wh if is_known.all() else images.wh[is_known.all(axis=1)]
    tiny = int(known.max()) <= TINY_PX and num_boxes >= MIN_MISFITS
    if not tiny and misfits < max(MIN_MISFITS, NONSENSE_SHARE * num_boxes):
        return None
    misfit = f"{_share(misfits, num_boxes)} of {num_boxes:,} boxes looked at do not fit their images"
    if (known == known[0]).all():
        sizes = f"all {len(known):,} are {known[0, 0]}x{known[0, 1]} pixels"
        return f"the sizes of images look wrong: {sizes}, and {misfit}: correct them in the file"
    return f"boxes and sizes of images do not belong together: {misfit} in any form: correct the file"


def _reach_out(boxes_xywh: Boxes, image_wh: Sizes, slack_px: float = SLACK_PX) -> Bool[ndarray, " n"]:
    slack = np.maximum(slack_px, SLACK_SHARE * image_wh)
    low, size = boxes_xywh[:, :2], boxes_xywh[:, 2:]
    x, y = ((low < -slack) | (low + size > image_wh + slack) | (size <= 0)).T
    return x | y


def _looks_like(form: BoxForm, evidence: str) -> str:
    ways = f"--bbox {form}, or data.bbox={form} of a run, reads them so"
    return f"bbox looks like {NAMES[form]}: {evidence}; {ways}"


def _share(count: int, total: int) -> str:
    if not count:
        return "none"
    percent = 100 * count / total
    return f"{percent:.0f} %" if percent >= 10 else f"{percent:.2g} %"
