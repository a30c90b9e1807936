"""COCO rows to columns, merged over shards, before anything is checked."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

import numpy as np
from jaxtyping import Bool, Float64, Int64
from numpy import ndarray

from detect.coco.entries import AnnotationEntries, Finding, Rows, column
from detect.errors import CocoError

NO_ROW = -1


@dataclass(frozen=True)
class Images:
    """Columns over images, sorted by id."""

    ids: Int64[ndarray, " b"]
    wh: Int64[ndarray, "b 2"]
    file_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Annotations:
    """Columns over boxes, sorted by image id, then annotation id. ``image_rows`` index the columns of :class:`Images`.

    ``area`` is the file's own, in square pixels of the image (of the mask, where there is one), or width * height where
    it gives none. ``keypoints`` holds (j, 3) arrays of x, y, visibility, when they were asked for.
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
        """These rows, in this order; of a slice, views."""
        keypoints = self.keypoints
        if isinstance(rows, slice):
            keypoints = keypoints and keypoints[rows]
        elif _is_every_row(rows, len(self)):
            return self
        elif keypoints is not None:
            keypoints = tuple(keypoints[row] for row in rows.tolist())
        return Annotations(
            self.ids[rows],
            self.image_rows[rows],
            self.category_ids[rows],
            self.boxes_xywh[rows],
            self.iscrowd[rows],
            self.area[rows],
            keypoints,
        )


@dataclass(frozen=True)
class ReadAnnotations:
    """All readable annotations before any check, with what messages need; ``image_rows`` is -1 for an unknown image."""

    files: tuple[str, ...]
    shard: Int64[ndarray, " n"]
    image_ids: Int64[ndarray, " n"]
    has_box: Bool[ndarray, " n"]
    columns: Annotations

    @classmethod
    def of(cls, shards: list[Rows], images: Images) -> ReadAnnotations:
        """The annotations of all shards, one after the other."""
        entries = AnnotationEntries.join([rows.annotations for rows in shards])
        columns = Annotations(
            entries.ids,
            _rows_of(entries.image_ids, images.ids),
            entries.category_ids,
            entries.boxes_xywh,
            entries.iscrowd,
            entries.area,
            entries.keypoints,
        )
        shard = np.repeat(np.arange(len(shards)), [len(rows.annotations) for rows in shards])
        return cls(tuple(rows.file for rows in shards), shard, entries.image_ids, entries.has_box, columns)

    def take(self, rows: Int64[ndarray, " m"] | slice) -> ReadAnnotations:
        """These rows, in this order; of a slice, views."""
        if not isinstance(rows, slice) and _is_every_row(rows, len(self.columns)):
            return self
        return ReadAnnotations(
            self.files, self.shard[rows], self.image_ids[rows], self.has_box[rows], self.columns.take(rows)
        )

    def finding(self, row: int, reason: str) -> Finding:
        """A finding about one row."""
        file = self.files[self.shard[row]]
        return Finding(file, int(self.columns.ids[row]), int(self.image_ids[row]), reason)


def _is_every_row(rows: Int64[ndarray, " m"], count: int) -> bool:
    """Whether nothing is left out or moved, as in most files: then there is nothing to copy."""
    return len(rows) == count and bool((rows == np.arange(count)).all())


def _rows_of(ids: Int64[ndarray, " n"], sorted_ids: Int64[ndarray, " b"]) -> Int64[ndarray, " n"]:
    rows = np.searchsorted(sorted_ids, ids)
    padded = np.append(sorted_ids, NO_ROW)
    return np.where((padded[rows] == ids) & (rows < len(sorted_ids)), rows, NO_ROW)


def merge_images(shards: list[Rows]) -> tuple[Images, list[Finding], list[Finding]]:
    """One row for each image, those that are broken, and those that a file repeats.

    The same image may stand in several shards, but two images may not share an id.
    """
    entries = [image for rows in shards for image in rows.images]
    files = list(chain.from_iterable([rows.file] * len(rows.images) for rows in shards))
    ids = column(entries, "id", np.int64)
    wh = np.stack([column(entries, "width", np.int64), column(entries, "height", np.int64)], axis=1)
    positive = (wh > 0).all(axis=1)
    broken = []
    for row in np.flatnonzero(~positive):
        image = entries[row]
        broken.append(Finding(files[row], None, image.id, f"size {image.width}x{image.height} is not positive"))
    order = np.flatnonzero(positive)[np.argsort(ids[positive], kind="stable")]
    again = np.flatnonzero(np.diff(ids[order]) == 0) + 1
    repeated = []
    for row, before in zip(order[again], order[again - 1], strict=True):
        image, other = entries[row], entries[before]
        if (image.width, image.height, image.file_name) != (other.width, other.height, other.file_name):
            raise CocoError(
                f"{files[row]}: image id {image.id} stands for {other.file_name!r} ({other.width}x{other.height}) and for "
                f"{image.file_name!r} ({image.width}x{image.height}): ids must be unique over all files read together"
            )
        if files[row] == files[before]:
            repeated.append(Finding(files[row], None, image.id, "it stands more than once in the file: kept once"))
    order = np.delete(order, again)
    return (
        Images(ids[order], wh[order], tuple(entries[row].file_name or "" for row in order.tolist())),
        broken,
        repeated,
    )


def merge_categories(shards: list[Rows]) -> dict[int, str]:
    """Names by id, in order of ids; an id may stand for one name only."""
    names: dict[int, str] = {}
    for rows in shards:
        for category in rows.categories or ():
            name = names.setdefault(category.id, category.name or "")
            if name != (category.name or ""):
                raise CocoError(
                    f"{rows.file}: category id {category.id} stands for {name!r} and for {category.name!r}: "
                    f"ids must be unique over all files read together"
                )
    return dict(sorted(names.items()))
