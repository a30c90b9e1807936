"""Adapters between arrays and tensors, and checks in words; tests/test_one_kind.py holds every function to them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from torch import Tensor

from detect.ops.array_kinds import check_kinds, check_maps, check_shape, in_arrays, in_tensors, of_axes


class Pair(NamedTuple):
    first: Any
    second: Any


@dataclass(frozen=True)
class Column:
    values: Any
    name: str


@in_tensors
def of_tensors(*given: Any, **named: Any) -> Any:
    """Give back what is given, which holds tensors alone."""
    return Pair(given, named)


def test_everything_that_holds_arrays_is_looked_into():
    values = np.arange(3.0)
    column, listed = Column(values, "x"), [values, (values, None)]
    given, named = of_tensors(column, listed, refine=partial(max, values, key=values), number=2)
    assert_array_equal(given[0].values, values)
    assert given[0].name == "x"
    assert_array_equal(given[1][1][0], values)
    assert given[1][1][1] is None
    assert named["number"] == 2
    assert isinstance(named["refine"].keywords["key"], np.ndarray)

    @in_tensors
    def kinds(column, listed, refine):
        found = [column.values, listed[0], listed[1][0], refine.args[0], refine.keywords["key"]]
        return [isinstance(each, Tensor) for each in found]

    assert kinds(column, listed, partial(max, values, key=values)) == [True] * 5


@pytest.mark.parametrize(
    "values",
    [
        np.arange(6.0).reshape(2, 3)[:, ::-1],
        np.arange(6.0).reshape(2, 3).T,
        np.arange(3, dtype=">f4"),
        np.frombuffer(b"\0" * 8, np.float32),  # read-only
        np.float64(3.5) * np.ones(()),
    ],
)
def test_arrays_that_torch_does_not_take_as_they_are(values):
    double = in_tensors(lambda given: given * 2)
    assert_array_equal(double(values), np.asarray(values) * 2)


def test_arrays_share_their_memory():
    values = np.zeros(4)
    assert in_tensors(lambda given: given.data_ptr())(values) == values.ctypes.data


def test_arrays_of_no_numbers_are_refused():
    for values in (np.array(["a"]), np.array([None]), np.zeros(2, np.longdouble)):
        with pytest.raises(ValueError, match="need arrays of numbers"):
            in_tensors(lambda given: given)(values)


def test_a_computation_in_arrays_gives_tensors_for_tensors():
    half = in_arrays(lambda points, ratio: [each / ratio for each in points])
    (found,) = half([torch.tensor([3.0])], 2)
    assert found.dtype == torch.float32
    assert found.tolist() == [1.5]
    assert half([np.array([3.0])], 2)[0].tolist() == [1.5]


def test_two_kinds_name_the_arguments():
    @in_arrays
    def together(points, *, scores):
        return points, scores

    with pytest.raises(ValueError, match="scores has NumPy arrays and points has tensors: give one kind"):
        together(torch.zeros(2), scores=[np.zeros(2)])
    with pytest.raises(ValueError, match="points has NumPy arrays and points has tensors"):
        check_kinds(points=[np.zeros(2), torch.zeros(2)])
    check_kinds(points=np.zeros(2), sigma=2.0, weights=None)


@pytest.mark.usefixtures("unchecked")
def test_maps_are_floats():
    check_maps(maps=np.zeros(2, np.float16), targets=torch.zeros(2, dtype=torch.bfloat16), weights=None)
    with pytest.raises(ValueError, match="targets are floats, got int16: divide them by the value that stands for 1"):
        check_maps(maps=np.zeros(2), targets=np.zeros(2, np.int16))
    with pytest.raises(ValueError, match="heatmaps are an array or a tensor, got list"):
        check_maps(heatmaps=[[0.0, 1.0]])


def test_one_of_several_shapes():
    check_shape("points", np.zeros((3, 2)), (3, 2), (3, 3))
    with pytest.raises(ValueError, match=r"need points \(3, 2\) or \(3, 3\), got \(2, 3\)"):
        check_shape("points", torch.zeros(2, 3), (3, 2), (3, 3))


@pytest.mark.parametrize("given", [0, -1.0, float("nan"), float("inf"), (1, 2, 3), (), [[1.0, 2.0]], (1.0, 0.0)])
def test_numbers_of_axes_that_have_no_meaning(given):
    with pytest.raises(ValueError, match="need one positive stride, or one for each of 2 axes, got"):
        of_axes("stride", given, 2)


@pytest.mark.parametrize("given", [2, 2.0, (2, 2), [2.0], np.full(2, 2.0), torch.tensor([2.0, 2.0]), np.float32(2)])
def test_one_number_or_one_of_each_axis(given):
    assert of_axes("sigma", given, 2).tolist() == [2.0, 2.0]
