"""torchvision's RetinaNet with this package's parts gives what torchvision's own gives."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from detect.anchors.anchor_set import AnchorSet
from detect.anchors.generator import AnchorGenerator
from detect.detectors.backbones import build_backbone
from detect.detectors.retinanet import RetinaNetDetector
from detect.errors import ConvertError
from detect.heads.postprocess import PostProcess
from detect.heads.retinanet import RetinaNetHead
from detect.ops.torchvision_import import import_torchvision

import_torchvision()

from retinanets import draw_loudly, resnet18_fpn  # noqa: E402 - after the import above
from torchvision.models.detection.anchor_utils import AnchorGenerator as TorchvisionAnchors  # noqa: E402
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone  # noqa: E402
from torchvision.models.detection.retinanet import RetinaNet  # noqa: E402
from torchvision.models.detection.retinanet import RetinaNetHead as TorchvisionHead  # noqa: E402
from torchvision.ops.feature_pyramid_network import LastLevelP6P7  # noqa: E402

from detect.interop.torchvision import STRIDES, BatchDetections, grid_of, import_head, torchvision_weights  # noqa: E402

SIZES = tuple((x, int(x * 2 ** (1 / 3)), int(x * 2 ** (2 / 3))) for x in (32, 64, 128, 256, 512))
WHOLE_SIZES = (16, 20, 24)  # halves are whole, so torchvision's rounding does nothing
SCORE = 0.2


def torchvision_model(version: str = "v1") -> RetinaNet:
    """As retinanet_resnet50_fpn and its v2 are put together, on the smallest ResNet; heads loud enough for detections."""
    extra = LastLevelP6P7(256, 256) if version == "v1" else LastLevelP6P7(512, 256)
    backbone = resnet_fpn_backbone(
        backbone_name="resnet18", weights=None, returned_layers=[2, 3, 4], extra_blocks=extra, trainable_layers=5
    )
    norm = partial(nn.GroupNorm, 32) if version == "v2" else None
    head = TorchvisionHead(256, 9, 7, norm_layer=norm)
    if version == "v2":
        head.regression_head._loss_type = "giou"
    generator = TorchvisionAnchors(SIZES, ((0.5, 1.0, 2.0),) * 5)
    model = RetinaNet(backbone, 7, anchor_generator=generator, head=head, min_size=96, max_size=133)
    draw_loudly(model)
    with torch.no_grad():  # so that scores are neither all alike nor all 1
        model.head.classification_head.cls_logits.weight *= 0.02
        model.head.regression_head.bbox_reg.weight *= 0.02
    return model


def head_with_weights_of(model: RetinaNet, version: str) -> RetinaNetHead:
    """By hand, layer by layer: the names of the two have nothing in common."""
    head = RetinaNetHead(256, 9, 7, norm="group" if version == "v2" else None)
    for tower, theirs in (
        (head.class_tower, model.head.classification_head.conv),
        (head.box_tower, model.head.regression_head.conv),
    ):
        for index, block in enumerate(theirs):
            tower.convs[index].load_state_dict(block[0].state_dict())
            if version == "v2":
                tower.norms[index].load_state_dict(block[1].state_dict())
    head.class_outputs[0].load_state_dict(model.head.classification_head.cls_logits.state_dict())
    head.box_outputs[0].load_state_dict(model.head.regression_head.bbox_reg.state_dict())
    return head


def images_and_targets() -> tuple[list[torch.Tensor], list[dict[str, torch.Tensor]]]:
    random = torch.Generator().manual_seed(1)
    images = [torch.rand(3, 121, 97, generator=random), torch.rand(3, 75, 133, generator=random)]
    boxes = torch.tensor([[5.0, 5.0, 60.0, 50.0], [40.0, 60.0, 90.0, 118.0], [2.0, 80.0, 9.0, 110.0]])
    targets = [
        {"boxes": boxes, "labels": torch.tensor([1, 6, 3])},
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
    ]
    return images, targets


@pytest.fixture(scope="module", params=["v1", "v2"])
def pair(request) -> tuple[RetinaNet, RetinaNet]:
    theirs = torchvision_model(request.param)
    head = head_with_weights_of(theirs, request.param)
    return theirs, import_head(theirs, head, grid_of(theirs.anchor_generator))


def test_losses_and_their_gradients_are_torchvisions(pair):
    theirs, ours = pair
    images, targets = images_and_targets()
    gradients = []
    for model in (theirs.train(), ours.train()):
        theirs.backbone.zero_grad()
        losses = model(images, copy.deepcopy(targets))
        sum(losses.values()).backward()
        gradients.append((losses, theirs.backbone.body.conv1.weight.grad.clone()))
    (their_losses, their_gradient), (our_losses, our_gradient) = gradients
    assert set(our_losses) == set(their_losses)
    for name, loss in their_losses.items():
        assert_close(our_losses[name], loss, rtol=1e-5, atol=1e-6)
    assert_close(our_gradient, their_gradient, rtol=1e-3, atol=1e-4 * their_gradient.abs().max().item())


def test_detections_are_torchvisions(pair):
    theirs, ours = (
        copy.deepcopy(model).double().eval() for model in pair
    )  # so that no processor's rounding reorders them
    images = [image.double() for image in images_and_targets()[0]]
    with torch.no_grad():
        expected, found = theirs(images), ours(images)
    assert sum(len(each["scores"]) for each in expected) > 50
    for each, other in zip(found, expected, strict=True):
        assert_close(each["scores"], other["scores"], rtol=1e-4, atol=1e-6)
        # scores that differ in the last digit may change places: each of ours is one of theirs and the other way
        apart = (each["boxes"][:, None] - other["boxes"]).abs().amax(dim=2)
        apart += 1000 * (each["labels"][:, None] != other["labels"])
        assert apart.amin(dim=1).max() < 1e-3
        assert apart.amin(dim=0).max() < 1e-3


def test_a_batch_of_resized_images_gives_the_model_s_own_detections(pair):
    ours = copy.deepcopy(pair[1]).eval()
    ours.post_process = replace(ours.post_process, detections_per_image=50)
    images = [torch.rand(3, *hw, generator=torch.Generator().manual_seed(0)) for hw in ((96, 128), (96, 97), (70, 133))]
    canvas = torch.zeros(3, 3, 96, 160)  # as the transform pads, to a multiple of 32
    for place, image in zip(canvas, images, strict=True):
        place[:, : image.shape[1], : image.shape[2]] = image
    with torch.no_grad():
        expected = ours(images)
        found = BatchDetections(ours)(canvas, torch.tensor([image.shape[1:] for image in images]))
    assert sum(len(each["scores"]) for each in expected) > 50
    for index, each in enumerate(expected):
        valid = found.valid[index]
        assert_close(found.boxes[index, valid], each["boxes"])
        assert_close(found.scores[index, valid], each["scores"])
        assert_close(found.classes[index, valid], each["labels"])


# in a process of its own: what is exported is the code without the tests' checks of shapes
EXPORTED = """
import os, sys, textwrap, warnings
from collections import OrderedDict
from detect.ops.torchvision_import import import_torchvision
import_torchvision()
import onnxruntime, torch
from torch import nn
from torch.testing import assert_close
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.retinanet import RetinaNet
from detect import RetinaNetHead
from detect.interop.torchvision import BatchDetections, grid_of, import_head
warnings.simplefilter("ignore")

