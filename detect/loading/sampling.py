"""The order in which an epoch draws images, and the batches of each process; both depend only on the seed.

All processes share one order and divide each batch among them, so that a step uses the same images whatever the number of
processes. Every image is drawn at least once, and every batch is full: the last one is filled from the start of the order.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from math import ceil
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Int64
from numpy import ndarray
from torch.utils.data import DataLoader, Sampler

from detect.data import CocoDataset
from detect.loading.dataset import DetectionData, Draw, collate

ROUNDING = 1e-6  # error of a sum of repeat factors


def repeat_factors(
    dataset: CocoDataset, image_rows: Int64[ndarray, " b"], *, threshold: float
) -> Float64[ndarray, " b"]:
    """Repeat factors, at least 1, by which an epoch draws images of rare categories more often.

    A category in a share f of the images has the factor max(1, sqrt(threshold / f)), and an image has the largest factor of
    its categories (Gupta et al. 2019, LVIS, appendix B.2, where the threshold is .001). Crowds are not counted.

    ``image_rows`` are the images that can be drawn, as rows of ``dataset.images``. ``threshold`` is above 0 and at most 1.

    >>> from detect.data import read_coco
    >>> from detect.samples import sample_annotations
    >>> cells = read_coco(sample_annotations("bccd"))
    >>> factors = repeat_factors(cells, np.arange(len(cells.images)), threshold=0.9)
    >>> factors.min().item(), round(factors.max().item(), 2)
    (1.0, 1.28)
    """
    instances = dataset.instances
    ids, column = np.unique(instances.category_ids, return_inverse=True)
    has = np.zeros((len(dataset.images), len(ids)), bool)
    has[instances.image_rows, column] = True
    has = has[image_rows]
    frequency = np.maximum(has.mean(axis=0) if len(has) else 0.0, 1e-12)  # no image has a category of frequency 0
    factors = np.where(has, np.sqrt(threshold / frequency), 1.0)
    return factors.max(axis=1, initial=1.0)


def epoch_order(
    num_images: int, *, seed: int, epoch: int, repeats: Float64[ndarray, " b"] | None = None
) -> Int64[ndarray, " n"]:
    """The order of an epoch's draws, as places of the data: each once, or on average as often as ``repeats`` says.

    A factor of 1.25 gives one draw, or two in about every fourth epoch; the number of draws is the sum of the factors,
    rounded up or down.

    >>> epoch_order(4, seed=0, epoch=0).tolist(), epoch_order(4, seed=0, epoch=1).tolist()
    ([2, 0, 1, 3], [3, 0, 2, 1])
    """
    random = np.random.default_rng((seed, epoch))
    order: Int64[ndarray, " n"] = random.permutation(num_images)
    if repeats is None:
        return order
    whole, part = np.divmod(repeats[order], 1.0)
    # systematic sampling: a comb of unit spacing hits an interval as often, on average, as the interval is long
    teeth = np.diff(np.floor(np.cumsum(part) + random.random()), prepend=0.0)
    repeated: Int64[ndarray, " n"] = random.permutation(np.repeat(order, (whole + teeth).astype(np.int64)))
    return repeated


class EpochBatchSampler(Sampler[list[Draw]]):
    """The batches of one process, epoch by epoch, as the ``batch_sampler`` of a ``DataLoader``.

    ``start_at`` sets the epoch and the first batch of the next pass, to resume a run within an epoch.

    >>> [[draw.place for draw in batch] for batch in EpochBatchSampler(5, batch_size=2)]
    [[2, 4], [3, 0], [1, 2]]

    Args:
        batch_size: images in a batch, over all processes; a multiple of their number.
        repeats: the repeat factor of each image, see :func:`repeat_factors`; by default 1.
        rank: index of this process, from 0.
        num_parts: parts of a batch, which a process draws one after the other.
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
        num_parts: int = 1,
    ) -> None:
        self.num_images = num_images
        self.batch_size = batch_size
        self.seed = seed
        self.repeats = repeats
        self.rank = rank
        self.num_processes = num_processes
        self.num_parts = num_parts
        self.epoch = 0
        self.first_batch = 0

    def start_at(self, epoch: int, first_batch: int = 0) -> None:
        """Start the next pass at ``first_batch`` of this epoch."""
        self.epoch, self.first_batch = epoch, first_batch

    @property
    def num_batches(self) -> int:
        """Batches in every epoch."""
        num_draws = self.num_images if self.repeats is None else ceil(float(self.repeats.sum()) - ROUNDING)
        return -(-num_draws // self.batch_size)

    def __len__(self) -> int:
        return (self.num_batches - self.first_batch) * self.num_parts

    def __iter__(self) -> Iterator[list[Draw]]:
        order = epoch_order(self.num_images, seed=self.seed, epoch=self.epoch, repeats=self.repeats)
        places = np.resize(order, self.num_batches * self.batch_size)  # repeats from the start
        copies = _earlier_draws(places)
        draws = [Draw(self.epoch, *each) for each in zip(places.tolist(), copies.tolist(), strict=True)]
        for start in range(self.first_batch * self.batch_size, len(draws), self.batch_size):
            own = draws[start + self.rank : start + self.batch_size : self.num_processes]
            yield from (own[part :: self.num_parts] for part in range(self.num_parts))


def image_loader(data: DetectionData, batches: Iterable[Any], *, num_workers: int) -> DataLoader[Any]:
    """A loader of batches; ``batches`` yields lists of places or draws of ``data``."""
    if num_workers:
        _allow_open_files()
    return DataLoader(
        data,
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        generator=torch.Generator(),  # the default would draw from torch's global generator
    )


def _earlier_draws(places: Int64[ndarray, " n"]) -> Int64[ndarray, " n"]:
    """For each draw, the number of earlier draws of the same place."""
    order = places.argsort(kind="stable")
    ordered = places[order]
    earlier = np.empty_like(places)
    earlier[order] = np.arange(len(places)) - np.searchsorted(ordered, ordered)
    return earlier


def _allow_open_files() -> None:
    """Raise the limit of open files to the system's: each tensor of a worker is one, and workers hang when they run out."""
    try:
        import resource  # noqa: PLC0415 - not on every system
    except ImportError:
        return
    with contextlib.suppress(ValueError, OSError):
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
