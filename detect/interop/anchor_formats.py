"""Write an AnchorSet as the text of another framework's configuration, if the framework takes such a set.

A detector of the catalog takes its own levels, with its own number of anchors on each. A text format takes whatever the
framework reads: equal numbers of anchors where one head runs over all levels, and for YOLO the levels of its models. What
does not fit is refused in one line, which gives the command that fits anchors to it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import msgspec

from detect.anchors.anchor_set import SIZE_IN_STRIDES, AnchorLevel, AnchorSet
from detect.catalog.detectors import AnchorDetector, Detector, anchor_detectors, detectors, load_detector, with_anchors
from detect.errors import CatalogError, ConvertError
from detect.interop.anchor_text import Conversion, strides_of_levels
from detect.interop.detectron2_text import detectron2
from detect.interop.effdet_text import effdet
from detect.interop.mmdet_text import mmdet, mmdet_ssd, mmdet_yolo
from detect.interop.torchvision_text import torchvision, torchvision_ssd
from detect.interop.yolo_text import check_rank, darknet, darknet_cells, yolov5


@dataclass(frozen=True)
class TextFormat:
    """How a text is written, and what every model that reads it expects."""

    write: Callable[[AnchorSet], Conversion]
    strides: tuple[tuple[int, ...], ...] = ()
    """The strides that the framework's models have; empty if any will do. A detector of the catalog has its own."""
    equal: bool = True
    """The number of anchors is the same on every level: one head runs over all of them."""
    ranked: bool = False
    """No anchor is smaller than one of a finer level."""


def convert_anchors(anchors: AnchorSet, to: str | Detector, *, fill: bool = False) -> Conversion:
    """Write anchors as the text that a detector takes, and note what it does differently.

    Args:
        anchors: the set.
        to: a text format of ``FORMATS``, a detector, its name, or a YAML file that describes one.
        fill: first fill levels that have too few shapes with shapes of other levels.

    Raises:
        ConvertError: there is no such format or detector, or it does not take this set.

    >>> anchors = AnchorSet.of([[(10, 13)], [(30, 61)], [(116, 90)]], strides=[8, 16, 32])
    >>> print(convert_anchors(anchors, "yolov5").text)
    anchors:
      - [10,13]  # P3/8
      - [30,61]  # P4/16
      - [116,90]  # P5/32
    """
    detector, form = _target(to)
    if form in HOLD_ANY_SET and detector is None:
        return FORMATS[form].write(anchors)
    filled, notes = _filled(anchors, detector) if fill else (anchors, ())
    try:
        _check(filled, FORMATS[form], detector, ranked=not notes)
        conversion = FORMATS[form].write(filled)
    except ConvertError as error:
        name = detector.name if detector else form
        raise ConvertError(f"{name} {error}: `{_fit_command(anchors, detector, form)}`") from None
    return Conversion(conversion.text, (*notes, *conversion.notes, *_resize_note(anchors, detector)))


def place_of_text(anchors: AnchorSet, to: str | Detector) -> str:
    """The file that the text goes into and its place there, or nothing if the format alone does not say so.

    >>> place_of_text(AnchorSet.of([[(10, 13)]], strides=[32]), "yolov2-voc")
    'cfg/yolov2-voc.cfg, the [region] section'
    """
    detector, form = _target(to)
    if detector is None and form not in HOLD_ANY_SET:
        detector = _like(form, strides_of_levels(anchors))
    return f"{detector.text.file}, {detector.text.key.rstrip(':')}" if detector else ""


def _anchors_yaml(anchors: AnchorSet) -> Conversion:
    return Conversion(anchors.to_yaml().rstrip("\n"))


def _json(anchors: AnchorSet) -> Conversion:
    levels = msgspec.to_builtins(anchors.levels)
    content = {"resize": anchors.resize, "center_offset": anchors.center_offset, "levels": levels}
    return Conversion(json.dumps(content, indent=2))


# YOLOv5: models/yolov5s.yaml, models/hub/yolov5s6.yaml; EfficientDet: D0 to D7, and D7x with P8
FORMATS: dict[str, TextFormat] = {
    "yolov5": TextFormat(yolov5, strides=((8, 16, 32), (8, 16, 32, 64)), ranked=True),
    "darknet": TextFormat(darknet, equal=False, ranked=True),
    "darknet-cells": TextFormat(darknet_cells, strides=((32,),)),
    "mmdet": TextFormat(mmdet),
    "mmdet-yolo": TextFormat(mmdet_yolo),
    "mmdet-ssd": TextFormat(mmdet_ssd, equal=False),
    "torchvision": TextFormat(torchvision),
    "torchvision-ssd": TextFormat(torchvision_ssd, equal=False),
    "detectron2": TextFormat(detectron2),
    "effdet": TextFormat(effdet, strides=((8, 16, 32, 64, 128), (8, 16, 32, 64, 128, 256))),
    "anchors.yaml": TextFormat(_anchors_yaml, equal=False),
    "json": TextFormat(_json, equal=False),
}
HOLD_ANY_SET = ("anchors.yaml", "json")


