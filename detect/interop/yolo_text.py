"""Anchor texts of YOLOv5 and its kin, and of darknet: rows and lists of width,height pairs.

YOLOv5 reads floats and darknet reads by ``atof``, so both take decimals. One is printed, or more where one would make two
anchors of a level equal, or an anchor smaller than one of a finer level.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from detect.anchors.anchor_set import DIGITS, AnchorSet
from detect.data.resize import parse_resize
from detect.errors import ConvertError
from detect.interop.anchor_text import SAME, Conversion, Shape, quotient

ORDER = "# cfg/yolov3.cfg has the sections in the other order, from stride 32 to 8; cfg/yolov4.cfg has them as here"
REGION_CELL_PX = 32  # YOLOv2 states anchors in cells of its only level


def yolov5(anchors: AnchorSet) -> Conversion:
    """One row for each level; the model gives rows to its own levels in turn, whatever the comments say."""
    rows = [
        f"  - [{', '.join(f'{w:g},{h:g}' for w, h in shapes)}]  # {level.name}/{level.stride}"
        for level, shapes in zip(anchors.levels, printed_shapes(anchors), strict=True)
    ]
    return Conversion("\n".join(["anchors:", *rows]))


def darknet(anchors: AnchorSet) -> Conversion:
    """One ``[yolo]`` section for each level: all anchors, and the indices of the level's own."""
    levels = printed_shapes(anchors)
    every = [shape for level in levels for shape in level]
    sections = [_net_line(anchors), ORDER]
    first = 0
    for level, shapes in zip(anchors.levels, levels, strict=True):
        mask = range(first, first + len(shapes))
        first += len(shapes)
        sections.append(
            f"# {level.name}: the [yolo] section whose feature map has stride {level.stride}; "
            f"the [convolutional] before it: filters=(classes + 5) * {len(shapes)}\n"
            "[yolo]\n"
            f"mask = {','.join(map(str, mask))}\n"
            f"anchors = {_pairs(every)}\n"
            f"num={len(every)}"
        )
    return Conversion("\n\n".join(filter(None, sections)))


def darknet_cells(anchors: AnchorSet) -> Conversion:
    """The ``[region]`` section of YOLOv2, in cells of 32 pixels.

    Raises:
        ConvertError: the set has other levels.
    """
    if [level.stride for level in anchors.levels] != [REGION_CELL_PX]:
        raise ConvertError(f"takes one level, of stride {REGION_CELL_PX}")
    (level,) = anchors.levels
    cells = [(quotient(w, REGION_CELL_PX), quotient(h, REGION_CELL_PX)) for w, h in level.shapes]
    lines = (
        _net_line(anchors),
        f"# the last [convolutional]: filters=(classes + 5) * {len(cells)}",
        "[region]",
        f"anchors = {_pairs(cells)}",
        f"num={len(cells)}",
    )
    return Conversion("\n".join(filter(None, lines)))


def printed_shapes(anchors: AnchorSet) -> list[list[Shape]]:
    """The shapes with as few decimals, from one on, as keep those of a level different and no level's below a finer one's.

    >>> printed_shapes(AnchorSet.of([[(10.04, 20), (10.01, 20)]], strides=[8]))
    [[(10.04, 20.0), (10.01, 20.0)]]
    """
    exact = [list(level.shapes) for level in anchors.levels]
    for decimals in range(1, DIGITS):
        levels = [[(round(w, decimals), round(h, decimals)) for w, h in level] for level in exact]
        if all(len(set(level)) == len(level) for level in levels) and is_ranked(levels) == is_ranked(exact):
            return levels
    return exact


def is_ranked(levels: Sequence[Sequence[Shape]]) -> bool:
    """Whether no shape has a smaller area than a shape of a finer level.

    >>> is_ranked([[(10, 13), (16, 30)], [(33, 23)]]), is_ranked([[(10, 13), (33, 23)], [(16, 30)]])
    (True, False)
    """
    largest = 0.0
    for level in levels:
        areas = [math.prod(shape) for shape in level]
        if min(areas, default=largest) < largest:
            return False
        largest = max(areas, default=largest)
    return True


def check_rank(anchors: AnchorSet) -> None:
    """Refuse a set with an anchor that is smaller than one of a finer level.

    Raises:
        ConvertError: there is one.
    """
    for finer, level in zip(anchors.levels, anchors.levels[1:], strict=False):
        (w, h), (own_w, own_h) = max(finer.shapes, key=math.prod), min(level.shapes, key=math.prod)
        if own_w * own_h < w * h * (1 - SAME):
            raise ConvertError(
                f"takes anchors by size, the smallest on the finest level; here {own_w:g} x {own_h:g} on {level.name} is "
                f"smaller than {w:g} x {h:g} on {finer.name}"
            )


def _net_line(anchors: AnchorSet) -> str:
    """The input size that the anchors are in pixels of, if the set states one."""
    rule = parse_resize(anchors.resize) if anchors.resize else None
    if rule is None or rule.name not in ("stretch", "letterbox"):
        return ""
    width, height = rule.sizes * 2 if rule.name == "letterbox" else rule.sizes
    return f"# pixels of [net] width={width} height={height}"


def _pairs(shapes: Sequence[Shape]) -> str:
    return ",  ".join(f"{w:g},{h:g}" for w, h in shapes)
