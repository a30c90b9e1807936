"""The table of levels, what dropping some saves and loses, and the page of both."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import numpy as np
from builders import instances_of
from numpy.testing import assert_allclose, assert_array_equal
from pages import page_figures, table_rows

from detect.anchors.anchor_set import AnchorSet
from detect.anchors.generator import AnchorGenerator
from detect.anchors.head_cost import HeadSize
from detect.anchors.instances import ResizedInstances
from detect.anchors.levels import LevelReport, level_report
from detect.anchors.metrics import anchor_metrics
from detect.report.level_page import grid_iou_by_level, kept_table, level_page, level_table, savings_panel
from detect.report.plots import level_colors

# anchors 16 on stride 16, 40 on 32, 64 on 64, all squares in the middle of their cells. The first two boxes are cells of P4,
# the third, 60 x 60 at (2, 2), is the first cell of P6 but for its rim: 3600 / 4096
ANCHORS = AnchorSet.of([[(16, 16)], [(40, 40)], [(64, 64)]], strides=(16, 32, 64), name="<i>three</i>")
BOXES: list[list[float]] = [[0, 0, 16, 16], [16, 32, 16, 16], [2, 2, 60, 60]]


def of(boxes: list[list[float]]) -> ResizedInstances:
    return instances_of(boxes, image_wh=(128, 128))


def report_of(boxes: list[list[float]] = BOXES, anchors: AnchorSet = ANCHORS, threshold: float = 0.5) -> LevelReport:
    return level_report(of(boxes), AnchorGenerator(anchors), head=HeadSize(1), threshold=threshold)


def test_numbers_by_hand_without_a_matcher():
    score = anchor_metrics(of(BOXES), ANCHORS)
    head, *rows = table_rows(level_table(score, level_colors([score])))
    assert head == ["level", "stride, px", "shapes", "best for", "average IoU", "lost without it", "anchors"]
    assert rows == [
        ["P4", "16", "1", "66.7%", "1.000", "2", "64"],
        ["P5", "32", "1", "0.0%", "-", "0", "16"],
        ["P6", "64", "1", "33.3%", f"{3600 / 4096:.3f}", "1", "4"],
    ]


def test_a_report_adds_positives_and_operations():
    found = report_of()
    rows = table_rows(level_table(found.score, level_colors([found.score]), found))
    assert rows[0][-2:] == ["positives", "GFLOPs"]
    # 64 cells by 2 * 9 * (2 * 4 * 256 * 256 + 256 * 1 * 5) operations
    assert rows[1][-2:] == ["66.7%", f"{64 * 18 * (8 * 65536 + 1280) / 1e9:.2f}"]
    assert [int(row[5]) for row in rows[1:]] == [len(without.lost) for without in found.without_each]


def test_what_is_lost_is_by_the_threshold_of_the_report():
    found = report_of(threshold=0.95)  # which 3600 / 4096 does not reach
    rows = table_rows(level_table(found.score, level_colors([found.score]), found))
    assert [row[5] for row in rows[1:]] == ["2", "0", "0"]
    assert "reach IoU 0.95 on no other level" in level_page(found, title="a")


def test_one_level_and_no_boxes_have_their_rows():
    one = AnchorSet.of([[(16, 16)]], strides=[16])
    score = anchor_metrics(of(BOXES[:1]), one)
    assert table_rows(level_table(score, level_colors([score])))[1:] == [
        ["P4", "16", "1", "100.0%", "1.000", "1", "64"]
    ]
    empty = anchor_metrics(of([]), one)
    assert table_rows(level_table(empty, level_colors([empty])))[1:] == [["P4", "16", "1", "-", "-", "0", "64"]]


def test_every_box_is_in_one_bar_of_the_level_that_has_it():
    score = anchor_metrics(of(BOXES), ANCHORS)
    p4, p5, p6 = grid_iou_by_level(score, level_colors([score]), 12).figure.data
    assert [int(np.sum(trace.y)) for trace in (p4, p5, p6)] == [2, 0, 1]
    assert p4.y[-1] == 2  # an IoU of 1 is in the last bar
    assert p6.y[int(3600 / 4096 * 20)] == 1


def test_the_suggested_levels_are_bold_and_their_numbers_those_of_the_report():
    found = report_of()
    markup = kept_table(found.without_each, found.suggested)
    assert markup.count("<b><bdi>P4, P6</bdi></b>") == 1
    p4_p6 = next(row for row in table_rows(markup) if row[0] == "P4, P6")
    assert p4_p6[1:6] == ["P5", "0", "100.0%", f"{(2 + 3600 / 4096) / 3:.3f}", "0"]
    assert p4_p6[6] == f"{16 / 84:.1%}"


def test_every_subset_is_a_dot_and_the_suggested_one_is_circled():
    found = report_of()
    line, dots, ring = savings_panel(found).figure.data
    assert len(dots.x) == 7
    assert_allclose([ring.x[0], ring.y[0]], [16 / 84, 0])
    assert_allclose(line.y, [0, 1 / 3, 2 / 3])


def test_the_page_of_levels_says_all_of_it():
    found = report_of()
    page = level_page(found, title="<b>Levels</b>")
    assert page == level_page(found, title="<b>Levels</b>")
    for line in found.advice:
        assert line.replace("'", "&#x27;") in page
    for text in ("<b>Levels</b>", "<i>three</i>"):
        assert text not in re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    tiles = re.findall(r"<div><b>([\d,]+)</b><span>(.*?)</span></div>", page)
    assert ("2", "levels to keep") in tiles
    assert ("0", "lost instances") in tiles
    (without,) = re.findall(r"Without one level.*?</table>", page, flags=re.DOTALL)
    assert without.count("<tr") == 1 + 1 + 3  # the heading, all levels, without each of three


def test_a_page_of_one_level_and_one_without_boxes():
    one = AnchorSet.of([[(17, 17)]], strides=[17])
    page = level_page(report_of(anchors=one), title="a")
    assert "the finest stride is odd" in page
    empty = level_page(report_of([]), title="a")
    assert "There are no boxes." in empty
    figures = page_figures(empty)
    assert set(figures) == {"iou-by-level", "savings"}
    assert "NaN" not in json.dumps(figures)


def test_a_page_of_anchors_needs_no_torch():
    code = "import sys, detect.report.anchor_page; sys.exit('torch' in sys.modules or 'sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_lost_without_a_level_is_what_a_report_loses_without_it(nuclei):
    anchors = AnchorSet.of([[(9, 9), (13, 13)], [(18, 18)], [(26, 26)]], strides=(4, 8, 16))
    found = level_report(nuclei, AnchorGenerator(anchors))
    assert_array_equal(found.score.only_on_level(0.5), [len(without.lost) for without in found.without_each])
