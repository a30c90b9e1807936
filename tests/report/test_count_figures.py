"""The figures of calibrated counts show the counts that they are given."""

from __future__ import annotations

import numpy as np

from detect.evaluation.count_intervals import CountPrediction
from detect.evaluation.count_reliability import CountReliability
from detect.report.count_figures import count_panel


def reliability() -> CountReliability:
    count = np.array([0, 2, 2, 4, 2])
    return CountReliability(
        CountPrediction(count, np.maximum(count - 1, 0), count + 1, None), np.array([0, 2, 2, 7, 1]), 0.9
    )


def test_images_of_the_same_counts_are_one_circle():
    panel = count_panel("counts-0", "nucleus", reliability())
    line, inside, outside = panel.figure.data
    circles = {(x, y): number for x, y, number in zip(inside.x, inside.y, inside.customdata, strict=True)}
    assert circles == {(0, 0): 1, (2, 1): 1, (2, 2): 2}
    assert [(x, y) for x, y in zip(outside.x, outside.y, strict=True)] == [(4, 7)]
    areas = np.square(inside.marker.size)
    assert areas[list(circles).index((2, 2))] == areas.max()
    assert (line.x[1], panel.columns, panel.name) == (8, 12, "counts-0")


def test_nothing_outside_and_nothing_counted_is_drawn_too():
    zero = np.zeros(3, np.int64)
    panel = count_panel("counts-0", "nucleus", CountReliability(CountPrediction(zero, zero, zero, None), zero, 0.9))
    assert [len(trace.x) for trace in panel.figure.data] == [2, 1, 0]
