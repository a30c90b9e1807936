"""Images and their annotations as the network sees them, one by one and in batches.

Coordinates are pixels of the network's input. Boxes are continuous; points are in the convention of the landmarks given
(:mod:`detect.keypoints.coordinates`). A class is the row of its category in ``category_ids``, so ids may have gaps.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from numpy import ndarray
from torch import Tensor
from torch.utils.data import Dataset

from detect.data import CocoDataset
from detect.data.coco_reader import Progress
from detect.data.images import open_image
from detect.data.resize import ResizeRule
from detect.errors import ImageError
from detect.heads.criterion import ImageTargets
from detect.keypoints.keypoints import UNLABELLED, CocoKeypoints, Keypoints, coco_keypoints
from detect.loading.augment import Augment
from detect.loading.image_check import broken_message, find_broken_images
from detect.loading.image_ops import Content, Picture, picture_of, resize_picture
from detect.loading.labels import ImageLabels, LabelTable


class Draw(NamedTuple):
    """One image drawn: in which epoch, its place in the data, and how often the epoch had it before."""

    epoch: int
    place: int
    copy: int = 0


@dataclass(frozen=True, eq=False)
class Sample:
    """One image with its targets."""

    image: Float[Tensor, "d h w"]
    """0..1, of the rule's canvas."""
    image_hw: Int64[Tensor, " 2"]
    targets: ImageTargets
    points: Float[Tensor, "m 2"]
    types: Int64[Tensor, " m"]
    visibility: Int64[Tensor, " m"]
    """0 too for a point that augmentation left no place for."""
    unlabelled: Float[Tensor, "u 4"]
    """Boxes where it is not known what landmarks there are, in the points' convention."""
    image_row: int
    num_types: int


@dataclass(frozen=True, eq=False)
class Batch:
    """Images padded right and below to one size, with their targets."""

    images: Float[Tensor, "b d h w"]
    """0..1."""
    image_hw: Int64[Tensor, "b 2"]
    """Where the image ends in each, padding not counted."""
    targets: list[ImageTargets]
    landmarks: Keypoints
    unlabelled: list[Float[Tensor, "_ 4"]]
    """Of each image the boxes where it is not known what landmarks there are, in the points' convention."""
    image_rows: Int64[Tensor, " b"]
    """Rows of ``dataset.images``."""

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device | str) -> Batch:
        """The same on a device."""
        points = self.landmarks
        coordinates, image, types, visibility = (
            torch.as_tensor(each).to(device) for each in (points.points, points.image, points.types, points.visibility)
        )
        return Batch(
            self.images.to(device),
            self.image_hw.to(device),
            [_targets_to(each, device) for each in self.targets],
            Keypoints(coordinates, image, types, visibility, points.num_images, points.num_types),
            [each.to(device) for each in self.unlabelled],
            self.image_rows.to(device),
        )


