"""The losses of heatmaps: by hand, against CenterNet's own numbers, at their limits, in half precision."""

from __future__ import annotations

import json
import math
import re
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator
from torch.nn import functional
from torch.testing import assert_close

from detect.losses import (
    adaptive_wing_loss,
    batch_normalizer,
    heatmap_bce_loss,
    heatmap_focal_loss,
    heatmap_mse_loss,
    image_normalizer,
    points_l1_loss,
)

GOLDEN = json.loads((Path(__file__).parent / "golden_heatmaps.json").read_text("utf-8"))
LN2, LN3 = math.log(2), math.log(3)
NONE = torch.zeros(0, 4, dtype=torch.int64)
MAP_LOSSES = [
    partial(heatmap_focal_loss, positives=torch.tensor([[0, 1, 2, 3], [1, 0, 0, 0]])),
    partial(heatmap_bce_loss, pos_weight=3.0),
    partial(heatmap_mse_loss, foreground_weight=5.0),
    partial(adaptive_wing_loss, map_weight=10.0),
]


def random_maps(shape=(2, 2, 4, 5), seed=0, dtype=torch.float64):
    draws = Generator().manual_seed(seed)
    logits = 3 * torch.randn(shape, generator=draws, dtype=dtype)
    return logits, torch.rand(shape, generator=draws, dtype=dtype)


def slopes(loss, maps, *rest, **options):
    maps = maps.detach().clone().requires_grad_()
    return torch.autograd.grad(loss(maps, *rest, **options).sum(), maps)[0]


def golden(name):
    return torch.tensor(GOLDEN[name], dtype=torch.float64)


# focal


def test_focal_loss_by_hand():
    # p = 3/4, 3/4, 1/4. The point: (1/4)^2 ln 4/3. Beside it y = 1/2: (1/2)^4 (3/4)^2 ln 4. Far: (1/4)^2 ln 4/3
    logits = torch.tensor([[[[LN3, LN3, -LN3]]]])
    targets = torch.tensor([[[[1.0, 0.5, 0.0]]]])
    expected = math.log(4 / 3) / 16 + 9 / 256 * math.log(4) + math.log(4 / 3) / 16
    found = heatmap_focal_loss(logits, targets, positives=torch.tensor([[0, 0, 0, 0]]))
    assert_close(found, torch.tensor([expected]))


def test_centernets_focal_numbers_are_found():
    logits, targets = golden("pred").logit(), golden("target")
    positives = (targets == 1).nonzero()
    assert positives[:, 0].tolist() == [0, 0]
    sums = heatmap_focal_loss(logits, targets, positives=positives)
    assert_close(sums.sum() / len(positives), golden("batch"))
    assert_close(sums / torch.tensor([2, 1]), torch.stack([golden("image0"), golden("image1_no_positive")]))


def test_a_plain_loop_finds_the_same_focal_loss():
    logits, targets = random_maps()
    weights = random_maps((2, 1, 4, 5), seed=1)[1]
    positives = torch.tensor([[0, 0, 1, 2], [0, 1, 3, 4], [1, 1, 0, 0]])
    expected = [0.0, 0.0]
    for place in torch.cartesian_prod(*map(torch.arange, logits.shape)).tolist():
        b, j, h, w = place
        p, y = 1 / (1 + math.exp(-float(logits[b, j, h, w]))), float(targets[b, j, h, w])
        cost = (
            -((1 - p) ** 2) * math.log(p) if place in positives.tolist() else -((1 - y) ** 4) * p**2 * math.log(1 - p)
        )
        expected[b] += float(weights[b, 0, h, w]) * cost
    found = heatmap_focal_loss(logits, targets, positives=positives, weights=weights)
    assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_a_peak_below_one_counts_as_a_positive():
    # UDP's peaks reach .978 and no cell equals 1: found by value there would be no positive, only absence to learn
    targets = torch.tensor([[[[0.1, 0.978, 0.1]]]])
    logits = torch.zeros(1, 1, 1, 3)
    positives = torch.tensor([[0, 0, 0, 1]])
    assert_close(
        heatmap_focal_loss(logits, targets, positives=positives),
        heatmap_focal_loss(logits, targets.where(targets < 0.9, 1.0), positives=positives),
    )
    step = slopes(heatmap_focal_loss, logits, targets, positives=positives)
    assert step[0, 0, 0, 1] < -0.1  # raises the peak


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_does_not_reach_infinity_as_the_clamp_at_1e_4_does(dtype):
    assert (1 - torch.sigmoid(torch.tensor(12.0, dtype=dtype)).clamp(1e-4, 1 - 1e-4)).log().isinf()  # the fault
    logits, targets = random_maps()
    halves = (12 * logits).to(dtype)
    for loss in MAP_LOSSES:
        found, slope = loss(halves, targets.to(dtype)), slopes(loss, halves, targets.to(dtype))
        assert found.dtype == torch.float32
        assert slope.dtype == dtype
        assert slope.isfinite().all()
        assert_close(found, loss(halves.float(), targets.to(dtype).float()))


