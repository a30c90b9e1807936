"""Invalid and suspicious annotations: each has its id and the reason."""

from __future__ import annotations

from collections import Counter
from unittest.mock import patch

import numpy as np
import pytest
from builders import written
from coco_files import (
    MISSING,
    assert_one_box,
    boxes_on_one_image,
    coco_error,
    coco_with,
    coco_with_one_box,
    findings_in_words,
    name_of,
    text_with,
)
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from detect.data import read_coco
from detect.data.coco_checks import rows_that_share

# Single entries: kind of entry, field, value, and the first finding. "*" replaces the whole entry.
NAN, INF = float("nan"), float("inf")
NO_ID = "an annotation without a usable id"
REFUSED = [
    ("annotations", "*", 3, "entry 0 of the annotation list is 3, not an object"),
    ("annotations", "*", None, "entry 0 of the annotation list is null, not an object"),
    ("annotations", "*", "box", "entry 0 of the annotation list is the text 'box', not an object"),
    ("annotations", "*", [1, 2, 3, 4], "entry 0 of the annotation list is a list, not an object"),
    ("annotations", "*", True, "entry 0 of the annotation list is true, not an object"),
    ("annotations", "*", {}, f"{NO_ID}: entry 0 of the annotation list: it has no image_id"),
    ("annotations", "bbox", MISSING, "annotation 7, image 1: it has no bbox"),
    ("annotations", "bbox", [10**400, 2, 3, 4], "annotation 7, image 1: bbox[0] is a number of 1,329 bits, too large"),
    ("annotations", "bbox", [NAN, 2, 3, 4], "annotation 7, image 1: bbox [nan, 2, 3, 4] is not finite"),
    ("annotations", "bbox", [1, 2, INF, 4], "annotation 7, image 1: bbox [1, 2, inf, 4] is not finite"),
    ("annotations", "bbox", [-INF, 2, INF, 4], "annotation 7, image 1: bbox [-inf, 2, inf, 4] is not finite"),
    ("annotations", "bbox", [1, 2, 0, 4], "annotation 7, image 1: width 0 is not positive"),
    ("annotations", "bbox", [1, 2, 3, -4], "annotation 7, image 1: height -4 is not positive"),
    ("annotations", "bbox", [1, 2, 0, -4], "annotation 7, image 1: width 0 and height -4 are not positive"),
    ("annotations", "bbox", [200, 2, 3, 4], "bbox [200, 2, 3, 4] lies wholly outside its 100x80 image"),
    ("annotations", "bbox", [100, 2, 3, 4], "bbox [100, 2, 3, 4] lies wholly outside its 100x80 image"),
    ("annotations", "bbox", [1, -4, 3, 4], "bbox [1, -4, 3, 4] lies wholly outside its 100x80 image"),
    ("annotations", "bbox", [1e308, 2, 1e308, 4], "bbox [1e+308, 2, 1e+308, 4] lies wholly outside its 100x80 image"),
    ("annotations", "image_id", 2, "annotation 7, image 2: no image has this id"),
    ("annotations", "image_id", "2", "image 2: no image has this id (image_id is the text '2': read as the number 2)"),
    ("annotations", "image_id", MISSING, "annotation 7: it has no image_id"),
    ("annotations", "category_id", 5, "annotation 7, image 1: no category has the id 5"),
    ("images", "*", None, "entry 0 of the image list is null, not an object"),
    ("images", "id", None, "entry 0 of the image list: id is null, not an id"),
    ("images", "id", MISSING, "entry 0 of the image list: it has no id"),
    ("images", "width", 0, "image 1: size 0x80 is not positive"),
    ("images", "height", -80, "image 1: size 100x-80 is not positive"),
    ("categories", "*", [], "entry 0 of the category list is a list, not an object"),
    ("categories", "id", MISSING, "entry 0 of the category list: it has no id"),
]


@pytest.mark.parametrize(("kind", "field", "value", "reason"), REFUSED, ids=name_of)
def test_a_broken_entry_is_refused_by_id_and_reason(tmp_path, kind, field, value, reason):
    broken = coco_with(kind, field, value)
    path = written(tmp_path / "broken.json", broken)
    for source, file in ((broken, "(in memory)"), (path, str(path))):
        dataset = read_coco(source)
        assert len(dataset.annotations) == 0
        first = str(dataset.invalid[0])
        assert first.startswith(f"{file}: ")
        assert first.endswith(reason)
        assert coco_error(source, strict=True) == first