class Backbone(nn.Module):
    out_channels = 16

    def __init__(self):
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(3, 16, 9, 8, 4), nn.Conv2d(16, 16, 3, 2, 1)

    def forward(self, images):
        fine = self.fine(images)
        return OrderedDict(fine=fine, coarse=self.coarse(fine.relu()))

random = torch.Generator().manual_seed(0)
anchors = AnchorGenerator(((20, 30), (60, 80)), ((0.5, 1.0, 2.0),) * 2)
theirs = RetinaNet(Backbone(), 3, anchor_generator=anchors, score_thresh=0.9, nms_thresh=0.1, detections_per_img=30)
head = RetinaNetHead(16, 6, 3, num_convs=0, prior=0.3, generator=random)
nn.init.normal_(head.class_outputs[0].weight, std=0.1, generator=random)
nn.init.normal_(head.box_outputs[0].weight, std=0.02, generator=random)
model = import_head(theirs, head, grid_of(anchors, strides=(8, 16))).eval()

os.chdir(sys.argv[1])
code = import_head.__doc__.partition("::\\n")[2].partition("Raises:")[0]
with torch.no_grad():
    exec(textwrap.dedent(code))
    session = onnxruntime.InferenceSession("retinanet.onnx")
    for b in (1, 3):
        images, image_hw = torch.rand(b, 3, 256, 320, generator=random), torch.tensor([[256, 300]] * b)
        got = session.run(None, {"images": images.numpy(), "image_hw": image_hw.numpy()})
        expected = BatchDetections(model)(images, image_hw)
        assert expected.valid.sum() > 5 * b and not expected.valid.all(), expected.valid.sum()
        for mine, wanted in zip(got, expected, strict=True):
            assert_close(torch.as_tensor(mine), wanted, rtol=1e-4, atol=1e-3)
