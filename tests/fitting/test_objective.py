from __future__ import annotations

import pytest

from detect.errors import FitError
from detect.fitting.objective import Objective


@pytest.mark.parametrize(
    ("text", "by_default_placed", "expected"),
    [
        ("shape", True, Objective.parse("iou")),
        ("placed", False, Objective.parse("iou", on_grid=True)),
        ("iou", True, Objective.parse("iou", on_grid=True)),
        ("recall@0.7", False, Objective.parse("recall@0.7")),
        ("placed:recall@0.7", False, Objective.parse("recall@0.7", on_grid=True)),
        ("shape:0.8*iou+0.2*recall@0.5", True, Objective.parse("0.8*iou+0.2*recall@0.5")),
    ],
)
def test_the_text_says_what_and_where(text, by_default_placed, expected):
    assert Objective.parse(text, on_grid=by_default_placed) == expected


@pytest.mark.parametrize("text", ["", "shape:", "placed:shape", "grid:iou", "recall@2", "recall"])
def test_another_text_is_refused(text):
    with pytest.raises(FitError):
        Objective.parse(text)


def test_names_of_scores():
    assert Objective().score_name() == "average_iou"
    assert Objective(on_grid=True).score_name(weighted=True) == "weighted_grid_average_iou"
    assert Objective.parse("recall@0.75").score_name() == "recall_at_0.75"
    assert Objective.parse("0.8*iou+0.2*recall@0.5", on_grid=True).score_name(priced=True) == "grid_objective_less_cost"
