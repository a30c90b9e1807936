from __future__ import annotations

import importlib
import math
import re
from dataclasses import replace

import pytest
import torch
from builders import grid_anchors
from torch import nn
from torch.testing import assert_close

from detect.anchors.generator import GridAnchors
from detect.heads.box_steps import BOX_STEPS, DETECTIONS_PER_IMAGE
from detect.heads.postprocess import Detections, PostProcess
from detect.heads.retinanet import HeadOutput
from detect.ops.boxes import BoxCoder
from detect.ops.torchvision_import import import_torchvision

PER_LEVEL = [1200, 300, 75]
NUM_CLASSES = 7
CONVENTIONS = list(BOX_STEPS)


def some_anchors() -> GridAnchors:
    """Three shapes on grids of 20, 10 and 5 cells, which make 160 pixels."""
    levels = []
    for cells in (20, 10, 5):
        corner = torch.cartesian_prod(torch.arange(cells), torch.arange(cells)).flip(1) * (160.0 / cells)
        sizes = 320 / cells * torch.tensor([[1.0, 1.0], [1.4, 0.7], [0.7, 1.4]])
        boxes = torch.stack([corner[:, None] - sizes / 2, corner[:, None] + sizes / 2], dim=2)
        levels.append(boxes.reshape(-1, 4))
    return grid_anchors(torch.cat(levels), PER_LEVEL)


def some_output(num_images: int, *, mean: float = -4.0, seed: int = 0) -> HeadOutput:
    """Logits spread evenly over mean - 5 to mean + 5, no two of an image with the same sigmoid in single precision."""
    random = torch.Generator().manual_seed(seed)
    values = torch.linspace(mean - 5, mean + 5, sum(PER_LEVEL) * NUM_CLASSES)
    logits = [values[torch.randperm(len(values), generator=random)].reshape(-1, NUM_CLASSES) for _ in range(num_images)]
    return HeadOutput(torch.stack(logits), torch.randn(num_images, sum(PER_LEVEL), 4, generator=random) * 0.4)


def found_on(
    anchors: list[list[float]],
    logits: list[list[float]],
    post: PostProcess,
    *,
    per_level=None,
    hw=(100, 100),
    to=None,
    padded=False,
) -> Detections:
    """What is found in one image whose boxes are the anchors themselves."""
    output = HeadOutput(torch.tensor([logits]), torch.zeros(1, len(anchors), 4))
    on_anchors, sizes = grid_anchors(torch.tensor(anchors), per_level), {"image_hw": [hw], "original_hw": to and [to]}
    if padded:
        *found, valid = post.padded(output, on_anchors, **sizes)
        return Detections(*(values[valid] for values in found))
    (found,) = post(output, on_anchors, **sizes)
    return found


def assert_same(found: Detections, expected: Detections) -> None:
    for name in ("boxes", "scores", "classes"):
        assert_close(getattr(found, name), getattr(expected, name))


# An image of 100 x 100 pixels, made from one of width 200 and height 50: back again x doubles and y halves.
# A hangs over the right edge by half. A and B as decoded: 50 * 100 / (100 * 100) = .5, which is allowed; A clipped is B.
# C lies beyond the edge: clipped it is a line, without extent.
OVER_THE_EDGE = {"A": [50.0, 0.0, 150.0, 100.0], "B": [50.0, 0.0, 100.0, 100.0], "C": [120.0, 0.0, 150.0, 50.0]}
A_OR_B = [100.0, 0.0, 200.0, 50.0]  # what becomes of A, and of B, in the original


