"""Resuming a run: the state it continues from, and checks that it is the same run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detect.errors import TrainingError
from detect.loading.labels import LabelMap
from detect.training.checkpoints import Checkpoint
from detect.training.config import TrainConfig

MAY_DIFFER = (  # fields that do not change the results: paths, devices, and when to stop
    *("data.images", "data.val_images", "data.num_workers"),
    *("optimisation.patience", "optimisation.accelerator", "optimisation.devices", "optimisation.flat_epochs"),
    "output",
)


@dataclass
class RunState:
    """The progress of a run, in plain values that a checkpoint can hold."""

    step: int = 0
    epoch: int = 0
    batch: int = 0
    """Steps of the current epoch that are done."""
    sums: dict[str, float] = field(default_factory=dict)
    """Sums of the losses of those steps."""
    epoch_losses: list[float] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    best: float | None = None
    validations_since_best: int = 0
    flat_reported: bool = False
    stopped: bool = False

    @classmethod
    def resumed(cls, plain: Mapping[str, Any], *, patience: int | None) -> RunState:
        """The state of a checkpoint; whether it has stopped follows from the patience of the resumed run."""
        state = cls(**{"flat_reported" if name == "told_flat" else name: value for name, value in plain.items()})
        state.stopped = state.out_of_patience(patience)
        return state

    def out_of_patience(self, patience: int | None) -> bool:
        """Whether ``patience`` validations have passed without a better one; never if it is None."""
        return patience is not None and self.validations_since_best >= patience


def check_same_run(path: str | Path, *, before: TrainConfig, now: TrainConfig) -> None:
    """Check that a configuration continues the run of a checkpoint.

    Raises:
        TrainingError: fields that change the results differ; the message names them all.
    """
    differing = [
        f"{name} (was {old!r}, is {new!r})"
        for name, old, new in _differences(before.model_dump(mode="json"), now.model_dump(mode="json"))
        if name not in MAY_DIFFER and name.split(".")[0] not in MAY_DIFFER
    ]
    if differing:
        raise TrainingError(f"{path}: cannot be resumed with another configuration: {'; '.join(differing)}")


def check_same_data(path: str | Path, before: Checkpoint, *, labels: LabelMap, num_images: int) -> None:
    """Check that the annotation files are still those of the run's beginning.

    Raises:
        TrainingError: the categories, keypoint types or number of training images have changed.
    """
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


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any, Any]]:
    found = []
    for name in now:
        old, new = before.get(name), now[name]
        if isinstance(new, dict) and isinstance(old, dict):
            found += _differences(old, new, f"{prefix}{name}.")
        elif old != new:
            found.append((prefix + name, old, new))
    return found