def _target(to: str | Detector) -> tuple[AnchorDetector | None, str]:
    """The detector, unless a text format is named, and the format."""
    if isinstance(to, str) and to in FORMATS:
        return None, to
    try:
        detector = with_anchors(to if isinstance(to, Detector) else load_detector(to))
    except CatalogError as error:
        raise ConvertError(f"{str(error).rstrip('.')}. Text formats: {', '.join(FORMATS)}") from None
    if detector.text.format not in FORMATS:
        raise ConvertError(f"{detector.name}: text format {detector.text.format!r} is not one of {', '.join(FORMATS)}")
    return detector, detector.text.format


def _check(anchors: AnchorSet, form: TextFormat, detector: AnchorDetector | None, *, ranked: bool) -> None:
    """Refuse a set whose levels, numbers, sizes or order the target does not take."""
    strides, counts = strides_of_levels(anchors), [len(level.shapes) for level in anchors.levels]
    if detector and (strides, counts) != (detector.strides, detector.numbers):
        where = "" if strides == detector.strides else f" on strides {_list(strides)}"
        raise ConvertError(f"takes {_wanted(detector)}; this set has {_list(counts)}{where}")
    if not detector and form.strides and tuple(strides) not in form.strides:
        raise ConvertError(
            f"takes anchors on strides {' or '.join(map(_list, form.strides))}; this set has strides {_list(strides)}"
        )
    if form.equal and len(set(counts)) > 1:
        raise ConvertError(f"takes the same number of anchors on every level; this set has {_list(counts)}")
    for level in anchors.levels:
        for number, (w, h) in enumerate(level.shapes):
            if min(w, h) < 1:
                raise ConvertError(f"takes no anchors below one pixel; {level.name} holds {w:g} x {h:g}")
            if (w, h) in level.shapes[:number]:
                raise ConvertError(f"takes different anchors; {level.name} holds {w:g} x {h:g} twice")
    if ranked and (form.ranked or (detector and detector.layout == "ranked")):
        check_rank(anchors)


def _wanted(detector: AnchorDetector) -> str:
    if len(set(detector.numbers)) > 1:
        return f"{_list(detector.numbers)} anchors on strides {_list(detector.strides)}"
    number = detector.numbers[0]
    return f"{number} anchor{'s' * (number > 1)} on each of strides {_list(detector.strides)}"


def _fit_command(anchors: AnchorSet, detector: AnchorDetector | None, form: str) -> str:
    """The command that fits anchors which the target takes."""
    if detector:
        known = detector.name in detectors()
        return f"detect anchors fit DATA --for {detector.name if known else f'{detector.name}.yaml'}"
    strides = strides_of_levels(anchors)
    like = _like(form, strides) or (_like(form) if FORMATS[form].strides or form.endswith("-ssd") else None)
    if like:
        return f"detect anchors fit DATA --for {like.name}"
    most = max(len(level.shapes) for level in anchors.levels)
    return f"detect anchors fit DATA --levels {','.join(map(str, strides))} --per-level {most}"


def _like(form: str, strides: Sequence[int] | None = None) -> AnchorDetector | None:
    """The first detector of the catalog that takes this format, on levels of these strides."""
    return next(
        (each for each in anchor_detectors().values() if each.text.format == form and strides in (None, each.strides)),
        None,
    )


def _resize_note(anchors: AnchorSet, detector: AnchorDetector | None) -> tuple[str, ...]:
    if detector is None or anchors.resize in ("", detector.resize):
        return ()
    return (
        f"the shapes are in pixels after {anchors.resize}; {detector.name} resizes by {detector.resize} unless told",
    )


def _filled(anchors: AnchorSet, detector: AnchorDetector | None) -> tuple[AnchorSet, tuple[str, ...]]:
    """Fill shorter levels with shapes of other levels, nearest in size first."""
    counts = [len(level.shapes) for level in anchors.levels]
    wanted = [max(counts)] * len(counts)
    if detector and strides_of_levels(anchors) == detector.strides:
        wanted = detector.numbers
    levels = tuple(_longer(level, anchors, number) for level, number in zip(anchors.levels, wanted, strict=True))
    if levels == anchors.levels:
        return anchors, ()
    note = f"levels of {_list(counts)} anchors are filled with shapes of other levels to {_list(wanted)}"
    return replace(anchors, levels=levels), (note,)


def _longer(level: AnchorLevel, anchors: AnchorSet, wanted: int) -> AnchorLevel:
    others = {shape for other in anchors.levels for shape in other.shapes} - set(level.shapes)
    own_size = SIZE_IN_STRIDES * level.stride
    nearest = sorted(others, key=lambda shape: (abs(math.log(math.sqrt(math.prod(shape)) / own_size)), shape))
    return AnchorLevel(level.name, level.stride, [*level.shapes, *nearest[: max(0, wanted - len(level.shapes))]])


def _list(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))
