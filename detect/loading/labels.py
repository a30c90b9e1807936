"""The labels of each image, transformed and clipped with it, and the numbering of categories that a detector learns."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64
from numpy import ndarray

from detect.conventions import ORIGIN_SHIFTS
from detect.data import Annotations, CocoDataset
from detect.data.coco_dataset import unnamed
from detect.errors import CocoError, ConfigError
from detect.keypoints.coco_keypoints import ALL_TYPES, CocoKeypoints
from detect.keypoints.keypoints import UNLABELLED
from detect.keypoints.orientations import angles_between, directions
from detect.loading.transforms import Transform, box_areas, clip_to_window
from detect.ops.box_arrays import xywh_to_xyxy


@dataclass(frozen=True)
class LabelMap:
    """What a detector tells apart: class i is the i-th category id, and ids rise.

    ``type_names`` name the keypoint types, and ``category_types`` has the types of an instance of each category; both are
    empty for boxes.
    """

    category_ids: tuple[int, ...]
    category_names: tuple[str, ...]
    type_names: tuple[str, ...] = ()
    category_types: Mapping[int, tuple[int, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, dataset: CocoDataset, keypoints: CocoKeypoints | None = None) -> LabelMap:
        """The categories of a dataset, and the types of its keypoints.

        Raises:
            ConfigError: there are no categories.
        """
        ids = dataset.category_ids
        if not ids:
            raise ConfigError(f"{', '.join(dataset.files)}: no categories, so nothing to detect")
        names = tuple(map(dataset.category_name, ids))
        if keypoints is None:
            return cls(ids, names)
        return cls(ids, names, keypoints.type_names, dict(keypoints.category_types))

    def keypoint_table(self, keypoint_type: int) -> tuple[int, int, int]:
        """The category of a keypoint type, the type's place among its keypoints, and their number."""
        for category, types in self.category_types.items():
            if keypoint_type in types:
                return category, types.index(keypoint_type), len(types)
        raise ValueError(f"no category has the keypoint type {keypoint_type}")

    def check_names(self, dataset: CocoDataset) -> None:
        """Raise CocoError if a dataset has annotations of a category that was not learned, or names one differently.

        Names may differ in case. Files may number categories differently.
        """
        learned = dict(zip(self.category_ids, self.category_names, strict=True))
        used, strange = {*dataset.annotations.category_ids.tolist()}, {}
        for category in dataset.category_ids:
            own, name = dataset.category_name(category), learned.get(category)
            if name is None and category in used:
                names = ", ".join(map(repr, self.category_names))
                strange[own] = f"category {category}, {own!r}, is not one of those learned: {names}"
            elif name and unnamed(category) not in {own, name} and own.casefold() != name.casefold():
                strange[own] = f"category {category} is {own!r}; it was learned as {name!r}"
        if strange:
            options = (
                f"'data.ignore_categories={json.dumps([*strange], ensure_ascii=False)}' "
                f"({' '.join(f'--ignore-category {own!r}' for own in strange)})"
            )
            reason = f"{next(iter(strange.values()))}: {options} leaves out what was not learned"
            raise CocoError(f"{', '.join(dataset.files)}: {reason}")


