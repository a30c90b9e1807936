from __future__ import annotations

import numpy as np
import pytest
from builders import coco_content, instances_of, many_boxes, read_shards, sharded
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from detect import fit_anchors, fit_levels, instance_weights
from detect.anchors import fit_boxes
from detect.anchors.fit_boxes import BoxStatistics, CountedShapes, FitBoxes
from detect.anchors.instances import ResizedInstances
from detect.data import read_coco
from detect.errors import FitError
from detect.ops.exact_sums import add_up

WEIGHTS = ({}, {"balance": "category"}, {"balance": "size", "factors": {"kind 1": 3.0}}, {"factors": {"small": 0.5}})


def boxes_of_shards(shards, rule="letterbox:96", **weights):
    by_group = bool(weights)
    return add_up(BoxStatistics.read(each, rule=rule, by_group=by_group) for each in shards).fit_boxes(**weights)


def boxes_of_whole(dataset, rule="letterbox:96", **weights):
    instances = ResizedInstances.of(dataset, rule)
    return FitBoxes.of(instances, instance_weights(instances, **weights) if weights else None)


def fitted(boxes, num):
    """Anchors by shape and on the grid, or what is wrong."""

    def tried(fit):
        try:
            return fit()
        except FitError as error:
            return str(error)

    by_shape = tried(lambda: fit_anchors(boxes, k=num))
    return by_shape, tried(lambda: fit_levels(boxes, (8, 16), num_anchors=num).anchors)


@given(sharded(), st.sampled_from(WEIGHTS))
def test_what_fits_need_is_the_same_for_any_split_and_order(data, weights):
    whole, shards = read_shards(data)
    one, other = boxes_of_whole(whole, **weights), boxes_of_shards(shards, **weights)
    assert one.num_boxes == other.num_boxes
    assert (one.canvases, one.smallest, one.weighted) == (other.canvases, other.smallest, other.weighted)
    for mine, theirs in zip(one.weighted_parts[0], other.weighted_parts[0], strict=True):
        assert mine.histogram == theirs.histogram
        assert mine.fine == theirs.fine
    assert one.weighted_parts[1] == other.weighted_parts[1]


@settings(max_examples=8)
@given(sharded(), st.sampled_from(WEIGHTS))
def test_few_boxes_are_fitted_to_the_same_anchors(data, weights):
    whole, shards = read_shards(data)
    assert fitted(boxes_of_whole(whole, **weights), 2) == fitted(boxes_of_shards(shards, **weights), 2)


@pytest.mark.slow
@pytest.mark.parametrize("weights", WEIGHTS)
def test_many_boxes_are_fitted_to_the_same_anchors(monkeypatch, weights):
    monkeypatch.setattr(fit_boxes, "FEW_BOXES", 100)
    monkeypatch.setattr(fit_boxes, "FEW_PLACED", 100)
    whole = many_boxes(5001).dataset
    names = {"factors": {"category 1": 3.0, "small": 0.5}} if "factors" in weights else {}
    weights = weights | names
    rows = np.random.default_rng(3).permutation(len(whole.images))
    shards = [whole.take_images(np.sort(part)) for part in np.array_split(rows, 7)]
    other = boxes_of_shards(shards, "letterbox:640", **weights)
    assert other.placed is None
    assert other.every.fine is None
    one = boxes_of_whole(whole, "letterbox:640", **weights)
    assert fit_anchors(one, k=5) == fit_anchors(other, k=5)
    grid = fit_levels(other, (8, 16, 32), per_level=1).anchors
    assert grid == fit_levels(one, (8, 16, 32), per_level=1).anchors


def test_boxes_are_kept_up_to_a_number_and_counted_above(monkeypatch):
    monkeypatch.setattr(fit_boxes, "FEW_BOXES", 3)
    monkeypatch.setattr(fit_boxes, "FEW_PLACED", 2)
    shards = [read_coco(coco_content([(0, 0, 9, 9 + n)], ids=[n], image_ids=[n])) for n in (1, 2, 3, 4)]
    kept = []
    for number in range(1, 5):
        boxes = boxes_of_shards(shards[:number], "none")
        kept.append((boxes.num_boxes, boxes.placed is not None, boxes.every.fine is not None))
    assert kept == [(1, True, True), (2, True, True), (3, False, True), (4, False, False)]


def test_a_histogram_for_each_positive_weight():
    instances = instances_of([(0, 0, side, side) for side in (10, 20, 30, 40)])
    parts, weights = FitBoxes.of(instances, np.array([1.0, 0.0, 3.0, 1.0])).weighted_parts
    assert weights == [1.0, 3.0]
    assert_allclose(parts[0].histogram.shapes, [[10, 10], [40, 40]])
    assert_allclose(parts[1].histogram.shapes, [[30, 30]])


def test_the_smallest_box_has_the_least_area():
    boxes = boxes_of_shards([read_coco(coco_content([(0, 0, 20, 5), (0, 0, 10, 12)]))], "none")
    assert boxes.smallest.wh == (20.0, 5.0)
    assert boxes_of_shards([read_coco(coco_content([]))], "none").smallest.wh is None


def test_no_boxes_are_an_error_that_names_what_is_invalid():
    boxes = boxes_of_shards([read_coco(coco_content([(0, 0, 0, 9)]))], "none")
    with pytest.raises(FitError, match=r"no usable boxes; 1 entries are invalid: .*width 0 is not positive"):
        boxes.require_boxes()
    with pytest.raises(FitError, match="no usable boxes"):
        fit_anchors(boxes, k=1)


def test_shapes_for_each_level_need_the_boxes_themselves(monkeypatch):
    boxes = boxes_of_shards([read_coco(coco_content([(0, 0, 9, 9)]))], "none")
    with pytest.raises(FitError, match="need all boxes at hand"):
        fit_anchors(boxes, per_level=1)


def test_weights_of_unknown_names_are_an_error():
    with pytest.raises(FitError, match="no category or size is named 'dog': type 1, small, medium, large"):
        boxes_of_shards([read_coco(coco_content([(0, 0, 9, 9)]))], "none", factors={"dog": 2.0})


def test_counted_shapes_add_up():
    shapes = np.random.default_rng(0).lognormal(3, 1, (200, 2))
    both = CountedShapes.of(shapes[:90]) + CountedShapes.of(shapes[90:])
    assert both.histogram == CountedShapes.of(shapes).histogram
    assert both.best == CountedShapes.of(shapes).fine
    assert_array_equal(CountedShapes.of(np.zeros((0, 2))).best.counts, [])
