"""Target maps: by hand, at borders, their properties, a KD-tree, and free of the faults known elsewhere."""

from __future__ import annotations

import math
import re
from dataclasses import fields

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.spatial import KDTree

from detect.keypoints.coordinates import cells_to_image
from detect.keypoints.drawing import PlacedPoints
from detect.keypoints.keypoints import Keypoints
from detect.keypoints.targets import pixel_weights, render_heatmaps, set_own_cells, sigma_from_size

HW = (20, 24)


def some_points(count=40, seed=0, around=3.0, hw=HW):
    """Points in the map, and some outside."""
    random = np.random.default_rng(seed)
    return random.uniform(-around, np.array(hw[::-1]) - 1 + around, (count, len(hw)))


def same(ours, other, names=None):
    for field in fields(ours):
        if names is None or field.name in names:
            one, two = getattr(ours, field.name), getattr(other, field.name)
            assert (one is None) == (two is None)
            if one is not None:
                assert_array_equal(np.asarray(one), np.asarray(two), err_msg=field.name)


def test_gaussians_by_hand():
    # sigma 1, stride 1: at the point 1, a cell beside it e^-.5, across the corner e^-1; half-way between two points e^-.125
    maps = render_heatmaps([np.array([[2.0, 2.0], [2.5, 4.0]])], (5, 6), stride=1, sigma=1.0).heatmaps[0, 0]
    assert_allclose(maps[2, :4], np.exp([-2, -0.5, 0, -0.5]), rtol=1e-6)
    assert_allclose(maps[1, 1], math.exp(-1), rtol=1e-6)
    assert_allclose(maps[4, 2:4], np.exp([-0.125, -0.125]), rtol=1e-6)
    # row 3 is one cell from both: of the two the larger
    assert_allclose(maps[3, 2:4], np.exp([-0.5, -0.625]), rtol=1e-6)


def test_a_point_of_an_image_is_half_a_cell_exact_through_the_stride():
    # pixel 13, 6 at stride 4: (13.5 / 4 - .5, 6.5 / 4 - .5) = (2.875, 1.125), cell (3, 1) less (.125, -.125)
    targets = render_heatmaps([np.array([[13.0, 6.0]])], (30, 33))
    assert targets.heatmaps.shape == (1, 1, 8, 9)
    assert_array_equal(targets.positives, [[0, 0, 1, 3]])
    assert_array_equal(targets.offsets, [[-0.125, 0.125]])
    assert_allclose(targets.heatmaps[0, 0, 1, 3], math.exp(-(2 * 0.125**2) / 8), rtol=1e-6)
    same(render_heatmaps([np.array([[13.5, 6.5]])], (30, 33), pixel_origin="corner"), targets)


def test_shapes_by_hand():
    point = [np.array([[2.2, 1.0]])]
    pixel_origin = render_heatmaps(point, (3, 6), stride=1, shape="pixel").heatmaps[0, 0]
    assert_array_equal(np.argwhere(pixel_origin), [[1, 2]])
    disc = render_heatmaps(point, (3, 6), stride=1, shape="disc", sigma=1.2).heatmaps[0, 0]
    # from 2.2: columns 1 and 3 are 1.2 and .8 away; rows beside are 1 away, and with .2 across 1.02
    assert_array_equal(disc, [[0, 0, 1, 0, 0, 0], [0, 1, 1, 1, 0, 0], [0, 0, 1, 0, 0, 0]])
    on_cell = render_heatmaps(point, (3, 6), stride=1, sigma=1.0, center="cell").heatmaps[0, 0]
    assert_allclose(on_cell[1, :4], np.exp([-2, -0.5, 0, -0.5]), rtol=1e-6)


