"""Images and annotations of a dataset as columns, merged over the files it is read from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64
from numpy import ndarray

from detect.data.coco_entries import AnnotationEntries, Finding, Rows, column
from detect.errors import CocoError

NO_ROW = -1
UNIQUE = "ids must be unique over all files read together"


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
    3) arrays of x, y, visibility, or None if they were not read.
    """

    ids: Int64[ndarray, " n"]
    image_rows: Int64[ndarray, " n"]
    category_ids: Int64[ndarray, " n"]
    boxes_xywh: Float64[ndarray, "n 4"]
    iscrowd: Bool[ndarray, " n"]
    area: Float64[ndarray, " n"]
    keypoints: tuple[Float64[ndarray, "_ 3"], ...] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: Int64[ndarray, " m"] | slice) -> Annotations:
        """These rows in this order; a slice gives views."""
        columns = dict(vars(self))
        keypoints = columns.pop("keypoints")
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

    ``columns.image_rows`` is ``NO_ROW`` for an unknown image; ``shard`` is the index of the file.
    """

    files: tuple[str, ...]
    shard: Int64[ndarray, " n"]
    image_ids: Int64[ndarray, " n"]
    has_box: Bool[ndarray, " n"]
    columns: Annotations

    @classmethod
    def of(cls, shards: list[Rows], images: Images) -> ReadAnnotations:
        columns = vars(AnnotationEntries.join([rows.annotations for rows in shards])).copy()
        image_ids, has_box = columns.pop("image_ids"), columns.pop("has_box")
        shard = np.repeat(np.arange(len(shards)), [len(rows.annotations) for rows in shards])
        annotations = Annotations(image_rows=rows_of_ids(image_ids, images.ids), **columns)
        return cls(tuple(rows.file for rows in shards), shard, image_ids, has_box, annotations)

    def take(self, rows: Int64[ndarray, " m"] | slice) -> ReadAnnotations:
        columns = self.columns.take(rows)
        if columns is self.columns:
            return self
        return ReadAnnotations(self.files, self.shard[rows], self.image_ids[rows], self.has_box[rows], columns)

    def finding(self, row: int, reason: str) -> Finding:
        file = self.files[self.shard[row]]
        return Finding(file, int(self.columns.ids[row]), int(self.image_ids[row]), reason)


def rows_of_ids(ids: Int64[ndarray, " n"], sorted_ids: Int64[ndarray, " b"]) -> Int64[ndarray, " n"]:
    """The row of each id in sorted ids; ``NO_ROW`` for an unknown id."""
    rows = np.searchsorted(sorted_ids, ids)
    padded = np.append(sorted_ids, NO_ROW)
    return np.where((padded[rows] == ids) & (rows < len(sorted_ids)), rows, NO_ROW)


def merge_images(shards: list[Rows]) -> tuple[Images, list[Finding], list[Finding]]:
    """Merge the images of all shards to one row per id; also find images without a size, and those that one file repeats.

    Several shards may repeat an image.
    """
    entries = [image for rows in shards for image in rows.images]
    files = [rows.file for rows in shards for _ in rows.images]
    ids = column(entries, "id", np.int64)
    wh = np.stack([column(entries, "width", np.int64), column(entries, "height", np.int64)], axis=1)
    positive = (wh > 0).all(axis=1)
    broken = [
        Finding(files[row], None, entries[row].id, f"size {entries[row].width}x{entries[row].height} is not positive")
        for row in np.flatnonzero(~positive).tolist()
    ]
    order = np.flatnonzero(positive)[np.argsort(ids[positive], kind="stable")]
    again = np.flatnonzero(np.diff(ids[order]) == 0) + 1
    repeated = []
    for row, before in zip(order[again].tolist(), order[again - 1].tolist(), strict=True):
        if entries[row] != entries[before]:
            both = (entries[before], entries[row])
            names = " and ".join(f"{each.file_name!r} ({each.width}x{each.height})" for each in both)
            raise CocoError(f"{files[row]}: image id {entries[row].id} is both {names}: {UNIQUE}")
        if files[row] == files[before]:
            reason = "it occurs more than once in the file: kept once"
            repeated.append(Finding(files[row], None, entries[row].id, reason))
    order = np.delete(order, again)
    file_names = tuple(entries[row].file_name or "" for row in order.tolist())
    return Images(ids[order], wh[order], file_names), broken, repeated


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
