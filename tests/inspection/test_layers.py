"""The table of layers: formulas by hand, PyTorch's own counts, lists and mappings of maps."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from detect.detectors.external_backbones import import_torchvision
from detect.errors import ConfigError
from detect.inspection.layers import depth_in_words, list_layers, size_in_words
from detect.inspection.models import build_model


def classic() -> nn.Module:
    """28 x 28: 24 after the first convolution, 12 after pooling, 10 after the second, 5 after pooling: 5 * 5 * 32 = 800."""
    layers = [nn.Conv2d(1, 32, 5), nn.MaxPool2d(2), nn.Conv2d(32, 32, 3), nn.MaxPool2d(2), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(800, 256), nn.Linear(256, 10))


def test_the_classic_network_of_28_x_28_has_217_706_parameters():
    table = list_layers(classic(), (1, 28, 28))
    found = [(layer.parameters, layer.formula) for layer in table.layers if layer.kind != "Flatten"]
    assert found == [
        (832, "(5*5*1 + 1)*32"),
        (0, ""),
        (9_248, "(3*3*32 + 1)*32"),
        (0, ""),
        (205_056, "(800 + 1)*256"),
        (2_570, "(256 + 1)*10"),
    ]
    assert table.parameters == 217_706 == sum(each.numel() for each in classic().parameters())


def test_operations_are_two_for_a_multiplication_and_addition():
    table = list_layers(classic(), (1, 28, 28))
    products = [24 * 24 * 32 * 25, 10 * 10 * 32 * 9 * 32, 800 * 256, 256 * 10]
    assert table.flops == 2 * sum(products)
    assert [layer.flops for layer in table.layers if layer.flops] == [2 * each for each in products]


def test_activations_are_those_of_float32():
    table = list_layers(classic(), (1, 28, 28))
    sizes = [24 * 24 * 32, 12 * 12 * 32, 10 * 10 * 32, 800, 800, 256, 10]
    assert [layer.activation_bytes for layer in table.layers] == [4 * each for each in sizes]
    assert table.activation_bytes == 4 * sum(sizes)


@pytest.mark.parametrize("word", ["torchvision:resnet18", "timm:convnext_atto", "timm:vit_tiny_patch16_224"])
def test_all_parameters_are_counted_once_in_formulas_that_hold(word):
    model = build_model(word)
    table = list_layers(model.module, (3, 224, 224))
    assert table.parameters == sum(each.numel() for each in model.module.parameters())
    assert sum(layer.parameters for layer in table.layers) == table.parameters
    for layer in table.layers:
        assert eval(layer.formula or "0") == layer.parameters, layer.name  # noqa: S307 - arithmetic of this package


@pytest.mark.parametrize(
    ("word", "figure"), [("retinanet_resnet50_fpn", 6_691_415), ("retinanet_resnet50_fpn_v2", 6_693_463)]
)
def test_heads_of_retinanet_for_91_classes_and_9_anchors(word, figure):
    models = import_torchvision().models
    with torch.device("meta"):
        head = models.get_model(word, weights=None, weights_backbone=None).head
    assert sum(each.numel() for each in head.parameters()) == figure
    levels = [(256, size, size) for size in (32, 16, 8, 4, 2)]
    real = type(
        "Levels",
        (nn.Module,),
        {"forward": lambda self, image: self.head([image.new_zeros(1, *each) for each in levels])},
    )()
    real.head = head.to_empty(device="cpu")
    table = list_layers(real, (3, 8, 8))
    assert table.parameters == sum(layer.parameters for layer in table.layers) == figure
    [logits] = [layer for layer in table.layers if layer.name == "head.classification_head.cls_logits"]
    assert logits.outputs == tuple((819, *each[1:]) for each in levels)
    assert logits.parameters == 1_887_795 == (3 * 3 * 256 + 1) * 819


def test_lists_and_mappings_of_maps_are_read():
    class Sum(nn.Module):
        def forward(self, maps):
            return {"sum": maps["a"] + maps["b"][0]}

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.sum = nn.Conv2d(3, 4, 1), Sum()

        def forward(self, image):
            cells = self.conv(image)
            return self.sum({"a": cells, "b": [cells]})

    layer = list_layers(Net(), (3, 6, 5)).layers[-1]
    assert (layer.inputs, layer.outputs) == (((4, 6, 5), (4, 6, 5)), ((4, 6, 5),))


@pytest.mark.parametrize("n", range(7, 30))
@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(1, 1, 3, stride=2, padding=1),
        nn.Conv2d(1, 1, 3, dilation=3),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.MaxPool2d(2, 3, padding=1, ceil_mode=True),
        nn.ConvTranspose2d(1, 1, 3, stride=2, padding=1, output_padding=1),
        nn.AvgPool2d(2),
    ],
)
def test_the_size_in_words_is_the_layers(layer, n):
    made = layer(torch.zeros(1, 1, n, n)).shape[-1]
    assert size_in_words(layer, n).endswith(f" = {made}")


def test_a_filter_is_as_deep_as_its_input():
    assert "each of the 64 filters is 3 deep, 7x7x3" in depth_in_words(nn.Conv2d(3, 64, 7))
    assert depth_in_words(nn.MaxPool2d(2)) == ""


def test_an_image_that_does_not_fit_is_one_line():
    with pytest.raises(ConfigError, match="fails on an image of 1x20x20"):
        list_layers(classic(), (1, 20, 20))


def test_resnet_50_without_weights_in_memory_has_25_557_032_parameters():
    with torch.device("meta"):
        model = import_torchvision().models.get_model("resnet50")
    table = list_layers(model, (3, 224, 224))
    assert sum(layer.parameters for layer in table.layers) == table.parameters == 25_557_032