@dataclass(frozen=True, eq=False)
class ImageLabels:
    """The labels of one image. Boxes are x0 y0 x1 y1, continuous; points and ``unlabelled`` follow ``pixel_origin``.

    ``crowd`` are regions where a box is neither positive nor negative, ``unlabelled`` where keypoints of the
    ``unlabelled_types`` are unknown (``ALL_TYPES`` for all). ``tips``, if points have orientations, lie in their directions:
    a transform moves a point and its tip, and so turns its angle.
    """

    boxes: Float64[ndarray, "n 4"]
    classes: Int64[ndarray, " n"]
    crowd: Float64[ndarray, "r 4"]
    points: Float64[ndarray, "m 2"]
    types: Int64[ndarray, " m"]
    visibility: Int64[ndarray, " m"]
    unlabelled: Float64[ndarray, "u 4"]
    unlabelled_types: Int64[ndarray, " u"]
    pixel_origin: str = "center"
    tips: Float64[ndarray, "m 2"] | None = None

    @property
    def angles(self) -> Float64[ndarray, " m"] | None:
        """The angles of the points, in radians; NaN where unknown."""
        return None if self.tips is None else angles_between(self.points, self.tips)

    def transformed(self, transform: Transform) -> ImageLabels:
        """Move all labels with the image."""
        shift = ORIGIN_SHIFTS[self.pixel_origin]
        move = partial(transform.apply_to_points, pixel_origin=self.pixel_origin)
        return replace(
            self,
            boxes=transform.apply_to_boxes(self.boxes),
            crowd=transform.apply_to_boxes(self.crowd),
            points=move(self.points),
            tips=None if self.tips is None else move(self.tips),
            unlabelled=transform.apply_to_boxes(self.unlabelled + shift) - shift,
        )

    def clipped(self, image_wh: tuple[int, int], *, min_visible: float) -> ImageLabels:
        """Clip labels to an image of this size.

        A box that keeps less than ``min_visible`` of its area becomes a crowd region; a point outside gets visibility 0.
        """
        width, height = map(float, image_wh)
        boxes = clip_to_window(self.boxes, (0.0, 0.0, width, height))
        area = box_areas(boxes)
        is_visible = (area > 0) & (area >= min_visible * box_areas(self.boxes))
        regions = clip_to_window(np.concatenate([self.crowd, self.boxes[~is_visible]]), (0.0, 0.0, width, height))
        shift = ORIGIN_SHIFTS[self.pixel_origin]
        unlabelled = clip_to_window(self.unlabelled, (-shift, -shift, width - shift, height - shift))
        is_left = box_areas(unlabelled) > 0
        return replace(
            self,
            boxes=boxes[is_visible],
            classes=self.classes[is_visible],
            crowd=regions[box_areas(regions) > 0],
            visibility=np.where(self._inside(image_wh), self.visibility, UNLABELLED),
            unlabelled=unlabelled[is_left],
            unlabelled_types=self.unlabelled_types[is_left],
        )

    def num_points_outside(self, image_wh: tuple[int, int]) -> int:
        """Count labelled points outside an image of this size."""
        return int(((self.visibility != UNLABELLED) & ~self._inside(image_wh)).sum())

    def _inside(self, image_wh: tuple[int, int]) -> Bool[ndarray, " m"]:
        points = self.points + ORIGIN_SHIFTS[self.pixel_origin]
        return np.all((points >= 0) & (points <= np.asarray(image_wh)), axis=1)


def labels_by_image(
    dataset: CocoDataset,
    keypoints: CocoKeypoints | None,
    *,
    category_ids: Sequence[int],
    unlabelled: str = "ignore",
) -> list[ImageLabels]:
    """Split the labels of a dataset by image, in pixels of the images. ``category_ids`` has the category of each class.

    For ``unlabelled`` see :meth:`~detect.keypoints.coco_keypoints.CocoKeypoints.ignored_regions`.
    """
    _check_categories(dataset.annotations, category_ids)
    num_images = len(dataset.images)
    instances, crowd = dataset.instances, dataset.crowd
    classes = np.searchsorted(np.array(category_ids, np.int64), instances.category_ids)
    columns: list[Sequence[Any]] = [
        _by_image(xywh_to_xyxy(instances.boxes_xywh), instances.image_rows, num_images),
        _by_image(classes, instances.image_rows, num_images),
        _by_image(xywh_to_xyxy(crowd.boxes_xywh), crowd.image_rows, num_images),
    ]
    if keypoints is None:
        none = np.zeros(0, np.int64)
        columns += ([each] * num_images for each in (np.zeros((0, 2)), none, none, np.zeros((0, 4)), none))
    else:
        table = keypoints.landmarks
        for column in (table.points, table.types, table.visibility):
            columns.append(_by_image(np.asarray(column), np.asarray(table.image), num_images))
        columns += (*_regions_by_image(keypoints, unlabelled), [keypoints.pixel_origin] * num_images)
        if table.angles is not None:
            tips = np.asarray(table.points) + directions(np.asarray(table.angles))
            columns.append(_by_image(tips, np.asarray(table.image), num_images))
    return [ImageLabels(*each) for each in zip(*columns, strict=True)]


def _regions_by_image(keypoints: CocoKeypoints, unlabelled: str) -> tuple[list[ndarray], list[ndarray]]:
    """The ignored regions of each image, and the keypoint type of each region."""
    of_maps, num_types = keypoints.ignored_regions(unlabelled), keypoints.landmarks.num_types
    boxes, types = [], []
    for row, of_all in enumerate(keypoints.ignored):
        own = [each[len(of_all) :] for each in of_maps[row * num_types : (row + 1) * num_types]]
        boxes.append(np.concatenate([of_all, *own]))
        types.append(np.repeat([ALL_TYPES, *range(num_types)], [len(of_all), *map(len, own)]))
    return boxes, types


def _check_categories(annotations: Annotations, category_ids: Sequence[int]) -> None:
    unknown = sorted(set(annotations.category_ids.tolist()) - set(category_ids))
    if unknown:
        known = ", ".join(map(str, category_ids))
        raise CocoError(f"annotations have category {', '.join(map(str, unknown))}; the classes are {known}")


def _by_image(column: ndarray, image_rows: Int64[ndarray, " n"], num_images: int) -> list[ndarray]:
    """Split a column that is sorted by image."""
    return np.split(column, np.searchsorted(image_rows, np.arange(1, num_images))) if num_images else []
