"""Stability and overfitting as tables, a figure and words."""

from __future__ import annotations

import math

import pytest
from builders import instances_of
from pages import table_rows

from detect.anchors.anchor_set import AnchorSet
from detect.anchors.metrics import anchor_metrics
from detect.anchors.stability import SCORES, Generalisation, Interval, Stability, StableShape
from detect.report.anchor_page import anchor_page
from detect.report.anchor_stability import (
    NAMES,
    generalisation_block,
    generalisation_words,
    stability_blocks,
    stability_words,
    stable_shapes_panel,
    strides_of_shapes,
)

NAN = math.nan
ANCHORS = AnchorSet.of([[(10, 20)], [(40, 30)]], strides=(8, 16))
COLORS = {8: "red", 16: "blue"}


def stability(high: float = 12.0, failed: int = 0) -> Stability:
    shapes = (
        StableShape(Interval(10, 9, high), Interval(20, 19, 21), 1.0),
        StableShape(Interval(40, NAN, NAN), Interval(30, NAN, NAN), 0.25),
    )
    scores = {name: Interval(0.8 + n / 100, 0.7, 0.9) for n, name in enumerate(SCORES)}
    out_of_bag = {name: Interval(0.6 + n / 100, 0.5, NAN if n else 0.7) for n, name in enumerate(SCORES)}
    return Stability(ANCHORS, shapes, scores, out_of_bag, 50, failed)


def generalisation(*losses: tuple[float, float, float]) -> Generalisation:
    train = {name: Interval(0.8, 0.75, 0.85) for name in SCORES}
    validation = {name: Interval(0.7, 0.65, 0.75) for name in SCORES}
    return Generalisation(train, validation, {n: Interval(*loss) for n, loss in zip(SCORES, losses, strict=True)})


NO, YES = (0.0, -0.02, 0.03), (0.1, 0.01, 0.2)


def test_every_score_and_shape_has_its_interval():
    rows = table_rows(stability_blocks(stability(), COLORS))
    assert ["average IoU, by shape", "0.800", "0.700 to 0.900", "0.600", "0.500 to 0.700"] in rows
    assert ["recall, on the grid", "0.830", "0.700 to 0.900", "0.630", "0.500 to -"] in rows
    assert ["P3", "10.0", "9.0 to 12.0", "20.0", "19.0 to 21.0", "100.0%"] in rows
    assert ["P4", "40.0", "-", "30.0", "-", "25.0%"] in rows


def test_every_score_has_a_name():
    assert set(NAMES) == set(SCORES)


def test_unstable_shapes_are_named():
    assert stability_words(stability(high=12)).startswith("All shapes are stable")  # 12 / 9 is less than 1.5
    assert stability_words(stability(high=14)).startswith("10 x 20 px is unstable")


@pytest.mark.parametrize("failed", [0, 3])
def test_resamples_that_could_not_be_fitted_are_counted(failed):
    markup = stability_blocks(stability(failed=failed), COLORS)
    assert ("3 of them could not be fitted" in markup) == bool(failed)


def test_arms_are_as_long_as_the_intervals():
    arms, points, *_ = stable_shapes_panel(stability(), COLORS).figure.data
    assert list(arms.x) == [9, 12, None, 10, 10, None]
    assert list(arms.y) == [20, 20, None, 19, 21, None]
    assert (list(points.x), list(points.y)) == ([10], [20])
    chart = stable_shapes_panel(stability(), {}).figure
    assert "NaN" not in chart.to_json()


def test_shapes_by_area_keep_their_level():
    anchors = AnchorSet.of([[(10, 10), (5, 40)], [(2, 2), (20, 10)]], strides=(8, 16))
    # areas 100, 200, 4, 200: of equal areas the narrower first, as AnchorSet.shapes has them
    assert anchors.shapes.tolist() == [[2, 2], [10, 10], [5, 40], [20, 10]]
    assert strides_of_shapes(anchors) == [16, 8, 8, 16]


def test_overfitted_scores_are_named():
    assert generalisation_words(generalisation(NO, NO, NO, NO)).startswith("No score is significantly lower")
    words = generalisation_words(generalisation(YES, NO, NO, YES))
    assert words.startswith("Overfitted: average IoU, by shape; recall, on the grid are significantly lower")
    assert "recall, on the grid is significantly" in generalisation_words(generalisation(NO, NO, NO, YES))


def test_train_and_validation_stand_side_by_side():
    rows = table_rows(generalisation_block(generalisation(YES, NO, NO, NO)))
    both = ["0.800", "0.750 to 0.850", "0.700", "0.650 to 0.750"]
    assert ["average IoU, by shape", *both, "0.100", "0.010 to 0.200", "yes"] in rows
    assert ["recall, by shape", *both, "0.000", "-0.020 to 0.030", "no"] in rows


def test_the_page_has_a_section_on_stability_only_if_it_is_given():
    score = anchor_metrics(instances_of([[1, 1, 20, 20]]), ANCHORS)
    for options in ({"stability": stability()}, {"generalisation": generalisation(NO, NO, NO, YES)}):
        page = anchor_page([score], None, title="a", **options)
        assert '<a href="#stability">Stability</a>' in page
        assert ('id="stable-shapes"' in page) == ("stability" in options)
        assert page == anchor_page([score], None, title="a", **options)
    assert "#stability" not in anchor_page([score], None, title="a")
