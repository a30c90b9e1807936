"""Start a detector from the weights of another one, which may have other classes, anchors or keypoint types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from detect.errors import ConfigError, TrainingError
from detect.loading.labels import LabelMap
from detect.training.builder import Detector
from detect.training.checkpoints import Checkpoint, checkpoint_file, read_checkpoint
from detect.training.config import TrainConfig
from detect.wording import listed

CLASS_LAYERS = ("head.class_outputs.", "head.heatmap_output.")  # one output for each class, or keypoint type
MAX_NAMED = 6


def take_weights(detector: Detector, labels: LabelMap, before: Checkpoint, *, source: str) -> str:
    """Copy into a detector every weight of a checkpoint that fits it, and say in one line which were taken.

    A weight fits if its layer has the same name and shape; how images are normalised is the detector's own. Outputs of
    classes are copied by the names of categories, if the layers have equal numbers of anchors; outputs of keypoint types
    likewise.

    Raises:
        ConfigError: no weight of the backbone fits; ``source`` names the checkpoint.
    """
    own = detector.state_dict()
    names = [_class_names(each) for each in (labels, before.labels)]
    fitting: dict[str, Tensor] = {}
    for name, tensor in own.items():
        other = before.weights.get(name)
        if other is not None and name.startswith(CLASS_LAYERS):
            other = _by_name(tensor, other, *names)
        if other is not None and other.shape == tensor.shape and not name.startswith("normalise."):
            fitting[name] = other
    if not any(name.startswith("backbone.") and tensor.ndim > 1 for name, tensor in fitting.items()):
        raise ConfigError(
            f"model.init: {source}: none of its backbone's weights fit: it was trained with model.backbone="
            f"{before.config.model.backbone} and data.channels={before.config.data.channels}"
        )
    detector.load_state_dict(fitting, strict=False)
    return f"started from {source}: {_in_words(own, fitting, *names)}"


def _class_names(labels: LabelMap) -> tuple[str, ...]:
    return labels.type_names or labels.category_names


def _by_name(own: Tensor, other: Tensor, names: Sequence[str], other_names: Sequence[str]) -> Tensor | None:
    """The layer with the outputs of equally named classes, in the order anchor, class; None if none can be taken."""
    anchors, other_anchors = len(own) // len(names), len(other) // len(other_names)
    pairs = [(names.index(name), other_names.index(name)) for name in dict.fromkeys(names) if name in other_names]
    if anchors != other_anchors or own.shape[1:] != other.shape[1:] or not pairs:
        return None
    rows, other_rows = map(list, zip(*pairs, strict=True))
    result = own.detach().clone().reshape(anchors, len(names), *own.shape[1:])
    result[:, rows] = other.to(result).reshape(anchors, len(other_names), *own.shape[1:])[:, other_rows]
    return result.flatten(0, 1)


def _in_words(
    own: Mapping[str, Tensor], fitting: Mapping[str, Tensor], names: Sequence[str], other_names: Sequence[str]
) -> str:
    wanted = [name for name in own if not name.startswith("normalise.")]
    left = list(dict.fromkeys(name.rpartition(".")[0] for name in wanted if name not in fitting))
    text = f"took {len(fitting)} of {len(wanted)} weights and buffers"
    if any(name.startswith(CLASS_LAYERS) for name in fitting):
        fresh = [name for name in names if name not in other_names]
        text += f"; new outputs for {listed(fresh, most=MAX_NAMED)}" if fresh else ""
    return text + (f"; layers not taken: {listed(left, most=MAX_NAMED)}" if left else "")


def initial_checkpoint(config: TrainConfig) -> Checkpoint | None:
    """The checkpoint that ``model.init`` names.

    Raises:
        ConfigError: it cannot be read, or is of another task.
    """
    if config.model.init is None:
        return None
    try:
        before = read_checkpoint(checkpoint_file(config.model.init))
    except TrainingError as error:
        raise ConfigError(f"model.init: {error}") from None
    if before.config.task != config.task:
        raise ConfigError(f"model.init: {config.model.init} detects {before.config.task}, this run {config.task}")
    return before
