from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from detect.anchors.instances import ResizedInstances
from detect.anchors.known import load_anchors
from detect.anchors.metrics import anchor_metrics
from detect.anchors.sweep import rules_of_sizes, sweep_resize
from detect.data import CocoDataset, read_coco
from detect.data.resize import parse_resize
from detect.data.tiles import MIN_SHARE, cut_tiles
from detect.errors import ResizeError


def of(image_whs: list[tuple[int, int]], boxes: list[tuple[int, list[float]]], **fields: object) -> CocoDataset:
    """Images of these sizes and boxes (image, [x, y, w, h]), with ids from 1."""
    return read_coco(
        {
            "images": [
                {"id": n + 1, "width": w, "height": h, "file_name": f"{n}.png"} for n, (w, h) in enumerate(image_whs)
            ],
            "categories": [{"id": 1, "name": "a"}],
            "annotations": [
                {"id": n + 1, "image_id": image, "category_id": 1, "bbox": box, **fields}
                for n, (image, box) in enumerate(boxes)
            ],
        }
    )


def tiled(dataset: CocoDataset, rule: str) -> CocoDataset:
    return cut_tiles(dataset, parse_resize(rule))


def starts_by_loop(length: int, size: int, overlap: int) -> list[int]:
    starts = [0]
    while starts[-1] + size < length:
        starts.append(starts[-1] + size - overlap)
    return [max(0, min(start, length - size)) for start in starts]


def pieces_by_loop(wh: tuple[int, int], box: list[float], size: int, overlap: int) -> list[tuple[int, list[float]]]:
    """(tile, box) of each piece that stays, window by window."""
    x, y, w, h = box
    pieces, tile = [], 0
    for top in starts_by_loop(wh[1], size, overlap):
        for left in starts_by_loop(wh[0], size, overlap):
            x0, y0 = max(x - left, 0), max(y - top, 0)
            x1, y1 = min(x + w - left, size), min(y + h - top, size)
            if x1 > x0 and y1 > y0:
                pieces.append((tile, [x0, y0, x1 - x0, y1 - y0]))
            tile += 1
    areas = [piece[2] * piece[3] for _, piece in pieces]
    return [each for n, each in enumerate(pieces) if areas[n] / (w * h) >= MIN_SHARE or n == int(np.argmax(areas))]


def test_a_box_on_the_seam_is_cut_and_small_rests_are_left_out():
    # windows of 100 without overlap at 0 and 100; 60 px of the first box lie in the first, 40 in the second;
    # of the second box 95 in the first and 5 in the second, which is less than a tenth
    cut = tiled(of([(200, 100)], [(1, [40, 0, 100, 10]), (1, [5, 50, 100, 10])]), "tiles:100:0")
    assert_array_equal(cut.instances.boxes_xywh, [[40, 0, 60, 10], [5, 50, 95, 10], [0, 0, 40, 10]])
    assert cut.instances.ids.tolist() == [1, 2, 1]
    assert cut.instances.image_rows.tolist() == [0, 0, 1]
    assert_allclose(cut.instances.area, [600, 950, 400])
    assert cut.images.ids.tolist() == [1, 2]
    assert cut.images.file_names == ("0.png", "0.png")


def test_a_box_larger_than_ten_tiles_keeps_its_largest_piece():
    cut = tiled(of([(500, 500)], [(1, [1, 1, 498, 498])]), "tiles:100:0")
    # each of the inner nine windows has 100 x 100 of 498 x 498: 4 %
    assert cut.instances.boxes_xywh.tolist() == [[0, 0, 100, 100]]
    assert cut.instances.image_rows.tolist() == [6]


lengths = st.integers(1, 90)


