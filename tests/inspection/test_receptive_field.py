"""Receptive fields: published figures, gradients, pixels that are not a number, and random networks."""

from __future__ import annotations

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from supports import assert_fields_are_exact, gradient_support, make_visible, said
from torch import nn
from torch.nn import functional

from detect.detectors.external_backbones import import_torchvision
from detect.errors import ConfigError
from detect.inspection.models import NamedMaps, Tap, build_model
from detect.inspection.receptive_field import receptive_fields, track_maps

ALL = Tap(("",), "{}", "C")

# of timm, with random weights, at sizes that no stride divides
GATE = ("resnet18", "mobilenetv3_small_050", "convnext_atto", "shufflenet_v2_x0_5")
SLOW = (
    *("resnet50", "resnetv2_50", "densenet121", "res2net50_14w_8s", "hrnet_w18_small", "dla34", "vgg11", "regnetx_002"),
    *("regnety_002", "mixnet_s", "ghostnet_100", "efficientnet_lite0", "mobilenetv2_050", "resnest14d"),
    "eca_resnet33ts",
    *("convnextv2_atto", "poolformer_s12", "fastvit_t8", "cspdarknet53", "selecsls42", "nf_resnet26", "xception41"),
    *("swin_tiny_patch4_window7_224", "efficientvit_b0", "edgenext_xx_small"),
)


def sizes(maps: NamedMaps) -> list[int]:
    return [field.size[0] for field in receptive_fields(maps)[0]]


def resnet(name: str, *, stride_in_1x1: bool) -> NamedMaps:
    """A ResNet without weights; torchvision's bottlenecks have their stride in the 3 x 3 convolution (v1.5)."""
    with torch.device("meta"):
        model = import_torchvision().models.get_model(name)
    for block in model.modules():
        if stride_in_1x1 and hasattr(block, "conv3"):
            block.conv1.stride, block.conv2.stride = block.conv2.stride, (1, 1)
    return NamedMaps(model, [Tap(("layer1", "layer2", "layer3", "layer4"), "{}", "C")]).eval()


@pytest.mark.parametrize(
    ("name", "stride_in_1x1", "published"),
    [
        ("resnet18", False, [43, 99, 211, 435]),  # basic blocks have no 1 x 1 convolution on their long branch
        ("resnet50", False, [35, 91, 267, 427]),
        ("resnet50", True, [35, 99, 291, 483]),  # He et al. 2016 as published; 483 as in resnet_v1_50
        pytest.param("resnet101", True, [35, 99, 835, 1027], marks=pytest.mark.slow),  # resnet_v1_101
        pytest.param("resnet152", True, [35, 163, 1315, 1507], marks=pytest.mark.slow),  # resnet_v1_152
    ],
)
def test_published_fields_of_residual_networks(name, stride_in_1x1, published):
    assert sizes(resnet(name, stride_in_1x1=stride_in_1x1)) == published


def test_the_published_field_of_vgg_16_is_that_of_its_last_pooling():
    with torch.device("meta"):
        model = import_torchvision().models.get_model("vgg16").features
    assert sizes(NamedMaps(model, [ALL])) == [212]


def test_stride_offset_and_scale_of_a_level():
    net = nn.Sequential(nn.Conv2d(3, 4, 7, stride=2, padding=3), nn.MaxPool2d(3, 2, 1))
    [field] = receptive_fields(NamedMaps(net, [ALL]))[0]
    assert (field.stride, field.offset, field.size) == ((4, 4), (0.5, 0.5), (11, 11))
    assert (field.overlap, field.units_apart) == (1 - 4 / 11, 11 / 4)


def test_fields_grow_linearly_by_convolution_and_double_by_pooling():
    layers: list[nn.Module] = []
    for _ in range(4):
        layers += [nn.Conv2d(1, 1, 3, padding=1), nn.MaxPool2d(2)]
    net = nn.Sequential(*layers)
    pooled = NamedMaps(net, [Tap(tuple(str(index) for index in range(1, 8, 2)))], in_channels=1)
    assert sizes(pooled) == [4, 10, 22, 46]  # f + 3 s, and s doubles
    plain = nn.Sequential(*(nn.Conv2d(1, 1, 3, padding=1) for _ in range(4)))
    assert sizes(NamedMaps(plain, [Tap(tuple("0123"))], in_channels=1)) == [3, 5, 7, 9]


class Residual(nn.Module):
    def __init__(self, branch: nn.Module, how: str = "add") -> None:
        super().__init__()
        self.branch, self.how = branch, how

    def forward(self, cells):
        other = self.branch(cells)
        return cells + other if self.how == "add" else torch.cat([cells, other], dim=1)


