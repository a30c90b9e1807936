"""Checkpoints: one file with all that a detector is, and all that its training needs to go on as if never stopped.

A file is written whole or not at all, and read by torch's loader of plain values and tensors: it can run no code. It holds
the configuration, the anchors, what is told apart and the averaged weights; ``last.pt`` also the state of training.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from jaxtyping import Float
from torch import Tensor, nn

from detect.anchors.anchor_set import AnchorLevel, AnchorSet
from detect.data.resize import ResizeRule, parse_resize
from detect.errors import ConfigError, OutputError, TrainingError
from detect.files import write_whole
from detect.loading.labels import Labels
from detect.training.builder import Detector, build_detector
from detect.training.config import TrainConfig, parse_config

FORMAT = 1
LAST, BEST = "last.pt", "best.pt"
FREE = (  # what may change when a run is resumed: where things are, and what does not touch the numbers
    *("data.images", "data.val_images", "data.num_workers"),
    *("optimisation.patience", "optimisation.accelerator", "optimisation.devices", "output"),
    "optimisation.flat_epochs",
)


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What a file holds; made by training, read by :func:`read_checkpoint`."""

    config: TrainConfig
    labels: Labels
    anchors: AnchorSet | None
    weights: Mapping[str, Tensor]
    """The averaged ones: what a detector is used with."""
    step: int
    metrics: Mapping[str, float]
    """Of the last validation; empty where there was none."""
    training: Mapping[str, Any] | None = None
    """All that training needs to go on: plain values and tensors."""


@dataclass(frozen=True, eq=False)
class TrainedDetector:
    """A detector to be used: with averaged weights, set to evaluation; made by :func:`load_detector`."""

    model: Detector
    config: TrainConfig
    labels: Labels
    anchors: AnchorSet | None
    resize: ResizeRule
    name: str
    """The file that it comes from."""

    @property
    def task(self) -> str:
        """``boxes`` or ``landmarks``."""
        return self.config.task

    @property
    def channels(self) -> int:
        """Of the images that it takes."""
        return self.config.data.channels

    @property
    def category_ids(self) -> tuple[int, ...]:
        """Of each class."""
        return self.labels.category_ids

    @property
    def category_names(self) -> tuple[str, ...]:
        """Of each class."""
        return self.labels.category_names


def save_checkpoint(path: str | Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint: whole or not at all.

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
        TrainingError: the file is not there, not a checkpoint, or one of another format.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise TrainingError(f"{path}: {error.strerror or error}") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, AttributeError):
        raise TrainingError(f"{path}: not a checkpoint, or a damaged one") from None
    if not isinstance(content, dict) or "format" not in content:
        raise TrainingError(f"{path}: not a checkpoint of detect train")
    if content["format"] != FORMAT:
        raise TrainingError(f"{path}: format {content['format']}, this version reads format {FORMAT}")
    try:
        return _from_content(content)
    except (KeyError, TypeError, yaml.YAMLError, ConfigError) as error:
        raise TrainingError(f"{path}: not a whole checkpoint: {' '.join(str(error).split())}") from None


def load_detector(path: str | Path, device: str | torch.device = "cpu") -> TrainedDetector:
    """The detector of a checkpoint, or of the best (else the last) one in a run's folder, ready to be used.

    Raises:
        TrainingError: no such file, not a checkpoint, or weights that are not its configuration's.
    """
    path = Path(path)
    if path.is_dir():
        path = path / (BEST if (path / BEST).exists() else LAST)
    checkpoint = read_checkpoint(path)
    mean, std = (checkpoint.weights.get(f"normalise.{name}") for name in ("mean", "std"))
    if mean is None or std is None:
        raise TrainingError(f"{path}: not a whole checkpoint: no mean and deviation of the images")
    untrained = checkpoint.config.model.model_copy(update={"pretrained": False})  # its weights come from the file
    model = build_detector(
        checkpoint.config.model_copy(update={"model": untrained}),
        checkpoint.labels,
        anchors=checkpoint.anchors,
        mean=_numbers(mean),
        std=_numbers(std),
    )
    try:
        model.load_state_dict(dict(checkpoint.weights))
    except RuntimeError as error:
        raise TrainingError(f"{path}: weights of another detector: {' '.join(str(error).split())[:200]}") from None
    nn.utils.convert_conv2d_weight_memory_format(model.to(torch.device(device)), torch.channels_last).eval()
    resize = parse_resize(checkpoint.config.data.resize)
    return TrainedDetector(model, checkpoint.config, checkpoint.labels, checkpoint.anchors, resize, str(path))


