"""Clipping, rescaling and dropping of boxes by hand; the order in each convention is tested in test_postprocess.py."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from detect.heads.box_steps import image_extents, take_steps

# one image of height 40 and width 80 in the network's input, 20 and 160 originally: x doubles, y halves
EXTENTS = image_extents([(40, 80)], [(20, 160)], num_images=1, like=torch.zeros(()))[:, :, None]
OVER, BESIDE = [-10.0, 10.0, 90.0, 50.0], [80.0, 0.0, 95.0, 20.0]


@pytest.mark.parametrize(
    ("steps", "expected", "kept"),
    [
        ((), [OVER, BESIDE], [True, True]),
        (("clip_to_input",), [[0, 10, 80, 40], [80, 0, 80, 20]], [True, True]),
        (("clip_to_input", "drop_empty"), [[0, 10, 80, 40], [80, 0, 80, 20]], [True, False]),
        (("rescale",), [[-20, 5, 180, 25], [160, 0, 190, 10]], [True, True]),
        (("rescale", "clip_to_original", "drop_empty"), [[0, 5, 160, 20], [160, 0, 160, 10]], [True, False]),
    ],
)
def test_steps_by_hand(steps, expected, kept):
    boxes, valid = take_steps(steps, torch.tensor([[OVER, BESIDE]]), EXTENTS)
    assert_close(boxes, torch.tensor([expected], dtype=torch.float32))
    assert valid.tolist() == [kept]


def test_extents_are_width_and_height_twice():
    sizes = torch.tensor([[4, 3], [7, 9]])
    extents = image_extents(sizes, None, num_images=2, like=torch.zeros((), dtype=torch.float64))
    assert extents.dtype == torch.float64
    assert extents.tolist() == [[[3, 4, 3, 4], [9, 7, 9, 7]]] * 2


@pytest.mark.usefixtures("unchecked")
def test_sizes_of_another_number_of_images_are_named():
    sizes = torch.tensor([[4, 3], [7, 9]])
    with pytest.raises(ValueError, match=r"original_hw is one height and width for each of 2 images, got \(1, 2\)"):
        image_extents(sizes, sizes[:1], num_images=2, like=torch.zeros(()))
