from __future__ import annotations

import pytest

from detect.errors import FitError
from detect.fitting.objective import Objective


@pytest.mark.parametrize(
    ("text", "on_grid_by_default", "expected"),
    [
        ("shape", True, Objective.parse("iou")),
        ("grid", False, Objective.parse("iou", on_grid=True)),
        ("iou", True, Objective.parse("iou", on_grid=True)),
        ("recall@0.7", False, Objective.parse("recall@0.7")),
        ("grid:recall@0.7", False, Objective.parse("recall@0.7", on_grid=True)),
        ("shape:0.8*iou+0.2*recall@0.5", True, Objective.parse("0.8*iou+0.2*recall@0.5")),
    ],
)
def test_the_text_says_utility_and_place(text, on_grid_by_default, expected):
    assert Objective.parse(text, on_grid=on_grid_by_default) == expected
    assert Objective.parse(str(expected), on_grid=expected.on_grid) == expected


@pytest.mark.parametrize("text", ["", "shape:", "grid:shape", "placed:iou", "recall@2", "recall"])
def test_other_texts_are_invalid(text):
    with pytest.raises(FitError):
        Objective.parse(text)


def test_names_of_scores():
    assert Objective().score_name() == "average_iou"
    assert Objective(on_grid=True).score_name(weighted=True) == "weighted_grid_average_iou"
    assert Objective.parse("recall@0.75").score_name() == "recall_at_0.75"
    assert Objective.parse("0.8*iou+0.2*recall@0.5", on_grid=True).score_name(priced=True) == "grid_objective_less_cost"
