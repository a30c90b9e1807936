from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from torch.testing import assert_close

from detect.inspection.removal import baseline_image, patch_ranks, removal_curves

EXACT = {"baseline": "mean", "patch_px": 1}


def weighing(weights):
    """A linear network: the sum of the pixels, each times its weight."""
    return lambda images: (images * weights).sum(dim=(1, 2, 3))


def test_areas_by_hand():
    image = torch.tensor([[[4.0, 0.0, 0.0, 0.0]]])  # its mean is 1
    scalar = weighing(torch.tensor([1.0, 0.0, 0.0, 0.0]))
    curves = removal_curves(scalar, image, torch.tensor([[9.0, 0.0, 0.0, 0.0]]), num_steps=2, **EXACT)
    assert (curves.full, curves.empty) == (4.0, 1.0)
    assert curves.shares.tolist() == [0.0, 0.25, 1.0]
    assert curves.deletion.tolist() == [1.0, 0.0, 0.0]
    assert curves.deletion_area == 0.125  # a triangle of .25 x 1
    assert curves.insertion_area == 0.875


def test_the_contributions_of_a_linear_network_are_the_best_of_all_orders():
    random = torch.Generator().manual_seed(0)
    image, weights = torch.rand(1, 1, 5, generator=random), torch.randn(1, 5, generator=random)
    contributions = (weights * (image - image.mean()))[0]
    areas = []
    for order in itertools.permutations(range(5)):
        heatmap = torch.tensor([order], dtype=torch.float32)
        curves = removal_curves(weighing(weights), image, heatmap, num_steps=9, **EXACT)
        areas.append((curves.deletion_area * (curves.full - curves.empty), curves.insertion_area))
    best = removal_curves(weighing(weights), image, contributions, num_steps=9, **EXACT)
    span = best.full - best.empty
    assert_allclose(best.deletion_area * span, min(area for area, _ in areas), atol=1e-12)
    assert_allclose(best.insertion_area * span, max(area * span for _, area in areas), atol=1e-12)


@pytest.mark.parametrize("kind", ["constant", "random"])
def test_constant_and_random_maps_are_at_chance_which_is_half_for_a_linear_network(kind):
    random = torch.Generator().manual_seed(3)
    image, weights = torch.rand(1, 24, 24, generator=random), torch.rand(24, 24, generator=random) ** 4
    weights = weights * (image[0] - image.mean()).sign()  # so that every pixel speaks for the answer
    areas = []
    for seed in range(40):
        noise = torch.rand(24, 24, generator=torch.Generator().manual_seed(seed))
        heatmap = torch.zeros(24, 24) if kind == "constant" else noise
        curves = removal_curves(weighing(weights), image, heatmap, seed=seed, **EXACT)
        areas.append((curves.deletion_area, curves.insertion_area))
    assert_allclose(np.mean(areas, axis=0), [0.5, 0.5], atol=0.01)


def test_steps_are_small_where_a_small_object_vanishes_and_end_at_the_baseline():
    curves = removal_curves(weighing(torch.ones(20, 20)), torch.rand(1, 20, 20), torch.rand(20, 20), baseline="blur")
    assert len(curves.shares) == 21
    assert_close(curves.shares[[0, 1, 20]], torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64), atol=0.01, rtol=0)
    assert_close(curves.deletion[[0, -1]], torch.tensor([1.0, 0.0], dtype=torch.float64))
    assert_close(curves.insertion[[0, -1]], torch.tensor([0.0, 1.0], dtype=torch.float64))


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_batches_do_not_matter_and_are_no_larger_than_asked(batch_size):
    sizes, image, heatmap = [], torch.rand(3, 9, 7), torch.rand(9, 7)

    def scalar(images):
        sizes.append(len(images))
        return (images.square() * heatmap).sum(dim=(1, 2, 3))

    curves = removal_curves(scalar, image, heatmap, num_steps=5, batch_size=batch_size)
    alone = removal_curves(scalar, image, heatmap, num_steps=5)
    assert_close(curves.deletion, alone.deletion)
    assert_close(curves.insertion, alone.insertion)
    assert max(sizes) <= max(batch_size, 16)
    assert sum(sizes) == 2 * (2 * 5)  # of each call: six images of the deletion, four of the insertion


def test_nothing_is_defined_if_the_answer_does_not_depend_on_the_image():
    curves = removal_curves(lambda images: torch.full((len(images),), 3.0), torch.rand(1, 8, 8), torch.rand(8, 8))
    assert math.isnan(curves.deletion_area)
    assert math.isnan(curves.insertion_area)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 13), st.integers(1, 13), st.integers(1, 6), st.integers(0, 999))
def test_ranks_follow_the_definition_for_any_size(height, width, patch_px, seed):
    heatmap = torch.rand(height, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    ranks = patch_ranks(heatmap, patch_px=patch_px)
    means = {}
    for row in range(0, height, patch_px):
        for column in range(0, width, patch_px):
            window = slice(row, row + patch_px), slice(column, column + patch_px)
            (rank,) = ranks[window].unique().tolist()
            means[rank] = float(heatmap[window].mean())
    assert sorted(means) == list(range(len(means)))
    falling = [means[rank] for rank in sorted(means)]
    assert falling == sorted(falling, reverse=True)


def test_equal_patches_are_in_random_order_that_the_seed_decides():
    first, again, other = (patch_ranks(torch.zeros(16, 16), patch_px=4, seed=seed) for seed in (0, 0, 1))
    assert_close(first, again, rtol=0, atol=0)
    assert (first != other).any()
    assert first.flatten().tolist() != sorted(first.flatten().tolist())


def test_a_blur_removes_details_and_keeps_the_mean_colour():
    image = (torch.arange(64) % 2).float().expand(3, 64, 64)
    blurred = baseline_image(image, "blur")
    assert blurred.shape == image.shape
    assert float(blurred.diff(dim=2).abs().max()) < 0.05  # of 1 before
    assert_close(blurred.mean(), torch.tensor(0.5), atol=0.01, rtol=0)


def test_arguments_are_not_changed():
    image, heatmap = torch.rand(2, 8, 8), torch.rand(8, 8)
    before = image.clone(), heatmap.clone()
    removal_curves(weighing(torch.ones(8, 8)), image, heatmap)
    assert_close((image, heatmap), before, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("image", "heatmap", "options", "message"),
    [
        (torch.rand(1, 4, 4), torch.rand(4, 5), {}, r"need an image \(d, h, w\) and a map \(h, w\), got"),
        (torch.rand(1, 4, 4), torch.full((4, 4), torch.nan), {}, "not finite"),
        (torch.rand(1, 4, 4), torch.rand(4, 4), {"num_steps": 0}, "num_steps=0"),
        (torch.rand(1, 4, 4), torch.rand(4, 4), {"baseline": "black"}, "no baseline 'black': need one of blur, mean"),
    ],
)
def test_errors(image, heatmap, options, message):
    with pytest.raises(ValueError, match=message):
        removal_curves(weighing(torch.ones(4, 4)), image, heatmap, **options)
