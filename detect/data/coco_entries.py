"""The entries of a COCO file: typed as they stand in it, and its annotations as columns, before anything is checked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from operator import attrgetter
from typing import Annotated, Any

import numpy as np
from jaxtyping import Bool, Float64, Int64
from msgspec import Meta, Struct
from msgspec.structs import astuple
from numpy import ndarray

from detect.errors import CocoError

NO_ID = -1


@dataclass(frozen=True, order=True)
class Finding:
    """Something wrong with one entry of a file, in words; ``annotation_id`` is None where an image is at fault."""

    file: str
    annotation_id: int | None
    image_id: int | None
    reason: str

    def __str__(self) -> str:
        own = "an annotation without a usable id" if self.annotation_id == NO_ID else f"annotation {self.annotation_id}"
        names = [] if self.annotation_id is None else [own]
        names += [] if self.image_id is None else [f"image {self.image_id}"]
        return ": ".join(filter(None, (self.file, ", ".join(names), self.reason)))


Whole = Annotated[int, Meta(ge=-(2**62), le=2**62)]  # fits the columns


class Box(Struct, array_like=True, forbid_unknown_fields=True, gc=False):
    x: float
    y: float
    width: float
    height: float


NO_BOX = Box(math.nan, math.nan, math.nan, math.nan)


class Annotation(Struct, gc=False):
    image_id: Whole
    category_id: Whole
    bbox: Box | None = None
    id: Whole = NO_ID
    iscrowd: int | bool = 0
    area: float | None = None


class KeypointAnnotation(Annotation, gc=False):
    keypoints: list[float] | None = None

    def __post_init__(self) -> None:
        if self.keypoints and len(self.keypoints) % 3:
            raise ValueError(f"keypoints has {len(self.keypoints)} numbers, not three (x, y, visibility) for each")


class Image(Struct, gc=False):
    id: Whole
    width: Whole
    height: Whole
    file_name: str | None = None


class Category(Struct, gc=False):
    id: Whole
    name: str | None = None


@dataclass(frozen=True)
class AnnotationEntries:
    """Annotations as columns. A missing area, and every number of a missing box, is NaN."""

    ids: Int64[ndarray, " n"]
    image_ids: Int64[ndarray, " n"]
    category_ids: Int64[ndarray, " n"]
    boxes_xywh: Float64[ndarray, "n 4"]
    has_box: Bool[ndarray, " n"]
    iscrowd: Bool[ndarray, " n"]
    area: Float64[ndarray, " n"]
    keypoints: tuple[Float64[ndarray, "_ 3"], ...] | None

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def of(cls, entries: Sequence[Annotation], *, keypoints: bool) -> AnnotationEntries:
        """The columns of decoded entries."""
        boxes = [entry.bbox or NO_BOX for entry in entries]
        boxes_xywh = np.fromiter(chain.from_iterable(map(astuple, boxes)), float, 4 * len(boxes)).reshape(-1, 4)
        has_box = np.ones(len(entries), bool)
        for row in np.flatnonzero(np.isnan(boxes_xywh[:, 0])).tolist():
            has_box[row] = entries[row].bbox is not None
        return cls(
            column(entries, "id", np.int64),
            column(entries, "image_id", np.int64),
            column(entries, "category_id", np.int64),
            boxes_xywh,
            has_box,
            column(entries, "iscrowd", bool),
            column(entries, "area", float),  # None becomes NaN
            tuple(map(_points, entries)) if keypoints else None,
        )

    @classmethod
    def join(cls, parts: Sequence[AnnotationEntries]) -> AnnotationEntries:
        """The rows of several, at least one, one after the other."""
        if len(parts) == 1:
            return parts[0]
        names = ("ids", "image_ids", "category_ids", "boxes_xywh", "has_box", "iscrowd", "area")
        columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
        with_points = parts[0].keypoints is not None
        return cls(
            **columns, keypoints=tuple(chain(*(part.keypoints or () for part in parts))) if with_points else None
        )


@dataclass
class Rows:
    """The readable entries of one file, and what could not be read."""

    file: str
    images: Sequence[Image]
    annotations: AnnotationEntries
    categories: Sequence[Category] | None
    faults: list[Finding] = field(default_factory=list)


def column(entries: Sequence[Any], name: str, dtype: type) -> Any:
    """One field of all entries."""
    return np.array(list(map(attrgetter(name), entries)), dtype)


def _points(entry: Annotation) -> Float64[ndarray, "j 3"]:
    return np.array(getattr(entry, "keypoints", None) or [], float).reshape(-1, 3)


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
