"""Anchor texts of mmdetection 3: the ``anchor_generator`` of a head.

Its generators take levels in the order of the neck's maps: from fine to coarse over an FPN, from coarse to fine for
YOLOV3Head, which checks only the number of levels.
"""

from __future__ import annotations

import math

from detect.anchors.anchor_set import AnchorLevel, AnchorSet
from detect.data.resize import parse_resize
from detect.errors import ConvertError
from detect.interop.anchor_text import (
    SAME,
    Conversion,
    ShapeGrid,
    center_note,
    find_grid,
    in_file,
    in_strides,
    is_same,
    numbers,
    shortest,
    strides_of_levels,
)

DELETE = "# in a config with _base_ add _delete_=True: mmengine merges dicts"
ORDER = "# levels from fine to coarse, for heads over an FPN; YOLOV3Head takes them the other way: --to mmdet-yolo"

GRID = """\
anchor_generator=dict(  {delete}
    type='AnchorGenerator',
    {scales}
    ratios={ratios},  # height / width{scale_major}
    strides={strides},
    center_offset={offset:g})"""
FREE_SHAPES = """\
anchor_generator=dict(  {delete}
    type='YOLOAnchorGenerator',
    base_sizes=[
{rows}
    ],
    strides={strides})"""
SSD = """\
anchor_generator=dict(  {delete}
    type='SSDAnchorGenerator',
    scale_major=False,{input_size}
    min_sizes={smaller},
    max_sizes={larger},
    ratios={ratios},
    strides={strides})"""


def mmdet(anchors: AnchorSet) -> Conversion:
    """An AnchorGenerator if all levels share sizes in strides and ratios; otherwise free shapes."""
    grid = _shared_grid(anchors)
    if grid is None:
        text, notes = _free_shapes(anchors)
        return Conversion(f"{ORDER}\n{text}", notes)
    notes = ()
    if not grid.ratio_outer and not grid.size_outer:
        notes = ("mmdetection orders the anchors of a cell by ratio, then by scale; this set has another order",)
    text = GRID.format(
        delete=DELETE,
        scales=_scales(grid.sizes),
        ratios=numbers(grid.ratios),
        scale_major="\n    scale_major=False," * (grid.size_outer and not grid.ratio_outer),
        strides=strides_of_levels(anchors),
        offset=anchors.center_offset,
    )
    return Conversion(text, notes)


def mmdet_yolo(anchors: AnchorSet) -> Conversion:
    """Arguments of YOLOV3Head: its neck returns the coarsest map first."""
    text, notes = _free_shapes(anchors, step=-1)
    return Conversion(f"{text},\nfeatmap_strides={strides_of_levels(anchors)[::-1]}", notes)


def mmdet_ssd(anchors: AnchorSet) -> Conversion:
    """An SSDAnchorGenerator with the sizes of each level's squares, and ratios that are used with their inverses.

    Raises:
        ConvertError: a level is not a square, a larger square, and pairs of a ratio and its inverse.
    """
    levels = [_ssd_level(level) for level in anchors.levels]
    rule = parse_resize(anchors.resize) if anchors.resize else None
    sizes = rule.sizes if rule and rule.name == "stretch" else ()
    text = SSD.format(
        delete=DELETE,
        input_size=f"\n    input_size={sizes[0]}," if len(set(sizes)) == 1 else "",
        smaller=numbers([smaller for smaller, _, _ in levels]),
        larger=numbers([larger for _, larger, _ in levels]),
        ratios=numbers([ratios for _, _, ratios in levels]),
        strides=strides_of_levels(anchors),
    )
    return Conversion(text, center_note(anchors, "mmdetection's SSDAnchorGenerator"))


def _free_shapes(anchors: AnchorSet, step: int = 1) -> tuple[str, tuple[str, ...]]:
    """A YOLOAnchorGenerator, its levels from fine to coarse, or the reverse with step -1, and its notes."""
    rows = "\n".join(f"        {numbers(level.shapes, '()')},  # {level.name}" for level in anchors.levels[::step])
    text = FREE_SHAPES.format(delete=DELETE, rows=rows, strides=strides_of_levels(anchors)[::step])
    return text, center_note(anchors, "mmdetection's YOLOAnchorGenerator")


def _shared_grid(anchors: AnchorSet) -> ShapeGrid | None:
    """Sizes in strides and ratios if all levels share them."""
    first, *others = map(find_grid, in_strides(anchors))
    return first if first and all(other and first.is_like(other) for other in others) else None


def _scales(sizes: tuple[float, ...]) -> str:
    """Sizes in strides, as octaves of one base where they are."""
    octaves = [sizes[0] * 2 ** (i / len(sizes)) for i in range(len(sizes))]
    if len(sizes) > 1 and all(map(lambda own, octave: math.isclose(own, octave, rel_tol=SAME), sizes, octaves)):
        return f"octave_base_scale={sizes[0]:g}, scales_per_octave={len(sizes)},"
    return f"scales={numbers(sizes)},  # in strides"


def _ssd_level(level: AnchorLevel) -> tuple[float, float, list[float]]:
    """The sizes of the smaller and the next square (whose geometric mean is the larger one), and the ratios."""
    size, larger = level.shapes[0][0], level.shapes[min(1, len(level.shapes) - 1)][0]
    roots = [w / size for w, _ in level.shapes[2::2]]
    expected = [(size, size), (larger, larger)]
    expected += [shape for root in roots for shape in ((size * root, size / root), (size / root, size * root))]
    if len(expected) != len(level.shapes) or larger < size or not all(map(is_same, level.shapes, expected)):
        raise ConvertError(
            "takes a square, a larger square, and pairs of a ratio and its inverse of the smaller square's area; "
            f"{level.name} holds others"
        )
    following = shortest(larger**2 / size, lambda value: in_file(math.sqrt(size * value)) == in_file(larger))
    return size, following, [_ratio(size, root) for root in roots]


def _ratio(size: float, root: float) -> float:
    return shortest(root**2, lambda value: in_file(size * math.sqrt(value)) == in_file(size * root))