def test_the_loss_of_an_image_does_not_depend_on_the_rest_of_its_batch():
    # one point, exactly 1, among p = .1: -.9^2 ln .1 - 1023 * .1^2 ln .9 = 2.9429. CenterNet's 4.0218 for it and an empty
    # image together is the sum of both over the one point: the empty image is not counted in what it is divided by
    logits = torch.full((2, 1, 32, 32), -math.log(9))
    targets = torch.zeros(2, 1, 32, 32)
    targets[0, 0, 5, 6] = 1.0
    positives = torch.tensor([[0, 0, 5, 6]])
    both = heatmap_focal_loss(logits, targets, positives=positives)
    assert_close(both, torch.tensor([2.9429, 1.0789]), rtol=0, atol=5e-5)
    alone = heatmap_focal_loss(logits[:1], targets[:1], positives=positives)
    assert_close(both[:1], alone, rtol=0, atol=0)
    counts = torch.bincount(positives[:, 0], minlength=2)
    assert_close((both / image_normalizer(counts)).sum(), (both[0] + both[1]) / 2)
    assert_close((both / batch_normalizer(counts)).sum(), (both[0] + both[1]) / 2)


@given(st.permutations(range(6)), st.integers(0, 99))
def test_the_order_of_points_and_repeated_points_change_nothing(order, seed):
    logits, targets = random_maps(seed=seed)
    cells = torch.tensor([[0, 0, 0, 0], [0, 1, 0, 0], [1, 1, 3, 4], [1, 0, 3, 4], [0, 0, 2, 2], [1, 1, 1, 0]])
    expected = heatmap_focal_loss(logits, targets, positives=cells)
    assert_close(heatmap_focal_loss(logits, targets, positives=cells[order]), expected, rtol=0, atol=0)
    repeated = torch.cat([cells, cells[:3]])
    assert_close(heatmap_focal_loss(logits, targets, positives=repeated), expected, rtol=0, atol=0)


def test_sums_of_overlapping_bells_above_one_ask_for_nothing():
    # drawn by sum, cells reach 3: (1 - 3)^4 would be 16
    logits, targets = torch.zeros(1, 1, 1, 2), torch.tensor([[[[1.0, 3.0]]]])
    assert_close(heatmap_focal_loss(logits, targets, positives=NONE), torch.zeros(1))


# the other maps


def test_cross_entropy_is_torchs():
    logits, targets = random_maps()
    for pos_weight in (1.0, 7.5):
        expected = functional.binary_cross_entropy_with_logits(
            logits, targets, pos_weight=torch.tensor(pos_weight, dtype=torch.float64), reduction="none"
        )
        assert_close(heatmap_bce_loss(logits, targets, pos_weight=pos_weight), expected.sum(dim=(1, 2, 3)))


def test_squared_error_by_hand_and_of_equal_weights():
    # errors .5, .25, 1 of targets 1, .5, 0; weights 3, 3 * .5 + .5 = 2, 1
    maps, targets = torch.tensor([[[[0.5, 0.75, 1.0]]]]), torch.tensor([[[[1.0, 0.5, 0.0]]]])
    found = heatmap_mse_loss(maps, targets, foreground_weight=3.0)
    assert_close(found, torch.tensor([3 * 0.25 + 2 * 0.0625 + 1.0]))
    maps, targets = random_maps()
    assert_close(heatmap_mse_loss(maps, targets).sum(), functional.mse_loss(maps, targets, reduction="sum"))


