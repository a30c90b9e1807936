"""What the maps of a model see, beside the sizes of objects: which objects each level suits, and which none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool
from numpy import ndarray
from torch import nn

from detect.advice.lost_objects import least_px, small_objects
from detect.advice.verdict import share_text
from detect.anchors.instances import ResizedInstances
from detect.catalog.detectors import Detector
from detect.inspection.effective_field import effective_fields
from detect.inspection.models import InspectedModel, NamedMaps, Tap
from detect.inspection.receptive_field import MapField, TrackedMaps, receptive_fields
from detect.wording import listed, plural

STEPS = (nn.modules.conv._ConvNd, nn.modules.pooling._MaxPoolNd, nn.modules.pooling._AvgPoolNd, nn.Upsample)


@dataclass(frozen=True, eq=False)
class ModelProfile:
    """The fields of a model's maps, and of its layers on the way; made by :func:`profile_model`."""

    name: str
    levels: tuple[MapField, ...]
    effective: dict[str, tuple[float, float]]
    """The effective field of each level, (height, width) in pixels."""
    layers: tuple[MapField, ...]
    """Fields after each convolution, pooling and upsampling, in the order in which they run."""
    tracked: TrackedMaps

    @cached_property
    def predicting(self) -> tuple[MapField, ...]:
        """The levels that predict: what the head returns first, else the pyramid's, else the backbone's."""
        heads = [field for field in self.levels if "." in field.name]
        first = [field for field in heads if field.name.split(".", 1)[1] == heads[0].name.split(".", 1)[1]]
        pyramid = [field for field in self.levels if field.name.startswith("P") and "." not in field.name]
        return tuple(sorted(first or pyramid or self.levels, key=lambda field: field.stride))


@dataclass(frozen=True, eq=False)
class LevelObjects:
    """The objects of a dataset that a level's effective field holds, and those that the level suits."""

    field: MapField
    effective_px: float
    spans: Bool[ndarray, " n"]
    """The longer side is at most the effective field."""
    suits: Bool[ndarray, " n"]
    """It is, and the root of the area is at least ``least_px``."""

    @property
    def least_px(self) -> float:
        """8 px, or a cell if larger, as `detect advise` says of a detector's finest level."""
        return least_px([round(self.field.stride[0])])


@dataclass(frozen=True, eq=False)
class ObjectProfile:
    """Objects after the resize beside the levels of a model that predict; made by :func:`profile_objects`."""

    profile: ModelProfile
    instances: ResizedInstances
    levels: tuple[LevelObjects, ...]
    too_small: Bool[ndarray, " n"]
    """Smaller than 8 px or a cell of the finest level, as `detect advise` counts them."""
    too_long: Bool[ndarray, " n"]
    """Longer than every effective field."""

    @property
    def unsuited(self) -> Bool[ndarray, " n"]:
        """The objects that no level suits."""
        return ~np.any([level.suits for level in self.levels], axis=0)

    def in_words(self, detector: Detector | None = None) -> list[str]:
        """What each level suits, and what none does; also whether the strides are not those of a detector."""
        number = len(self.instances)
        lines = []
        strides = [round(level.field.stride[0]) for level in self.levels]
        if detector is not None and strides != detector.strides:
            own, others = (", ".join(map(str, each)) for each in (strides, detector.strides))
            lines.append(f"{self.profile.name} has levels of strides {own}, and {detector.name} of {others}.")
        for level in self.levels:
            spanned, suited = int(level.spans.sum()), int(level.suits.sum())
            lines.append(
                f"{level.field.name}, stride {level.field.stride[0]:g}: its effective field of {level.effective_px:.0f} px "
                f"spans {share_text(spanned, number)} of the objects; {share_text(suited, number)} are also no smaller than "
                f"{level.least_px:g} px."
            )
        return [*lines, self._unsuited_in_words()]

    def _unsuited_in_words(self) -> str:
        none, parts = int(self.unsuited.sum()), []
        if not none:
            return "Every object suits a level."
        if small := int(self.too_small.sum()):
            parts.append(f"{small:,} under {self.levels[0].least_px:g} px, where a larger input or a finer level helps")
        if long := int((self.too_long & ~self.too_small).sum()):
            most = max(level.effective_px for level in self.levels)
            parts.append(f"{long:,} longer than {most:.0f} px, of which no unit sees the whole")
        if between := int((self.unsuited & ~self.too_small & ~self.too_long).sum()):
            parts.append(f"{between:,} long and thin, or between the fields of two levels")
        be = "suits" if none == 1 else "suit"
        return f"{plural(none, 'object')} ({share_text(none, len(self.instances))}) {be} no level: {'; '.join(parts)}."


