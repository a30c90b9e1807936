"""Anchor generators of other frameworks, made from the source of their packages, and sets such as a fit for them makes.

The packages need much that these few classes do not; so only the classes are run, with what they use of other modules. Run
this file where yolov5 7.0.14, mmdet 3.3.0 and effdet 0.4.1 can be found to write ``interop/framework_anchors.json`` again.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch.nn.modules.utils import _pair

from detect.anchors.anchor_set import AnchorSet
from detect.anchors.generator import AnchorGenerator
from detect.anchors.grid_convention import as_convention
from detect.anchors.known import stock_anchors
from detect.catalog.detectors import Detector, anchor_detectors, load_detector
from detect.interop.anchor_formats import convert_anchors

GOLDEN = Path(__file__).parent / "interop" / "framework_anchors.json"
LIKE_EFFDET_D0 = [f"effdet-d{number}" for number in range(1, 7)]  # other image sizes alone
GOLDEN_NAMES = ("yolov5", "mmdet-yolov3", "mmdet-ssd300", "mmdet-retinanet", "mmdet-faster-rcnn", "effdet-d0")
NAMES = [name for name in anchor_detectors() if name not in LIKE_EFFDET_D0]


def names_of(*formats: str) -> list[str]:
    """The detectors of the catalog that take these texts."""
    return [name for name in NAMES if anchor_detectors()[name].text.format in formats]


def sets_for(name: str) -> dict[str, AnchorSet]:
    """The anchors that a detector ships with, and some that could have been fitted for it."""
    detector = load_detector(name)
    return {"stock": stock_anchors(detector), "fitted": fitted_like(detector)}


def fitted_like(detector: Detector, seed: int = 0) -> AnchorSet:
    """Random shapes of a detector's layout, in the order of its framework, on its levels, for its resize rule."""
    random = np.random.default_rng(seed)
    convention = as_convention(detector.convention)
    if detector.layout == "ranked":
        sizes = np.sort(np.exp(random.uniform(np.log(8), np.log(400), detector.num_anchors)))
        shapes = np.split(_shapes(sizes, random.uniform(0.4, 2.5, len(sizes))), np.cumsum(detector.numbers)[:-1])
    elif detector.layout == "octaves":
        shapes = _octaves(detector, random, size_outer=convention.size_outer)
    else:
        make = {"level-grids": _grid, "free": _free, "ssd": _ssd}[detector.layout]
        levels = zip(detector.strides, detector.numbers, strict=True)
        shapes = [make(random, min(4 * stride, 200), number, convention.size_outer) for stride, number in levels]
    return AnchorSet.of(
        shapes, strides=detector.strides, resize=detector.resize, center_offset=convention.center_offset
    )


def _shapes(sizes: np.ndarray, ratios: np.ndarray) -> np.ndarray:
    return np.stack([sizes / np.sqrt(ratios), sizes * np.sqrt(ratios)], axis=-1)


def _octaves(detector: Detector, random: np.random.Generator, *, size_outer: bool) -> list[np.ndarray]:
    num_ratios = detector.numbers[0] // (detector.scales or 1)
    sizes = random.uniform(2, 6) * 2 ** (np.arange(detector.scales or 1) / (detector.scales or 1))
    table = _shapes(sizes[:, None], np.sort(random.uniform(0.3, 3, num_ratios))[None])
    in_strides = (table if size_outer else table.swapaxes(0, 1)).reshape(-1, 2)
    return [in_strides * stride for stride in detector.strides]


