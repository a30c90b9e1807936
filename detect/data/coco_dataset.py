"""CocoDataset: COCO annotations as columns, with findings about invalid and suspicious entries.

Boxes are (x, y, width, height) in pixels of their own image.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from jaxtyping import Int64
from numpy import ndarray

from detect.conventions import ORIGIN_SHIFTS
from detect.data.coco_checks import by_id, in_order, tidy, usable_rows, with_point_boxes
from detect.data.coco_columns import (
    Annotations,
    Images,
    ReadAnnotations,
    merge_categories,
    merge_images,
    merge_keypoint_names,
    with_extents,
    with_outline_boxes,
)
from detect.data.coco_entries import UNKNOWN_PX, BoxForm, Finding, Rows
from detect.data.coco_forms import boxes_in_pixels, check_form, exchanged_points, suspect_form
from detect.data.coco_reader import Progress, read_rows, rows_from_object
from detect.data.exif import Exif
from detect.data.parquet_files import is_parquet_dataset, is_url, size_bytes
from detect.errors import CocoError
from detect.ops.exact_sums import FirstItems

if TYPE_CHECKING:
    from pycocotools.coco import COCO

IN_MEMORY = "(in memory)"
MIXED_ORIGINS = (
    "some state the pixel_origin of their points and others do not, or another: points may be half a pixel off"
)


@dataclass(frozen=True)
class CocoDataset:
    """Usable annotations as columns, and findings about the others.

    The order of rows does not depend on the order of files or entries: images are sorted by id, annotations by image id,
    annotation id, then box.
    """

    images: Images
    annotations: Annotations
    categories: Mapping[int, str]
    invalid: tuple[Finding, ...]  # entries that cannot be used
    suspicious: tuple[Finding, ...]  # entries that are used although something about them may be wrong
    files: tuple[str, ...]
    unsized: tuple[int, ...] = ()  # ids of images without width and height, which are the extent of their boxes
    warnings: tuple[str, ...] = ()  # sentences about the files as a whole
    misread: tuple[str, ...] = ()  # those of them by which boxes or sizes are not what they are read as
    exif: Exif = "auto"  # how images with an EXIF orientation are read, see ImageFiles
    turned: tuple[int, ...] = ()  # ids of images with an EXIF orientation whose size was read from their file
    keypoint_names: Mapping[int, tuple[str, ...]] = field(default_factory=dict)  # of categories whose files name them
    siblings: Images | None = None  # all images of the dataset that this one is a part of
    angle_fields: tuple[str, ...] = ()  # those with angles; the first is the one that was read
    pixel_origin: str | None = None  # of the keypoints, if all files state it

    @cached_property
    def instances(self) -> Annotations:
        return self.annotations.take(np.flatnonzero(~self.annotations.iscrowd))

    @cached_property
    def crowd(self) -> Annotations:
        """The regions of many objects (``iscrowd``): they are ignored, not fitted or matched."""
        return self.annotations.take(np.flatnonzero(self.annotations.iscrowd))

    @cached_property
    def category_ids(self) -> tuple[int, ...]:
        """Sorted ids of the categories that the files name or the annotations use."""
        return tuple(sorted({*self.categories, *self.annotations.category_ids.tolist()}))

    def take_images(self, rows: Int64[ndarray, " m"]) -> CocoDataset:
        """A dataset of some images, given as rows in rising order, and their annotations.

        >>> from detect.samples import sample_annotations
        >>> dataset = read_coco(sample_annotations("bccd"))
        >>> part = dataset.take_images(np.array([0, 2]))
        >>> part.images.ids, len(part.annotations)
        (array([1, 3]), 36)
        """
        place = np.full(len(self.images), -1)
        place[rows] = np.arange(len(rows))
        kept = self.annotations.take(np.flatnonzero(place[self.annotations.image_rows] >= 0))
        kept = replace(kept, image_rows=place[kept.image_rows])
        names = tuple(self.images.file_names[row] for row in rows.tolist())
        images = Images(self.images.ids[rows], self.images.wh[rows], names)
        unsized = tuple(images.ids[np.isin(images.ids, np.array(self.unsized, np.int64))].tolist())
        return replace(self, images=images, annotations=kept, unsized=unsized, siblings=self.siblings or self.images)

    def with_pixel_origin(self, pixel_origin: str) -> CocoDataset:
        """The dataset with its keypoints in this convention, if its files state in which they are."""
        if self.pixel_origin in (None, pixel_origin):
            return self
        shift = (ORIGIN_SHIFTS[self.pixel_origin] - ORIGIN_SHIFTS[pixel_origin]) * np.array([1.0, 1.0, 0.0])
        tables = tuple(table + shift for table in self.annotations.keypoints or ())
        annotations = replace(self.annotations, keypoints=tables)
        return replace(self, annotations=annotations, pixel_origin=pixel_origin)

    def without_categories(self, names: Iterable[str], option: str) -> CocoDataset:
        """The dataset without the categories of these names, in any case, and without their annotations.

        A sentence in ``warnings`` counts the annotations, another names the names that no category has; both name the
        ``option`` that asked for it.

        >>> from detect.samples import sample_annotations
        >>> part = read_coco(sample_annotations("bccd")).without_categories(["rbc"], "--ignore-category")
        >>> sorted(part.categories.values()), part.warnings
        (['Platelets', 'WBC'], ("left out: 4,153 annotations of 'RBC' (--ignore-category)",))
        >>> part.without_categories(["red"], "--ignore-category").warnings[-1].partition(": ")[2]
        "no category 'red' to leave out (--ignore-category)"
        """
        left_out = {name.casefold(): name for name in names}
        ids = [each for each in self.category_ids if self.category_name(each).casefold() in left_out]
        is_kept = ~np.isin(self.annotations.category_ids, ids)
        warnings = list(self.warnings)
        if ids:
            found, count = ", ".join(repr(self.category_name(each)) for each in ids), int((~is_kept).sum())
            warnings.append(f"left out: {count:,} annotation{'s' if count != 1 else ''} of {found} ({option})")
        own = {self.category_name(each).casefold() for each in self.category_ids}
        if unknown := ", ".join(repr(name) for key, name in left_out.items() if key not in own):
            warnings.append(f"{', '.join(self.files)}: no category {unknown} to leave out ({option})")
        return replace(
            self,
            annotations=self.annotations.take(np.flatnonzero(is_kept)),
            categories={number: name for number, name in self.categories.items() if number not in ids},
            warnings=tuple(warnings),
        )

    def require_sizes(self, ways: str) -> None:
        """Raise CocoError, with the ways out, if the size of some image is not known."""
        if self.unsized:
            raise CocoError(_unsized_images(self.unsized, self.files, ways))

    def with_left_out(self, message: str) -> str:
        """An error's message, and how many entries were invalid and the first of them, unless it names that one."""
        return left_out_words(message, self.invalid)

    def category_name(self, category_id: int) -> str:
        """The name of a category; ``category`` and its id if the file has no name."""
        return self.categories.get(category_id) or unnamed(category_id)