@pytest.mark.parametrize(
    ("literal", "text"), [(b"NaN", "nan"), (b"Infinity", "inf"), (b"-Infinity", "-inf"), (b"1e999", "inf")]
)
def test_numbers_that_are_none_in_json_are_refused(tmp_path, literal, text):
    path = tmp_path / "broken.json"
    path.write_bytes(text_with(b"[1, 2", b"[" + literal + b", 2"))
    (finding,) = read_coco(path).invalid
    assert str(finding) == f"{path}: annotation 7, image 1: bbox [{text}, 2, 3, 4] is not finite"


def test_strict_raises_the_first_refusal_by_id():
    broken = coco_with_one_box()
    broken["annotations"] = [dict(broken["annotations"][0], id=number, bbox=[1, 2, 0, 4]) for number in (30, 20, 25)]
    assert coco_error(broken, strict=True) == "(in memory): annotation 20, image 1: width 0 is not positive"


def test_strict_takes_what_is_only_odd():
    assert len(read_coco(coco_with("annotations", "bbox", [-1, 2, 3, 4]), strict=True).suspicious) == 1


ODD = [
    ("annotations", "id", MISSING, f"{NO_ID}, image 1: it has no id: kept"),
    ("annotations", "bbox", [-1, 2, 3, 4], "bbox [-1, 2, 3, 4] reaches outside its 100x80 image: clipped"),
    (
        "annotations",
        "bbox",
        [-1e300, 2, 2e300, 4],
        "bbox [-1e+300, 2, 2e+300, 4] reaches outside its 100x80 image: clipped",
    ),
    (
        "images",
        None,
        coco_with_one_box()["images"] * 2,
        "(in memory): image 1: it occurs more than once in the file: kept once",
    ),
]


@pytest.mark.parametrize(("kind", "field", "value", "reason"), ODD, ids=name_of)
def test_an_odd_entry_is_kept_and_named(kind, field, value, reason):
    dataset = read_coco(coco_with(kind, field, value))
    assert (len(dataset.images), len(dataset.annotations), dataset.invalid) == (1, 1, ())
    (finding,) = dataset.suspicious
    assert str(finding).endswith(reason)


@pytest.mark.parametrize(("value", "crowd"), [(True, 1), (False, 0), (1, 1), (0, 0), (MISSING, 0)], ids=name_of)
def test_iscrowd_may_be_true_or_false(value, crowd):
    dataset = read_coco(coco_with("annotations", "iscrowd", value))
    assert (len(dataset.crowd), len(dataset.instances)) == (crowd, 1 - crowd)
    assert dataset.invalid == ()


@pytest.mark.parametrize("value", [MISSING, None, NAN, INF], ids=name_of)
def test_an_area_that_says_nothing_is_width_times_height(value):
    assert_array_equal(read_coco(coco_with("annotations", "area", value)).instances.area, [12.0])


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ([1, 2], "keypoints has 2 numbers, not three (x, y, visibility) per keypoint"),
        ("here", "keypoints is the text 'here', not a list of numbers"),
        ([[1, 2, 2]] * 3, "keypoints[0] is a list, not a number"),
        ([None, 1, 2], "keypoint 0 (nan, 1) is not finite"),
        ([1, 2, 2, 1, 2, 3], "keypoint 1 has visibility 3, not 0, 1 or 2"),
        ([1, 2, 0.5], "keypoint 0 has visibility 0.5, not 0, 1 or 2"),
        ([1, 2, 0, float("inf"), 2, 1], "keypoint 1 (inf, 2) is not finite"),
    ],
)
def test_broken_keypoints_are_refused_where_they_are_asked_for(tmp_path, value, reason):
    broken = coco_with("annotations", "keypoints", value)
    path = written(tmp_path / "broken.json", broken)
    for source in (broken, path):
        (finding,) = read_coco(source, keypoints=True).invalid
        assert str(finding).endswith(f"annotation 7, image 1: {reason}")
        assert_one_box(read_coco(source))


def test_boxes_are_clipped_to_their_image_and_named():
    dataset = read_coco(
        boxes_on_one_image({"bbox": [-2, 70, 10, 15]}, {"bbox": [99, 79, 5, 5]}, {"bbox": [0, 0, 100, 80]})
    )
    # x from -2 to 8, y from 70 to 85, in 100 x 80
    assert_array_equal(dataset.annotations.boxes_xywh, [[0, 70, 8, 10], [99, 79, 1, 1], [0, 0, 100, 80]])
    assert_array_equal(dataset.annotations.area, [80, 1, 8000])
    assert findings_in_words(dataset.suspicious) == [
        (1, 4, "bbox [-2, 70, 10, 15] reaches outside its 100x80 image: clipped"),
        (2, 4, "bbox [99, 79, 5, 5] reaches outside its 100x80 image: clipped"),
    ]


