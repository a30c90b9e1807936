"""Shared parts of figures: literal labels, colours, axes."""

from __future__ import annotations

import numpy as np
import pytest
from pages import GROWING_BOXES, TWO_LEVELS, boxes_in_files

from detect.anchors.anchor_set import AnchorSet
from detect.anchors.metrics import anchor_metrics
from detect.report.plots import (
    LEVEL_COLORS,
    MIN_OCTAVES,
    OCTAVE,
    label,
    level_colors,
    pixels_axis,
    set_keys,
    visible,
)


def test_labels_are_short_and_literal() -> None:
    assert label("<i>") == "&lt;i&gt;"
    assert "$" not in label("$x$")  # plotly would ask for MathJax
    assert visible("a" * 50 + "b" * 50, 11) == "aaaaa…bbbbb"
    assert visible("\x00\u202e\n") == "\ufffd" * 3


def test_a_level_keeps_its_colour_when_another_set_has_more() -> None:
    some = boxes_in_files(GROWING_BOXES)
    both = [
        anchor_metrics(some, TWO_LEVELS),
        anchor_metrics(some, AnchorSet.of([[(9, 9)], [(60, 60)]], strides=(4, 16))),
    ]
    assert list(level_colors(both)) == [4, 8, 16]


def test_levels_have_colours_from_fine_to_coarse() -> None:
    score = anchor_metrics(boxes_in_files([]), TWO_LEVELS)
    assert level_colors([score]) == {8: LEVEL_COLORS[0], 16: LEVEL_COLORS[1]}


@pytest.mark.parametrize(("low", "high"), [(10, 10), (10, 15), (1, 5000), (0.1, 1e6)])
def test_an_axis_in_pixels_holds_its_values_and_has_at_most_twelve_ticks_at_powers_of_two(
    low: float, high: float
) -> None:
    axis = pixels_axis("width, px", low, high)
    start, end = axis["range"]
    assert start < np.log10(low) <= np.log10(high) < end
    assert end - start >= MIN_OCTAVES * OCTAVE - 1e-9
    step = axis["dtick"] / OCTAVE
    assert step == pytest.approx(round(step))
    assert (end - start) / axis["dtick"] <= 12
    assert axis["tick0"] == 0  # 2 ** 0 is 1 px


def test_each_set_has_its_name_and_its_own_colour_in_the_legend() -> None:
    score = anchor_metrics(boxes_in_files([]), TWO_LEVELS)
    first, second = set_keys([score, score], first="line", others="diamond")
    assert (first.mark, second.mark) == ("line", "diamond")
    assert first.label == second.label == TWO_LEVELS.name
    assert first.color != second.color
