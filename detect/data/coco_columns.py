"""Images and annotations of a dataset as columns, merged over the files it is read from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np
from jaxtyping import Bool, Float64, Int64, Shaped
from msgspec.structs import astuple
from numpy import ndarray

from detect.data.coco_entries import ANGLE_FIELDS, UNKNOWN_PX, AnnotationEntries, Finding, ImageEntries, Rows
from detect.errors import CocoError

NO_ROW = -1
UNIQUE = "ids must be unique over all files read together"
LARGEST_EXTENT_PX = 2**31


@dataclass(frozen=True)
class Images:
    """Columns over images, sorted by id; ``wh`` is (width, height) in pixels."""

    ids: Int64[ndarray, " b"]
    wh: Int64[ndarray, "b 2"]
    file_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Annotations:
    """Columns over annotations, sorted by image id, then annotation id.

    ``image_rows`` are rows of :class:`Images`. Boxes are (x, y, width, height) in pixels of the image. ``area`` is the
    file's value in square pixels (for masks, the mask's area), or width * height if the file has none. ``keypoints`` are (j,
    3) arrays of x, y, visibility, or None if they were not read. ``angles_deg`` are degrees clockwise on screen, 0 to the
    right, NaN where unknown; None if they were not read or no annotation has one.
    """

    ids: Int64[ndarray, " n"]
    image_rows: Int64[ndarray, " n"]
    category_ids: Int64[ndarray, " n"]
    boxes_xywh: Float64[ndarray, "n 4"]
    iscrowd: Bool[ndarray, " n"]
    area: Float64[ndarray, " n"]
    keypoints: tuple[Float64[ndarray, "_ 3"], ...] | None = None
    angles_deg: Float64[ndarray, " n"] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: Int64[ndarray, " m"] | slice) -> Annotations:
        """These rows in this order; a slice gives views."""
        columns = {name: column for name, column in vars(self).items() if column is not None}
        keypoints = columns.pop("keypoints", None)
        if isinstance(rows, slice):
            keypoints = keypoints and keypoints[rows]
        elif len(rows) == len(self) and (rows == np.arange(len(self))).all():
            return self  # all rows in order, as for most files: nothing needs to be copied
        elif keypoints is not None:
            keypoints = tuple(keypoints[row] for row in rows.tolist())
        return Annotations(**{name: column[rows] for name, column in columns.items()}, keypoints=keypoints)


@dataclass(frozen=True)
class ReadAnnotations:
    """All readable annotations before any check, with their file and image id for messages.

    ``columns.image_rows`` is ``NO_ROW`` for an unknown image; ``shard`` is the index of the file; ``odd`` says what is
    suspicious about an annotation, or is None; ``from_points`` tells the boxes that are those of an annotation's keypoints;
    ``angle_fields`` are those of ``ANGLE_FIELDS`` that some annotation has, the first being the one that is read.
    """

    files: tuple[str, ...]
    shard: Int64[ndarray, " n"]
    image_ids: Int64[ndarray, " n"]
    has_box: Bool[ndarray, " n"]
    odd: Shaped[ndarray, " n"]
    columns: Annotations
    from_points: Bool[ndarray, " n"]
    angle_fields: tuple[str, ...] = ()

    @classmethod
    def of(cls, shards: list[Rows], images: Images) -> ReadAnnotations:
        columns = vars(AnnotationEntries.join([rows.annotations for rows in shards])).copy()
        image_ids, has_box = columns.pop("image_ids"), columns.pop("has_box")
        angles_deg, angle_fields = _first_angles(columns.pop("angles_deg"))
        shard = np.repeat(np.arange(len(shards)), [len(rows.annotations) for rows in shards])
        annotations = Annotations(image_rows=rows_of_ids(image_ids, images.ids), angles_deg=angles_deg, **columns)
        odd = np.broadcast_to(np.array(None, object), shard.shape)  # takes no memory
        odd = odd.copy() if any(rows.odd for rows in shards) else odd
        for start, rows in _starts(shards):
            for row, reason in rows.odd.items():
                odd[start + row] = reason
        from_points = np.zeros(len(shard), bool)
        files = tuple(rows.file for rows in shards)
        return cls(files, shard, image_ids, has_box, odd, annotations, from_points, angle_fields)

    def take(self, rows: Int64[ndarray, " m"] | slice) -> ReadAnnotations:
        columns = self.columns.take(rows)
        if columns is self.columns:
            return self
        odd = self.odd[rows] if any(self.odd.strides) else np.broadcast_to(self.odd[:1], len(columns))
        own = (self.shard[rows], self.image_ids[rows], self.has_box[rows], odd)
        return ReadAnnotations(self.files, *own, columns, self.from_points[rows], self.angle_fields)

    def finding(self, row: int, reason: str) -> Finding:
        file = self.files[self.shard[row]]
        return Finding(file, int(self.columns.ids[row]), int(self.image_ids[row]), reason)


def _first_angles(
    table: Float64[ndarray, "n f"] | None,
) -> tuple[Float64[ndarray, " n"] | None, tuple[str, ...]]:
    """The angles of the first field that some annotation has, and the names of all fields that some have."""
    has_any = np.zeros(len(ANGLE_FIELDS), bool) if table is None else np.isfinite(table).any(axis=0)
    fields = tuple(name for name, has in zip(ANGLE_FIELDS, has_any.tolist(), strict=True) if has)
    if table is None or not fields:
        return None, ()
    return table[:, ANGLE_FIELDS.index(fields[0])], fields


def with_outline_boxes(read: ReadAnnotations, shards: list[Rows]) -> ReadAnnotations:
    """Fill in the boxes of segmentations, for annotations without a box of their own."""
    outlines = {start + row: astuple(box) for start, rows in _starts(shards) for row, box in rows.outlines.items()}
    if not outlines:
        return read
    boxes_xywh, has_box, rows = read.columns.boxes_xywh.copy(), read.has_box.copy(), list(outlines)
    boxes_xywh[rows], has_box[rows] = list(outlines.values()), True
    return replace(read, has_box=has_box, columns=replace(read.columns, boxes_xywh=boxes_xywh))


def _starts(shards: list[Rows]) -> Iterator[tuple[int, Rows]]:
    """Each shard with the row of its first annotation among those of all shards."""
    lengths = [len(rows.annotations) for rows in shards]
    return zip(accumulate(lengths, initial=0), shards, strict=False)


def rows_of_ids(ids: Int64[ndarray, " n"], sorted_ids: Int64[ndarray, " b"]) -> Int64[ndarray, " n"]:
    """The row of each id in sorted ids; ``NO_ROW`` for an unknown id. Each run of equal ids is searched for once."""
    starts = np.flatnonzero(np.concatenate([np.ones(len(ids[:1]), bool), ids[1:] != ids[:-1]]))
    own = ids[starts]
    rows = np.searchsorted(sorted_ids, own)
    padded = np.append(sorted_ids, NO_ROW)
    found = np.where((padded[rows] == own) & (rows < len(sorted_ids)), rows, NO_ROW)
    return np.repeat(found, np.diff(starts, append=len(ids)))


def merge_images(shards: list[Rows]) -> tuple[Images, list[Finding]]:
    """Merge the images of all shards to one row per id; also find images of unknown size, and those that one file repeats.

    Several shards may repeat an image. An unknown width or height is ``UNKNOWN_PX``.
    """
    entries = ImageEntries.join([ImageEntries.of(rows.images) for rows in shards])
    ids, wh = entries.ids, entries.wh
    if (wh == UNKNOWN_PX).any():
        wh = np.where((wh == UNKNOWN_PX).any(axis=1)[:, None], UNKNOWN_PX, wh)
    named = tuple(filter(None, entries.file_names))
    if len(named) == len(ids) and (ids[1:] > ids[:-1]).all() and (wh != UNKNOWN_PX).all():
        return Images(ids, wh, named), []  # as of most files: nothing to sort or tell
    order = np.argsort(ids, kind="stable")
    again = np.flatnonzero(np.diff(ids[order]) == 0) + 1
    shard = np.repeat(np.arange(len(shards)), [len(rows.images) for rows in shards])
    suspicious = []
    for row, before in zip(order[again].tolist(), order[again - 1].tolist(), strict=True):
        file, image, first = shards[shard[row]].file, entries[row], entries[before]
        if image != first:
            names = " and ".join(f"{each.file_name!r} ({each.width}x{each.height})" for each in (first, image))
            raise CocoError(f"{file}: image id {image.id} is both {names}: {UNIQUE}")
        if shard[row] == shard[before]:
            suspicious.append(Finding(file, None, image.id, "it occurs more than once in the file: kept once"))
    order = np.delete(order, again)
    unsized = order[(wh[order] == UNKNOWN_PX).any(axis=1)].tolist()
    for row in unsized:
        missing = [name for name, side in zip(("width", "height"), entries.wh[row], strict=True) if side == UNKNOWN_PX]
        reason = f"it has no {' and '.join(missing)}: taken as the extent of its boxes"
        suspicious.append(Finding(shards[shard[row]].file, None, int(ids[row]), reason))
    own_names = list(map(entries.file_names.__getitem__, order.tolist()))
    file_names = tuple(name or "" for name in own_names)
    return Images(ids[order], wh[order], file_names), suspicious


@np.errstate(over="ignore")  # the largest floats are cut to the largest extent
def with_extents(images: Images, read: ReadAnnotations) -> Images:
    """Give each image of unknown size the extent of its boxes: whole pixels, 1 or more."""
    unknown = np.flatnonzero((images.wh == UNKNOWN_PX).any(axis=1))
    if not len(unknown):
        return images
    columns = read.columns
    known = read.has_box & (columns.image_rows != NO_ROW) & np.isfinite(columns.boxes_xywh).all(axis=1)
    ends = columns.boxes_xywh[known, :2] + columns.boxes_xywh[known, 2:]
    ends = np.where(
        read.from_points[known, None], np.floor(ends) + 1, np.ceil(ends)
    )  # a point may lie on its box's edge
    extents = np.ones((len(images), 2), np.int64)
    np.maximum.at(extents, columns.image_rows[known], np.clip(ends, 1, LARGEST_EXTENT_PX).astype(np.int64))
    wh = images.wh.copy()
    wh[unknown] = extents[unknown]
    return replace(images, wh=wh)


def merge_keypoint_names(shards: list[Rows]) -> dict[int, tuple[str, ...]]:
    """Merge the names of keypoints of all shards, by category id."""
    names: dict[int, tuple[str, ...]] = {}
    for rows in shards:
        for category in rows.categories or ():
            own = tuple(category.keypoints or ())
            if own and names.setdefault(category.id, own) != own:
                both = f"{list(names[category.id])} and {list(own)}"
                raise CocoError(f"{rows.file}: category id {category.id} has the keypoints {both}: {UNIQUE}")
    return names


def merge_categories(shards: list[Rows]) -> dict[int, str]:
    """Merge the categories of all shards to names by id, in the order of ids."""
    names: dict[int, str] = {}
    for rows in shards:
        for category in rows.categories or ():
            name = names.setdefault(category.id, category.name or "")
            if name != (category.name or ""):
                both = f"{name!r} and {category.name!r}"
                raise CocoError(f"{rows.file}: category id {category.id} is both {both}: {UNIQUE}")
    return dict(sorted(names.items()))