def test_the_foregrounds_weight_balances_foreground_and_background():
    # all cells wrong by 1: the ratio of the shares makes both add the same
    targets = torch.zeros(1, 1, 10, 10)
    targets[0, 0, 3, 4:6] = 1.0
    ratio = float((1 - targets).sum() / targets.sum())
    cost = heatmap_mse_loss(1 - targets, targets, foreground_weight=ratio)
    assert ratio == 49
    assert_close(cost, torch.tensor([2 * 98.0]))


def test_adaptive_wing_by_hand():
    # y = 1, power 1.1. Error .25 < theta: 14 ln(1 + .25^1.1). Error .75: A .75 - C as the paper writes them
    targets = torch.ones(1, 1, 1, 2, dtype=torch.float64)
    maps = torch.tensor([[[[0.75, 0.25]]]], dtype=torch.float64)
    omega, epsilon, alpha, theta = 14, 1, 2.1, 0.5
    a = omega / (1 + (theta / epsilon) ** (alpha - 1)) * (alpha - 1) * (theta / epsilon) ** (alpha - 1 - 1) / epsilon
    c = theta * a - omega * math.log(1 + (theta / epsilon) ** (alpha - 1))
    expected = 14 * math.log(1 + 0.25**1.1) + a * 0.75 - c
    assert_close(adaptive_wing_loss(maps, targets), torch.tensor([expected], dtype=torch.float64))