class DetectionData(Dataset[Sample]):
    """The images of a COCO dataset, opened, augmented, resized, with their targets.

    What a sample is depends on the seed, the epoch, the image and the copy alone: not on what was drawn before, nor on how
    many processes draw. A box of which augmentation leaves too little (:class:`detect.loading.augment.Augment`) becomes an
    ignored region, like a crowd; a point that it leaves no place for has visibility 0. Images without boxes are ordinary.

    >>> from detect.data import read_coco
    >>> from detect.data.resize import parse_resize
    >>> from detect.samples import sample_annotations
    >>> file = sample_annotations("nuclei")
    >>> data = DetectionData(read_coco(file, keypoints=True), file.parent / "images", resize=parse_resize("none"))
    >>> batch = collate([data[0], data[1]])
    >>> batch.images.shape, len(batch.targets), batch.landmarks.num_types
    (torch.Size([2, 3, 128, 128]), 2, 1)

    Args:
        dataset: images and annotations.
        folder: of the images.
        resize: what the network's input is.
        channels: 1, 3 or 4.
        augment: what images undergo before; by default nothing.
        seed: of augmentation.
        on_broken: about images that are missing or broken: ``"fail"``, or ``"skip"``, which lists them in ``broken``.
        landmarks: the points, of all images of the dataset; by default its keypoints, where it was read with them.
        category_ids: the categories of the classes, rising; by default all of the dataset. Of data to validate on, those
            trained on.
        progress: called as ``progress(what, done, total)`` while the images are checked.

    Raises:
        ImageError: images are missing or broken (how many and which), or none is left.
        ResizeError: the rule does not take images of these sizes.
        CocoError: an annotation's category is none of ``category_ids``.
        ValueError: a choice that is not known, or a seed below 0.
    """

    def __init__(
        self,
        dataset: CocoDataset,
        folder: str | Path,
        *,
        resize: ResizeRule,
        channels: int = 3,
        augment: Augment | None = None,
        seed: int = 0,
        on_broken: str = "fail",
        landmarks: CocoKeypoints | None = None,
        category_ids: Sequence[int] | None = None,
        on_progress: Progress | None = None,
    ) -> None:
        if on_broken not in {"fail", "skip"} or seed < 0:
            raise ValueError(f"on_broken is 'fail' or 'skip', and a seed at least 0, got {on_broken!r} and {seed}")
        resize.resize_images(dataset.images.wh)  # refuses images it does not take
        self.dataset = dataset
        self.folder = Path(folder)
        self.resize = resize
        self.channels = channels
        self.augment = augment
        self.seed = seed
        self.landmarks = _keypoints_of(dataset) if landmarks is None else landmarks
        self.category_ids = dataset.category_ids if category_ids is None else tuple(category_ids)
        self._labels = LabelTable(dataset, self.landmarks, self.category_ids)
        self.broken = find_broken_images(self.open, len(dataset.images), on_progress=on_progress)
        if self.broken and (on_broken == "fail" or len(self.broken) == len(dataset.images)):
            raise ImageError(broken_message(self.broken, len(dataset.images)))
        broken_rows = [each.image_row for each in self.broken]
        self.image_rows: Int64[ndarray, " b"] = np.delete(np.arange(len(dataset.images)), broken_rows)
        """The rows of ``dataset.images`` that can be drawn, a row for each place."""

    def usable(self) -> DetectionData:
        """The same, its dataset having only the images that are used: what is skipped is not to be scored as missed."""
        if not self.broken:
            return self
        made = copy.copy(self)
        made.dataset = self.dataset.take_images(self.image_rows)
        made.landmarks = None if self.landmarks is None else self.landmarks.take_images(self.image_rows)
        made._labels = LabelTable(made.dataset, made.landmarks, self.category_ids)
        made.image_rows = np.arange(len(self.image_rows))
        return made

    @property
    def num_classes(self) -> int:
        """How many categories there are."""
        return len(self.category_ids)

    @property
    def num_types(self) -> int:
        """How many types of landmark there are; 1 where there are no landmarks."""
        return 1 if self.landmarks is None else self.landmarks.landmarks.num_types

    @property
    def boxes_too_thin(self) -> int:
        """Boxes without extent after the resize rule, in the single precision of samples: they are in none of them."""
        instances = self.dataset.instances
        boxes = self.resize.resize_boxes(instances.boxes_xywh, self.dataset.images.wh[instances.image_rows])
        return int((~_have_extent(torch.from_numpy(boxes).float())).sum())

    @property
    def points_outside(self) -> int:
        """Labelled points that lie outside their images: they are in no sample."""
        return self._labels.points_outside

    def __len__(self) -> int:
        return len(self.image_rows)

    def __getitem__(self, draw: int | tuple[int, ...]) -> Sample:
        """One image: ``Draw(epoch, place)``, or a place alone, which means epoch 0."""
        draw = Draw(0, draw) if isinstance(draw, int) else Draw(*draw)
        row = int(self.image_rows[draw.place])
        random = np.random.default_rng((self.seed, draw.epoch, row, draw.copy))
        picture = self.open(row)
        if self.augment is not None:
            picture = self.augment.move(picture, random)
        content = resize_picture(picture, self.resize)
        if self.augment is not None:
            content = self.augment.recolour(content, random)
        labels = self._labels.of_image(row).moved(picture.view)
        labels = labels.cut(picture.wh, min_visible=0.0 if self.augment is None else self.augment.min_visible)
        return _sample(content, labels.moved(content.view), row, self.channels, self.num_types)

    def open(self, image_row: int) -> Picture:
        """An image of the dataset as it is stored.

        Raises:
            ImageError: it cannot be read, or has another size than the dataset says, or values out of range.
        """
        width, height = self.dataset.images.wh[image_row].tolist()
        name = self.dataset.images.file_names[image_row]
        image = open_image(self.folder, name, image_wh=(width, height))
        try:
            return picture_of(image, channels=self.channels)
        except ImageError as error:
            raise ImageError(f"{self.folder / name}: {error}") from None


