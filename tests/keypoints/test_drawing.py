"""Windows drawn into maps: every way of drawing gives the same, and none takes more memory than it may."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from torch.testing import assert_close

from detect.keypoints import drawing
from detect.keypoints.drawing import (
    Patches,
    PlacedPoints,
    along_axes,
    blend_patches,
    blend_scattered,
    draw_points,
    map_size,
)
from detect.keypoints.keypoints import Keypoints

MAPS_SHAPE = (3, 24, 31)


def scattered(count=200, seed=0, shape=MAPS_SHAPE):
    random = np.random.default_rng(seed)
    cells = random.uniform(-0.5, np.array(shape[1:]) - 0.5, (count, len(shape) - 1))
    return random.integers(0, shape[0], count), cells, random.uniform(0.1, 6, cells.shape)


def drawn(*args, maps_shape=MAPS_SHAPE, tensor=False, **options):
    maps = np.zeros(maps_shape, np.float32)
    draw_points(torch.from_numpy(maps) if tensor else maps, *args, **options)
    return maps


def scatter(maps, patches, blend):
    """What other devices do, on the CPU."""
    blend_scattered(maps, patches, blend=blend)


def drawn_plainly(of_map, cells, sigma, window, blend, shape=MAPS_SHAPE):
    """The definition, cell by cell."""
    maps = np.zeros(shape)
    grid = np.stack(np.indices(shape[1:]), axis=-1)
    for each, center, scale in zip(of_map, cells, sigma, strict=True):
        apart = np.abs(grid - center)
        gaussian = np.exp(-((apart / scale) ** 2).sum(axis=-1) / 2) * (apart <= np.maximum(window * scale, 0.5)).all(
            axis=-1
        )
        maps[each] = np.maximum(maps[each], gaussian) if blend == "max" else maps[each] + gaussian
    return maps


def test_a_window_by_hand():
    # an outer product of rows (1, .5) and columns (1, .25, 0), its first cell in row 1, column 2
    maps = np.zeros((1, 3, 5), np.float32)
    factors = np.array([[1.0, 0.5]], np.float32), np.array([[1.0, 0.25, 0.0]], np.float32)
    blend_patches(maps, Patches(np.array([0]), np.array([[1, 2]]), factors))
    assert_array_equal(maps[0], [[0, 0, 0, 0, 0], [0, 0, 1, 0.25, 0], [0, 0, 0.5, 0.125, 0]])


@pytest.mark.parametrize("blend", ["max", "sum"])
@pytest.mark.parametrize("shape", [MAPS_SHAPE, (2, 7, 12, 9)])
def test_every_gaussian_is_what_the_definition_says(blend, shape):
    points = scattered(60, shape=shape)
    ours = drawn(*points, maps_shape=shape, blend=blend, window=2.0)
    assert_allclose(ours, drawn_plainly(*points, 2.0, blend, shape), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", ["gaussian", "disc", "pixel"])
@pytest.mark.parametrize("maps_shape", [MAPS_SHAPE, (2, 7, 12, 9)])
def test_slices_flat_indices_and_scattering_draw_the_same_maxima_to_the_last_bit(shape, maps_shape, monkeypatch):
    points = scattered(shape=maps_shape)
    ours = drawn(*points, maps_shape=maps_shape, shape=shape)
    for large in (0, 10**9):
        monkeypatch.setattr(drawing, "LARGE_WINDOW", large)
        assert_array_equal(drawn(*points, maps_shape=maps_shape, shape=shape), ours)
    on_device = torch.zeros(maps_shape)
    monkeypatch.setattr(drawing, "blend_patches", scatter)
    draw_points(on_device, *points, shape=shape)
    assert_close(on_device, torch.from_numpy(ours), rtol=0, atol=0)


@pytest.mark.parametrize("blend", ["max", "sum"])
def test_a_tensor_is_drawn_into_where_it_lies(blend):
    points = scattered()
    assert_array_equal(drawn(*points, tensor=True, blend=blend), drawn(*points, blend=blend))


def test_scattering_sums_as_the_others_do(monkeypatch):
    points = scattered(30)
    ours, on_device = drawn(*points, blend="sum"), torch.zeros(MAPS_SHAPE)
    monkeypatch.setattr(drawing, "blend_patches", scatter)
    draw_points(on_device, *points, blend="sum")
    assert_close(on_device, torch.from_numpy(ours), rtol=1e-5, atol=1e-6)


def test_a_disc_is_the_cells_within_its_radius_and_the_nearest_at_least():
    of_map, cells, sigma = scattered(40)
    ours = np.stack([drawn(of_map[[i]], cells[[i]], sigma[[i]], shape="disc") for i in range(40)])
    grid = np.stack(np.indices(MAPS_SHAPE[1:]), axis=-1)
    for i in range(40):
        inside = (((grid - cells[i]) / sigma[i]) ** 2).sum(axis=-1) <= 1
        row, column = np.floor(cells[i] + 0.5).astype(int)
        assert ours[i, of_map[i], row, column] == 1
        if inside[row, column]:
            assert_array_equal(ours[i, of_map[i]], inside)


def test_memory_stays_below_the_budget():
    of_map, cells, _ = scattered(4000, shape=(1, 400, 400))
    sigma = np.full_like(cells, 5.0)  # windows of 31 x 31 cells: 4,000 of them are 15 MB of values, 31 MB of indices
    maps = np.zeros((1, 400, 400), np.float32)
    for budget_bytes in (2**18, 2**20):
        tracemalloc.start()
        draw_points(maps, of_map, cells, sigma, budget_bytes=budget_bytes)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        of_points = 4000 * 200  # a few columns of numbers
        assert peak < budget_bytes + of_points


def test_the_budget_changes_nothing():
    points = scattered()
    assert_array_equal(drawn(*points, budget_bytes=1), drawn(*points))


def test_windows_larger_than_the_map_are_cut_to_it():
    maps = drawn(np.array([1]), np.array([[3.0, 4.0]]), np.array([[1e3, 1e9]]))
    assert_allclose(maps[1], np.exp(-((np.arange(24)[:, None] - 3) ** 2) / 2e6) * np.ones(31), rtol=1e-6)


def test_no_points():
    nothing = np.zeros(0, np.int64), np.zeros((0, 2)), np.zeros((0, 2))
    assert_array_equal(drawn(*nothing), np.zeros(MAPS_SHAPE))
    assert_array_equal(drawn(*nothing, tensor=True, shape="disc"), np.zeros(MAPS_SHAPE))


def test_maps_cover_their_image():
    assert map_size((480, 640), 4) == (160, 120)
    assert map_size((481, 637), 4) == (160, 121)  # 120.25 rows are 121
    assert map_size((5, 7), 16) == (1, 1)
    assert map_size((10, 20, 30), (3, 2, 1)) == (10, 10, 10)


def test_cells_reach_half_a_cell_to_each_side():
    x = np.array([-0.5, -0.500001, 0.5, 0.499999, 7.499999, 7.5, math.nan])
    points = np.stack([x, np.zeros(7)], axis=1)
    placed = PlacedPoints.of([points], (1, 8), 1)
    assert_array_equal(placed.inside(), [1, 0, 1, 1, 1, 0, 0])
    assert_array_equal(placed.nearest(np.flatnonzero(placed.inside()))[:, 0], [0, 1, 0, 7])


def test_the_last_cell_before_the_edge_of_a_map_of_one_cell():
    # .49999999999999994 + .5 is 1 in floating point, and there is no cell 1
    row = np.zeros(1, np.int64)
    placed = PlacedPoints(np.array([[math.nextafter(0.5, 0), 0.0]]), row, row, row, 1, 1, (1, 1))
    assert_array_equal(placed.inside(), [1])
    assert_array_equal(placed.nearest(np.array([0])), [[0, 0]])


def test_one_number_for_each_point_and_axis():
    assert_array_equal(along_axes(2.0, (2, 2), "sigma"), [[2, 2], [2, 2]])
    assert_array_equal(along_axes((1.0, 3.0), (2, 2), "sigma"), [[1, 3], [1, 3]])
    assert_array_equal(along_axes(np.array([1.0, 3.0]), (2, 2), "sigma"), [[1, 1], [3, 3]])
    assert_array_equal(along_axes(torch.tensor([[1.0, 3.0]]), (1, 2), "sigma"), [[1, 3]])
    assert along_axes(np.zeros((0, 2)), (0, 2), "sigma").shape == (0, 2)


def test_errors_name_what_was_given():
    with pytest.raises(
        ValueError,
        match=r"a sigma for all, a tuple for the axes, or an array \(3, 2\) or \(3,\) or \(3, 1\), got \(2,\)",
    ):
        along_axes(np.ones(2), (3, 2), "sigma")
    with pytest.raises(ValueError, match=r"one positive sigma, or one for each of 2 axes, got \(1.0, -1.0\)"):
        along_axes((1.0, -1.0), (3, 2), "sigma")
    with pytest.raises(ValueError, match=r"got \(8, 8\) and \(1, 3\)"):
        PlacedPoints.of(Keypoints.of([np.zeros((1, 3))], dims=3), (8, 8), 1)
    columns = np.zeros((1, 2)), np.array([2]), np.array([0]), np.array([2])
    with pytest.raises(ValueError, match="image 2 among the points, but there are 2"):
        PlacedPoints.of(Keypoints(*columns, num_images=2), (8, 8), 1)
    with pytest.raises(ValueError, match="keypoint type 2 among the points, but there are 1"):
        PlacedPoints.of(Keypoints(columns[0], columns[2], columns[1], columns[3], num_images=1), (8, 8), 1)
