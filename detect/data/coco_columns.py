"""Images and annotations of a dataset as columns, merged over the files it is read from."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

import numpy as np
from jaxtyping import Bool, Float64, Int64
from numpy import ndarray

from detect.data.coco_entries import AnnotationEntries, Finding, Image, Rows, column
from detect.errors import CocoError

NO_ROW = -1


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
    file's value in square pixels (for masks, the mask's area), or width * height if the file has none. ``keypoints`` are
    (j, 3) arrays of x, y, visibility, or None if they were not read.
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
        """Concatenate the annotations of all shards."""
        entries = AnnotationEntries.join([rows.annotations for rows in shards])
        columns = Annotations(
            entries.ids,
            rows_of_ids(entries.image_ids, images.ids),
            entries.category_ids,
            entries.boxes_xywh,
            entries.iscrowd,
            entries.area,
            entries.keypoints,
        )
        shard = np.repeat(np.arange(len(shards)), [len(rows.annotations) for rows in shards])
        return cls(tuple(rows.file for rows in shards), shard, entries.image_ids, entries.has_box, columns)

    def take(self, rows: Int64[ndarray, " m"] | slice) -> ReadAnnotations:
        """These rows in this order; a slice gives views."""
        if not isinstance(rows, slice) and _is_every_row(rows, len(self.columns)):
            return self
        return ReadAnnotations(
            self.files, self.shard[rows], self.image_ids[rows], self.has_box[rows], self.columns.take(rows)
        )

    def finding(self, row: int, reason: str) -> Finding:
        """Make a finding about one row."""
        file = self.files[self.shard[row]]
        return Finding(file, int(self.columns.ids[row]), int(self.image_ids[row]), reason)


def _is_every_row(rows: Int64[ndarray, " m"], count: int) -> bool:
    """Whether the rows are all rows in order, as for most files: then nothing needs to be copied."""
    return len(rows) == count and bool((rows == np.arange(count)).all())


def rows_of_ids(ids: Int64[ndarray, " n"], sorted_ids: Int64[ndarray, " b"]) -> Int64[ndarray, " n"]:
    """The row of each id in sorted ids; ``NO_ROW`` for an unknown id."""
    rows = np.searchsorted(sorted_ids, ids)
    padded = np.append(sorted_ids, NO_ROW)
    return np.where((padded[rows] == ids) & (rows < len(sorted_ids)), rows, NO_ROW)


def merge_images(shards: list[Rows]) -> tuple[Images, list[Finding], list[Finding]]:
    """Merge the images of all shards to one row per id.

    Several shards may repeat an image, but two different images may not have the same id.

    Returns:
        The images, findings about images without a positive size, and findings about images that one file repeats.

    Raises:
        CocoError: two images differ and have the same id.
    """
    entries = [image for rows in shards for image in rows.images]
    files = list(chain.from_iterable([rows.file] * len(rows.images) for rows in shards))
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
        _require_same(entries[row], entries[before], files[row])
        if files[row] == files[before]:
            reason = "it occurs more than once in the file: kept once"
            repeated.append(Finding(files[row], None, entries[row].id, reason))
    order = np.delete(order, again)
    names = tuple(entries[row].file_name or "" for row in order.tolist())
    return Images(ids[order], wh[order], names), broken, repeated


def _require_same(image: Image, other: Image, file: str) -> None:
    if (image.width, image.height, image.file_name) != (other.width, other.height, other.file_name):
        raise CocoError(
            f"{file}: image id {image.id} is both {other.file_name!r} ({other.width}x{other.height}) and "
            f"{image.file_name!r} ({image.width}x{image.height}): ids must be unique over all files read together"
        )


def merge_categories(shards: list[Rows]) -> dict[int, str]:
    """Merge the categories of all shards to names by id, in the order of ids.

    Raises:
        CocoError: two categories have the same id and different names.
    """
    names: dict[int, str] = {}
    for rows in shards:
        for category in rows.categories or ():
            name = names.setdefault(category.id, category.name or "")
            if name != (category.name or ""):
                raise CocoError(
                    f"{rows.file}: category id {category.id} is both {name!r} and {category.name!r}: "
                    f"ids must be unique over all files read together"
                )
    return dict(sorted(names.items()))
