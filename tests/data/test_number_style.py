"""Numbers keep the way in which they are written."""

from __future__ import annotations

import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from detect.data.number_style import LIST_STYLES, list_styles, read_numbers, restore_list

finite = st.floats(allow_nan=False, allow_infinity=False, width=64)


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
