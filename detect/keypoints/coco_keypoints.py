"""The keypoints of a COCO dataset: their types, the regions without labels, and their orientations.

An orientation comes from a head and a tail, or from the angle of an annotation with one point: degrees, clockwise on screen,
0 to the right.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float64, Int64
from numpy import ndarray

from detect.data import CocoDataset, Finding
from detect.data.coco_entries import ANGLE_FIELDS
from detect.errors import CocoError
from detect.keypoints.coordinates import origin_shift
from detect.keypoints.keypoints import UNLABELLED, VISIBLE, Keypoints, by_group
from detect.keypoints.orientations import NO_ORIENTATION, angles_between, check_orientation
from detect.ops.box_arrays import xywh_to_xyxy
from detect.wording import plural

UNLABELLED_CHOICES = ("ignore", "background", "map")
ALL_TYPES = -1  # of a region: for every keypoint type


@dataclass(frozen=True, eq=False)
class CocoKeypoints:
    """Keypoints of all images of a dataset; ``landmarks.image`` are rows of ``dataset.images``."""

    dataset: CocoDataset
    landmarks: Keypoints
    pixel_origin: str  # meaning of whole coordinates, see detect.keypoints.coordinates
    rows: Int64[ndarray, " n"]  # instance of each point, a row of dataset.instances
    ignored: tuple[Float64[ndarray, "_ 4"], ...]  # regions of each image, (x0, y0, x1, y1) in the points' convention
    type_names: tuple[str, ...]
    category_types: Mapping[int, tuple[int, ...]]  # types of the points that an instance of each category has
    orientation: str = NO_ORIENTATION  # what the angles of the landmarks are, see detect.keypoints.orientations
    about_angles: str = ""  # where angles of annotations were read, and how many are unknown, in words

    @property
    def sizes_wh(self) -> Float64[ndarray, "n 2"]:
        """Width and height of each point's instance, in pixels."""
        return self.dataset.instances.boxes_xywh[self.rows, 2:]

    def count_by_type(self) -> dict[str, int]:
        """The number of labelled points of each type, by its name."""
        labelled = np.asarray(self.landmarks.visibility) != UNLABELLED
        counts = np.bincount(np.asarray(self.landmarks.types)[labelled], minlength=len(self.type_names))
        return dict(zip(self.type_names, counts.tolist(), strict=True))

    def ignored_regions(self, unlabelled: str = "ignore") -> list[Float64[ndarray, "_ 4"]]:
        """The regions of each image and type, ordered by image, then type, in which unlabelled points may lie.

        These are the ``ignored`` regions of the image first. An instance whose keypoint of this type is not labelled, though
        another one is, adds its box with ``unlabelled="ignore"``, the whole image with ``"map"`` (as MMPose gives such a
        keypoint weight 0), and nothing with ``"background"``. An annotation that came without a box has the box of its
        labelled keypoints alone, which hardly holds the others: ``"map"`` suits it better.
        """
        if unlabelled not in UNLABELLED_CHOICES:
            raise ValueError(f"unlabelled is one of {', '.join(UNLABELLED_CHOICES)}, got {unlabelled!r}")
        points = self.landmarks
        num_groups = points.num_images * points.num_types
        regions = [own for own in self.ignored for _ in range(points.num_types)]
        rows = np.flatnonzero(np.asarray(points.visibility) == UNLABELLED)
        if unlabelled == "background" or not len(rows):
            return regions
        group = (np.asarray(points.image) * points.num_types + np.asarray(points.types))[rows]
        instances = self.rows[rows]
        boxes = xywh_to_xyxy(self.dataset.instances.boxes_xywh[instances])
        if unlabelled == "map":
            image_wh = self.dataset.images.wh[self.dataset.instances.image_rows[instances]].astype(np.float64)
            boxes = np.concatenate([np.zeros_like(image_wh), image_wh], axis=1)
        boxes -= origin_shift(self.pixel_origin)
        return [np.concatenate(both) for both in zip(regions, by_group(boxes, group, num_groups), strict=True)]

    def take(self, images: Sequence[int]) -> CocoKeypoints:
        """Select images as a batch, in this order; ``landmarks.image`` then counts within the batch."""
        points = self.landmarks
        start, end = (np.searchsorted(points.image, images, side=side) for side in ("left", "right"))
        where = np.concatenate([np.arange(*ends) for ends in zip(start, end, strict=True)]).astype(np.int64)
        image, types = np.repeat(np.arange(len(images)), end - start), points.types[where]
        xy, visibility = points.points[where], points.visibility[where]
        angles = None if points.angles is None else points.angles[where]
        batch = Keypoints(xy, image, types, visibility, len(images), points.num_types, angles)
        ignored = tuple(self.ignored[row] for row in images)
        return replace(self, landmarks=batch, rows=self.rows[where], ignored=ignored)

    def with_types(self, names: Sequence[str], category_types: Mapping[int, tuple[int, ...]]) -> CocoKeypoints:
        """Renumber the keypoint types as another dataset does, in which each category must have as many of them."""
        number = np.zeros(self.landmarks.num_types, np.int64)
        for category, own in self.category_types.items():
            wanted = category_types.get(category, ())
            if len(wanted) != len(own):
                counts = f"{len(own)} keypoints here, but {len(wanted)} in the training data"
                raise CocoError(f"category {self.dataset.category_name(category)!r} has {counts}")
            here, there = [self.type_names[each] for each in own], [names[each] for each in wanted]
            if here != there and all(": " in each for each in here + there):
                raise CocoError(f"keypoints are named {here} here, but {there} in the training data")
            number[list(own)] = wanted
        landmarks = replace(self.landmarks, types=number[self.landmarks.types], num_types=len(names))
        return replace(self, landmarks=landmarks, type_names=tuple(names), category_types=dict(category_types))

    def take_images(self, images: Int64[ndarray, " m"]) -> CocoKeypoints:
        """Select images, given as rising rows, as a dataset of their own with the same keypoint types."""
        kept = np.isin(self.dataset.instances.image_rows, images)
        taken = self.take(images.tolist())
        return replace(taken, dataset=self.dataset.take_images(images), rows=(np.cumsum(kept) - 1)[taken.rows])


