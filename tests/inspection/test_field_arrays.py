"""Fields of tensors: views, windows, hulls and smallest fields, by hand and against moving whole tensors."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from detect.inspection.field_arrays import (
    EMPTY,
    Fields,
    adaptive_table,
    merged,
    transposed_table,
    weight_table,
    window_table,
)


def image(height: int = 6, width: int = 4) -> Fields:
    return Fields.of_image((1, 3, height, width))


def test_every_pixel_sees_itself():
    fields = image()
    top, bottom, left, right = fields.planes[:4]
    assert top.flatten().tolist() == (-bottom).flatten().tolist() == [0, 1, 2, 3, 4, 5]
    assert left.flatten().tolist() == (-right).flatten().tolist() == [0, 1, 2, 3]
    assert not fields.sees_all


@given(st.sampled_from([(3, 24), (1, 72), (3, 2, 3, 4), (3, 6, 2, 2), (72,), (1, 3, 1, 6, 4), (18, 4), (3, 6, 4, 1)]))
def test_a_view_moves_fields_as_it_moves_elements(shape):
    fields = image().viewed(shape)
    for plane, start in zip(fields.planes, image().planes, strict=True):
        assert_close(plane.expand(shape), start.expand(1, 3, 6, 4).reshape(shape))


def test_axes_along_which_a_field_is_equal_stay_of_size_one():
    assert image().viewed((1, 3, 3, 2, 4)).planes[0].shape == (1, 1, 3, 2, 1)


def test_a_permutation_and_a_slice_keep_the_fields_of_their_elements():
    moved = image().expanded(range(4)).moved((1, 2, 4, 3), lambda plane: plane.permute(0, 2, 3, 1)[:, ::3])
    assert moved.planes[0].flatten().tolist() == [0, 3]
    assert moved.planes[2].flatten().tolist() == [0, 1, 2, 3]


def test_windows_are_hulls_and_ignore_what_lies_outside():
    fields = image().windows(2, window_table(6, 3, kernel=3, stride=2, padding=1))
    assert fields.planes[0].flatten().tolist() == [0, 1, 3]
    assert (-fields.planes[1]).flatten().tolist() == [1, 3, 5]


def test_a_reduction_over_the_image_is_global_and_the_local_reading_empty():
    fields = image().reduced([2, 3], whole=True)
    assert fields.sees_all
    assert [int(plane) for plane in fields.planes[4:]] == [EMPTY] * 8


def test_a_strip_is_global_along_one_axis_and_local_nowhere():
    fields = image().reduced([3], whole=True)
    assert not fields.sees_all
    assert all(bool((plane == EMPTY).all()) for plane in fields.planes[4:])


def test_where_paths_meet_the_field_is_their_hull_and_the_shortest_the_smallest():
    wide = image().windows(2, window_table(6, 6, kernel=3, stride=1, padding=1))
    both = merged([wide, image()], (1, 3, 6, 4))
    assert (both.planes[0][0, 0, 3, 0], -both.planes[1][0, 0, 3, 0]) == (2, 4)
    assert (both.planes[8].flatten()[3], -both.planes[9].flatten()[3]) == (3, 3)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation"), [(3, 2, 1, 1), (2, 2, 0, 1), (3, 1, 2, 2), (5, 3, 1, 1)]
)
def test_tables_hold_what_convolutions_read(kernel, stride, padding, dilation):
    n = 11
    for layer, table in (
        (nn.Conv1d(1, 1, kernel, stride, padding, dilation, bias=False), window_table),
        (nn.ConvTranspose1d(1, 1, kernel, stride, padding, dilation=dilation, bias=False), transposed_table),
    ):
        nn.init.constant_(layer.weight, 1.0)
        weights = layer(torch.eye(n)[:, None])[:, 0].detach()
        own = table(n, weights.shape[1], kernel=kernel, stride=stride, padding=padding, dilation=dilation)
        for output, row in enumerate(own.tolist()):
            assert sorted(each for each in row if each < n) == weights[:, output].nonzero().flatten().tolist()


@pytest.mark.parametrize(("n", "outputs"), [(7, 3), (5, 5), (4, 1), (3, 5)])
def test_adaptive_pooling_reads_the_windows_of_its_table(n, outputs):
    weights = nn.functional.adaptive_avg_pool1d(torch.eye(n)[:, None], outputs)[:, 0]
    for own, other in zip(adaptive_table(n, outputs).tolist(), weight_table(weights).tolist(), strict=True):
        assert [each for each in own if each < n] == [each for each in other if each < n]
