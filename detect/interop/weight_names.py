"""How torchvision, detectron2, mmdetection and this package ("ours") name and order the weights of a RetinaNet on a ResNet.

``"imported"`` is torchvision's network with this package's head, as :func:`detect.interop.torchvision.import_head` makes it.
Each framework names the same modules; :func:`keys_of` lists them in one order, so two lists side by side are a translation.
How many blocks and convolutions there are, and which norms, is read from a checkpoint's own keys (:func:`read_layout`).

Sources: torchvision 0.28 (models/detection/retinanet.py), detectron2 (modeling/meta_arch/retinanet.py, backbone/fpn.py and
resnet.py), mmdetection 3.3 (dense_heads/retina_head.py, necks/fpn.py, backbones/resnet.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import count

from detect.errors import ConvertError
from detect.wording import listed

NO_CATEGORY = (0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83)  # ids below 91 that none of COCO's 80 categories has
COCO_IDS = tuple(index for index in range(91) if index not in NO_CATEGORY)
PRIOR = 0.01  # Lin et al. 2017, section 4.1: the score of a class row before training
EPS = 1e-5  # of batch norms in all four, except torchvision's COCO_V1

STAGES = (1, 2, 3, 4)
TRACKED = "num_batches_tracked"
# rebuilt from the configuration; no result depends on them
REMADE = ("anchor_generator.", "data_preprocessor.", "pixel_mean", "pixel_std", "criterion.", "n_averaged")
SHOWN = 5  # keys named in a message


@dataclass(frozen=True)
class Layout:
    """The build of a network, as far as its keys show it."""

    blocks: tuple[int, ...]  # residual blocks in each of the four stages
    bottleneck: bool  # blocks have three convolutions (ResNet-50 and deeper), not two
    depth: int  # convolutions in each tower of the head
    normed: bool  # a GroupNorm after each of them
    biased: bool  # a bias in each of them
    tracked: bool  # batch norms carry num_batches_tracked
    centerness: bool = False  # the box tower also predicts a centerness, as in FCOS


@dataclass(frozen=True)
class Framework:
    """The names of modules, finest level first, classes before boxes; and the layout of their tensors."""

    body: Callable[[str], str]  # from torchvision's name of a module in a ResNet
    lateral: tuple[str, ...]
    output: tuple[str, ...]
    extra: tuple[str, ...]
    towers: tuple[str, ...]
    conv: Callable[[int, bool], str]  # of the i-th convolution in a tower, with norms or without
    norm: Callable[[int], str]
    outputs: tuple[str, ...]
    size_major: bool = False  # the anchors of a cell run over sizes, and within a size over ratios
    stem_input: str = "rgb"  # or "bgr", as in weights.py
    coco_rows: int | None = None  # class rows for COCO; None: 80 or 91
    tracked: bool | None = None  # whether batch norms carry num_batches_tracked; None: as in the source
    biased_with_norm: bool = False  # tower convolutions keep a bias before their norm
    centerness: str | None = None  # the output of FCOS, where this framework's is known


def _detectron2_body(module: str) -> str:
    name = module if module.startswith("layer") else f"stem.{module}"
    name = re.sub(r"layer(\d)", lambda match: f"res{int(match[1]) + 1}", name)
    name = re.sub(r"bn(\d)", r"conv\1.norm", name)
    name = name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")
    return f"backbone.bottom_up.{name}"


FRAMEWORKS = {
    "torchvision": Framework(
        body=lambda module: f"backbone.body.{module}",
        lateral=tuple(f"backbone.fpn.inner_blocks.{level}.0" for level in range(3)),
        output=tuple(f"backbone.fpn.layer_blocks.{level}.0" for level in range(3)),
        extra=("backbone.fpn.extra_blocks.p6", "backbone.fpn.extra_blocks.p7"),
        towers=("head.classification_head.conv", "head.regression_head.conv"),
        conv=lambda index, _: f"{index}.0",
        norm=lambda index: f"{index}.1",
        outputs=("head.classification_head.cls_logits", "head.regression_head.bbox_reg"),
        coco_rows=91,
        tracked=True,
    ),
    "detectron2": Framework(
        body=_detectron2_body,
        lateral=tuple(f"backbone.fpn_lateral{level}" for level in (3, 4, 5)),
        output=tuple(f"backbone.fpn_output{level}" for level in (3, 4, 5)),
        extra=("backbone.top_block.p6", "backbone.top_block.p7"),
        towers=("head.cls_subnet", "head.bbox_subnet"),
        conv=lambda index, normed: f"{index * (3 if normed else 2)}",  # norm and ReLU count in its nn.Sequential
        norm=lambda index: f"{3 * index + 1}",
        outputs=("head.cls_score", "head.bbox_pred"),
        size_major=True,
        stem_input="bgr",
        coco_rows=80,
        tracked=False,
        biased_with_norm=True,
    ),
    "mmdet": Framework(
        body=lambda module: f"backbone.{module}",
        lateral=tuple(f"neck.lateral_convs.{level}.conv" for level in range(3)),
        output=tuple(f"neck.fpn_convs.{level}.conv" for level in range(3)),
        extra=("neck.fpn_convs.3.conv", "neck.fpn_convs.4.conv"),
        towers=("bbox_head.cls_convs", "bbox_head.reg_convs"),
        conv=lambda index, _: f"{index}.conv",
        norm=lambda index: f"{index}.gn",
        outputs=("bbox_head.retina_cls", "bbox_head.retina_reg"),
        coco_rows=80,
        tracked=True,
    ),
    "ours": Framework(
        body=lambda module: f"backbone.{module}",
        lateral=tuple(f"pyramid.lateral.{level}" for level in range(3)),
        output=tuple(f"pyramid.output.{level}" for level in range(3)),
        extra=("pyramid.extra.0", "pyramid.extra.1"),
        towers=("head.class_tower", "head.box_tower"),
        conv=lambda index, _: f"convs.{index}",
        norm=lambda index: f"norms.{index}",
        outputs=("head.class_outputs.0", "head.box_outputs.0"),
        centerness="head.centerness_outputs.0",
    ),
}
_HEAD = {name: getattr(FRAMEWORKS["ours"], name) for name in ("towers", "conv", "norm", "outputs", "centerness")}
FRAMEWORKS["imported"] = replace(FRAMEWORKS["torchvision"], **_HEAD, coco_rows=None)
FCOS = replace(  # torchvision's FCOS; its convolutions, norms and ReLUs count in one nn.Sequential
    FRAMEWORKS["torchvision"],
    conv=lambda index, _: f"{3 * index}",
    norm=lambda index: f"{3 * index + 1}",
    biased_with_norm=True,
    centerness="head.regression_head.bbox_ctrness",
)


def names_in(framework: str, *, centerness: bool) -> Framework:
    """The names of a framework's RetinaNet, or of its FCOS.

    Raises:
        ConvertError: its FCOS is not known.
    """
    names = FCOS if centerness and framework == "torchvision" else FRAMEWORKS[framework]
    if centerness and names.centerness is None:
        raise ConvertError(f"the weights have a centerness output, as in FCOS, for which {framework} has no place here")
    return names


def has_centerness(keys: Iterable[str]) -> bool:
    """Whether these are keys of an FCOS."""
    own = {FCOS.centerness, FRAMEWORKS["ours"].centerness}
    return any(key.rpartition(".")[0] in own for key in keys)


def recognise_framework(keys: Iterable[str]) -> str:
    """The framework that uses these names.

    >>> recognise_framework(["backbone.fpn_lateral3.weight", "pixel_mean"])
    'detectron2'
    """
    keys = set(keys)
    fitting = [name for name, framework in FRAMEWORKS.items() if f"{framework.lateral[0]}.weight" in keys]
    if fitting:  # torchvision's and the imported differ in the head
        return next((name for name in fitting if f"{FRAMEWORKS[name].outputs[0]}.weight" in keys), fitting[0])
    expected = ", ".join(f"{framework.lateral[0]}.weight ({name})" for name, framework in FRAMEWORKS.items())
    raise ConvertError(f"not a RetinaNet of a known framework: saw {_some(keys)}; looked for one of {expected}")


def read_layout(source: str, keys: Iterable[str]) -> Layout:
    """The build of a framework's network, read from all of its keys."""
    keys = set(keys)
    centerness = has_centerness(keys)
    framework = names_in(source, centerness=centerness)
    modules = {key.rpartition(".")[0] for key in keys}

    def has_block(stage: int, block: int) -> bool:
        return any(module.startswith(framework.body(f"layer{stage}.{block}") + ".") for module in modules)

    def in_towers(name: str, among: set[str] = modules) -> bool:
        return any(f"{tower}.{name}" in among for tower in framework.towers)

    normed = in_towers(framework.norm(0))
    layout = Layout(
        blocks=tuple(next(n for n in count() if not has_block(stage, n)) for stage in STAGES),
        bottleneck=framework.body("layer1.0.conv3") in modules,
        depth=next(n for n in count() if not in_towers(framework.conv(n, normed))),
        normed=normed,
        biased=not normed or in_towers(f"{framework.conv(0, normed)}.bias", keys),
        tracked=any(key.endswith(TRACKED) for key in keys),
        centerness=centerness,
    )
    expected = set(keys_of(source, layout))
    if keys != expected:
        unknown, missing = keys - expected, expected - keys
        parts = [f"keys without a place: {_some(unknown)}"] if unknown else []
        parts += [f"missing keys: {_some(missing)}"] if missing else []
        raise ConvertError(f"not a ResNet RetinaNet as {source} names it: " + "; ".join(parts))
    return layout


