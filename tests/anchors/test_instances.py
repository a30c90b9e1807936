from __future__ import annotations

import numpy as np
import pytest
from builders import coco_content, instances_of
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from detect.anchors.instances import (
    ResizedInstances,
    area_ranges,
    category_groups,
    instance_weights,
    ratio_bins,
    sizes_counted,
)
from detect.data import read_coco
from detect.data.resize import parse_resize
from detect.errors import FitError
from detect.fitting.fit import fit_anchors


def test_a_value_on_an_edge_belongs_above_it():
    squares = boxes([31.9, 32.0, 95.9, 96.0], [3] * 4)
    assert [group.rows.tolist() for group in area_ranges(squares)] == [[0], [1, 2], [3]]
    assert [group.name for group in area_ranges(squares)] == ["small, under 32 px", "medium", "large, from 96 px"]
    # h/w 1/3, 2/3, 3/2 and 3 each begin a bin
    edges = instances_of([[0, 0, 30, 10], [0, 0, 30, 20], [0, 0, 20, 30], [0, 0, 10, 30]])
    assert [group.rows.tolist() for group in ratio_bins(edges)] == [[], [0], [1], [2], [3]]


def test_every_instance_is_in_one_group_of_each_kind(bccd, nuclei):
    for instances in (bccd, nuclei):
        for groups in (area_ranges(instances), ratio_bins(instances), category_groups(instances)):
            rows = np.concatenate([group.rows for group in groups])
            assert sorted(rows.tolist()) == list(range(len(instances)))


def test_categories_are_named_in_the_order_of_their_ids(bccd):
    dataset = bccd.dataset
    groups = category_groups(bccd)
    assert [group.name for group in groups] == [dataset.categories[key] for key in sorted(dataset.categories)]
    for group, key in zip(groups, sorted(dataset.categories), strict=True):
        assert set(dataset.instances.category_ids[group.rows].tolist()) == {key}


def boxes(sides, categories):
    return ResizedInstances.of(
        read_coco(
            {
                "images": [{"id": 1, "width": 640, "height": 640}],
                "categories": [{"id": 3, "name": "dog"}, {"id": 7, "name": "small"}, {"id": 9, "name": "unused"}],
                "annotations": [
                    {"id": row, "image_id": 1, "category_id": category, "bbox": [0, 0, side, side]}
                    for row, (side, category) in enumerate(zip(sides, categories, strict=True), start=1)
                ],
            }
        ),
        "none",
    )


FOUR = boxes([10, 10, 10, 200], [3, 3, 3, 7])


def test_the_resize_rule_is_taken_as_text_or_as_an_object(bccd):
    text, rule = (ResizedInstances.of(bccd.dataset, rule) for rule in ("letterbox:320", parse_resize("letterbox:320")))
    assert text.rule == rule.rule
    assert_allclose(text.boxes, rule.boxes, rtol=0, atol=0)
    # letterbox:640 is twice letterbox:320, but for the rounding of content and offset
    assert_allclose(text.shapes, bccd.shapes / 2)


@pytest.mark.parametrize(
    ("instances", "options", "expected"),
    [
        (FOUR, {}, [1, 1, 1, 1]),
        # three dogs and one other: 1/3 each and 1, whose mean is 1/2
        (FOUR, {"balance": "category"}, [2 / 3, 2 / 3, 2 / 3, 2]),
        # 1/3 three times and 1/2 twice: their mean is .4; a size without boxes takes nothing
        (boxes([10, 40, 40, 10, 10], [3] * 5), {"balance": "size"}, [1 / 1.2, 1 / 0.8, 1 / 0.8, 1 / 1.2, 1 / 1.2]),
        (FOUR, {"factors": {"dog": 3.0}}, [3 / 2.5, 3 / 2.5, 3 / 2.5, 1 / 2.5]),
        # dogs are small as well, but a category has that name: it is the category that is meant
        (FOUR, {"factors": {"small": 5.0, "dog": 0.5}}, [0.5 / 1.625, 0.5 / 1.625, 0.5 / 1.625, 5 / 1.625]),
        (FOUR, {"factors": {"large": 0.0}}, [4 / 3, 4 / 3, 4 / 3, 0]),
        (FOUR, {"factors": {"unused": 9.0}}, [1, 1, 1, 1]),  # a category without boxes
        (boxes([], []), {"balance": "category"}, []),
    ],
)
def test_weights_by_hand(instances, options, expected):
    assert_allclose(instance_weights(instances, **options), expected)


def test_wrong_arguments_are_named():
    with pytest.raises(FitError, match="no category or size is named 'cat': dog, small, unused, small, medium, large"):
        instance_weights(FOUR, factors={"cat": 1.0})
    with pytest.raises(FitError, match="all instances have weight 0"):
        instance_weights(FOUR, factors={"dog": 0.0, "small": 0.0})
    with pytest.raises(ValueError, match="weight of 'dog' must be a finite number from 0, got -1"):
        instance_weights(FOUR, factors={"dog": -1.0})
    with pytest.raises(ValueError, match="balance 'colour' is not one of none, category, size"):
        instance_weights(FOUR, balance="colour")


@given(st.lists(st.tuples(st.integers(4, 600), st.sampled_from([3, 7])), min_size=1, max_size=30), st.booleans())
def test_groups_have_equal_weight_in_all_and_the_mean_is_one(drawn, by_size):
    instances = boxes(*zip(*drawn, strict=True))
    weights = instance_weights(instances, balance="size" if by_size else "category")
    assert_allclose(weights.mean(), 1)
    groups = [group for group in (area_ranges if by_size else category_groups)(instances) if len(group.rows)]
    assert_allclose([weights[group.rows].sum() for group in groups], len(instances) / len(groups))


def test_an_error_of_a_fit_says_what_was_left_out():
    content = coco_content([(0, 0, 9, 9), (0, 0, 0, 9)])
    for method in ("optimal", "kmeans"):
        with pytest.raises(FitError) as caught:
            fit_anchors(ResizedInstances.of(read_coco(content), "none"), k=2, method=method)
        assert str(caught.value).endswith(
            "; 1 entry was invalid and left out, the first: (in memory): annotation 2, image 1: width 0 is not positive"
        )
    content["annotations"].pop()
    with pytest.raises(FitError, match=r"got 1: fit fewer$"):
        fit_anchors(ResizedInstances.of(read_coco(content), "none"), k=2)


def test_sizes_are_counted_also_where_they_are_absurd():
    sizes = np.array([[64, 48], [2**40, 3], [64, 48]])
    assert list(sizes_counted(sizes).items()) == [((64, 48), 2), ((2**40, 3), 1)]
    assert list(sizes_counted(sizes[:1]).items()) == [((64, 48), 1)]
    assert sizes_counted(np.zeros((0, 2), np.int64)) == {}
