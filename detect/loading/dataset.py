"""Images and targets for a network, one by one and in batches.

Coordinates are pixels of the network's input. Boxes are continuous; points keep the convention of their keypoints
(:mod:`detect.keypoints.coordinates`). A class is an index into ``category_ids``, so ids may have gaps.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from numpy import ndarray
from torch import Tensor
from torch.utils.data import Dataset

from detect.data import CocoDataset
from detect.data.coco_reader import Progress
from detect.data.images import ImageFiles
from detect.data.resize import ResizeRule, parse_resize
from detect.errors import ImageError
from detect.heads.image_targets import ImageTargets
from detect.keypoints.coco_keypoints import ALL_TYPES, CocoKeypoints, coco_keypoints
from detect.keypoints.keypoints import UNLABELLED, Keypoints
from detect.loading.augment import Augment
from detect.loading.image_files import broken_message, find_broken_images
from detect.loading.image_ops import Content, Picture, decode_image, resize_picture
from detect.loading.labels import ImageLabels, labels_by_image


class Draw(NamedTuple):
    """A draw of an image: the epoch, the image's place in the data, and the number of earlier draws in the epoch."""

    epoch: int
    place: int
    copy: int = 0


@dataclass(frozen=True, eq=False)
class Sample:
    """One image with its targets, as in a :class:`Batch`; its size is the canvas of the resize rule.

    A point that augmentation moved out of the image has visibility 0. ``angles`` are there if the keypoints have them.
    """

    image: Float[Tensor, "d h w"]
    image_hw: Int64[Tensor, " 2"]
    targets: ImageTargets
    points: Float[Tensor, "m 2"]
    types: Int64[Tensor, " m"]
    visibility: Int64[Tensor, " m"]
    unlabelled: Float[Tensor, "u 4"]
    unlabelled_types: Int64[Tensor, " u"]
    image_row: int
    num_types: int
    angles: Float[Tensor, " m"] | None = None


@dataclass(frozen=True, eq=False)
class Batch:
    """Images of values from 0 to 1, padded on the right and below to one size, with their targets.

    ``image_hw`` is the size of each image without padding. ``unlabelled`` has, for each image, boxes where keypoints of the
    ``unlabelled_types`` are unknown (``ALL_TYPES`` for all), in the points' convention. ``image_rows`` are rows of
    ``dataset.images``.
    """

    images: Float[Tensor, "b d h w"]
    image_hw: Int64[Tensor, "b 2"]
    targets: list[ImageTargets]
    keypoints: Keypoints
    unlabelled: list[Float[Tensor, "_ 4"]]
    unlabelled_types: list[Int64[Tensor, " _"]]
    image_rows: Int64[Tensor, " b"]

    def __len__(self) -> int:
        return len(self.images)

    def ignored_by_map(self) -> list[Float[Tensor, "_ 4"]]:
        """The unlabelled boxes of each image and keypoint type, ordered by image, then type."""
        return [
            boxes[(types == ALL_TYPES) | (types == number)]
            for boxes, types in zip(self.unlabelled, self.unlabelled_types, strict=True)
            for number in range(self.keypoints.num_types)
        ]

    def to(self, device: torch.device | str) -> Batch:
        """Copy the batch to a device, but for the unlabelled boxes: targets are placed on the host."""
        columns = {
            name: column for name, column in vars(self.keypoints).items() if isinstance(column, ndarray | Tensor)
        }
        moved: dict[str, Any] = {name: torch.as_tensor(column).to(device) for name, column in columns.items()}
        return Batch(
            images=self.images.to(device),
            image_hw=self.image_hw.to(device),
            targets=[_targets_to(each, device) for each in self.targets],
            keypoints=replace(self.keypoints, **moved),
            unlabelled=self.unlabelled,
            unlabelled_types=self.unlabelled_types,
            image_rows=self.image_rows.to(device),
        )


