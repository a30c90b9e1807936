"""COCO annotations as columns: what can be used, what is odd about it, and what cannot be used, by id and reason.

The only module that opens annotation files. Boxes are (x, y, width, height) in pixels of their own image.
"""

from __future__ import annotations

import glob
import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from operator import attrgetter
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float64, Int64
from msgspec.structs import astuple
from numpy import ndarray

from detect.boxes import clip_boxes, xywh_to_xyxy, xyxy_to_xywh
from detect.coco_json import NO_ID, Annotation, Box, Finding, Progress, Rows, read_rows, rows_from_object
from detect.errors import CocoError

if TYPE_CHECKING:
    from pycocotools.coco import COCO

IN_MEMORY = "(in memory)"
NO_ROW = -1
_NO_BOX = Box(math.nan, math.nan, math.nan, math.nan)
FLOAT_NOISE_PX = 1e-6  # x + width of a box that ends at the image's edge may pass it by a rounding error


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

    def take(self, rows: Int64[ndarray, " m"]) -> Annotations:
        """These rows, in this order."""
        keypoints = None if self.keypoints is None else tuple(self.keypoints[row] for row in rows)
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
class CocoDataset:
    """Usable annotations as columns, and everything that was said about the rest.

    The order of rows depends only on what is read, not on the order of files or entries: images by id; annotations by
    image id, annotation id, then box.
    """

    images: Images
    annotations: Annotations
    categories: Mapping[int, str]
    refused: tuple[Finding, ...]
    """Entries that cannot be used, each with its id and the reason."""
    odd: tuple[Finding, ...]
    """Entries that are used, though something about them is not as it should be."""
    files: tuple[str, ...]

    @cached_property
    def instances(self) -> Annotations:
        """The annotations of single objects."""
        return self.annotations.take(np.flatnonzero(~self.annotations.iscrowd))

    @cached_property
    def crowd(self) -> Annotations:
        """The regions that stand for many objects (``iscrowd``): to be ignored, not to be fitted or matched."""
        return self.annotations.take(np.flatnonzero(self.annotations.iscrowd))

    def category_name(self, category_id: int) -> str:
        """The file's name for a category, or one made of its id where the file has none."""
        return self.categories.get(category_id) or f"category {category_id}"


def read_coco(
    source: str | Path | Mapping[str, Any] | COCO | Iterable[str | Path],
    *,
    keypoints: bool = False,
    strict: bool = False,
    progress: Progress | None = None,
) -> CocoDataset:
    """Read COCO annotations into columns.

    Args:
        source: a path (``.json`` or ``.json.gz``), a glob pattern, several of them (shards of one dataset), a COCO
            structure in memory, or a ``pycocotools.coco.COCO``.
        keypoints: read the keypoints column too.
        strict: make the first annotation that cannot be used an error, instead of listing it in ``refused``.
        progress: called as ``progress(what, done, total)`` while files are read.

    Raises:
        CocoError: a file is not there or not COCO, two files disagree about an image, or (strict) an annotation
            cannot be used. The message names the file, the id and the reason.

    >>> dataset = read_coco({
    ...     "images": [{"id": 1, "width": 640, "height": 480, "file_name": "a.jpg"}],
    ...     "categories": [{"id": 1, "name": "cell"}],
    ...     "annotations": [
    ...         {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 20, 30, 40]},
    ...         {"id": 2, "image_id": 1, "category_id": 1, "bbox": [10, 20, 0, 40]},
    ...     ],
    ... })
    >>> dataset.instances.boxes_xywh
    array([[10., 20., 30., 40.]])
    >>> print(dataset.refused[0])
    (in memory): annotation 2, image 1: width 0 is not positive
    """
    shards = _read_shards(source, keypoints, progress)
    images, broken_images, repeated_images = _merge_images(shards)
    raw = _Raw.of(shards, images, keypoints)
    categories = _merge_categories(shards)
    named = all(rows.categories is not None for rows in shards)
    faults = [*broken_images, *chain.from_iterable(rows.faults for rows in shards)]
    broken_ids = {fault.image_id for fault in faults if fault.annotation_id is None}
    usable, unusable = _sift(raw, images, broken_ids, categories if named else None)
    refused = sorted(faults + unusable, key=_by_id)
    if strict and refused:
        raise CocoError(str(refused[0]))
    annotations, odd = _tidy(raw.take(_in_order(raw.annotations, usable)), images)
    odd = sorted(repeated_images + odd, key=_by_id)
    return CocoDataset(images, annotations, categories, tuple(refused), tuple(odd), raw.files)