@pytest.mark.parametrize(
    ("convention", "most", "expected"),
    [
        ("torchvision", 3, {"A": A_OR_B, "C": [200.0, 0.0, 200.0, 25.0]}),  # B falls to A clipped; C stays as a line
        ("detectron2", 3, {"A": A_OR_B, "B": A_OR_B}),  # suppressed as decoded, clipped after that: A and B are now one
        ("mmdet", 3, {"A": A_OR_B}),
        # C has the highest score here
        ("torchvision", 1, {"C": [200.0, 0.0, 200.0, 25.0]}),
        ("detectron2", 1, {}),  # C took the one place, and then was dropped
        ("mmdet", 1, {"A": A_OR_B}),  # C was dropped first
    ],
)
def test_a_box_over_the_edge_in_each_convention(convention, most, expected):
    logits = {"A": 2.0, "B": 1.0, "C": 3.0 if most == 1 else 0.0}
    post = PostProcess(convention=convention, detections_per_image=most)
    anchors = list(OVER_THE_EDGE.values())
    found = found_on(anchors, [[logits[name]] for name in OVER_THE_EDGE], post, to=(50, 200))
    assert_close(found.boxes, torch.tensor(list(expected.values())).reshape(-1, 4))
    assert_close(found.scores, torch.tensor([logits[name] for name in expected]).sigmoid())


@pytest.mark.parametrize(
    ("convention", "expected"), [("torchvision", [10, 30]), ("detectron2", [10]), ("mmdet", [10, 30])]
)
def test_clipping_also_parts_boxes_that_meet_outside(convention, expected):
    # as decoded they share 100 of 120 columns; of the image 10 of 30
    boxes = [[-90.0, 0.0, 10.0, 100.0], [-90.0, 0.0, 30.0, 100.0]]
    found = found_on(boxes, [[1.0], [0.0]], PostProcess(convention=convention))
    assert found.boxes.tolist() == [[0, 0, right, 100] for right in expected]


def test_offsets_are_decoded_by_the_coder():
    # dx = 1 at a weight of 10 moves the box of width 20 by 2; dh = ln 2 at a weight of 5 doubles the height of 10
    post = PostProcess(coder=BoxCoder(weights=(10.0, 10.0, 5.0, 5.0)))
    (found,) = post(
        HeadOutput(torch.tensor([[[0.0]]]), torch.tensor([[[1.0, 0.0, 0.0, 5 * 0.6931472]]])),
        grid_anchors(torch.tensor([[20.0, 40.0, 40.0, 50.0]])),
        image_hw=[(100, 100)],
    )
    assert_close(found.boxes, torch.tensor([[22.0, 35.0, 42.0, 55.0]]))


def test_a_score_must_be_above_the_threshold():
    boxes = [[0.0, 0.0, 10.0, 10.0]]
    assert len(found_on(boxes, [[0.0]], PostProcess(score_threshold=0.5)).scores) == 0
    assert len(found_on(boxes, [[1e-6]], PostProcess(score_threshold=0.5)).scores) == 1
    assert len(found_on(boxes, [[-30.0]], PostProcess(score_threshold=0.0)).scores) == 1


def test_of_equal_scores_the_earlier_pair_is_taken_and_comes_first():
    boxes = [[20.0 * index, 0.0, 20.0 * index + 10, 10.0] for index in range(4)]
    logits = [[1.0, 1.0], [1.0, 2.0], [1.0, 1.0], [1.0, 1.0]]
    found = found_on(boxes, logits, PostProcess(topk_per_level=4), per_level=[3, 1])
    assert found.boxes[:, 0].tolist() == [20, 0, 0, 20, 60, 60]
    assert found.classes.tolist() == [1, 0, 1, 0, 0, 1]


def test_a_logit_that_is_no_number_hides_no_other():
    found = found_on([[0.0, 0.0, 10.0, 10.0]], [[float("nan"), 1.0]], PostProcess())
    assert found.classes.tolist() == [1]


