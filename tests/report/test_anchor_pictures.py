"""Instances with the lowest IoU over their images: in pixels of the original image, from images that can be opened."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from detect.anchors.anchor_set import AnchorSet
from detect.anchors.instances import ResizedInstances
from detect.anchors.metrics import AnchorMetrics, anchor_metrics
from detect.data import images, read_coco
from detect.data.resize import parse_resize
from detect.report.anchor_page import anchor_page
from detect.report.anchor_pictures import worst_block, worst_pictures
from detect.report.object_pictures import LONGEST_PX, MAX_PICTURES, RIM_PX, window_around

HOSTILE = '"><img src=x onerror=alert(1)>.png'


def score_of(
    names: list[str], boxes: list[list[float]], *, wh: tuple[int, int] = (100, 80), rule: str = "none"
) -> AnchorMetrics:
    """Each box in an image of its own; one anchor of 32 x 32 on stride 16."""
    images = [{"id": n, "width": wh[0], "height": wh[1], "file_name": name} for n, name in enumerate(names)]
    annotations = [{"id": 7 + n, "image_id": n, "category_id": 1, "bbox": box} for n, box in enumerate(boxes)]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "<b>cell</b>"}]}
    instances = ResizedInstances.of(read_coco(content), parse_resize(rule))
    return anchor_metrics(instances, AnchorSet.of([[(32, 32)]], strides=[16]))


def save(folder: Path, name: str, wh: tuple[int, int] = (100, 80)) -> None:
    """Black, but white in (10, 20) to (40, 30)."""
    image = Image.new("L", wh)
    image.paste(255, (10, 20, 40, 30))
    image.save(folder / name)


def decoded(jpeg: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(jpeg)).convert("L"))


def test_box_and_anchor_lie_in_the_images_own_pixels(tmp_path):
    # letterbox:200 doubles the image and puts it 20 px down: the box (10, 20, 40, 30) lies at (20, 60, 80, 80), its centre
    # (50, 70) is nearest to the cell at (56, 72), whose anchor (40, 56, 72, 88) is (20, 18, 36, 34) of the image
    save(tmp_path, "a.png")
    (picture,) = worst_pictures(score_of(["a.png"], [[10, 20, 30, 10]], rule="letterbox:200"), tmp_path).drawn
    assert_allclose(picture.box, [10, 20, 40, 30])
    assert_allclose(picture.anchor, [20, 18, 36, 34])
    # 2.5 * 30 is 75, around (25, 25), but moved to begin RIM_PX before the image
    assert picture.window == (-RIM_PX, -RIM_PX, 75 - RIM_PX, 75 - RIM_PX)
    assert picture.part == (0, 0, 73, 73)
    rows, columns = np.nonzero(decoded(picture.jpeg) > 128)
    assert (columns.min(), rows.min(), columns.max(), rows.max()) == (10, 20, 39, 29)


def test_markup_draws_both_over_the_part_of_the_image(tmp_path):
    save(tmp_path, "a.png")
    block = worst_block(score_of(["a.png"], [[10, 20, 30, 10]]), tmp_path)
    assert 'viewBox="-2 -2 75 75"' in block
    assert '<image x="0" y="0" width="73" height="73"' in block
    # without a rule the box's centre (25, 25) is nearest to the cell at (24, 24): the anchor (8, 8, 40, 40)
    places = re.findall(r'<rect x="([-\d.]+)" y="([-\d.]+)" width="([\d.]+)" height="([\d.]+)"', block)
    assert [tuple(map(float, place)) for place in places] == [(10, 20, 30, 10)] * 2 + [(8, 8, 32, 32)] * 2
    assert [("stroke-dasharray" in rect) for rect in re.findall(r"<rect[^>]*>", block)] == [False, False, True, True]
    # 300 / (1024 + 300 - 300): inside the anchor
    assert f"<b>IoU {300 / 1024:.3f}</b>, on the grid {300 / 1024:.3f}" in block
    assert "annotation 7" in block


def test_missing_broken_and_other_sized_images_are_left_out_and_counted(tmp_path):
    save(tmp_path, "a.png")
    (tmp_path / "b.png").write_bytes(b"no image")
    save(tmp_path, "c.png", (50, 50))
    names = ["a.png", "b.png", "c.png", "d.png", "../e.png", ""]
    score = score_of(names, [[10, 20, 30, 10 + n] for n in range(6)])
    found = worst_pictures(score, tmp_path)
    assert [score.instances.dataset.instances.ids[picture.row] for picture in found.drawn] == [7]
    assert len(found.left_out) == 5
    assert "not an image" in found.left_out[0]
    block = worst_block(score, tmp_path)
    assert "5 instances left out" in block
    assert "b.png: not an image that can be read" in block


def test_a_missing_folder_draws_nothing_and_says_so(tmp_path):
    block = worst_block(score_of(["a.png"], [[1, 1, 9, 9]]), tmp_path / "none")
    assert "1 instance left out" in block
    assert "No picture." in block
    assert "<svg" not in block


def test_only_the_images_that_are_drawn_are_opened_the_worst_first(tmp_path, monkeypatch):
    names = [f"{number:02}.png" for number in range(30)]
    opened = []
    for name in names:
        save(tmp_path, name)

    def open_image(folder, name, **options):
        opened.append(name)
        return Image.open(folder / name)

    monkeypatch.setattr(images, "open_image", open_image)
    score = score_of(names, [[1, 1, 40 - number, 20] for number in range(30)])
    drawn = worst_pictures(score, tmp_path).drawn
    assert_array_equal([picture.row for picture in drawn], score.worst(MAX_PICTURES))
    assert len(opened) == MAX_PICTURES == 12


def test_names_are_text_and_no_markup(tmp_path):
    save(tmp_path, HOSTILE)
    block = worst_block(score_of([HOSTILE], [[10, 20, 30, 10]]), tmp_path)
    assert "<img" not in block
    assert "<b>cell" not in block
    assert "&lt;b&gt;cell&lt;/b&gt;" in block


def test_large_crops_are_made_small_and_of_any_kind(tmp_path):
    for mode in ("I;16", "RGB", "RGBA", "P", "1"):
        Image.new(mode, (3000, 2000)).save(tmp_path / "a.png")
        score = score_of(["a.png"], [[0, 0, 3000, 2000]], wh=(3000, 2000))
        (picture,) = worst_pictures(score, tmp_path).drawn
        assert max(decoded(picture.jpeg).shape) == LONGEST_PX
        assert len(picture.jpeg) < 50_000


def test_tiles_are_not_drawn_and_the_page_says_so(tmp_path):
    save(tmp_path, "a.png")
    score = score_of(["a.png"], [[10, 20, 30, 10]], rule="tiles:50:10")
    assert "Not drawn" in worst_block(score, tmp_path)
    with pytest.raises(ValueError, match="tiles cannot be drawn"):
        worst_pictures(score, tmp_path)


def test_no_instances_have_no_pictures(tmp_path):
    assert "No picture." in worst_block(score_of([], []), tmp_path)


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


def test_the_page_holds_its_pictures_and_equal_input_gives_equal_text(tmp_path):
    save(tmp_path, "a.png")
    score = score_of(["a.png"], [[10, 20, 30, 10]])
    page = anchor_page([score], None, title="a", images=tmp_path)
    assert page == anchor_page([score], None, title="a", images=tmp_path)
    content = re.search(r"data:image/jpeg;base64,([^\"]+)", page)
    assert content
    assert decoded(base64.b64decode(content[1])).shape == (73, 73)
    assert '<div class="pictures">' in page
    assert '<div class="pictures">' not in anchor_page([score], None, title="a")
