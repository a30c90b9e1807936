"""The box around an outline of a COCO file: polygons, or a mask as run lengths (RLE), compressed or not."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from detect.data.coco_entries import Box

MAX_MASK_PIXELS = 2**32 - 1  # pycocotools counts pixels in 32 bits
_COMPRESSED = re.compile(r"(?:[0-o]*[0-O])?")  # a last character of another kind makes pycocotools read past the end


def outline_box(segmentation: Any) -> Box | None:
    """The box (x, y, width, height) around a ``segmentation``; None if there is none, or none that can be read.

    >>> outline_box([[10, 20, 30, 20, 30, 25]])
    Box(x=10.0, y=20.0, width=20.0, height=5.0)
    >>> outline_box({"size": [4, 5], "counts": [4, 2, 2, 2, 10]})  # columns 1 and 2, rows 0 and 1
    Box(x=1.0, y=0.0, width=2.0, height=2.0)
    """
    try:
        if isinstance(segmentation, Mapping):
            return _mask_box(segmentation["size"], segmentation["counts"])
        return _polygon_box(segmentation)
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def _polygon_box(polygons: Any) -> Box | None:
    """The box around the points of all polygons, or of one polygon that is not in a list of its own."""
    if not isinstance(polygons, Sequence) or isinstance(polygons, str | bytes) or not len(polygons):
        return None
    nested = [polygons] if isinstance(polygons[0], int | float) else polygons
    xs = [float(x) for polygon in nested for x in polygon[0::2]]
    ys = [float(y) for polygon in nested for y in polygon[1::2]]
    if len(xs) != len(ys) or len(xs) < 2 or not all(map(math.isfinite, xs + ys)):
        return None
    return Box(min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys))


def _mask_box(size: Any, counts: Any) -> Box | None:
    mask = import_module("pycocotools.mask")  # not loaded for files without masks
    height, width = (int(side) for side in size)
    if min(height, width) < 1 or height * width > MAX_MASK_PIXELS:
        return None
    if isinstance(counts, str | bytes):
        text = counts if isinstance(counts, str) else counts.decode("ascii")
        if not _COMPRESSED.fullmatch(text):
            return None
        runs = {"size": [height, width], "counts": text.encode()}
    else:
        lengths = [int(count) for count in counts]
        if min(lengths, default=-1) < 0 or sum(lengths) != height * width:
            return None
        runs = mask.frPyObjects({"size": [height, width], "counts": lengths}, height, width)
    x, y, box_width, box_height = mask.toBbox(runs).tolist()
    return Box(x, y, box_width, box_height) if box_width > 0 and box_height > 0 else None
