"""Local maxima of maps: cells and plateaus of any shape, and pairs of maxima near each other."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from torch.testing import assert_close

from detect.keypoints import local_maxima
from detect.keypoints.local_maxima import close_pairs, find_local_maxima, with_spacing


def one(rows) -> torch.Tensor:
    """A batch of one map."""
    return torch.as_tensor(rows, dtype=torch.float32)[None]


def cells_of(maps: torch.Tensor) -> list[list[float]]:
    return find_local_maxima(maps, 0.1).middle.tolist()


def middles_by_components(volume: np.ndarray, threshold: float) -> set[tuple[float, ...]]:
    """Connected components of every value, kept where no cell around is higher: by SciPy, from the definition."""
    around = np.ones((3,) * volume.ndim)
    middles = set()
    for value in np.unique(volume[volume > threshold]):
        labels, count = ndimage.label(volume == value, structure=around)
        for label in range(1, count + 1):
            member = labels == label
            if volume[ndimage.binary_dilation(member, structure=around)].max() == value:
                middles.add(tuple(np.round(np.argwhere(member).mean(axis=0)[::-1], 4).tolist()))
    return middles


def test_two_equal_cells_are_one_peak_between_them():
    assert cells_of(one([[0.1, 0.7, 0.7, 0.1]])) == [[1.5, 0.0]]


def test_a_plateau_with_a_way_up_is_no_peak():
    # the row of .5 touches .6 at one end only
    assert cells_of(one([[0.5, 0.5, 0.5, 0.5, 0.5], [0.0, 0.0, 0.0, 0.0, 0.6]])) == [[4.0, 1.0]]


def test_a_winding_plateau_is_one_peak():
    lines = ["#####", "....#", "#####", "#....", "#####"]
    winding = one([[float(sign == "#") for sign in line] for line in lines])
    assert cells_of(winding) == [[2.0, 2.0]]  # turned by half it is the same
    assert len(cells_of(winding.repeat(1, 1, 30))) == 1


@given(
    st.integers(0, 2**32 - 1), st.sampled_from([(1, 1), (1, 7), (6, 5), (9, 33), (12, 64), (5, 71)]), st.integers(2, 6)
)
def test_plateaus_are_the_components_without_a_higher_cell_around(seed, hw, levels):
    values = np.random.default_rng(seed).integers(0, levels, (4, *hw)) / levels
    maxima = find_local_maxima(torch.tensor(values), 0.3)
    for number in range(4):
        middles = maxima.middle[maxima.map == number].numpy()
        found = {tuple(np.round(cell, 4).tolist()) for cell in middles}
        assert found == middles_by_components(values[number], 0.3)
        assert len(found) == len(middles)


@given(st.integers(0, 2**32 - 1), st.sampled_from([(2, 3, 4), (4, 5, 36), (1, 6, 6)]))
def test_plateaus_of_volumes_too(seed, extents):
    values = np.random.default_rng(seed).integers(0, 9, extents) / 9
    found = find_local_maxima(torch.tensor(values)[None], 0.5).middle
    assert {tuple(np.round(cell, 4).tolist()) for cell in found.numpy()} == middles_by_components(values, 0.5)


def test_a_cell_that_is_not_a_number_hides_nothing_in_its_row():
    row = torch.zeros(1, 1, 64)
    row[0, 0, [5, 40]] = 1.0
    row[0, 0, [20, 60]] = torch.nan
    assert cells_of(row) == [[5.0, 0.0], [40.0, 0.0]]


def test_pairs_of_neighbouring_maps_do_not_meet():
    # the last row of a map is next to the first of the next one in memory
    maps = torch.zeros(3, 4, 5)
    maps[0, 3, 4] = maps[1, 0, 0] = maps[1, 0, 4] = maps[1, 2, 0] = 1.0
    maxima = find_local_maxima(maps, 0.5)
    assert sorted(close_pairs(maxima, 10.0).T.tolist()) == [[1, 2], [1, 3], [2, 3]]
    assert sorted(close_pairs(maxima, 4.4).T.tolist()) == [[1, 2], [1, 3]]
    far, near = (with_spacing(maxima, maxima, farthest=reach, share=0.2).spacing for reach in (10.0, 3.0))
    assert far.tolist() == [math.inf, 2.0, 4.0, 2.0]
    assert near.tolist() == [math.inf, 2.0, math.inf, 2.0]


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.2, 0.7, 1.0]))
def test_spacing_is_to_the_nearest_that_is_high_enough(seed, share):
    values = np.random.default_rng(seed).random((2, 20, 31))
    every = find_local_maxima(torch.from_numpy(values), 0.1)
    maxima = every.rows(every.scores > 0.5)
    found = with_spacing(maxima, every, farthest=9.0, share=share).spacing
    for row, (number, at, score) in enumerate(zip(maxima.map, maxima.at, maxima.scores, strict=True)):
        others = every.rows((every.map == number) & (every.scores >= share * score))
        distances = (others.at - at).double().norm(dim=1)
        nearest = min(distances[distances > 0].tolist(), default=math.inf)
        assert found[row] == pytest.approx(nearest if nearest < 9 else math.inf)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_meets_the_threshold_as_single_precision_does(dtype):
    maps = one([[0.0, 0.3, 0.0, 0.5]]).to(dtype)  # .3 is 0.30005 or 0.30078 in half precision
    assert (maps.float() > 0.3).sum() == 2
    assert cells_of(maps) == cells_of(maps.float())
    assert len(find_local_maxima(maps, 0.3).at) == 2


@given(st.integers(0, 2**32 - 1), st.sampled_from([(5, 71), (40, 3), (3, 4, 5)]), st.sampled_from([1, 7, 60, 10**6]))
def test_maps_in_parts_give_the_same_maxima(seed, extents, num_cells):
    maps = torch.from_numpy(np.random.default_rng(seed).integers(0, 4, (3, *extents)) / 4)
    with pytest.MonkeyPatch.context() as patch:
        wanted = find_local_maxima(maps, 0.1)
        patch.setattr(local_maxima, "CELLS_AT_ONCE", {"cpu": num_cells})
        found = find_local_maxima(maps, 0.1)
    for mine, theirs in zip(vars(found).values(), vars(wanted).values(), strict=True):
        assert_close(mine, theirs, rtol=0, atol=0)


def test_saturated_areas_of_any_size_are_one_maximum_each():
    maps = torch.zeros(2, 300, 500)
    maps[0, 10:200, 20:480] = 1.0
    maps[0, 250:252, :] = 0.5
    maps[1] = 0.7
    maps[1, 150, 250] = 0.9  # a way up from everywhere else
    assert cells_of(maps) == [[249.5, 104.5], [249.5, 250.5], [250.0, 150.0]]
