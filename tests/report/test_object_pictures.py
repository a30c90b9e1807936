"""Objects over their images: the first that can be opened, with or without an anchor beside them."""

from __future__ import annotations

import numpy as np
from builders import coco_content
from numpy.testing import assert_allclose
from PIL import Image

from detect.data import read_coco
from detect.report.object_pictures import LEAST_PX, object_pictures, pictures_block


def dataset(folder, names):
    for name in names:
        if name:
            Image.new("L", (100, 80)).save(folder / name)
    content = {
        "images": [
            {"id": n, "width": 100, "height": 80, "file_name": name or "none.png"} for n, name in enumerate(names)
        ],
        "categories": [{"id": 1, "name": "cell"}],
        "annotations": [
            {"id": 7 + n, "image_id": n, "category_id": 1, "bbox": [20, 30, 10, 8]} for n in range(len(names))
        ],
    }
    return read_coco(content)


def test_the_first_that_can_be_opened_are_drawn_and_the_others_counted(tmp_path):
    data = dataset(tmp_path, ["a.png", "", "c.png", "d.png"])
    found = object_pictures(data, [3, 1, 0, 2], tmp_path, count=2)
    assert [picture.row for picture in found.drawn] == [3, 0]
    assert len(found.left_out) == 1
    assert_allclose(found.drawn[0].box, [20, 30, 30, 38])
    assert found.drawn[0].anchor is None
    left, top, right, bottom = found.drawn[0].window
    assert right - left == bottom - top == LEAST_PX


def test_an_anchor_is_drawn_dashed_and_lies_in_the_window(tmp_path):
    data = dataset(tmp_path, ["a.png"])
    with_anchor = object_pictures(data, [0], tmp_path, anchors=np.array([[0.0, 10, 60, 58]]))
    block = pictures_block("Title", "How to read it.", with_anchor, data, lambda row: f"<b>row {row}</b>")
    assert block.count("stroke-dasharray") == 2
    assert "<b>row 0</b>" in block
    without = pictures_block("Title", "How to read it.", object_pictures(data, [0], tmp_path), data, str)
    assert "stroke-dasharray" not in without


def test_without_a_picture_the_block_says_so(tmp_path):
    data = dataset(tmp_path, [""])
    block = pictures_block("Title", "How to read it.", object_pictures(data, [0], tmp_path), data, str)
    assert "No picture." in block
    assert "1 instance left out" in block


def test_no_rows_give_no_pictures(tmp_path):
    assert object_pictures(read_coco(coco_content([])), [], tmp_path).drawn == ()
