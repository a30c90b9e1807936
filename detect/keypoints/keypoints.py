"""The labelled points of a batch of images, as many as each image has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64
from numpy import ndarray
from torch import Tensor

from detect.data import Annotations, CocoDataset
from detect.errors import CocoError
from detect.keypoints.coordinates import SHIFTS
from detect.ops.box_arrays import xywh_to_xyxy

Array = np.ndarray | Tensor

UNLABELLED, HIDDEN, VISIBLE = 0, 1, 2  # COCO's visibility of a keypoint


@dataclass(frozen=True, eq=False)
class Keypoints:
    """One row for each point, in NumPy or torch alike: where, in which image, of which type.

    ``points`` (n, 2) or (n, 3) are x, y(, z) in the coordinates of their image; ``image`` and ``joint`` (n,) are whole
    numbers from 0, ``joint`` the type of landmark; ``visibility`` (n,) is COCO's: 0 not labelled (the point means nothing),
    1 labelled but hidden, 2 visible.

    Raises:
        ValueError: another number of rows in one column than in the others.
    """

    points: Array
    image: Array
    joint: Array
    visibility: Array
    num_images: int
    num_types: int = 1

    def __post_init__(self) -> None:
        for name, column in (("image", self.image), ("joint", self.joint), ("visibility", self.visibility)):
            if tuple(column.shape) != (len(self.points),):
                shape = tuple(column.shape)
                raise ValueError(f"landmarks have one {name} for each of {len(self.points)} points, got {shape}")

    @classmethod
    def of(cls, images: Sequence[Array], *, dims: int = 2) -> Keypoints:
        """From one array for each image: (n, dims), all of one type, or (n, j, dims), n instances of j landmarks each.

        A last axis of dims + 1 ends with the visibility, else all are visible.

        >>> Keypoints.of([np.array([[3.0, 4.0], [5.0, 6.0]]), np.zeros((0, 2))]).image
        array([0, 0])

        Raises:
            ValueError: no image, or arrays of another shape.
        """
        if not len(images):
            raise ValueError("need the points of at least one image; of one without points they are of shape (0, 2)")
        tables = [_table(each, dims) for each in images]
        num_types = tables[0].shape[1]
        if any(table.shape[1] != num_types for table in tables):
            raise ValueError(f"images differ in landmark types: {[table.shape[1] for table in tables]}")
        counts = [len(table) * num_types for table in tables]
        image = np.repeat(np.arange(len(tables)), counts)
        joint = np.arange(len(image)) % num_types
        if isinstance(tables[0], Tensor):
            flat = torch.cat([torch.as_tensor(table) for table in tables]).reshape(-1, dims + 1)
            of_image, of_joint = (torch.from_numpy(each).to(flat.device) for each in (image, joint))
            return cls(flat[:, :dims], of_image, of_joint, flat[:, dims].long(), len(tables), num_types)
        rows = np.concatenate([np.asarray(table) for table in tables]).reshape(-1, dims + 1)
        return cls(rows[:, :dims], image, joint, rows[:, dims].astype(np.int64), len(tables), num_types)


def _table(points: Array, dims: int) -> Array:
    """Points (n, j, dims + 1) with their visibility."""
    table = points[:, None] if points.ndim == 2 else points
    if table.ndim != 3 or table.shape[2] not in {dims, dims + 1} or table.shape[1] < 1:
        raise ValueError(
            f"points are (n, {dims}) or (n, j, {dims}), with or without visibility, got {tuple(points.shape)}"
        )
    if table.shape[2] == dims + 1:
        return table
    if isinstance(table, Tensor):
        return torch.cat([table, torch.full_like(table[..., :1], VISIBLE)], dim=2)
    return np.concatenate([table, np.full_like(table[..., :1], VISIBLE)], axis=2)


@dataclass(frozen=True, eq=False)
class CocoKeypoints:
    """Keypoints of all images of a dataset, ``landmarks.image`` being rows of ``dataset.images``."""

    dataset: CocoDataset
    landmarks: Keypoints
    pixel_origin: str
    """The convention of the coordinates, see :mod:`detect.keypoints.coordinates`."""
    rows: Int64[ndarray, " n"]
    """The instance of each point, a row of ``dataset.instances``."""
    ignored: tuple[Float64[ndarray, "_ 4"], ...]
    """For each image boxes (x0, y0, x1, y1), in the points' convention."""
    type_names: tuple[str, ...]
    joints: Mapping[int, tuple[int, ...]]
    """The landmark type of each point that an instance of a category has."""

    @property
    def sizes_wh(self) -> Float64[ndarray, "n 2"]:
        """Width and height in pixels of each point's instance."""
        return self.dataset.instances.boxes_xywh[self.rows, 2:]

    def take(self, images: Sequence[int]) -> CocoKeypoints:
        """These images, in this order, as the batch: ``landmarks.image`` counts within it."""
        points = self.landmarks
        start, end = (np.searchsorted(points.image, images, side=side) for side in ("left", "right"))
        where = np.concatenate([np.arange(*ends) for ends in zip(start, end, strict=True)]).astype(np.int64)
        batch = Keypoints(
            points.points[where],
            np.repeat(np.arange(len(images)), end - start),
            points.joint[where],
            points.visibility[where],
            len(images),
            points.num_types,
        )
        ignored = tuple(self.ignored[image] for image in images)
        return replace(self, landmarks=batch, rows=self.rows[where], ignored=ignored)

    def with_types(self, names: Sequence[str], joints: Mapping[int, tuple[int, ...]]) -> CocoKeypoints:
        """The same points by other numbers of their types: those of a dataset that may have more of them.

        Raises:
            CocoError: a category has no types there, or another number of them.
        """
        number = np.zeros(self.landmarks.num_types, np.int64)
        for category, own in self.joints.items():
            wanted = joints.get(category, ())
            if len(wanted) != len(own):
                name = self.dataset.category_name(category)
                raise CocoError(
                    f"category {name!r} has {len(own)} keypoints here, and {len(wanted)} where it was learned"
                )
            number[list(own)] = wanted
        landmarks = replace(self.landmarks, joint=number[self.landmarks.joint], num_types=len(names))
        return replace(self, landmarks=landmarks, type_names=tuple(names), joints=dict(joints))

    def take_images(self, images: Int64[ndarray, " m"]) -> CocoKeypoints:
        """These images, rows that rise, as a dataset of their own; the types of landmark stay."""
        kept = np.isin(self.dataset.instances.image_rows, images)
        taken = self.take(images.tolist())
        return replace(taken, dataset=self.dataset.take_images(images), rows=(np.cumsum(kept) - 1)[taken.rows])