def _grid(random: np.random.Generator, size: float, number: int, size_outer: bool) -> np.ndarray:
    sizes = size * np.sort(random.uniform(0.7, 1.6, number // 3))
    table = _shapes(sizes[:, None], np.sort(random.uniform(0.3, 3, 3))[None])
    return (table if size_outer else table.swapaxes(0, 1)).reshape(-1, 2)


def _free(random: np.random.Generator, size: float, number: int, size_outer: bool) -> np.ndarray:
    return size * random.uniform(0.5, 1.5, (number, 2))


def _ssd(random: np.random.Generator, size: float, number: int, size_outer: bool) -> np.ndarray:
    root = np.sqrt(random.uniform(1.2, 4, number // 2 - 1))
    pairs = np.stack([np.stack([root, 1 / root], -1), np.stack([1 / root, root], -1)], axis=1).reshape(-1, 2)
    return size * np.concatenate([np.ones((1, 2)), np.full((1, 2), random.uniform(1.1, 1.5)), pairs])


# ---- what a user does with a text


def run(text: str, **names: Any) -> dict[str, Any]:
    """The names that a text defines in a script."""
    exec(text, names)  # noqa: S102 - the text is what a user would paste
    return names


def pasted(text: str) -> dict[str, Any]:
    """Keyword arguments as they stand in a configuration of mmdetection."""
    return eval(f"dict(\n{text}\n)")  # noqa: S307 - likewise


# ---- the frameworks


def parts_of(package: str, file: str, parts: Sequence[str], **used: Any) -> SimpleNamespace:
    """Run some classes and functions of a package's file, with the names that they use; skip without the package."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"{package} is not installed")
    path = Path(spec.submodule_search_locations[0]) / file
    tree = ast.parse(path.read_text("utf-8"))
    tree.body = [node for node in tree.body if getattr(node, "name", None) in parts]
    annotations = ast.parse("from __future__ import annotations").body
    tree.body = [*annotations, *tree.body]
    names = dict(used)
    exec(compile(tree, str(path), "exec"), names)  # noqa: S102 - the package's own code
    return SimpleNamespace(**{name: names[name] for name in parts})


def yolov5_boxes(text: str, height: int, width: int, strides: Sequence[int]) -> list[np.ndarray]:
    """The boxes that YOLOv5's head predicts when its convolutions say nothing: its anchors, level by level."""
    used = {"nn": torch.nn, "torch": torch, "check_version": lambda *_: True, "Segment": type("Segment", (), {})}
    yolo = parts_of("yolov5", "models/yolo.py", ["Detect"], **used)
    auto = parts_of(
        "yolov5", "utils/autoanchor.py", ["check_anchor_order"], LOGGER=SimpleNamespace(info=print), PREFIX=""
    )
    head = yolo.Detect(nc=2, anchors=yaml.safe_load(text)["anchors"], ch=[1] * len(strides))
    head.stride = torch.tensor(strides).float()
    before = head.anchors.clone()
    auto.check_anchor_order(head)
    torch.testing.assert_close(head.anchors, before)  # YOLOv5 leaves the rows as they are
    head.anchors /= head.stride.view(-1, 1, 1)
    for convolution in head.m:
        torch.nn.init.zeros_(convolution.weight)
        torch.nn.init.zeros_(convolution.bias)
    maps = [torch.zeros(1, 1, height // stride, width // stride) for stride in strides]
    predicted = head.eval()(maps)[0][0, :, :4].detach()
    corners = torch.cat([predicted[:, :2] - predicted[:, 2:] / 2, predicted[:, :2] + predicted[:, 2:] / 2], dim=1)
    boxes = []
    for stride in strides:  # anchor, row, column -> row, column, anchor
        size = head.na, height // stride, width // stride
        own, corners = corners.split([np.prod(size), len(corners) - np.prod(size)])
        boxes.append(own.reshape(*size, 4).permute(1, 2, 0, 3).reshape(-1, 4).numpy())
    return boxes


def mmdet_boxes(text: str, height: int, width: int) -> list[np.ndarray]:
    """The priors of mmdetection's generator, level by level, in its order."""
    fields = pasted(text)["anchor_generator"]
    kinds = ["AnchorGenerator", "SSDAnchorGenerator", "YOLOAnchorGenerator"]
    registry = SimpleNamespace(register_module=lambda: lambda cls: cls)
    used = {"torch": torch, "np": np, "_pair": _pair, "TASK_UTILS": registry, "is_tuple_of": None}
    file = "models/task_modules/prior_generators/anchor_generator.py"
    made = getattr(parts_of("mmdet", file, kinds, **used), fields.pop("type"))(**fields)
    sizes = [(-(-height // stride), -(-width // stride)) for stride, _ in made.strides]
    return [priors.numpy() for priors in made.grid_priors(sizes, device="cpu")]


def effdet_boxes(text: str, side: int) -> list[np.ndarray]:
    """The anchors of efficientdet-pytorch for a square image, level by level."""
    config = SimpleNamespace(min_level=3, max_level=7, image_size=(side, side))
    run(text, config=config)
    used = {"nn": torch.nn, "torch": torch, "np": np, "Sequence": Sequence}
    made = parts_of("effdet", "anchors.py", ["Anchors", "get_feat_sizes"], **used).Anchors.from_config(config)
    levels = range(config.min_level, config.max_level + 1)
    counts = [made.get_anchors_per_location() * np.prod(made.feat_sizes[level]) for level in levels]
    yxyx = np.split(made.boxes.numpy(), np.cumsum(counts)[:-1])
    return [boxes[:, [1, 0, 3, 2]] for boxes in yxyx]


def boxes_of(name: str, text: str, side: int = 256) -> list[np.ndarray]:
    """The anchors that a detector's framework makes of its text on a square input, level by level from fine to coarse."""
    detector = load_detector(name)
    if detector.text.format == "yolov5":
        return yolov5_boxes(text, side, side, detector.strides)
    if detector.text.format == "effdet":
        return effdet_boxes(text, side)
    return mmdet_boxes(text, side, side)[:: -1 if detector.text.format == "mmdet-yolo" else 1]


def our_boxes(name: str, anchors: AnchorSet, side: int = 256) -> list[np.ndarray]:
    """The same of this package's generator."""
    generator = AnchorGenerator(anchors, convention=load_detector(name).convention)
    cells = [-(-side // level.stride) for level in anchors.levels]
    made = generator.generate([(number, number) for number in cells], (side, side))
    return [level.boxes().numpy() for level in made.level_grids]


def first_cells(name: str, text: str) -> list[Any]:
    """The anchors of the first cell of each level."""
    counts = load_detector(name).numbers
    boxes = boxes_of(name, text)
    return [level[:count].astype(float).round(3).tolist() for level, count in zip(boxes, counts, strict=True)]


if __name__ == "__main__":
    texts = {
        f"{name} {kind}": (name, convert_anchors(anchors, load_detector(name)).text)
        for name in GOLDEN_NAMES
        for kind, anchors in sets_for(name).items()
    }
    content = {case: {"text": text, "first_cells": first_cells(name, text)} for case, (name, text) in texts.items()}
    GOLDEN.write_text(
        "{\n" + ",\n".join(f"{json.dumps(key)}: {json.dumps(each)}" for key, each in content.items()) + "\n}\n"
    )
