"""Grad-CAM and ODAM by hand, beside Captum's Grad-CAM, and by level."""

from __future__ import annotations

import pytest
import torch
from captum.attr import LayerGradCam
from planted import Answer, StripeFinder, nuclei_image, shipped_retinanet, stripe_answer, stripes_at
from torch import nn
from torch.nn import functional
from torch.testing import assert_close

from detect.inspection.feature_maps import grad_cam, odam
from detect.inspection.targets import class_logit


def test_both_are_their_formulas_on_maps_of_two_cells():
    module = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.Identity()).eval()
    nn.init.ones_(module[0].weight)
    image = torch.tensor([[[1.0, 2.0]]])
    scalar = lambda images: 3 * module(images)[:, 0, 0, 0] - module(images)[:, 0, 0, 1]  # noqa: E731
    first = lambda images: 3 * module(images)[:, 0, 0, 0]  # noqa: E731
    assert_close(odam(module, first, image)[0], torch.tensor([[3.0, 0.0]]))  # gradients 3 and 0
    assert_close(grad_cam(module, first, image)[0], torch.tensor([[1.5, 3.0]]))  # their mean 1.5
    assert sum(each.sum() for each in odam(module, scalar, image)) == 3.0  # -2 is cut off


def test_grad_cam_is_captum_s():
    module, image = StripeFinder(), stripes_at()
    wanted = LayerGradCam(Answer(module, stripe_answer), module.edges).attribute(image[None], relu_attributions=True)
    found = grad_cam(module, stripe_answer(module), image, layer="edges")[0]
    assert_close(found, wanted[0, 0].detach())


def test_a_level_that_did_not_make_the_detection_has_an_empty_map():
    detector, image = shipped_retinanet(), nuclei_image(32)
    num = [3 * (32 // stride) ** 2 for stride in (4, 8, 16)]
    for level, start in enumerate((0, num[0], num[0] + num[1])):
        maps = odam(detector, class_logit(detector, start + 2, 0), image)
        assert len(maps) == 3
        assert [bool(each.any()) for each in maps] == [place == level for place in range(3)]


def test_maps_are_enlarged_to_the_image_bilinearly():
    module = nn.Sequential(nn.Conv2d(1, 1, 2, stride=2, bias=False)).eval()
    nn.init.ones_(module[0].weight)
    image = torch.rand(1, 8, 6, generator=torch.Generator().manual_seed(0))
    cells = functional.avg_pool2d(image[None], 2) * 4
    wanted = functional.interpolate(cells, size=(8, 6), mode="bilinear")[0, 0]
    assert_close(odam(module, lambda images: module(images).sum(dim=(1, 2, 3)), image)[0], wanted)


def test_a_layer_that_is_not_there_is_named():
    module, image = StripeFinder(), stripes_at()
    with pytest.raises(ValueError, match=r"^the network has no module 'neck'$"):
        odam(module, stripe_answer(module), image, layer="neck")
    with pytest.raises(ValueError, match=r"^the network has no convolution"):
        odam(nn.Identity(), lambda images: images.sum(dim=(1, 2, 3)), image)