def left_out_words(message: str, invalid: Sequence[Finding] | FirstItems[Finding]) -> str:
    """An error's message with the number of invalid entries and the first of them, unless it names that one."""
    if not len(invalid) or str(invalid[0]) in message:
        return message
    entries = "1 entry was invalid" if len(invalid) == 1 else f"{len(invalid):,} entries were invalid"
    return f"{message}; {entries} and left out, the first: {invalid[0]}"


def _unsized_images(ids: Sequence[int], files: Sequence[str], ways: str) -> str:
    images = "1 image has" if len(ids) == 1 else f"{len(ids):,} images have"
    return f"{images} no width and height in {', '.join(files)}, such as image {ids[0]}: {ways}"


def unnamed(category_id: int) -> str:
    return f"category {category_id}"


class _SourcedImage(msgspec.Struct):
    id: int
    source: str | int | None = None


class _SourcedImages(msgspec.Struct):
    images: list[_SourcedImage]


def image_sources(dataset: CocoDataset) -> Int64[ndarray, " b"]:
    """The number of the source of each image: equal where the field ``source`` of the files' images is; else its own."""
    sources: dict[int, str] = {}
    for file in dataset.files:
        with suppress(OSError, msgspec.MsgspecError):  # other formats have no such field
            sources |= {image.id: f"source {image.source}" for image in _images_of(file) if image.source is not None}
    names = [sources.get(image, f"image {image}") for image in dataset.images.ids.tolist()]
    return np.unique(names, return_inverse=True)[1].astype(np.int64).reshape(-1)


