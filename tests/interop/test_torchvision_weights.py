"""A detector's weights find the same objects in torchvision's own RetinaNet."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from torchvision.models.detection import anchor_utils, retinanet
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from detect.anchors.anchor_set import AnchorSet
from detect.detectors.backbones import build_backbone
from detect.detectors.retinanet import RetinaNetDetector
from detect.errors import ConvertError
from detect.heads.postprocess import PostProcess
from detect.interop.torchvision_weights import torchvision_weights

SIZES = (16, 20, 24)  # halves are whole, so torchvision's rounding does nothing
STRIDES = (8, 16, 32, 64, 128)
SCORE = 0.2


def on_a_resnet(norm: str | None = None, num_classes: int = 3) -> RetinaNetDetector:
    """A detector as torchvision builds one, with anchors where torchvision puts them."""
    shapes = [[(size * stride / 8, size * stride / 8) for size in SIZES] for stride in STRIDES]
    detector = RetinaNetDetector(
        build_backbone("torchvision:resnet18", strides=STRIDES, seed=0),
        AnchorSet.of(shapes, strides=STRIDES, center_offset=0.0),
        num_classes,
        pyramid_channels=256,
        num_convs=4,
        norm=norm,
        mean=(0.4, 0.5, 0.6),
        std=(0.2, 0.3, 0.25),
        post_process=PostProcess(score_threshold=SCORE),
        seed=0,
    )
    for output in detector.head.class_outputs:  # scores on both sides of the threshold, none too near to another
        nn.init.normal_(output.weight, std=0.04 if norm else 0.7, generator=torch.Generator().manual_seed(0))
    return detector


def torchvision_network(norm: str | None, num_classes: int) -> nn.Module:
    backbone = resnet_fpn_backbone(
        backbone_name="resnet18",
        weights=None,
        norm_layer=nn.BatchNorm2d,
        trainable_layers=5,
        returned_layers=[2, 3, 4],
        extra_blocks=LastLevelP6P7(512, 256),
    )
    anchors = anchor_utils.AnchorGenerator(
        sizes=tuple(tuple(size * stride // 8 for size in SIZES) for stride in STRIDES), aspect_ratios=((1.0,),) * 5
    )
    head = retinanet.RetinaNetHead(256, 3, num_classes, norm_layer=norm and partial(nn.GroupNorm, 32))
    size = {"min_size": 128, "max_size": 256, "score_thresh": SCORE}
    means = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.25]}
    return retinanet.RetinaNet(backbone, num_classes, anchor_generator=anchors, head=head, **size, **means)


@pytest.mark.parametrize("norm", [None, "group"])
def test_in_torchvision_s_network_the_weights_find_the_same(norm):
    detector, other = on_a_resnet(norm), torchvision_network(norm, 3)
    converted = torchvision_weights(detector)
    other.load_state_dict(converted.state)
    images = torch.rand(1, 3, 128, 256, generator=torch.Generator().manual_seed(1))
    (found,) = detector.eval().detect(images, torch.tensor([[128, 256]]))
    with torch.no_grad():
        (expected,) = other.eval()([images[0]])
    assert 10 < len(found.scores) < 300
    assert_close(found.scores, expected["scores"], rtol=1e-4, atol=1e-5)
    assert_close(found.boxes, expected["boxes"], rtol=1e-4, atol=1e-2)
    assert_close(found.classes, expected["labels"])
    assert "image_mean=[0.4" in "\n".join(converted.notes)
    assert "detect anchors convert" in "\n".join(converted.notes)


def test_classes_are_not_taken_for_coco_s():
    """80 classes stay 80 rows: torchvision's 91 are for weights of COCO alone."""
    state = torchvision_weights(on_a_resnet(num_classes=80)).state
    assert len(state["head.classification_head.cls_logits.bias"]) == 3 * 80


def test_what_torchvision_cannot_hold_is_named():
    small = build_backbone("tiny", strides=(8, 16, 32))
    shapes = [[(8, 8)]] * 5
    with pytest.raises(ConvertError, match="stands on one of its ResNets, this one on 'tiny'"):
        torchvision_weights(RetinaNetDetector(small, AnchorSet.of(shapes, strides=STRIDES), 1))
    resnet = build_backbone("torchvision:resnet18", strides=(8, 16, 32))
    with pytest.raises(ConvertError, match=r"this one has \(8, 16\)"):
        torchvision_weights(RetinaNetDetector(resnet, AnchorSet.of(shapes[:2], strides=(8, 16)), 1))
    uneven = AnchorSet.of([*shapes[:4], [(8, 8), (9, 9)]], strides=STRIDES)
    with pytest.raises(ConvertError, match=r"this one \[1, 1, 1, 1, 2\]"):
        torchvision_weights(RetinaNetDetector(resnet, uneven, 1, post_process=PostProcess()))
