"""Columns of entries."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET, Raw

from detect.data.entry_columns import (
    ANNOTATIONS,
    IMAGES,
    LIST_STYLES,
    field_values,
    list_styles,
    needs_reading,
    read_numbers,
    restore_list,
    typed_columns,
)

finite = st.floats(allow_nan=False, allow_infinity=False, width=64)


def test_core_columns_are_always_there_and_others_are_texts():
    schema = ANNOTATIONS.schema(["segmentation", "keypoints", "id"])
    names = ["position", "id", "image_id", "category_id", "x", "y", "width", "height", "area", "iscrowd"]
    assert schema.names == [*names, "segmentation", "keypoints", "style", "odd", "raw"]
    assert schema.field("segmentation").type == pa.string()
    assert schema.field("keypoints").type == pa.list_(pa.float64())
    assert IMAGES.schema([]).names == ["position", "id", "width", "height", "file_name", "style", "odd", "raw"]


def test_names_that_columns_have_are_no_fields():
    assert [ANNOTATIONS.is_field(name) for name in ("area", "x", "raw", "", "a\n", 'a"', "segmentation")] == [
        *(True, False, False, False, False, False, True)
    ]
    assert IMAGES.is_field("width")


def test_values_come_back_as_they_were():
    values = {
        "bbox": [(1, 2.5, 3, 4.0), UNSET],
        "area": [UNSET, 12],
        "iscrowd": [True, 0],
        "keypoints": [[1, 2, 2], UNSET],
        "id": [2**62, UNSET],
    }
    columns, style, inexact = typed_columns(ANNOTATIONS, values, 2)
    assert not inexact.any()
    lists = {name: column.to_pylist() for name, column in columns.items()} | {"style": style.tolist()}
    assert {name: list(map(str, field_values(ANNOTATIONS, name, lists))) for name in values} == {
        name: list(map(str, own)) for name, own in values.items()
    }


def test_entries_that_commands_read_one_by_one_are_told():
    outline, nothing = Raw(b"[[1,2]]"), UNSET
    values = {
        "image_id": [1, 1, UNSET, 1, 1],
        "category_id": [1, 1, 1, 1, 1],
        "bbox": [nothing, nothing, (1, 2, 3, 4), (1, 2, 3, 4), (1, 2, 3, 4)],
        "segmentation": [outline, nothing, outline, outline, outline],
        "attributes": [nothing, nothing, nothing, Raw(b'{"rotation":0}'), Raw(b'{"occluded":false}')],
    }
    assert needs_reading(ANNOTATIONS, values, 5).tolist() == [True, False, True, True, False]
    assert needs_reading(ANNOTATIONS, {"keypoints": [[1, 2]], "image_id": [1], "category_id": [1]}, 1).tolist() == [
        True
    ]


def test_whole_numbers_and_points_are_told_apart():
    numbers, is_whole, exact = read_numbers([10, 10.0, -3, 2**53 - 1, 2**53, -(2**53), 1e300])
    np.testing.assert_allclose(numbers, [10, 10, -3, 2**53 - 1, 2**53, -(2**53), 1e300], rtol=0)
    assert is_whole.tolist() == [True, False, True, True, True, True, False]
    assert exact.tolist() == [True, True, True, True, False, False, True]


def test_no_numbers():
    assert [len(each) for each in read_numbers([])] == [0, 0, 0]
    assert [len(each) for each in list_styles([])] == [0, 0]


@given(st.lists(st.one_of(finite, st.integers(-(2**54), 2**54)), max_size=9))
def test_a_list_with_a_style_is_restored(numbers):
    bits, found = list_styles([numbers, [], numbers])
    assert found[1]
    assert found[0] == found[2]
    if found[0]:
        assert json.dumps(restore_list(list(map(float, numbers)), int(bits[0]))) == json.dumps(numbers)


def test_each_style_is_found():
    written = {
        "whole": [1, 2, 2],
        "point": [1.0, 2.0, 0.0],
        "whole visibility": [1.0, 2.5, 2],
        "whole where possible": [1, 2.5, 2, 3, 4, 0],
    }
    bits, found = list_styles(list(written.values()))
    assert found.all()
    restored = [restore_list(list(map(float, own)), int(bit)) for own, bit in zip(written.values(), bits, strict=True)]
    assert list(map(str, restored)) == list(map(str, written.values()))
    assert set(written) == set(LIST_STYLES)
