"""What is drawn over images: results, and the truth of a dataset."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Int64
from numpy import ndarray

from detect.data import CocoDataset, CocoResults
from detect.keypoints.coordinates import SHIFTS
from detect.keypoints.keypoints import UNLABELLED, CocoKeypoints
from detect.ops.box_arrays import xywh_to_xyxy
from detect.report.pictures import Marks, score_text


@dataclass(frozen=True, eq=False)
class Drawer:
    """Results of score ``least`` or more, and the annotations of a dataset, as marks on its images.

    With ``landmarks`` the truth is their points, else boxes. Crowds are not drawn.
    """

    dataset: CocoDataset
    results: CocoResults
    least: float
    landmarks: CocoKeypoints | None = None
    pixel_origin: str = "center"

    def found(self, image_row: int) -> Marks:
        """What was found in an image, the best on top."""
        ends = np.searchsorted(self._image_rows, [image_row, image_row + 1])
        rows = self._order[ends[0] : ends[1]]
        rows = rows[self.results.scores[rows] >= self.least]
        boxed = rows[np.isfinite(self.results.boxes_xywh[rows]).all(axis=1)]
        tables = [self.results.keypoints[row][:, :2] for row in rows.tolist()]
        points = np.concatenate([np.zeros((0, 2)), *tables]) + SHIFTS[self.pixel_origin]
        of_points = np.repeat(rows, [len(table) for table in tables])
        classes = np.searchsorted(self._categories, self.results.category_ids[np.concatenate([boxed, of_points])])
        return Marks(
            xywh_to_xyxy(self.results.boxes_xywh[boxed]), points, classes, tuple(map(self._text, boxed.tolist()))
        )

    def truth(self, image_row: int) -> Marks:
        """What the annotations say of an image."""
        if self.landmarks is None:
            instances = self.dataset.instances
            own = instances.image_rows == image_row
            classes = np.searchsorted(self._categories, instances.category_ids[own])
            return Marks(xywh_to_xyxy(instances.boxes_xywh[own]), np.zeros((0, 2)), classes)
        points = self.landmarks.landmarks
        own = (np.asarray(points.image) == image_row) & (np.asarray(points.visibility) != UNLABELLED)
        placed = np.asarray(points.points)[own] + SHIFTS[self.landmarks.pixel_origin]
        return Marks(np.zeros((0, 4)), placed, np.asarray(points.types)[own].astype(np.int64))

    @cached_property
    def _order(self) -> Int64[ndarray, " n"]:
        """Rows of the results by image and rising score."""
        return np.lexsort((self.results.scores, self.results.image_rows)).astype(np.int64)

    @cached_property
    def _image_rows(self) -> Int64[ndarray, " n"]:
        return self.results.image_rows[self._order]

    @cached_property
    def _categories(self) -> Int64[ndarray, " c"]:
        return np.array(self.dataset.category_ids, np.int64)

    def _text(self, row: int) -> str:
        category = int(self.results.category_ids[row])
        name = self.dataset.category_name(category) if len(self._categories) > 1 else ""
        return score_text(name, float(self.results.scores[row]))
