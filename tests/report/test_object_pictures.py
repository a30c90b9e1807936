"""Objects over their images: the first that can be opened, with or without an anchor beside them."""

from __future__ import annotations

import io

import numpy as np
from builders import coco_content
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from PIL import Image

from detect.data import images, read_coco
from detect.report.object_pictures import LEAST_PX, LONGEST_PX, object_pictures, pictures_block, window_around

HOSTILE = '"><img src=x onerror=alert(1)>.png'


def dataset(folder, names, wh=(100, 80), box=(20, 30, 10, 8)):
    """Each object in an image of its own; those with a name have a file."""
    for name in filter(None, names):
        Image.new("L", wh).save(folder / name)
    content = {
        "images": [
            {"id": n, "width": wh[0], "height": wh[1], "file_name": name or "none.png"} for n, name in enumerate(names)
        ],
        "categories": [{"id": 1, "name": "<b>cell</b>"}],
        "annotations": [{"id": 7 + n, "image_id": n, "category_id": 1, "bbox": list(box)} for n in range(len(names))],
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


def test_missing_broken_and_other_sized_images_are_left_out_with_the_reason(tmp_path):
    data = dataset(tmp_path, ["a.png", "b.png", "c.png", ""])
    (tmp_path / "b.png").write_bytes(b"no image")
    Image.new("L", (50, 50)).save(tmp_path / "c.png")
    found = object_pictures(data, [1, 2, 3, 0], tmp_path)
    assert [picture.row for picture in found.drawn] == [0]
    block = pictures_block("Title", "How to read it.", found, data, str)
    assert "3 instances left out: " in block
    assert "b.png: not an image that can be read" in block
    nothing = pictures_block("Title", "How to read it.", object_pictures(data, [3], tmp_path), data, str)
    assert "No picture." in nothing
    assert "<svg" not in nothing


def test_only_the_images_that_are_drawn_are_opened(tmp_path, monkeypatch):
    opened = []

    def open_image(folder, name, **options):
        opened.append(name)
        return Image.open(folder / name)

    monkeypatch.setattr(images, "open_image", open_image)
    names = [f"{number:02}.png" for number in range(30)]
    object_pictures(dataset(tmp_path, names), range(29, -1, -1), tmp_path)
    assert opened == names[:-13:-1]  # twelve, from the last


def test_large_crops_are_made_small_and_of_any_kind(tmp_path):
    data = dataset(tmp_path, ["a.png"], (3000, 2000), (0, 0, 3000, 2000))
    for mode in ("I;16", "RGB", "RGBA", "P", "1"):
        Image.new(mode, (3000, 2000)).save(tmp_path / "a.png")
        (picture,) = object_pictures(data, [0], tmp_path).drawn
        with Image.open(io.BytesIO(picture.jpeg)) as shown:
            assert max(shown.size) == LONGEST_PX
        assert len(picture.jpeg) < 50_000


def test_names_are_text_and_no_markup(tmp_path):
    data = dataset(tmp_path, [HOSTILE])
    block = pictures_block("Title", "How to read it.", object_pictures(data, [0], tmp_path), data, str)
    assert "<img" not in block
    assert "&lt;b&gt;cell&lt;/b&gt;" in block


def test_an_anchor_is_drawn_dashed_and_lies_in_the_window(tmp_path):
    data = dataset(tmp_path, ["a.png"])
    with_anchor = object_pictures(data, [0], tmp_path, anchors=np.array([[0.0, 10, 60, 58]]))
    block = pictures_block("Title", "How to read it.", with_anchor, data, lambda row: f"<b>row {row}</b>")
    assert block.count("stroke-dasharray") == 2
    assert "<b>row 0</b>" in block
    without = pictures_block("Title", "How to read it.", object_pictures(data, [0], tmp_path), data, str)
    assert "stroke-dasharray" not in without


def test_no_rows_give_no_pictures(tmp_path):
    assert object_pictures(read_coco(coco_content([])), [], tmp_path).drawn == ()


@given(
    st.tuples(st.integers(1, 3000), st.integers(1, 3000)),
    st.tuples(*[st.floats(0, 1)] * 4),
    st.tuples(st.floats(-50, 50), st.floats(-50, 50), st.floats(1, 900), st.floats(1, 900)),
)
def test_a_window_is_square_and_holds_the_box_and_the_anchor(image_wh, corners, shape):
    x, y = sorted(corners[:2]), sorted(corners[2:])
    box = np.array([x[0] * image_wh[0], y[0] * image_wh[1], x[1] * image_wh[0], y[1] * image_wh[1]])
    middle = np.tile((box[:2] + box[2:]) / 2 + shape[:2], 2)
    anchor = middle + np.array([-shape[2], -shape[3], shape[2], shape[3]]) / 2
    x0, y0, x1, y1 = window_around(box, anchor, image_wh)
    assert x1 - x0 == y1 - y0 > 0
    assert (np.minimum(box, anchor)[:2] >= [x0, y0]).all()
    assert (np.maximum(box, anchor)[2:] <= [x1, y1]).all()
    part = max(x0, 0), max(y0, 0), min(x1, image_wh[0]), min(y1, image_wh[1])
    assert part[0] < part[2]
    assert part[1] < part[3]
