"""Checkpoints: one file that holds a detector, and the state to resume its training exactly.

A file is written whole or not at all. It is read as plain values and tensors only, so it cannot run code. It holds the
configuration, the anchors, the label map and the averaged weights; ``last.pt`` also holds the state of training, from which
only the same run is resumed.
"""

from __future__ import annotations

import io
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from detect.anchors.anchor_set import AnchorSet
from detect.data.resize import ResizeRule, parse_resize
from detect.detectors.pretrained_weights import Normalization
from detect.errors import ConfigError, OutputError, TrainingError
from detect.files import is_folder, write_whole
from detect.loading.labels import LabelMap
from detect.ops.tensor_files import read_tensor_file
from detect.text_formats import parse_yaml
from detect.training.builder import Detector, build_detector, without_weights
from detect.training.checkpoint_content import check_content, plain_anchors
from detect.training.config import TrainConfig, parse_config

FORMAT = 1
LAST, BEST = "last.pt", "best.pt"

MAY_DIFFER = (  # fields that do not change the results: paths, devices, and when to stop
    *("data.images", "data.val_images", "data.num_workers"),
    *("optimisation.patience", "optimisation.accelerator", "optimisation.devices", "optimisation.flat_epochs"),
    *("optimisation.timeout_minutes", "output"),
)


EPOCHS_REMEDY = ": the rate falls until the last epoch; to train its weights further, start a run with model.init=RUN"


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The content of a file: averaged weights, metrics of the last validation (empty without one), and state of training.

    The state consists of plain values and tensors.
    """

    config: TrainConfig
    labels: LabelMap
    anchors: AnchorSet | None
    weights: Mapping[str, Tensor]
    step: int
    metrics: Mapping[str, float]
    training: Mapping[str, Any] | None = None

    @property
    def positive_weights(self) -> Sequence[float] | None:
        """The weight of each class's positive anchors in training."""
        weights: Sequence[float] | None = (self.training or {}).get("stepper", {}).get("positive_weights")
        return weights

    def normalization(self, in_channels: int) -> Normalization | None:
        """The mean and standard deviation of images that the weights expect, if they read as many channels."""
        mean, std = (
            tuple(self.weights.get(f"normalise.{name}", torch.empty(0)).flatten().tolist()) for name in ("mean", "std")
        )
        return (mean, std) if len(mean) == len(std) == in_channels else None