def _images_of(file: str) -> list[_SourcedImage]:
    if is_parquet_dataset(file):
        from detect.data.parquet_reader import read_image_field  # noqa: PLC0415 - an extra

        return msgspec.convert(read_image_field(file, "source"), list[_SourcedImage])
    if not file.endswith("json"):
        return []
    return msgspec.json.decode(Path(file).read_bytes(), type=_SourcedImages).images


def read_coco(
    source: str | Path | Mapping[str, Any] | COCO | Iterable[str | Path],
    *,
    keypoints: bool = False,
    angles: bool = False,
    bbox: BoxForm = "xywh",
    strict: bool = False,
    on_progress: Progress | None = None,
) -> CocoDataset:
    """Read COCO annotations into columns.

    An entry is lost only for a field without which it cannot be used, and is listed in ``invalid``. A field that had to be
    read as something else is listed in ``suspicious``: a number that is a text, an id that is another text (it gets a number
    from 2**52 on, the same in every file), a box that is taken from its segmentation.

    Args:
        source: a path (``.json`` or ``.json.gz``), a glob pattern, several of these (shards of one dataset), a COCO
            structure in memory, or a ``pycocotools.coco.COCO``.
        keypoints: read keypoints too. An annotation whose box is missing or has no size then gets the box of its labelled
            points.
        angles: read angles too, in degrees clockwise on screen, 0 to the right: from the first of the fields ``angle``,
            ``rotation`` and CVAT's ``attributes.rotation`` that any annotation has. ``angle_fields`` names it. An annotation
            without it has an unknown angle.
        bbox: the form of the boxes in the file. ``CocoDataset.warnings`` says if they look like another one.
        strict: raise an error for the first invalid entry instead of listing it in ``invalid``.
        on_progress: called as ``on_progress(what, done, total)`` while files are read, with amounts in bytes.

    Raises:
        CocoError: a file is missing or not COCO, two files disagree about an image or category, an angle is not a finite
            number, or (strict) an entry is invalid. The message names the file, the id and the reason.

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
    >>> print(dataset.invalid[0])
    (in memory): annotation 2, image 1: width 0 is not positive
    """
    check_form(bbox)
    shards = [
        replace(rows, form=bbox)
        for rows in _read_shards(source, {"keypoints": keypoints, "angles": angles}, on_progress)
    ]
    dataset = dataset_of(shards, keypoints=keypoints)
    if strict and dataset.invalid:
        raise CocoError(str(dataset.invalid[0]))
    return dataset


def dataset_of(shards: list[Rows], *, keypoints: bool = False) -> CocoDataset:
    """Merge the entries of several files, and check them."""
    images, odd_images = merge_images(shards)
    read = ReadAnnotations.of(shards, images)
    unsized = tuple(images.ids[(images.wh == UNKNOWN_PX).any(axis=1)].tolist())
    read, warnings = _in_pixels(read, shards, images, unsized)
    read = with_outline_boxes(read, shards)
    if keypoints:
        warnings += exchanged_points(read, images)
        read = with_point_boxes(read, images)
    images = with_extents(images, read)
    categories = merge_categories(shards)
    named = all(rows.categories is not None for rows in shards)
    faults = list(chain.from_iterable(rows.faults for rows in shards))
    broken_ids = {fault.image_id for fault in faults if fault.annotation_id is None}
    usable, unusable = usable_rows(read, images, broken_ids, categories if named else None)
    annotations, suspicious = tidy(read.take(in_order(read.columns, usable)), images)
    suspicious += [*odd_images, *chain.from_iterable(rows.suspicious for rows in shards)]
    invalid, suspicious = sorted(faults + unusable, key=by_id), sorted(suspicious, key=by_id)
    findings = tuple(invalid), tuple(suspicious)
    told: dict[str, Any] = {"warnings": warnings, "misread": warnings, "angle_fields": read.angle_fields}
    told["keypoint_names"] = merge_keypoint_names(shards)
    origins = {rows.pixel_origin for rows in shards if any(map(len, rows.annotations.keypoints or ()))}
    if len(origins) > 1:
        told["warnings"] += (f"{', '.join(read.files)}: {MIXED_ORIGINS}",)
    told["pixel_origin"] = origins.pop() if len(origins) == 1 else None
    return CocoDataset(images, annotations, categories, *findings, read.files, unsized, **told)


