"""Columns of images and annotations, merged over shards."""

from __future__ import annotations

import numpy as np
import pytest
from builders import written
from coco_files import ONE_BOX_TEXT, coco_error, text_with
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from detect.conventions import ORIGIN_SHIFTS
from detect.data import read_coco
from detect.data.coco_columns import NO_ROW, rows_of_ids
from detect.samples import sample_annotations


@given(st.lists(st.integers(-5, 5), max_size=20), st.sets(st.integers(-5, 5)))
def test_the_row_of_an_id_is_its_place_among_the_images(ids, image_ids):
    ordered = sorted(image_ids)
    expected = [ordered.index(each) if each in image_ids else NO_ROW for each in ids]
    assert rows_of_ids(np.array(ids, np.int64), np.array(ordered, np.int64)).tolist() == expected


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b'"width": 100', b'"width": 99', "image id 1 is both 'a.jpg' (100x80) and 'a.jpg' (99x80)"),
        (b'"cell"', b'"dog"', "category id 1 is both 'cell' and 'dog'"),
    ],
)
def test_shards_that_disagree_are_named(tmp_path, old, new, reason):
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    first.write_bytes(ONE_BOX_TEXT)
    second.write_bytes(text_with(old, new))
    assert coco_error([first, second]).startswith(f"{second}: {reason}")


def test_rows_are_in_order_of_images_then_ids():
    content = {
        "images": [{"id": number, "width": 10, "height": 10} for number in (9, -3, 5)],
        "annotations": [
            {"id": number, "image_id": image, "category_id": 1, "bbox": [1, 1, 2, 2 + number]}
            for number, image in ((4, 9), (2, 9), (8, -3), (1, 5))
        ],
    }
    dataset = read_coco(content)
    assert_array_equal(dataset.images.ids, [-3, 5, 9])
    assert_array_equal(dataset.annotations.ids, [8, 1, 2, 4])
    assert_array_equal(dataset.annotations.image_rows, [0, 1, 2, 2])


def test_categories_of_all_shards_are_in_order_of_ids(tmp_path):
    names = {5: "e", 1: "a", 3: "c"}
    empty = {"images": [], "annotations": []}
    shards = [
        written(
            tmp_path / f"{number}.json", {**empty, "categories": [{"id": number, "name": name}, {"id": 3, "name": "c"}]}
        )
        for number, name in names.items()
    ]
    assert list(read_coco(shards).categories.items()) == [(1, "a"), (3, "c"), (5, "e")]


def test_take_gives_these_rows_in_this_order():
    annotations = read_coco(sample_annotations("nuclei"), keypoints=True).annotations
    rows = np.array([5, 0, 5])
    for taken, row in ((annotations.take(rows), row) for row in range(3)):
        assert taken.ids[row] == annotations.ids[rows[row]]
        assert_array_equal(taken.boxes_xywh[row], annotations.boxes_xywh[rows[row]])
        assert_array_equal(taken.keypoints[row], annotations.keypoints[rows[row]])


@given(st.integers(0, 20), st.sampled_from([0.0, 0.25, 0.5, 0.75]), st.sampled_from(["center", "corner"]))
def test_points_lie_inside_an_image_whose_size_is_their_extent(pixel, part, pixel_origin):
    content = {
        "images": [{"id": 1}],
        "categories": [{"id": 1, "name": "cell"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "keypoints": [pixel + part, 3, 2]}],
    }
    dataset = read_coco(content, keypoints=True)
    x = pixel + part + ORIGIN_SHIFTS[pixel_origin]
    assert x < dataset.images.wh[0, 0] <= x + 2
