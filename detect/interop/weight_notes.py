"""What converted weights cannot say for themselves: how the target has to be set so that it computes what the source did."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from detect.interop.weight_names import EPS, FRAMEWORKS, PRIOR, Framework, Layout

RESNET50 = (3, 4, 6, 3)
TOWER_DEPTH = 4  # Lin et al. 2017, section 4: four convolutions in each tower

P6_FROM_P5 = {
    "torchvision": "LastLevelP6P7(256, 256)",
    "detectron2": "LastLevelP6P7(256, 256, in_feature='p5')",
    "mmdet": "FPN(add_extra_convs='on_output')",
    "ours": "FeaturePyramid(extra='p5')",
}
P6_FROM_C5 = {
    "torchvision": "LastLevelP6P7(channels of C5, 256)",
    "detectron2": "LastLevelP6P7(channels of C5, 256), its default",
    "mmdet": "FPN(add_extra_convs='on_input'), its RetinaNet's setting",
    "ours": "FeaturePyramid(extra='c5')",
}
NO_RELU = {"mmdet": "FPN's default, relu_before_extra_convs=False", "ours": "relu_before_p7=False"}
WITHOUT_RELU = {
    "torchvision": "give LastLevelP6P7 a forward of your own: it always applies one",
    "detectron2": "give LastLevelP6P7 a forward of your own: it always applies one",
    "mmdet": "leave it so",
    "ours": "set FeaturePyramid(relu_before_p7=False)",
}
GROUP_NORM = {
    "torchvision": "norm_layer=partial(GroupNorm, 32), as retinanet_resnet50_fpn_v2 has it",
    "detectron2": "MODEL.RETINANET.NORM: GN, which is not its default",
    "mmdet": "bbox_head norm_cfg=dict(type='GN', num_groups=32), which is not its default",
    "ours": "RetinaNetHead(norm='group')",
}
STRIDE_IN_1X1 = {
    "torchvision": "layer[0].conv1.stride, layer[0].conv2.stride = (2, 2), (1, 1) for layer2, layer3 and layer4",
    "detectron2": "MODEL.RESNETS.STRIDE_IN_1X1: True",
    "mmdet": "style='caffe'",
    "ours": "layer[0].conv1.stride, layer[0].conv2.stride = (2, 2), (1, 1) for layer2, layer3 and layer4",
}
ANCHORS = {
    "torchvision": "sizes cut and corners rounded to whole pixels, strides cut",
    "detectron2": "no rounding",
    "mmdet": "no rounding",
}
# detectron2's anchors, in the order that outputs have here
DIALECT_OF_OURS = {"torchvision": "torchvision", "detectron2": "mmdet", "mmdet": "mmdet"}


@dataclass(frozen=True)
class Facts:
    """A conversion, as far as there is something to be said of it."""

    source: str
    to: str
    layout: Layout
    stem_input: str  # of the source
    eps: float  # of the source's batch norms
    p6_from_p5: bool
    rows: tuple[int, int]  # of classes, before and after

    @property
    def before(self) -> Framework:
        return FRAMEWORKS[self.source]

    @property
    def after(self) -> Framework:
        return FRAMEWORKS[self.to]


def notes_on(facts: Facts, dropped: Mapping[str, int], added: Mapping[str, int]) -> tuple[str, ...]:
    """All that a user should know: what was done to the weights, then how to set the target.

    Args:
        facts: the conversion.
        dropped: how many tensors of a kind the target has no use for.
        added: how many of a kind it has more, which are zeros.
    """
    notes = [*_count_notes(dropped, added), *_eps_notes(facts), *_class_notes(facts), *_stem_notes(facts)]
    if facts.source != facts.to:
        notes += [*_stride_notes(facts), *_pyramid_notes(facts), *_head_notes(facts), *_builder_notes(facts)]
    return tuple(notes)


def _count_notes(dropped: Mapping[str, int], added: Mapping[str, int]) -> Iterator[str]:
    for what, tensors in (("dropped", dropped), ("added as zeros", added)):
        if tensors:
            yield f"{what}: " + ", ".join(f"{number} {kind}" for kind, number in tensors.items())


def _eps_notes(facts: Facts) -> Iterator[str]:
    if facts.source == "torchvision" != facts.to and facts.p6_from_p5:
        yield (
            f"batch norms: eps of the source taken as {facts.eps:g}; torchvision sets 0 with its COCO_V1 weights, also "
            f"where they are trained further, and {EPS:g} otherwise: source_eps says which"
        )
    if facts.eps != EPS and facts.source != facts.to:
        yield (
            f"batch norms: weights carry sqrt((var + {EPS:g}) / (var + {facts.eps:g})), so that the result is the same with "
            f"an eps of {EPS:g}, which all targets have"
        )


def _class_notes(facts: Facts) -> Iterator[str]:
    if facts.rows == (91, 80):
        yield (
            "classes: of 91 rows, COCO's category ids, the 11 that no category has are left out: row i is the i-th id in "
            "order; num_classes=91 keeps them"
        )
    elif facts.rows == (80, 91):
        yield (
            "classes: 80 rows go to COCO's category ids in 91; the 11 that no category has get weight 0 and the bias of a "
            f"score of {PRIOR}; num_classes=80 keeps 80, for classes other than COCO's"
        )
    elif (facts.source == "torchvision") != (facts.to == "torchvision"):
        yield (
            f"classes: {facts.rows[0]} rows pass unchanged; torchvision keeps row 0 for the background, others have no row "
            "for it"
        )


def _stem_notes(facts: Facts) -> Iterator[str]:
    if facts.stem_input != facts.after.stem_input:
        form = {
            "rgb": "RGB, divided by the standard deviation (58.395, 57.12, 57.375 of 255)",
            "bgr": "BGR from 0 to 255, standard deviation 1",
        }
        yield (
            f"stem: taken to want {form[facts.stem_input]}; now wants {form[facts.after.stem_input]}; the mean is "
            "subtracted as before, (123.675, 116.28, 103.53) in the order of RGB; source_input says otherwise"
        )


def _stride_notes(facts: Facts) -> Iterator[str]:
    if not facts.layout.bottleneck:
        return
    if facts.source == "detectron2" or facts.stem_input == "bgr":
        yield (
            "stride: if the source halves in the first 1x1 convolution of a stage (detectron2's default, STRIDE_IN_1X1: "
            f"True; mmdetection's style='caffe'), no weight says so: set {STRIDE_IN_1X1[facts.to]}"
        )
    elif facts.to == "detectron2":
        yield (
            "stride: the source halves in the 3x3 convolution of a stage, which no weight says: set "
            "MODEL.RESNETS.STRIDE_IN_1X1: False, detectron2's default is True"
        )


def _pyramid_notes(facts: Facts) -> Iterator[str]:
    if facts.p6_from_p5:
        yield f"P6 is computed from P5: set {P6_FROM_P5[facts.to]}"
        if facts.source == "mmdet":
            yield "P6: taken as add_extra_convs='on_output'; 'on_lateral' has no counterpart elsewhere"
    else:
        yield f"P6 is computed from C5: set {P6_FROM_C5[facts.to]}"
    if facts.source in NO_RELU:
        yield f"P7: if the source has no ReLU before it ({NO_RELU[facts.source]}), {WITHOUT_RELU[facts.to]}"
    if facts.to == "mmdet":
        since = "if" if facts.source in NO_RELU else "as"
        yield f"P7: {since} the source has a ReLU before it, set FPN(relu_before_extra_convs=True), which is not its default"


def _head_notes(facts: Facts) -> Iterator[str]:
    if facts.before.size_major != facts.after.size_major:
        orders = {True: "sizes by ratios", False: "ratios by sizes"}
        yield (
            f"anchors: outputs for the anchors of a cell go from {orders[facts.before.size_major]} to "
            f"{orders[facts.after.size_major]}, ratios and sizes in the same order on both sides"
        )
    before, after = ANCHORS.get(facts.source), ANCHORS.get(facts.to)
    if before and after != before:
        how = f"; AnchorGenerator.of_sizes(convention={DIALECT_OF_OURS[facts.source]!r})" if facts.to == "ours" else ""
        yield f"anchors are no weights: lay them as {facts.source} does ({before}), or boxes move a little{how}"
    if facts.layout.normed:
        yield f"the head's towers have GroupNorm: set {GROUP_NORM[facts.to]}"
    if facts.layout.depth != TOWER_DEPTH:
        yield (
            f"the head's towers have {facts.layout.depth} convolutions, not {TOWER_DEPTH}: set NUM_CONVS (detectron2), "
            "stacked_convs (mmdetection) or num_convs (ours); torchvision's RetinaNetHead has no setting for it"
        )


def _builder_notes(facts: Facts) -> Iterator[str]:
    """Which function of torchvision's builds a network that these weights fit."""
    if facts.to != "torchvision":
        return
    resnet50 = facts.layout.bottleneck and facts.layout.blocks == RESNET50
    builders = {(True, False): "retinanet_resnet50_fpn", (False, True): "retinanet_resnet50_fpn_v2"}
    builder = builders.get((facts.p6_from_p5, facts.layout.normed)) if resnet50 else None
    if builder:
        yield f"build: {builder}(weights=None, weights_backbone=None); with its own weights it may set another eps"
    else:
        yield "build: RetinaNet(BackboneWithFPN(...), num_classes, head=...); no function of torchvision's makes this"
