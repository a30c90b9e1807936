"""Sizes of images as text, and rows of layers."""

from __future__ import annotations

import pytest
from torch import nn

from detect.cli.backbone_results import layers_csv, parse_image_size
from detect.errors import ConfigError
from detect.inspection.layers import list_layers


@pytest.mark.parametrize(("text", "shape"), [("224", (3, 224, 224)), ("64x96", (3, 64, 96)), ("1x28x28", (1, 28, 28))])
def test_the_size_of_an_image(text, shape):
    assert parse_image_size(text, 3) == shape


@pytest.mark.parametrize("text", ["", "0x3", "3x", "axb", "1x2x3x4", "-3"])
def test_no_size_of_an_image(text):
    with pytest.raises(ConfigError, match="--size: expected HEIGHTxWIDTH"):
        parse_image_size(text, 3)


def test_a_row_for_each_layer():
    table = list_layers(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()), (1, 8, 8))
    assert layers_csv(table.layers).splitlines()[1:] == [
        "0,Conv2d,1x8x8,2x6x6,3x3,20,(3*3*1 + 1)*2,1296,288",
        "1,ReLU,2x6x6,2x6x6,,0,,0,288",
    ]
