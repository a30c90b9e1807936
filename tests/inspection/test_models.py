"""Models by words, and the names of their maps."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from detect.detectors.backbones import build_backbone
from detect.detectors.landmarks import LandmarkDetector
from detect.errors import ConfigError, DetectError
from detect.inspection.models import NamedMaps, Tap, build_model, model_of

LEVELS = ["P3", "P4", "P5", "P6", "P7"]


@pytest.mark.parametrize("word", ["tiny", "torchvision:resnet18", "timm:resnet18"])
def test_backbones_have_maps_c2_to_c5(word):
    model = build_model(word)
    maps = model.maps(torch.zeros(1, 3, 64, 96))
    assert {name: cells.shape[-2:] for name, cells in maps.items()} == {
        "C2": (16, 24),
        "C3": (8, 12),
        "C4": (4, 6),
        "C5": (2, 3),
    }
    assert not model.module.training


def test_the_module_of_a_backbone_is_the_whole_network():
    assert build_model("torchvision:resnet18").module(torch.zeros(1, 3, 64, 64)).shape == (1, 1000)


def test_a_detector_of_torchvision_has_maps_levels_and_what_its_heads_predict():
    names = build_model("torchvision:retinanet_resnet50_fpn").maps.names
    assert names == [
        "C3",
        "C4",
        "C5",
        *LEVELS,
        *(f"{level}.classification" for level in LEVELS),
        *(f"{level}.boxes" for level in LEVELS),
    ]


def test_a_trained_landmark_detector_has_its_heatmap():
    detector = LandmarkDetector(build_backbone("tiny", strides=(2, 4), in_channels=1))
    assert model_of("mine", detector).maps.names == ["C1", "C2", "P1", "P1.heatmap"]


def test_a_callable_is_called_and_its_weights_are_read(tmp_path, monkeypatch):
    (tmp_path / "own_network.py").write_text(
        "from torch import nn\ndef build():\n    return nn.Sequential(nn.Conv2d(1, 2, 3, stride=2, padding=1))\n",
        "utf-8",
    )
    monkeypatch.chdir(tmp_path)
    weights = {"0.weight": torch.ones(2, 1, 3, 3), "0.bias": torch.zeros(2)}
    torch.save(weights, tmp_path / "own.pt")
    model = build_model("own_network:build", weights=tmp_path / "own.pt")
    assert (model.in_channels, model.maps.names) == (1, ["C1"])
    assert_close(model.maps(torch.ones(1, 1, 4, 4))["C1"][0, 0, 1, 1], torch.tensor(9.0))
    torch.save({"0.weight": torch.ones(5, 1, 3, 3)}, tmp_path / "own.pt")
    with pytest.raises(ConfigError, match="weights do not fit"):
        build_model("own_network:build", weights=tmp_path / "own.pt")


def test_a_layer_that_is_called_twice_has_two_maps_and_a_copy_of_each():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(3, 3, 1)

        def forward(self, images):
            return self.layer(self.layer(images).relu_())

    network = Twice()
    maps = NamedMaps(network, [Tap(("layer",))])
    assert maps.names == ["layer", "layer-2"]
    images = torch.randn(1, 3, 4, 4)
    assert_close(maps(images)["layer"], network.layer(images))


def test_layers_are_reached_by_name():
    maps = build_model("torchvision:resnet18").layers(["layer1.0.conv2", "conv1"])
    assert list(maps(torch.zeros(1, 3, 32, 32))) == ["layer1.0.conv2", "conv1"]


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("resnet50", "no model 'resnet50': need tiny"),
        ("timm:no_such", "timm has no such model"),
        ("torchvision:no_such", "torchvision has no such"),
        ("no_such_module:build", "no module 'no_such_module'"),
        ("math:no_such", "has no attribute 'no_such'"),
        ("torch.nn:Conv2d", "cannot be built"),
        ("os:getcwd", "expected a torch module, got str"),
    ],
)
def test_a_bad_word_is_one_line(word, reason):
    with pytest.raises(DetectError, match=reason) as error:
        build_model(word)
    assert "\n" not in str(error.value)


def test_a_layer_that_does_not_exist_is_named_with_those_like_it():
    with pytest.raises(ConfigError, match=r"no layer 'layr1' in the model: did you mean layer1"):
        build_model("torchvision:resnet18").layers(["layr1"])


def test_a_model_without_maps_says_so():
    flat = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(ConfigError, match="'flat': the model returns no map"):
        _ = model_of("flat", flat).maps