class SqueezeExcitation(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weights = nn.Conv2d(channels, channels, 1)

    def forward(self, cells):
        return cells * self.weights(cells.mean((2, 3), keepdim=True)).sigmoid()


def test_the_shortest_path_goes_through_the_shortcut():
    block = Residual(nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1)))
    net = nn.Sequential(nn.Conv2d(2, 2, 3, stride=2, padding=1), block, block)
    [field] = receptive_fields(NamedMaps(net, [ALL], in_channels=2))[0]
    assert (field.size, field.shortest) == ((19, 19), (3, 3))


def test_squeeze_and_excitation_is_global_and_the_field_is_that_without_it():
    net = nn.Sequential(nn.Conv2d(3, 4, 5), SqueezeExcitation(4), nn.Conv2d(4, 4, 3))
    [field], tracked = receptive_fields(NamedMaps(net, [ALL]))
    assert (field.size, field.sees_all, tracked.whole) == ((7, 7), True, ("mean",))
    assert tracked.reach("C0", 0) == ([0] * 506, [511] * 506)


@pytest.mark.parametrize(
    "layer",
    [
        nn.GroupNorm(2, 4),
        nn.InstanceNorm2d(4),
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Upsample(size=(60, 60))),
        nn.LayerNorm([4, 60, 60]),
    ],
)
def test_norms_over_the_image_and_global_pooling_see_all(layer):
    net = nn.Sequential(nn.Conv2d(3, 4, 5), layer)
    [field], tracked = receptive_fields(NamedMaps(net, [Tap(("1",))]), size=64)
    assert field.sees_all
    assert tracked.unknown == ()


def test_attention_over_all_tokens_sees_all_and_its_shortcut_one_patch():
    model = build_model("timm:vit_tiny_patch16_224")
    field = receptive_fields(model.maps, size=224)[0][-1]
    assert (field.size, field.sees_all) == ((16, 16), True)


@pytest.mark.parametrize(
    "word",
    ["torchvision:retinanet_resnet50_fpn", pytest.param("torchvision:fcos_resnet50_fpn", marks=pytest.mark.slow)],
)
def test_towers_add_their_kernels_to_the_field_of_a_pyramids_level(word):
    fields = {field.name: field for field in receptive_fields(build_model(word).maps)[0]}
    grown = {level: fields[f"{level}.classification"].size[0] - fields[level].size[0] for level in ("P3", "P6")}
    assert grown["P6"] == 5 * 2 * 64  # four convolutions and the one that predicts
    # units of P3 see P5's by cells of 32 px: those u - 1 to u + 1 of two cells at most, those u - 6 to u + 6 of four
    assert grown["P3"] == 2 * 32
    assert fields["C5"].size == (427, 427)
    assert fields["P5"].size[0] == 427 + 2 * 32
    assert fields["P3"].size[0] == 427 + 32  # its 3 x 3 reads three cells, which lie over two of C5 at most


