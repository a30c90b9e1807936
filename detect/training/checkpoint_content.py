"""The content of a checkpoint's file in plain values and tensors, and the checks of each value's type when it is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypedDict

import msgspec
import torch
from msgspec import Meta, Struct
from torch import Tensor

from detect.anchors.anchor_set import AnchorLevel, AnchorSet, Positive, Stride, check_levels
from detect.errors import ConfigError
from detect.loading.labels import LabelMap

Count = Annotated[int, Meta(ge=0)]


class _Anchors(Struct):
    levels: list[tuple[str, Stride, list[tuple[Positive, Positive]]]]
    resize: str
    center_offset: Annotated[float, Meta(ge=0, le=1)]
    name: str
    scores: dict[str, float]


class _Training(TypedDict, total=False):
    """What is read of the state of training before it is restored."""

    state: dict[str, Any]
    stepper: dict[str, Any]
    images: Count


class Content(Struct):
    """What a file holds besides its format."""

    config: str
    labels: LabelMap
    anchors: _Anchors | None
    weights: dict[str, Tensor]
    step: Count
    metrics: dict[str, float]
    training: dict[str, Any] | None

    @property
    def anchor_set(self) -> AnchorSet | None:
        """The anchors, if it is a detector of boxes."""
        if self.anchors is None:
            return None
        levels = tuple(AnchorLevel(name, stride, shapes) for name, stride, shapes in self.anchors.levels)
        return AnchorSet(**{**msgspec.structs.asdict(self.anchors), "levels": levels})


def check_content(content: Mapping[str, Any]) -> Content:
    """The content of a file, if each value is of its type.

    Raises:
        ConfigError: it is not, or a part is missing; the message names it.
    """
    try:
        checked = msgspec.convert(content, Content)
        msgspec.convert(checked.training, _Training | None)
    except msgspec.ValidationError as error:
        raise ConfigError(str(error).replace("`", "")) from None
    except UnicodeEncodeError as error:
        raise ConfigError(f"a text that is no Unicode ({error.reason})") from None
    except AttributeError:  # msgspec takes a tensor for an object, since it has __getitem__
        raise ConfigError("a tensor in place of a table") from None
    _check_labels(checked.labels)
    for name, weight in checked.weights.items():
        if weight.layout != torch.strided or weight.device.type != "cpu":
            raise ConfigError(f"weight {name!r} is not a dense tensor")
    if anchors := checked.anchor_set:
        check_levels(anchors.levels, ConfigError)
    return checked


def _check_labels(labels: LabelMap) -> None:
    ids, types = labels.category_ids, labels.category_types
    if not ids or len(ids) != len(labels.category_names) or list(ids) != sorted(set(ids)):
        raise ConfigError("labels need one name for each category, and category ids that rise")
    used = {each for some in types.values() for each in some}
    if not (types.keys() <= set(ids) and used <= set(range(len(labels.type_names)))):
        raise ConfigError("labels have keypoint types of other categories, or without a name")


def plain_anchors(anchors: AnchorSet) -> dict[str, Any]:
    """Anchors in plain values, as :class:`Content` takes them."""
    plain = {name: getattr(anchors, name) for name in ("resize", "center_offset", "name")}
    levels = [(level.name, level.stride, [tuple(shape) for shape in level.shapes]) for level in anchors.levels]
    return {"levels": levels, **plain, "scores": dict(anchors.scores)}
