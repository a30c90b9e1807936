"""Single fields of an entry: every wrong value has a reason in a user's words, and none is lost without need."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detect.data.coco_entries import NO_ID, UNKNOWN_PX, Box
from detect.data.coco_fields import LABELS_FROM, Fields, UnusableError, label_id

WORDS_OF_A_DECODER = ("Expected", "expected", "got ", "Struct", "missing required", "NoneType", "float", "int ", "dict")
VALUES = (None, True, "", "abc", "1", 1.5, -3, 0, 10**400, math.nan, math.inf, [], [1], ["a"], {}, {"a": 1})
OTHERS = {"image_id": 1, "category_id": 1, "id": 7, "bbox": [1, 2, 3, 4], "width": 5, "height": 6}


def read(kind: str, **fields: Any) -> tuple[Any, list[str]]:
    """One entry with these fields, and what is odd about it."""
    entry = Fields({**OTHERS, **fields})
    found = entry.annotation(keypoints=True)[0] if kind == "annotation" else getattr(entry, kind)()
    return found, entry.odd


def reason(kind: str, **fields: Any) -> str:
    with pytest.raises(UnusableError) as caught:
        read(kind, **fields)
    return str(caught.value)


@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:9])
@pytest.mark.parametrize(
    ("kind", "field"),
    [
        ("annotation", field)
        for field in ("id", "image_id", "category_id", "bbox", "iscrowd", "area", "keypoints", "attributes")
    ]
    + [("image", field) for field in ("id", "width", "height", "file_name")]
    + [("category", field) for field in ("id", "name")],
)
def test_any_value_of_any_field_is_read_or_refused_by_the_name_of_the_field(kind, field, value):
    try:
        _, said = read(kind, **{field: value})
    except UnusableError as error:
        said = [str(error)]
        assert field in said[0] or "size" in said[0]
    for text in said:
        assert not any(word in text for word in WORDS_OF_A_DECODER)
        assert len(text) < 200
        assert "\n" not in text


@pytest.mark.parametrize("name", ["image_id", "category_id"])
@pytest.mark.parametrize(
    ("value", "what"),
    [
        (None, "null"),
        (False, "false"),
        ("", "the text ''"),
        ([1], "a list"),
        ({}, "an object"),
        (math.nan, "nan"),
        (-math.inf, "-inf"),
    ],
)
def test_what_is_no_id(name, value, what):
    assert reason("annotation", **{name: value}) == f"{name} is {what}, not an id"


@pytest.mark.parametrize(
    ("value", "number", "odd"),
    [
        (3, 3, []),
        (3.0, 3, []),
        (np.int32(3), 3, []),
        ("3", 3, ["image_id is the text '3': read as the number 3"]),
        (" -3 ", -3, ["image_id is the text ' -3 ': read as the number -3"]),
        ("3.0", 3, ["image_id is the text '3.0': read as the number 3"]),
    ],
)
def test_a_text_of_a_whole_number_is_its_number(value, number, odd):
    found, said = read("annotation", image_id=value)
    assert found.image_id == number
    assert said == odd


@pytest.mark.parametrize("value", ["a1", "007", "3.5", "9b1deb4d-3b7d-4bad-9bdd-2b0d7b3dcb6d", "é", 1.5, 2**62 + 1])
def test_any_other_id_is_a_label_with_a_number_of_its_own(value):
    found, (said,) = read("annotation", image_id=value)
    assert LABELS_FROM <= found.image_id < 2 * LABELS_FROM
    assert said.startswith(f"image_id is {f'the text {value!r}' if isinstance(value, str) else value}: read as the id ")
    assert read("image", id=value)[0].id == found.image_id


@given(st.lists(st.text(), unique=True, max_size=20))
def test_labels_have_different_numbers_that_floats_hold(labels):
    numbers = {label_id(label) for label in labels}
    assert len(numbers) == len(labels)
    assert all(int(float(number)) == number for number in numbers)


def test_an_annotation_needs_no_id():
    for value in (None, True, [], {}, ""):
        assert read("annotation", id=value)[0].id == NO_ID


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("1 2 3 4", "bbox is the text '1 2 3 4', not a list of 4 numbers (x, y, width, height)"),
        ({"x": 1}, "bbox is an object, not a list of 4 numbers (x, y, width, height)"),
        (7, "bbox is 7, not a list of 4 numbers (x, y, width, height)"),
        ([1, 2, 3], "bbox has 3 numbers, not 4 (x, y, width, height)"),
        ([1, 2, 3, 4, 0.5], "bbox has 5 numbers, not 4 (x, y, width, height): a rotated box is not read"),
        ([1, 2, 3, None], "bbox[3] is null, not a number"),
        ([1, 2, [3], 4], "bbox[2] is a list, not a number"),
        ([1, "two", 3, 4], "bbox[1] is the text 'two', not a number"),
        ([True, 2, 3, 4], "bbox[0] is true, not a number"),
    ],
)
def test_a_box_that_cannot_be_read_is_refused(value, why):
    assert reason("annotation", bbox=value) == why


def test_numbers_of_a_box_may_be_texts():
    found, said = read("annotation", bbox=["1", "2.5", 3, " 4 "])
    assert found.bbox == Box(1, 2.5, 3, 4)
    assert said == ["bbox holds texts: read as numbers"]


@pytest.mark.parametrize("box", [None, [], [1, 2, 3, 4, 30], "none", [1, 2, None, 4]])
def test_a_box_that_cannot_be_read_is_that_of_the_segmentation(box):
    entry = Fields({**OTHERS, "bbox": box, "segmentation": [[10, 20, 30, 20, 30, 25]]})
    annotation, outline = entry.annotation(keypoints=False)
    assert annotation.bbox is None
    assert outline == Box(10, 20, 20, 5)
    (said,) = entry.odd
    assert said.endswith(": taken from its segmentation")


@pytest.mark.parametrize(
    ("value", "crowd", "odd"),
    [
        (0, False, []),
        (1, True, []),
        (True, True, []),
        (0.0, False, []),
        (None, False, ["iscrowd is null: read as 0"]),
        ("1", True, ["iscrowd is the text '1': read as 1"]),
    ],
)
def test_iscrowd(value, crowd, odd):
    found, said = read("annotation", iscrowd=value)
    assert (found.iscrowd, said) == (crowd, odd)


@pytest.mark.parametrize(("value", "what"), [("no", "the text 'no'"), (0.5, "0.5"), ([], "a list"), ({}, "an object")])
def test_what_is_no_iscrowd(value, what):
    assert reason("annotation", iscrowd=value) == f"iscrowd is {what}, not 0 or 1"


@pytest.mark.parametrize(
    ("value", "what"),
    [(math.nan, "nan"), (math.inf, "inf"), ("big", "the text 'big'"), ([], "a list"), (True, "true")],
)
def test_an_area_that_says_nothing_is_left_to_the_box(value, what):
    found, said = read("annotation", area=value)
    assert (found.area, said) == (None, [f"area is {what}: taken as width * height"])


def test_the_rotation_of_a_box_is_told():
    assert read("annotation", attributes={"rotation": 0.0})[1] == []
    assert read("annotation", attributes={"rotation": 30.5})[1] == [
        "it is rotated by 30.5 degrees: its box is taken without the rotation"
    ]


@pytest.mark.parametrize(
    ("value", "pixels", "odd"),
    [
        (640.0, 640, []),
        (None, UNKNOWN_PX, []),
        ("640", 640, ["width is the text '640': read as the number 640"]),
        ("wide", UNKNOWN_PX, ["width is the text 'wide', not a whole number of pixels: taken as unknown"]),
        (80.5, UNKNOWN_PX, ["width is 80.5, not a whole number of pixels: taken as unknown"]),
        ([640], UNKNOWN_PX, ["width is a list, not a whole number of pixels: taken as unknown"]),
    ],
)
def test_a_size_that_cannot_be_read_is_unknown(value, pixels, odd):
    found, said = read("image", width=value)
    assert (found.width, said) == (pixels, odd)


def test_names_that_are_no_texts():
    assert read("image", file_name=3) == (read("image")[0], ["file_name is 3, not a text: left out"])
    found, said = read("category", name=3)
    assert (found.name, said) == ("3", ["name is 3: read as a text"])
    assert read("category", name=["cell"])[1] == ["name is a list, not a text: left out"]