class TopDown(nn.Module):
    """A pyramid of two levels over a small backbone, upsampled to the exact size, and a head on both."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.down = nn.Sequential(nn.Conv2d(4, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1))
        self.mix, self.head = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 2, 3, padding=1)
        self.mode = mode

    def forward(self, images):
        fine = self.stem(images)
        coarse = self.down(fine)
        more = {} if self.mode == "nearest" else {"align_corners": False}
        fine = self.mix(fine + functional.interpolate(coarse, size=fine.shape[-2:], mode=self.mode, **more))
        return {"fine": self.head(fine), "coarse": self.head(coarse)}


@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
def test_pyramids_and_heads_by_gradients_at_odd_sizes(mode):
    maps = NamedMaps(make_visible(TopDown(mode)), [ALL])
    tracked = track_maps(maps, (45, 37))
    for name, fields in tracked.fields.items():
        for unit in ((0, 0), (fields.shape[2] // 2, fields.shape[3] // 2), (fields.shape[2] - 1, 1)):
            assert said(tracked, name, unit) == gradient_support(maps, name, unit, (45, 37))


def test_a_part_of_a_map_that_is_written_in_place_changes_the_map():
    class Written(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 2, 5, padding=2)

        def forward(self, images):
            result = images.clone()
            result[:, :1] = self.conv(images)[:, :1]
            return result

    tracked = track_maps(NamedMaps(Written(), [ALL], in_channels=2), (20, 20))
    first, last = tracked.reach("C0", 0)
    assert first[10] <= 8
    assert last[10] >= 12


CHANNELS = 4


@st.composite
def layers(draw) -> nn.Module:
    """A layer from 4 channels to 4: also branches, and what reads across channels or changes the size."""
    kinds = ["conv", "depthwise", "dilated", "pool", "average", "transposed", "nearest", "bilinear", "shuffle"]
    kinds += ["permute", "add", "cat", "excite"]
    kind = draw(st.sampled_from(kinds))
    kernel, stride = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    padding = draw(st.integers(0, kernel // 2))
    window = {"stride": stride, "padding": padding}
    if kind in ("add", "cat"):
        odd = draw(st.sampled_from([1, 3, 5]))
        own = nn.Conv2d(CHANNELS, CHANNELS, odd, padding=odd // 2, groups=draw(st.sampled_from([1, 2, 4])))
        block = Residual(nn.Sequential(own, nn.ReLU()), kind)
        return block if kind == "add" else nn.Sequential(block, nn.Conv2d(2 * CHANNELS, CHANNELS, 1, groups=2))
    simple = {
        "conv": lambda: nn.Conv2d(CHANNELS, CHANNELS, kernel, groups=draw(st.sampled_from([1, 2])), **window),
        "depthwise": lambda: nn.Conv2d(CHANNELS, CHANNELS, kernel, groups=CHANNELS, **window),
        "dilated": lambda: nn.Conv2d(CHANNELS, CHANNELS, kernel, dilation=2, padding=padding),
        "pool": lambda: nn.MaxPool2d(kernel, ceil_mode=draw(st.booleans()), **window),
        "average": lambda: nn.AvgPool2d(kernel, ceil_mode=draw(st.booleans()), **window),
        "transposed": lambda: nn.ConvTranspose2d(CHANNELS, CHANNELS, kernel, stride=min(stride, 2)),
        "nearest": lambda: nn.Upsample(scale_factor=draw(st.sampled_from([1.5, 2, 3]))),
        "bilinear": lambda: nn.Upsample(scale_factor=2, mode="bilinear"),
        "shuffle": lambda: nn.Sequential(nn.ChannelShuffle(2), nn.Conv2d(CHANNELS, CHANNELS, 1, groups=2)),
        "permute": Permuted,
        "excite": lambda: SqueezeExcitation(CHANNELS),
    }
    return simple[kind]()


class Permuted(nn.Module):
    """Channels last and back, with a norm over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(CHANNELS)

    def forward(self, cells):
        return self.norm(cells.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@settings(max_examples=20, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(st.lists(layers(), min_size=1, max_size=4), st.integers(17, 33), st.integers(17, 33))
def test_no_pixel_outside_a_field_changes_the_unit_and_some_pixel_at_each_edge_does(parts, height, width):
    net = nn.Sequential(nn.Conv2d(1, CHANNELS, 3, padding=1), *parts).eval()
    try:
        net(torch.zeros(1, 1, height, width))
    except RuntimeError:  # smaller than a kernel
        return
    maps = NamedMaps(net, [ALL], in_channels=1)
    assert_fields_are_exact(maps, (height, width), units="corners")


EVEN_SIZES = dict.fromkeys(("hrnet_w18_small", "dla34", "swin_tiny_patch4_window7_224"), (160, 96))
"""Sizes of images for networks that take no odd ones."""


@pytest.mark.parametrize("name", [*GATE, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_fields_of_backbones_are_exact(name):
    source = "torchvision" if name.startswith("shufflenet") else "timm"
    assert_fields_are_exact(build_model(f"{source}:{name}").maps, EVEN_SIZES.get(name, (101, 75)))


BY_GRADIENTS = [name for name in SLOW if name != "xception41"]  # whose maps are of activations, which are replaced


@pytest.mark.parametrize("name", ["resnet18", *(pytest.param(name, marks=pytest.mark.slow) for name in BY_GRADIENTS)])
def test_fields_of_backbones_are_where_gradients_are(name):
    maps = build_model(f"timm:{name}").maps
    maps.model, image_hw = make_visible(maps.model), EVEN_SIZES.get(name, (101, 75))
    tracked = track_maps(maps, image_hw)
    for level, fields in tracked.fields.items():
        unit = fields.shape[2] // 2, fields.shape[3] // 2
        assert said(tracked, level, unit) == gradient_support(maps, level, unit, image_hw)


@pytest.mark.slow
@pytest.mark.parametrize(
    "word", ["torchvision:retinanet_resnet50_fpn", "torchvision:fasterrcnn_mobilenet_v3_large_fpn"]
)
def test_fields_of_detectors_are_exact(word):
    assert_fields_are_exact(build_model(word).maps, (133, 105))


def test_an_operator_without_a_rule_sees_all_and_is_named():
    class Sorted(nn.Module):
        def forward(self, images):
            return images.sort(dim=-1).values

    tracked = track_maps(NamedMaps(Sorted(), [ALL]), (16, 16))
    assert tracked.unknown == ("sort",)
    assert tracked.fields["C0"].sees_all


def test_a_network_that_fails_on_a_size_is_one_line():
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Unflatten(2, (31, 2)), nn.Flatten(2, 3))
    with pytest.raises(ConfigError, match="fails on an image of 32 x 32") as error:
        track_maps(NamedMaps(net, [ALL]), (32, 32))
    assert len(str(error.value).splitlines()) == 1


def test_a_map_that_does_not_see_the_image_is_refused():
    class Constant(nn.Module):
        def forward(self, images):
            return torch.zeros(1, 1, 4, 4)

    with pytest.raises(ConfigError, match="'C8' does not depend on the image"):
        track_maps(NamedMaps(Constant(), [ALL]), (32, 32))