def coco_keypoints(
    dataset: CocoDataset, *, pixel_origin: str = "center", merge: bool = False, orientation: str = NO_ORIENTATION
) -> CocoKeypoints:
    """Collect the keypoints of a dataset that was read with ``keypoints=True``.

    Crowd regions and instances without a labelled keypoint become ignored regions. So do instances with another number of
    keypoints than most of their category, which are among the ``suspicious`` findings of the result's dataset. With
    ``merge``, all keypoints of all categories have one type. For ``pixel_origin`` see :mod:`detect.keypoints.coordinates`.

    With an ``orientation``, ``"directed"`` or ``"axis"``, points have angles. Two keypoints of an instance are its head and
    its tail: they become one point, the middle, with the angle in which the head lies. An instance of which only one is
    labelled becomes an ignored region. A single keypoint has the angle of its annotation, if the dataset was read with
    ``angles=True``; without any keypoints in the dataset, the centres of boxes are the points. A missing angle is NaN.

    Raises:
        CocoError: no keypoint is labelled, or a category has neither two keypoints nor one and angles for an orientation.

    >>> from detect.data import read_coco
    >>> from detect.samples import sample_annotations
    >>> nuclei = coco_keypoints(read_coco(sample_annotations("nuclei"), keypoints=True))
    >>> len(nuclei.landmarks.points), nuclei.type_names
    (318, ('nucleus',))
    """
    origin_shift(pixel_origin)  # raises for an unknown one
    check_orientation(orientation)
    dataset = dataset.with_pixel_origin(pixel_origin)
    tables = dataset.instances.keypoints or ()
    flat = np.concatenate([np.zeros((0, 3)), *tables])
    counts = np.array([len(table) for table in tables], np.int64)
    if not (flat[:, 2] > 0).any():
        if orientation == NO_ORIENTATION or dataset.instances.angles_deg is None:
            boxes = "box_keypoints (detect heatmaps --from boxes) takes centres of boxes"
            raise CocoError(f"{', '.join(dataset.files)}: no annotation has a labelled keypoint: {boxes}")
        flat, counts = _centers(dataset, pixel_origin), np.ones(len(dataset.instances), np.int64)
    found = _collect(dataset, flat, counts, pixel_origin=pixel_origin)
    found = found if orientation == NO_ORIENTATION else _oriented(found, orientation)
    return _merged(found) if merge else found


