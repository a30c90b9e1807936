"""Shapes and pyramid levels: which level a size belongs to, and how well shapes cover boxes once they lie on a grid."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray

from detect.anchors.anchor_set import AnchorSet
from detect.errors import FitError

SIZE_IN_STRIDES = 4.0  # Lin et al. 2017, section 4: anchors from 32 pixels on stride 8 to 512 on stride 128
SHORT_SIDE_IN_STRIDES = 2.0  # half a stride of misplacement then costs a thin shape at most a quarter of its overlap
COARSEST_LEVEL = 20


def strides_of(levels: str) -> tuple[int, ...]:
    """Strides in pixels from ``p3-p7``, or from a list of levels or of strides.

    >>> strides_of("p3-p7"), strides_of("p2,p4"), strides_of("7,14,28")
    ((8, 16, 32, 64, 128), (4, 16), (7, 14, 28))

    Raises:
        FitError: the text is none of these.
    """
    text = levels.lower().replace(" ", "")
    if span := re.fullmatch(r"p(\d{1,2})-p(\d{1,2})", text):
        numbers = range(int(span[1]), int(span[2]) + 1)
        strides = [2**number for number in numbers]
    else:
        fields = text.split(",")
        if not all(re.fullmatch(r"p\d{1,2}|\d{1,7}", part) for part in fields):
            raise FitError(f"levels {levels!r}: write p3-p7, p2,p4 or strides in pixels such as 8,16,32")
        strides = [2 ** int(part[1:]) if part[0] == "p" else int(part) for part in fields]
    if not strides or len(set(strides)) < len(strides) or not 1 <= min(strides) <= max(strides) <= 2**COARSEST_LEVEL:
        raise FitError(f"levels {levels!r}: need different strides from 1 to 2**{COARSEST_LEVEL}, fine to coarse")
    return tuple(sorted(strides))


def levels_of_shapes(shapes: Float64[ndarray, "n 2"], strides: Sequence[int]) -> Int64[ndarray, " n"]:
    """The coarsest level on which each shape is still large against the stride; the finest where none is.

    Large means four strides in size (the square root of the area) and two in its shorter side. By size, never by rank:
    dealing shapes out evenly puts 20 pixel anchors on stride 16, where most boxes fall between them.

    >>> levels_of_shapes(np.array([[20.0, 20.0], [70.0, 70.0], [800.0, 20.0]]), (8, 16, 32))
    array([0, 1, 0])
    """
    size = np.sqrt(shapes.prod(axis=1)) / SIZE_IN_STRIDES
    largest_stride = np.minimum(size, shapes.min(axis=1) / SHORT_SIDE_IN_STRIDES)
    return np.maximum(np.searchsorted(np.array(sorted(strides), float), largest_stride, side="right") - 1, 0)


def place_shapes(shapes: Float64[ndarray, "a 2"], strides: Sequence[int]) -> AnchorSet:
    """An AnchorSet with each shape on the level of its size; levels that get none are left out."""
    strides = sorted(strides)
    level_of = levels_of_shapes(shapes, strides)
    used = [level for level in range(len(strides)) if (level_of == level).any()]
    groups = [[(float(w), float(h)) for w, h in shapes[level_of == level]] for level in used]
    return AnchorSet.of(groups, strides=[strides[level] for level in used])
