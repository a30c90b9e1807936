"""The landmarks of a COCO dataset: its keypoints, or the centres of its boxes; and the regions that say nothing.

Each category has its own landmark types, in the order of category ids, so a category of 17 keypoints has 17. As
pycocotools ignores what it finds on crowds and on instances without a labelled keypoint, their boxes are regions to
ignore: nobody said what is there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float64, Int64
from numpy import ndarray

from detect.boxes import xywh_to_xyxy
from detect.coco import Annotations, CocoDataset
from detect.errors import CocoError
from detect.keypoints.cells import SHIFTS
from detect.keypoints.landmarks import VISIBLE, Landmarks


@dataclass(frozen=True, eq=False)
class CocoLandmarks:
    """Landmarks of all images of a dataset, ``landmarks.image`` being rows of ``dataset.images``."""

    dataset: CocoDataset
    landmarks: Landmarks
    pixel: str
    """The convention of the coordinates, see :mod:`detect.keypoints.cells`."""
    rows: Int64[ndarray, " n"]
    """The instance of each point, a row of ``dataset.instances``."""
    ignored: tuple[Float64[ndarray, "_ 4"], ...]
    """For each image boxes (x0, y0, x1, y1), in the points' convention."""
    joint_names: tuple[str, ...]
    joints: Mapping[int, tuple[int, ...]]
    """The landmark type of each point that an instance of a category has."""

    @property
    def sizes_wh(self) -> Float64[ndarray, "n 2"]:
        """Width and height in pixels of each point's instance."""
        return self.dataset.instances.boxes_xywh[self.rows, 2:]

    def take(self, images: Sequence[int]) -> CocoLandmarks:
        """These images, in this order, as the batch: ``landmarks.image`` counts within it."""
        points = self.landmarks
        start, end = (np.searchsorted(points.image, images, side=side) for side in ("left", "right"))
        where = np.concatenate([np.arange(*ends) for ends in zip(start, end, strict=True)]).astype(np.int64)
        batch = Landmarks(
            points.points[where],
            np.repeat(np.arange(len(images)), end - start),
            points.joint[where],
            points.visibility[where],
            len(images),
            points.num_joints,
        )
        ignored = tuple(self.ignored[image] for image in images)
        return replace(self, landmarks=batch, rows=self.rows[where], ignored=ignored)

    def with_types(self, names: Sequence[str], joints: Mapping[int, tuple[int, ...]]) -> CocoLandmarks:
        """The same points by other numbers of their types: those of a dataset that may have more of them.

        Raises:
            CocoError: a category has no types there, or another number of them.
        """
        number = np.zeros(self.landmarks.num_joints, np.int64)
        for category, own in self.joints.items():
            wanted = joints.get(category, ())
            if len(wanted) != len(own):
                name = self.dataset.category_name(category)
                raise CocoError(
                    f"category {name!r} has {len(own)} keypoints here, and {len(wanted)} where it was learned"
                )
            number[list(own)] = wanted
        landmarks = replace(self.landmarks, joint=number[self.landmarks.joint], num_joints=len(names))
        return replace(self, landmarks=landmarks, joint_names=tuple(names), joints=dict(joints))

    def take_images(self, images: Int64[ndarray, " m"]) -> CocoLandmarks:
        """These images, rows that rise, as a dataset of their own; the types of landmark stay."""
        kept = np.isin(self.dataset.instances.image_rows, images)
        taken = self.take(images.tolist())
        return replace(taken, dataset=self.dataset.take_images(images), rows=(np.cumsum(kept) - 1)[taken.rows])


def keypoint_landmarks(dataset: CocoDataset, *, pixel: str = "center", merge: bool = False) -> CocoLandmarks:
    """The keypoints of a dataset that was read with ``keypoints=True``.

    Args:
        dataset: any COCO dataset with keypoints.
        pixel: what whole coordinates mean, see :mod:`detect.keypoints.cells`.
        merge: take all keypoints of all categories for one type of landmark.

    Raises:
        CocoError: there is no labelled keypoint, or instances of one category differ in their number.

    >>> from detect.coco import read_coco
    >>> from detect.samples import sample_annotations
    >>> nuclei = keypoint_landmarks(read_coco(sample_annotations("nuclei"), keypoints=True))
    >>> len(nuclei.landmarks.points), nuclei.joint_names
    (318, ('nucleus',))
    """
    if pixel not in SHIFTS:
        raise ValueError(f"pixel is one of {', '.join(SHIFTS)}, got {pixel!r}")
    instances = dataset.instances
    tables = instances.keypoints
    labelled = np.array([bool((table[:, 2] > 0).any()) for table in tables or ()])
    if tables is None or not labelled.any():
        raise CocoError(f"{', '.join(dataset.files)}: no annotation has a labelled keypoint")
    joints, names = _joints_of_categories(dataset, labelled)
    rows = np.repeat(np.arange(len(tables)), [len(table) * keep for table, keep in zip(tables, labelled, strict=True)])
    flat = np.concatenate([np.zeros((0, 3)), *(table for table, keep in zip(tables, labelled, strict=True) if keep)])
    silent = instances.take(np.flatnonzero(~labelled))
    return _landmarks(dataset, flat, rows, joints, names, pixel=pixel, silent=silent, merge=merge)


