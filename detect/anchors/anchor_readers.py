"""Read anchors from the files of other frameworks; the content says which framework's a file is.

    anchors.yaml    our own, or one without its header: levels with strides, or a list of shapes
    YOLOv5, YOLOv7  YAML with a row of ``anchors`` for each level
    darknet         ``.cfg`` with [yolo] sections or a [region] section
    mmdetection     Python with an ``anchor_generator``
    detectron2      YAML with MODEL.ANCHOR_GENERATOR
    plain text      ``10,13 16,30 33,23``, or as tables show them, ``10x13 16x30``

Levels that a file does not state are assumed by the rules of its framework, and :attr:`AnchorSet.assumed` says so. A resize
rule is never assumed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta, Struct

from detect.anchors.anchor_set import AnchorLevel, AnchorSet, Positive, level_name, place_shapes
from detect.anchors.darknet_cfg import parse_darknet
from detect.anchors.mmdet_config import parse_mmdet
from detect.data.resize import ResizeRule, parse_resize
from detect.errors import AnchorFileError, ResizeError
from detect.files import read_small_text
from detect.text_formats import parse_yaml

YOLO_STRIDES = (8, 16, 32, 64)
NUM_YOLO_ANCHORS = 9  # of YOLOv5's and YOLOv3's usual models, three on each of three levels
RETINANET_STRIDES, RCNN_STRIDES = (8, 16, 32, 64, 128), (4, 8, 16, 32, 64)
NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
COMMENT = re.compile(r"#.*")
YOLO_ROW = re.compile(r"^\s*-\s*\[.*\]\s*#\s*P?\d*/(\d{1,7})\s*$", re.MULTILINE)
STRIDES_COMMENT = re.compile(r"#.*\bstrides (\d{1,7}(?:, \d{1,7})*)$", re.MULTILINE)

SAME_PLACE = 1e-3  # cells; corners are float32

Rows = Annotated[list[list[Positive]], Meta(min_length=1)]
Shapes = list[tuple[float, float]]


class _Level(Struct):
    stride: Annotated[int, Meta(ge=1, le=2**20)]
    shapes: list[tuple[Positive, Positive]]
    name: str = ""


class _Levels(Struct):
    """``anchors.yaml`` without its header."""

    levels: list[_Level]
    resize: str = ""
    center_offset: float = 0.5


class _Generator(Struct, rename="upper"):
    """MODEL.ANCHOR_GENERATOR of detectron2; the defaults are those of its config/defaults.py."""

    sizes: Rows
    aspect_ratios: Rows = msgspec.field(default_factory=lambda: [[0.5, 1.0, 2.0]])
    offset: float = 0.0
    name: str = "DefaultAnchorGenerator"


def read_anchors(path: str | Path) -> AnchorSet:
    """Read anchors from a file of any of the formats above.

    Raises:
        AnchorFileError: the file cannot be read; the message names it and says what is wrong.
    """
    return parse_anchors(read_small_text(path, AnchorFileError), name=str(path))


def parse_anchors(text: str, *, name: str = "anchors") -> AnchorSet:
    """Read anchors from a text of any of the formats above; ``name`` is for the set and for messages.

    Raises:
        AnchorFileError: the text has none of the formats, or a number in it is wrong.

    >>> anchors = parse_anchors("10,13 16,30 33,23 30,61 62,45 59,119 116,90 156,198 373,326")
    >>> [(level.name, len(level.shapes)) for level in anchors.levels], anchors.resize
    ([('P3', 3), ('P4', 3), ('P5', 3)], '')
    """
    try:
        anchors = _reader(text, Path(name).suffix)(text)
        _check(anchors)
    except (AnchorFileError, ResizeError) as error:
        raise AnchorFileError(f"{name}: {' '.join(str(error).split())}") from None
    except msgspec.ValidationError as error:
        raise AnchorFileError(f"{name}: not an anchors file: {str(error).replace('`', '')}") from None
    return replace(anchors, name=name)


def anchors_from_torchvision(generator: Any, strides: Sequence[int], *, resize: str | ResizeRule = "") -> AnchorSet:
    """The anchors of a torchvision ``AnchorGenerator`` as it generates them, rounded corners included.

    Args:
        generator: the generator, with its ``cell_anchors`` of each level.
        strides: of the feature levels, in pixels, from fine to coarse.
        resize: the model's resize rule, if it is known.

    Raises:
        AnchorFileError: there are not as many levels as strides, or anchors lie on different places in their cells.
    """
    cells = [np.array(level.tolist(), float).reshape(-1, 4) for level in generator.cell_anchors]
    if len(cells) != len(strides):
        raise AnchorFileError(f"the generator has {len(cells)} levels, there are {len(strides)} strides")
    centers = [(cell[:, :2] + cell[:, 2:]) / 2 / stride for cell, stride in zip(cells, strides, strict=True)]
    places = np.concatenate(centers)
    if np.ptp(places) > SAME_PLACE:
        raise AnchorFileError("the generator's anchors lie on different places in their cells")
    offset = round(float(places.mean()), 3)
    shapes = [cell[:, 2:] - cell[:, :2] for cell in cells]
    anchors = AnchorSet.of(shapes, strides=strides, resize=resize, center_offset=offset, name="torchvision")
    _check(anchors)
    return anchors


def is_plain(text: str) -> bool:
    """Whether a text is made of numbers alone, two or more.

    >>> is_plain("10,13 16,30"), is_plain("10x13"), is_plain("yolov5"), is_plain("10")
    (True, True, False, False)
    """
    return len(NUMBER.findall(text)) > 1 and not NUMBER.sub("", COMMENT.sub("", text)).strip(" \t\r\n,;()[]-x")


def _reader(text: str, suffix: str) -> Callable[[str], AnchorSet]:
    if suffix == ".py" or "anchor_generator" in text:
        return parse_mmdet
    if suffix == ".cfg" or re.search(r"^\s*\[(yolo|region)\]\s*$", text, re.MULTILINE):
        return parse_darknet
    return _parse_plain if is_plain(text) else _parse_yaml


def _check(anchors: AnchorSet) -> None:
    """Refuse what no detector has: no levels, two of one stride, no shapes, sizes that are no positive numbers."""
    msgspec.convert(msgspec.to_builtins(anchors.levels), list[AnchorLevel])
    strides = [level.stride for level in anchors.levels]
    if not strides or not all(level.shapes for level in anchors.levels):
        raise AnchorFileError("no anchors in it, or a level without any")
    if len(set(strides)) < len(strides):
        raise AnchorFileError(f"levels of strides {', '.join(map(str, strides))}: each may be there once")
    if not 0 <= anchors.center_offset <= 1:
        raise AnchorFileError(f"center offset {anchors.center_offset:g} is not in [0, 1]")
    if anchors.resize:
        parse_resize(anchors.resize)


def _parse_plain(text: str) -> AnchorSet:
    """Pairs of width and height: nine are dealt out by area as YOLO's are; others go to the levels of their sizes."""
    values = [float(number) for number in NUMBER.findall(COMMENT.sub("", text))]
    if len(values) % 2:
        raise AnchorFileError(f"{len(values)} numbers, not pairs of width and height")
    shapes = np.array(msgspec.convert(values, list[Positive])).reshape(-1, 2)
    if len(shapes) == NUM_YOLO_ANCHORS:
        ranked = shapes[np.argsort(shapes.prod(axis=1), kind="stable")]
        strides = YOLO_STRIDES[:3]
        assumed = f"three shapes by area on each of {_words(strides)}, as in YOLOv5"
        return AnchorSet.of(np.split(ranked, 3), strides=strides, resize="", assumed=(assumed,))
    anchors = place_shapes(shapes, RETINANET_STRIDES)
    return replace(anchors, resize="", assumed=("each shape on the level of its size, from P3 to P7",))