def _in_pixels(
    read: ReadAnnotations, shards: Sequence[Rows], images: Images, unsized: Sequence[int]
) -> tuple[ReadAnnotations, tuple[str, ...]]:
    """Boxes as (x, y, width, height) in pixels, and warnings about files whose boxes look like another form."""
    warnings = []
    for form in dict.fromkeys(rows.form for rows in shards if rows.form is not None):
        own = [number for number, rows in enumerate(shards) if rows.form == form]
        files = [read.files[number] for number in own]
        all_own = sum(len(shards[number].annotations) for number in own) == len(read.columns)
        rows = slice(None) if all_own else np.flatnonzero(np.isin(read.shard, own))
        part = read.take(rows)
        if warning := suspect_form(part, images, form):
            warnings.append(f"{', '.join(files)}: {warning}")
        if form != "xywh":
            if unsized and form.startswith("normalised"):
                ways = "normalised boxes need them: --images FOLDER reads them from the image files"
                raise CocoError(_unsized_images(unsized, files, ways))
            boxes_xywh = read.columns.boxes_xywh.copy()
            boxes_xywh[rows] = boxes_in_pixels(part, images, form)
            read = replace(read, columns=replace(read.columns, boxes_xywh=boxes_xywh))
    return read, tuple(warnings)


def _read_shards(source: Any, columns: Mapping[str, bool], on_progress: Progress | None) -> list[Rows]:
    content = getattr(source, "dataset", source)  # of a pycocotools.coco.COCO
    if isinstance(content, Mapping):
        return [rows_from_object(content, file=IN_MEMORY, **columns)]
    return coco_shards(paths_of(source), columns, on_progress)


def coco_shards(files: Iterable[str], columns: Mapping[str, bool], on_progress: Progress | None) -> list[Rows]:
    """Read COCO files one by one; ``columns`` says whether keypoints and angles are read. Progress is in bytes of all."""
    paths = list(files)
    sizes = list(map(size_bytes, paths))
    shards = []
    for number, path in enumerate(paths):

        def in_total(what: str, done: int, _: int, before: int = sum(sizes[:number])) -> None:
            if on_progress:
                on_progress(what, before + done, sum(sizes))

        shards.append(read_rows(path, on_progress=in_total, **columns))
    return shards


def paths_of(source: Any) -> list[str]:
    """Paths and URLs in the order given, with patterns expanded; none may be given twice."""
    first: dict[str, str] = {}
    paths: list[str] = []
    for item in source if isinstance(source, Iterable) and not isinstance(source, str | bytes | Path) else [source]:
        if not isinstance(item, str | PathLike) or "\0" in str(item):
            what = repr(item) if isinstance(item, str) else type(item).__name__
            raise CocoError(f"expected paths, patterns or one COCO structure in memory, got {what}")
        paths += _files_of(str(item))
    if not paths:
        raise CocoError("no annotation file given")
    for path in paths:
        other = first.setdefault(os.path.realpath(path), path)
        if other is not path:
            same = "" if other == path else f", also as {other}"
            raise CocoError(f"{path}: given twice{same}: each shard is read once")
    return paths


def _files_of(path_or_pattern: str) -> list[str]:
    if is_url(path_or_pattern):
        return [path_or_pattern.rstrip("/")]
    if not glob.has_magic(path_or_pattern):
        return [str(Path(path_or_pattern))]
    literal = glob.glob(glob.escape(path_or_pattern))  # brackets may also be part of a file name
    names = literal or sorted(glob.glob(path_or_pattern, recursive=True))
    if not names:
        raise CocoError(f"{path_or_pattern}: no file matches this pattern")
    return [str(Path(name)) for name in names]
