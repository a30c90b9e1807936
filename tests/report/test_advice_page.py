"""The page of advice: verdicts, tables and curves as computed, names escaped, objects over their images."""

from __future__ import annotations

import numpy as np
from builders import dataset_of
from numpy.testing import assert_allclose
from pages import page_figures, parse_page, table_rows
from PIL import Image

from detect.advice.advise import advise
from detect.advice.verdict import change_in_words
from detect.anchors.instances import ResizedInstances
from detect.data import read_coco
from detect.report.advice_page import MAX_LISTED, advice_page, dataset_part, detector_part


def page_of(dataset, *names, **options):
    advices = [advise(dataset, name) for name in names]
    drawn = [ResizedInstances.of(dataset, each.rule) for each in advices]
    parts = [detector_part(each, n, instances=drawn[n], **options) for n, each in enumerate(advices)]
    return advices, advice_page(dataset_part(advices[0]), parts)


def test_curves_show_the_share_lost_at_each_value():
    (advice,), page = page_of(dataset_of([[5, 5, 3, 3], [60, 60, 90, 80]]), "yolov8-8.3")
    figures = page_figures(page)
    curve = advice.curves[0]
    lost, finer = (
        dict(zip(line["x"], line["y"], strict=True))
        for line in figures["curve-0-0"]["data"]
        if line["mode"] == "lines+markers" and line["line"]["dash"] == "solid"
    )
    for option in curve.options:
        assert_allclose((finer if option.finer else lost)[option.value], 50 * option.num_lost)
    assert len(figures) == 1  # nothing is lost by any other setting


def test_the_tables_name_what_is_lost_and_what_to_set():
    (advice, _), page = page_of(
        dataset_of([[5, 5, 3, 3], [60, 60, 90, 80]]), "yolo11-8.3", "rf-detr", notes=["a <note>"]
    )
    rows = table_rows(page)
    assert any(row[:3] == ["no positive", "1", "50.0%"] for row in rows)
    (setting,) = [row for row in rows if row[0] == "input size" and row[1].startswith("imgsz")]
    assert setting[3] == change_in_words(advice.changes[0])
    assert "a &lt;note&gt;" in page
    assert "rf-detr at stretch:576x576 loses none of 2 objects by its rules and limits." in page
    assert {"curve-0-0", "curve-1-0"} == page_figures(
        page
    ).keys()  # rf-detr loses nothing, but sees small objects badly
    assert "<b>1</b><span>category</span>" in page


def test_names_from_a_file_are_escaped():
    content = {
        "images": [{"id": 1, "width": 64, "height": 64, "file_name": "<script>.png"}],
        "categories": [{"id": 1, "name": "<b>cell</b>"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0.1, 0.1, 0.2, 0.2]}],
    }
    _, page = page_of(read_coco(content), "yolo11-8.3")
    assert "<b>cell</b>" not in page
    assert "<script>.png" not in page
    assert parse_page(page)


def test_lost_objects_are_drawn_over_their_images(tmp_path):
    Image.new("L", (64, 64), 90).save(tmp_path / "a.png")
    content = {
        "images": [{"id": 1, "width": 64, "height": 64, "file_name": "a.png"}],
        "categories": [{"id": 1, "name": "cell"}],
        "annotations": [{"id": 9, "image_id": 1, "category_id": 1, "bbox": [0.1, 0.1, 0.2, 0.2]}],
    }
    _, page = page_of(read_coco(content), "yolo11-8.3", images=tmp_path)
    assert "<b>lost</b>, 2.0 px after the resize" in page
    assert "annotation 9" in page
    assert "Some of the objects that get no cell in any assignment, and of those they compete with." in page


def test_a_long_list_is_cut_and_says_where_all_are():
    boxes = [[5.0 + 8 * (number % 70), 5 + 8 * (number // 70), 3, 3] for number in range(MAX_LISTED + 20)]
    _, page = page_of(dataset_of(boxes), "yolo11-8.3")
    assert f"The first {MAX_LISTED} of them; lost.csv has all." in page
    listed = [row for row in table_rows(page) if row[-1] in ("lost", "contested")]
    assert len(listed) == MAX_LISTED
    assert np.unique([row[0] for row in listed]).size == MAX_LISTED