def _parse_yaml(text: str) -> AnchorSet:
    content = parse_yaml(text, AnchorFileError)
    if isinstance(content, list):
        content = {"levels": content}
    if not isinstance(content, dict):
        raise AnchorFileError(
            "not an anchors file, nor YAML of YOLOv5 or detectron2, a darknet .cfg or an mmdetection config"
        )
    if "format" in content:
        return AnchorSet.from_yaml(text)
    if "anchors" in content:
        return _yolo_rows(content["anchors"], text)
    if "levels" in content:
        return _plain_levels(content)
    model = content.get("MODEL", content)
    if isinstance(model, dict) and "ANCHOR_GENERATOR" in model:
        return _detectron2(model, text)
    raise AnchorFileError("not an anchors file: it has none of format, levels, anchors and MODEL.ANCHOR_GENERATOR")


def _plain_levels(content: dict[str, Any]) -> AnchorSet:
    found = msgspec.convert(content, _Levels)
    levels = [AnchorLevel(each.name or level_name(each.stride), each.stride, each.shapes) for each in found.levels]
    levels.sort(key=lambda level: level.stride)
    return AnchorSet(tuple(levels), found.resize, found.center_offset)


def _yolo_rows(content: object, text: str) -> AnchorSet:
    """Rows of widths and heights in turn; their strides are in comments (``# P3/8``), or follow from their number."""
    if isinstance(content, int):
        raise AnchorFileError(f"anchors: {content} leaves the shapes to YOLOv5, which fits them before it trains")
    rows = msgspec.convert(content, Rows)
    if any(len(row) % 2 for row in rows):
        raise AnchorFileError(f"anchors: rows of {', '.join(str(len(row)) for row in rows)} numbers, not pairs")
    levels: list[Shapes] = [list(zip(row[::2], row[1::2], strict=True)) for row in rows]
    strides = [int(stride) for stride in YOLO_ROW.findall(text)]
    if len(set(strides)) == len(rows):
        return AnchorSet.of(levels, strides=strides, resize="")
    usual = YOLO_STRIDES[: len(rows)]
    if len(rows) not in (3, 4) and all(len(row) == 2 for row in rows):  # a list of shapes
        return _parse_plain(str(rows))
    if len(rows) not in (3, 4):
        raise AnchorFileError(f"anchors: {len(rows)} rows; write the stride of each beside it, as in # P3/8")
    return AnchorSet.of(levels, strides=usual, resize="", assumed=(f"{_words(usual)}, by the number of rows",))