def test_overlaps_add_up_where_asked_for():
    points = [np.array([[1.0, 1.0], [1.0, 1.0], [4.0, 1.0]])]
    assert_array_equal(
        render_heatmaps(points, (3, 6), stride=1, shape="pixel", blend="sum").heatmaps[0, 0, 1], [0, 2, 0, 0, 1, 0]
    )
    options = {"stride": 1, "sigma": 1.5, "window": 9.0}
    alone = [render_heatmaps([points[0][[i]]], HW, **options).heatmaps for i in range(3)]
    assert_allclose(render_heatmaps(points, HW, blend="sum", **options).heatmaps, sum(alone), rtol=1e-6, atol=1e-7)


def test_sigmas_by_axis_and_by_point():
    options = {"stride": 1, "window": 9.0}
    point = [np.array([[8.0, 8.0]])]
    maps = render_heatmaps(point, HW, sigma=(1.0, 2.0), **options).heatmaps[0, 0]
    assert_allclose([maps[8, 9], maps[9, 8]], np.exp([-1 / 2, -1 / 8]), rtol=1e-6)
    both = [np.array([[4.0, 8.0], [18.0, 8.0]])]
    by_point = render_heatmaps(both, HW, sigma=np.array([1.0, 3.0]), **options).heatmaps[0, 0]
    assert_allclose([by_point[9, 4], by_point[9, 18]], np.exp([-1 / 2, -1 / 18]), rtol=1e-6)
    by_both = render_heatmaps(both, HW, sigma=np.array([[1.0, 2.0], [3.0, 1.0]]), **options).heatmaps[0, 0]
    assert_allclose([by_both[9, 4], by_both[8, 19], by_both[9, 18]], np.exp([-1 / 8, -1 / 18, -1 / 2]), rtol=1e-6)


def test_a_volume():
    # (x, y, z) = (3, 2, 1) at stride (1, 1, .5): z is at (1.5 / .5) - .5 = 2.5, between layers 2 and 3
    targets = render_heatmaps([np.array([[3.0, 2.0, 1.0]])], (2, 4, 5), stride=(1, 1, 0.5), sigma=(1.0, 1.0, 0.5))
    assert targets.heatmaps.shape == (1, 1, 4, 4, 5)
    assert_array_equal(targets.positives, [[0, 0, 3, 2, 3]])
    assert_array_equal(targets.offsets, [[0, 0, -0.5]])
    assert_allclose(targets.heatmaps[0, 0, 2:, 2, 3], np.exp([-0.5, -0.5]), rtol=1e-6)
    assert_allclose(targets.heatmaps[0, 0, 3, 1, 3], np.exp(-1), rtol=1e-6)


@pytest.mark.parametrize("window", [2.0, 3.0, 4.0])
@pytest.mark.parametrize("hw", [HW, (9, 10, 11)])
def test_equal_gaussians_are_those_of_the_nearest_point_of_a_tree_but_for_the_window(window, hw):
    points, sigma = some_points(12, around=-0.5, hw=hw), 1.3
    maps = render_heatmaps([points], hw, stride=1, sigma=sigma, window=window).heatmaps[0, 0]
    cells = np.stack(np.indices(hw)[::-1], axis=-1).reshape(-1, len(hw))
    distance, nearest = KDTree(points).query(cells)
    expected = np.exp(-(distance**2) / (2 * sigma**2))
    within = (np.abs(cells - points[nearest]) <= window * sigma).all(axis=1)
    assert_allclose(maps.reshape(-1)[within], expected[within], rtol=1e-5, atol=0)
    error = expected - maps.reshape(-1)
    assert error.min() > -1e-6
    assert error.max() <= math.exp(-(window**2) / 2) + 1e-6  # .135, .0111, .0003


@given(st.integers(0, 10**6), st.sampled_from(["gaussian", "disc", "pixel"]), st.sampled_from(["exact", "cell"]))
def test_order_of_points_does_not_matter(seed, shape, center):
    points, random = some_points(seed=seed), np.random.default_rng(seed)
    order, sigma = random.permutation(40), random.uniform(0.5, 4, 40)
    options = {"stride": 1, "shape": shape, "center": center, "occluded": "ignore"}
    ours = render_heatmaps([points], HW, sigma=sigma, **options)
    other = render_heatmaps([points[order]], HW, sigma=sigma[order], **options)
    same(ours, other, {"heatmaps", "weights", "counts", "outside"})
    assert_array_equal(ours.point_weights[order], other.point_weights)


