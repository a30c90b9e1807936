from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from torch import nn
from torch.testing import assert_close

from detect.inspection.judging import box_cover, energy_inside, judge, window_around
from detect.inspection.removal import removal_curves

SIDE, BOX = 16, (4.0, 5.0, 8.0, 10.0)


class Planted(nn.Module):
    """A linear network that looks at one box of the image and at nothing else."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(SIDE, SIDE))
        with torch.no_grad():
            self.weight[5:10, 4:8] = 1.0

    def forward(self, images):
        return (images * self.weight).sum(dim=(1, 2, 3))


def bright_box():
    image = 0.2 * torch.rand(1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    image[0, 5:10, 4:8] += 0.7
    return image


def judged(heatmap, module=None, again=None, box=BOX, **options):
    module = module or Planted()
    again = again or (lambda: module.weight.detach().clone())
    options = {"patch_px": 1, "baseline": "mean", **options}
    return judge(module, module, bright_box(), heatmap, box, again, **options)


def test_the_true_map_of_a_planted_network_is_judged_right():
    module = Planted()
    before = module.weight.detach().clone()
    found = judged(module.weight.detach().clone(), module)
    assert (found.energy_inside, found.box_share) == (1.0, 20 / 256)
    assert found.deletion < 0.1 < found.random_deletion
    assert found.insertion > 0.9 > found.random_insertion
    assert abs(found.sanity_correlation) < 0.2
    assert found.seconds > 0
    assert found.doubts == ()
    assert_close(module.weight.detach(), before, rtol=0, atol=0)


def test_the_true_map_beats_a_random_one_and_an_opposite_one():
    true = Planted().weight.detach()
    noise = torch.rand(SIDE, SIDE, generator=torch.Generator().manual_seed(5))
    best, chance, worst = (judged(each) for each in (true, noise, -true))
    assert best.deletion < chance.deletion < worst.deletion
    assert best.insertion > chance.insertion > worst.insertion


def test_a_picture_of_edges_is_doubted():
    edges = bright_box()[0].diff(dim=1, append=torch.zeros(SIDE, 1)).abs()
    found = judged(edges, again=lambda: edges)
    assert found.sanity_correlation == 1.0
    assert found.doubts[0] == "It looks the same with random weights: it does not show what the network learned."


def test_a_map_of_nothing_and_an_empty_box_are_no_error():
    nothing = judged(torch.zeros(SIDE, SIDE), box=(3.0, 3.0, 3.0, 9.0))
    assert math.isnan(nothing.energy_inside)
    assert nothing.box_share == 0.0
    assert nothing.doubts[0].startswith("It has no positive attribution")
    assert "is constant" in nothing.doubts[1]
    outside = judged(Planted().weight.detach(), box=(-9.0, -9.0, -1.0, 40.0))
    assert (outside.energy_inside, outside.box_share) == (0.0, 0.0)
    assert "No more of it is inside the box than chance puts there." in outside.doubts


def test_an_answer_that_the_image_does_not_change_is_doubted():
    module = Planted()
    with torch.no_grad():
        module.weight.zero_()
    found = judged(torch.rand(SIDE, SIDE), module, again=lambda: torch.rand(SIDE, SIDE))
    assert math.isnan(found.deletion)
    assert "nan" not in " ".join(found.doubts)
    assert "The answer does not depend on these pixels: the image without details has the same." in found.doubts


def test_doubts_follow_the_numbers_one_by_one():
    sound = judged(Planted().weight.detach())
    changes = {
        "It looks the same": {"sanity_correlation": 0.51},
        "Removing what": {"deletion": sound.random_deletion},
        "Showing only": {"insertion": sound.random_insertion},
        "No more of it": {"energy_inside": sound.box_share},
    }
    for begins, change in changes.items():
        (doubt,) = replace(sound, **change).doubts
        assert doubt.startswith(begins)


def test_maps_are_compared_around_the_box_and_not_where_both_are_empty():
    random = torch.Generator().manual_seed(1)
    module = Planted()
    first, second = torch.zeros(2, 64, 64)
    first[20:36, 20:36] = torch.rand(16, 16, generator=random)
    second[20:36, 20:36] = torch.rand(16, 16, generator=random)

    def scalar(images):
        return (images * first).sum(dim=(1, 2, 3))

    image = torch.rand(1, 64, 64, generator=random)
    found = judge(module, scalar, image, first, (24.0, 24.0, 32.0, 32.0), lambda: second)
    assert abs(found.sanity_correlation) < 0.2  # .9 over the whole map


def test_the_curves_of_chance_can_be_given():
    module, heatmap = Planted(), Planted().weight.detach()
    chance = removal_curves(module, bright_box(), torch.rand(SIDE, SIDE), baseline="mean", patch_px=1)
    found = judged(heatmap, module, by_chance=chance)
    assert (found.random_deletion, found.random_insertion) == (chance.deletion_area, chance.insertion_area)


@pytest.mark.parametrize("box", [(3.0, 3.0, 3.0, 3.0), (-50.0, 9.0, -40.0, 10.0), (90.0, 90.0, 300.0, 99.0)])
def test_a_window_is_never_empty(box):
    rows, columns = window_around(box, (20, 30))
    assert 0 <= rows.start < rows.stop <= 20
    assert 0 <= columns.start < columns.stop <= 30


coordinates = st.floats(-5, 25, allow_nan=False)


@settings(deadline=None, max_examples=80)
@given(coordinates, coordinates, coordinates, coordinates)
def test_the_cover_of_a_box_adds_up_to_its_area_in_the_image(x0, y0, x1, y1):
    inside = max(0.0, min(x1, 12) - max(x0, 0)) * max(0.0, min(y1, 9) - max(y0, 0))
    cover = box_cover((x0, y0, x1, y1), (9, 12))
    assert float(cover.min()) >= 0
    assert float(cover.max()) <= 1
    assert_allclose(float(cover.sum()), inside, atol=1e-9)


def test_energy_counts_what_speaks_for_the_answer_only():
    heatmap = torch.tensor([[2.0, -7.0], [0.0, 6.0]])
    assert energy_inside(heatmap, torch.tensor([0.0, 0.0, 1.0, 2.0])) == 0.25
