"""Names of weights against a table written by hand, and torchvision's own categories."""

from __future__ import annotations

import pytest
import torch
from retinanets import unfilled
from torchvision.models.detection import retinanet

from detect.errors import ConvertError
from detect.interop.weight_names import COCO_IDS, Layout, keys_of
from detect.interop.weights import convert_weights

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


def test_category_ids_are_those_that_torchvision_names() -> None:
    names = retinanet.RetinaNet_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    assert tuple(index for index, name in enumerate(names) if name not in ("__background__", "N/A")) == COCO_IDS
    assert [names[COCO_IDS[row]] for row in (0, 1, 11, 79)] == ["person", "bicycle", "stop sign", "toothbrush"]


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
    with pytest.raises(ConvertError, match=r"head.extra.weight, spare.0, spare.1, spare.2, spare.3, and 5 more"):
        convert_weights(many, "ours")