@given(st.integers(0, 10**6), st.sampled_from(["max", "sum"]))
def test_images_do_not_know_of_each_other(seed, blend):
    batch = [some_points(count, seed + count) for count in (7, 0, 30, 1)]
    together = render_heatmaps(batch, HW, stride=1, blend=blend)
    for number, points in enumerate(batch):
        alone = render_heatmaps([points], HW, stride=1, blend=blend)
        assert_array_equal(together.heatmaps[number], alone.heatmaps[0])
        rows = together.positives[:, 0] == number
        assert_array_equal(together.positives[rows, 1:], alone.positives[:, 1:])
        assert_array_equal(together.offsets[rows], alone.offsets)


@given(st.integers(0, 10**6), st.sampled_from(["draw", "ignore"]), st.booleans())
def test_a_point_has_weight_if_and_only_if_it_was_drawn(seed, occluded, weighted):
    random = np.random.default_rng(seed)
    points = np.concatenate([some_points(seed=seed), random.integers(0, 3, (40, 1))], axis=1).reshape(10, 4, 3)
    weights = random.choice([0.0, 0.5, 2.0], 40) if weighted else None
    targets = render_heatmaps([points], HW, stride=1, occluded=occluded, instance_weights=weights)
    assert_array_equal(np.flatnonzero(targets.point_weights), targets.instances)
    for number in random.choice(40, 8, replace=False):  # by itself
        alone = Keypoints.of([points.reshape(40, 1, 3)[[number]]])
        weight = None if weights is None else weights[[number]]
        drawn = render_heatmaps(alone, HW, stride=1, occluded=occluded, instance_weights=weight).heatmaps.any()
        assert drawn == (targets.point_weights[number] > 0)
    assert (targets.heatmaps[tuple(targets.positives.T)] > 0).all()
    if targets.weights is not None:
        assert (targets.weights[tuple(targets.positives.T)] > 0).all()
    everything = targets.counts + targets.outside + targets.ignored + targets.unlabelled
    assert_array_equal(everything, [[10, 10, 10, 10]])


@given(st.integers(0, 10**6), st.sampled_from([1, 2, 4, (3, 2)]), st.sampled_from(["center", "corner"]))
def test_cells_and_offsets_lead_back_to_the_points(seed, stride, pixel_origin):
    points = some_points(seed=seed)
    targets = render_heatmaps([points], HW, stride=stride, pixel_origin=pixel_origin)
    assert (np.abs(targets.offsets) <= 0.5).all()
    back = cells_to_image(
        targets.positives[:, :1:-1] + targets.offsets.astype(float), stride, pixel_origin=pixel_origin
    )
    assert_allclose(back, points[targets.instances], rtol=0, atol=1e-5)


@given(st.integers(0, 10**6))
def test_a_mirrored_image_has_mirrored_maps(seed):
    points = some_points(seed=seed)
    mirrored = np.array([95.0, 0.0]) + [-1, 1] * (4 * points + 1.5)
    ours = render_heatmaps([4 * points + 1.5], (80, 96), sigma=1.7).heatmaps
    assert_allclose(render_heatmaps([mirrored], (80, 96), sigma=1.7).heatmaps[..., ::-1], ours, rtol=1e-5, atol=1e-7)