def box_landmarks(dataset: CocoDataset, *, merge: bool = False) -> CocoLandmarks:
    """The centres of a dataset's boxes, one type of landmark for each category: the objects as points of CenterNet.

    Raises:
        CocoError: there are no boxes.

    >>> from detect.coco import read_coco
    >>> from detect.samples import sample_annotations
    >>> cells = box_landmarks(read_coco(sample_annotations("bccd")))
    >>> cells.landmarks.num_joints, cells.joint_names
    (3, ('WBC', 'RBC', 'Platelets'))
    """
    instances = dataset.instances
    if not len(instances):
        raise CocoError(f"{', '.join(dataset.files)}: no boxes that can be used")
    centers = instances.boxes_xywh[:, :2] + instances.boxes_xywh[:, 2:] / 2
    flat = np.concatenate([centers, np.full((len(centers), 1), float(VISIBLE))], axis=1)
    categories = sorted(set(instances.category_ids.tolist()))
    joints = {category: (number,) for number, category in enumerate(categories)}
    names, silent = tuple(map(dataset.category_name, categories)), instances.take(slice(0))
    return _landmarks(dataset, flat, np.arange(len(flat)), joints, names, pixel="corner", silent=silent, merge=merge)


def _joints_of_categories(
    dataset: CocoDataset, labelled: Bool[ndarray, " n"]
) -> tuple[dict[int, tuple[int, ...]], tuple[str, ...]]:
    """The landmark types of each category, and the names of all types."""
    instances = dataset.instances
    counts: dict[int, int] = {}
    for row in np.flatnonzero(labelled).tolist():
        category, count = int(instances.category_ids[row]), len((instances.keypoints or ())[row])
        if counts.setdefault(category, count) != count:
            raise CocoError(
                f"annotation {instances.ids[row]} has {count} keypoints, others of category "
                f"{dataset.category_name(category)!r} have {counts[category]}"
            )
    joints: dict[int, tuple[int, ...]] = {}
    names: list[str] = []
    for category in sorted(counts):
        joints[category] = tuple(range(len(names), len(names) + counts[category]))
        name = dataset.category_name(category)
        names += [name] if counts[category] == 1 else [f"{name} {number}" for number in range(counts[category])]
    return joints, tuple(names)


def _landmarks(
    dataset: CocoDataset,
    flat: Float64[ndarray, "n 3"],
    rows: Int64[ndarray, " n"],
    joints: Mapping[int, tuple[int, ...]],
    names: tuple[str, ...],
    *,
    pixel: str,
    silent: Annotations,
    merge: bool,
) -> CocoLandmarks:
    num_images = len(dataset.images)
    regions = [dataset.crowd, silent]
    image = np.concatenate([each.image_rows for each in regions])
    boxes = xywh_to_xyxy(np.concatenate([each.boxes_xywh for each in regions])) - SHIFTS[pixel]
    order = image.argsort(kind="stable")
    ignored = tuple(np.split(boxes[order], np.searchsorted(image[order], np.arange(1, num_images))))
    if merge:
        joints = {category: (0,) * len(own) for category, own in joints.items()}
        names = (" / ".join(names),)
    categories = dataset.instances.category_ids[rows].tolist()
    number = np.arange(len(rows)) - np.searchsorted(rows, rows)  # of each point in its instance
    joint = [joints[category][place] for category, place in zip(categories, number.tolist(), strict=True)]
    landmarks = Landmarks(
        flat[:, :2],
        dataset.instances.image_rows[rows],
        np.array(joint, np.int64),
        flat[:, 2].astype(np.int64),
        num_images,
        len(names),
    )
    return CocoLandmarks(dataset, landmarks, pixel, rows, ignored, names, joints)