def test_a_rounding_error_past_the_edge_is_nothing_odd():
    x = 100 / 3
    assert x + (100 - x) + 2e-14 > 100
    boxes = ([x, 0, 100 - x + 2e-14, 80], [-1e-9, 1, 2, 3], [-0.004, 2, 100.008, 78.009], [9, 9, 9, 71.02])
    dataset = read_coco(boxes_on_one_image(*({"bbox": box} for box in boxes)))
    assert [each.annotation_id for each in dataset.suspicious] == [4]
    assert_allclose(dataset.annotations.boxes_xywh[2:], [[0, 2, 100, 78], [9, 9, 9, 71]], atol=1e-12)


@given(st.lists(st.floats(-300, 300), min_size=4, max_size=4))
def test_what_is_left_of_a_box_is_its_part_inside_the_image(box):
    x0, x1 = max(box[0], 0.0), min(box[0] + box[2], 100.0)
    y0, y1 = max(box[1], 0.0), min(box[1] + box[3], 80.0)
    annotations = read_coco(boxes_on_one_image({"bbox": box})).annotations
    if len(annotations):
        assert_allclose(annotations.boxes_xywh, [[x0, y0, x1 - x0, y1 - y0]], atol=2e-6)
    else:
        assert min(box[2], box[3], x1 - x0, y1 - y0) <= 1e-12


@pytest.mark.parametrize("bits", [1, 4, 24])  # of a hash table in which many values share a slot, and few
@given(values=st.lists(st.one_of(st.integers(-3, 3), st.integers(-(2**62), 2**62)), max_size=40), kind=st.booleans())
def test_rows_that_share_a_value_are_those_that_a_count_finds(bits, values, kind):
    column = np.array(values, np.int64) if kind else np.array([float(value) + 0.1 for value in values])
    times = Counter(column.tolist())
    with patch("detect.data.coco_checks.MOST_SLOT_BITS", bits):
        assert rows_that_share(column).tolist() == [row for row, own in enumerate(column.tolist()) if times[own] > 1]


def test_boxes_that_repeat_are_found_in_many_blocks():
    rng = np.random.default_rng(0)
    boxes = rng.integers(1, 9, (3000, 4)).tolist()
    image_ids = np.sort(rng.integers(0, 30, 3000)).tolist()
    content = {
        "images": [{"id": number, "width": 20, "height": 20} for number in range(30)],
        "categories": [{"id": 1}],
        "annotations": [
            {"id": number, "image_id": image, "category_id": 1, "bbox": box}
            for number, (image, box) in enumerate(zip(image_ids, boxes, strict=True))
        ],
    }
    first = {}
    expected = [
        (number, f"the same box as annotation {other}: kept")
        for number, key in enumerate(zip(image_ids, map(tuple, boxes), strict=True))
        if (other := first.setdefault(key, number)) != number
    ]
    with patch("detect.data.coco_checks.ROWS_AT_ONCE", 100):
        found = read_coco(content).suspicious
    assert [(each.annotation_id, each.reason) for each in found] == expected
    assert len(expected) > 20


def test_repeated_ids_are_kept_and_named():
    content = boxes_on_one_image({"bbox": [1, 2, 3, 4]}, {"bbox": [5, 6, 7, 8]}, {"bbox": [9, 9, 9, 9]})
    content["annotations"][2]["id"] = 1
    dataset = read_coco(content)
    assert_array_equal(dataset.annotations.ids, [1, 1, 2])
    assert_array_equal(dataset.annotations.boxes_xywh, [[1, 2, 3, 4], [9, 9, 9, 9], [5, 6, 7, 8]])
    assert findings_in_words(dataset.suspicious) == [(1, 4, "its id occurs 2 times: kept")] * 2


def test_the_same_box_twice_is_kept_and_named():
    box = {"bbox": [1.1, 2.2, 3.3, 4.4]}
    dataset = read_coco(boxes_on_one_image(box, {"bbox": [1.1, 2.2, 3.3, 4.5]}, {**box, "category_id": 2}, box))
    assert len(dataset.annotations) == 4
    assert findings_in_words(dataset.suspicious) == [
        (3, 4, "the same box as annotation 1, of another category: kept"),
        (4, 4, "the same box as annotation 1: kept"),
    ]