@dataclass(frozen=True, eq=False)
class TrainedDetector:
    """A trained detector with averaged weights, in evaluation mode, from the checkpoint ``name``."""

    model: Detector
    config: TrainConfig
    labels: LabelMap
    anchors: AnchorSet | None
    resize: ResizeRule
    name: str
    best_threshold: float | None = None
    """The score of the highest F1 on the run's validation data; None if no object was found, or there was none."""

    @property
    def task(self) -> str:
        """``boxes`` or ``landmarks``."""
        return self.config.task

    @property
    def channels(self) -> int:
        """Channels of the input: 1, 3 or 4."""
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
    """Write a checkpoint, whole or not at all."""
    content = {
        "format": FORMAT,
        "version": version("detect-heads"),
        "config": checkpoint.config.to_yaml(),
        "labels": {**asdict(checkpoint.labels), "category_types": dict(checkpoint.labels.category_types)},
        "anchors": None if checkpoint.anchors is None else plain_anchors(checkpoint.anchors),
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
    content = read_tensor_file(path, TrainingError, what="a checkpoint")
    if not isinstance(content, dict) or "format" not in content:
        raise TrainingError(f"{path}: not a checkpoint of detect train")
    if content["format"] != FORMAT:
        raise TrainingError(f"{path}: format {content['format']}, this version reads format {FORMAT}")
    try:
        checked = check_content(content)
        config = parse_config(parse_yaml(checked.config, ConfigError))
    except ConfigError as error:
        raise TrainingError(f"{path}: incomplete or damaged checkpoint: {' '.join(str(error).split())}") from None
    fields = ("labels", "weights", "step", "metrics", "training")
    return Checkpoint(config=config, anchors=checked.anchor_set, **{name: getattr(checked, name) for name in fields})


def checkpoint_file(path: str | Path) -> Path:
    """The file itself; of a run's folder, the best checkpoint, or the last one without a best."""
    path = Path(path)
    return path / (BEST if (path / BEST).exists() else LAST) if is_folder(path) else path


def load_detector(path: str | Path, device: str | torch.device = "cpu") -> TrainedDetector:
    """Load the detector of a checkpoint or of a run's folder, see :func:`checkpoint_file`.

    Raises:
        TrainingError: the file does not exist, is not a checkpoint, or its weights do not fit its configuration.
    """
    path = checkpoint_file(path)
    checkpoint = read_checkpoint(path)
    normalization = checkpoint.normalization(checkpoint.config.data.channels)
    if normalization is None:
        raise TrainingError(f"{path}: incomplete checkpoint: no mean and standard deviation of the images")
    with fitting_parts(path, "weights do not fit the configuration"):
        model = build_detector(
            without_weights(checkpoint.config),
            checkpoint.labels,
            anchors=checkpoint.anchors,
            mean=normalization[0],
            std=normalization[1],
        )
        model.load_state_dict(dict(checkpoint.weights))
    nn.utils.convert_conv2d_weight_memory_format(model.to(torch.device(device)), torch.channels_last).eval()
    resize = parse_resize(checkpoint.config.data.resize)
    best = checkpoint.metrics.get("best_threshold", math.nan)
    return TrainedDetector(
        *(model, checkpoint.config, checkpoint.labels, checkpoint.anchors, resize, str(path)),
        best_threshold=None if math.isnan(best) else best,
    )


@contextmanager
def fitting_parts(path: str | Path, reason: str) -> Iterator[None]:
    """Make what a checkpoint's parts raise when they do not fit each other a TrainingError that names the file."""
    try:
        yield
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise TrainingError(f"{path}: {reason}: {' '.join(str(error).split())[:200]}") from None


@dataclass
class RunState:
    """The progress of a run, in plain values that a checkpoint can hold.

    ``batch`` steps of the current epoch are done; ``sums`` are the sums of their losses.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    epoch_losses: list[float] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    best: float | None = None
    validations_since_best: int = 0
    flat_reported: bool = False
    stopped: bool = False

    @classmethod
    def resumed(cls, plain: Mapping[str, Any], *, patience: int | None) -> RunState:
        """The state of a checkpoint; whether it has stopped follows from the patience of the resumed run."""
        state: RunState = msgspec.convert(plain, cls)
        state.stopped = state.out_of_patience(patience)
        return state

    def out_of_patience(self, patience: int | None) -> bool:
        """Whether ``patience`` validations have passed without a better one; never if it is None."""
        return patience is not None and self.validations_since_best >= patience


def check_same_run(path: str | Path, *, before: TrainConfig, now: TrainConfig) -> None:
    """Raise TrainingError if fields that change the results differ from a checkpoint's; the message names them all.

    At a constant learning rate the number of epochs may differ.
    """
    may_differ = {*MAY_DIFFER, "optimisation.epochs"} if now.optimisation.schedule == "constant" else {*MAY_DIFFER}
    differing = differing_fields(_with_defaults(before), _with_defaults(now), but=may_differ)
    if differing:
        named = "; ".join(f"{name} (was {old!r}, is {new!r})" for name, (old, new) in differing.items())
        others = f"{path}: cannot be resumed with another configuration: {named}"
        raise TrainingError(others + (EPOCHS_REMEDY if [*differing] == ["optimisation.epochs"] else ""))


def differing_fields(one: TrainConfig, other: TrainConfig, *, but: Collection[str]) -> dict[str, tuple[Any, Any]]:
    """The fields in which two configurations differ, with both values; ``but`` are fields and sections to leave out."""
    first, second = (dict(_fields(each.model_dump(mode="json"))) for each in (one, other))
    return {
        name: (first[name], second[name])
        for name in second
        if name in first and first[name] != second[name] and not {name, name.split(".")[0]} & {*but}
    }


def _with_defaults(config: TrainConfig) -> TrainConfig:
    """The configuration with what other fields decide written out: the assigner, and whether statistics are frozen."""
    config = without_weights(config)
    return config.model_copy(update={"model": config.model.model_copy(update={"assigner": config.model.matching})})


def check_same_data(path: str | Path, before: Checkpoint, *, labels: LabelMap, num_images: int) -> None:
    """Raise TrainingError if labels or the number of training images have changed since the run began."""
    if before.labels != labels:
        raise TrainingError(
            f"{path}: cannot be resumed: categories or keypoint types of data.train have changed, from "
            f"{_labels_in_words(before.labels)} to {_labels_in_words(labels)}"
        )
    images = (before.training or {}).get("images", num_images)
    if images != num_images:
        raise TrainingError(
            f"{path}: cannot be resumed: data.train has {num_images} images, the run began with {images}"
        )


def _labels_in_words(labels: LabelMap) -> str:
    named = zip(labels.category_ids, labels.category_names, strict=True)
    text = ", ".join(f"{category} {name!r}" for category, name in named)
    return f"{text} with the keypoint types {', '.join(labels.type_names)}" if labels.type_names else text


def _fields(section: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in section.items():
        if isinstance(value, dict):
            yield from _fields(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
