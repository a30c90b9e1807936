"""Checkpoints: one file that holds a detector, and the state to resume its training exactly.

A file is written whole or not at all. It is read as plain values and tensors only, so it cannot run code. It holds the
configuration, the anchors, the label map and the averaged weights; ``last.pt`` also holds the state of training.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from detect.anchors.anchor_set import AnchorLevel, AnchorSet
from detect.data.resize import ResizeRule, parse_resize
from detect.errors import ConfigError, OutputError, TrainingError
from detect.files import write_whole
from detect.loading.labels import LabelMap
from detect.training.builder import Detector, build_detector
from detect.training.config import TrainConfig, parse_config

FORMAT = 1
OLD_LABELS = {"joint_names": "type_names", "joints": "category_types"}  # names in older files
LAST, BEST = "last.pt", "best.pt"


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The content of a file."""

    config: TrainConfig
    labels: LabelMap
    anchors: AnchorSet | None
    weights: Mapping[str, Tensor]
    """The averaged weights."""
    step: int
    metrics: Mapping[str, float]
    """Metrics of the last validation; empty without one."""
    training: Mapping[str, Any] | None = None
    """The state that resumes training, as plain values and tensors."""


@dataclass(frozen=True, eq=False)
class TrainedDetector:
    """A trained detector with averaged weights, in evaluation mode; made by :func:`load_detector`."""

    model: Detector
    config: TrainConfig
    labels: LabelMap
    anchors: AnchorSet | None
    resize: ResizeRule
    name: str
    """The checkpoint file."""

    @property
    def task(self) -> str:
        """``boxes`` or ``landmarks``."""
        return self.config.task

    @property
    def channels(self) -> int:
        """Channels of the input."""
        return self.config.data.channels

    @property
    def category_ids(self) -> tuple[int, ...]:
        """The category id of each class."""
        return self.labels.category_ids

    @property
    def category_names(self) -> tuple[str, ...]:
        """The category name of each class."""
        return self.labels.category_names


def save_checkpoint(path: str | Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, whole or not at all.

    Raises:
        OutputError: the file cannot be written.
    """
    content = {
        "format": FORMAT,
        "version": version("detect-heads"),
        "config": checkpoint.config.to_yaml(),
        "labels": {**asdict(checkpoint.labels), "category_types": dict(checkpoint.labels.category_types)},
        "anchors": None if checkpoint.anchors is None else _plain_anchors(checkpoint.anchors),
        "weights": dict(checkpoint.weights),
        "step": checkpoint.step,
        "metrics": dict(checkpoint.metrics),
        "training": checkpoint.training,
    }
    stream = io.BytesIO()
    torch.save(content, stream)
    try:
        write_whole(path, stream.getvalue())
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from None


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint, with tensors on the CPU.

    Raises:
        TrainingError: the file does not exist, is not a checkpoint, or has another format.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise TrainingError(f"{path}: {error.strerror or error}") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, AttributeError):
        raise TrainingError(f"{path}: not a checkpoint, or damaged") from None
    if not isinstance(content, dict) or "format" not in content:
        raise TrainingError(f"{path}: not a checkpoint of detect train")
    if content["format"] != FORMAT:
        raise TrainingError(f"{path}: format {content['format']}, this version reads format {FORMAT}")
    try:
        return _from_content(content)
    except (KeyError, TypeError, yaml.YAMLError, ConfigError) as error:
        raise TrainingError(f"{path}: incomplete checkpoint: {' '.join(str(error).split())}") from None


def load_detector(path: str | Path, device: str | torch.device = "cpu") -> TrainedDetector:
    """Load the detector of a checkpoint; of a run's folder, the best checkpoint, or the last one without a best.

    Raises:
        TrainingError: the file does not exist, is not a checkpoint, or its weights do not fit its configuration.
    """
    path = Path(path)
    if path.is_dir():
        path = path / (BEST if (path / BEST).exists() else LAST)
    checkpoint = read_checkpoint(path)
    mean, std = (checkpoint.weights.get(f"normalise.{name}") for name in ("mean", "std"))
    if mean is None or std is None:
        raise TrainingError(f"{path}: incomplete checkpoint: no mean and standard deviation of the images")
    untrained = checkpoint.config.model.model_copy(update={"pretrained": False})  # the file has all weights
    model = build_detector(
        checkpoint.config.model_copy(update={"model": untrained}),
        checkpoint.labels,
        anchors=checkpoint.anchors,
        mean=mean.flatten().tolist(),
        std=std.flatten().tolist(),
    )
    try:
        model.load_state_dict(dict(checkpoint.weights))
    except RuntimeError as error:
        raise TrainingError(
            f"{path}: weights do not fit the configuration: {' '.join(str(error).split())[:200]}"
        ) from None
    nn.utils.convert_conv2d_weight_memory_format(model.to(torch.device(device)), torch.channels_last).eval()
    resize = parse_resize(checkpoint.config.data.resize)
    return TrainedDetector(model, checkpoint.config, checkpoint.labels, checkpoint.anchors, resize, str(path))


def _from_content(content: Mapping[str, Any]) -> Checkpoint:
    anchors = content["anchors"]
    labels = {OLD_LABELS.get(name, name): value for name, value in content["labels"].items()}
    return Checkpoint(
        config=parse_config(yaml.safe_load(content["config"])),
        labels=LabelMap(**labels),
        anchors=None if anchors is None else _anchors_of(anchors),
        weights=content["weights"],
        step=content["step"],
        metrics=content["metrics"],
        training=content["training"],
    )


def _plain_anchors(anchors: AnchorSet) -> dict[str, Any]:
    levels = [(level.name, level.stride, [tuple(shape) for shape in level.shapes]) for level in anchors.levels]
    return {
        "levels": levels,
        "resize": anchors.resize,
        "center_offset": anchors.center_offset,
        "name": anchors.name,
        "scores": dict(anchors.scores),
    }


def _anchors_of(plain: Mapping[str, Any]) -> AnchorSet:
    levels = tuple(AnchorLevel(name, stride, shapes) for name, stride, shapes in plain["levels"])
    return AnchorSet(**{**plain, "levels": levels})
