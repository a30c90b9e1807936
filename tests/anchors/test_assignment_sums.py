from __future__ import annotations

import numpy as np
import pytest
from builders import coco_content, read_shards, sharded
from hypothesis import given
from hypothesis import strategies as st

from detect import AnchorGenerator, AnchorSet, MaxIoU, load_detector
from detect.anchors.assign import assign, assign_sets
from detect.anchors.detector_score import match_sets
from detect.anchors.instances import ResizedInstances
from detect.anchors.known import stock_anchors
from detect.catalog.detectors import with_anchors
from detect.data import read_coco
from detect.ops.exact_sums import add_up

SMALL = AnchorSet.of([[(12, 12)], [(30, 30)]], strides=(8, 16))


@given(sharded(), st.sampled_from(["none", "letterbox:96"]))
def test_assignments_of_shards_add_up_to_that_of_the_whole(data, rule):
    whole, shards = read_shards(data)
    how = {"sets": (SMALL,), "rules": (rule,), "convention": "exact", "matcher": MaxIoU()}
    (total,), (wanted,) = add_up(assign_sets(each, **how) for each in shards), assign_sets(whole, **how)
    assert total == wanted
    assert total.evenness == wanted.evenness or not wanted.numbers
    assert total.positive_weights() == wanted.positive_weights()


@pytest.mark.parametrize("name", ["yolov5", "yolov3-darknet", "retinanet", "torchvision-ssd300"])
@given(data=sharded())
def test_scores_under_a_detectors_rule_add_up(name, data):
    detector = with_anchors(load_detector(name))
    whole, shards = read_shards(data)
    how = {"sets": (stock_anchors(detector),), "detector": detector, "assigned": name != "retinanet"}
    (total,), (wanted,) = add_up(match_sets(each, **how) for each in shards), match_sets(whole, **how)
    assert total == wanted
    assert total.score == wanted.score or not wanted.reached.count


def test_numbers_by_hand():
    # on a grid of stride 16, the first box is an anchor's, the second learns one by the low-quality rule
    content = coco_content([(0, 0, 16, 16), (40, 40, 5, 5)], category_ids=[1, 2])
    generator = AnchorGenerator(AnchorSet.of([[(16, 16)]], strides=[16]))
    sums = assign(ResizedInstances.of(read_coco(content), "none"), generator).sums
    assert [(each.name, each.positives, each.low_quality_only) for each in sums.by_category] == [
        ("type 1", 1.0, 0),
        ("type 2", 1.0, 1),
    ]
    assert (sums.overall.count, sums.overall.unassigned, sums.evenness) == (2, 0, 1.0)
    assert list(sums.low_quality_only_ids) == [2]
    assert sums.numbers == {1: {1: 1}, 2: {1: 1}}
    assert sums.neglect_in_words() is None
    assert sums.sums is sums


def test_an_assignment_that_was_not_asked_for_is_an_error():
    detector = with_anchors(load_detector("yolov5"))
    dataset = read_coco(coco_content([(0, 0, 16, 16)]))
    (found,) = match_sets(dataset, sets=(stock_anchors(detector),), detector=detector, assigned=False)
    assert np.isfinite(found.score)
    with pytest.raises(ValueError, match="not asked for"):
        _ = found.assignment