def test_visibility_is_kept_apart():
    table = np.array([[[4.0, 4, 0]], [[10, 4, 1]], [[16, 4, 2]], [[np.nan, 4, 0]]])
    drawn = render_heatmaps([table], HW, stride=1)
    assert_array_equal(drawn.point_weights, [0, 1, 1, 0])
    assert_array_equal([drawn.counts, drawn.unlabelled, drawn.outside, drawn.ignored], [[[2]], [[2]], [[0]], [[0]]])
    assert drawn.weights is None
    ignoring = render_heatmaps([table], HW, stride=1, occluded="ignore")
    assert_array_equal(ignoring.point_weights, [0, 0, 1, 0])
    assert_array_equal([ignoring.counts, ignoring.ignored], [[[1]], [[1]]])
    assert_array_equal(ignoring.weights[0, 0, 4], [1] * 4 + [0] * 12 + [1] * 8)
    assert_array_equal(ignoring.heatmaps, render_heatmaps([table[2]], HW, stride=1).heatmaps)


def test_weights_of_instances_are_in_their_own_cells_and_zero_ignores():
    points = [np.array([[4.0, 4.0], [18.0, 4.0], [11.0, 15.0]])]
    targets = render_heatmaps(points, HW, stride=1, sigma=1.0, instance_weights=np.array([0.5, 3.0, 0.0]))
    assert_array_equal(targets.point_weights, [0.5, 3, 0])
    expected = np.ones(HW)
    expected[4, 4], expected[4, 18], expected[12:19, 8:15] = 0.5, 3, 0
    assert_array_equal(targets.weights[0, 0], expected)


def test_types_are_weighted_by_themselves_and_regions_for_all():
    table = np.array([[[4.0, 4, 1], [16, 4, 2]]])
    region = np.array([[20.0, 10, 22, 12]])
    targets = render_heatmaps(
        [table], HW, stride=1, sigma=0.5, occluded="ignore", ignore=[region], pixel_origin="corner"
    )
    assert targets.weights[0, 0, 4, 4] == 0
    assert targets.weights[0, 1, 4, 4] == 1
    assert_array_equal(targets.weights[0, :, 10:12, 20:22], np.zeros((2, 2, 2)))


def test_sizes_and_orientations_at_the_instances_and_as_maps():
    points, sizes = [np.array([[4.0, 8.0], [99.0, 0.0], [20.0, 8.0]])], np.array([[8.0, 4], [1, 1], [2, 2]])
    targets = render_heatmaps(points, (24, 32), stride=(4, 2), sizes=sizes, angles=np.array([0.0, 9.0, math.pi / 2]))
    assert_allclose(targets.sizes, [[2, 2], [0.5, 1]])
    assert_allclose(targets.orientations, [[1, 0], [0, 1]], atol=1e-7)
    maps, mask = targets.spread(np.concatenate([targets.sizes, targets.orientations], axis=1))  # each its own
    assert maps.shape == (1, 4, 12, 8)
    assert_array_equal(np.argwhere(mask), [[0, 0, 4, 1], [0, 0, 4, 5]])  # x 4.5 / 4 - .5, 20.5 / 4 - .5; y 8.5 / 2 - .5
    assert_allclose(maps[0, :, 4, 5], [0.5, 1, 0, 1], atol=1e-7)
    assert_array_equal(maps * (1 - mask), 0 * maps)


def test_a_batch_without_points():
    targets = render_heatmaps([np.zeros((0, 2)), np.zeros((0, 2))], HW, ignore=[np.zeros((0, 4))] * 2)
    assert_array_equal(targets.heatmaps, np.zeros((2, 1, 5, 6)))
    assert_array_equal(targets.weights, np.ones((2, 1, 5, 6)))
    assert targets.positives.shape == (0, 4)
    assert targets.offsets.shape == (0, 2)
    assert_array_equal(targets.counts, [[0], [0]])
    maps, mask = targets.spread(targets.offsets)
    assert maps.shape == (2, 2, 5, 6)
    assert not mask.any()