@pytest.mark.parametrize("target", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("options", [{}, {"epsilon": 0.5, "theta": 0.3, "omega": 2.0}])
def test_adaptive_wing_is_smooth_where_its_parts_meet(target, options):
    theta = options.get("theta", 0.5)
    sides = torch.tensor([-1e-9, 1e-9], dtype=torch.float64) + target + theta
    sides = sides[:, None, None, None].requires_grad_()
    found = adaptive_wing_loss(sides, torch.full_like(sides, target), **options)
    assert_close(found[0], found[1], rtol=0, atol=1e-6)
    slope = torch.autograd.grad(found.sum(), sides)[0]
    assert_close(slope[0], slope[1], rtol=0, atol=1e-6)


def test_the_weighted_map_of_adaptive_wing_reaches_one_cell_beyond_the_foreground():
    # target .2 in the middle of 5 x 5, errors 1 everywhere: 3 x 3 cells weigh 11 times
    targets = torch.zeros(1, 1, 5, 5, dtype=torch.float64)
    targets[0, 0, 2, 2] = 0.2
    each = [adaptive_wing_loss(torch.full((1, 1, 1, 1), 1 + y).double(), torch.full((1, 1, 1, 1), y).double())
            for y in (0.0, 0.2)]  # fmt: skip
    weighted = adaptive_wing_loss(targets + 1, targets, map_weight=10.0)
    assert_close(weighted, 16 * each[0] + 11 * (8 * each[0] + each[1]))
    volume = targets[:, :, None].expand(-1, -1, 3, -1, -1)
    assert_close(adaptive_wing_loss(volume + 1, volume, map_weight=10.0), 3 * weighted)


@pytest.mark.parametrize("loss", MAP_LOSSES)
def test_slopes_of_the_map_losses_are_those_of_the_values(loss):
    logits, targets = random_maps()
    weights = random_maps(seed=3)[1]
    assert torch.autograd.gradcheck(lambda maps: loss(maps, targets, weights=weights), logits.requires_grad_())


@pytest.mark.parametrize("loss", MAP_LOSSES)
def test_weights_multiply_each_cell_and_zero_ignores_it(loss):
    logits, targets = random_maps()
    per_type = random_maps(seed=3)[1]
    shared = per_type[:, :1]
    whole = loss(logits, targets, weights=shared.expand(-1, 2, -1, -1))
    assert_close(loss(logits, targets, weights=shared), whole)
    assert_close(loss(logits, targets, weights=2 * shared), 2 * whole)
    assert_close(loss(logits, targets, weights=torch.ones_like(shared)), loss(logits, targets))
    ignored = (per_type > 0.5).double()
    elsewhere = torch.where(ignored > 0, logits, -logits + 1)
    assert_close(loss(elsewhere, targets, weights=ignored), loss(logits, targets, weights=ignored))
    assert (slopes(loss, logits, targets, weights=ignored)[ignored == 0] == 0).all()


@pytest.mark.parametrize("loss", MAP_LOSSES)
def test_logits_of_a_hundred_have_finite_losses_and_slopes(loss):
    targets = random_maps(dtype=torch.float32)[1]
    for sign in (-100.0, 100.0):
        logits = torch.full_like(targets, sign)
        assert loss(logits, targets).isfinite().all()
        assert slopes(loss, logits, targets).isfinite().all()


@pytest.mark.parametrize("loss", MAP_LOSSES)
def test_perfect_maps_of_binary_targets_cost_nothing(loss):
    targets = torch.zeros(2, 2, 4, 5, dtype=torch.float64)
    targets[0, 1, 2, 3] = targets[1, 0, 0, 0] = 1.0
    logits = loss.func in {heatmap_focal_loss, heatmap_bce_loss}
    assert_close(loss(200 * targets - 100 if logits else targets, targets), torch.zeros(2, dtype=torch.float64))


@pytest.mark.parametrize("loss", MAP_LOSSES)
def test_images_are_summed_by_themselves_and_none_is_ordinary(loss):
    options = {"positives": NONE} if loss.func is heatmap_focal_loss else {}
    logits, targets = random_maps((3, 2, 4, 5))
    whole = loss(logits, targets, **options)
    assert_close(
        torch.cat([loss(*pair, **options) for pair in zip(logits[:, None], targets[:, None], strict=True)]), whole
    )
    assert loss(torch.zeros(0, 2, 4, 5), torch.zeros(0, 2, 4, 5), **options).shape == (0,)


def test_maps_are_not_written_to_and_targets_get_no_gradient():
    for loss in MAP_LOSSES:
        logits, targets = random_maps()
        before = logits.clone(), targets.clone()
        loss(logits.requires_grad_(), targets.requires_grad_(), weights=torch.ones(2, 1, 4, 5)).sum().backward()
        assert targets.grad is None
        assert_close((logits.detach(), targets.detach()), before, rtol=0, atol=0)


# at the points


def test_differences_at_points_by_hand():
    maps = torch.zeros(2, 2, 3, 4)
    maps[0, :, 1, 2] = torch.tensor([0.5, -0.25])
    maps[1, :, 0, 3] = torch.tensor([1.0, 1.0])
    positives = torch.tensor([[0, 0, 1, 2], [1, 0, 0, 3], [1, 1, 0, 3]])
    values = torch.tensor([[0.25, 0.25], [1.0, 0.0], [0.0, 0.5]])
    # |.5 - .25| + |-.25 - .25| = .75; 0 + 1 and 1 + .5
    assert_close(points_l1_loss(maps, values, positives=positives), torch.tensor([0.75, 2.5]))


def test_only_the_points_cells_get_a_gradient():
    maps, _ = random_maps((2, 2, 4, 5))
    positives = torch.tensor([[0, 0, 1, 2], [0, 0, 1, 2], [1, 0, 3, 4]])
    values = random_maps((3, 2), seed=1)[1]
    slope = slopes(points_l1_loss, maps, values, positives=positives)
    assert slope.abs().sum(dim=1).nonzero().tolist() == [[0, 1, 2], [1, 3, 4]]
    assert torch.autograd.gradcheck(partial(points_l1_loss, positives=positives), (maps.requires_grad_(), values))


def test_no_points_cost_nothing_and_give_a_gradient_of_zero():
    maps = torch.zeros(2, 2, 4, 5, dtype=torch.float16, requires_grad=True)
    sums = points_l1_loss(maps, torch.zeros(0, 2), positives=NONE)
    assert_close(sums, torch.zeros(2))
    sums.sum().backward()
    assert_close(maps.grad, torch.zeros_like(maps))


def test_volumes_are_maps_of_three_axes():
    maps, targets = random_maps((1, 1, 2, 3, 4))
    cell, flat_cell = torch.tensor([[0, 0, 1, 2, 3]]), torch.tensor([[0, 0, 1, 11]])
    flat, flat_targets = maps.flatten(3), targets.flatten(3)
    expected = heatmap_focal_loss(flat, flat_targets, positives=flat_cell)
    assert_close(heatmap_focal_loss(maps, targets, positives=cell), expected)
    expected = points_l1_loss(flat, torch.ones(1, 1).double(), positives=flat_cell)
    assert_close(points_l1_loss(maps, torch.ones(1, 1).double(), positives=cell), expected)
    for loss in (heatmap_bce_loss, heatmap_mse_loss, adaptive_wing_loss):
        assert_close(loss(maps, targets), loss(flat, flat_targets))


# invalid input


def test_points_that_are_not_on_the_map_are_refused():
    maps = torch.zeros(2, 1, 4, 5)
    for row in ([2, 0, 0, 0], [0, 1, 0, 0], [0, 0, 4, 0], [0, 0, 0, 5], [0, 0, -1, 0]):
        with pytest.raises(ValueError, match=r"positive \[.*\] is outside the maps \(2, 1, 4, 5\)"):
            heatmap_focal_loss(maps, maps, positives=torch.tensor([row]))
        if row[1] == 0:
            with pytest.raises(ValueError, match="is outside the maps"):
                points_l1_loss(maps, torch.zeros(1, 1), positives=torch.tensor([row]))
    with pytest.raises(ValueError, match=r"positives as .*, \(0, 4\), got \(0, 3\)"):
        heatmap_focal_loss(maps, maps, positives=torch.zeros(0, 3, dtype=torch.int64))


@pytest.mark.parametrize(
    ("loss", "options", "message"),
    [
        (heatmap_bce_loss, {"pos_weight": 0.0}, "positive pos_weight, got 0.0"),
        (heatmap_mse_loss, {"foreground_weight": math.inf}, "positive foreground_weight, got inf"),
        (adaptive_wing_loss, {"theta": -1.0}, r"positive theta, got -1\.0"),
        (adaptive_wing_loss, {"alpha": 2.0}, r"alpha > 2 and map_weight >= 0, got alpha=2\.0"),
        (adaptive_wing_loss, {"map_weight": -1.0}, r"map_weight=-1\.0"),
    ],
)
def test_numbers_without_meaning_are_refused(loss, options, message):
    with pytest.raises(ValueError, match=message):
        loss(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2), **options)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("loss", MAP_LOSSES)
