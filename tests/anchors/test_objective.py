from __future__ import annotations

import pytest

from detect.anchors.objective import Objective
from detect.errors import FitError


@pytest.mark.parametrize(
    ("text", "by_default_placed", "expected"),
    [
        ("shape", True, Objective("iou", placed=False)),
        ("placed", False, Objective("iou", placed=True)),
        ("iou", True, Objective("iou", placed=True)),
        ("recall@0.7", False, Objective("recall@0.7", placed=False)),
        ("placed:recall@0.7", False, Objective("recall@0.7", placed=True)),
        ("shape:0.8*iou+0.2*recall@0.5", True, Objective("0.8*iou+0.2*recall@0.5", placed=False)),
    ],
)
def test_the_text_says_what_and_where(text, by_default_placed, expected):
    assert Objective.parse(text, placed=by_default_placed) == expected


@pytest.mark.parametrize("text", ["", "shape:", "placed:shape", "grid:iou", "recall@2", "recall"])
def test_another_text_is_refused(text):
    with pytest.raises(FitError):
        Objective.parse(text)


def test_names_of_scores():
    assert Objective().score_name() == "average_iou"
    assert Objective(placed=True).score_name(weighted=True) == "weighted_placed_average_iou"
    assert Objective("recall@0.75").score_name() == "recall_at_0.75"
    assert Objective("0.8*iou+0.2*recall@0.5", placed=True).score_name(priced=True) == "placed_objective_less_cost"
