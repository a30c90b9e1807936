"""Labelled keypoints of a batch of images, any number in each image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64, Shaped
from numpy import ndarray

from detect.ops.array_kinds import Array, check_kinds, check_shape, in_arrays, like, to_numpy

UNLABELLED, OCCLUDED, VISIBLE = 0, 1, 2  # COCO's visibility of a keypoint


@dataclass(frozen=True, eq=False)
class Keypoints:
    """One row for each keypoint, in NumPy arrays or tensors: its position, image, type and visibility.

    ``points`` (n, 2) or (n, 3) are x, y(, z) in pixels of their image. ``image`` and ``types`` (n,) are indices from 0.
    ``visibility`` (n,) is COCO's: 0 not labelled (the coordinates mean nothing), 1 labelled but occluded, 2 visible.
    ``angles`` (n,), if there are any, are in radians by :mod:`detect.keypoints.orientations`, NaN where unknown.
    """

    points: Array
    image: Array
    types: Array
    visibility: Array
    num_images: int
    num_types: int = 1
    angles: Array | None = None

    def __post_init__(self) -> None:
        count = len(self.points)
        columns = {"image": self.image, "types": self.types, "visibility": self.visibility}
        columns |= {} if self.angles is None else {"angles": self.angles}
        check_kinds(points=self.points, **columns)
        check_shape("points", self.points, (count, 2), (count, 3))
        for name, column in columns.items():
            check_shape(f"one value of {name} for each point,", column, (count,))

    @classmethod
    def of(cls, images: Sequence[Array], *, dims: int = 2) -> Keypoints:
        """Join one array for each image: (n, dims) points of one type, or (n, j, dims), n instances of j keypoints each.

        If the last axis has dims + 1 values, the last one is the visibility; otherwise all points are visible.

        >>> Keypoints.of([np.array([[3.0, 4.0], [5.0, 6.0]]), np.zeros((0, 2))]).image
        array([0, 0])

        Raises:
            ValueError: there is no image, an array has another shape, or a visibility is not 0, 1 or 2.
        """
        if not len(images):
            raise ValueError("need the points of at least one image; an image without points has shape (0, 2)")
        check_kinds(**{f"image {number}": each for number, each in enumerate(images)})
        tables = [_table(to_numpy(each), dims) for each in images]
        num_types = tables[0].shape[1]
        if any(table.shape[1] != num_types for table in tables):
            raise ValueError(f"images differ in keypoint types: {[table.shape[1] for table in tables]}")
        rows = np.concatenate(tables).reshape(-1, dims + 1)
        if not (known := np.isin(rows[:, dims], (UNLABELLED, OCCLUDED, VISIBLE))).all():
            first = int(np.flatnonzero(~known)[0])
            raise ValueError(
                f"keypoint {first} has visibility {rows[first, dims]:g}, not 0, 1 or 2: give scores separately"
            )
        image = np.repeat(np.arange(len(tables)), [len(table) * num_types for table in tables])
        columns = rows[:, :dims], image, np.arange(len(image)) % num_types, rows[:, dims].astype(np.int64)
        points, image, types, visibility = (like(each, images[0]) for each in columns)
        return cls(points, image, types, visibility, len(tables), num_types)

    def per_image(self) -> list[Float64[ndarray, "_ d"]]:
        """Return the labelled points as ``truth`` for :func:`detect.evaluation.points.score_points`, always in NumPy.

        The list has one array for each image or, with several keypoint types, for each image and type, ordered by image,
        then type.

        >>> Keypoints.of([np.array([[3.0, 4.0, 2.0], [5.0, 6.0, 0.0]]), np.zeros((0, 3))]).per_image()
        [array([[3., 4.]]), array([], shape=(0, 2), dtype=float64)]
        """
        return self._by_map(self.points)

    def angles_per_image(self) -> list[Float64[ndarray, " _"]] | None:
        """Return the angles of the labelled points, in the order of :meth:`per_image`; None if there are none."""
        return None if self.angles is None else self._by_map(self.angles)

    def _by_map(self, column: Array) -> list[ndarray]:
        image, types, visibility = map(to_numpy, (self.image, self.types, self.visibility))
        labelled = visibility != UNLABELLED
        group = (image * self.num_types + types)[labelled]
        return by_group(to_numpy(column)[labelled].astype(np.float64), group, self.num_images * self.num_types)


KeypointsLike = Keypoints | Sequence[Array]  # keypoints, or one array for each image as Keypoints.of takes them


@in_arrays
def is_predicted(table: Float[ndarray, "n 3"]) -> Bool[ndarray, " n"]:
    """Whether each keypoint of a result is predicted: it is finite, and not 0, 0, 0.

    >>> is_predicted(np.array([[3.0, 4.0, 1.0], [0.0, 0.0, 0.0], [np.nan, 4.0, 1.0]]))
    array([ True, False, False])
    """
    return np.asarray(np.isfinite(table).all(axis=1) & table.any(axis=1))


@in_arrays
def by_group(values: Shaped[ndarray, "n ..."], group: Int64[ndarray, " n"], num_groups: int) -> list[ndarray]:
    """Split rows into one array for each group from 0 to ``num_groups`` - 1; rows of a group keep their order.

    >>> by_group(np.array([5.0, 6.0, 7.0]), np.array([1, 0, 1]), 3)
    [array([6.]), array([5., 7.]), array([], dtype=float64)]
    """
    check_shape("one group for each row,", group, (len(values),))
    order = np.argsort(group, kind="stable")
    return np.split(values[order], np.searchsorted(group[order], np.arange(1, num_groups)))


def _table(points: ndarray, dims: int) -> ndarray:
    """Points (n, j, dims + 1), the last value being the visibility."""
    table = points[:, None] if points.ndim == 2 else points
    if table.ndim != 3 or table.shape[2] not in {dims, dims + 1} or table.shape[1] < 1:
        raise ValueError(f"points are (n, {dims}) or (n, j, {dims}), with or without visibility, got {points.shape}")
    if table.shape[2] == dims + 1:
        return table
    return np.concatenate([table, np.full_like(table[..., :1], VISIBLE)], axis=2)