@pytest.mark.parametrize("shape", [(1, 2, 4, 5), (2, 1, 4, 5), (2, 2, 4, 1), (2, 4, 5), (2, 2, 20)])
def test_targets_of_another_shape_do_not_broadcast(loss, shape):
    maps, targets = torch.zeros(2, 2, 4, 5), torch.zeros(shape)
    for pair in ((maps, targets), (targets, maps)) if len(shape) == 4 else ((maps, targets),):
        with pytest.raises(ValueError, match=r"need targets of the maps' shape \(.*\), got \(.*\)"):
            loss(*pair)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("shape", [(1, 1, 4, 5), (2, 1, 1, 5), (2, 1, 4), (2, 3, 4, 5), (1,)])
def test_weights_of_another_shape_do_not_broadcast(shape):
    maps, weights = torch.zeros(2, 2, 4, 5), torch.ones(shape)
    message = re.escape(f"shape, or of one channel, (2, 2, 4, 5) or (2, 1, 4, 5), got {shape}")
    for loss in MAP_LOSSES:
        with pytest.raises(ValueError, match=message):
            loss(maps, maps, weights=weights)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("shape", [(1, 2), (3, 1), (2,), (2, 2), (3, 3)])
def test_values_of_another_number_than_the_positives_are_refused(shape):
    # one row would be the target of all three points
    positives = torch.tensor([[0, 0, 1, 1], [1, 0, 2, 2], [1, 0, 3, 3]])
    with pytest.raises(ValueError, match=re.escape(f"one row of values for each positive, (3, 2), got {shape}")):
        points_l1_loss(torch.zeros(2, 2, 4, 5), torch.zeros(shape), positives=positives)
