"""Why nothing is learned: each fault planted in a small network, and found."""

from __future__ import annotations

import math

import pytest
import torch
from numpy.testing import assert_allclose
from torch import nn
from torch.testing import assert_close

from detect.training.diagnosis import diagnose, is_flat


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU())
        self.head = nn.Conv2d(4, 1, 1)

    def forward(self, images):
        return self.head(self.body(images))


@pytest.fixture
def net() -> Net:
    model, generator = Net(), torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data.normal_(generator=generator)
    return model


def looked_at(model, images=None, *, rate=1e-3, objects=3, cut=False):
    images = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1)) if images is None else images

    def loss():
        output = model(images)
        return (model.head(model.body(images).detach()) if cut else output).square().mean()

    return diagnose(model, loss, images=images, num_objects=objects, learning_rate=rate)


def test_a_healthy_network_has_no_findings_and_its_gradient_norms_are_torchs(net):
    found = looked_at(net)
    assert found.findings == ()
    assert "check the labels" in found.to_text()
    images = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    net(images).square().mean().backward()
    for part in ("body.0", "head"):
        norm = torch.nn.utils.get_total_norm([each.grad for each in net.get_submodule(part).parameters()])
        assert_allclose(found.gradient_norms[part], norm.item(), rtol=1e-5)


def test_gradients_are_as_they_were(net):
    net.head.weight.grad = torch.ones_like(net.head.weight)
    looked_at(net)
    assert_close(net.head.weight.grad, torch.ones_like(net.head.weight), rtol=0, atol=0)
    assert net.body[0].weight.grad is None


def test_dead_units_are_counted(net):
    net.body[0].bias.data = torch.tensor([0.0, -1e3, -1e3, -1e3])
    found = looked_at(net)
    assert found.dead_units == {"body.1": 0.75}
    assert any("75% of the units of body.1" in finding for finding in found.findings)


def test_a_part_without_gradient_is_named(net):
    assert "no gradient reaches body.0" in looked_at(net, cut=True).findings


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(1, 1, 8, 8), "constant, 0 everywhere"),
        (100 * torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)), "not near 0 and 1"),
        (torch.full((1, 1, 8, 8), math.nan), "not finite"),
    ],
)
def test_images_that_say_nothing(net, images, message):
    assert any(message in finding for finding in looked_at(net, images).findings)


@pytest.mark.parametrize(("rate", "word"), [(1e-9, "small"), (3.0, "large")])
def test_steps_of_a_wrong_size(net, rate, word):
    (finding,) = looked_at(net, rate=rate).findings
    assert finding.endswith(f"is too {word}")


def test_a_batch_without_objects(net):
    assert looked_at(net, objects=0).findings == ("no image of the batch has an object",)


def test_flat_is_less_than_one_per_cent_better():
    assert is_flat([1.0, 1.0], epochs=1)
    assert is_flat([1.0, 0.9901], epochs=1)
    assert not is_flat([1.0, 0.98], epochs=1)
    assert not is_flat([1.0, 1.0], epochs=2)  # too early to say
    assert not is_flat([], epochs=1)
    assert not is_flat([1.0, 1.0, 1.0], epochs=2)
    assert is_flat([2.0, 1.0, 1.0, 1.0, 1.0], epochs=2)  # as good as the two before; what came earlier tells nothing
    assert not is_flat([1.1, 0.9, 1.05, 0.9], epochs=2)  # 1.95 after 2.0, though the best is no better