class DetectionData(Dataset[Sample]):
    """The images of a COCO dataset, opened, augmented and resized, with their targets.

    A sample depends only on the seed, the epoch, the image and the copy: not on earlier draws, nor on the number of
    processes. A box that augmentation hides too far (:class:`detect.loading.augment.Augment`) becomes an ignored region,
    like a crowd; a point outside the image gets visibility 0. Images without boxes are ordinary samples.

    >>> from detect.data import read_coco
    >>> from detect.data.resize import parse_resize
    >>> from detect.samples import sample_annotations
    >>> file = sample_annotations("nuclei")
    >>> data = DetectionData(read_coco(file, keypoints=True), file.parent / "images", resize=parse_resize("none"))
    >>> batch = collate([data[0], data[1]])
    >>> batch.images.shape, len(batch.targets), batch.keypoints.num_types
    (torch.Size([2, 3, 128, 128]), 2, 1)

    Args:
        resize: the rule that makes the network's input, or its text.
        channels: of the input: 1, 3 or 4.
        augment: augmentation before resizing; ``seed``, from 0, draws it.
        on_broken: ``"fail"`` raises for missing or broken images, ``"skip"`` lists them in ``broken``.
        keypoints: points of all images of the dataset; by default its own, if it was read with keypoints.
        category_ids: the category of each class, rising; by default all of the dataset. For validation data, pass the
            categories of the training data.
        unlabelled: how unlabelled keypoints of partly labelled objects are treated, see
            :meth:`~detect.keypoints.coco_keypoints.CocoKeypoints.ignored_regions`.
        shared: the processes of a run share the check of the images; all of them must make this data.
        on_progress: called as ``on_progress(what, done, total)`` while the images are checked.

    Raises:
        ImageError: images are missing or broken (their number and the first ones), or all are.
        ResizeError: the rule does not take images of these sizes.
        CocoError: an annotation has a category that is not in ``category_ids``, or the size of an image is not known.
    """

    def __init__(
        self,
        dataset: CocoDataset,
        folder: str | Path,
        *,
        resize: ResizeRule | str,
        channels: int = 3,
        augment: Augment | None = None,
        seed: int = 0,
        on_broken: str = "fail",
        keypoints: CocoKeypoints | None = None,
        category_ids: Sequence[int] | None = None,
        unlabelled: str = "ignore",
        shared: bool = False,
        on_progress: Progress | None = None,
    ) -> None:
        if on_broken not in {"fail", "skip"} or seed < 0:
            raise ValueError(f"on_broken is 'fail' or 'skip', and a seed at least 0, got {on_broken!r} and {seed}")
        self.resize = parse_resize(resize) if isinstance(resize, str) else resize
        dataset.require_sizes("add them to the file")
        self.resize.resize_images(dataset.images.wh)  # raises ResizeError
        self.dataset = dataset
        self.files = ImageFiles(dataset, Path(folder))
        self.exif_warning = self.files.warning(on_progress=on_progress)
        """A sentence about images that are turned, or not, although nothing tells whether their labels are; or None."""
        self.channels = channels
        self.augment = augment
        self.seed = seed
        self.keypoints = _keypoints_of(dataset) if keypoints is None else keypoints
        self.category_ids = dataset.category_ids if category_ids is None else tuple(category_ids)
        own: dict[str, Any] = {"category_ids": self.category_ids, "unlabelled": unlabelled}
        self._labels = labels_by_image(dataset, self.keypoints, **own)
        self.broken = find_broken_images(self.open, len(dataset.images), shared=shared, on_progress=on_progress)
        if self.broken and (on_broken == "fail" or len(self.broken) == len(dataset.images)):
            raise ImageError(broken_message(self.broken, len(dataset.images)))
        broken_rows = [each.image_row for each in self.broken]
        self.image_rows: Int64[ndarray, " b"] = np.delete(np.arange(len(dataset.images)), broken_rows)
        """The row of ``dataset.images`` at each place."""

    def refuse_broken(self, remedy: str) -> None:
        """Raise ImageError if images are broken, with the setting that leaves them out."""
        if self.broken:
            raise ImageError(f"{broken_message(self.broken, len(self) + len(self.broken))}; {remedy} leaves them out")

    def without_broken(self) -> DetectionData:
        """The same data without broken and other unused images in its dataset, which would count as missed in scores."""
        if len(self) == len(self.dataset.images):
            return self
        data = copy.copy(self)
        data.dataset = self.dataset.take_images(self.image_rows)
        data.files = replace(self.files, dataset=data.dataset)
        data.keypoints = None if self.keypoints is None else self.keypoints.take_images(self.image_rows)
        data._labels = [self._labels[row] for row in self.image_rows]
        data.image_rows = np.arange(len(self.image_rows))
        return data

    @property
    def num_types(self) -> int:
        """The number of keypoint types; 1 without keypoints."""
        return 1 if self.keypoints is None else self.keypoints.landmarks.num_types

    @property
    def num_degenerate_boxes(self) -> int:
        """Boxes without extent after resizing, in single precision; samples leave them out."""
        instances = self.dataset.instances
        boxes = self.resize.resize_boxes(instances.boxes_xywh, self.dataset.images.wh[instances.image_rows])
        return int((~_have_extent(torch.from_numpy(boxes).float())).sum())

    @property
    def num_points_outside(self) -> int:
        """Labelled points outside their images; samples mark them as not labelled."""
        sizes_wh = self.dataset.images.wh.tolist()
        return sum(labels.num_points_outside((w, h)) for labels, (w, h) in zip(self._labels, sizes_wh, strict=True))

    def __len__(self) -> int:
        return len(self.image_rows)

    def __getitem__(self, draw: int | tuple[int, ...]) -> Sample:
        """One image, by ``Draw(epoch, place)`` or by its place alone, in epoch 0."""
        draw = Draw(0, draw) if isinstance(draw, int) else Draw(*draw)
        row = int(self.image_rows[draw.place])
        random = np.random.default_rng((self.seed, draw.epoch, row, draw.copy))
        picture = self.open(row)
        if self.augment is not None:
            picture = self.augment.apply_geometric(picture, random)
        content = resize_picture(picture, self.resize)
        if self.augment is not None:
            content = self.augment.apply_photometric(content, random)
        labels = self._labels[row].transformed(picture.transform)
        labels = labels.clipped(picture.wh, min_visible=0.0 if self.augment is None else self.augment.min_visible)
        return self._sample(content, labels.transformed(content.transform), row)

    def open(self, image_row: int) -> Picture:
        """Open an image of the dataset at its own size; raises ImageError."""
        image = self.files.open(image_row)
        try:
            return decode_image(image, channels=self.channels)
        except ImageError as error:
            name = self.dataset.images.file_names[image_row]
            raise ImageError(f"{self.files.folder / name}: {error}") from None

    def _sample(self, content: Content, labels: ImageLabels, image_row: int) -> Sample:
        boxes, crowd, points, unlabelled = (
            torch.from_numpy(each).float() for each in (labels.boxes, labels.crowd, labels.points, labels.unlabelled)
        )
        has_extent = _have_extent(boxes)
        classes = torch.from_numpy(labels.classes)[has_extent]
        return Sample(
            image=content.on_canvas(self.channels),
            image_hw=content.end_hw,
            targets=ImageTargets(boxes[has_extent], classes, crowd[_have_extent(crowd)]),
            points=points,
            types=torch.from_numpy(labels.types),
            visibility=torch.from_numpy(labels.visibility),
            unlabelled=unlabelled,
            unlabelled_types=torch.from_numpy(labels.unlabelled_types),
            image_row=image_row,
            num_types=self.num_types,
            angles=None if labels.angles is None else torch.from_numpy(labels.angles).float(),
        )


