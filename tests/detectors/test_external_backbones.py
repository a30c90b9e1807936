"""Backbones from timm and torchvision, reduced to the layers that the maps need."""

from __future__ import annotations

import copy
import socket
import sys
import time
from importlib import import_module

import pytest
import torch
from builders import random_images
from torch import nn
from torch.testing import assert_close

from detect.detectors.backbones import build_backbone
from detect.errors import ConfigError, MissingExtraError
from detect.ops.torchvision_import import import_torchvision

EXTERNAL = ["timm:resnet18", "torchvision:resnet18"]


def test_weights_that_no_map_needs_are_not_trained():
    """timm keeps the whole of a MobileNet: what lies behind the last map would get no gradient."""
    backbone = build_backbone("timm:mobilenetv3_small_050", strides=(4, 8), seed=0)
    sum(cells.sum() for cells in backbone(torch.ones(2, 3, 64, 64))).backward()
    idle = [parameter for parameter in backbone.parameters() if parameter.grad is None]
    assert idle
    assert not any(parameter.requires_grad for parameter in idle)


@pytest.mark.parametrize("name", EXTERNAL)
def test_channels_and_strides_are_read_from_the_model(name):
    """He et al. 2016, table 1: 64, 64, 128, 256 and 512 channels at strides 2 to 32."""
    backbone = build_backbone(name, strides=(2, 4, 8, 16, 32, 64), in_channels=1, seed=0).eval()
    assert backbone.strides == (2, 4, 8, 16, 32)
    assert backbone.channels == (64, 64, 128, 256, 512)
    shapes = [tuple(cells.shape) for cells in backbone(torch.zeros(1, 1, 50, 70))]
    assert shapes == [(1, 64, 25, 35), (1, 64, 13, 18), (1, 128, 7, 9), (1, 256, 4, 5), (1, 512, 2, 3)]


def test_torchvision_s_maps_are_the_stages_of_its_network():
    models = import_torchvision().models
    backbone = build_backbone("torchvision:resnet18", strides=(2, 4, 8, 16, 32), seed=0).eval()
    whole = models.resnet18(weights=None).eval()
    missing, unknown = whole.load_state_dict(backbone.model.state_dict(), strict=False)
    assert (set(missing), unknown) == ({"fc.weight", "fc.bias"}, [])
    images = random_images(1, 3, 64, 96)
    expected = images
    stem, first = nn.Sequential(whole.conv1, whole.bn1, whole.relu), nn.Sequential(whole.maxpool, whole.layer1)
    stages = (stem, first, whole.layer2, whole.layer3, whole.layer4)
    for cells, stage in zip(backbone(images), stages, strict=True):
        expected = stage(expected)
        assert_close(cells, expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "strides"),
    [
        ("timm:convnext_atto", (4, 8, 16, 32)),
        ("timm:swin_tiny_patch4_window7_224", (4, 8, 16, 32)),  # channels last, and made for one size
        ("timm:vit_tiny_patch16_224", (16,)),
        ("timm:hrnet_w18_small", (2, 4, 8, 16, 32)),  # needs multiples of 32 pixels
        ("torchvision:mobilenet_v3_small", (2, 4, 8, 16, 32)),
        ("torchvision:convnext_tiny", (4, 8, 16, 32)),  # cuts sizes down
        ("torchvision:vgg11", (2, 4, 8, 16, 32)),
    ],
)
def test_networks_of_all_kinds_keep_the_promise_on_sizes(name, strides):
    backbone = build_backbone(name, strides=strides, in_channels=2, seed=0).eval()
    assert backbone.strides == strides
    with torch.no_grad():
        maps = backbone(torch.zeros(1, 2, 50, 100))
    expected = [
        (channels, -(-50 // stride), -(-100 // stride))
        for channels, stride in zip(backbone.channels, strides, strict=True)
    ]
    assert [tuple(cells.shape[1:]) for cells in maps] == expected


def test_pretrained_weights_read_grey_images_as_colours_that_are_equal(monkeypatch):
    models = import_torchvision().models
    colour = models.resnet18(weights=None)
    asked = []
    monkeypatch.setattr(models, "get_model", lambda name, weights: asked.append(weights) or copy.deepcopy(colour))
    grey = random_images(1, 1, 32, 32)
    maps = [
        build_backbone("torchvision:resnet18", strides=(4,), in_channels=channels, pretrained=True).eval()(
            grey.expand(-1, channels, -1, -1)
        )[0]
        for channels in (3, 1, 5)
    ]
    assert asked == ["DEFAULT"] * 3
    assert_close(maps[1], maps[0])
    assert_close(maps[2], maps[0])


def test_weights_that_cannot_be_downloaded_are_reported_in_one_line(monkeypatch):
    models = import_torchvision().models

    def offline(name, weights):
        raise OSError("no route to host\nand more")

    monkeypatch.setattr(models, "get_model", offline)
    with pytest.raises(
        ConfigError, match=r"weights are not available \(no route to host\): set model\.weights=FILE or"
    ):
        build_backbone("torchvision:resnet18", strides=(4,), pretrained=True)


def test_without_a_connection_the_hub_s_cache_is_read_and_nothing_is_waited_for(monkeypatch):
    hub, timm = import_module("huggingface_hub.constants"), import_module("timm")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # nobody listens
        monkeypatch.setattr(hub, "ENDPOINT", f"http://127.0.0.1:{closed.getsockname()[1]}")
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", False)
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    create, asked = timm.create_model, []

    def cached(name, *, pretrained=False, **options):
        asked.append((pretrained, hub.HF_HUB_OFFLINE))
        return create(name, pretrained=False, **options)

    monkeypatch.setattr(timm, "create_model", cached)
    build_backbone("timm:resnet18", strides=(4,), pretrained=True)
    assert asked == [(False, False), (True, True)]
    monkeypatch.setattr(timm, "create_model", create)
    message = r"127\.0\.0\.1:\d+ cannot be reached\): set model\.weights=FILE or model\.pretrained=false$"
    began = time.monotonic()
    with pytest.raises(ConfigError, match=message):
        build_backbone("timm:resnet18", strides=(4,), pretrained=True)
    assert time.monotonic() - began < 20  # huggingface_hub alone tries for a minute
    assert not hub.HF_HUB_OFFLINE


def test_a_package_that_is_missing_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingExtraError, match=r"timm is not installed.*backbones"):
        build_backbone("timm:resnet18", strides=(4,))


@pytest.mark.slow
def test_networks_without_maps_of_any_size_are_refused():
    with pytest.raises(ConfigError, match=r"no maps for images of any size: Wrong image height"):
        build_backbone("torchvision:vit_b_16", strides=(16,))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm:resnet17", "timm has no such model"),
        ("torchvision:resnet17", "torchvision has no such classification network"),
        ("torchvision:retinanet_resnet50_fpn", "torchvision has no such classification network"),
    ],
)
def test_names_that_a_package_does_not_know_are_refused(name, message):
    with pytest.raises(ConfigError, match=message):
        build_backbone(name, strides=(4,))