@pytest.mark.parametrize("padded", [False, True])
def test_soft_suppression_lowers_scores_and_keeps_those_above_the_threshold(padded):
    # the first two share 50 of 100, the third meets none; the second falls to half its score, below that of the third
    boxes, logits = [[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 5.0], [50.0, 0.0, 60.0, 10.0]], [[2.0], [1.0], [0.0]]
    for score_threshold, expected in ((0.05, [0, 2, 1]), (0.37, [0, 2])):  # a sigmoid of 1 is .731, half of it .366
        post = PostProcess(nms="linear", score_threshold=score_threshold)
        found = found_on(boxes, logits, post, padded=padded)
        assert_close(found.scores, torch.tensor([0.8808, 0.5, 0.3655])[: len(expected)], rtol=0, atol=1e-4)
        assert_close(found.boxes, torch.tensor(boxes)[expected])
    (second,) = found_on(boxes, logits, PostProcess(nms="gaussian", sigma=0.25), padded=padded).scores[-1:]
    assert_close(second, torch.tensor(0.7310586 / math.e))


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(("nms", "expected"), [("hard", [0]), ("linear", [0, 1])])
def test_classes_suppress_each_other_if_they_are_not_told_apart(nms, expected, padded):
    boxes, logits = [[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 6.0]], [[2.0, -9.0], [-9.0, 1.0]]  # IoU .6
    found = found_on(boxes, logits, PostProcess(nms=nms, class_agnostic=True), padded=padded)
    assert found.classes.tolist() == expected
    assert_close(found.scores, torch.tensor([0.8808, 0.4 * 0.7311])[: len(expected)], rtol=0, atol=1e-4)
    apart = found_on(boxes, logits, PostProcess(nms=nms), padded=padded)
    assert_close(apart.scores, torch.tensor([2.0, 1.0]).sigmoid())


