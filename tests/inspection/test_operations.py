"""Rewritten operations: every form of a call is seen, in the module alone, and nothing stays behind."""

from __future__ import annotations

from functools import partialmethod

import pytest
import torch
from planted import StripeFinder, stripes_at
from torch import nn
from torch.nn import functional
from torch.testing import assert_close

from detect.inspection.operations import Rewriting, gradient_of, rewritten


class Noted(Rewriting):
    def __init__(self):
        super().__init__()
        self.kinds = []

    def _noted(self, kind, function, *args, **kwargs):
        self.kinds.append(kind)
        return function(*args, **kwargs)

    activation = partialmethod(_noted, "activation")
    convolution = partialmethod(_noted, "convolution")
    add = partialmethod(_noted, "add")
    multiply = partialmethod(_noted, "multiply")
    norm = _noted  # whose first argument is its name


class Calls(nn.Module):
    """One function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, images):
        return self.function(images)


def in_place_add(images):
    images = images * 1
    images += images
    return images


@pytest.mark.parametrize(
    ("function", "kinds"),
    [
        (functional.relu, ["activation"]),
        (lambda x: functional.relu(x + 1, inplace=True), ["add", "activation"]),
        (torch.relu, ["activation"]),
        (lambda x: (x * 2).relu_(), ["multiply", "activation"]),
        (nn.ReLU6(), ["activation"]),
        (nn.SiLU(), ["activation"]),
        (nn.GroupNorm(2, 4), ["group_norm"]),
        (nn.BatchNorm2d(4).eval(), ["batch_norm"]),
        (nn.Conv2d(4, 4, 3), ["convolution"]),
        (nn.Linear(6, 2), ["convolution"]),
        (in_place_add, ["multiply", "add"]),
        (lambda x: torch.add(x, x), ["add"]),
        (lambda x: 1 + x, ["add"]),
        (lambda x: functional.avg_pool2d(x, 2).flatten(), []),
    ],
)
def test_a_call_is_seen_in_all_its_forms(function, kinds):
    module, rules, images = Calls(function), Noted(), torch.rand(2, 4, 6, 6)
    before = module(images)
    with rewritten(module, rules):
        assert_close(module(images), before, rtol=0, atol=0)
    assert rules.kinds == kinds
    module(images)
    assert rules.kinds == kinds  # and no more, afterwards


def test_what_is_computed_outside_the_module_is_not_rewritten():
    module, rules = nn.Identity(), Noted()
    with rewritten(module, rules):
        functional.relu(module(torch.rand(2)) + 1)
    assert rules.kinds == []


def test_an_error_in_the_network_ends_the_rules():
    def fail(images):
        raise RuntimeError("broken")

    module, rules = Calls(fail), Noted()
    with pytest.raises(RuntimeError, match="broken"), rewritten(module, rules):
        module(torch.rand(2))
    torch.rand(2) + 1
    assert rules.kinds == []


def test_weights_are_constants_inside_and_as_before_outside():
    module = StripeFinder()
    module.read.weight.requires_grad_(False)
    with rewritten(module, Rewriting()):
        assert not any(each.requires_grad for each in module.parameters())
        assert not module(stripes_at()[None])[0].requires_grad
    assert [name for name, each in module.named_parameters() if not each.requires_grad] == ["read.weight"]


def test_without_rules_of_its_own_the_gradient_is_the_plain_one():
    module, image = StripeFinder(), stripes_at()
    scalar = lambda images: module(images)[0].sum(dim=(1, 2, 3))  # noqa: E731
    plain = gradient_of(scalar, image)
    with rewritten(module, Rewriting()):
        assert_close(gradient_of(scalar, image), plain)
    assert plain.abs().max() > 0


def test_a_scalar_that_ignores_the_image_has_a_gradient_of_0():
    assert gradient_of(lambda images: torch.ones(1), torch.rand(1, 2, 2)).abs().max() == 0
    assert gradient_of(lambda images: torch.ones(1, requires_grad=True), torch.rand(1, 2, 2)).abs().max() == 0
