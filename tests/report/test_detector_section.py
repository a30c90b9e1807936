"""The part of the page for a named detector."""

from __future__ import annotations

from builders import part_of

from detect.anchors.detector_score import DetectorScore, score_for
from detect.anchors.known import stock_anchors
from detect.catalog.detectors import load_detector
from detect.report.detector_section import detector_section


def scores() -> list[DetectorScore]:
    yolo = load_detector("yolov5")
    instances = part_of("bccd", yolo.resize, step=30)
    return [score_for(instances, stock_anchors(yolo), yolo)] * 2


def test_the_text_is_there_to_copy_with_where_it_goes():
    text, *_ = detector_section(scores())
    assert "<button" in text
    assert "- [10,13, 16,30, 33,23]  # P3/8" in text
    assert "models/yolov5s.yaml" in text


def test_positives_are_shown_by_size_and_category_for_each_set():
    both = scores()
    _, own, learns = detector_section(both)
    overall = both[0].assignment.overall
    assert f"{overall.positives:.2f}" in own
    assert "factor of 4" in own
    for group in both[0].assignment.by_category:
        assert group.name in learns
        assert learns.count(f"{group.positives:.2f}") >= 2


def test_without_a_detector_there_is_no_section():
    assert detector_section([]) == []