def _read_shards(source: Any, keypoints: bool, progress: Progress | None) -> list[Rows]:
    if isinstance(source, Mapping):
        return [rows_from_object(source, file=IN_MEMORY, keypoints=keypoints)]
    if isinstance(getattr(source, "dataset", None), Mapping):  # a pycocotools.coco.COCO
        return [rows_from_object(source.dataset, file=IN_MEMORY, keypoints=keypoints)]
    paths = _paths(source)
    sizes = [_size_bytes(path) for path in paths]
    shards = []
    for number, path in enumerate(paths):
        shards.append(read_rows(path, keypoints=keypoints, progress=progress))
        if progress:
            progress(f"reading {path.name}", sum(sizes[: number + 1]), sum(sizes))
    return shards


def _size_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0  # opening it will say why


def _paths(source: Any) -> list[Path]:
    """Paths in the order given, patterns opened up, each file once."""
    paths: list[Path] = []
    for item in source if isinstance(source, Iterable) and not isinstance(source, str | bytes | Path) else [source]:
        if not isinstance(item, str | PathLike) or "\0" in str(item):
            what = repr(item) if isinstance(item, str) else type(item).__name__
            raise CocoError(f"expected paths, patterns or one COCO structure in memory, got {what}")
        paths += _files_of(str(item))
    if not paths:
        raise CocoError("no annotation file given")
    first: dict[str, Path] = {}
    for path in paths:
        other = first.setdefault(os.path.realpath(path), path)
        if other is not path:
            same = "" if other == path else f", also as {other}"
            raise CocoError(f"{path}: given twice{same}: each shard is read once")
    return paths


def _files_of(path_or_pattern: str) -> list[Path]:
    if not glob.has_magic(path_or_pattern):
        return [Path(path_or_pattern)]
    literal = glob.glob(glob.escape(path_or_pattern))  # brackets may also be part of a name
    found = literal or sorted(glob.glob(path_or_pattern, recursive=True))
    if not found:
        raise CocoError(f"{path_or_pattern}: no file matches this pattern")
    return [Path(name) for name in found]


def _merge_images(shards: list[Rows]) -> tuple[Images, list[Finding], list[Finding]]:
    """One row for each image, those that are broken, and those that a file repeats.

    The same image may stand in several shards, but two images may not share an id.
    """
    entries = [(image, rows.file) for rows in shards for image in rows.images]
    ids = np.fromiter((image.id for image, _ in entries), np.int64, len(entries))
    wh = np.array([(image.width, image.height) for image, _ in entries], np.int64).reshape(-1, 2)
    positive = (wh > 0).all(axis=1)
    broken = []
    for row in np.flatnonzero(~positive):
        image, file = entries[row]
        broken.append(Finding(file, None, image.id, f"size {image.width}x{image.height} is not positive"))
    order = np.flatnonzero(positive)[np.argsort(ids[positive], kind="stable")]
    again = np.flatnonzero(np.diff(ids[order]) == 0) + 1
    repeated = []
    for row, before in zip(order[again], order[again - 1], strict=True):
        (image, file), (other, other_file) = entries[row], entries[before]
        if (image.width, image.height, image.file_name) != (other.width, other.height, other.file_name):
            raise CocoError(
                f"{file}: image id {image.id} stands for {other.file_name!r} ({other.width}x{other.height}) and for "
                f"{image.file_name!r} ({image.width}x{image.height}): ids must be unique over all files read together"
            )
        if file == other_file:
            repeated.append(Finding(file, None, image.id, "it stands more than once in the file: kept once"))
    order = np.delete(order, again)
    return Images(ids[order], wh[order], tuple(entries[row][0].file_name for row in order)), broken, repeated


def _merge_categories(shards: list[Rows]) -> dict[int, str]:
    """Names by id, in order of ids; an id may stand for one name only."""
    names: dict[int, str] = {}
    for rows in shards:
        for category in rows.categories or ():
            name = names.setdefault(category.id, category.name)
            if name != category.name:
                raise CocoError(
                    f"{rows.file}: category id {category.id} stands for {name!r} and for {category.name!r}: "
                    f"ids must be unique over all files read together"
                )
    return dict(sorted(names.items()))


