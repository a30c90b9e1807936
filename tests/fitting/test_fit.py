from __future__ import annotations

import itertools

import numpy as np
import pytest
from builders import coco_content, instances_of
from numpy.testing import assert_allclose

from detect.anchors.histogram import ShapeHistogram
from detect.anchors.instances import ResizedInstances, instance_weights
from detect.anchors.metrics import anchor_metrics
from detect.data import read_coco
from detect.errors import FitError
from detect.fitting.fit import METHODS, fit_anchors, fit_shapes, k_curve, knee
from detect.fitting.objective import Objective
from detect.ops.box_arrays import best_shape_iou


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_k_shapes_of_fair_quality(bccd, method):
    anchors = fit_anchors(bccd, k=5, method=method)
    assert anchors.num_anchors == 5
    assert anchors.resize == "letterbox:640"
    assert anchor_metrics(bccd, anchors).average_iou > 0.78


def test_the_optimum_beats_clustering_in_iou_which_beats_the_baselines(nuclei):
    scores = {method: anchor_metrics(nuclei, fit_anchors(nuclei, k=5, method=method)).average_iou for method in METHODS}
    assert sorted(scores, key=scores.__getitem__)[-2:] == ["kmeans", "optimal"]


def lognormal_shapes(count: int) -> np.ndarray:
    """Shapes of three sizes with which a search from its own starts alone ends below k-means."""
    random = np.random.default_rng(0)
    sizes = np.exp(random.choice([3.0, 4.2, 5.0], count, p=[0.5, 0.3, 0.2]) + 0.5 * random.standard_normal(count))
    ratios = np.exp(0.4 * random.standard_normal(count))
    return np.stack([sizes / ratios, sizes * ratios], axis=1)


def test_the_optimum_takes_k_means_where_that_is_better():
    shapes = lognormal_shapes(30_000)
    optimal, kmeans = (
        best_shape_iou(shapes, fit_shapes(ShapeHistogram.of(shapes), 7, method))[0].mean()
        for method in ("optimal", "kmeans")
    )
    assert optimal >= kmeans - 1e-5


def test_what_was_proved_stands_beside_its_score(nuclei):
    anchors = fit_anchors(nuclei, k=5, certify=0.01)
    reached = anchor_metrics(nuclei, anchors).average_iou
    assert reached <= anchors.proofs["average_iou"].upper_bound <= 1.01 * reached
    for options in ({"k": 2}, {"k": 2, "method": "kmeans", "certify": 0.01}, {"per_level": 1, "certify": 0.01}):
        assert not fit_anchors(nuclei, **options).proofs


def test_another_objective_is_fitted_and_named(nuclei):
    recall = fit_anchors(nuclei, k=3, objective=Objective.parse("recall@0.7"), certify=0.05)
    proof = recall.proofs["recall_at_0.7"]
    assert recall.scores["recall_at_0.7"] == proof.score <= proof.upper_bound
    reached = [anchor_metrics(nuclei, each).recall(0.7) for each in (recall, fit_anchors(nuclei, k=3))]
    assert_allclose(recall.scores["recall_at_0.7"], reached[0], atol=1e-9)
    assert reached[0] > reached[1]


def test_weights_and_fixed_shapes_are_those_of_the_optimum(nuclei):
    weights = instance_weights(nuclei, balance="size")
    fit = fit_anchors(nuclei, k=3, weights=weights, fixed=[(30.0, 30.0)])
    assert (30.0, 30.0) in [shape for level in fit.levels for shape in level.shapes]
    best = anchor_metrics(nuclei, fit).best_iou
    assert_allclose(fit.scores["weighted_average_iou"], np.average(best, weights=weights), rtol=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": Objective(on_grid=True)}, "see fit_levels"),
        ({"per_level": 2, "fixed": [(3.0, 3.0)]}, "need the method optimal, and k"),
        ({"method": "kmeans", "weights": np.ones(318)}, "need the method optimal, and k"),
        ({"k": 1, "fixed": [(3.0, 3.0), (4.0, 4.0)]}, "fixed"),
    ],
)
def test_options_that_do_not_go_together_are_refused(nuclei, options, message):
    with pytest.raises(FitError, match=message):
        fit_anchors(nuclei, **options)


def test_per_level_fits_as_many_to_each_level_that_has_boxes(bccd):
    anchors = fit_anchors(bccd, per_level=3, strides=(8, 16, 32, 64, 128))
    assert [(level.name, len(level.shapes)) for level in anchors.levels] == [("P3", 3), ("P4", 3), ("P5", 3), ("P6", 3)]


def test_the_k_curve_rises_and_its_knee_is_on_it(bccd):
    curve = k_curve(bccd)
    heights = list(curve.average_iou.values())
    assert list(curve.average_iou) == list(range(1, 16))
    assert all(later > earlier - 0.002 for earlier, later in itertools.pairwise(heights))
    assert 2 <= curve.knee <= 6


def test_the_knee_of_a_bent_line_is_its_bend():
    assert knee({k: min(k, 4) + 0.1 * k for k in range(1, 11)}) == 4
    assert knee({1: 0.5}) == 1


def test_a_histogram_has_the_curve_of_its_boxes(nuclei):
    assert k_curve(nuclei, ks=(1, 2, 3)) == k_curve(ShapeHistogram.of(nuclei.shapes), (1, 2, 3))


def test_few_shapes_shorten_the_curve():
    curve = k_curve(instances_of([[0, 0, 10, 10], [0, 0, 50, 20]]))
    assert curve.average_iou == pytest.approx({1: curve.average_iou[1], 2: 1.0})


def test_no_usable_boxes_is_an_error_that_says_why():
    with pytest.raises(
        FitError, match=r"no usable boxes; 1 entries are invalid: .*annotation 1, image 1: width 0 is not"
    ):
        fit_anchors(instances_of([[1, 1, 0, 5]]))
    crowd = coco_content([[1, 1, 5, 5]])
    crowd["annotations"][0]["iscrowd"] = 1
    with pytest.raises(FitError, match="1 are crowd regions"):
        fit_anchors(ResizedInstances.of(read_coco(crowd), "none"))


def test_more_anchors_than_shapes_is_an_error():
    with pytest.raises(FitError, match="3 clusters need 3 distinct shapes, got 2"):
        fit_anchors(instances_of([[1, 1, 5, 5], [1, 1, 9, 9]]), k=3)
    with pytest.raises(FitError, match=r"level of stride 8: 2 clusters need 2 distinct shapes, got 1.*--levels"):
        fit_anchors(instances_of([[1, 1, 5, 5], [2, 2, 5, 5]]), per_level=2)


def test_bad_options_are_named(bccd):
    with pytest.raises(FitError, match="method 'magic' is not one of optimal, kmeans"):
        fit_anchors(bccd, method="magic")
    with pytest.raises(FitError, match="between 1 and 1000, got 0"):
        fit_anchors(bccd, k=0)