def profile_model(
    model: InspectedModel, *, size: int | None = None, layers: Sequence[str] = (), effective: bool = True
) -> ModelProfile:
    """The fields of a model's maps, or of some of its layers, in a square image of ``size`` pixels.

    By default it is so large that fields do not reach its border. ``effective`` fields need the model to run forward and
    backward for each map.

    Raises:
        ConfigError: the model does not take such images, or its fields are too large.
    """
    maps = model.layers(layers) if layers else model.maps
    steps = tuple(name for name, each in maps.model.named_modules() if isinstance(each, STEPS))
    both = NamedMaps(maps.model, (*maps.taps, Tap(steps)), in_channels=maps.in_channels, run=maps.run)
    found, tracked = receptive_fields(both, size=size)
    levels = tuple(found[: len(maps.names)])
    measured = effective_fields(maps, levels) if effective else {}
    return ModelProfile(model.name, levels, measured, tuple(found[len(maps.names) :]), tracked)


def profile_objects(profile: ModelProfile, instances: ResizedInstances) -> ObjectProfile:
    """The objects of a dataset beside the levels that predict; without effective fields, beside the whole ones."""
    instances.require_boxes()
    longer, root = instances.shapes.max(axis=1), np.sqrt(instances.shapes.prod(axis=1))
    levels = []
    for field in profile.predicting:
        effective_px = min(profile.effective.get(field.name, field.size))
        spans, is_large = longer <= effective_px, root >= least_px([round(field.stride[0])])
        levels.append(LevelObjects(field, effective_px, spans, spans & is_large))
    too_small = np.zeros(len(instances), bool)
    too_small[small_objects(instances, [round(levels[0].field.stride[0])])] = True
    most = max(level.effective_px for level in levels)
    return ObjectProfile(profile, instances, tuple(levels), too_small, longer > most)


LEVEL_TITLES = (
    *("level", "stride, px", "offset, px", "shortest path, px", "field, px", "effective field, px"),
    *("overlap", "units apart", "sees the whole image"),
)


def level_cells(profile: ModelProfile, field: MapField) -> list[str]:
    """The figures of a level as text; two numbers where height and width differ."""
    effective = profile.effective.get(field.name)
    return [
        field.name,
        _both(field.stride),
        _both(field.offset),
        _both(field.shortest),
        ("at least " if field.clipped else "") + _both(field.size),
        "-" if effective is None else _both([round(each) for each in effective]),
        f"{field.overlap:.1%}",
        f"{field.units_apart:.1f}",
        "yes" if field.sees_all else "no",
    ]


def _both(pair: Sequence[float]) -> str:
    first, second = (f"{each:.4g}" for each in pair)
    return first if first == second else f"{first} x {second}"


def operator_in_words(name: str) -> str:
    """What an operator that sees the whole image is called.

    >>> operator_in_words("native_group_norm"), operator_in_words("mean")
    ('group norm', 'means over the image, as in squeeze-and-excitation')
    """
    if name == "mean" or "adaptive_avg_pool" in name:
        return "means over the image, as in squeeze-and-excitation"
    if "attention" in name or name in {"bmm", "_softmax"}:
        return "attention"
    return name.removeprefix("_").removeprefix("native_").replace("_", " ")


def notes_on(profile: ModelProfile) -> list[str]:
    """What else is known of the fields, in sentences."""
    lines = []
    if profile.tracked.whole:
        by = dict.fromkeys(operator_in_words(name) for name in profile.tracked.whole)
        lines.append(f"Units also see the whole image, by {listed(by)}; the fields are those without it.")
    if profile.tracked.unknown:
        lines.append(f"Taken to see the whole image, as their rule is not known: {listed(profile.tracked.unknown)}.")
    if clipped := [field.name for field in profile.levels if field.clipped]:
        side = profile.tracked.image_hw[0]
        lines.append(f"Fields of {listed(clipped)} reach the border of an image of {side} px, and are cut off there.")
    return lines


def growth_in_words(layers: Sequence[MapField]) -> str:
    """How the field grows between layers of equal stride, and with the stride.

    A 3 x 3 convolution adds two units of its input's stride: linear growth without pooling, doubling with each halving.
    """
    strides = sorted({field.stride[0] for field in layers})
    largest = [max(field.size[0] for field in layers if field.stride[0] == stride) for stride in strides]
    pairs = ", ".join(f"{size:,} px at stride {stride:g}" for stride, size in zip(strides, largest, strict=True))
    return f"Largest field by stride: {pairs}."
