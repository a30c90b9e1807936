"""Which images an epoch draws, in which order, for each of any number of processes; all of it a function of the seed.

An epoch's order is one for all processes: they divide each batch among them, so that a step learns from the same images
however many there are. Every image comes at least once, and every batch is full: the last one is filled up from the
beginning of the order.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray
from torch.utils.data import Sampler

from detect.data import CocoDataset
from detect.loading.dataset import Draw

ROUNDING = 1e-6  # of a sum of factors


def repeat_factors(
    dataset: CocoDataset, image_rows: Int64[ndarray, " b"], *, threshold: float
) -> Float64[ndarray, " b"]:
    """How often an epoch should have each image, so that rare categories are met more often; at least once.

    A category that a share f of these images has is to come max(1, sqrt(threshold / f)) times as often, and an image as
    often as the rarest of its categories (Gupta et al. 2019, LVIS, appendix B.2, where the threshold is .001). Crowds count
    for nothing.

    Args:
        dataset: images and annotations.
        image_rows: the images that can be drawn, rows of ``dataset.images``.
        threshold: the share of images below which a category is rare.

    >>> from detect.data import read_coco
    >>> from detect.samples import sample_annotations
    >>> cells = read_coco(sample_annotations("bccd"))
    >>> factors = repeat_factors(cells, np.arange(len(cells.images)), threshold=0.9)
    >>> factors.min().item(), round(factors.max().item(), 2)
    (1.0, 1.28)

    Raises:
        ValueError: the threshold is not above 0 and at most 1.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"the threshold is a share of images above 0 and at most 1, got {threshold}")
    instances = dataset.instances
    ids, column = np.unique(instances.category_ids, return_inverse=True)
    has = np.zeros((len(dataset.images), len(ids)), bool)
    has[instances.image_rows, column] = True
    has = has[image_rows]
    frequency = np.maximum(has.mean(axis=0) if len(has) else 0.0, 1e-12)  # of none, no image will ask
    factors = np.where(has, np.sqrt(threshold / frequency), 1.0)
    return factors.max(axis=1, initial=1.0)


def epoch_order(
    num_images: int, *, seed: int, epoch: int, repeats: Float64[ndarray, " b"] | None = None
) -> Int64[ndarray, " n"]:
    """The places of an epoch's images in their order: each once, or on average as often as ``repeats`` says.

    A factor of 1.25 is once or, in about every fourth epoch, twice; the length is the factors' sum, rounded up or down.

    >>> epoch_order(4, seed=0, epoch=0).tolist(), epoch_order(4, seed=0, epoch=1).tolist()
    ([2, 0, 1, 3], [3, 0, 2, 1])
    """
    random = np.random.default_rng((seed, epoch))
    order: Int64[ndarray, " n"] = random.permutation(num_images)
    if repeats is None:
        return order
    whole, part = np.divmod(repeats[order], 1.0)
    # systematic sampling: of parts laid end to end, a comb of unit spacing hits each as often as it is long
    teeth = np.diff(np.floor(np.cumsum(part) + random.random()), prepend=0.0)
    again: Int64[ndarray, " n"] = random.permutation(np.repeat(order, (whole + teeth).astype(np.int64)))
    return again


class EpochBatches(Sampler[list[Draw]]):
    """The batches of one process, epoch by epoch: a ``DataLoader``'s ``batch_sampler``.

    ``start_at`` says where the next pass begins: that is how a run is resumed within an epoch.

    >>> [[draw.place for draw in batch] for batch in EpochBatches(5, batch_size=2)]
    [[2, 4], [3, 0], [1, 2]]

    Args:
        num_images: how many there are to draw.
        batch_size: images of a batch, over all processes.
        seed: of the order.
        repeats: how often an epoch should have each image, see :func:`repeat_factors`; by default once.
        rank: which of the processes this is, from 0.
        num_processes: how many there are; the batch size is a multiple of it.

    Raises:
        ValueError: a number out of its range, or a batch that cannot be divided equally.
    """

    def __init__(
        self,
        num_images: int,
        *,
        batch_size: int,
        seed: int = 0,
        repeats: Float64[ndarray, " b"] | None = None,
        rank: int = 0,
        num_processes: int = 1,
    ) -> None:
        if num_images < 1 or batch_size < 1 or not 0 <= rank < num_processes:
            raise ValueError(
                f"need images, a batch and a rank among the processes, got {num_images=}, {batch_size=}, "
                f"{rank=} of {num_processes=}"
            )
        if batch_size % num_processes:
            raise ValueError(f"a batch of {batch_size} images cannot be divided among {num_processes} processes")
        self.num_images = num_images
        self.batch_size = batch_size
        self.seed = seed
        self.repeats = repeats
        self.rank = rank
        self.num_processes = num_processes
        self.epoch = 0
        self.first_batch = 0

    def start_at(self, epoch: int, first_batch: int = 0) -> None:
        """Let the next pass have the batches of this epoch from ``first_batch`` on."""
        if epoch < 0 or not 0 <= first_batch <= self.num_batches:
            raise ValueError(f"an epoch has {self.num_batches} batches, got {epoch=}, {first_batch=}")
        self.epoch, self.first_batch = epoch, first_batch

    @property
    def num_batches(self) -> int:
        """Of every epoch."""
        num_draws = self.num_images if self.repeats is None else ceil(float(self.repeats.sum()) - ROUNDING)
        return -(-num_draws // self.batch_size)

    def __len__(self) -> int:
        return self.num_batches - self.first_batch

    def __iter__(self) -> Iterator[list[Draw]]:
        order = epoch_order(self.num_images, seed=self.seed, epoch=self.epoch, repeats=self.repeats)
        places = np.resize(order, self.num_batches * self.batch_size)  # begins again where it ends
        copies = _times_before(places)
        draws = [Draw(self.epoch, *each) for each in zip(places.tolist(), copies.tolist(), strict=True)]
        for start in range(self.first_batch * self.batch_size, len(draws), self.batch_size):
            yield draws[start + self.rank : start + self.batch_size : self.num_processes]


def _times_before(places: Int64[ndarray, " n"]) -> Int64[ndarray, " n"]:
    """How often the value of each entry stands before it."""
    order = places.argsort(kind="stable")
    ordered = places[order]
    times = np.empty_like(places)
    times[order] = np.arange(len(places)) - np.searchsorted(ordered, ordered)
    return times
