"""Notes on converted weights: the settings that the target needs to compute what the source computed.

``NOTES`` is the whole list: each sentence, and the condition on the conversion that adds it. A sentence is filled from the
:class:`Conversion` and from the settings of its target, one :class:`Settings` for each framework.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from detect.interop.weight_names import EPS, PRIOR, Framework, Layout, names_in

RESNET50 = (3, 4, 6, 3)
TOWER_DEPTH = 4  # Lin et al. 2017, section 4: four convolutions in each tower
STEM_FORMS = {
    "rgb": "RGB, divided by the standard deviation (58.395, 57.12, 57.375 of 255)",
    "bgr": "BGR from 0 to 255, standard deviation 1",
}


@dataclass(frozen=True)
class Settings:
    """How to set in one framework what its weights do not hold."""

    p6_from_p5: str
    p6_from_c5: str
    no_relu_before_p7: str
    group_norm: str
    stride_in_1x1: str
    anchors: str = ""  # how it generates anchors; empty for this package, which generates them in any of these ways
    convention: str = ""  # of this package, with these anchors in the order of converted outputs
    default_without_relu: str = ""  # the setting that leaves out the ReLU before P7 by default, where there is one


_OWN_FORWARD = "give LastLevelP6P7 a forward of your own: it always applies one"
_OWN_STRIDES = "layer[0].conv1.stride, layer[0].conv2.stride = (2, 2), (1, 1) for layer2, layer3 and layer4"

SETTINGS = {
    "torchvision": Settings(
        p6_from_p5="LastLevelP6P7(256, 256)",
        p6_from_c5="LastLevelP6P7(channels of C5, 256)",
        no_relu_before_p7=_OWN_FORWARD,
        group_norm="norm_layer=partial(GroupNorm, 32), as in retinanet_resnet50_fpn_v2",
        stride_in_1x1=_OWN_STRIDES,
        anchors="sizes cut and corners rounded to whole pixels, strides cut",
        convention="torchvision",
    ),
    "detectron2": Settings(
        p6_from_p5="LastLevelP6P7(256, 256, in_feature='p5')",
        p6_from_c5="LastLevelP6P7(channels of C5, 256), its default",
        no_relu_before_p7=_OWN_FORWARD,
        group_norm="MODEL.RETINANET.NORM: GN, which is not its default",
        stride_in_1x1="MODEL.RESNETS.STRIDE_IN_1X1: True",
        anchors="no rounding",
        convention="mmdet",  # converted outputs have mmdetection's order, ratios by sizes
    ),
    "mmdet": Settings(
        p6_from_p5="FPN(add_extra_convs='on_output')",
        p6_from_c5="FPN(add_extra_convs='on_input'), its RetinaNet's setting",
        no_relu_before_p7="keep its default",
        group_norm="bbox_head norm_cfg=dict(type='GN', num_groups=32), which is not its default",
        stride_in_1x1="style='caffe'",
        anchors="no rounding",
        convention="mmdet",
        default_without_relu="FPN's default, relu_before_extra_convs=False",
    ),
    "ours": Settings(
        p6_from_p5="FeaturePyramid(extra='p5')",
        p6_from_c5="FeaturePyramid(extra='c5')",
        no_relu_before_p7="set FeaturePyramid(relu_before_p7=False)",
        group_norm="RetinaNetHead(norm='group')",
        stride_in_1x1=_OWN_STRIDES,
        default_without_relu="relu_before_p7=False",
    ),
}
SETTINGS["imported"] = replace(
    SETTINGS["torchvision"], group_norm=SETTINGS["ours"].group_norm, anchors="", convention=""
)


@dataclass(frozen=True)
class Conversion:
    """One conversion: frameworks, architecture, and what was found or assumed about the source."""

    source: str
    to: str
    layout: Layout
    stem_input: str  # "rgb" or "bgr", expected by the source's stem
    eps: float  # of the source's batch norms
    p6_from_p5: bool
    rows: tuple[int, int]  # class rows of each anchor, before and after

    @property
    def before(self) -> Framework:
        return names_in(self.source, centerness=self.layout.centerness)

    @property
    def after(self) -> Framework:
        return names_in(self.to, centerness=self.layout.centerness)

    @property
    def changes_framework(self) -> bool:
        return self.source != self.to

    @property
    def torchvision_builder(self) -> str | None:
        """The torchvision function that builds a network for these weights."""
        if not (self.layout.bottleneck and self.layout.blocks == RESNET50):
            return None
        if self.layout.centerness:
            return "fcos_resnet50_fpn" if self.p6_from_p5 else None
        builders = {(True, False): "retinanet_resnet50_fpn", (False, True): "retinanet_resnet50_fpn_v2"}
        return builders.get((self.p6_from_p5, self.layout.normed))

    @property
    def stride_may_be_in_1x1(self) -> bool:
        return self.layout.bottleneck and (self.source == "detectron2" or self.stem_input == "bgr")

    @property
    def differs_in_anchors(self) -> bool:
        return SETTINGS[self.source].anchors not in ("", SETTINGS[self.to].anchors)


def notes_on(conversion: Conversion, dropped: Mapping[str, int], added: Mapping[str, int]) -> tuple[str, ...]:
    """What was done to the weights, then how to set the target.

    By kind, ``dropped`` counts the tensors without a place in the target, and ``added`` those filled with zeros.
    """
    counts = (("dropped", dropped), ("added as zeros", added))
    notes = [f"{what}: " + ", ".join(f"{n} {kind}" for kind, n in kinds.items()) for what, kinds in counts if kinds]
    words = _words(conversion)
    return (*notes, *(text.format_map(words) for text, applies in NOTES.items() if applies(conversion)))


def _words(conversion: Conversion) -> dict[str, object]:
    orders = {True: "sizes by ratios", False: "ratios by sizes"}
    own_generator = f"; AnchorGenerator.of_sizes(convention={SETTINGS[conversion.source].convention!r})"
    return {
        "c": conversion,
        "source": SETTINGS[conversion.source],
        "to": SETTINGS[conversion.to],
        "EPS": f"{EPS:g}",
        "eps": f"{conversion.eps:g}",
        "PRIOR": PRIOR,
        "TOWER_DEPTH": TOWER_DEPTH,
        "rows": conversion.rows[0],
        "stem_before": STEM_FORMS[conversion.stem_input],
        "stem_after": STEM_FORMS[conversion.after.stem_input],
        "order_before": orders[conversion.before.size_major],
        "order_after": orders[conversion.after.size_major],
        "own_generator": own_generator if conversion.to == "ours" else "",
        "if_or_as": "if" if SETTINGS[conversion.source].default_without_relu else "as",
    }


NOTES: dict[str, Callable[[Conversion], bool]] = {
    "batch norms: eps of the source taken as {eps}; torchvision sets 0 with its COCO_V1 weights, also where they are "
    "trained further, and {EPS} otherwise: source_eps overrides it": lambda c: (
        c.source in ("torchvision", "imported") and c.changes_framework and c.p6_from_p5
    ),
    "batch norms: weights are scaled by sqrt((var + {EPS}) / (var + {eps})), so that the result is the same with an eps "
    "of {EPS}, which all targets have": lambda c: c.eps != EPS and c.changes_framework,
    "classes: of 91 rows, COCO's category ids, the 11 that no category has are left out: row i is the i-th id in order; "
    "num_classes=91 keeps them": lambda c: c.rows == (91, 80),
    "classes: 80 rows go to COCO's category ids in 91; the 11 that no category has get weight 0 and the bias of a score "
    "of {PRIOR}; num_classes=80 keeps 80, for classes other than COCO's": lambda c: c.rows == (80, 91),
    "classes: {rows} rows pass unchanged; torchvision keeps row 0 for the background, others have no row for it": lambda c: (
        c.rows[0] == c.rows[1] and (c.source == "torchvision") != (c.to == "torchvision")
    ),
    "stem: taken to want {stem_before}; now wants {stem_after}; the mean is subtracted as before, (123.675, 116.28, "
    "103.53) in the order of RGB; source_input overrides it": lambda c: c.stem_input != c.after.stem_input,
    "stride: if the source halves in the first 1x1 convolution of a stage (detectron2's default, STRIDE_IN_1X1: True; "
    "mmdetection's style='caffe'), no weight says so: set {to.stride_in_1x1}": lambda c: (
        c.changes_framework and c.stride_may_be_in_1x1
    ),
    "stride: the source halves in the 3x3 convolution of a stage, which no weight says: set "
    "MODEL.RESNETS.STRIDE_IN_1X1: False, detectron2's default is True": lambda c: (
        c.to == "detectron2" != c.source and c.layout.bottleneck and not c.stride_may_be_in_1x1
    ),
    "P6 is computed from P5: set {to.p6_from_p5}": lambda c: c.changes_framework and c.p6_from_p5,
    "P6: taken as add_extra_convs='on_output'; 'on_lateral' has no counterpart elsewhere": lambda c: (
        c.source == "mmdet" != c.to and c.p6_from_p5
    ),
    "P6 is computed from C5: set {to.p6_from_c5}": lambda c: c.changes_framework and not c.p6_from_p5,
    "P7: if the source has no ReLU before it ({source.default_without_relu}), {to.no_relu_before_p7}": lambda c: (
        c.changes_framework and SETTINGS[c.source].default_without_relu != ""
    ),
    "P7: {if_or_as} the source has a ReLU before it, set FPN(relu_before_extra_convs=True), which is not its "
    "default": lambda c: c.to == "mmdet" != c.source,
    "anchors: outputs for the anchors of a cell go from {order_before} to {order_after}, ratios and sizes in the same "
    "order on both sides": lambda c: c.before.size_major != c.after.size_major,
    "anchors are no weights: generate them as {c.source} does ({source.anchors}), or boxes move a "
    "little{own_generator}": lambda c: c.differs_in_anchors,
    "the head's towers have GroupNorm: set {to.group_norm}": lambda c: (
        c.changes_framework and c.layout.normed and not (c.to == "torchvision" and c.layout.centerness)
    ),
    "FCOS: set RetinaNetHead(num_anchors=1, centerness=True, biased=True), anchors as large as the stride, and "
    "DistanceCoder(activation='relu')": lambda c: c.to in ("ours", "imported") and c.layout.centerness,
    "the head's towers have {c.layout.depth} convolutions, not {TOWER_DEPTH}: set NUM_CONVS (detectron2), stacked_convs "
    "(mmdetection) or num_convs (ours); torchvision's RetinaNetHead has no setting for it": lambda c: (
        c.changes_framework and c.layout.depth != TOWER_DEPTH
    ),
    "build: {c.torchvision_builder}(weights=None, weights_backbone=None); with its own weights it may set "
    "another eps": lambda c: c.to == "torchvision" != c.source and c.torchvision_builder is not None,
    "build: RetinaNet(BackboneWithFPN(...), num_classes, head=...); no function of torchvision's makes this": lambda c: (
        c.to == "torchvision" != c.source and c.torchvision_builder is None
    ),
}
