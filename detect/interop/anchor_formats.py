"""Write an AnchorSet as the configuration text of another framework, in its order, ratios (height / width) and rounding.

Levels go from fine to coarse; for mmdetection's YOLOV3Head from coarse to fine. One head runs over all levels, so each
should have the same number of anchors (``detect anchors fit --per-level 3``). mmdetection's free shapes and YOLO require
it: a level with fewer anchors is filled with shapes of other levels, and a note says so.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import msgspec

from detect.anchors.anchor_set import CENTER_OF_CELL, SIZE_IN_STRIDES, AnchorLevel, AnchorSet
from detect.catalog.detectors import Detector, find_detector
from detect.errors import ConvertError

SAME = 1e-4  # relative: shapes in files carry six digits
NO_ANCHORS = "the ultralytics package reads no anchors: this is for models of ultralytics/yolov3 and ultralytics/yolov5"
UNEQUAL = "levels have different numbers of anchors ({}): a head shared by all levels wants equal ones"
YOLO_STRIDES = ((8, 16, 32), (8, 16, 32, 64))  # YOLOv5: models/yolov5s.yaml, models/hub/yolov5s6.yaml
Shape = tuple[float, float]

TORCHVISION = """\
import torch
from torchvision.models.detection.anchor_utils import AnchorGenerator

anchor_generator = AnchorGenerator(
    sizes={sizes},
    aspect_ratios={ratios},  # height / width
)
# the very shapes, on {where}; torchvision would round their corners to whole pixels
anchor_generator.cell_anchors = [
{rows}
]"""
DETECTRON2 = """\
MODEL:
  ANCHOR_GENERATOR:
    NAME: DefaultAnchorGenerator
    SIZES: {sizes}
    ASPECT_RATIOS: {ratios}  # height / width, within each size
    OFFSET: {offset:g}"""
DETECTRON2_FREE_SHAPES = """\
import torch
from detectron2.modeling.anchor_generator import (
    ANCHOR_GENERATOR_REGISTRY, BufferList, DefaultAnchorGenerator,
)


@ANCHOR_GENERATOR_REGISTRY.register()
class FittedAnchorGenerator(DefaultAnchorGenerator):
    \"\"\"Free (width, height) shapes on each level, which sizes by ratios cannot say.\"\"\"

    SHAPES = [
{rows}
    ]

    def _calculate_anchors(self, sizes, aspect_ratios):
        corners = [[(-w / 2, -h / 2, w / 2, h / 2) for w, h in level] for level in self.SHAPES]
        return BufferList([torch.tensor(level) for level in corners])


