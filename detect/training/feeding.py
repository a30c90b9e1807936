"""Batches of a run, step after step: shuffled, shared out among processes, and each in the parts it is computed in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader, Sampler

from detect.errors import ConfigError
from detect.training.config import TrainConfig
from detect.training.data import Batch, DetectionData, Draw, collate
from detect.training.sampling import EpochBatches, repeat_factors

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def epoch_batches(config: TrainConfig, data: DetectionData, fabric: Fabric) -> EpochBatches:
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
    return EpochBatches(
        len(data),
        batch_size=optimisation.batch_size,
        seed=config.seed,
        repeats=None if threshold is None else repeat_factors(data.dataset, data.image_rows, threshold=threshold),
        rank=fabric.global_rank,
        num_processes=fabric.world_size,
    )


def part_loader(config: TrainConfig, data: DetectionData, batches: EpochBatches) -> DataLoader[Any]:
    """What reads them, one part after the other."""
    return DataLoader(
        data,
        batch_sampler=_InParts(batches, config.optimisation.accumulate),
        collate_fn=collate,
        num_workers=config.data.num_workers,
        persistent_workers=config.data.num_workers > 0,
        generator=torch.Generator(),  # or the loader would draw from torch's global one
    )


def in_groups(parts: Iterator[Batch], count: int) -> Iterator[list[Batch]]:
    """Parts put together again, as many as a step takes."""
    for first in parts:
        yield [first, *(next(parts) for _ in range(count - 1))]


class _InParts(Sampler[list[Draw]]):
    """Batches, each in so many parts of equal size."""

    def __init__(self, batches: EpochBatches, parts: int) -> None:
        self.batches, self.parts = batches, parts

    def __len__(self) -> int:
        return len(self.batches) * self.parts

    def __iter__(self) -> Iterator[list[Draw]]:
        for batch in self.batches:
            yield from (batch[part :: self.parts] for part in range(self.parts))