@pytest.mark.parametrize("padded", [False, True])
def test_each_class_has_its_own_threshold(padded):
    boxes = [[20.0 * index, 0.0, 20.0 * index + 10, 10.0] for index in range(3)]
    logits = [[0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [-1.0, -1.0, -1.0]]  # .5, .73 and .27 for every class
    post = PostProcess(score_threshold=[0.6, 0.2, 0.5])
    found = found_on(boxes, logits, post, padded=padded)
    assert list(zip((found.boxes[:, 0] / 20).tolist(), found.classes.tolist(), strict=True)) == [
        (1, 0), (1, 1), (1, 2), (0, 1), (2, 1)
    ]  # fmt: skip
    # with room for two pairs of the level: none is taken by a pair below the threshold of its class
    found = found_on(boxes, logits, replace(post, topk_per_level=2, score_threshold=[0.99, 0.2, 0.99]), padded=padded)
    assert (found.boxes[:, 0] / 20).tolist() == [1, 0]


def test_thresholds_of_another_number_of_classes_are_refused():
    post = PostProcess(score_threshold=[0.1, 0.2])
    with pytest.raises(ValueError, match="2 score thresholds for 3 classes"):
        found_on([[0.0, 0.0, 8.0, 8.0]], [[1.0, 1.0, 1.0]], post)
    with pytest.raises(ValueError, match="2 score thresholds for 1 classes"):
        found_on([[0.0, 0.0, 8.0, 8.0]], [[1.0]], post, padded=True)


class Backbone(nn.Module):
    out_channels = 8


def torchvisions(**options):
    """A torchvision RetinaNet with a backbone that is not used: only what it does after its head is."""
    import_torchvision()
    retinanet = importlib.import_module("torchvision.models.detection.retinanet")
    return retinanet.RetinaNet(Backbone(), NUM_CLASSES, **options).eval()


@pytest.mark.parametrize(
    ("mean", "options"),
    [(-3.5, {}), (-2.0, {"topk_candidates": 400, "nms_thresh": 0.3, "detections_per_img": 1000}), (-9.0, {})],
)
def test_as_torchvision(mean, options):
    logits, deltas = some_output(2, mean=mean)
    anchors, image_hw, original_hw = some_anchors(), [(160, 150), (131, 160)], [(321, 299), (99, 122)]
    for passing in (image[image > 0.05] for image in logits.sigmoid()):
        assert len(passing.unique()) == len(passing)  # of equal scores torchvision takes any
    model = torchvisions(**options)
    theirs = model.postprocess_detections(
        {"cls_logits": list(logits.split(PER_LEVEL, 1)), "bbox_regression": list(deltas.split(PER_LEVEL, 1))},
        [list(anchors.boxes.split(PER_LEVEL))] * 2,
        image_hw,
    )
    post = PostProcess(
        topk_per_level=model.topk_candidates,
        iou_threshold=model.nms_thresh,
        detections_per_image=model.detections_per_img,
    )
    output = HeadOutput(logits, deltas)
    ours = post(output, anchors, image_hw=image_hw)
    for found, expected in zip(ours, theirs, strict=True):
        assert_same(found, Detections(expected["boxes"], expected["scores"], expected["labels"]))
    rescaled = post(output, anchors, image_hw=image_hw, original_hw=original_hw)
    theirs = model.transform.postprocess(theirs, image_hw, original_hw)
    for found, expected in zip(rescaled, theirs, strict=True):
        assert_close(found.boxes, expected["boxes"])


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_a_batch_is_its_images_one_by_one(convention):
    logits, deltas = some_output(3)
    logits[1] -= 20  # an image in which nothing is found
    post = PostProcess(convention=convention)
    hw, original_hw = torch.tensor([[160, 150], [131, 160], [90, 90]]), torch.tensor([[320, 300], [50, 60], [90, 90]])
    anchors = some_anchors()
    together = post(HeadOutput(logits, deltas), anchors, image_hw=hw, original_hw=original_hw)
    assert len(together[1].scores) == 0
    for index, found in enumerate(together):
        one = slice(index, index + 1)
        output = HeadOutput(logits[one], deltas[one])
        (alone,) = post(output, anchors, image_hw=hw[one], original_hw=original_hw[one])
        assert_same(found, alone)
        assert (found.scores.diff() <= 0).all()


OPTIONS = [
    {},
    {"class_agnostic": True},
    {"nms": "linear", "iou_threshold": 0.3},
    {"nms": "gaussian", "class_agnostic": True},
    {"nms": "gaussian", "score_threshold": [0.05, 0.2, 0.04, 0.3, 0.05, 0.1, 0.1]},
    {"score_threshold": [0.05, 0.2, 0.04, 0.3, 0.05, 0.1, 0.1], "class_agnostic": True},
]


@pytest.mark.parametrize(
    ("options", "convention"), [*((OPTIONS[0], each) for each in CONVENTIONS), *((each, "mmdet") for each in OPTIONS)]
)
def test_the_padded_form_finds_the_same(options, convention):
    logits, deltas = some_output(2, mean=-6.0)
    logits = logits.round(decimals=1)  # many equal scores
    logits[1] -= 1.9  # fewer than there is room for
    post = PostProcess(convention=convention, detections_per_image=150, **options)
    output, anchors = HeadOutput(logits, deltas), some_anchors()
    sizes = {"image_hw": [(160, 150), (120, 160)], "original_hw": [(80, 75), (480, 640)]}
    padded = post.padded(output, anchors, **sizes)
    assert padded.boxes.shape == (2, 150, 4)
    assert padded.scores.unique().numel() < 80 or "nms" in options
    for index, found in enumerate(post(output, anchors, **sizes)):
        valid = padded.valid[index]
        assert_same(
            Detections(padded.boxes[index, valid], padded.scores[index, valid], padded.classes[index, valid]), found
        )
        assert padded.boxes[index, ~valid].eq(0).all()
        assert padded.scores[index, ~valid].eq(0).all()
    assert 0 < padded.valid[1].sum() < 150


def test_with_fewer_candidates_the_padded_form_finds_the_first_of_the_same():
    output, anchors, sizes = some_output(1), some_anchors(), [(160, 160)]
    (found,) = PostProcess()(output, anchors, image_hw=sizes)
    padded = PostProcess().padded(output, anchors, image_hw=sizes, max_candidates=100)
    count = int(padded.valid.sum())
    assert 20 < count < len(found.scores)
    assert padded.boxes.shape == (1, 100, 4)
    assert_close(padded.boxes[0, :count], found.boxes[:count])


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_no_anchors_and_no_images(convention):
    post = PostProcess(convention=convention)
    for num_images, num_anchors in ((0, 3), (2, 0), (0, 0)):
        output = HeadOutput(torch.zeros(num_images, num_anchors, 2), torch.zeros(num_images, num_anchors, 4))
        anchors, sizes = grid_anchors(torch.zeros(num_anchors, 4)), [(10, 10)] * num_images
        found = post(output, anchors, image_hw=sizes)
        assert [len(one.scores) for one in found] == [0] * num_images
        assert len(post.padded(output, anchors, image_hw=sizes).valid) == num_images


def test_as_many_detections_as_the_framework_keeps():
    assert {
        convention: PostProcess(convention=convention).max_detections for convention in CONVENTIONS
    } == DETECTIONS_PER_IMAGE
    assert replace(PostProcess(), detections_per_image=7).max_detections == 7
    boxes = [[20.0 * index, 0.0, 20.0 * index + 10, 10.0] for index in range(120)]
    found = found_on(
        boxes, [[1 - index / 100] for index in range(120)], PostProcess(convention="mmdet"), hw=(100, 2400)
    )
    assert len(found.scores) == 100


def test_inputs_are_left_as_they_were():
    (logits, deltas), anchors = output, _ = some_output(1), some_anchors()
    before = logits.clone(), deltas.clone(), anchors.boxes.clone()
    for form in (PostProcess(), PostProcess().padded):
        form(output, anchors, image_hw=[(100, 100)])
    assert_close((logits, deltas, anchors.boxes), before, rtol=0, atol=0)


def test_mistakes_are_told():
    for options, message in (
        ({"convention": "yolo"}, r"convention is one of torchvision, detectron2, mmdet, got 'yolo'"),
        ({"score_threshold": 1.0}, r"need 0 <= score_threshold < 1 .* got 1\.0 and 0\.5"),
        ({"score_threshold": [0.5, -1.0]}, r"got \[0\.5, -1\.0\] and"),
        ({"iou_threshold": -0.5}, r"iou_threshold <= 1, got .* and -0\.5"),
        ({"nms": "soft"}, "nms is one of hard, linear, gaussian, got 'soft'"),
        ({"sigma": 0.0}, r"need a finite sigma above 0, got 0\.0"),
        ({"topk_per_level": 0}, r"topk_per_level and .* from 1, got 0 and 300"),
    ):
        with pytest.raises(ValueError, match=message):
            PostProcess(**options)


FOUR_ANCHORS = grid_anchors(torch.tensor([[0.0, 0.0, 8.0, 8.0]]).repeat(4, 1), [3, 1])


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("form", [PostProcess(), PostProcess().padded])
def test_rows_of_the_head_that_are_not_the_anchors_are_refused(form):
    # with fewer rows the first anchors would be taken for them, and with deltas of more the last rows be left out
    for logits, deltas in (
        ((2, 3, 2), (2, 4, 4)),
        ((2, 5, 2), (2, 5, 4)),
        ((2, 4, 2), (2, 5, 4)),
        ((2, 4, 2), (1, 4, 4)),
        ((2, 4, 2), (2, 4, 5)),
        ((4, 2), (2, 4, 4)),
    ):
        message = f"4 anchors need logits (images, 4, classes) and deltas (images, 4, 4), got {logits} and {deltas}"
        with pytest.raises(ValueError, match=re.escape(message)):
            form(HeadOutput(torch.ones(logits), torch.zeros(deltas)), FOUR_ANCHORS, image_hw=[(8, 8)] * 2)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("form", [PostProcess(), PostProcess().padded])
@pytest.mark.parametrize("name", ["image_hw", "original_hw"])
def test_sizes_of_another_number_of_images_are_refused(name, form):
    # one size would stand for both images, and of three the last would be left out
    output = HeadOutput(torch.ones(2, 4, 2), torch.zeros(2, 4, 4))
    for sizes in ([(8, 16)], [(8, 16)] * 3, [8, 16, 8, 16], [(8, 16, 3)] * 2, []):
        message = f"{name} is one height and width for each of 2 images, got {tuple(torch.tensor(sizes).shape)}"
        for given in (sizes, torch.tensor(sizes)):
            with pytest.raises(ValueError, match=re.escape(message)):
                form(output, FOUR_ANCHORS, **{"image_hw": [(8, 8)] * 2, name: given})
