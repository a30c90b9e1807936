"""The entries of a COCO file with their types, and its annotations as columns, before any check."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from operator import attrgetter
from typing import Annotated, Any, Literal

import numpy as np
from jaxtyping import Bool, Float64, Int64
from msgspec import Meta, Struct
from msgspec.structs import astuple
from numpy import ndarray

NO_ID = -1
ANGLE_FIELDS = ("angle", "rotation", "attributes.rotation")  # the first of them that some annotation has is read
UNKNOWN_PX = 0  # the width or height of an image whose size is not known


@dataclass(frozen=True, order=True, slots=True)
class Finding:
    """A problem with one entry of a file; ``annotation_id`` is None if the entry is an image."""

    file: str
    annotation_id: int | None
    image_id: int | None
    reason: str

    def __str__(self) -> str:
        names = [] if self.annotation_id is None else [f"annotation {self.annotation_id}"]
        if self.annotation_id == NO_ID:
            names = ["an annotation without a usable id"]
        names += [] if self.image_id is None else [f"image {self.image_id}"]
        return ": ".join(filter(None, (self.file, ", ".join(names), self.reason)))


Integer = Annotated[int, Meta(ge=-(2**62), le=2**62)]  # fits a column of 64 bits
Pixels = Annotated[int, Meta(ge=1, le=2**62)]


BoxForm = Literal["xywh", "xyxy", "cxcywh", "normalised", "normalised-xyxy", "normalised-cxcywh"]


class Box(Struct, array_like=True, forbid_unknown_fields=True, gc=False):
    x: float
    y: float
    width: float
    height: float


NO_BOX = Box(math.nan, math.nan, math.nan, math.nan)


class Attributes(Struct, gc=False):
    rotation: Any = 0


class Annotation(Struct, gc=False):
    image_id: Integer
    category_id: Integer
    bbox: Box | None = None
    id: Integer = NO_ID
    iscrowd: int | bool = 0
    area: float | None = None
    attributes: Attributes | list[Any] | str | int | float | bool | None = None  # of any type: only one is looked at

    @property
    def is_rotated(self) -> bool:
        return isinstance(self.attributes, Attributes) and bool(self.attributes.rotation)

    @property
    def angles_deg(self) -> tuple[float | None, ...]:
        """The numbers of ``ANGLE_FIELDS``, if they are decoded."""
        return ()


class KeypointAnnotation(Annotation, gc=False):
    keypoints: list[float] | None = None

    def __post_init__(self) -> None:
        if self.keypoints and len(self.keypoints) % 3:
            raise ValueError(f"keypoints has {len(self.keypoints)} numbers, not three (x, y, visibility) per keypoint")


class NumericAttributes(Attributes, gc=False):
    rotation: float | None = None


class OrientedAnnotation(KeypointAnnotation, gc=False):
    """An annotation with an angle in degrees, in one of ``ANGLE_FIELDS``."""

    angle: float | None = None
    rotation: float | None = None
    attributes: NumericAttributes | list[Any] | str | int | float | bool | None = None

    @property
    def is_rotated(self) -> bool:
        return False  # the rotation is read

    @property
    def angles_deg(self) -> tuple[float | None, ...]:
        attributes = self.attributes
        turned = attributes.rotation if isinstance(attributes, NumericAttributes) else None
        return self.angle, self.rotation, turned


def entry_type(*, keypoints: bool, angles: bool) -> type[Annotation]:
    """What an annotation is decoded as: without the fields that are not wanted."""
    if angles:
        return OrientedAnnotation
    return KeypointAnnotation if keypoints else Annotation


class Image(Struct, gc=False):
    id: Integer
    width: Pixels = UNKNOWN_PX
    height: Pixels = UNKNOWN_PX
    file_name: str | None = None


@dataclass(frozen=True, eq=False)
class ImageEntries(Sequence[Image]):
    """Images as columns; each is made an :class:`Image` when it is asked for."""

    ids: Int64[ndarray, " b"]
    wh: Int64[ndarray, "b 2"]
    file_names: Sequence[str | None]

    @classmethod
    def of(cls, images: Sequence[Image]) -> ImageEntries:
        if isinstance(images, ImageEntries):
            return images
        sides = [column(images, name, np.int64) for name in ("width", "height")]
        return cls(column(images, "id", np.int64), np.stack(sides, axis=1), [image.file_name for image in images])

    @classmethod
    def join(cls, parts: Sequence[ImageEntries]) -> ImageEntries:
        parts = [part for part in parts if len(part)] or parts[:1]
        if len(parts) == 1:
            return parts[0]
        ids, wh = (np.concatenate([getattr(part, name) for part in parts]) for name in ("ids", "wh"))
        return cls(ids, wh, list(chain.from_iterable(part.file_names for part in parts)))

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, row: Any) -> Any:
        if isinstance(row, slice):
            return ImageEntries(self.ids[row], self.wh[row], self.file_names[row])
        width, height = self.wh[row].tolist()
        return Image(int(self.ids[row]), width, height, self.file_names[row])


class Category(Struct, gc=False):
    id: Integer
    name: str | None = None
    keypoints: list[str] | None = None  # names, in the order of an annotation's keypoints


@dataclass(frozen=True)
class AnnotationEntries:
    """Annotations as columns. A missing area is NaN, and so are the numbers of a missing box.

    ``angles_deg`` has a column for each of ``ANGLE_FIELDS``, NaN where it is missing; None if angles were not wanted.
    """

    ids: Int64[ndarray, " n"]
    image_ids: Int64[ndarray, " n"]
    category_ids: Int64[ndarray, " n"]
    boxes_xywh: Float64[ndarray, "n 4"]
    has_box: Bool[ndarray, " n"]
    iscrowd: Bool[ndarray, " n"]
    area: Float64[ndarray, " n"]
    keypoints: tuple[Float64[ndarray, "_ 3"], ...] | None
    angles_deg: Float64[ndarray, "n f"] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def of(cls, entries: Sequence[Annotation], *, keypoints: bool, angles: bool = False) -> AnnotationEntries:
        numbers = chain.from_iterable(astuple(entry.bbox or NO_BOX) for entry in entries)
        boxes_xywh = np.fromiter(numbers, float, 4 * len(entries)).reshape(-1, 4)
        has_box = np.ones(len(entries), bool)
        for row in np.flatnonzero(np.isnan(boxes_xywh[:, 0])).tolist():
            has_box[row] = entries[row].bbox is not None
        ids, image_ids, categories = (column(entries, name, np.int64) for name in ("id", "image_id", "category_id"))
        iscrowd, area = column(entries, "iscrowd", bool), column(entries, "area", float)
        points = tuple(map(points_of, entries)) if keypoints else None
        own = column(entries, "angles_deg", float).reshape(-1, len(ANGLE_FIELDS)) if angles else None
        return cls(ids, image_ids, categories, boxes_xywh, has_box, iscrowd, area, points, own)

    @classmethod
    def join(cls, parts: Sequence[AnnotationEntries]) -> AnnotationEntries:
        parts = [part for part in parts if len(part)] or parts[:1]
        if len(parts) == 1:
            return parts[0]
        columns = {name: [vars(part)[name] for part in parts] for name in vars(parts[0])}
        keypoints, angles = columns.pop("keypoints"), columns.pop("angles_deg")
        joined = None if keypoints[0] is None else tuple(chain.from_iterable(keypoints))
        if all(own is None for own in angles):
            return cls(**{name: np.concatenate(values) for name, values in columns.items()}, keypoints=joined)
        columns["angles_deg"] = [
            np.full((len(part), len(ANGLE_FIELDS)), math.nan) if own is None else own
            for part, own in zip(parts, angles, strict=True)
        ]
        return cls(**{name: np.concatenate(values) for name, values in columns.items()}, keypoints=joined)


@dataclass
class Rows:
    """The readable entries of one file, and findings about the others.

    An image of unknown size has the width and height ``UNKNOWN_PX``.
    """

    file: str
    images: Sequence[Image]
    annotations: AnnotationEntries
    categories: Sequence[Category] | None  # None accepts the id of every annotation
    faults: list[Finding] = field(default_factory=list)
    suspicious: list[Finding] = field(default_factory=list)  # about entries that are used
    odd: dict[int, str] = field(default_factory=dict)  # what is suspicious about an annotation, by its row
    outlines: dict[int, Box] = field(default_factory=dict)  # boxes of segmentations, by row, where the file has no box
    form: BoxForm | None = None  # of the boxes, which may look like another; None for pixels (x, y, width, height)
    pixel_origin: str | None = None  # of the keypoints, where the format or the file states it: see detect.conventions


def column(entries: Sequence[Any], name: str, dtype: type) -> Any:
    """One field of all entries as an array; None becomes NaN."""
    return np.array(list(map(attrgetter(name), entries)), dtype)


def points_of(entry: Any) -> Float64[ndarray, "j 3"]:
    return np.array(getattr(entry, "keypoints", None) or [], float).reshape(-1, 3)