def test_fault_8_two_points_in_a_cell_leave_its_peak_and_both_are_kept():
    # FIDTM erases both; and moves points of the first row or column to the second
    points = [np.array([[4.0, 4.0], [4.0, 4.0], [0.2, 0.0]])]
    targets = render_heatmaps(points, HW, stride=1, center="cell")
    assert targets.heatmaps[0, 0, 4, 4] == 1
    assert targets.heatmaps[0, 0, 0, 0] == 1
    assert_array_equal(targets.positives, [[0, 0, 4, 4], [0, 0, 4, 4], [0, 0, 0, 0]])
    assert_array_equal(targets.point_weights, [1, 1, 1])
    assert targets.num_same_cell() == 1


def test_fault_of_overwriting_the_nearest_of_a_cell_is_taken_whatever_the_order():
    # MMPose's combined UDP and CenterNet keep the last
    points = np.array([[4.4, 4.0], [4.1, 4.0], [3.7, 4.0], [4.1, 4.0]])
    values = np.array([[1.0], [2.0], [3.0], [5.0]])
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2]):
        maps, _ = render_heatmaps([points[order]], HW, stride=1).spread(values[order])
        assert maps[0, 0, 4, 4] == 2  # of the two at the very same place the lesser value


def test_regions_of_a_map_are_ignored_in_that_map_alone():
    points = np.array([[[4.0, 4.0], [9.0, 4.0]]])
    region, none = np.array([[8.0, 2.0, 11.0, 6.0]]), np.zeros((0, 4))
    of_map = render_heatmaps([points, points], HW, stride=1, ignore=[none, region, none, none]).weights
    of_image = render_heatmaps([points, points], HW, stride=1, ignore=[region, none]).weights
    assert_array_equal(of_map[0, 1], of_image[0, 1])
    assert of_image[0, 1].min() == 0  # but for the point's own cell
    assert (of_map[0, 0] == 1).all()
    assert (of_map[1] == 1).all()


def test_errors_name_what_was_given():
    points = [np.array([[4.0, 4.0]])]
    for name in ("shape", "center", "blend", "occluded", "pixel_origin"):
        with pytest.raises(ValueError, match=f"{name} is one of .*, got 'other'"):
            render_heatmaps(points, HW, **{name: "other"})
    with pytest.raises(ValueError, match=r"one positive sigma, or one for each of 2 axes, got 0.0"):
        render_heatmaps(points, HW, sigma=0.0)
    with pytest.raises(ValueError, match=r"window, got -1.0 sigmas"):
        render_heatmaps(points, HW, window=-1.0)
    with pytest.raises(ValueError, match=r"need one instance weight for each point, \(1,\), got \(2,\)"):
        render_heatmaps(points, HW, instance_weights=np.ones(2))
    with pytest.raises(ValueError, match=r"instance weights .* \[-1.\]"):
        render_heatmaps(points, HW, instance_weights=np.array([-1.0]))
    with pytest.raises(ValueError, match=r"need one size for each point and axis, \(1, 2\), got \(1,\)"):
        render_heatmaps(points, HW, sizes=np.ones(1))
    with pytest.raises(ValueError, match=r"need one angle for each point, \(1,\), got \(1, 1\)"):
        render_heatmaps(points, HW, angles=np.ones((1, 1)))
    with pytest.raises(ValueError, match="regions to ignore for each of 1 images or 1 maps, got 0"):
        render_heatmaps(points, HW, ignore=[])
    with pytest.raises(ValueError, match=r"regions to ignore are \(r, 4\), got \(1, 5\)"):
        render_heatmaps(points, HW, ignore=[np.zeros((1, 5))])


NOTHING = np.zeros((1, 1, 4, 6), np.float32)


def test_cells_that_a_region_touches_have_no_weight():
    # continuous pixels, stride 2: x from 3.9 to 8 touches cells 1, 2 and 3 and ends with the last of them; y 2 to 2.1 row 1
    weights = pixel_weights(NOTHING, [np.array([[3.9, 2.0, 8.0, 2.1]])], 2, "corner")
    assert_array_equal(weights[0, 0, 1], [1, 0, 0, 0, 1, 1])
    assert_array_equal(weights[0, 0, [0, 2, 3]], np.ones((3, 6)))


