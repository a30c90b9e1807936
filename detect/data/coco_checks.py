"""Checks of annotations: the usable rows, and findings about invalid and suspicious ones, with their numbers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float64, Int64
from numpy import ndarray

from detect.data.coco_columns import NO_ROW, Annotations, Images, ReadAnnotations
from detect.data.coco_entries import NO_ID, UNKNOWN_PX, Finding
from detect.data.coco_tolerance import with_odd
from detect.ops.box_arrays import ROWS_AT_ONCE, clip_boxes, row_blocks, xywh_to_xyxy, xyxy_to_xywh

Check = tuple[Bool[ndarray, " n"], Callable[[int], str]]  # whether each row fails, and the reason for a row that does
Points = tuple[Float64[ndarray, "_ 3"], ...]
ROUNDING_PX = 1e-6  # a box may exceed its image by this much through rounding; no real box is as thin
TOLD_PX = 0.01  # by less, as fractions of six digits are rounded, a box is clipped without a word
SLOTS_PER_VALUE, MOST_SLOT_BITS = 8, 24  # of hash tables of up to 64 MiB
FIBONACCI = np.uint64(0x9E3779B97F4A7C15)  # 2**64 over the golden ratio: a product with it spreads equal steps evenly


def with_point_boxes(read: ReadAnnotations, images: Images) -> ReadAnnotations:
    """Replace each box that is missing or has no size by the box of its labelled points.

    A point counts as a square of one pixel around it; the box is cut to the image. Points outside it give no box.
    """
    columns = read.columns
    width, height = columns.boxes_xywh[:, 2], columns.boxes_xywh[:, 3]
    without = ~read.has_box | ((width == 0) | (height == 0))
    boxes_xywh, has_box, from_points = columns.boxes_xywh.copy(), read.has_box.copy(), read.from_points.copy()
    image_wh = np.where(images.wh == UNKNOWN_PX, np.inf, images.wh)
    for row in np.flatnonzero(without & (columns.image_rows != NO_ROW)).tolist():
        points = (columns.keypoints or ())[row]
        xy = points[points[:, 2] > 0, :2]
        if len(xy) and np.isfinite(xy).all():
            low = np.maximum(xy.min(axis=0) - 0.5, 0)
            high = np.minimum(xy.max(axis=0) + 0.5, image_wh[columns.image_rows[row]])
            if (high > low).all():
                boxes_xywh[row], has_box[row], from_points[row] = (*low, *(high - low)), True, True
    columns = replace(columns, boxes_xywh=boxes_xywh)
    return replace(read, has_box=has_box, columns=columns, from_points=from_points)


def broken_points(keypoints: Points) -> Bool[ndarray, " n"]:
    """Whether each annotation has a labelled point that is not finite, or a visibility other than 0, 1 or 2."""
    x, y, visibility = np.concatenate([np.zeros((0, 3)), *keypoints]).T
    bad = ~np.isin(visibility, (0, 1, 2)) | ((visibility > 0) & ~(np.isfinite(x) & np.isfinite(y)))
    rows = np.repeat(np.arange(len(keypoints)), np.array([len(table) for table in keypoints], np.int64))
    return np.bincount(rows, weights=bad, minlength=len(keypoints)) > 0


def why_broken(points: Float64[ndarray, "_ 3"]) -> str:
    for number, (x, y, visibility) in enumerate(points.tolist()):
        if visibility not in {0, 1, 2}:
            return f"keypoint {number} has visibility {visibility:g}, not 0, 1 or 2"
        if visibility and not (np.isfinite(x) and np.isfinite(y)):
            return f"keypoint {number} ({x:g}, {y:g}) is not finite"
    raise ValueError("no keypoint is broken")


@np.errstate(over="ignore", invalid="ignore")  # the largest floats are checked and clipped like other numbers
def usable_rows(
    read: ReadAnnotations, images: Images, broken: set[int | None], categories: Mapping[int, str] | None
) -> tuple[Int64[ndarray, " m"], list[Finding]]:
    """The usable rows in rising order, and a finding with the first failed check for each of the others.

    ``images`` are usable, the ids in ``broken`` are of the others. If ``categories`` is None, since some file has no list of
    categories, every category is accepted.
    """
    usable, findings = [np.zeros(0, np.int64)], []
    for block in row_blocks(len(read.columns)):
        rows, invalid = _usable_in_block(read.take(block), images, broken, categories)
        usable.append(rows + block.start)
        findings += invalid
    return np.concatenate(usable), findings


def _usable_in_block(
    read: ReadAnnotations, images: Images, broken: set[int | None], categories: Mapping[int, str] | None
) -> tuple[Int64[ndarray, " m"], list[Finding]]:
    rows, boxes = read.columns, read.columns.boxes_xywh
    x, y, width, height = boxes.T  # views: copies of whole columns would dominate the time
    image_w, image_h = np.append(images.wh, [[1, 1]], axis=0).take(rows.image_rows, axis=0).T
    finite = np.isfinite(x) & np.isfinite(y) & np.isfinite(width) & np.isfinite(height)
    outside = (x > image_w - ROUNDING_PX) | (y > image_h - ROUNDING_PX)
    outside |= (x + width < ROUNDING_PX) | (y + height < ROUNDING_PX)
    named = rows.category_ids if categories is None else np.array(sorted(categories), np.int64)
    unknown_category = ~np.isin(rows.category_ids, named)

    def unknown_image(row: int) -> str:
        return "its image cannot be used" if read.image_ids[row] in broken else "no image has this id"

    def no_box(row: int) -> str:
        labelled = [] if rows.keypoints is None else rows.keypoints[row][rows.keypoints[row][:, 2] > 0, :2].tolist()
        if not labelled:
            return "it has no bbox"
        if not np.isfinite(labelled).all():
            return why_broken((rows.keypoints or ())[row])
        point = ", ".join(f"{value:g}" for value in labelled[0])
        which = f"its keypoint ({point}) lies"
        if len(labelled) > 1:
            which = f"its {len(labelled)} keypoints, the first at ({point}), lie"
        return f"{which} outside its {image_w[row]}x{image_h[row]} image"

    checks: list[Check] = [
        (rows.image_rows == NO_ROW, unknown_image),
        (unknown_category, lambda row: f"no category has the id {rows.category_ids[row]}"),
        (~read.has_box, no_box),
        (~finite, lambda row: f"bbox {_text(boxes[row])} is not finite"),
        ((width < ROUNDING_PX) | (height < ROUNDING_PX), lambda row: _not_positive(width[row], height[row])),
        (outside, lambda row: f"bbox {_text(boxes[row])} lies wholly outside its {image_w[row]}x{image_h[row]} image"),
    ]
    if (points := rows.keypoints) is not None:
        checks.append((broken_points(points), lambda row: why_broken(points[row])))
    usable, failed = apply_checks(checks, len(rows))
    return usable, [read.finding(row, with_odd(reason, read.odd[row])) for row, reason in failed]


def apply_checks(checks: Iterable[Check], num_rows: int) -> tuple[Int64[ndarray, " m"], list[tuple[int, str]]]:
    """The rows that pass every check, and each of the others with the reason of the first check that it fails."""
    passed, failed = np.ones(num_rows, bool), []
    for fails, reason in checks:
        failing = np.flatnonzero(fails & passed)
        passed[failing] = False
        failed += [(row, reason(row)) for row in failing.tolist()]
    return np.flatnonzero(passed), failed


def _not_positive(width: float, height: float) -> str:
    names = [f"{name} {value:g}" for name, value in (("width", width), ("height", height)) if value < ROUNDING_PX]
    return f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} not positive"


def in_order(annotations: Annotations, usable: Int64[ndarray, " m"]) -> Int64[ndarray, " m"]:
    """Sort usable rows by image and id; if an image has an id twice, also by all other columns."""
    image_rows, ids = annotations.image_rows[usable], annotations.ids[usable]
    later = image_rows[1:] > image_rows[:-1]
    if (later | ((image_rows[1:] == image_rows[:-1]) & (ids[1:] > ids[:-1]))).all():
        return usable
    order = usable[np.argsort(annotations.image_rows[usable], kind="stable")]
    image_rows, ids = annotations.image_rows[order], annotations.ids[order]
    if ((image_rows[1:] == image_rows[:-1]) & (ids[1:] < ids[:-1])).any():  # in few files
        order = order[np.lexsort((ids, image_rows))]
        image_rows, ids = annotations.image_rows[order], annotations.ids[order]
    if not ((image_rows[1:] == image_rows[:-1]) & (ids[1:] == ids[:-1])).any():
        return order
    numbers = (annotations.area, annotations.iscrowd, annotations.category_ids, *annotations.boxes_xywh.T[::-1])
    return order[np.lexsort((*(column[order] for column in numbers), ids, image_rows))]


@np.errstate(over="ignore", invalid="ignore")
def tidy(read: ReadAnnotations, images: Images) -> tuple[Annotations, list[Finding]]:
    """Clip boxes to their images, fill in missing areas, and list suspicious annotations."""
    boxes_xywh, area = read.columns.boxes_xywh, read.columns.area
    partly = _reaching_out(read.columns, images)
    image_wh = images.wh[read.columns.image_rows[partly]]
    boxes = xywh_to_xyxy(boxes_xywh[partly])
    inside = clip_boxes(boxes, image_wh.astype(float))
    suspicious = []
    for place in np.flatnonzero((np.abs(boxes - inside) > TOLD_PX).any(axis=1)).tolist():
        row, (image_w, image_h) = int(partly[place]), image_wh[place].tolist()
        reason = f"bbox {_text(boxes_xywh[row])} reaches outside its {image_w}x{image_h} image: clipped"
        suspicious.append(read.finding(row, reason))
    if len(partly):
        boxes_xywh = boxes_xywh.copy()
        boxes_xywh[partly] = xyxy_to_xywh(inside)
    if not np.isfinite(area).all():
        area = np.where(np.isfinite(area), area, boxes_xywh[:, 2] * boxes_xywh[:, 3])
    if read.odd.strides != (0,):  # else all are the one None
        suspicious += [read.finding(row, read.odd[row]) for row in np.flatnonzero(read.odd != None).tolist()]  # noqa: E711
    suspicious += _repeated_ids(read) + _repeated_boxes(read)
    return replace(read.columns, boxes_xywh=boxes_xywh, area=area), suspicious


def _reaching_out(annotations: Annotations, images: Images) -> Int64[ndarray, " m"]:
    """Rows whose box reaches outside its image by more than a rounding error."""
    reaching = [np.zeros(0, np.int64)]
    for block in row_blocks(len(annotations)):
        x, y, width, height = annotations.boxes_xywh[block].T
        image_w, image_h = images.wh.take(annotations.image_rows[block], axis=0).T
        outside = (x < -ROUNDING_PX) | (y < -ROUNDING_PX)
        outside |= (x + width > image_w + ROUNDING_PX) | (y + height > image_h + ROUNDING_PX)
        reaching.append(np.flatnonzero(outside) + block.start)
    return np.concatenate(reaching)


def _repeated_ids(read: ReadAnnotations) -> list[Finding]:
    ids = read.columns.ids
    repeated = rows_that_share(ids)
    times = Counter(ids[repeated].tolist())
    missing = [read.finding(row, "it has no id: kept") for row in np.flatnonzero(ids == NO_ID).tolist()]
    rows = [row for row in repeated.tolist() if ids[row] != NO_ID]
    return missing + [read.finding(row, f"its id occurs {times[int(ids[row])]} times: kept") for row in rows]


def _repeated_boxes(read: ReadAnnotations) -> list[Finding]:
    """Findings about boxes that repeat an earlier box of the image; equal weighted sums preselect the rows to compare."""
    rows = read.columns
    first: dict[tuple[float, ...], int] = {}
    findings = []
    for block in _image_blocks(rows.image_rows):
        x, y, width, height = rows.boxes_xywh[block].T
        mixed = x + math.pi * y + math.e * width + math.sqrt(2) * height + math.sqrt(3) * rows.image_rows[block]
        for row in (rows_that_share(mixed) + block.start).tolist():
            other = first.setdefault((rows.image_rows[row], *rows.boxes_xywh[row]), row)
            if other != row:
                same = rows.category_ids[other] == rows.category_ids[row]
                what = "keypoints" if read.from_points[[row, other]].all() else "box"
                reason = (
                    f"the same {what} as annotation {rows.ids[other]}{'' if same else ', of another category'}: kept"
                )
                findings.append(read.finding(row, reason))
    return findings


def _image_blocks(image_rows: Int64[ndarray, " n"]) -> Iterator[slice]:
    """Blocks of rows, sorted by image, that hold whole images."""
    start = 0
    while start < len(image_rows):
        last = image_rows[min(start + ROWS_AT_ONCE, len(image_rows)) - 1]
        end = int(np.searchsorted(image_rows, last, side="right"))
        yield slice(start, end)
        start = end


def rows_that_share(values: Int64[ndarray, " n"] | Float64[ndarray, " n"]) -> Int64[ndarray, " m"]:
    """Rows whose value occurs in another row too."""
    if (values[1:] > values[:-1]).all():  # as ids often are
        return np.zeros(0, np.int64)
    if values.dtype == np.int64 and int(values.max()) - int(values.min()) < 4 * len(values):
        places = values - values.min()
        return np.flatnonzero(np.bincount(places)[places] > 1)
    rows = _rows_of_shared_slots(values)  # few, of which the values are sorted
    ordered = np.sort(values[rows])
    return rows[np.isin(values[rows], ordered[1:][ordered[1:] == ordered[:-1]])]


def _rows_of_shared_slots(values: Int64[ndarray, " n"] | Float64[ndarray, " n"]) -> Int64[ndarray, " m"]:
    """Rows that share the slot of a hash table, among them all that share a value: a fifth of the time of sorting."""
    bits = min((SLOTS_PER_VALUE * len(values)).bit_length(), MOST_SLOT_BITS)
    slots = ((values.view(np.uint64) * FIBONACCI) >> np.uint64(64 - bits)).view(np.int64)
    rows = np.arange(len(values), dtype=np.int32)
    last = np.empty(2**bits, np.int32)
    last[slots] = rows
    is_shared = np.zeros(2**bits, bool)
    is_shared[slots[last.take(slots) != rows]] = True
    return np.flatnonzero(is_shared.take(slots))


def by_id(finding: Finding) -> tuple[int, int, str, str]:
    annotation_id = NO_ID if finding.annotation_id is None else finding.annotation_id
    image_id = NO_ID if finding.image_id is None else finding.image_id
    return annotation_id, image_id, finding.reason, finding.file


def _text(box_xywh: Float64[ndarray, " 4"]) -> str:
    return "[" + ", ".join(f"{value:g}" for value in box_xywh) + "]"
