"""What annotations say of each image, and how it moves with the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Bool, Float64, Int64
from numpy import ndarray

from detect.data import Annotations, CocoDataset
from detect.data.coco_dataset import unnamed
from detect.errors import CocoError, ConfigError
from detect.keypoints.coordinates import SHIFTS
from detect.keypoints.keypoints import UNLABELLED, CocoKeypoints
from detect.loading.transforms import View, box_areas, cut_boxes
from detect.ops.box_arrays import xywh_to_xyxy


@dataclass(frozen=True, eq=False)
class ImageLabels:
    """The labels of one image. Boxes x0 y0 x1 y1 are continuous, points and ``unlabelled`` in their own convention."""

    boxes: Float64[ndarray, "n 4"]
    classes: Int64[ndarray, " n"]
    crowd: Float64[ndarray, "r 4"]
    """Regions in which boxes are not to be learned or refuted."""
    points: Float64[ndarray, "m 2"]
    types: Int64[ndarray, " m"]
    visibility: Int64[ndarray, " m"]
    unlabelled: Float64[ndarray, "u 4"]
    """Regions in which points are not."""
    pixel_origin: str = "center"

    def cut(self, window_wh: tuple[int, int], *, min_visible: float) -> ImageLabels:
        """What is left where the image ends at a window's edges.

        A box of which less than ``min_visible`` of the area is left becomes a crowd region; a point outside has visibility
        0.
        """
        width, height = map(float, window_wh)
        boxes = cut_boxes(self.boxes, (0.0, 0.0, width, height))
        area = box_areas(boxes)
        is_seen = (area > 0) & (area >= min_visible * box_areas(self.boxes))
        regions = cut_boxes(np.concatenate([self.crowd, self.boxes[~is_seen]]), (0.0, 0.0, width, height))
        shift = SHIFTS[self.pixel_origin]
        unlabelled = cut_boxes(self.unlabelled, (-shift, -shift, width - shift, height - shift))
        return replace(
            self,
            boxes=boxes[is_seen],
            classes=self.classes[is_seen],
            crowd=regions[box_areas(regions) > 0],
            visibility=np.where(_within(self.points + shift, window_wh), self.visibility, UNLABELLED),
            unlabelled=unlabelled[box_areas(unlabelled) > 0],
        )

    def moved(self, view: View) -> ImageLabels:
        """Where all of it comes to lie."""
        corners = self.unlabelled.reshape(-1, 2) + SHIFTS[self.pixel_origin]
        unlabelled = view.move_boxes(corners.reshape(-1, 4)) - SHIFTS[self.pixel_origin]
        return replace(
            self,
            boxes=view.move_boxes(self.boxes),
            crowd=view.move_boxes(self.crowd),
            points=view.move_points(self.points, pixel_origin=self.pixel_origin),
            unlabelled=unlabelled,
        )


class LabelTable:
    """The labels of all images of a dataset.

    Args:
        dataset: images and annotations.
        landmarks: the dataset's points; None: none.
        category_ids: the category of each class, rising.

    Raises:
        CocoError: a category of an annotation is none of these.
    """

    def __init__(self, dataset: CocoDataset, landmarks: CocoKeypoints | None, category_ids: Sequence[int]) -> None:
        _check_categories(dataset.annotations, category_ids)
        num_images = len(dataset.images)
        instances, crowd = dataset.instances, dataset.crowd
        classes = np.searchsorted(np.array(category_ids, np.int64), instances.category_ids)
        self._boxes = _by_image(xywh_to_xyxy(instances.boxes_xywh), instances.image_rows, num_images)
        self._classes = _by_image(classes, instances.image_rows, num_images)
        self._crowd = _by_image(xywh_to_xyxy(crowd.boxes_xywh), crowd.image_rows, num_images)
        self._pixel = "center" if landmarks is None else landmarks.pixel_origin
        self._points, self._types, self._visibility = (
            _by_image(column, image, num_images) for column, image in _point_columns(landmarks)
        )
        self._unlabelled = [np.zeros((0, 4))] * num_images if landmarks is None else list(landmarks.ignored)
        self.points_outside = sum(
            int(((visibility > 0) & ~_within(points + SHIFTS[self._pixel], wh)).sum())
            for points, visibility, wh in zip(self._points, self._visibility, dataset.images.wh, strict=True)
        )
        """Labelled points outside their images."""

    def of_image(self, row: int) -> ImageLabels:
        """The labels of one image, in its own pixels."""
        return ImageLabels(
            self._boxes[row],
            self._classes[row],
            self._crowd[row],
            self._points[row],
            self._types[row],
            self._visibility[row],
            self._unlabelled[row],
            self._pixel,
        )


def _check_categories(annotations: Annotations, category_ids: Sequence[int]) -> None:
    if list(category_ids) != sorted(set(category_ids)):
        raise ValueError(f"category ids rise, each stands once, got {list(category_ids)}")
    unknown = sorted(set(annotations.category_ids.tolist()) - set(category_ids))
    if unknown:
        known = ", ".join(map(str, category_ids))
        raise CocoError(f"annotations are of category {', '.join(map(str, unknown))}; the classes are of {known}")


def _by_image(column: ndarray, image_rows: Int64[ndarray, " n"], num_images: int) -> list[ndarray]:
    """A column sorted by image, cut between images."""
    return np.split(column, np.searchsorted(image_rows, np.arange(1, num_images))) if num_images else []


def _point_columns(landmarks: CocoKeypoints | None) -> list[tuple[ndarray, ndarray]]:
    if landmarks is None:
        nothing = np.zeros(0, np.int64)
        return [(np.zeros((0, 2)), nothing), (nothing, nothing), (nothing, nothing)]
    points = landmarks.landmarks
    return [
        (np.asarray(column), np.asarray(points.image)) for column in (points.points, points.types, points.visibility)
    ]


def _within(points: Float64[ndarray, "n 2"], wh: tuple[int, int] | Int64[ndarray, " 2"]) -> Bool[ndarray, " n"]:
    """Continuous points within 0..width and 0..height."""
    return np.all((points >= 0) & (points <= np.asarray(wh)), axis=1)


@dataclass(frozen=True)
class Labels:
    """What a detector tells apart: classes are the rows of the category ids, which rise; types those of the keypoints."""

    category_ids: tuple[int, ...]
    category_names: tuple[str, ...]
    type_names: tuple[str, ...] = ()
    category_types: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    """The landmark type of each point that an instance of a category has; empty for boxes."""

    @classmethod
    def of(cls, dataset: CocoDataset, landmarks: CocoKeypoints | None = None) -> Labels:
        """The categories of a dataset, and the landmark types of its keypoints.

        Raises:
            ConfigError: there are no categories, or one has several keypoints: heatmaps do not say which of them belong to
                one object.
        """
        ids = dataset.category_ids
        if not ids:
            raise ConfigError(f"{', '.join(dataset.files)}: no categories, so nothing to detect")
        names = tuple(map(dataset.category_name, ids))
        if landmarks is None:
            return cls(ids, names)
        for category, types in landmarks.category_types.items():
            if len(types) != 1:
                raise ConfigError(
                    f"category {dataset.category_name(category)!r} has {len(types)} keypoints: points found in heatmaps "
                    "belong to no object, so COCO's format cannot hold them; give each landmark type a category of one "
                    "keypoint"
                )
        return cls(ids, names, landmarks.type_names, dict(landmarks.category_types))

    def check_names(self, dataset: CocoDataset) -> None:
        """Fail where a dataset gives a category another name: ids alone do not tell that files number them differently.

        Raises:
            CocoError: a category is called otherwise, not only in other letters.
        """
        for category, name in zip(self.category_ids, self.category_names, strict=True):
            own = dataset.categories.get(category)
            if own and name != unnamed(category) and own.casefold() != name.casefold():
                raise CocoError(
                    f"{', '.join(dataset.files)}: category {category} is {own!r}; it was learned as {name!r}"
                )