def use_fitted_anchors(cfg):
    cfg.MODEL.ANCHOR_GENERATOR.NAME = "FittedAnchorGenerator"
    cfg.MODEL.ANCHOR_GENERATOR.OFFSET = {offset:g}"""
MMDET = """\
anchor_generator=dict(
    type='AnchorGenerator',
    scales={sizes},  # in strides
    ratios={ratios},  # height / width
    strides={strides},
    center_offset={offset:g})"""
MMDET_FREE_SHAPES = """\
anchor_generator=dict(
    type='YOLOAnchorGenerator',
    base_sizes=[
{rows}
    ],
    strides={strides})"""


@dataclass(frozen=True)
class Conversion:
    """A configuration text, and notes for the user."""

    text: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Grid:
    """A level whose shapes are all sizes by all ratios: (size / sqrt(ratio), size * sqrt(ratio))."""

    sizes: tuple[float, ...]
    ratios: tuple[float, ...]

    def is_like(self, other: _Grid) -> bool:
        if (len(self.sizes), len(self.ratios)) != (len(other.sizes), len(other.ratios)):
            return False
        pairs = zip(self.sizes + self.ratios, other.sizes + other.ratios, strict=True)
        return all(math.isclose(own, others, rel_tol=2 * SAME) for own, others in pairs)


def convert_anchors(anchors: AnchorSet, to: str | Detector, *, fill: bool = False) -> Conversion:
    """Write anchors as the configuration text of another framework, and note what it does differently.

    Args:
        anchors: the set.
        to: a text format, a detector of the catalog, or its name.
        fill: fill levels that have too few shapes with shapes of other levels.

    Raises:
        ConvertError: the format is not one of ``FORMATS``.

    >>> print(convert_anchors(AnchorSet.of([[(10, 13), (16, 30)]], strides=[8]), "yolov5").text)
    anchors:
      - [10,13, 16,30]  # P3/8
    """
    known = to if isinstance(to, Detector) else find_detector(to)
    form = known.text.format if known else str(to)
    if form not in FORMATS:
        raise ConvertError(f"format {form!r} is not one of {', '.join(FORMATS)}")
    return FORMATS[form](anchors)


def _torchvision(anchors: AnchorSet) -> Conversion:
    grids = _grids(anchors)
    sizes = [grid.sizes for grid in grids] or [
        tuple(math.sqrt(w * h) for w, h in level.shapes) for level in anchors.levels
    ]
    ratios = [grid.ratios for grid in grids] or [(1.0,)] * len(anchors.levels)
    rows = []
    for level in anchors.levels:
        center = anchors.center_offset * level.stride
        corners = [(center - w / 2, center - h / 2, center + w / 2, center + h / 2) for w, h in level.shapes]
        rows.append(f"    torch.tensor({_numbers(corners)}),  # {level.name}, stride {level.stride}")
    where = "the middle of the cell" if anchors.center_offset == CENTER_OF_CELL else "torchvision's place"
    text = TORCHVISION.format(sizes=_tuples(sizes), ratios=_tuples(ratios), where=where, rows="\n".join(rows))
    return Conversion(text, _unequal(anchors))


def _detectron2(anchors: AnchorSet) -> Conversion:
    grids = _grids(anchors)
    if grids:
        sizes, ratios = _numbers([grid.sizes for grid in grids]), _numbers([grid.ratios for grid in grids])
        text = DETECTRON2.format(sizes=sizes, ratios=ratios, offset=anchors.center_offset)
    else:
        rows = [f"        {_numbers(level.shapes)},  # {level.name}, stride {level.stride}" for level in anchors.levels]
        text = DETECTRON2_FREE_SHAPES.format(rows="\n".join(rows), offset=anchors.center_offset)
    return Conversion(text, _unequal(anchors))


def _mmdet(anchors: AnchorSet) -> Conversion:
    if scales := _shared_scales(anchors):
        sizes, ratios = _numbers(scales.sizes), _numbers(scales.ratios)
        return Conversion(
            MMDET.format(sizes=sizes, ratios=ratios, strides=_strides(anchors), offset=anchors.center_offset)
        )
    text, notes = _mmdet_free_shapes(anchors)
    order = "# levels from fine to coarse, for heads over an FPN; YOLOV3Head takes them the other way: --to mmdet-yolo"
    return Conversion(f"{order}\n{text}", notes)


def _mmdet_yolo(anchors: AnchorSet) -> Conversion:
    """Write arguments of YOLOV3Head: its neck returns the coarsest map first, and it checks only the number of levels."""
    text, notes = _mmdet_free_shapes(anchors, step=-1)
    return Conversion(f"{text},\nfeatmap_strides={_strides(anchors)[::-1]}", notes)


def _mmdet_free_shapes(anchors: AnchorSet, step: int = 1) -> tuple[str, tuple[str, ...]]:
    """Write a YOLOAnchorGenerator, its levels from fine to coarse, or the reverse with step -1; return its notes too."""
    levels, notes = _filled(anchors, "mmdetection's YOLOAnchorGenerator")
    if anchors.center_offset != CENTER_OF_CELL:
        notes += ("mmdetection's YOLOAnchorGenerator centres anchors on the middle of the cell",)
    rows = "\n".join(f"        {_numbers(level.shapes, '()')},  # {level.name}" for level in levels[::step])
    return MMDET_FREE_SHAPES.format(rows=rows, strides=_strides(anchors)[::step]), notes


def _yolo(anchors: AnchorSet, more_notes: tuple[str, ...] = ()) -> Conversion:
    """Write one row per level, width and height alternating, smallest area first (YOLOv5's models/yolov5s.yaml)."""
    levels, notes = _filled(anchors, "YOLO")
    rows = []
    for level in levels:
        pairs = ", ".join(f"{round(w, 1):g},{round(h, 1):g}" for w, h in sorted(level.shapes, key=math.prod))
        rows.append(f"  - [{pairs}]  # {level.name}/{level.stride}")
    if tuple(_strides(anchors)) not in YOLO_STRIDES:
        notes += (
            "YOLO takes rows for its own layers in turn, whatever the comments say: strides 8, 16, 32, of P6 models 64 too; "
            f"this set is for strides {', '.join(map(str, _strides(anchors)))}",
        )
    return Conversion("\n".join(["anchors:", *rows]), (*more_notes, *notes))


def _json(anchors: AnchorSet) -> Conversion:
    levels = msgspec.to_builtins(anchors.levels)
    content = {"resize": anchors.resize, "center_offset": anchors.center_offset, "levels": levels}
    return Conversion(json.dumps(content, indent=2))


FORMATS: dict[str, Callable[[AnchorSet], Conversion]] = {
    "torchvision": _torchvision,
    "detectron2": _detectron2,
    "mmdet": _mmdet,
    "mmdet-yolo": _mmdet_yolo,
    "yolov5": _yolo,
    "ultralytics-yaml": partial(_yolo, more_notes=(NO_ANCHORS,)),
    "json": _json,
}


def _strides(anchors: AnchorSet) -> list[int]:
    return [level.stride for level in anchors.levels]


def _grids(anchors: AnchorSet) -> list[_Grid]:
    """Return sizes and ratios of every level, or an empty list if a level is not sizes by ratios."""
    grids = [_grid_of(level.shapes) for level in anchors.levels]
    return [grid for grid in grids if grid is not None] if None not in grids else []


def _grid_of(shapes: Sequence[Shape]) -> _Grid | None:
    sizes = _distinct(math.sqrt(w * h) for w, h in shapes)
    ratios = _distinct(h / w for w, h in shapes)
    if len(sizes) * len(ratios) != len(shapes):
        return None
    expected = [(size / math.sqrt(ratio), size * math.sqrt(ratio)) for size in sizes for ratio in ratios]
    same = partial(math.isclose, rel_tol=SAME)
    found = all(any(all(map(same, pair, shape)) for shape in shapes) for pair in expected)
    return _Grid(tuple(sizes), tuple(ratios)) if found else None


def _distinct(values: Iterable[float]) -> list[float]:
    kept: list[float] = []
    for value in sorted(values):
        if not kept or not math.isclose(value, kept[-1], rel_tol=SAME):
            kept.append(value)
    return [float(f"{value:.5g}") for value in kept]


def _shared_scales(anchors: AnchorSet) -> _Grid | None:
    """Return sizes in strides and ratios if all levels share them: the form of mmdetection's AnchorGenerator."""
    grids = [_grid_of([(w / level.stride, h / level.stride) for w, h in level.shapes]) for level in anchors.levels]
    first = grids[0]
    return first if first and all(other and first.is_like(other) for other in grids) else None


def _filled(anchors: AnchorSet, framework: str) -> tuple[list[AnchorLevel], tuple[str, ...]]:
    """Fill shorter levels with shapes of other levels, nearest in size first, so that all have equal length."""
    most = max(len(level.shapes) for level in anchors.levels)
    levels = []
    for level in anchors.levels:
        others = [shape for other in anchors.levels if other is not level for shape in other.shapes]
        own_size = SIZE_IN_STRIDES * level.stride
        others.sort(key=lambda shape: abs(math.log(math.sqrt(shape[0] * shape[1]) / own_size)))
        added = others[: most - len(level.shapes)]
        levels.append(AnchorLevel(level.name, level.stride, [*level.shapes, *added]))
    wish = f"{framework} wants the same number of anchors on every level, this set has"
    return levels, _unequal(anchors, f"{wish} {{}}: filled up to {most} each with shapes of other levels")


def _unequal(anchors: AnchorSet, note: str = UNEQUAL) -> tuple[str, ...]:
    """Note the number of shapes of each level, unless all are equal."""
    if len({len(level.shapes) for level in anchors.levels}) == 1:
        return ()
    counts = ", ".join(f"{level.name} {len(level.shapes)}" for level in anchors.levels)
    return (f"{note.format(counts)}; `detect anchors fit --per-level` fits equal numbers",)


def _numbers(rows: Sequence[float] | Sequence[Sequence[float]], inner: str = "[]") -> str:
    """Write numbers as a list in Python, JSON and YAML; ``inner`` are the brackets of nested lists."""
    parts = (
        f"{row:.9g}" if isinstance(row, int | float) else inner[0] + _numbers(row)[1:-1] + inner[1] for row in rows
    )
    return f"[{', '.join(parts)}]"


def _tuples(rows: Sequence[Sequence[float]]) -> str:
    """Write nested tuples, each with a trailing comma: ``((1, 2,), (3,),)``."""
    inner = (f"({' '.join(f'{value:.6g},' for value in row)})," for row in rows)
    return f"({' '.join(inner)})"
