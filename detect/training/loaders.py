"""Batches of a run, step after step: shuffled, shared out among processes, and each in the parts it is computed in."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader, Sampler

from detect.errors import ConfigError
from detect.loading.dataset import Batch, DetectionData, Draw, collate
from detect.loading.sampling import EpochBatchSampler, repeat_factors
from detect.training.config import TrainConfig

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def epoch_batches(config: TrainConfig, data: DetectionData, fabric: Fabric) -> EpochBatchSampler:
    """Which images each step of this process learns from.

    Raises:
        ConfigError: a batch cannot be divided among processes and parts.
    """
    optimisation = config.optimisation
    if optimisation.batch_size % (fabric.world_size * optimisation.accumulate):
        raise ConfigError(
            f"optimisation: a batch of {optimisation.batch_size} images cannot be divided among {fabric.world_size} "
            f"processes with {optimisation.accumulate} parts each"
        )
    threshold = config.data.repeat_threshold
    return EpochBatchSampler(
        len(data),
        batch_size=optimisation.batch_size,
        seed=config.seed,
        repeats=None if threshold is None else repeat_factors(data.dataset, data.image_rows, threshold=threshold),
        rank=fabric.global_rank,
        num_processes=fabric.world_size,
    )


def part_loader(config: TrainConfig, data: DetectionData, batches: EpochBatchSampler) -> DataLoader[Any]:
    """What reads them, one part after the other."""
    return image_loader(data, _InParts(batches, config.optimisation.accumulate), num_workers=config.data.num_workers)


def image_loader(data: DetectionData, batches: Iterable[Any], *, num_workers: int) -> DataLoader[Any]:
    """What reads batches of images; ``batches`` gives what ``data`` is asked for, batch by batch."""
    if num_workers:
        _allow_open_files()
    return DataLoader(
        data,
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        generator=torch.Generator(),  # or the loader would draw from torch's global one
    )


def _allow_open_files() -> None:
    """As many as the system lets a process have: each tensor of a worker is one, and where they run out workers hang."""
    try:
        import resource  # noqa: PLC0415 - not on every system
    except ImportError:
        return
    with contextlib.suppress(ValueError, OSError):
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def in_groups(parts: Iterator[Batch], count: int) -> Iterator[list[Batch]]:
    """Parts put together again, as many as a step takes."""
    for first in parts:
        yield [first, *(next(parts) for _ in range(count - 1))]


class _InParts(Sampler[list[Draw]]):
    """Batches, each in so many parts of equal size."""

    def __init__(self, batches: EpochBatchSampler, parts: int) -> None:
        self.batches, self.parts = batches, parts

    def __len__(self) -> int:
        return len(self.batches) * self.parts

    def __iter__(self) -> Iterator[list[Draw]]:
        for batch in self.batches:
            yield from (batch[part :: self.parts] for part in range(self.parts))
