from __future__ import annotations

import pytest
from builders import read_shards, sharded
from hypothesis import given
from hypothesis import strategies as st

from detect import load_anchors
from detect.anchors.metric_sums import MetricSums, score_sets
from detect.anchors.metrics import THRESHOLDS, anchor_metrics
from detect.ops.exact_sums import add_up

SETS = (load_anchors("10,13 16,30 33,23"), load_anchors("retinanet"))
RULES = st.sampled_from(["none", "letterbox:96", "tiles:32:8"])


@given(sharded(), RULES, st.integers(0, 5))
def test_scores_of_shards_add_up_to_those_of_the_whole(data, rule, worst):
    whole, shards = read_shards(data)
    how = {"sets": SETS, "rules": (rule, "none"), "convention": "exact", "worst": worst}
    total, wanted = add_up(score_sets(each, **how) for each in shards), score_sets(whole, **how)
    for one, other in zip(total, wanted, strict=True):
        assert one.overall == other.overall
        assert (one.side_ratio, one.within_ratio) == (other.side_ratio, other.within_ratio)
        assert one.groups == other.groups
        assert one.dataset.findings == other.dataset.findings


def test_sums_tell_what_the_metrics_tell(bccd):
    metrics = anchor_metrics(bccd, SETS[0])
    sums = MetricSums.of(metrics, worst=3)
    for name in ("average_iou", "grid_average_iou", "ratio_recall", "average_side_ratio"):
        assert getattr(sums, name) == getattr(metrics, name)
    for threshold in THRESHOLDS:
        assert sums.recall(threshold) == metrics.recall(threshold)
        assert sums.grid_recall(threshold) == metrics.grid_recall(threshold)
    assert sums.groups is not None
    assert sums.groups.by_category == metrics.by_category
    assert [each.annotation_id for each in sums.groups.worst] == bccd.dataset.instances.ids[metrics.worst(3)].tolist()
    assert MetricSums.of(metrics).groups is None


def test_scores_of_different_anchors_are_not_added(bccd):
    one, other = (MetricSums.of(anchor_metrics(bccd, each)) for each in SETS)
    with pytest.raises(ValueError, match="cannot add"):
        one + other
