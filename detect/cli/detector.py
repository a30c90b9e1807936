"""Loading a trained detector onto a device that a user named."""

from __future__ import annotations

from pathlib import Path

import torch

from detect.errors import ConfigError
from detect.training.checkpoints import TrainedDetector, load_detector


def load_on(path: Path, device: str) -> TrainedDetector:
    """The detector of a checkpoint or of a run's folder.

    Raises:
        ConfigError: there is no such device.
        TrainingError: no such file, or not a checkpoint.
    """
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:  # the latter where torch has no support for it
        raise ConfigError(f"--device {device}: {str(error).splitlines()[0]}") from None
    return load_detector(path, device)
