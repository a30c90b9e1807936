"""The anchors that detectors of the catalog ship with, by name, to compare with fitted ones; or anchors from a file."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path

from detect.anchors.anchor_readers import is_plain, parse_anchors, read_anchors
from detect.anchors.anchor_set import AnchorSet
from detect.anchors.grid_convention import as_convention
from detect.catalog.detectors import AnchorDetector, Stock, anchor_detectors, find_detector, with_anchors
from detect.errors import AnchorFileError
from detect.files import exists, is_folder

Shapes = list[tuple[float, float]]


def load_anchors(name_or_path: str | Path) -> AnchorSet:
    """Load the anchors of a detector of the catalog by its name, of a file, or of a text such as ``10,13 16,30``.

    A file is an ``anchors.yaml`` (or its folder) or one of another framework: :mod:`detect.anchors.anchor_readers`.

    Raises:
        AnchorFileError: the argument is neither a known name, nor a readable file, nor numbers.

    >>> load_anchors("yolov2-voc").num_anchors
    5
    """
    if known := find_detector(str(name_or_path)):
        return stock_anchors(with_anchors(known), name=str(name_or_path))
    path = Path(name_or_path)
    if is_folder(path):
        path = path / "anchors.yaml"
    if is_plain(str(name_or_path)):
        return parse_anchors(str(name_or_path), name=textwrap.shorten(str(name_or_path), 30, placeholder=" ..."))
    if not exists(path):
        names = "" if path.suffix else f"; known by name: {', '.join(sorted(anchor_detectors()))}"
        raise AnchorFileError(f"{name_or_path}: no such file{names}")
    return read_anchors(path)


def stock_anchors(detector: AnchorDetector, *, name: str = "") -> AnchorSet:
    """The anchors that a detector ships with; ``name`` is by default the detector's.

    Raises:
        AnchorFileError: the detector's description has none, or not as many as its levels need.

    >>> stock_anchors(anchor_detectors()["torchvision-ssd300"]).levels[0].shapes
    [(21.0, 21.0), (30.7409, 30.7409), (29.6985, 14.8492), (14.8492, 29.6985)]
    """
    if detector.stock is None:
        raise AnchorFileError(f"{detector.name}: its description has no stock anchors")
    levels = _shapes_of(detector.stock, size_outer=as_convention(detector.convention).size_outer)
    if len(levels) == 1:
        levels *= len(detector.strides)
    if [len(level) for level in levels] != detector.numbers:
        found = ", ".join(str(len(level)) for level in levels)
        raise AnchorFileError(f"{detector.name}: stock anchors are {found} for levels of {detector.numbers}")
    if detector.stock.in_strides:
        levels = [_scaled(level, stride) for level, stride in zip(levels, detector.strides, strict=True)]
    return AnchorSet.of(
        levels,
        strides=detector.strides,
        resize=detector.resize,
        name=name or detector.name,
        center_offset=as_convention(detector.convention).center_offset,
    )


def _shapes_of(stock: Stock, *, size_outer: bool) -> list[Shapes]:
    """The shapes of each level, or one list for all levels, in the order of the head's channels."""
    if stock.squares:
        return [
            _ssd(*pair) for pair in zip(stock.squares, stock.ratios, [stock.largest] * len(stock.squares), strict=True)
        ]
    if not stock.sizes:
        return stock.shapes
    factors = [[(1 / math.sqrt(ratio), math.sqrt(ratio)) for ratio in level] for level in stock.ratios]
    by_level = factors or [stock.aspects]
    pairs = zip(stock.sizes, by_level * len(stock.sizes) if len(by_level) == 1 else by_level, strict=True)
    return [_sizes_by_factors(sizes, own, size_outer=size_outer) for sizes, own in pairs]


def _sizes_by_factors(sizes: Sequence[float], factors: Sequence[tuple[float, float]], *, size_outer: bool) -> Shapes:
    if size_outer:
        return [(size * x, size * y) for size in sizes for x, y in factors]
    return [(size * x, size * y) for x, y in factors for size in sizes]


def _ssd(squares: tuple[float, float], ratios: Iterable[float], largest: float | None) -> Shapes:
    """Liu et al. 2016, section 2.2: a square, the geometric mean of it and the next, and each ratio and its inverse."""
    size, larger = squares
    shapes = [(size, size), (math.sqrt(size * larger),) * 2]
    for ratio in map(math.sqrt, ratios):
        shapes += [(size * ratio, size / ratio), (size / ratio, size * ratio)]
    return [(min(w, largest or w), min(h, largest or h)) for w, h in shapes]


def _scaled(shapes: Shapes, factor: float) -> Shapes:
    return [(width * factor, height * factor) for width, height in shapes]
