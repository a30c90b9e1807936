"""The criterion by hand; tests/interop/test_torchvision.py compares it with torchvision's."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from detect.anchors.anchor_set import AnchorSet
from detect.anchors.generator import AnchorGenerator, GridAnchors
from detect.heads.criterion import RetinaNetCriterion
from detect.heads.image_targets import ImageTargets
from detect.heads.prediction_matchers import TaskAligned
from detect.heads.retinanet import HeadOutput
from detect.losses import EmaNormalizer, batch_normalizer
from detect.ops.boxes import BoxCoder
from detect.ops.matcher import BACKGROUND, IGNORE, Atss, ignore_regions

NO_BOXES = ImageTargets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))


@pytest.fixture
def anchors() -> GridAnchors:
    """Four anchors of 8 x 8 pixels side by side."""
    return AnchorGenerator(AnchorSet.of([[(8, 8)]], strides=(8,))).generate([(1, 4)])


def zeros(num_images: int, num_classes: int = 2) -> HeadOutput:
    logits = torch.zeros(num_images, 4, num_classes, requires_grad=True)
    return HeadOutput(logits, torch.zeros(num_images, 4, 4, requires_grad=True))


def test_one_image_by_hand(anchors):
    # the box is anchor 1, moved right by 2 of its 8 pixels and as high: IoU 6 / 10; anchor 2 has IoU 2 / 14
    target = ImageTargets(torch.tensor([[10.0, 0.0, 18.0, 8.0]]), torch.tensor([1]))
    losses = RetinaNetCriterion()(zeros(1), anchors, [target])
    # at p = 1/2 each logit costs ln 2 / 4, times 1/4 for the one positive and 3/4 for the seven negatives
    assert_close(losses.classification, torch.tensor(math.log(2) / 4 * (0.25 + 7 * 0.75)))
    assert_close(losses.box, torch.tensor(0.25))  # dx = 2 / 8, the rest 0


@pytest.mark.parametrize("box_loss", ["l1", "giou"])
def test_quality_is_the_overlap_of_the_predicted_box(anchors, box_loss):
    # anchor 1, predicted 2 pixels to the right of where it is, has IoU 1 with the box there, and .6 where it is
    target = ImageTargets(torch.tensor([[10.0, 0.0, 18.0, 8.0]]), torch.tensor([1]))
    for right, quality in ((0.0, 0.6), (0.25, 1.0)):
        output = zeros(1)
        moved = output.deltas.detach().clone()
        moved[0, 1, 0] = right  # of its 8 pixels
        output = HeadOutput(output.logits, moved.requires_grad_())
        criterion = RetinaNetCriterion(class_loss="quality_focal", box_loss=box_loss)
        losses = criterion(output, anchors, [target])
        # at p = 1/2 the seven negatives cost ln 2 / 4, the positive ln 2 times the square of what its quality is from p
        assert_close(losses.classification, torch.tensor(math.log(2) * (7 / 4 + (quality - 0.5) ** 2)))
        assert torch.autograd.grad(losses.classification, output, allow_unused=True)[1] is None


def test_images_without_instances_are_ordinary(anchors):
    losses = RetinaNetCriterion()(output := zeros(2), anchors, [NO_BOXES, NO_BOXES])
    assert_close(losses.classification, torch.tensor(math.log(2) / 4 * 8 * 0.75))  # the mean over images that are alike
    assert losses.box == 0
    gradients = torch.autograd.grad(losses.classification + losses.box, output, allow_unused=True)
    assert gradients[0].abs().sum() > 0
    assert not gradients[1].any()


def test_each_image_has_its_own_instances(anchors):
    first = ImageTargets(torch.tensor([[0.0, 0.0, 8.0, 8.0], [24.0, 0.0, 32.0, 8.0]]), torch.tensor([0, 1]))
    second = ImageTargets(torch.tensor([[8.0, 0.0, 16.0, 8.0]]), torch.tensor([1]))
    matches = RetinaNetCriterion().match(anchors, [first, NO_BOXES, second])
    assert matches.tolist() == [[0, -1, -1, 1], [-1] * 4, [-1, 0, -1, -1]]
    output = HeadOutput(torch.full((3, 4, 2), -20.0), torch.zeros(3, 4, 4))
    for image, anchor, label in ((0, 0, 0), (0, 3, 1), (2, 1, 1)):
        output.logits[image, anchor, label] = 20.0  # the right answers, and only they, cost nothing
    losses = RetinaNetCriterion()(output, anchors, [first, NO_BOXES, second])
    assert_close(losses.classification, torch.tensor(0.0), atol=1e-6, rtol=0)
    assert losses.box == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_quality_takes_outputs_of_any_precision(anchors, dtype):
    target = ImageTargets(torch.tensor([[10.0, 0.0, 18.0, 8.0]]), torch.tensor([1]))
    output = HeadOutput(*(each.detach().to(dtype).requires_grad_() for each in zeros(1)))
    losses = RetinaNetCriterion(class_loss="quality_focal", box_loss="giou")(output, anchors, [target])
    expected = torch.tensor(math.log(2) * (7 / 4 + 0.1**2))
    assert_close(losses.classification, expected, check_dtype=False)
    assert all(gradient.any() for gradient in torch.autograd.grad(sum(losses), output))


def test_adaptive_selection_matches_each_image_by_itself():
    grid = AnchorGenerator(AnchorSet.of([[(8, 8)], [(16, 16)]], strides=(8, 16))).generate([(6, 6), (3, 3)])
    boxes = torch.tensor([[3.0, 3.0, 20.0, 17.0], [20.0, 22.0, 31.0, 30.0]])
    crowd = torch.tensor([[32.0, 0.0, 48.0, 16.0]])
    target = ImageTargets(boxes, torch.tensor([0, 1]), ignored=crowd)
    own, none = RetinaNetCriterion(matcher=Atss(4)).match(grid, [target, NO_BOXES])
    expected = Atss(4).match(grid.level_grids, boxes)
    assert_close(own, ignore_regions(expected, grid.boxes, crowd))
    assert {int(row) for row in own} == {0, 1, BACKGROUND, IGNORE}
    assert (none == BACKGROUND).all()


def test_ignored_regions_are_not_background(anchors):
    crowd = ImageTargets(*vars_of(NO_BOXES), ignored=torch.tensor([[0.0, 0.0, 12.0, 8.0]]))
    matches = RetinaNetCriterion().match(anchors, [crowd])
    assert matches.tolist() == [[IGNORE, IGNORE, BACKGROUND, BACKGROUND]]  # all of the first, one half of the second
    losses = RetinaNetCriterion()(zeros(1), anchors, [crowd])
    assert_close(losses.classification, torch.tensor(math.log(2) / 4 * 4 * 0.75))


def vars_of(target: ImageTargets) -> tuple[torch.Tensor, torch.Tensor]:
    return target.boxes, target.classes


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"box_loss": "l1"}, 0.25),
        ({"box_loss": "l1", "box_weight": 4.0}, 1.0),
        ({"box_loss": "l1", "coder": BoxCoder((10.0, 10.0, 5.0, 5.0))}, 2.5),
        ({"box_loss": "smooth_l1", "beta": 0.5}, 0.25**2 / (2 * 0.5)),
        ({"box_loss": "giou"}, 1 - 6 / 10),  # as high as each other: the box around both is filled
        ({"box_loss": "diou"}, 1 - 6 / 10 + 4 / (10**2 + 8**2)),
        ({"box_loss": "ciou"}, 1 - 6 / 10 + 4 / (10**2 + 8**2)),  # of one shape
    ],
)
def test_box_losses_by_hand(anchors, options, expected):
    target = ImageTargets(torch.tensor([[10.0, 0.0, 18.0, 8.0]]), torch.tensor([1]))
    assert_close(RetinaNetCriterion(**options)(zeros(1), anchors, [target]).box, torch.tensor(expected))


def test_normalizers_of_the_frameworks(anchors):
    two = ImageTargets(torch.tensor([[0.0, 0.0, 8.0, 8.0], [18.0, 0.0, 26.0, 8.0]]), torch.tensor([0, 1]))
    # one box fits, the other lies 2 pixels beside its anchor: L1 of .25 in all; the second image has no positives
    for normalizer, expected in ((None, 0.25 / 2 / 2), (batch_normalizer, 0.25 / 3), (EmaNormalizer(), 0.25 / 90.2)):
        options = {} if normalizer is None else {"normalizer": normalizer}
        losses = RetinaNetCriterion(**options)(zeros(2), anchors, [two, NO_BOXES])
        assert_close(losses.box, torch.tensor(expected))


def test_mistakes_are_named_with_their_numbers(anchors):
    criterion = RetinaNetCriterion()
    with pytest.raises(ValueError, match=r"the head gave 3 rows for 4 anchors \(4 on its levels\)"):
        criterion(HeadOutput(torch.zeros(1, 3, 2), torch.zeros(1, 3, 4)), anchors, [NO_BOXES])
    with pytest.raises(ValueError, match="targets of 2 images for outputs of 1"):
        criterion(zeros(1), anchors, [NO_BOXES, NO_BOXES])
    with pytest.raises(ValueError, match="box_loss 'iou'"):
        RetinaNetCriterion(box_loss="iou")


# targets that cannot be learned; of a user, whose arrays no annotation checks

BOX, OTHER_BOX = [0.0, 0.0, 8.0, 8.0], [24.0, 0.0, 32.0, 8.0]


def targets_of(boxes: list[list[float]], classes: list[int], **ignored: torch.Tensor) -> ImageTargets:
    return ImageTargets(torch.tensor(boxes), torch.tensor(classes), **ignored)


@pytest.mark.usefixtures("unchecked")
def test_targets_that_cannot_be_learned_are_refused(anchors):
    batch = [targets_of([BOX], [1]), targets_of([BOX, OTHER_BOX], [0, 2])]
    with pytest.raises(ValueError, match=r"targets of image 1: the class of box 1 is 2, need a class from 0 to 1$"):
        RetinaNetCriterion()(zeros(2), anchors, batch)
    with pytest.raises(ValueError, match="image 1: one class for each box"):
        RetinaNetCriterion().match(anchors, [batch[0], targets_of([BOX, OTHER_BOX], [0])])


# ---- weights of positives


def weighed(criterion: RetinaNetCriterion, anchors: GridAnchors) -> tuple[float, float]:
    """The losses of two boxes of classes 0 and 1, each with one anchor."""
    target = targets_of([[0.0, 0.0, 8.0, 6.0], [18.0, 0.0, 26.0, 8.0]], [0, 1])
    return tuple(each.item() for each in criterion(zeros(1), anchors, [target]))


def test_weights_multiply_the_losses_of_positives_alone(anchors):
    # p = 1/2: a positive costs ln 2 / 4 * 1/4, each of six negatives ln 2 / 4 * 3/4; two positives divide
    # boxes: dh = ln .75 and dy = -1/8 of the first, dx = 2/8 of the second
    cost, first, second = math.log(2) / 4, math.log(4 / 3) + 1 / 8, 0.25
    found = weighed(RetinaNetCriterion(positive_weights=(3.0, 0.5)), anchors)
    assert_close(found, (cost * (0.25 * 3.5 + 6 * 0.75) / 2, (3 * first + 0.5 * second) / 2), rtol=1e-5, atol=0)
    quality = RetinaNetCriterion(class_loss="quality_focal", positive_weights=(3.0, 0.5))
    # targets .75 and .6: (q - 1/2)**2 ln 2
    expected = (math.log(2) * (3 * 0.25**2 + 0.5 * 0.1**2 + 6 / 4) / 2, found[1])
    assert_close(weighed(quality, anchors), expected, rtol=1e-5, atol=0)


def test_weights_follow_the_device_and_are_no_part_of_the_state():
    criterion = RetinaNetCriterion(positive_weights=(2.0, 1.0))
    assert criterion.state_dict() == {}
    assert criterion.to("meta").positive_weights.device.type == "meta"


@pytest.mark.parametrize("weights", [(0.0, 1.0), (-1.0, 1.0), (math.inf, 1.0), (math.nan, 1.0)])
def test_weights_are_finite_and_above_0(weights):
    with pytest.raises(ValueError, match="positive_weights are finite and above 0"):
        RetinaNetCriterion(positive_weights=weights)


def test_there_is_a_weight_for_each_class(anchors):
    with pytest.raises(ValueError, match="3 positive_weights for 2 classes"):
        weighed(RetinaNetCriterion(positive_weights=(1.0, 1.0, 1.0)), anchors)


# ---- soft targets of a matcher


def test_soft_targets_of_the_matcher_replace_the_overlap_and_weigh_the_boxes(anchors):
    # one box over anchors 1 and 2, which predict themselves: IoU 1/2 each, equal scores, soft targets 1/2
    target = targets_of([[8.0, 0.0, 24.0, 8.0]], [0])
    options = {"matcher": TaskAligned(), "class_loss": "quality_focal", "box_loss": "giou"}
    losses = RetinaNetCriterion(**options, normalizer=lambda amounts: amounts)(zeros(1), anchors, [target])
    # the soft targets are what the scores are: no cost; six negatives ln 2 / 4; the sum of soft targets, 1, divides
    assert_close(losses.classification, torch.tensor(6 * math.log(2) / 4), rtol=1e-4, atol=0)
    assert_close(losses.box, torch.tensor(0.5), rtol=1e-4, atol=0)  # 2 * 1/2 * (1 - IoU)
    hard = RetinaNetCriterion(**options | {"class_loss": "focal"})(zeros(1), anchors, [target])
    assert_close(hard.box, torch.tensor(0.5), rtol=1e-4, atol=0)  # two positives divide 2 * (1 - IoU)


@pytest.mark.usefixtures("unchecked")
def test_deltas_of_other_rows_than_the_logits_are_refused(anchors):
    output = HeadOutput(torch.zeros(1, 4, 2), torch.zeros(1, 5, 4))
    with pytest.raises(ValueError, match=r"deltas are \(1, 4, 4\), one row for each of the logits, got \(1, 5, 4\)"):
        RetinaNetCriterion()(output, anchors, [NO_BOXES])


COMPILED = """
import torch
from torch import nn
from torch.testing import assert_close
from detect import AnchorGenerator, AnchorSet, ImageTargets, RetinaNetCriterion, RetinaNetHead

