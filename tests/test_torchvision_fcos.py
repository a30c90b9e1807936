"""torchvision's FCOS with this package's parts gives what torchvision's own gives, and its weights there and back."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from detect.errors import ConvertError
from detect.heads.retinanet import RetinaNetHead
from detect.interop.weights import convert_weights
from detect.ops.boxes import DistanceCoder
from detect.ops.torchvision_import import import_torchvision

import_torchvision()

from retinanets import draw_loudly  # noqa: E402 - after the import above
from torchvision.models.detection.anchor_utils import AnchorGenerator as TorchvisionAnchors  # noqa: E402
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone  # noqa: E402
from torchvision.models.detection.fcos import FCOS, FCOSHead  # noqa: E402 - a class, though in capitals
from torchvision.ops.feature_pyramid_network import LastLevelP6P7  # noqa: E402

from detect.interop.torchvision import BatchDetections, RetinaNet, grid_of, import_head  # noqa: E402


@pytest.fixture(scope="module")
def theirs() -> FCOS:
    """As fcos_resnet50_fpn is put together, on the smallest ResNet; heads loud enough for detections."""
    extra, norm = LastLevelP6P7(256, 256), nn.BatchNorm2d
    backbone = resnet_fpn_backbone(
        backbone_name="resnet18", weights=None, norm_layer=norm, returned_layers=[2, 3, 4], extra_blocks=extra
    )
    generator = TorchvisionAnchors(((8,), (16,), (32,), (64,), (128,)), ((1.0,),) * 5)
    head = FCOSHead(256, 1, 7, num_convs=4)
    model = FCOS(backbone, 7, anchor_generator=generator, head=head, min_size=96, max_size=133)
    draw_loudly(model)
    with torch.no_grad():
        for output in (model.head.classification_head.cls_logits, model.head.regression_head.bbox_reg):
            output.weight *= 0.1
        model.head.regression_head.bbox_reg.bias += 1.5
    return model.eval()


@pytest.fixture
def ours(theirs) -> RetinaNet:
    head = RetinaNetHead(256, 1, 7, norm="group", centerness=True, biased=True)
    model = import_head(theirs, head, grid_of(theirs.anchor_generator))
    state = convert_weights(theirs.state_dict(), "imported").state
    model.load_state_dict(state)
    return model


def images() -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(1)
    return [torch.rand(3, 90, 120, generator=random), torch.rand(3, 100, 80, generator=random)]


@torch.no_grad()
def test_detections_are_torchvisions(theirs, ours):
    expected, found = theirs(images()), ours(images())
    for mine, own in zip(found, expected, strict=True):
        assert len(own["scores"]) > 50
        assert_close(mine["scores"], own["scores"], rtol=1e-4, atol=1e-6)
        assert_close(mine["boxes"], own["boxes"], rtol=1e-4, atol=1e-3)
        assert_close(mine["labels"], own["labels"])


def test_weights_there_and_back_are_the_same_bit_for_bit(theirs):
    state = theirs.state_dict()
    for between in ("ours", "imported"):
        there = convert_weights(state, between)
        assert any("DistanceCoder(activation='relu')" in note for note in there.notes)
        back = convert_weights(there.state, "torchvision").state
        assert_close(back, dict(state), rtol=0, atol=0)
        theirs.load_state_dict(back)


@pytest.mark.parametrize("to", ["detectron2", "mmdet"])
def test_frameworks_whose_fcos_has_no_place_here_are_refused(theirs, to):
    with pytest.raises(ConvertError, match=f"a centerness output, as in FCOS, for which {to} has no place"):
        convert_weights(theirs.state_dict(), to)


def test_it_trains_by_task_aligned_assignment(ours):
    target = {"boxes": torch.tensor([[10.0, 10.0, 60.0, 50.0]]), "labels": torch.tensor([3])}
    losses = ours.train()(images(), [target, target])
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    centerness = ours.head.centerness_outputs[0].weight.grad
    assert float(centerness.abs().sum()) > 0
    ours.eval()


@pytest.mark.slow  # whole detectors are exported in tests/cli/test_export.py
@torch.no_grad()
def test_the_exported_form_detects_the_same(ours):
    batch, image_hw = torch.rand(1, 3, 96, 128, generator=torch.Generator().manual_seed(2)), torch.tensor([[96, 128]])
    program = torch.export.export(BatchDetections(ours).eval(), (batch, image_hw)).module()
    assert_close(tuple(program(batch, image_hw)), tuple(BatchDetections(ours)(batch, image_hw)), rtol=1e-4, atol=1e-3)


def test_distances_are_relus_of_outputs():
    deltas = torch.tensor([[-1.0, 0.0, 0.5, 2.0]])
    anchor = torch.tensor([[4.0, 4.0, 12.0, 12.0]])
    assert DistanceCoder(activation="relu").decode(deltas, anchor).tolist() == [[8.0, 8.0, 12.0, 24.0]]