@given(
    st.tuples(lengths, lengths),
    st.lists(st.tuples(*[st.floats(0, 1)] * 4), min_size=1, max_size=5),
    st.tuples(st.integers(1, 40), st.floats(0, 0.9)),
)
def test_pieces_are_those_of_a_plain_loop(wh, places, how):
    size = how[0]
    overlap = int(how[1] * size)
    corner = [(x * (wh[0] - 0.5), y * (wh[1] - 0.5)) for x, y, _, _ in places]
    boxes = [
        [x, y, max(0.25, w * (wh[0] - x)), max(0.25, h * (wh[1] - y))]
        for (x, y), (_, _, w, h) in zip(corner, places, strict=True)
    ]
    dataset = of([(3, 3), wh], [(2, box) for box in boxes])
    cut = tiled(dataset, f"tiles:{size}:{overlap}")
    before = len(starts_by_loop(3, size, overlap)) ** 2
    expected = [
        (before + tile, number + 1, piece)
        for number, box in enumerate(dataset.instances.boxes_xywh.tolist())
        for tile, piece in pieces_by_loop(wh, box, size, overlap)
    ]
    expected.sort(key=lambda each: each[:2])
    assert cut.instances.image_rows.tolist() == [tile for tile, _, _ in expected]
    assert cut.instances.ids.tolist() == [number for _, number, _ in expected]
    assert_allclose(cut.instances.boxes_xywh, [piece for _, _, piece in expected], rtol=1e-9, atol=1e-9)
    assert set(cut.instances.ids.tolist()) == set(dataset.instances.ids.tolist())
    windows = [len(starts_by_loop(length, size, overlap)) for length in wh]
    assert len(cut.images) == before + windows[0] * windows[1]


def test_tiles_cut_again_stay(bccd):
    once = tiled(bccd.dataset, "tiles:200:50")
    again = tiled(once, "tiles:200:50")
    assert_array_equal(again.instances.boxes_xywh, once.instances.boxes_xywh)
    assert_array_equal(again.images.ids, once.images.ids)


def test_an_image_in_one_tile_is_as_without_tiles(bccd):
    rule = parse_resize("tiles:640:100")
    instances = ResizedInstances.of(cut_tiles(bccd.dataset, rule), rule)
    plain = ResizedInstances.of(bccd.dataset, parse_resize("none"))
    assert_allclose(instances.boxes, plain.boxes)
    assert (instances.canvas_wh == 640).all()  # padded right and below


def test_coverage_and_cost_of_tiles(bccd):
    anchors = load_anchors("yolov5-coco")
    rules = [
        *rules_of_sizes(parse_resize("tiles:320:64"), [320, 640]),
        *rules_of_sizes(parse_resize("tiles:320:0"), [320]),
    ]
    assert list(map(str, rules)) == ["tiles:320:64", "tiles:640:128", "tiles:320:0"]
    tiles, whole, apart = sweep_resize(bccd.dataset, anchors, rules=rules)
    # 640 x 480: windows of 320 with an overlap of 64 at 0, 256 and 320, and at 0 and 160: 6, or 2 x 2 without overlap
    assert_allclose([tiles.flops / whole.flops, apart.num_anchors / whole.num_anchors], [6 / 4, 4 / 4])
    instances = ResizedInstances.of(cut_tiles(bccd.dataset, rules[0]), rules[0])
    assert_allclose(tiles.grid_recall, anchor_metrics(instances, anchors).grid_recall(0.5))


def test_crowd_regions_are_cut_too_and_other_rules_cut_nothing(bccd):
    crowd = tiled(of([(200, 100)], [(1, [40, 0, 100, 10])], iscrowd=1), "tiles:100:0").crowd
    assert len(crowd) == 2
    assert cut_tiles(bccd.dataset, parse_resize("letterbox:64")) is bccd.dataset


def test_no_images_and_what_is_refused():
    empty = tiled(of([], []), "tiles:100:10")
    assert len(empty.images) == len(empty.instances) == 0
    with pytest.raises(
        ResizeError, match="images of up to 200x100 pixels must first be cut by cut_tiles for tiles:100:0"
    ):
        parse_resize("tiles:100:0").resize_images(np.array([[200, 100]]))
    with pytest.raises(ResizeError, match="the overlap of tiles of 100 pixels must be smaller, got 100"):
        parse_resize("tiles:100:100")
    content = {"images": [], "annotations": [], "categories": []}
    with pytest.raises(ValueError, match="keypoints are not cut"):
        cut_tiles(read_coco(content, keypoints=True), parse_resize("tiles:9:0"))
