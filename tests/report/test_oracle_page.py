"""The page of oracle round trips: its numbers, its one bold row, and datasets with few points."""

from __future__ import annotations

import json

import numpy as np
import pytest
from numpy.testing import assert_allclose
from pages import packed_numbers, page_figures, table_rows

from detect.data import read_coco
from detect.evaluation.oracle import OracleScores
from detect.evaluation.points import score_points
from detect.keypoints.coco_keypoints import CocoKeypoints, coco_keypoints
from detect.report.oracle_page import oracle_page, oracle_table, types_table


def landmarks(*points: tuple[int, float, float], name: str = "cell") -> CocoKeypoints:
    """Points (image, x, y) in two images of 100 x 100 pixels."""
    annotations = [
        {"id": number, "image_id": image, "category_id": 1, "bbox": [x, y, 1, 1], "keypoints": [x, y, 2]}
        for number, (image, x, y) in enumerate(points, 1)
    ]
    images = [{"id": number, "width": 100, "height": 100} for number in (1, 2)]
    categories = [{"id": 1, "name": name}]
    return coco_keypoints(
        read_coco({"images": images, "categories": categories, "annotations": annotations}, keypoints=True)
    )


def oracle_of(stride: float, sigma: float | tuple[float, ...], num_found: int, num_truth: int = 1000) -> OracleScores:
    """A thousand points in a row, of which the first are found half a pixel off."""
    truth = np.stack([np.arange(num_truth) * 20.0, np.zeros(num_truth)], axis=1)
    scores = score_points([truth[:num_found] + np.array([0, 0.5])], [truth], radius=3.0)
    return OracleScores(stride, sigma, scores, merged=min(3, num_truth - num_found), same_cell=2, outside=0)


def test_types_have_a_table_where_there_are_several():
    images = [{"id": 1, "width": 100, "height": 100}]
    categories = [{"id": 1, "name": "rod", "keypoints": ["tip", "<end>"]}]
    annotations = [
        {"id": number, "image_id": 1, "category_id": 1, "keypoints": [x, 5, 2, x, 20, min(number, 2) % 2 * 2]}
        for number, x in enumerate((10, 40, 60), 1)
    ]
    content = {"images": images, "categories": categories, "annotations": annotations}
    truth = coco_keypoints(read_coco(content, keypoints=True))
    assert truth.count_by_type() == {"rod: tip": 3, "rod: <end>": 1}
    _, *rows = table_rows(types_table(truth))
    assert rows == [["rod: tip", "3", "0", "20.0"], ["rod: &lt;end&gt;", "1", "1", "-"]]
    assert "Keypoint types" in oracle_page(ORACLES, truth, title="a")
    assert "Keypoint types" not in oracle_page(ORACLES, TRUTH, title="a")


def test_a_sigma_of_each_axis_has_its_row():
    _, row = table_rows(oracle_table([oracle_of(8, (1.0, 2.5), 0)]))
    assert row[:2] == ["<b>8</b>", "<b>1 x 2.5</b>"] or row[:2] == ["8", "1 x 2.5"]
    assert page_figures(oracle_page([oracle_of(8, (1.0, 4.0), 9)], TRUTH, title="a"))["f1"]["data"][0]["x"] == [2.0]


TRUTH = landmarks((1, 10, 10), (1, 13, 14), (1, 60, 10), (2, 10, 10))
ORACLES = [oracle_of(2, 1, 1000), oracle_of(4, 1, 998), oracle_of(4, 2, 996), oracle_of(8, 1, 900)]


def test_a_row_for_each_oracle_and_the_coarsest_good_one_bold():
    markup = oracle_table(ORACLES)
    _, *rows = table_rows(markup)
    assert len(rows) == 4
    assert rows[2] == ["4", "2", f"{2 * 996 / 1996:.4f}", "1.0000", "0.9960", "0.500", "3", "1", "2", "0"]
    bold = ["<b>" in row for row in markup.split("<tr>")[2:]]
    assert bold == [False, True, False, False]  # of stride 4 the one that loses less


def test_none_is_bold_where_none_is_good_and_what_was_not_found_has_no_error():
    _, row = table_rows(oracle_table([oracle_of(8, 1, 0)]))
    assert row == ["8", "1", "0.0000", "0.0000", "0.0000", "-", "3", "997", "2", "0"]


def test_each_stride_is_a_line_over_sigma():
    lines = page_figures(oracle_page(ORACLES[::-1], TRUTH, title="a"))["f1"]["data"]
    assert [line["x"] for line in lines] == [[1], [1, 2], [1]]
    assert_allclose(lines[1]["y"], [2 * 998 / 1998, 2 * 996 / 1996])


def test_equal_input_gives_equal_text_that_says_what_was_read():
    page = oracle_page(ORACLES, TRUTH, title="Oracles of cells")
    assert page == oracle_page(ORACLES, TRUTH, title="Oracles of cells")
    assert "<title>Oracles of cells</title>" in page
    assert "Radius 3 px" in page
    assert "Points that are alone: 1." in page
    assert "NaN" not in json.dumps(page_figures(page))


@pytest.mark.parametrize("points", [[(1, 5, 5)], [(1, 5, 5), (1, 5, 5)], [(1, 5, 5), (1, 8, 9)]])
def test_few_points_make_a_page_with_bars_that_can_be_seen(points):
    bars = page_figures(oracle_page(ORACLES[:1], landmarks(*points), title="a"))["neighbors"]["data"][0]
    distant = len(points) == 2 and points[0] != points[1]
    assert packed_numbers(bars["width"]).sum() >= (5 if distant else 1)
    assert packed_numbers(bars["y"]).sum() == (2 if distant else 0)


def test_a_file_name_is_text_and_no_markup():
    page = oracle_page(ORACLES, landmarks((1, 5, 5)), title="<img src=x>")
    assert "<img src=x>" not in page


def test_no_oracles_raise_an_error():
    with pytest.raises(ValueError, match="at least one oracle round trip"):
        oracle_page([], TRUTH, title="a")