def box_keypoints(dataset: CocoDataset, *, merge: bool = False, orientation: str = NO_ORIENTATION) -> CocoKeypoints:
    """Take the centres of a dataset's boxes as keypoints, one type for each category (objects as points, as in CenterNet).

    With ``merge``, the centres of all categories have one type. With an ``orientation`` they have the angles of the dataset,
    as in :func:`coco_keypoints`.

    Raises:
        CocoError: no box is valid, or there are no angles for an orientation.

    >>> from detect.data import read_coco
    >>> from detect.samples import sample_annotations
    >>> cells = box_keypoints(read_coco(sample_annotations("bccd")))
    >>> cells.landmarks.num_types, cells.type_names
    (3, ('WBC', 'RBC', 'Platelets'))
    """
    check_orientation(orientation)
    if not len(dataset.instances):
        raise CocoError(f"{', '.join(dataset.files)}: no valid boxes")
    flat = _centers(dataset, "corner")
    found = _collect(dataset, flat, np.ones(len(flat), np.int64), pixel_origin="corner")
    found = found if orientation == NO_ORIENTATION else _oriented(found, orientation)
    return _merged(found) if merge else found


def _centers(dataset: CocoDataset, pixel_origin: str) -> Float64[ndarray, "n 3"]:
    """The centres of the instances' boxes as visible keypoints."""
    boxes_xywh = dataset.instances.boxes_xywh
    centers = boxes_xywh[:, :2] + boxes_xywh[:, 2:] / 2 - origin_shift(pixel_origin)
    return np.concatenate([centers, np.full((len(centers), 1), float(VISIBLE))], axis=1)


def _collect(
    dataset: CocoDataset,
    flat: Float64[ndarray, "n 3"],
    counts: Int64[ndarray, " m"],
    *,
    pixel_origin: str,
) -> CocoKeypoints:
    """Collect the rows (x, y, visibility) of the instances, of which each has ``counts``."""
    instances, num_images = dataset.instances, len(dataset.images)
    rows = np.repeat(np.arange(len(counts)), counts)
    labelled = np.bincount(rows, weights=flat[:, 2] > 0, minlength=len(counts)) > 0
    usual = _usual_counts(instances.category_ids, counts, labelled)
    odd = np.flatnonzero(labelled & (counts != usual))
    labelled[odd] = False
    dataset = _with_odd(dataset, zip(odd.tolist(), counts[odd].tolist(), usual[odd].tolist(), strict=True))
    flat, rows = flat[labelled[rows]], rows[labelled[rows]]
    category_types = _types_of_categories(dataset, counts, np.flatnonzero(labelled))
    first = np.array([own[0] for own in category_types.values()], np.int64)
    of_category = np.searchsorted(list(category_types), instances.category_ids[rows])
    types = first[of_category] + np.arange(len(rows)) - np.searchsorted(rows, rows)
    names = [name for category, own in category_types.items() for name in _type_names(dataset, category, len(own))]
    regions = [dataset.crowd, instances.take(np.flatnonzero(~labelled))]
    boxes = xywh_to_xyxy(np.concatenate([each.boxes_xywh for each in regions])) - origin_shift(pixel_origin)
    ignored = by_group(boxes, np.concatenate([each.image_rows for each in regions]), num_images)
    image, visibility = instances.image_rows[rows], flat[:, 2].astype(np.int64)
    landmarks = Keypoints(flat[:, :2], image, types, visibility, num_images, len(names))
    return CocoKeypoints(dataset, landmarks, pixel_origin, rows, tuple(ignored), tuple(names), category_types)


def _merged(found: CocoKeypoints) -> CocoKeypoints:
    """The same keypoints with one type."""
    points = replace(found.landmarks, types=np.zeros_like(found.landmarks.types), num_types=1)
    category_types = {category: (0,) * len(own) for category, own in found.category_types.items()}
    return replace(found, landmarks=points, type_names=(" / ".join(found.type_names),), category_types=category_types)


