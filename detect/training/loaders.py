"""Data loaders of a run: shuffled batches, divided among processes, each in the parts it is computed in."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader

from detect.errors import ConfigError
from detect.loading.dataset import DetectionData, collate
from detect.loading.sampling import EpochBatchSampler, repeat_factors
from detect.training.config import TrainConfig

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def epoch_batches(config: TrainConfig, data: DetectionData, fabric: Fabric) -> EpochBatchSampler:
    """The batches of this process, in the parts they are computed in.

    Raises:
        ConfigError: a batch cannot be divided equally among processes and parts.
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
        num_parts=optimisation.accumulate,
    )


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


def _allow_open_files() -> None:
    """Raise the limit of open files to the system's: each tensor of a worker is one, and workers hang when they run out."""
    try:
        import resource  # noqa: PLC0415 - not on every system
    except ImportError:
        return
    with contextlib.suppress(ValueError, OSError):
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
