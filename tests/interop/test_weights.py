"""Converted weights against torchvision's own networks, and against detectron2's and mmdetection's written from theirs."""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import interpolate, max_pool2d
from torch.testing import assert_close
from torchvision.models import resnet
from torchvision.models.detection import retinanet, retinanet_resnet50_fpn, retinanet_resnet50_fpn_v2
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from detect.errors import ConvertError
from detect.heads.fpn import FeaturePyramid
from detect.heads.retinanet import RetinaNetHead
from detect.interop.weight_names import COCO_IDS, FRAMEWORKS, Layout, keys_of
from detect.interop.weights import convert_weights, load_checkpoint

State = Mapping[str, Tensor]
NAMES = tuple(FRAMEWORKS)
MEAN_RGB = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
STD_RGB = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
TINY = Layout((1, 1, 1, 1), bottleneck=False, depth=1, normed=False, biased=True, tracked=False)


# --- networks of other frameworks, from their sources: as much as names and numbers need ---


class Detectron2Conv(nn.Conv2d):
    """detectron2.layers.Conv2d: the norm is a child of the convolution. Frozen norms: no num_batches_tracked."""

    def __init__(self, d_in: int, d_out: int, size: int, stride: int = 1) -> None:
        super().__init__(d_in, d_out, size, stride, size // 2, bias=False)
        self.norm = FrozenBatchNorm2d(d_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(super().forward(x))


class Detectron2Block(nn.Module):
    def __init__(self, d_in: int, width: int, d_out: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        self.shortcut = Detectron2Conv(d_in, d_out, 1, stride) if d_in != d_out else None
        if bottleneck:
            self.conv1, self.conv2 = Detectron2Conv(d_in, width, 1), Detectron2Conv(width, width, 3, stride)
            self.conv3 = Detectron2Conv(width, d_out, 1)
        else:
            self.conv1, self.conv2, self.conv3 = (
                Detectron2Conv(d_in, width, 3, stride),
                Detectron2Conv(width, d_out, 3),
                None,
            )

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv2(self.conv1(x).relu())
        out = self.conv3(out.relu()) if self.conv3 else out
        return (out + (self.shortcut(x) if self.shortcut else x)).relu()


class Detectron2(nn.Module):
    """RetinaNet of FPN(ResNet), P6 from C5; the stem sees BGR from 0 to 255, less the mean."""

    def __init__(self, blocks: tuple[int, ...], bottleneck: bool, norm: bool = False) -> None:
        super().__init__()
        bottom_up = nn.Module()
        bottom_up.stem = nn.Module()
        bottom_up.stem.conv1 = Detectron2Conv(3, 64, 7, 2)
        self.backbone = nn.Module()
        d = 64
        for stage, number in enumerate(blocks):
            width = 64 * 2**stage
            made = []
            for block in range(number):
                d_out = width * (4 if bottleneck else 1)
                made.append(Detectron2Block(d, width, d_out, 2 if stage and not block else 1, bottleneck))
                d = d_out
            setattr(bottom_up, f"res{stage + 2}", nn.Sequential(*made))
            if stage:
                setattr(self.backbone, f"fpn_lateral{stage + 2}", nn.Conv2d(d, 256, 1))
                setattr(self.backbone, f"fpn_output{stage + 2}", nn.Conv2d(256, 256, 3, padding=1))
        self.backbone.bottom_up = bottom_up
        self.backbone.top_block = nn.Module()
        self.backbone.top_block.p6 = nn.Conv2d(d, 256, 3, 2, 1)
        self.backbone.top_block.p7 = nn.Conv2d(256, 256, 3, 2, 1)
        self.head = nn.Module()
        for tower in ("cls_subnet", "bbox_subnet"):
            layers: list[nn.Module] = []
            for _ in range(4):
                layers.append(nn.Conv2d(256, 256, 3, padding=1))
                layers += [nn.GroupNorm(32, 256), nn.ReLU()] if norm else [nn.ReLU()]
            setattr(self.head, tower, nn.Sequential(*layers))
        self.head.cls_score = nn.Conv2d(256, 9 * 80, 3, padding=1)
        self.head.bbox_pred = nn.Conv2d(256, 9 * 4, 3, padding=1)

    def forward(self, rgb_255: Tensor) -> tuple[Tensor, Tensor]:
        backbone, body = self.backbone, self.backbone.bottom_up
        x = rgb_255.flip(0)[None] - torch.tensor([103.53, 116.28, 123.675])[:, None, None]
        features = [max_pool2d(body.stem.conv1(x).relu(), 3, 2, 1)]
        for stage in (2, 3, 4, 5):
            features.append(getattr(body, f"res{stage}")(features[-1]))
        laterals = [getattr(backbone, f"fpn_lateral{level}")(features[level - 1]) for level in (3, 4, 5)]
        laterals[1] += interpolate(laterals[2], scale_factor=2)
        laterals[0] += interpolate(laterals[1], scale_factor=2)
        levels = [getattr(backbone, f"fpn_output{level}")(laterals[level - 3]) for level in (3, 4, 5)]
        levels.append(backbone.top_block.p6(features[-1]))
        levels.append(backbone.top_block.p7(levels[-1].relu()))
        head = self.head
        logits = [of_anchors(head.cls_score(head.cls_subnet(level)), 80) for level in levels]
        deltas = [of_anchors(head.bbox_pred(head.bbox_subnet(level)), 4) for level in levels]
        return torch.cat(logits), torch.cat(deltas)


class ConvModule(nn.Module):
    """mmcv.cnn.ConvModule; with a norm the convolution has no bias."""

    def __init__(self, d_in: int, d_out: int, size: int, stride: int = 1, norm: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(d_in, d_out, size, stride, size // 2, bias=not norm)
        if norm:
            self.gn = nn.GroupNorm(32, d_out)


class Mmdetection(nn.Module):
    """RetinaNet of ResNet, FPN (start_level=1, on_input, with relu_before_extra_convs) and RetinaHead."""

    def __init__(self, backbone: nn.Module, channels: tuple[int, int, int], norm: bool = False) -> None:
        super().__init__()
        del backbone.fc
        self.backbone = backbone
        self.neck = nn.Module()
        self.neck.lateral_convs = nn.ModuleList([ConvModule(d, 256, 1) for d in channels])
        extra = [ConvModule(channels[-1], 256, 3, 2), ConvModule(256, 256, 3, 2)]
        self.neck.fpn_convs = nn.ModuleList([ConvModule(256, 256, 3) for _ in range(3)] + extra)
        self.bbox_head = nn.Module()
        self.bbox_head.cls_convs = nn.ModuleList([ConvModule(256, 256, 3, norm=norm) for _ in range(4)])
        self.bbox_head.reg_convs = nn.ModuleList([ConvModule(256, 256, 3, norm=norm) for _ in range(4)])
        self.bbox_head.retina_cls = nn.Conv2d(256, 9 * 80, 3, padding=1)
        self.bbox_head.retina_reg = nn.Conv2d(256, 9 * 4, 3, padding=1)

    def forward(self, rgb_255: Tensor) -> tuple[Tensor, Tensor]:
        body, neck, head = self.backbone, self.neck, self.bbox_head
        mean, std = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
        x = body.maxpool(body.relu(body.bn1(body.conv1(((rgb_255 - mean[:, None, None]) / std[:, None, None])[None]))))
        features = []
        for stage in (body.layer1, body.layer2, body.layer3, body.layer4):
            x = stage(x)
            features.append(x)
        laterals = [lateral.conv(feature) for lateral, feature in zip(neck.lateral_convs, features[1:], strict=True)]
        laterals[1] += interpolate(laterals[2], size=laterals[1].shape[2:])
        laterals[0] += interpolate(laterals[1], size=laterals[0].shape[2:])
        levels = [conv.conv(lateral) for conv, lateral in zip(neck.fpn_convs[:3], laterals, strict=True)]
        levels.append(neck.fpn_convs[3].conv(features[-1]))
        levels.append(neck.fpn_convs[4].conv(levels[-1].relu()))

        def run(tower: nn.ModuleList, x: Tensor) -> Tensor:
            for module in tower:
                x = module.conv(x)
                x = (module.gn(x) if hasattr(module, "gn") else x).relu()
            return x

        logits = [of_anchors(head.retina_cls(run(head.cls_convs, level)), 80) for level in levels]
        deltas = [of_anchors(head.retina_reg(run(head.reg_convs, level)), 4) for level in levels]
        return torch.cat(logits), torch.cat(deltas)


class Ours(nn.Module):
    """This package's pyramid and head on torchvision's ResNet."""

    def __init__(self, backbone: nn.Module, channels: tuple[int, int, int], norm: str | None = None) -> None:
        super().__init__()
        del backbone.fc
        self.backbone = backbone
        self.pyramid = FeaturePyramid(channels)
        self.head = RetinaNetHead(256, 9, 91, norm=norm)

    def forward(self, rgb_255: Tensor) -> tuple[Tensor, Tensor]:
        body = self.backbone
        x = body.maxpool(body.relu(body.bn1(body.conv1(((rgb_255 / 255 - MEAN_RGB) / STD_RGB)[None]))))
        features = []
        for stage in (body.layer1, body.layer2, body.layer3, body.layer4):
            x = stage(x)
            features.append(x)
        out = self.head(self.pyramid(features[1:]))
        return out.logits[0].reshape(-1, 9, 91)[..., COCO_IDS], out.deltas[0].reshape(-1, 9, 4)


def torchvision_outputs(model: nn.Module, rgb_255: Tensor) -> tuple[Tensor, Tensor]:
    features = model.backbone(((rgb_255 / 255 - MEAN_RGB) / STD_RGB)[None])
    out = model.head(list(features.values()))
    return out["cls_logits"][0].reshape(-1, 9, 91), out["bbox_regression"][0].reshape(-1, 9, 4)


def of_anchors(output: Tensor, values: int) -> Tensor:
    """(1, 9 * values, h, w) to (h * w, 9, values)."""
    return output.reshape(9, values, -1).permute(2, 0, 1)


def unfilled(name: str) -> nn.Module:
    """A network without numbers, on the meta device."""
    makers: dict[str, Callable[[], nn.Module]] = {
        "torchvision v1": lambda: retinanet_resnet50_fpn(weights=None, weights_backbone=None),
        "torchvision v2": lambda: retinanet_resnet50_fpn_v2(weights=None, weights_backbone=None),
        "torchvision 18": resnet18_retinanet,
        "detectron2": lambda: Detectron2((3, 4, 6, 3), bottleneck=True),
        "detectron2 101": lambda: Detectron2((3, 4, 23, 3), bottleneck=True),
        "detectron2 18": lambda: Detectron2((2, 2, 2, 2), bottleneck=False),
        "detectron2 GN": lambda: Detectron2((3, 4, 6, 3), bottleneck=True, norm=True),
        "mmdet": lambda: Mmdetection(resnet.resnet50(), (512, 1024, 2048)),
        "mmdet GN": lambda: Mmdetection(resnet.resnet50(), (512, 1024, 2048), norm=True),
        "mmdet 18": lambda: Mmdetection(resnet.resnet18(), (128, 256, 512)),
        "ours GN": lambda: Ours(resnet.resnet50(), (512, 1024, 2048), norm="group"),
        "ours 18": lambda: Ours(resnet.resnet18(), (128, 256, 512)),
    }
    with torch.device("meta"):
        return makers[name]().eval()


@cache
def built(name: str) -> tuple[nn.Module, dict[str, Tensor]]:
    """A network, and random weights for it that keep signals alive."""
    model, random, state = unfilled(name), torch.Generator().manual_seed(0), {}
    for key, value in model.state_dict().items():
        if not value.is_floating_point():
            state[key] = torch.zeros(value.shape, dtype=value.dtype)
            continue
        gain = math.sqrt(3 / value[0].numel()) if value.ndim == 4 else 1.0
        state[key] = torch.empty(value.shape).uniform_(-gain, gain, generator=random)
        if key.endswith("running_var") or (value.ndim == 1 and key.endswith("weight")):
            state[key] = state[key].abs() + 0.5
    return model, state


def resnet18_retinanet() -> nn.Module:
    backbone = resnet_fpn_backbone(
        backbone_name="resnet18",
        weights=None,
        norm_layer=nn.BatchNorm2d,
        trainable_layers=5,
        returned_layers=[2, 3, 4],
        extra_blocks=LastLevelP6P7(512, 256),
    )
    return retinanet.RetinaNet(backbone, num_classes=91)


def with_weights(model: nn.Module, state: State) -> nn.Module:
    model.load_state_dict(state, strict=True, assign=True)
    return model


def tiny(name: str, anchors: int, classes: int, layout: Layout = TINY) -> dict[str, Tensor]:
    """A state of the smallest shapes that pass, whose outputs for anchor a and class c are 100 * a + c."""
    state = {key: torch.ones(2) for key in keys_of(name, layout)}
    body, extra, outputs = FRAMEWORKS[name].body, FRAMEWORKS[name].extra, FRAMEWORKS[name].outputs
    state[f"{body('conv1')}.weight"] = torch.arange(1.0, 7.0).reshape(2, 3, 1, 1)
    state[f"{extra[0]}.weight"] = torch.ones(2, 4, 1, 1)
    for output, values in zip(outputs, (classes, 4), strict=True):
        numbers = 100.0 * torch.arange(anchors)[:, None] + torch.arange(values)
        state[f"{output}.bias"] = numbers.flatten()
        state[f"{output}.weight"] = numbers.reshape(-1, 1, 1, 1).repeat(1, 2, 1, 1)
    return state


def assert_same(state: State, expected: State, rtol: float = 0) -> None:
    assert state.keys() == expected.keys()
    for key, tensor in expected.items():
        if state[key] is not tensor:
            assert_close(state[key], tensor, rtol=rtol, atol=0)


def noted(notes: tuple[str, ...], *words: str) -> bool:
    return any(all(word in note for word in words) for note in notes)


# --- by hand ---

TABLE = """
ours                                   torchvision                                   detectron2                                      mmdet
backbone.conv1.weight                  backbone.body.conv1.weight                    backbone.bottom_up.stem.conv1.weight            backbone.conv1.weight
backbone.bn1.running_mean              backbone.body.bn1.running_mean                backbone.bottom_up.stem.conv1.norm.running_mean backbone.bn1.running_mean
backbone.layer1.0.conv1.weight         backbone.body.layer1.0.conv1.weight           backbone.bottom_up.res2.0.conv1.weight          backbone.layer1.0.conv1.weight
backbone.layer1.0.bn3.bias             backbone.body.layer1.0.bn3.bias               backbone.bottom_up.res2.0.conv3.norm.bias       backbone.layer1.0.bn3.bias
backbone.layer2.0.downsample.0.weight  backbone.body.layer2.0.downsample.0.weight    backbone.bottom_up.res3.0.shortcut.weight       backbone.layer2.0.downsample.0.weight
backbone.layer4.0.downsample.1.weight  backbone.body.layer4.0.downsample.1.weight    backbone.bottom_up.res5.0.shortcut.norm.weight  backbone.layer4.0.downsample.1.weight
backbone.layer3.5.bn2.running_var      backbone.body.layer3.5.bn2.running_var        backbone.bottom_up.res4.5.conv2.norm.running_var backbone.layer3.5.bn2.running_var
pyramid.lateral.0.weight               backbone.fpn.inner_blocks.0.0.weight          backbone.fpn_lateral3.weight                    neck.lateral_convs.0.conv.weight
pyramid.lateral.2.bias                 backbone.fpn.inner_blocks.2.0.bias            backbone.fpn_lateral5.bias                      neck.lateral_convs.2.conv.bias
pyramid.output.1.weight                backbone.fpn.layer_blocks.1.0.weight          backbone.fpn_output4.weight                     neck.fpn_convs.1.conv.weight
pyramid.extra.0.weight                 backbone.fpn.extra_blocks.p6.weight           backbone.top_block.p6.weight                    neck.fpn_convs.3.conv.weight
pyramid.extra.1.bias                   backbone.fpn.extra_blocks.p7.bias             backbone.top_block.p7.bias                      neck.fpn_convs.4.conv.bias
head.class_tower.convs.0.weight        head.classification_head.conv.0.0.weight      head.cls_subnet.0.weight                        bbox_head.cls_convs.0.conv.weight
head.class_tower.convs.3.bias          head.classification_head.conv.3.0.bias        head.cls_subnet.6.bias                          bbox_head.cls_convs.3.conv.bias
head.box_tower.convs.1.weight          head.regression_head.conv.1.0.weight          head.bbox_subnet.2.weight                       bbox_head.reg_convs.1.conv.weight
head.class_outputs.0.weight            head.classification_head.cls_logits.weight    head.cls_score.weight                           bbox_head.retina_cls.weight
head.box_outputs.0.bias                head.regression_head.bbox_reg.bias            head.bbox_pred.bias                             bbox_head.retina_reg.bias
"""  # noqa: E501
NORMED = """
ours                            torchvision                              detectron2                  mmdet
head.class_tower.convs.1.weight head.classification_head.conv.1.0.weight head.cls_subnet.3.weight    bbox_head.cls_convs.1.conv.weight
head.class_tower.norms.1.weight head.classification_head.conv.1.1.weight head.cls_subnet.4.weight    bbox_head.cls_convs.1.gn.weight
head.box_tower.norms.3.bias     head.regression_head.conv.3.1.bias       head.bbox_subnet.10.bias    bbox_head.reg_convs.3.gn.bias
"""  # noqa: E501


@pytest.mark.parametrize(("table", "normed"), [(TABLE, False), (NORMED, True)])
def test_names_are_those_of_a_table_written_by_hand(table: str, normed: bool) -> None:
    layout = Layout((3, 4, 6, 3), bottleneck=True, depth=4, normed=normed, biased=not normed, tracked=False)
    frameworks, *rows = [line.split() for line in table.strip().splitlines()]
    keys = [keys_of(name, layout) for name in frameworks]
    for row in rows:
        assert tuple(row) in set(zip(*keys, strict=True))


def test_anchors_of_two_sizes_and_three_ratios_change_places() -> None:
    # detectron2 counts anchors size by size: s0r0 s0r1 s0r2 s1r0 s1r1 s1r2 are 0 to 5, and here class 1 of a is 100a + 1.
    # torchvision counts ratio by ratio: r0s0 r0s1 r1s0 r1s1 r2s0 r2s1 are detectron2's 0 3 1 4 2 5.
    converted = convert_weights(
        tiny("detectron2", anchors=6, classes=2), "torchvision", num_sizes=2, num_ratios=3
    ).state
    expected = [0, 1, 300, 301, 100, 101, 400, 401, 200, 201, 500, 501]
    assert converted["head.classification_head.cls_logits.bias"].tolist() == expected
    assert converted["head.classification_head.cls_logits.weight"][:, 1, 0, 0].tolist() == expected
    assert converted["head.regression_head.bbox_reg.bias"].reshape(6, 4)[:, 3].tolist() == [3, 303, 103, 403, 203, 503]
    back = convert_weights(converted, "detectron2", num_sizes=2, num_ratios=3).state
    assert back["head.cls_score.bias"].tolist() == tiny("detectron2", 6, 2)["head.cls_score.bias"].tolist()


def test_mmdetection_and_ours_count_anchors_as_torchvision_does() -> None:
    for to in ("mmdet", "ours"):
        converted = convert_weights(tiny("torchvision", anchors=9, classes=2), to).state
        assert_close(
            converted[f"{FRAMEWORKS[to].outputs[0]}.bias"], tiny(to, 9, 2)[f"{FRAMEWORKS[to].outputs[0]}.bias"]
        )


def test_class_rows_go_from_category_ids_to_their_order_and_back() -> None:
    state = tiny("torchvision", anchors=9, classes=91)
    rows = convert_weights(state, "mmdet").state["bbox_head.retina_cls.bias"].reshape(9, 80)
    # row 0 is category 1; no category is 12, so row 11 is 13; the last is 90. Anchor 2 has 200 added
    assert rows[0, [0, 10, 11, 79]].tolist() == [1, 11, 13, 90]
    assert rows[2, [0, 10, 11, 79]].tolist() == [201, 211, 213, 290]
    back = convert_weights(convert_weights(state, "mmdet").state, "torchvision").state
    slots = back["head.classification_head.cls_logits.bias"].reshape(9, 91)
    assert slots[2, [1, 13, 90]].tolist() == [201, 213, 290]
    assert_close(slots[:, [0, 12, 83]].sigmoid(), torch.full((9, 3), 0.01))
    weights = back["head.classification_head.cls_logits.weight"].reshape(9, 91, 2)
    assert weights[:, [0, 12, 83]].abs().max() == 0
    assert weights[2, 13].tolist() == [213, 213]


def test_category_ids_are_those_that_torchvision_names() -> None:
    names = retinanet.RetinaNet_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    assert tuple(index for index, name in enumerate(names) if name not in ("__background__", "N/A")) == COCO_IDS
    assert [names[COCO_IDS[row]] for row in (0, 1, 11, 79)] == ["person", "bicycle", "stop sign", "toothbrush"]


def test_stem_sees_the_same_pixel_in_blue_green_red() -> None:
    # weights (1, 2, 3) for R, G, B in units of 1/58.395, 1/57.12, 1/57.375 of the pixel less the mean, then B, G, R
    converted = convert_weights(tiny("torchvision", 9, 91), "detectron2").state["backbone.bottom_up.stem.conv1.weight"]
    assert_close(converted[0].flatten(), torch.tensor([3 / 57.375, 2 / 57.12, 1 / 58.395]))


def test_eps_goes_into_the_scale_of_a_batch_norm() -> None:
    # scale / sqrt(3e-5 + 0) with eps 0 is scale * sqrt(4e-5 / 3e-5) / sqrt(3e-5 + 1e-5) with eps 1e-5; 1e-12 likewise
    state = tiny("torchvision", 9, 91)
    state["backbone.body.bn1.weight"] = torch.tensor([2.0, 2.0])
    state["backbone.body.bn1.running_var"] = torch.tensor([3e-5, 1e-12])
    converted = convert_weights(state, "ours", source_eps=0.0)
    expected = 2 * torch.tensor([math.sqrt(4 / 3), math.sqrt(10_000_001.0)])
    assert_close(converted.state["backbone.bn1.weight"], expected)
    assert_close(converted.state["backbone.bn1.running_var"], state["backbone.body.bn1.running_var"], rtol=0, atol=0)
    assert noted(converted.notes, "sqrt((var + 1e-05) / (var + 0))")
    state["backbone.body.bn1.running_var"] = torch.tensor([1.0, 0.0])
    with pytest.raises(ConvertError, match="no variance"):
        convert_weights(state, "ours", source_eps=0.0)


# --- whole networks ---


@pytest.mark.parametrize("name", ["torchvision v1", "torchvision v2", "detectron2", "mmdet GN"])
@pytest.mark.parametrize("to", NAMES)
def test_there_and_back_is_the_identity(name: str, to: str) -> None:
    source = name.partition(" ")[0]
    state = dict(built(name)[1])
    outputs = FRAMEWORKS[source].outputs
    if source == "torchvision":  # rows of no category come back as they are when nothing is learnt
        for kind, fill in (("weight", 0.0), ("bias", -math.log(99))):
            key = f"{outputs[0]}.{kind}"
            state[key] = state[key].clone()
            state[key].unflatten(0, (9, 91))[:, sorted(set(range(91)) - set(COCO_IDS))] = fill
    back = convert_weights(convert_weights(state, to).state, source).state
    stem = f"{FRAMEWORKS[source].body('conv1')}.weight"
    assert_close(back[stem], state[stem], rtol=3e-7, atol=0)  # two roundings, where it was scaled
    assert_same(back | {stem: state[stem]}, state)


@pytest.mark.parametrize("name", ["torchvision v1", "torchvision v2"])
def test_torchvision_loads_what_comes_back_from_all_others_and_computes_the_same(name: str) -> None:
    model, state = built(name)
    image = 255 * torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        logits, deltas = torchvision_outputs(with_weights(model, state), image)
        assert logits.std() > 0.1
        round_trip = state
        for via in ("detectron2", "ours", "mmdet"):
            round_trip = convert_weights(convert_weights(round_trip, via).state, "torchvision").state
        same_logits, same_deltas = torchvision_outputs(with_weights(model, round_trip), image)
    assert_close(same_logits[..., COCO_IDS], logits[..., COCO_IDS], rtol=1e-4, atol=1e-4)
    assert_close(same_deltas, deltas, rtol=1e-4, atol=1e-4)


def test_every_framework_computes_the_same_from_the_same_pixels() -> None:
    model, state = built("torchvision 18")
    image = 255 * torch.rand(3, 64, 96, generator=torch.Generator().manual_seed(2))
    # detectron2's anchor of size s and ratio r is 3s + r, torchvision's 3r + s
    orders = {"ours": range(9), "mmdet": range(9), "detectron2": [3 * s + r for r in range(3) for s in range(3)]}
    with torch.inference_mode():
        logits, deltas = torchvision_outputs(with_weights(model, state), image)
        assert logits.std() > 0.1
        for name, order in orders.items():
            other = with_weights(unfilled(f"{name} 18"), convert_weights(state, name).state)
            their_logits, their_deltas = other(image)
            assert_close(their_logits[:, list(order)], logits[..., COCO_IDS], rtol=1e-4, atol=1e-4)
            assert_close(their_deltas[:, list(order)], deltas, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["detectron2", "detectron2 101", "detectron2 18", "mmdet", "mmdet 18"])
def test_every_depth_of_resnet_is_read_from_its_keys(name: str) -> None:
    state = unfilled(name).state_dict()
    ours = convert_weights(state, "ours").state
    assert len(ours) == len(state)
    back = convert_weights(ours, name.partition(" ")[0]).state
    assert {key: tensor.shape for key, tensor in back.items()} == {key: tensor.shape for key, tensor in state.items()}


def test_group_norms_move_into_detectron2_with_biases_of_zero_and_out_again() -> None:
    converted = convert_weights(built("torchvision v2")[1], "detectron2")
    assert converted.state.keys() == unfilled("detectron2 GN").state_dict().keys()
    assert converted.state["head.cls_subnet.9.bias"].abs().max() == 0
    assert noted(converted.notes, "added as zeros", "8 biases before a GroupNorm")
    assert noted(converted.notes, "MODEL.RETINANET.NORM: GN")
    ours = convert_weights(built("torchvision v2")[1], "ours").state
    assert ours.keys() == unfilled("ours GN").state_dict().keys()
    assert noted(convert_weights(converted.state, "mmdet").notes, "dropped", "8 biases before a GroupNorm")
    biased = dict(converted.state) | {"head.cls_subnet.9.bias": torch.ones(256)}
    with pytest.raises(ConvertError, match=r"head.class_tower.convs.3.bias .* not zero: torchvision has no bias"):
        convert_weights(biased, "torchvision")


def test_names_of_old_torchvision_checkpoints_are_read() -> None:
    state = unfilled("torchvision v1").state_dict()
    old = {re.sub(r"(_blocks\.\d)\.0", r"\1", key): tensor for key, tensor in state.items()}
    for index in range(4):
        old = {key.replace(f"_head.conv.{index}.0.", f"_head.conv.{2 * index}."): tensor for key, tensor in old.items()}
    assert "head.classification_head.conv.6.weight" in old
    assert "backbone.fpn.layer_blocks.2.bias" in old
    assert_same(convert_weights(old, "ours").state, convert_weights(state, "ours").state)


# --- properties and limits ---


@given(sizes=st.integers(1, 4), ratios=st.integers(1, 4), classes=st.integers(1, 5), to=st.sampled_from(NAMES))
def test_any_numbers_of_sizes_ratios_and_classes_come_back(sizes: int, ratios: int, classes: int, to: str) -> None:
    state = tiny("detectron2", sizes * ratios, classes)
    there = convert_weights(state, to, num_sizes=sizes, num_ratios=ratios).state
    back = convert_weights(there, "detectron2", num_sizes=sizes, num_ratios=ratios).state
    assert_same(back, state, rtol=3e-7)


def test_free_shapes_keep_their_order() -> None:
    converted = convert_weights(tiny("detectron2", 5, 2), "ours", num_sizes=5, num_ratios=1).state
    assert_close(
        converted["head.class_outputs.0.bias"], tiny("ours", 5, 2)["head.class_outputs.0.bias"], rtol=0, atol=0
    )


@pytest.mark.parametrize(
    ("source", "rows", "to", "asked", "expected"),
    [
        ("torchvision", 91, "detectron2", None, 80),
        ("torchvision", 91, "detectron2", 91, 91),
        ("torchvision", 91, "ours", None, 91),
        ("torchvision", 91, "ours", 80, 80),
        ("ours", 80, "torchvision", None, 91),
        ("ours", 91, "mmdet", None, 80),
        ("detectron2", 80, "torchvision", 80, 80),
        ("detectron2", 91, "mmdet", None, 91),  # 91 classes of its own
        ("torchvision", 80, "detectron2", None, 80),
        ("mmdet", 3, "torchvision", None, 3),
    ],
)
def test_rows_of_classes_follow_the_frameworks_and_the_wish(
    source: str, rows: int, to: str, asked: int | None, expected: int
) -> None:
    converted = convert_weights(tiny(source, 9, rows), to, num_classes=asked)
    assert len(converted.state[f"{FRAMEWORKS[to].outputs[0]}.bias"]) == 9 * expected


def test_inputs_are_not_mutated_and_unchanged_tensors_are_shared() -> None:
    state = tiny("torchvision", 9, 91)
    before = {key: tensor.clone() for key, tensor in state.items()}
    converted = convert_weights(state, "detectron2", source_eps=0.0).state
    assert_same(state, before)
    assert converted["backbone.fpn_lateral3.bias"] is state["backbone.fpn.inner_blocks.0.0.bias"]


def test_half_precision_stays_half() -> None:
    state = {key: tensor.half() for key, tensor in tiny("torchvision", 9, 80).items()}
    assert {tensor.dtype for tensor in convert_weights(state, "detectron2").state.values()} == {torch.float16}


def test_buffers_that_are_made_again_are_dropped_with_a_count() -> None:
    state = tiny("detectron2", 9, 80)
    state |= {f"anchor_generator.cell_anchors.{level}": torch.ones(9, 4) for level in range(5)}
    state |= {"pixel_mean": torch.ones(3, 1, 1), "pixel_std": torch.ones(3, 1, 1)}
    assert noted(convert_weights(state, "ours").notes, "dropped: 5 anchor_generator, 1 pixel_mean, 1 pixel_std")


def test_counters_of_batches_are_dropped_and_added() -> None:
    there = convert_weights(unfilled("torchvision v1").state_dict(), "detectron2")
    assert noted(there.notes, "dropped: 53 num_batches_tracked")  # 1 + 3 * 16 + 4 batch norms
    back = convert_weights(there.state, "mmdet")
    assert noted(back.notes, "added as zeros: 53 num_batches_tracked")
    assert back.state["backbone.bn1.num_batches_tracked"].dtype == torch.int64
    assert not any("num_batches" in key for key in convert_weights(there.state, "ours").state)


# --- what is said ---


@pytest.mark.parametrize(
    ("name", "to", "words"),
    [
        ("torchvision v1", "detectron2", ["P6 is computed from P5", "LastLevelP6P7(256, 256, in_feature='p5')"]),
        ("torchvision v1", "mmdet", ["P6 is computed from P5", "on_output"]),
        ("torchvision v1", "mmdet", ["relu_before_extra_convs=True"]),
        ("torchvision v1", "detectron2", ["STRIDE_IN_1X1: False"]),
        ("torchvision v1", "detectron2", ["eps of the source taken as 1e-05"]),
        ("torchvision v1", "detectron2", ["the 11 that no category has are left out"]),
        ("torchvision v1", "detectron2", ["ratios by sizes to sizes by ratios"]),
        ("torchvision v1", "ours", ["91 rows pass unchanged"]),
        ("torchvision v1", "ours", ["generate them as torchvision does", "convention='torchvision'"]),
        ("detectron2", "ours", ["generate them as detectron2 does", "convention='mmdet'"]),
        ("torchvision v2", "ours", ["RetinaNetHead(norm='group')"]),
        ("torchvision v2", "mmdet", ["GroupNorm", "type='GN', num_groups=32"]),
        ("torchvision v2", "detectron2", ["stem", "now wants BGR from 0 to 255"]),
        ("detectron2", "torchvision", ["stem", "taken to want BGR", "now wants RGB"]),
        ("detectron2", "torchvision", ["stride", "conv1.stride, layer[0].conv2.stride = (2, 2), (1, 1)"]),
        ("detectron2", "torchvision", ["get weight 0 and the bias of a score of 0.01"]),
        ("detectron2", "torchvision", ["no function of torchvision's makes this"]),
        ("mmdet", "detectron2", ["P7", "no ReLU", "LastLevelP6P7"]),
        ("mmdet", "ours", ["P7", "no ReLU", "relu_before_p7=False"]),
        ("mmdet", "ours", ["P6 is computed from C5", "FeaturePyramid(extra='c5')"]),
    ],
)
def test_what_weights_cannot_carry_is_said(name: str, to: str, words: list[str]) -> None:
    notes = convert_weights(unfilled(name).state_dict(), to).notes
    assert noted(notes, *words), notes


def test_a_conversion_to_the_same_framework_says_nothing_and_does_nothing() -> None:
    state = unfilled("mmdet").state_dict()
    converted = convert_weights(state, "mmdet")
    assert_same(converted.state, state)
    assert converted.notes == ()


def test_towers_of_another_depth_are_told() -> None:
    assert noted(convert_weights(tiny("ours", 9, 80), "detectron2").notes, "have 1 convolutions, not 4: set NUM_CONVS")


def test_the_builder_of_torchvision_is_named() -> None:
    for name, builder in (("v1", "retinanet_resnet50_fpn("), ("v2", "retinanet_resnet50_fpn_v2(")):
        ours = convert_weights(unfilled(f"torchvision {name}").state_dict(), "ours").state
        assert noted(convert_weights(ours, "torchvision").notes, f"build: {builder}")


def test_coco_v1_is_taken_to_have_an_eps_of_zero() -> None:
    frozen = {key: tensor for key, tensor in built("torchvision v1")[1].items() if "num_batches" not in key}
    converted = convert_weights(frozen, "ours")
    assert noted(converted.notes, "eps of the source taken as 0")
    same = convert_weights(frozen, "torchvision").state
    assert_same({key: same[key] for key in frozen}, frozen)
    variance, scale = (frozen[f"backbone.body.bn1.{what}"] for what in ("running_var", "weight"))
    mine = converted.state["backbone.bn1.weight"] / (variance + 1e-5).sqrt()
    assert_close(mine, scale / variance.sqrt(), rtol=1e-6, atol=0)
    assert_same(
        convert_weights(frozen, "ours", source_eps=1e-5, num_classes=91).state,
        converted.state
        | {
            key: frozen[key.replace("backbone.", "backbone.body.")]
            for key in converted.state
            if key.startswith("backbone.")
        },
    )


def test_a_stem_of_caffe_in_mmdetection_is_told_by_the_caller() -> None:
    state = tiny("mmdet", 9, 80)
    there = convert_weights(state, "detectron2", source_input="bgr").state["backbone.bottom_up.stem.conv1.weight"]
    assert_close(there, state["backbone.conv1.weight"], rtol=0, atol=0)
    assert noted(convert_weights(state, "ours", source_input="bgr").notes, "taken to want BGR")


# --- refusals ---


def test_keys_without_a_place_and_missing_keys_are_named() -> None:
    state = dict(unfilled("detectron2").state_dict())
    state["head.extra.weight"] = torch.ones(1)
    del state["backbone.bottom_up.res4.2.conv1.weight"]
    with pytest.raises(ConvertError) as caught:
        convert_weights(state, "ours")
    assert "detectron2" in str(caught.value)
    assert "keys without a place: head.extra.weight" in str(caught.value)
    assert "missing keys: backbone.bottom_up.res4.2.conv1.weight" in str(caught.value)
    del state["head.extra.weight"]
    with pytest.raises(ConvertError, match=r"names it: missing keys: backbone.bottom_up.res4.2.conv1.weight$"):
        convert_weights(state, "ours")
    many = state | {"head.extra.weight": torch.ones(1)} | {f"spare.{index}": torch.ones(1) for index in range(9)}
    with pytest.raises(ConvertError, match=r"head.extra.weight, spare.0, spare.1, spare.2, spare.3 and 5 more"):
        convert_weights(many, "ours")


@pytest.mark.parametrize(
    ("state", "options", "message"),
    [
        ({"fc.weight": torch.ones(1)}, {}, r"not a RetinaNet of a known framework: saw fc.weight; looked for"),
        ({}, {}, "saw no keys"),
        (tiny("ours", 9, 80), {"to": "keras"}, "to='keras'"),
        (tiny("ours", 9, 80), {"source": "keras"}, "source='keras'"),
        (tiny("ours", 9, 80), {"source_input": "grey"}, "source_input='grey'"),
        (tiny("ours", 9, 80), {"source": "torchvision"}, "not a ResNet RetinaNet as torchvision names it"),
        (tiny("ours", 9, 80), {"num_sizes": 2}, "720 outputs for classes and 36 for boxes do not fit 6 anchors"),
        (tiny("ours", 9, 80), {"num_sizes": 0}, "do not fit 0 anchors"),
        (tiny("ours", 9, 80), {"num_classes": 20}, "80 rows of classes cannot become 20"),
        (tiny("ours", 9, 3), {"num_classes": 91}, "3 rows of classes cannot become 91"),
        (tiny("ours", 9, 80) | {"head.class_outputs.1.weight": torch.ones(2)}, {}, "head.class_outputs.1.weight"),
        (tiny("ours", 9, 80) | {"backbone.conv1.weight": torch.ones(2, 1, 1, 1)}, {}, "the stem takes 1 channels"),
    ],
)
def test_what_cannot_be_converted_is_refused(state: State, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConvertError, match=message):
        convert_weights(state, **({"to": "torchvision"} | options))


# --- files ---


@pytest.mark.parametrize(
    "wrap", [lambda s: s, lambda s: {"model": s, "epoch": 3}, lambda s: {"state_dict": s, "meta": {}}]
)
def test_a_checkpoint_is_read_and_unwrapped(tmp_path: Path, wrap: Callable[[State], Any]) -> None:
    state = {"a.weight": torch.arange(3.0), "a.bias": torch.ones(())}
    torch.save(wrap(state), tmp_path / "file.pth")
    assert_same(load_checkpoint(tmp_path / "file.pth"), state)


def test_files_that_hold_no_state_are_refused_in_one_line(tmp_path: Path) -> None:
    whole = tmp_path / "whole.pth"
    torch.save({"a": torch.arange(1000.0)}, whole)
    legacy = tmp_path / "whole_legacy.pth"
    torch.save({"a": torch.arange(9.0)}, legacy, _use_new_zipfile_serialization=False)
    numpy_pickle = pickle.dumps({"model": {"a": np.ones(3)}}, protocol=2)  # torch.load warns of others
    cases: dict[str, tuple[bytes, str]] = {
        "model_final.pkl": (numpy_pickle, "torch.save"),
        "renamed.pth": (numpy_pickle, "not a file of tensors alone"),
        "plain.pth": (pickle.dumps({"a": 1}, protocol=2), "not a file of tensors alone"),
        "empty.pth": (b"", "not a file of tensors alone"),
        "text.pth": (b"version https://git-lfs.github.com/spec/v1\n", "not a file of tensors alone"),
        "legacy.pth": (legacy.read_bytes()[:19], "not a file of tensors alone"),  # struct.error in torch.load
        "half.pth": (whole.read_bytes()[:2000], "not a file of tensors alone"),
    }
    for name, (content, message) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ConvertError, match=message) as caught:
            load_checkpoint(tmp_path / name)
        assert "\n" not in str(caught.value)
        assert name in str(caught.value)


def test_code_in_a_file_does_not_run(tmp_path: Path) -> None:
    class Touch:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "touched",)

    torch.save({"model": {"a": torch.ones(1)}, "more": Touch()}, tmp_path / "file.pth")
    with pytest.raises(ConvertError, match="not a file of tensors alone"):
        load_checkpoint(tmp_path / "file.pth")
    assert not (tmp_path / "touched").exists()


def test_files_of_other_things_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "file.pth"
    with pytest.raises(ConvertError, match="No such file"):
        load_checkpoint(path)
    with pytest.raises(ConvertError, match="Is a directory"):
        load_checkpoint(tmp_path)
    for content, message in (([torch.ones(1)], "holds a list"), ({"epoch": 3}, "'epoch' is not the name of a tensor")):
        torch.save(content, path)
        with pytest.raises(ConvertError, match=message):
            load_checkpoint(path)


def test_the_advice_for_a_pickle_of_detectron2_works(tmp_path: Path) -> None:
    path = tmp_path / "model_final.pkl"
    path.write_bytes(pickle.dumps({"model": {"a": np.arange(3.0, dtype=np.float32)}}))
    with pytest.raises(ConvertError) as caught:
        load_checkpoint(path)
    advice = str(caught.value).partition("if you trust it: ")[2].replace("weights.pth", str(tmp_path / "weights.pth"))
    exec(advice, {"torch": torch, "pickle": pickle, "Path": Path, "path": path})  # noqa: S102 - the text is what a user would paste
    assert_same(load_checkpoint(tmp_path / "weights.pth"), {"a": torch.arange(3.0)})