def check_same_run(path: str | Path, before: TrainConfig, now: TrainConfig) -> None:
    """Fail where a configuration would not go on as the resumed run began.

    Raises:
        TrainingError: fields that change the numbers differ; all are named.
    """
    differing = [
        f"{name} (was {old!r}, is {new!r})"
        for name, old, new in _differences(before.model_dump(mode="json"), now.model_dump(mode="json"))
        if name not in FREE and name.split(".")[0] not in FREE
    ]
    if differing:
        raise TrainingError(f"{path}: cannot be resumed with another configuration: {'; '.join(differing)}")


def check_same_data(path: str | Path, before: Checkpoint, labels: Labels, num_images: int) -> None:
    """Fail where the annotation files are no longer those that the resumed run began with.

    Raises:
        TrainingError: other categories or landmarks, or another number of images to train on.
    """
    if before.labels != labels:
        raise TrainingError(
            f"{path}: cannot be resumed: categories or landmarks of data.train have changed, from "
            f"{_labels_in_words(before.labels)} to {_labels_in_words(labels)}"
        )
    images = (before.training or {}).get("images", num_images)
    if images != num_images:
        raise TrainingError(
            f"{path}: cannot be resumed: data.train has {num_images} images, the run began with {images}"
        )


def _labels_in_words(labels: Labels) -> str:
    named = zip(labels.category_ids, labels.category_names, strict=True)
    told = ", ".join(f"{category} {name!r}" for category, name in named)
    return f"{told} with the landmarks {', '.join(labels.type_names)}" if labels.type_names else told


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any, Any]]:
    found = []
    for name in now:
        old, new = before.get(name), now[name]
        if isinstance(new, dict) and isinstance(old, dict):
            found += _differences(old, new, f"{prefix}{name}.")
        elif old != new:
            found.append((prefix + name, old, new))
    return found


def _from_content(content: Mapping[str, Any]) -> Checkpoint:
    anchors, labels = content["anchors"], dict(content["labels"])
    for old, new in (("joint_names", "type_names"), ("joints", "category_types")):  # names in older checkpoints
        if old in labels:
            labels[new] = labels.pop(old)
    return Checkpoint(
        config=parse_config(yaml.safe_load(content["config"])),
        labels=Labels(**labels),
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


def _numbers(values: Float[Tensor, "1 d 1 1"]) -> list[float]:
    return [float(each) for each in values.flatten().tolist()]


@dataclass(frozen=True, eq=False)
class TrainingResult:
    """What came of a run."""

    folder: Path
    epochs: int
    steps: int
    metrics: Mapping[str, float]
    """Of the last validation; empty without."""
    best: float | None
    """The best main metric: AP of boxes, F1 at 5 pixels of landmarks."""
    stopped_early: bool
    seconds: float
    is_main: bool
    """Whether this is the process that writes and speaks."""
    num_processes: int


@dataclass
class RunState:
    """Where a run is; plain values, as checkpoints keep them."""

    step: int = 0
    epoch: int = 0
    batch: int = 0
    """Steps of the epoch that are done."""
    sums: dict[str, float] = field(default_factory=dict)
    """Of the losses of these."""
    epoch_losses: list[float] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    best: float | None = None
    validations_since_best: int = 0
    told_flat: bool = False
    stopped: bool = False

    def is_out_of(self, patience: int | None) -> bool:
        """Whether so many validations have gone by without a better one; never where there is no limit."""
        return patience is not None and self.validations_since_best >= patience