"""


@pytest.mark.slow
def test_the_docstring_exports_the_whole_model_for_batches_of_any_number(tmp_path, fresh_python):
    pytest.importorskip("onnxruntime")
    fresh_python(EXPORTED, tmp_path)


def test_strides_that_contradict_the_backbone_s_maps_are_named():
    model = torchvision_model().eval()
    head = RetinaNetHead(256, 9, num_classes=7)
    wrong = import_head(model, head, grid_of(model.anchor_generator, strides=(4, 8, 16, 32, 64)))
    with pytest.raises(
        ValueError, match=r"level P2: stride 4 contradicts .* on an input of 96 x 96, which is at stride 8"
    ):
        wrong([torch.rand(3, 96, 96)])
    two = grid_of(model.anchor_generator).select_levels([0, 1])
    turned = import_head(model, head, two, levels=(1, 0))
    with pytest.raises(ValueError, match=r"level P3: stride 8 contradicts a feature map of 6 x 6 cells"):
        turned([torch.rand(3, 96, 96)])


def test_a_fitted_set_with_its_own_number_of_anchors_on_each_level_and_levels_left_out():
    anchors = AnchorSet.of([[(10, 14), (24, 20)], [(60, 50), (40, 70), (90, 80)]], strides=(8, 32))
    grid = AnchorGenerator(anchors)
    head = RetinaNetHead(256, grid.num_anchors, num_classes=7)
    model = import_head(torchvision_model(), head, grid, levels=(0, 2))
    images, targets = images_and_targets()
    losses = model.train()(images, targets)
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert head.class_outputs[1].weight.grad.abs().sum() > 0
    with torch.no_grad():
        found = model.eval()(images)
    assert [set(each) for each in found] == [{"boxes", "scores", "labels"}] * 2
    state = model.state_dict()
    again = import_head(torchvision_model(), RetinaNetHead(256, grid.num_anchors, num_classes=7), grid, levels=(0, 2))
    again.load_state_dict(state)
    with torch.no_grad():
        for each, other in zip(again.eval()(images), found, strict=True):
            assert_close(each["scores"], other["scores"])


def test_crowds_are_no_instances_and_no_background():
    model = import_head(
        torchvision_model(), RetinaNetHead(256, 9, num_classes=7), grid_of(torchvision_model().anchor_generator)
    )
    images, targets = images_and_targets()
    plain = model.train()(images, targets)
    crowd = [dict(targets[0], iscrowd=torch.tensor([0, 1, 0])), targets[1]]
    with_crowd = model(images, crowd)
    without = model(images, [{name: rows[[0, 2]] for name, rows in targets[0].items()}, targets[1]])
    assert with_crowd["bbox_regression"] == without["bbox_regression"] != plain["bbox_regression"]
    assert with_crowd["classification"] < without["classification"]  # fewer negatives, the same positives


@pytest.fixture(scope="module")
def imported() -> RetinaNet:
    """A model in training."""
    model = torchvision_model()
    return import_head(model, RetinaNetHead(256, 9, num_classes=7), grid_of(model.anchor_generator)).train()


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        # as torchvision's own check, which import_head leaves behind; the row is the user's, crowds counted
        ({"boxes": [[40.0, 60.0, 40.0, 58.0]]}, r"box 2 is \[40\.0, 60\.0, 40\.0, 58\.0\], need finite x0 < x1"),
        ({"labels": [7]}, "the class of box 2 is 7, need a class from 0 to 6"),
        ({"iscrowd": []}, r"3 labels, but iscrowd is \(2,\)"),
    ],
)
def test_targets_that_cannot_be_learned_are_named_by_image_and_row(imported, change, message):
    rows = {
        "boxes": [[5.0, 5.0, 60.0, 50.0], [2.0, 80.0, 9.0, 110.0]],
        "labels": [1, 6],
        "iscrowd": [1, 0],
    }
    last = {"boxes": [[40.0, 60.0, 90.0, 118.0]], "labels": [3], "iscrowd": [0]} | change
    images, targets = images_and_targets()
    wrong = {name: torch.tensor([*rows[name], *last[name]]) for name in rows}
    with pytest.raises(ValueError, match=f"^targets of image 1: {message}"):
        imported(images, [targets[0], wrong])


@pytest.mark.parametrize("count", [1, 3])
def test_targets_of_another_number_of_images_are_refused(imported, count):
    images, targets = images_and_targets()
    with pytest.raises(ValueError, match=f"targets of {count} images for 2 images"):
        imported(images, [targets[0]] * count)


def test_labels_may_be_int32_and_no_boxes_an_empty_list(imported):
    images, targets = images_and_targets()
    expected = imported(images, copy.deepcopy(targets))
    first = dict(targets[0], labels=targets[0]["labels"].int())
    losses = imported(images, [first, {"boxes": torch.tensor([]), "labels": torch.tensor([])}])
    assert_close(losses, expected)


def test_mistakes_are_named_with_their_numbers():
    model = torchvision_model()
    head, grid = RetinaNetHead(256, 9, num_classes=7), grid_of(model.anchor_generator)
    with pytest.raises(ValueError, match=r"\(6, 6, 6, 6, 6\) anchors per cell of each level, got \(9, 9, 9, 9, 9\)"):
        import_head(model, RetinaNetHead(256, 6, num_classes=7), grid)
    with pytest.raises(ValueError, match="2 levels of the backbone for anchors on 5"):
        import_head(model, head, grid, levels=(0, 1))
    in_training, images = import_head(model, head, grid).train(), [torch.rand(3, 64, 64)]
    with pytest.raises(ValueError, match="targets are missing"):
        in_training(images)
    with pytest.raises(ValueError, match="targets of image 0 have no labels"):
        in_training(images, [{"boxes": torch.tensor([[5.0, 5.0, 60.0, 50.0]])}])
    fewer = import_head(model, head, grid.select_levels([0, 1, 2]))
    with pytest.raises(ValueError, match="5 feature levels for anchors on 3"):
        fewer.eval()([torch.rand(3, 64, 64)])


@pytest.mark.usefixtures("unchecked")
def test_a_model_of_another_kind_is_named():
    with pytest.raises(ValueError, match="need a RetinaNet or an FCOS of torchvision, got Identity"):
        import_head(nn.Identity(), RetinaNetHead(256, 9, num_classes=7), grid_of(torchvision_model().anchor_generator))


def on_a_resnet(norm: str | None = None, num_classes: int = 3) -> RetinaNetDetector:
    """A detector as torchvision builds one, with anchors where torchvision puts them."""
    shapes = [[(size * stride / 8, size * stride / 8) for size in WHOLE_SIZES] for stride in STRIDES]
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
    anchors = TorchvisionAnchors(
        sizes=tuple(tuple(size * stride // 8 for size in WHOLE_SIZES) for stride in STRIDES),
        aspect_ratios=((1.0,),) * 5,
    )
    head = TorchvisionHead(256, 3, num_classes, norm_layer=norm and partial(nn.GroupNorm, 32))
    size = {"min_size": 128, "max_size": 256, "score_thresh": SCORE}
    means = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.25]}
    return RetinaNet(resnet18_fpn(), num_classes, anchor_generator=anchors, head=head, **size, **means)


@pytest.mark.parametrize("norm", [None, "group"])
def test_in_torchvision_s_network_the_weights_find_the_same(norm):
    detector, other = on_a_resnet(norm), torchvision_network(norm, 3)
    converted = torchvision_weights(detector)
    other.load_state_dict(converted.state)
    detector, other = detector.double().eval(), other.double().eval()  # so that no processor's rounding reorders them
    images = torch.rand(1, 3, 128, 256, generator=torch.Generator().manual_seed(1)).double()
    (found,) = detector.detect(images, torch.tensor([[128, 256]]))
    with torch.no_grad():
        (expected,) = other([images[0]])
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
    with pytest.raises(ConvertError, match="is built on one of its ResNets, this one on 'tiny'"):
        torchvision_weights(RetinaNetDetector(small, AnchorSet.of(shapes, strides=STRIDES), 1))
    resnet = build_backbone("torchvision:resnet18", strides=(8, 16, 32))
    with pytest.raises(ConvertError, match=r"this one has \(8, 16\)"):
        torchvision_weights(RetinaNetDetector(resnet, AnchorSet.of(shapes[:2], strides=(8, 16)), 1))
    uneven = AnchorSet.of([*shapes[:4], [(8, 8), (9, 9)]], strides=STRIDES)
    with pytest.raises(ConvertError, match=r"this one \[1, 1, 1, 1, 2\]"):
        torchvision_weights(RetinaNetDetector(resnet, uneven, 1, post_process=PostProcess()))
