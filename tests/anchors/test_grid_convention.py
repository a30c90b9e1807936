"""What conventions say, and the cells of a level."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from detect.anchors.grid_convention import CONVENTIONS, Convention, as_convention, cell_step, num_cells


def test_a_convention_is_taken_as_text_or_as_an_object():
    own = Convention(stride_mode="floor", center_offset=0.25)
    assert as_convention(own) is own
    for name, convention in CONVENTIONS.items():
        assert as_convention(name) is convention
    assert as_convention("exact") == Convention()


def test_levels_by_repeated_halving_have_as_many_cells():
    # a convolution of stride 2 with padding leaves ceil(n / 2), again and again
    sizes = np.arange(1, 300)
    cells, stride = sizes, 1
    for _ in range(7):
        cells, stride = -(-cells // 2), stride * 2
        assert_array_equal(num_cells(sizes, stride), cells)


def test_steps_between_cells_by_hand():
    # 100 px at stride 16: 7 cells, 100 / 7 = 14.29; 64 px: 4 cells of 16
    canvas = np.array([100, 64])
    assert cell_step(canvas, 16, "exact") == 16
    assert_array_equal(cell_step(canvas, 16, "floor"), [14, 16])
    assert_allclose(cell_step(canvas, 16, "ratio"), [100 / 7, 16])


def test_unknown_names_and_modes_are_named():
    with pytest.raises(
        ValueError, match="convention 'keras' is not one of exact, torchvision, detectron2, mmdet, effdet"
    ):
        as_convention("keras")
    for wrong in (lambda: Convention(stride_mode="ceil"), lambda: cell_step(np.array([64]), 16, "ceil")):
        with pytest.raises(ValueError, match="stride_mode is 'exact', 'floor' or 'ratio', got 'ceil'"):
            wrong()