def collate(samples: Sequence[Sample]) -> Batch:
    """A batch of samples, as a ``DataLoader``'s ``collate_fn``: images are padded with black, right and below.

    Raises:
        ValueError: there is no sample.
    """
    if not samples:
        raise ValueError("a batch needs at least one sample")
    height, width = (max(sample.image.shape[axis] for sample in samples) for axis in (1, 2))
    images = samples[0].image.new_zeros(len(samples), samples[0].image.shape[0], height, width)
    for image, sample in zip(images, samples, strict=True):
        image[:, : sample.image.shape[1], : sample.image.shape[2]] = sample.image
    counts = torch.tensor([len(sample.points) for sample in samples])
    points, types, visibility = (
        torch.cat(columns)
        for columns in zip(*((each.points, each.types, each.visibility) for each in samples), strict=True)
    )
    image_of_point = torch.arange(len(samples)).repeat_interleave(counts)
    return Batch(
        images,
        torch.stack([sample.image_hw for sample in samples]),
        [sample.targets for sample in samples],
        Keypoints(points, image_of_point, types, visibility, len(samples), samples[0].num_types),
        [sample.unlabelled for sample in samples],
        torch.tensor([sample.image_row for sample in samples]),
    )


def _sample(content: Content, labels: ImageLabels, image_row: int, channels: int, num_types: int) -> Sample:
    boxes, crowd, points, unlabelled = (
        torch.from_numpy(each).float() for each in (labels.boxes, labels.crowd, labels.points, labels.unlabelled)
    )
    thick = _have_extent(boxes)
    return Sample(
        content.on_canvas(channels),
        content.end_hw,
        ImageTargets(boxes[thick], torch.from_numpy(labels.classes)[thick], crowd[_have_extent(crowd)]),
        points,
        torch.from_numpy(labels.types),
        torch.from_numpy(labels.visibility),
        unlabelled,
        image_row,
        num_types,
    )


def _have_extent(boxes: Float[Tensor, "n 4"]) -> Bool[Tensor, " n"]:
    """Whether a box is still one in single precision, in which a sliver that a crop left may end where it begins."""
    return (boxes[:, 2:] > boxes[:, :2]).all(dim=1)


def _targets_to(targets: ImageTargets, device: torch.device | str) -> ImageTargets:
    ignored = None if targets.ignored is None else targets.ignored.to(device)
    return ImageTargets(targets.boxes.to(device), targets.classes.to(device), ignored)


def _keypoints_of(dataset: CocoDataset) -> CocoKeypoints | None:
    """The keypoints, where there are any."""
    labelled = any((table[:, 2] > UNLABELLED).any() for table in dataset.instances.keypoints or ())
    return coco_keypoints(dataset) if labelled else None