def test_regions_reach_beyond_the_map_and_may_be_empty():
    weights = pixel_weights(NOTHING, [np.array([[-9.0, -9.0, 1.0, 99.0], [20.0, 0.0, 30.0, 9.0]])], 1, "corner")
    assert_array_equal(weights[0, 0], [[0, 1, 1, 1, 1, 1]] * 4)
    for empty in (np.zeros((0, 4)), np.array([[3.0, 1.0, 3.0, 2.0]]), np.array([[-9.0, -9.0, -3.0, -3.0]])):
        assert_array_equal(pixel_weights(NOTHING, [empty], 1, "corner"), NOTHING + 1)


def test_regions_of_volumes():
    weights = pixel_weights(np.zeros((1, 2, 3, 4, 5), np.float32), [np.array([[1.0, 2, 0, 2, 4, 1]])], 1, "corner")
    assert_array_equal(np.argwhere(weights[0, 1] == 0), [[0, 2, 1], [0, 3, 1]])
    assert_array_equal(weights[:, 0], weights[:, 1])


def test_ignored_points_take_the_weight_around_them():
    ignored = NOTHING.copy()
    ignored[0, 0, 1, 2:4] = 0.3
    weights = pixel_weights(ignored, None, 1, "center")
    assert_array_equal(weights, ignored == 0)


@pytest.mark.parametrize("tensor", [False, True])
def test_the_largest_weight_of_the_points_in_a_cell_is_its_own(tensor):
    placed = PlacedPoints.of([np.array([[2.0, 1.0], [2.2, 0.9], [5.0, 3.0]])], (4, 6), 1)
    weights = torch.zeros(1, 1, 4, 6) if tensor else np.zeros((1, 1, 4, 6), np.float32)
    set_own_cells(weights, placed, np.arange(3), np.array([3.0, 0.5, 0.25], np.float32))
    expected = np.zeros((4, 6))
    expected[1, 2], expected[3, 5] = 3, 0.25
    assert_array_equal(np.asarray(weights)[0, 0], expected)


@pytest.mark.parametrize(
    "wrong", [[3.0, 3.0, 2.0, 4.0], [3.0, 3.0, 4.0, 2.0], [0.0, np.nan, 9.0, 9.0], [0.0, 0.0, np.inf, 9.0]]
)
def test_a_region_that_is_turned_over_or_not_finite_is_named_by_image_and_row(wrong):
    # taken as it is, [3, 3, 2, 4] ignores nothing: perhaps it is x, y, width, height
    regions = [np.zeros((0, 4)), np.array([[0.0, 0.0, 1.0, 1.0], wrong])]
    message = (
        rf"regions to ignore of image 1: row 1 is {re.escape(str(wrong))}, need finite corners, the lower ones first"
    )
    with pytest.raises(ValueError, match=message):
        pixel_weights(np.concatenate([NOTHING, NOTHING]), regions, 1, "corner")


def test_sigma_of_a_size_is_its_share_in_cells():
    # .09 * 100 / 4 = 2.25, .09 * 20 / 4 = .45 raised to 1
    assert_allclose(sigma_from_size(np.array([[100.0, 20.0]])), [[2.25, 1.0]])
    assert_allclose(sigma_from_size(np.array([[8.0, 8.0, 4.0]]), stride=1, fraction=0.5), [[4.0, 4.0, 2.0]])
    assert sigma_from_size(np.zeros((0, 3))).shape == (0, 3)


def test_a_size_that_is_not_positive_is_named_by_its_row():
    with pytest.raises(ValueError, match=r"\[1.0, nan\] in row 1"):
        sigma_from_size(np.array([[1.0, 1.0], [1.0, np.nan]]))
    with pytest.raises(ValueError, match=r"fraction=0.0"):
        sigma_from_size(np.ones((1, 2)), fraction=0.0)