def coco_keypoints(dataset: CocoDataset, *, pixel_origin: str = "center", merge: bool = False) -> CocoKeypoints:
    """The keypoints of a dataset that was read with ``keypoints=True``.

    Args:
        dataset: any COCO dataset with keypoints.
        pixel: what whole coordinates mean, see :mod:`detect.keypoints.coordinates`.
        merge: take all keypoints of all categories for one type of landmark.

    Raises:
        CocoError: there is no labelled keypoint, or instances of one category differ in their number.

    >>> from detect.data import read_coco
    >>> from detect.samples import sample_annotations
    >>> nuclei = coco_keypoints(read_coco(sample_annotations("nuclei"), keypoints=True))
    >>> len(nuclei.landmarks.points), nuclei.type_names
    (318, ('nucleus',))
    """
    if pixel_origin not in SHIFTS:
        raise ValueError(f"pixel is one of {', '.join(SHIFTS)}, got {pixel_origin!r}")
    instances = dataset.instances
    tables = instances.keypoints
    labelled = np.array([bool((table[:, 2] > 0).any()) for table in tables or ()])
    if tables is None or not labelled.any():
        raise CocoError(f"{', '.join(dataset.files)}: no annotation has a labelled keypoint")
    joints, names = _joints_of_categories(dataset, labelled)
    rows = np.repeat(np.arange(len(tables)), [len(table) * keep for table, keep in zip(tables, labelled, strict=True)])
    flat = np.concatenate([np.zeros((0, 3)), *(table for table, keep in zip(tables, labelled, strict=True) if keep)])
    silent = instances.take(np.flatnonzero(~labelled))
    return _landmarks(dataset, flat, rows, joints, names, pixel_origin=pixel_origin, silent=silent, merge=merge)


def box_keypoints(dataset: CocoDataset, *, merge: bool = False) -> CocoKeypoints:
    """The centres of a dataset's boxes, one type of landmark for each category: the objects as points of CenterNet.

    Raises:
        CocoError: there are no boxes.

    >>> from detect.data import read_coco
    >>> from detect.samples import sample_annotations
    >>> cells = box_keypoints(read_coco(sample_annotations("bccd")))
    >>> cells.landmarks.num_types, cells.type_names
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
    return _landmarks(
        dataset, flat, np.arange(len(flat)), joints, names, pixel_origin="corner", silent=silent, merge=merge
    )


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
    pixel_origin: str,
    silent: Annotations,
    merge: bool,
) -> CocoKeypoints:
    num_images = len(dataset.images)
    regions = [dataset.crowd, silent]
    image = np.concatenate([each.image_rows for each in regions])
    boxes = xywh_to_xyxy(np.concatenate([each.boxes_xywh for each in regions])) - SHIFTS[pixel_origin]
    order = image.argsort(kind="stable")
    ignored = tuple(np.split(boxes[order], np.searchsorted(image[order], np.arange(1, num_images))))
    if merge:
        joints = {category: (0,) * len(own) for category, own in joints.items()}
        names = (" / ".join(names),)
    categories = dataset.instances.category_ids[rows].tolist()
    number = np.arange(len(rows)) - np.searchsorted(rows, rows)  # of each point in its instance
    joint = [joints[category][place] for category, place in zip(categories, number.tolist(), strict=True)]
    landmarks = Keypoints(
        flat[:, :2],
        dataset.instances.image_rows[rows],
        np.array(joint, np.int64),
        flat[:, 2].astype(np.int64),
        num_images,
        len(names),
    )
    return CocoKeypoints(dataset, landmarks, pixel_origin, rows, ignored, names, joints)
