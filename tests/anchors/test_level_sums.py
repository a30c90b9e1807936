from __future__ import annotations

import pytest
from builders import coco_content, read_shards, sharded
from hypothesis import given

from detect import AnchorSet, HeadSize, MaxIoU
from detect.anchors.levels import LevelReport, count_levels
from detect.data import read_coco
from detect.ops.exact_sums import add_up

ANCHORS = AnchorSet.of([[(12, 12)], [(30, 30)], [(40, 60)]], strides=(8, 16, 32))
HOW = {"rule": "letterbox:96", "anchors": ANCHORS, "convention": "exact", "matcher": MaxIoU(), "threshold": 0.4}


@given(sharded())
def test_reports_on_shards_add_up_to_that_of_the_whole(data):
    whole, shards = read_shards(data)
    total, wanted = add_up(count_levels(each, **HOW) for each in shards), count_levels(whole, **HOW)
    assert total.of_subset == wanted.of_subset
    assert (total.preferred, total.positives, total.extra) == (wanted.preferred, wanted.positives, wanted.extra)
    assert (total.canvases, total.anchors, total.resize) == (wanted.canvases, ANCHORS, "letterbox:96")
    one, other = (LevelReport(each, HeadSize(3), 0.4) for each in (total, wanted))
    assert one.advice == other.advice


def test_a_report_of_counts_has_no_metrics_of_instances():
    report = LevelReport(count_levels(read_coco(coco_content([(0, 0, 12, 12)])), **HOW), HeadSize(1), 0.4)
    assert report.num_instances == 1
    with pytest.raises(ValueError, match="only counts"):
        _ = report.score