@dataclass(frozen=True)
class _Raw:
    """All readable annotations before any check, with what messages need; ``image_rows`` is -1 for an unknown image."""

    files: tuple[str, ...]
    shard: Int64[ndarray, " n"]
    image_ids: Int64[ndarray, " n"]
    has_box: Bool[ndarray, " n"]
    annotations: Annotations

    @classmethod
    def of(cls, shards: list[Rows], images: Images, keypoints: bool) -> _Raw:
        entries = list(chain.from_iterable(rows.annotations for rows in shards))
        boxes = [entry.bbox or _NO_BOX for entry in entries]
        image_ids = _column(entries, "image_id", np.int64)
        annotations = Annotations(
            ids=_column(entries, "id", np.int64),
            image_rows=_rows_of(image_ids, images.ids),
            category_ids=_column(entries, "category_id", np.int64),
            boxes_xywh=np.fromiter(chain.from_iterable(map(astuple, boxes)), float, 4 * len(boxes)).reshape(-1, 4),
            iscrowd=_column(entries, "iscrowd", bool),
            area=np.array([entry.area for entry in entries], float),  # None becomes NaN
            keypoints=tuple(map(_points, entries)) if keypoints else None,
        )
        has_box = np.ones(len(entries), bool)
        for row in np.flatnonzero(np.isnan(annotations.boxes_xywh[:, 0])):
            has_box[row] = entries[row].bbox is not None
        shard = np.repeat(np.arange(len(shards)), [len(rows.annotations) for rows in shards])
        return cls(tuple(rows.file for rows in shards), shard, image_ids, has_box, annotations)

    def take(self, rows: Int64[ndarray, " m"]) -> _Raw:
        columns = (self.shard[rows], self.image_ids[rows], self.has_box[rows])
        return _Raw(self.files, *columns, self.annotations.take(rows))

    def finding(self, row: int, reason: str) -> Finding:
        file = self.files[self.shard[row]]
        return Finding(file, int(self.annotations.ids[row]), int(self.image_ids[row]), reason)


def _column(entries: list[Annotation], name: str, dtype: type) -> Any:
    return np.fromiter(map(attrgetter(name), entries), dtype, len(entries))


def _rows_of(ids: Int64[ndarray, " n"], sorted_ids: Int64[ndarray, " b"]) -> Int64[ndarray, " n"]:
    rows = np.searchsorted(sorted_ids, ids)
    padded = np.append(sorted_ids, NO_ROW)
    return np.where((padded[rows] == ids) & (rows < len(sorted_ids)), rows, NO_ROW)


def _points(entry: Annotation) -> Float64[ndarray, "j 3"]:
    return np.array(getattr(entry, "keypoints", None) or [], float).reshape(-1, 3)


@np.errstate(over="ignore", invalid="ignore")  # numbers near the end of the floats are refused or clipped like others
def _sift(
    raw: _Raw, images: Images, broken: set[int | None], categories: Mapping[int, str] | None
) -> tuple[Int64[ndarray, " m"], list[Finding]]:
    """The rows that can be used, and a finding for each of the others, by the first test it fails."""
    rows, boxes = raw.annotations, raw.annotations.boxes_xywh
    image_wh = np.append(images.wh, [[1, 1]], axis=0)[rows.image_rows]  # row -1, for unknown images: never looked at
    corner, size = boxes[:, :2], boxes[:, 2:]
    outside = ((corner >= image_wh) | (corner + size <= 0)).any(axis=1)

    def unknown_image(row: int) -> str:
        known = raw.image_ids[row] in broken
        return "its image cannot be used" if known else "no image has this id"

    def not_positive(row: int) -> str:
        names = [f"{name} {value:g}" for name, value in zip(("width", "height"), size[row], strict=True) if value <= 0]
        return f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} not positive"

    tests: list[tuple[Bool[ndarray, " n"], Callable[[int], str]]] = [
        (rows.image_rows == NO_ROW, unknown_image),
        (_unknown(rows.category_ids, categories), lambda row: f"no category has the id {rows.category_ids[row]}"),
        (~raw.has_box, lambda _: "it has no bbox"),
        (~np.isfinite(boxes).all(axis=1), lambda row: f"bbox {_text(boxes[row])} is not finite"),
        (np.any(size <= 0, axis=1), not_positive),
        (outside, lambda row: f"bbox {_text(boxes[row])} lies wholly outside its {_by(image_wh[row])} image"),
    ]
    usable = np.ones(len(rows), bool)
    findings = []
    for fails, reason in tests:
        failing = np.flatnonzero(fails & usable)
        usable[failing] = False
        findings += [raw.finding(row, reason(row)) for row in failing.tolist()]
    return np.flatnonzero(usable), findings