class Training(nn.Module):
    def __init__(self):
        super().__init__()
        self.head, self.criterion = RetinaNetHead(4, 2, 3), RetinaNetCriterion()

    def forward(self, features, anchors, targets):
        return sum(self.criterion(self.head(features), anchors, targets))

training, random = Training(), torch.Generator().manual_seed(0)
features = [torch.rand(2, 4, 6, 8, generator=random), torch.rand(2, 4, 3, 4, generator=random)]
grid = AnchorGenerator(AnchorSet.of([[(10, 20), (20, 10)], [(30, 30), (40, 20)]], strides=(8, 16)))
anchors = grid.generate([(6, 8), (3, 4)])
boxes = torch.tensor([[3.0, 3.0, 15.0, 24.0], [20.0, 10.0, 50.0, 40.0]])
compiled = torch.compile(training, backend="aot_eager")
for count in (2, 0, 1):  # another number of boxes compiles nothing anew
    targets = [ImageTargets(boxes[:count], torch.arange(count)), ImageTargets(boxes[:0], torch.arange(0))]
    results = []
    for function in (compiled, training):
        loss = function(features, anchors, targets)
        results.append((loss, torch.autograd.grad(loss, list(training.parameters()))))
    assert_close(*results)
    with torch.compiler.set_stance("fail_on_recompile"):
        compiled(features, anchors, targets)
"""


@pytest.mark.slow
def test_a_compiled_training_step_learns_the_same(fresh_python):
    fresh_python(COMPILED)