def test_the_same_box_in_two_images_is_ordinary():
    content = boxes_on_one_image({"bbox": [1, 2, 3, 4]}, {"bbox": [1, 2, 3, 4], "image_id": 5})
    content["images"].append({"id": 5, "width": 100, "height": 80})
    assert read_coco(content).suspicious == ()


@pytest.mark.parametrize("num_boxes", [2, 3, 5, 8, 17, 1000])
def test_the_same_box_is_found_wherever_it_stands(num_boxes):
    rng = np.random.default_rng(num_boxes)
    boxes = rng.uniform(0.1, 40, (num_boxes, 4)).tolist()
    boxes[-1] = boxes[0]
    dataset = read_coco(boxes_on_one_image(*({"bbox": box} for box in boxes)))
    assert findings_in_words(dataset.suspicious) == [(num_boxes, 4, "the same box as annotation 1: kept")]


@pytest.mark.parametrize("box", [{}, {"bbox": [9, 9, 0, 0]}, {"bbox": [3, 4, 0, 5]}])
def test_points_alone_give_the_box_that_is_missing(box):
    content = boxes_on_one_image(
        {"bbox": [1, 1, 2, 2]}, {"keypoints": [3, 4, 2, 90, 90, 0, 7, 5, 1]}, {"keypoints": [9, 9, 0]}
    )
    for entry in content["annotations"][1:]:
        entry.update(box)
    dataset = read_coco(content, keypoints=True)
    # from x 3 to 7 and y 4 to 5, half a pixel more on each side; the point that is not labelled counts nowhere
    assert_array_equal(dataset.instances.boxes_xywh, [[1, 1, 2, 2], [2.5, 3.5, 5, 2]])
    assert_array_equal(dataset.instances.area, [4, 10])
    assert [finding.annotation_id for finding in dataset.invalid] == [3]
    assert dataset.suspicious == ()
    assert len(read_coco(content).instances) == 1


def test_the_box_of_points_stays_within_the_image():
    content = boxes_on_one_image({"keypoints": [0, 0, 2]}, {"keypoints": [-9, 0, 2]})
    dataset = read_coco(content, keypoints=True)
    assert_array_equal(dataset.instances.boxes_xywh, [[0, 0, 0.5, 0.5]])
    assert findings_in_words(dataset.invalid) == [(2, 4, "its keypoint (-9, 0) lies outside its 100x80 image")]
    assert dataset.warnings == ()


def test_points_outside_that_would_fit_exchanged_are_told():
    content = boxes_on_one_image(*({"keypoints": [3, 60 + number, 2]} for number in range(3)))
    content["images"][0] |= {"width": 80, "height": 20}
    dataset = read_coco(content, keypoints=True)
    assert len(dataset.invalid) == 3
    assert dataset.invalid[0].reason == "its keypoint (3, 60) lies outside its 80x20 image"
    (warning,) = dataset.warnings
    assert warning == (
        "(in memory): labels swap x and y? 3 of 3 labelled points lie outside their images, none of them if x and y are "
        "exchanged: correct the file"
    )
    assert dataset.misread == dataset.warnings


def test_points_beyond_a_border_are_not_exchanged():
    # exchanged, the two outside would lie inside, and the ten others outside
    inside = [{"keypoints": [5, 60 + number, 2]} for number in range(10)]
    content = boxes_on_one_image(*inside, {"keypoints": [23, 5, 2]}, {"keypoints": [24, 6, 2]})
    content["images"][0] |= {"width": 20, "height": 80}
    assert read_coco(content, keypoints=True).warnings == ()


def test_no_message_speaks_of_a_box_that_nobody_gave():
    points = [[30, 5, 2, 31, 6, 2], [5, 5, 2], [5, 5, 2], [5, 5, 1, 9, 9]]
    content = boxes_on_one_image(*({"keypoints": each} for each in points))
    content["images"][0] |= {"width": 20, "height": 80}
    dataset = read_coco(content, keypoints=True)
    reasons = [each.reason for each in (*dataset.invalid, *dataset.suspicious)]
    assert reasons == [
        "its 2 keypoints, the first at (30, 5), lie outside its 20x80 image",
        "keypoints has 5 numbers, not three (x, y, visibility) per keypoint",
        "the same keypoints as annotation 2: kept",
    ]
