"""torchvision makes a model's anchors from the text, and trains a step with them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from frameworks import fitted_like, names_of, our_boxes, run, sets_for
from numpy.testing import assert_allclose, assert_array_equal

from detect.anchors.anchor_set import AnchorSet
from detect.anchors.known import load_anchors
from detect.catalog.detectors import load_detector
from detect.errors import ConvertError
from detect.interop.anchor_formats import convert_anchors
from detect.interop.torchvision_text import torchvision, torchvision_ssd
from detect.ops.torchvision_import import import_torchvision

detection = import_torchvision().models.detection
ImageList = detection.image_list.ImageList
OFFLINE = {"weights": None, "weights_backbone": None, "num_classes": 3}
NAMES = names_of("torchvision")


def generated(generator: torch.nn.Module, strides: list[int], side: int) -> list[np.ndarray]:
    """Every anchor of a square input, level by level."""
    images = ImageList(torch.zeros(1, 3, side, side), [(side, side)])
    maps = [torch.zeros(1, 1, -(-side // stride), -(-side // stride)) for stride in strides]
    (boxes,) = generator(images, maps)
    counts = [each[0, 0].numel() * own for each, own in zip(maps, generator.num_anchors_per_location(), strict=True)]
    return [level.numpy() for level in boxes.split(counts)]


def train_step(model: torch.nn.Module, side: int) -> None:
    """Backpropagate the losses of one image with one box, and check that they are finite."""
    image = torch.rand(3, side, side, generator=torch.Generator().manual_seed(0))
    target = {"boxes": torch.tensor([[9.0, 5.0, 40.0, 52.0]]), "labels": torch.tensor([1])}
    model.train()
    if hasattr(model, "rpn"):  # without the second stage, which needs a compiled operator and no anchors
        images, targets = model.transform([image], [target])
        _, losses = model.rpn(images, model.backbone(images.tensors), targets)
    else:
        losses = model([image], [target])
    sum(losses.values()).backward()
    assert all(each.isfinite() for each in losses.values())


@pytest.mark.parametrize("kind", ["stock", "fitted"])
@pytest.mark.parametrize("name", NAMES)
def test_the_plain_text_makes_our_anchors_rounded_as_torchvision_does(name: str, kind: str):
    anchors = sets_for(name)[kind]
    text = convert_anchors(anchors, load_detector(name)).text
    assert "cell_anchors" not in text
    made = generated(run(text)["anchor_generator"], load_detector(name).strides, 256)
    for theirs, ours in zip(made, our_boxes(name, anchors), strict=True):
        assert_array_equal(theirs, ours)


@pytest.mark.parametrize("kind", ["stock", "fitted"])
def test_ssds_text_makes_our_anchors(kind: str):
    anchors = sets_for("torchvision-ssd300")[kind]
    generator = run(torchvision_ssd(anchors).text)["anchor_generator"]
    assert generator.num_anchors_per_location() == load_detector("torchvision-ssd300").numbers
    sides = [38, 19, 10, 5, 3, 1]  # of ssd300_vgg16's maps
    (boxes,) = generator(ImageList(torch.zeros(1, 3, 300, 300), [(300, 300)]), [torch.zeros(1, 1, n, n) for n in sides])
    first = 0
    for level, side in zip(anchors.levels, sides, strict=True):
        number = side * side * len(level.shapes)
        half = np.minimum(np.array(level.shapes)[None], 300) / 2  # clip=True
        y, x = np.indices((side, side)).reshape(2, -1, 1, 1) * level.stride + level.stride / 2
        centers = np.concatenate([x, y], axis=-1)
        expected = np.concatenate([centers - half, centers + half], axis=-1).reshape(-1, 4)
        assert_allclose(boxes[first : first + number].numpy(), expected, atol=2e-3)
        first += number
    assert first == len(boxes)


def test_shapes_that_are_no_sizes_by_ratios_are_set_as_they_are():
    anchors = load_anchors("yolov3-coco")
    text = torchvision(anchors).text
    generator = run(text)["anchor_generator"]
    assert generator.num_anchors_per_location() == [3, 3, 3]
    for theirs, level in zip(generated(generator, [8, 16, 32], 64), anchors.levels, strict=True):
        first = theirs[: len(level.shapes)]
        assert_allclose(first[:, 2:] - first[:, :2], level.shapes, rtol=1e-6)
        assert_allclose((first[:, 2:] + first[:, :2]) / 2, level.stride / 2, atol=1e-4)
    assert "middle of the cell" in text


@pytest.mark.parametrize(
    ("shapes", "why"),
    [
        ([(3.2, 3.2), (3.4, 3.4)], "rounded to the same 4 x 4"),
        ([(1.0, 8.0), (2.0, 16.0)], "half a pixel is rounded to none"),
        ([(16.0, 16.0), (23.0, 11.5), (8.0, 8.0), (11.5, 5.75)], "sizes vary slower than ratios"),
    ],
)
def test_very_shapes_are_set_where_torchvisions_rounding_or_order_would_change_the_set(shapes, why: str):
    generator = run(torchvision(AnchorSet.of([shapes], strides=[8], center_offset=0.0)).text)["anchor_generator"]
    corners = generator.cell_anchors[0].numpy()
    assert_allclose(corners[:, 2:] - corners[:, :2], shapes, rtol=1e-6, err_msg=why)


@pytest.mark.parametrize(
    ("name", "build", "argument"),
    [
        ("torchvision-retinanet", detection.retinanet_resnet50_fpn, "anchor_generator"),
        ("torchvision-faster-rcnn", detection.fasterrcnn_resnet50_fpn, "rpn_anchor_generator"),
    ],
)
def test_a_model_with_fitted_anchors_trains_a_step(name: str, build: Callable[..., torch.nn.Module], argument: str):
    generator = run(torchvision(sets_for(name)["fitted"]).text)["anchor_generator"]
    train_step(build(min_size=96, max_size=96, **{argument: generator}, **OFFLINE), 96)


def test_an_ssd300_with_fitted_anchors_trains_a_step():
    with torch.device("meta"):  # drawing its first weights takes seconds
        model = detection.ssd300_vgg16(**OFFLINE)
    model = model.to_empty(device="cpu")
    for parameter in model.parameters():
        torch.nn.init.constant_(parameter, 1e-3)
    model.backbone.requires_grad_(False)
    model.anchor_generator = run(torchvision_ssd(sets_for("torchvision-ssd300")["fitted"]).text)["anchor_generator"]
    train_step(model, 300)


def test_a_retinanet_of_version_2_takes_the_generator_once_it_is_built():
    generator = run(torchvision(fitted_like(load_detector("torchvision-retinanet"))).text)["anchor_generator"]
    with pytest.raises(TypeError, match="multiple values for keyword argument 'anchor_generator'"):
        detection.retinanet_resnet50_fpn_v2(anchor_generator=generator, **OFFLINE)
    assert "_v2" in torchvision(load_anchors("torchvision-retinanet")).notes[0]


@pytest.mark.parametrize(
    ("shapes", "resize", "message"),
    [
        ([(30, 30)], "stretch:300x300", "takes an even number of shapes on each level; P3 has 1"),
        (
            [(30, 30), (20, 20)],
            "letterbox:300",
            "takes shapes as fractions of an input of fixed size; this set is for letterbox",
        ),
        ([(30, 30), (20, 20)], "", "takes shapes as fractions of an input of fixed size; this set is for none"),
    ],
)
def test_what_ssd_cannot_hold_is_refused(shapes, resize: str, message: str):
    with pytest.raises(ConvertError, match=message):
        torchvision_ssd(AnchorSet.of([shapes], strides=[8], resize=resize))


@pytest.mark.parametrize(
    ("offset", "words"),
    [(0.0, "as torchvision's own"), (0.5, "middle of the cell"), (0.25, "0.25 cells from the corner")],
)
def test_anchors_lie_where_the_set_has_them(offset: float, words: str):
    text = torchvision(AnchorSet.of([[(10, 13), (16, 30), (33, 23)]], strides=[8], center_offset=offset)).text
    assert words in text
    corners = run(text)["anchor_generator"].cell_anchors[0].numpy()
    assert_allclose((corners[:, 2:] + corners[:, :2]) / 2, 8 * offset, atol=1e-5)


def test_what_is_larger_than_ssds_input_is_clipped_and_told():
    conversion = torchvision_ssd(AnchorSet.of([[(310, 20), (30, 60)]], strides=[100], resize="stretch:300x200"))
    (pairs,) = run(conversion.text)["anchor_generator"]._wh_pairs
    assert_allclose(pairs.numpy(), [[1, 0.1], [0.1, 0.3]])
    assert conversion.notes == ("torchvision clips anchors to the input, here 310 x 20 on stride100",)


def test_tiny_and_huge_shapes_keep_their_digits():
    anchors = AnchorSet.of([[(1.5, 1.8), (12345.6, 9.9)]], strides=[4])
    corners = run(torchvision(anchors).text)["anchor_generator"].cell_anchors[0].numpy()
    assert_allclose(corners[:, 2:] - corners[:, :2], [[1.5, 1.8], [12345.6, 9.9]], rtol=1e-5)