def _detectron2(model: dict[str, Any], text: str) -> AnchorSet:
    """Every size by every ratio, ratios varying faster (detectron2's DefaultAnchorGenerator.generate_cell_anchors)."""
    found = msgspec.convert(model["ANCHOR_GENERATOR"], _Generator)
    if found.name != "DefaultAnchorGenerator":
        raise AnchorFileError(f"MODEL.ANCHOR_GENERATOR.NAME is {found.name}; DefaultAnchorGenerator is read")
    strides, assumed = _detectron2_strides(model, found.sizes, text)
    levels: list[Shapes] = []
    for sizes, ratios in zip(_each(found.sizes, strides), _each(found.aspect_ratios, strides), strict=True):
        roots = np.sqrt(ratios).tolist()
        levels.append([(size / root, size * root) for size in sizes for root in roots])
    return AnchorSet.of(levels, strides=strides, resize="", center_offset=found.offset, assumed=assumed)


def _each(rows: Rows, strides: Sequence[int]) -> Rows:
    """One row for each level, where one may stand for all."""
    if len(rows) not in (1, len(strides)):
        raise AnchorFileError(f"MODEL.ANCHOR_GENERATOR: {len(rows)} lists for {len(strides)} levels")
    return rows * len(strides) if len(rows) == 1 else rows


def _detectron2_strides(model: dict[str, Any], sizes: Rows, text: str) -> tuple[Sequence[int], tuple[str, ...]]:
    """The strides: from a comment, else from the head's IN_FEATURES, else the usual ones for this number of levels."""
    if written := STRIDES_COMMENT.search(text):
        return [int(stride) for stride in written[1].split(",")], ()
    for head in ("RETINANET", "RPN"):
        features = model.get(head, {}).get("IN_FEATURES") if isinstance(model.get(head), dict) else None
        levels = [re.fullmatch(r"(?:p|res)(\d)", str(each)) for each in features] if isinstance(features, list) else []
        if levels and all(levels):
            return [2 ** int(level[1]) for level in levels if level], ()
    is_retinanet = len(sizes[0]) == 3 or model.get("META_ARCHITECTURE") == "RetinaNet"
    usual = {1: (16,), 5: RETINANET_STRIDES if is_retinanet else RCNN_STRIDES}.get(len(sizes))
    if usual is None:
        raise AnchorFileError(f"SIZES for {len(sizes)} levels; write beside them # strides 8, 16, ...")
    return usual, (f"{_words(usual)}, by the number of levels and sizes",)


def _words(strides: Sequence[int]) -> str:
    return f"strides {', '.join(map(str, strides))}"