def _oriented(found: CocoKeypoints, orientation: str) -> CocoKeypoints:
    """One point for each instance, with its angle; one whose head or tail is not labelled is an ignored region."""
    _check_angles(found, orientation)
    dataset, instances, points = found.dataset, found.dataset.instances, found.landmarks
    rows, head, counts = np.unique(found.rows, return_index=True, return_counts=True)
    tail = head + counts - 1  # of a single point, the same as its head
    visibility = np.minimum(points.visibility[head], points.visibility[tail])
    whole = visibility != UNLABELLED
    if not whole.any():
        raise CocoError(f"{', '.join(dataset.files)}: no annotation has both a labelled head and a labelled tail")
    boxes = xywh_to_xyxy(instances.boxes_xywh[rows[~whole]]) - origin_shift(found.pixel_origin)
    partly = by_group(boxes, instances.image_rows[rows[~whole]], points.num_images)
    rows, head, tail, single = rows[whole], head[whole], tail[whole], (counts == 1)[whole]
    heads, tails = points.points[head], points.points[tail]
    angles = angles_between(tails, heads)
    if instances.angles_deg is not None:
        angles[single] = np.deg2rad(instances.angles_deg[rows[single]])
    types = np.searchsorted(list(found.category_types), instances.category_ids[rows])
    columns = (heads + tails) / 2, points.image[head], types, visibility[whole]
    return replace(
        found,
        landmarks=Keypoints(*columns, points.num_images, len(found.category_types), angles),
        rows=rows,
        ignored=tuple(np.concatenate(both) for both in zip(found.ignored, partly, strict=True)),
        type_names=tuple(map(dataset.category_name, found.category_types)),
        category_types={category: (number,) for number, category in enumerate(found.category_types)},
        orientation=orientation,
        about_angles=_about_angles(dataset, angles[single]),
    )


def _check_angles(found: CocoKeypoints, orientation: str) -> None:
    """Raise CocoError if a category has neither a head and a tail, nor one point and angles."""
    for category, types in found.category_types.items():
        if len(types) > 2 or (len(types) == 1 and found.dataset.instances.angles_deg is None):
            own = f"category {found.dataset.category_name(category)!r} has {plural(len(types), 'keypoint')}"
            without = "" if len(types) > 2 else f" and no annotation a number in {', '.join(ANGLE_FIELDS)}"
            needs = f"orientation={orientation} needs two, the head and the tail, or one point with an angle"
            raise CocoError(f"{', '.join(found.dataset.files)}: {own}{without}: {needs}")


def _about_angles(dataset: CocoDataset, angles: Float64[ndarray, " n"]) -> str:
    """Where the angles of single points were read; empty if there are none."""
    if not len(angles):
        return ""
    field, *others = dataset.angle_fields
    known = f"{int(np.isfinite(angles).sum()):,} of {plural(len(angles), 'point')} have one"
    unread = f"; not read: {', '.join(map(repr, others))}" if others else ""
    files = ", ".join(dataset.files)
    return f"{files}: angles are {field!r}, in degrees, clockwise on screen, 0 to the right: {known}{unread}"


def _type_names(dataset: CocoDataset, category: int, count: int) -> list[str]:
    """The names of a category's keypoints, ``category: keypoint``; numbers if the file does not name as many."""
    name, own = dataset.category_name(category), dataset.keypoint_names.get(category, ())
    if count == 1:
        return [name]
    if len(own) != count:
        return [f"{name} {number}" for number in range(count)]
    return [f"{name}: {keypoint}" for keypoint in own]


def _usual_counts(
    category_ids: Int64[ndarray, " m"], counts: Int64[ndarray, " m"], labelled: Bool[ndarray, " m"]
) -> Int64[ndarray, " m"]:
    """The most frequent number of keypoints among the labelled instances of each one's category; of several the largest."""
    usual = counts.copy()
    for category in np.unique(category_ids[labelled]).tolist():
        own = category_ids == category
        numbers, times = np.unique(counts[own & labelled], return_counts=True)
        usual[own] = numbers[::-1][times[::-1].argmax()]
    return usual


def _with_odd(dataset: CocoDataset, odd: Iterable[tuple[int, int, int]]) -> CocoDataset:
    """The dataset with a finding for each instance (row, number of keypoints, usual number)."""
    own, findings = dataset.instances, []
    for row, count, usual in odd:
        reason = f"{plural(count, 'keypoint')} where most of its category have {usual}: its region is ignored"
        findings.append(Finding("", int(own.ids[row]), int(dataset.images.ids[own.image_rows[row]]), reason))
    return replace(dataset, suspicious=(*dataset.suspicious, *findings)) if findings else dataset


def _types_of_categories(
    dataset: CocoDataset, counts: Int64[ndarray, " m"], rows: Int64[ndarray, " r"]
) -> dict[int, tuple[int, ...]]:
    """Number the keypoints of the categories that these instances have."""
    categories, first = np.unique(dataset.instances.category_ids[rows], return_index=True)
    wanted = counts[rows[first]]
    ends = wanted.cumsum()
    spans = zip((ends - wanted).tolist(), ends.tolist(), strict=True)
    return {category: tuple(range(*span)) for category, span in zip(categories.tolist(), spans, strict=True)}