def keys_of(framework: str, layout: Layout) -> list[str]:
    """Every key of a network of this layout, in an order that is the same for all frameworks.

    >>> layout = Layout((2, 2, 2, 2), bottleneck=False, depth=4, normed=False, biased=True, tracked=False)
    >>> ours = dict(zip(keys_of("detectron2", layout), keys_of("ours", layout)))
    >>> ours["backbone.bottom_up.res3.0.shortcut.norm.bias"]
    'backbone.layer2.0.downsample.1.bias'
    """
    modules = _modules(names_in(framework, centerness=layout.centerness), layout)
    return [f"{module}.{parameter}" for module, parameters in modules for parameter in parameters]


def batch_norms(layout: Layout) -> list[str]:
    """The batch norms of the ResNet, by our names.

    >>> batch_norms(Layout((1, 0, 0, 0), bottleneck=False, depth=4, normed=False, biased=True, tracked=False))
    ['backbone.bn1', 'backbone.layer1.0.bn1', 'backbone.layer1.0.bn2']
    """
    return [FRAMEWORKS["ours"].body(norm) for _, norm in _body(layout)]


def modern_key(key: str) -> str:
    """torchvision's present name for one from the time when a convolution and its norm were no module of their own.

    >>> modern_key("head.regression_head.conv.6.bias"), modern_key("backbone.fpn.inner_blocks.2.weight")
    ('head.regression_head.conv.3.0.bias', 'backbone.fpn.inner_blocks.2.0.weight')
    """
    tower = re.fullmatch(r"(head\.(?:classification|regression)_head\.conv)\.(\d)\.(weight|bias)", key)
    if tower:  # ReLUs had the odd numbers
        return f"{tower[1]}.{int(tower[2]) // 2}.0.{tower[3]}"
    return re.sub(r"^(backbone\.fpn\.(?:inner|layer)_blocks\.\d)\.(weight|bias)$", r"\1.0.\2", key)


