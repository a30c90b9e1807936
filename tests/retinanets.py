"""RetinaNets as torchvision, detectron2, mmdetection and this package build them, for tests of converted weights.

detectron2's and mmdetection's are written from their sources: as much of them as names and numbers need.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, max_pool2d
from torch.testing import assert_close
from torchvision.models import resnet
from torchvision.models.detection import retinanet, retinanet_resnet50_fpn, retinanet_resnet50_fpn_v2
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from detect.heads.fpn import FeaturePyramid
from detect.heads.retinanet import RetinaNetHead
from detect.interop.weight_names import COCO_IDS, FRAMEWORKS, Layout, keys_of

State = Mapping[str, Tensor]
MEAN_RGB = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
STD_RGB = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
TINY = Layout((1, 1, 1, 1), bottleneck=False, depth=1, normed=False, biased=True, tracked=False)


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


def draw_loudly(model: nn.Module) -> None:
    """Draw weights with which a network does not compute nearly the same everywhere."""
    random = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 4:
            nn.init.kaiming_normal_(parameter, generator=random)
        elif name.endswith("bias"):
            nn.init.normal_(parameter, std=0.1, generator=random)


def resnet18_fpn() -> nn.Module:
    """torchvision's ResNet-18 with P3 to P7, from random weights."""
    return resnet_fpn_backbone(
        backbone_name="resnet18",
        weights=None,
        norm_layer=nn.BatchNorm2d,
        trainable_layers=5,
        returned_layers=[2, 3, 4],
        extra_blocks=LastLevelP6P7(512, 256),
    )


def resnet18_retinanet() -> nn.Module:
    return retinanet.RetinaNet(resnet18_fpn(), num_classes=91)


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