def collate(samples: Sequence[Sample]) -> Batch:
    """Batch samples, as the ``collate_fn`` of a ``DataLoader``: images are padded with black, right and below."""
    height, width = (max(sample.image.shape[axis] for sample in samples) for axis in (1, 2))
    images = samples[0].image.new_zeros(len(samples), samples[0].image.shape[0], height, width)
    for image, sample in zip(images, samples, strict=True):
        image[:, : sample.image.shape[1], : sample.image.shape[2]] = sample.image
    angles = [sample.angles for sample in samples if sample.angles is not None]
    return Batch(
        images=images,
        image_hw=torch.stack([sample.image_hw for sample in samples]),
        targets=[sample.targets for sample in samples],
        keypoints=Keypoints(
            torch.cat([sample.points for sample in samples]),
            torch.cat([torch.full_like(sample.types, row) for row, sample in enumerate(samples)]),
            torch.cat([sample.types for sample in samples]),
            torch.cat([sample.visibility for sample in samples]),
            num_images=len(samples),
            num_types=samples[0].num_types,
            angles=torch.cat(angles) if angles else None,
        ),
        unlabelled=[sample.unlabelled for sample in samples],
        unlabelled_types=[sample.unlabelled_types for sample in samples],
        image_rows=torch.tensor([sample.image_row for sample in samples]),
    )


def _have_extent(boxes: Float[Tensor, "n 4"]) -> Bool[Tensor, " n"]:
    """Whether boxes have an extent in single precision, in which a sliver left by a crop may end where it begins."""
    return (boxes[:, 2:] > boxes[:, :2]).all(dim=1)


def _targets_to(targets: ImageTargets, device: torch.device | str) -> ImageTargets:
    ignored = None if targets.ignored is None else targets.ignored.to(device)
    return ImageTargets(targets.boxes.to(device), targets.classes.to(device), ignored)


def _keypoints_of(dataset: CocoDataset) -> CocoKeypoints | None:
    """The keypoints of a dataset that has labelled ones."""
    labelled = any((table[:, 2] > UNLABELLED).any() for table in dataset.instances.keypoints or ())
    return coco_keypoints(dataset) if labelled else None