def _unknown(category_ids: Int64[ndarray, " n"], categories: Mapping[int, str] | None) -> Bool[ndarray, " n"]:
    if categories is None:
        return np.zeros(len(category_ids), bool)
    return ~np.isin(category_ids, np.array(sorted(categories), np.int64))


def _in_order(annotations: Annotations, usable: Int64[ndarray, " m"]) -> Int64[ndarray, " m"]:
    """The usable rows by image, id and, where one id stands twice in an image, all their numbers."""
    image_rows, ids = annotations.image_rows[usable], annotations.ids[usable]
    order = usable[np.lexsort((ids, image_rows))]
    image_rows, ids = annotations.image_rows[order], annotations.ids[order]
    if not ((image_rows[1:] == image_rows[:-1]) & (ids[1:] == ids[:-1])).any():
        return order
    numbers = (annotations.area, annotations.iscrowd, annotations.category_ids, *annotations.boxes_xywh.T[::-1])
    return order[np.lexsort((*(column[order] for column in numbers), ids, image_rows))]


@np.errstate(over="ignore", invalid="ignore")
def _tidy(raw: _Raw, images: Images) -> tuple[Annotations, list[Finding]]:
    """Clip boxes to their images, fill in missing areas, and say what is odd."""
    rows, image_wh = raw.annotations, images.wh[raw.annotations.image_rows]
    boxes_xywh = rows.boxes_xywh.copy()
    corner, size = boxes_xywh[:, :2], boxes_xywh[:, 2:]
    partly_outside = ((corner < -FLOAT_NOISE_PX) | (corner + size > image_wh + FLOAT_NOISE_PX)).any(axis=1)
    odd = []
    for row in np.flatnonzero(partly_outside).tolist():
        reason = f"bbox {_text(boxes_xywh[row])} reaches outside its {_by(image_wh[row])} image: clipped"
        odd.append(raw.finding(row, reason))
    clipped = clip_boxes(xywh_to_xyxy(boxes_xywh[partly_outside]), image_wh[partly_outside].astype(float))
    boxes_xywh[partly_outside] = xyxy_to_xywh(clipped)
    area = np.where(~np.isfinite(rows.area), boxes_xywh[:, 2] * boxes_xywh[:, 3], rows.area)
    odd += _repeated_ids(raw) + _repeated_boxes(raw)
    return replace(rows, boxes_xywh=boxes_xywh, area=area), odd


def _repeated_ids(raw: _Raw) -> list[Finding]:
    ids = raw.annotations.ids
    values, counts = np.unique(ids, return_counts=True)
    times = dict(zip(values[counts > 1].tolist(), counts[counts > 1].tolist(), strict=True))
    repeated = np.flatnonzero(np.isin(ids, [value for value in times if value != NO_ID])).tolist()
    missing = np.flatnonzero(ids == NO_ID).tolist()
    return [raw.finding(row, "it has no id: kept") for row in missing] + [
        raw.finding(row, f"its id stands {times[int(ids[row])]} times: kept") for row in repeated
    ]


def _repeated_boxes(raw: _Raw) -> list[Finding]:
    """Rows whose image and box stand before; sums that only equal rows are sure to share pick the few to compare."""
    rows = raw.annotations
    mixed = rows.boxes_xywh @ np.array([1.0, math.pi, math.e, math.sqrt(2)]) + rows.image_rows * math.sqrt(3)
    values, counts = np.unique(mixed, return_counts=True)
    first: dict[tuple[float, ...], int] = {}
    findings = []
    for row in np.flatnonzero(np.isin(mixed, values[counts > 1])).tolist():
        other = first.setdefault((rows.image_rows[row], *rows.boxes_xywh[row]), row)
        if other != row:
            same = rows.category_ids[other] == rows.category_ids[row]
            reason = f"the same box as annotation {rows.ids[other]}{'' if same else ', of another category'}: kept"
            findings.append(raw.finding(row, reason))
    return findings


def _by_id(finding: Finding) -> tuple[int, int, str, str]:
    annotation_id = NO_ID if finding.annotation_id is None else finding.annotation_id
    image_id = NO_ID if finding.image_id is None else finding.image_id
    return annotation_id, image_id, finding.reason, finding.file


def _text(box_xywh: Float64[ndarray, " 4"]) -> str:
    return "[" + ", ".join(f"{value:g}" for value in box_xywh) + "]"


def _by(image_wh: Int64[ndarray, " 2"]) -> str:
    return f"{image_wh[0]}x{image_wh[1]}"
