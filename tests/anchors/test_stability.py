"""Intervals over images: what moves, what does not, and anchors that were fitted to too few boxes."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest
from builders import coco_content
from numpy.testing import assert_allclose
from scipy.stats import bootstrap as scipy_bootstrap

from detect.anchors.anchor_set import AnchorSet
from detect.anchors.instances import ResizedInstances
from detect.anchors.known import load_anchors
from detect.anchors.metrics import anchor_metrics
from detect.anchors.stability import SCORES, bootstrap, train_and_validation
from detect.data import read_coco
from detect.errors import FitError
from detect.fitting.fit import fit_anchors

SQUARE = AnchorSet.of([[(20, 20)]], strides=[8])
CLUSTERS = partial(fit_anchors, method="kmeans")  # the quick way to fit many times


def of(shapes: np.ndarray, images: np.ndarray, *, num_images: int | None = None) -> ResizedInstances:
    """Boxes of these (width, height) in the corner of images of 640 x 640."""
    boxes = [[0, 0, *shape] for shape in shapes]
    content = coco_content(boxes, image_ids=images.tolist(), image_wh=(640, 640))
    content["images"] = [{"id": n, "width": 640, "height": 640} for n in range(num_images or int(images.max()) + 1)]
    return ResizedInstances.of(read_coco(content), "none")


def random_shapes(count: int, seed: int = 0, spread: float = 0.4) -> np.ndarray:
    return 40 * np.exp(spread * np.random.default_rng(seed).standard_normal((count, 2)))


def given(anchors: AnchorSet):
    """A fit that learns nothing."""
    return lambda instances: anchors


def test_one_box_in_each_of_two_images_by_hand():
    # 20 x 20 has IoU 1, 20 x 10 has .5: a draw of two images has mean .5, .75 or 1, half of all .75
    instances = of(np.array([[20, 20], [20, 10]]), np.array([0, 1]))
    result = bootstrap(instances, given(SQUARE), resamples=400)
    score = result.scores["average_iou"]
    assert (score.value, score.low, score.high) == (0.75, 0.5, 1.0)
    # what is left out is the other image, where one is drawn twice
    out_of_bag = result.out_of_bag["average_iou"]
    assert (out_of_bag.low, out_of_bag.high) == (0.5, 1.0)
    assert out_of_bag.value == pytest.approx(0.75, abs=0.06)
    (shape,) = result.shapes
    assert (shape.width.value, shape.width.low, shape.width.high, shape.found) == (20, 20, 20, 1)


def test_images_count_by_their_boxes():
    # one box of IoU 1 in the first image, three of .5 in the second: draws have means of 1 / 1, 2.5 / 4 and 3 / 6
    instances = of(np.array([[20, 20], [20, 10], [20, 10], [20, 10]]), np.array([0, 1, 1, 1]))
    score = bootstrap(instances, given(SQUARE), resamples=400).scores["average_iou"]
    assert (score.value, score.low, score.high) == (0.625, 0.5, 1.0)


def test_with_one_box_to_an_image_intervals_are_scipys():
    instances = of(random_shapes(150), np.arange(150))
    result = bootstrap(instances, given(SQUARE), resamples=1000, confidence=0.9)
    best = anchor_metrics(instances, SQUARE).best_iou
    random = np.random.default_rng(1)
    expected = scipy_bootstrap(
        (best,), np.mean, confidence_level=0.9, method="percentile", n_resamples=1000, random_state=random
    ).confidence_interval
    score = result.scores["average_iou"]
    width = expected.high - expected.low
    assert_allclose([score.low, score.high], expected, rtol=0, atol=0.1 * width)


def test_images_are_drawn_and_not_boxes():
    # the same boxes nine times over in each image tell nothing new
    shapes, images = random_shapes(60), np.arange(60)
    once = bootstrap(of(shapes, images), given(SQUARE), resamples=200)
    often = bootstrap(of(np.repeat(shapes, 9, axis=0), np.repeat(images, 9)), given(SQUARE), resamples=200)
    for name in SCORES:
        assert_allclose(list(vars(often.scores[name]).values()), list(vars(once.scores[name]).values()), rtol=1e-9)


def test_a_shape_that_one_image_makes_is_seen_to_be_unstable():
    # ninety images of 30 px boxes, one with three of 300 px: a third of the resamples lack it
    shapes = np.concatenate([random_shapes(90, spread=0.05), np.full((3, 2), 300.0)])
    images = np.concatenate([np.arange(90), [90, 90, 90]])
    result = bootstrap(of(shapes, images), partial(CLUSTERS, k=2), resamples=30)
    stable, shaky = result.shapes
    assert stable.width.high / stable.width.low < 1.5
    assert shaky.width.value == pytest.approx(300, rel=1e-3)
    assert shaky.width.low < 60


def test_shapes_meet_their_counterparts_whatever_their_order_by_area():
    # 10 x 43 and 42 x 10 change places by area between resamples; matched by IoU each stays what it is
    random = np.random.default_rng(0)
    tall = np.array([10.0, 43.0]) * np.exp(0.1 * random.standard_normal((40, 2)))
    wide = np.array([42.0, 10.0]) * np.exp(0.1 * random.standard_normal((40, 2)))
    result = bootstrap(of(np.concatenate([tall, wide]), np.arange(80)), partial(CLUSTERS, k=2), resamples=25)
    for shape in result.shapes:
        assert shape.width.high / shape.width.low < 1.3


def test_a_refit_with_fewer_shapes_leaves_some_without_a_counterpart():
    both = AnchorSet.of([[(20, 20), (60, 60)]], strides=[8])
    calls = iter([both, SQUARE, both, SQUARE, both])
    result = bootstrap(of(random_shapes(5), np.arange(5)), lambda instances: next(calls), resamples=4)
    assert [shape.found for shape in result.shapes] == [1.0, 0.5]
    assert result.shapes[1].width.low == 60


def test_resamples_that_cannot_be_fitted_are_counted():
    # three images of one box each: two thirds of 27 draws lack one, and k = 3 cannot be fitted
    instances = of(np.array([[10.0, 10.0], [40.0, 40.0], [160.0, 160.0]]), np.arange(3))
    result = bootstrap(instances, partial(CLUSTERS, k=3), resamples=50)
    assert 25 < result.failed < 50
    # those that can be leave no image out
    assert np.isnan(result.out_of_bag["average_iou"].value)
    assert np.isnan(result.out_of_bag["average_iou"].low)


def test_the_same_seed_gives_the_same(nuclei):
    fit = partial(CLUSTERS, k=3, strides=(4, 8))
    one = bootstrap(nuclei, fit, resamples=5, seed=3)
    assert one == bootstrap(nuclei, fit, resamples=5, seed=3)
    assert one != bootstrap(nuclei, fit, resamples=5, seed=4)


def test_anchors_fitted_to_few_boxes_score_lower_on_images_left_out():
    instances = of(random_shapes(30), np.arange(30))
    result = bootstrap(instances, partial(CLUSTERS, k=6), resamples=15)
    assert result.out_of_bag["average_iou"].high < result.scores["average_iou"].value


def test_train_and_validation_show_over_fitting():
    few, many = of(random_shapes(25), np.arange(25)), of(random_shapes(400, seed=1), np.arange(400))
    fitted = fit_anchors(few, k=10)
    result = train_and_validation(few, many, anchors=fitted, resamples=300)
    assert "average_iou" in result.overfitted
    loss = result.loss["average_iou"]
    assert_allclose(loss.value, anchor_metrics(few, fitted).average_iou - anchor_metrics(many, fitted).average_iou)
    fair = train_and_validation(many, of(random_shapes(400, seed=2), np.arange(400)), anchors=SQUARE, resamples=300)
    assert fair.overfitted == ()


def test_the_loss_is_as_uncertain_as_both_sides():
    # independent sides: variances add
    one, other = (of(random_shapes(100, seed), np.arange(100)) for seed in (0, 1))
    result = train_and_validation(one, other, anchors=SQUARE, resamples=2000)
    widths = [getattr(result, side)["average_iou"] for side in ("train", "validation", "loss")]
    train, validation, loss = (each.high - each.low for each in widths)
    assert_allclose(loss, np.hypot(train, validation), rtol=0.1)


def test_to_dict_is_json(nuclei):
    result = bootstrap(nuclei, given(SQUARE), resamples=3)
    assert set(json.loads(json.dumps(result.to_dict()))["scores"]) == set(SCORES)
    pair = train_and_validation(nuclei, nuclei, anchors=SQUARE, resamples=3)
    assert json.loads(json.dumps(pair.to_dict()))["overfitted"] == []


def test_wrong_numbers_and_too_few_boxes_are_named(nuclei):
    with pytest.raises(ValueError, match="need resamples >= 1 and 0 < confidence < 1, got resamples=0"):
        bootstrap(nuclei, given(SQUARE), resamples=0)
    with pytest.raises(ValueError, match=r"confidence=1\.0"):
        train_and_validation(nuclei, nuclei, anchors=SQUARE, confidence=1.0)
    empty = ResizedInstances.of(read_coco({"images": [], "annotations": [], "categories": []}), "none")
    with pytest.raises(FitError, match="no usable boxes"):
        bootstrap(empty, partial(fit_anchors, k=2))
    with pytest.raises(ValueError, match="need instances on both sides, got 318 and 0"):
        train_and_validation(nuclei, empty, anchors=load_anchors("retinanet"))
    two = of(np.array([[10.0, 10.0], [99.0, 99.0]]), np.array([0, 1]), num_images=400)
    with pytest.raises(FitError, match="none of 1 resamples"):
        bootstrap(two, partial(fit_anchors, k=2), resamples=1, seed=1)
