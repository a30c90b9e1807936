"""A sample of the images of a dataset, of bounded size: medians and curves of large datasets are those of its objects.

Images come in the order of a hash of their ids, so the sample is the same in any order of images and any split into shards.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray

from detect.data import Annotations, CocoDataset, Images
from detect.data.shard_ids import hashed

MAX_BOXES = 50_000  # a sample has the images up to the one that reaches it


@dataclass(frozen=True, eq=False)
class ImageSample:
    """The images with objects of the lowest hashes, of ``MAX_BOXES`` objects or few more; all images of fewer objects.

    >>> from detect.data import read_coco
    >>> from detect.samples import sample_annotations
    >>> sample = ImageSample.of(read_coco(sample_annotations("bccd")))
    >>> len(sample.dataset.instances), len(sample.first(1000).dataset.images)
    (4886, 77)
    """

    images: Int64[ndarray, "k 4"]
    """Id, width, height, and 1 if the size is known; in the order of ids."""
    keys: Int64[ndarray, "n 2"]
    """The image id and category id of each object, in the order of images."""
    boxes_xywh: Float64[ndarray, "n 4"]

    @classmethod
    def of(cls, dataset: CocoDataset) -> ImageSample:
        """The sample of a dataset, or of a shard."""
        own, images = dataset.instances, dataset.images
        rows = np.unique(own.image_rows)
        sized = ~np.isin(images.ids[rows], np.array(dataset.unsized, np.int64))
        keys = np.stack([images.ids[own.image_rows], own.category_ids], axis=1)
        return cls(np.column_stack([images.ids[rows], images.wh[rows], sized]), keys, own.boxes_xywh).first(MAX_BOXES)

    def __add__(self, other: ImageSample) -> ImageSample:
        images, keys = np.concatenate([self.images, other.images]), np.concatenate([self.keys, other.keys])
        boxes_xywh, order = np.concatenate([self.boxes_xywh, other.boxes_xywh]), np.argsort(keys[:, 0], kind="stable")
        images = images[np.argsort(images[:, 0], kind="stable")]
        return ImageSample(images, keys[order], boxes_xywh[order]).first(MAX_BOXES)

    def first(self, most: int) -> ImageSample:
        """The images of the lowest hashes, up to the one that reaches ``most`` objects."""
        ids = self.images[:, 0]
        image_rows = np.searchsorted(ids, self.keys[:, 0])
        order, counts = np.argsort(hashed(ids), kind="stable"), np.bincount(image_rows, minlength=len(ids))
        kept = np.zeros(len(ids), bool)
        kept[order[np.cumsum(counts[order]) - counts[order] < most]] = True
        objects = kept[image_rows]
        return ImageSample(self.images[kept], self.keys[objects], self.boxes_xywh[objects])

    @property
    def limit(self) -> int:
        """The highest hash of an image in the sample, for :func:`part_of`."""
        return int(hashed(self.images[:, 0]).max(initial=0))

    @cached_property
    def dataset(self) -> CocoDataset:
        """The sample as a dataset without names."""
        ids, count = self.images[:, 0], len(self.keys)
        image_rows, areas = np.searchsorted(ids, self.keys[:, 0]), self.boxes_xywh[:, 2:].prod(axis=1)
        columns = np.arange(count), image_rows, self.keys[:, 1], self.boxes_xywh, np.zeros(count, bool), areas
        images, unsized = Images(ids, self.images[:, 1:3], ("",) * len(ids)), ids[self.images[:, 3] == 0]
        return CocoDataset(images, Annotations(*columns), {}, (), (), (), tuple(unsized.tolist()))


def part_of(dataset: CocoDataset, limit: int) -> CocoDataset:
    """The images of a dataset, or of a shard, that are in the sample of this limit."""
    rows = np.unique(dataset.instances.image_rows)
    kept = rows[hashed(dataset.images.ids[rows]) <= np.uint64(limit)]
    return dataset if len(kept) == len(dataset.images) else dataset.take_images(kept)