def _modules(framework: Framework, layout: Layout) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Every module and the names of its tensors."""
    affine = ("weight", "bias")
    statistics = ("running_mean", "running_var", *([TRACKED] if layout.tracked else []))
    for conv, norm in _body(layout):
        yield framework.body(conv), ("weight",)
        yield framework.body(norm), affine + statistics
    for module in framework.lateral + framework.output + framework.extra:
        yield module, affine
    for tower in framework.towers:
        for index in range(layout.depth):
            yield f"{tower}.{framework.conv(index, layout.normed)}", affine if layout.biased else ("weight",)
            if layout.normed:
                yield f"{tower}.{framework.norm(index)}", affine
    for module in (*framework.outputs, *([framework.centerness] if layout.centerness and framework.centerness else [])):
        yield module, affine


def _body(layout: Layout) -> Iterator[tuple[str, str]]:
    """Every convolution of the ResNet with its norm, by torchvision's names."""
    yield "conv1", "bn1"
    for stage, blocks in zip(STAGES, layout.blocks, strict=True):
        for block in range(blocks):
            at = f"layer{stage}.{block}"
            yield from ((f"{at}.conv{index}", f"{at}.bn{index}") for index in range(1, 4 if layout.bottleneck else 3))
            if block == 0 and (stage > 1 or layout.bottleneck):  # the width or the stride changes
                yield f"{at}.downsample.0", f"{at}.downsample.1"


def _some(keys: Iterable[str]) -> str:
    return listed(sorted(keys), most=SHOWN) or "no keys"
