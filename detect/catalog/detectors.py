"""Detectors of the catalog, ``detectors.yaml``: levels, resize rule, matching and what they return; some have anchors."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from string import Formatter
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from detect.catalog.matching import (
    CELL_RULES,
    AnchorMatching,
    CellMatching,
    CenterInBox,
    FcosRanges,
    Number,
    OneQuery,
    Share,
)
from detect.errors import CatalogError
from detect.text_formats import read_yaml

FILE = Path(__file__).with_name("detectors.yaml")
OF_STOCK = {"strides", "per_level"}  # with others, the anchors that a detector ships with are not for it

Size = Annotated[float, Meta(gt=0, le=1e6)]
Count = Annotated[int, Meta(ge=1, le=1_000_000)]
Stride = Annotated[int, Meta(ge=1, le=2**20)]


class Text(Struct, frozen=True, forbid_unknown_fields=True):
    """The format of a detector's text, the file it goes into, and its place there."""

    format: str
    file: str
    key: str


class Stock(Struct, frozen=True, forbid_unknown_fields=True):
    """The anchors that a detector ships with, in pixels or in strides.

    One list for each level, or one list for all: ``shapes`` (width, height); or ``sizes`` by ``ratios`` (height / width) or
    by ``aspects`` (factors of width and height); or ``squares`` (smaller, larger), their geometric mean, and the smaller one
    at each ratio and its inverse.
    """

    in_strides: bool = False
    shapes: list[list[tuple[Size, Size]]] = []
    sizes: list[list[Size]] = []
    ratios: list[list[Size]] = []
    aspects: list[tuple[Size, Size]] = []
    squares: list[tuple[Size, Size]] = []
    largest: Size | None = None


class Nms(Struct, frozen=True, forbid_unknown_fields=True):
    """Suppression after the network: the IoU above which one of two boxes is removed, and which boxes meet."""

    iou: Share
    across: Literal["category", "all"] = "category"


class FinerLevel(Struct, frozen=True, forbid_unknown_fields=True):
    """A version of the detector with one finer level that its framework ships."""

    text: str
    """What the user sets for it."""
    cost: Annotated[float, Meta(gt=1, le=10)]
    """Its floating-point operations / those of the detector."""


class Detector(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A detector of the catalog; the fields are explained in ``detectors.yaml``."""

    name: str
    about: str = ""
    source: str = ""
    strides: Annotated[list[Stride], Meta(min_length=1)]
    resize: str
    matching: AnchorMatching | CellMatching
    reg_max: Annotated[int, Meta(ge=2, le=1000)] | None = None
    reaches_reg_max: bool = False
    queries: Count | None = None
    nms: Nms | None = None
    max_det: Count | None = None
    max_truth: Count | None = None
    mosaic: Annotated[int, Meta(ge=1, le=9)] = 1
    finer: FinerLevel | None = None
    size_multiple: Annotated[int, Meta(ge=1, le=1024)] = 32
    keys: dict[Literal["size", "iou", "max_det", "max_truth", "queries", "reg_max", "ranges"], str] = {}
    aliases: list[str] = []

    def __post_init__(self) -> None:
        if self.strides != sorted(set(self.strides)):
            raise ValueError("strides must differ and go from fine to coarse")
        if isinstance(self.matching, FcosRanges):
            _check_limits(self.matching.limits, len(self.strides))
        if isinstance(self.matching, OneQuery) != (self.queries is not None):
            raise ValueError("a detector has queries if its matching rule is one-query, and only then")
        if self.finer and (self.strides[0] % 2 or not isinstance(self.matching, CenterInBox | AnchorMatching)):
            raise ValueError("finer needs an even finest stride, and anchors or the rule center-in-box")
        for key, pattern in self.keys.items():
            _check_key(key, pattern)

    @property
    def rule(self) -> str:
        """The name of the matching rule."""
        return str(self.matching.__struct_config__.tag)

    @property
    def reach(self) -> int | None:
        """The longest distance from a cell to a side of its box, in strides; None if any can be predicted."""
        return None if self.reg_max is None else self.reg_max - (not self.reaches_reg_max)


class AnchorDetector(Detector, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A detector with anchors."""

    per_level: Number | list[Number]
    layout: Literal["ranked", "free", "octaves", "grid", "level-grids", "ssd"] = "free"
    scales: Number | None = None
    max_strides: Annotated[float, Meta(gt=0)] | None = None
    convention: Literal["exact", "torchvision", "detectron2", "mmdet", "effdet"] = "exact"
    matching: AnchorMatching
    text: Text
    stock: Stock | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.numbers) != len(self.strides):
            raise ValueError(f"per_level has {len(self.numbers)} numbers for {len(self.strides)} strides")
        if self.layout in ("octaves", "grid", "level-grids") and (
            self.scales is None or len(set(self.numbers)) > 1 or self.numbers[0] % self.scales
        ):
            raise ValueError(f"layout {self.layout} needs scales, which divide per_level")
        if self.layout == "ranked" and len(set(self.numbers)) > 1:
            raise ValueError("layout ranked needs the same number of anchors on every level")
        if self.finer and not isinstance(self.per_level, int):
            raise ValueError("finer needs one number of anchors for all levels")

    @property
    def numbers(self) -> list[int]:
        """Anchors in a cell of each level."""
        return [self.per_level] * len(self.strides) if isinstance(self.per_level, int) else self.per_level

    @property
    def num_anchors(self) -> int:
        """Anchor shapes on all levels together."""
        return sum(self.numbers)


def _check_limits(limits: Sequence[float], num_levels: int) -> None:
    if len(limits) != num_levels - 1:
        raise ValueError(f"limits has {len(limits)} numbers between {num_levels} levels")
    if list(limits) != sorted(set(limits)):
        raise ValueError(f"limits must rise, got {', '.join(f'{limit:g}' for limit in limits)}")


def _check_key(key: str, pattern: str) -> None:
    try:
        fields = [name for _, name, _, _ in Formatter().parse(pattern) if name is not None]
    except ValueError:
        fields = ["?"]
    if not fields or not all(name == "" or name.isdigit() for name in fields):
        raise ValueError(f"keys.{key}: expected text with {{}} for the number, got {pattern!r}")


def load_detector(name_or_path: str | Path) -> Detector:
    """A detector of the catalog by its name, or a user's own from a YAML file with the same fields.

    A file may name a ``base`` of the catalog, whose fields its own replace; other levels or numbers also leave out its stock
    anchors.

    Raises:
        CatalogError: there is no such name or file, or a field is missing or wrong.

    >>> load_detector("yolov5").strides, load_detector("effdet-d3").resize
    ([8, 16, 32], 'letterbox:896')
    """
    if known := find_detector(str(name_or_path)):
        return known
    path = Path(name_or_path)
    if path.suffix.lower() not in (".yaml", ".yml"):
        close = difflib.get_close_matches(str(name_or_path).lower(), _by_name(), n=3, cutoff=0.5)
        meant = f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(detectors())}."
        raise CatalogError(f"no detector is named {name_or_path!r}: {meant} A YAML file describes your own.")
    fields = {"name": path.stem, **_content(path)}
    return _detector(fields, _raw(), str(path))


def with_anchors(detector: Detector) -> AnchorDetector:
    """The detector, for what only a detector with anchors has.

    Raises:
        CatalogError: it has none.
    """
    if isinstance(detector, AnchorDetector):
        return detector
    raise CatalogError(
        f"{detector.name} has no anchors: `detect advise --for {detector.name}` tells what to set instead"
    )


def find_detector(name: str) -> Detector | None:
    """The detector of this name or alias, or None."""
    return _by_name().get(name)


@cache
def detectors() -> Mapping[str, Detector]:
    """The detectors of the catalog by name."""
    raw = _raw()
    return {name: _detector({"name": name, **fields}, raw, FILE.name) for name, fields in raw.items()}


def anchor_detectors() -> Mapping[str, AnchorDetector]:
    """Those of them that have anchors."""
    return {name: each for name, each in detectors().items() if isinstance(each, AnchorDetector)}


@cache
def _by_name() -> dict[str, Detector]:
    known = dict(detectors())
    return known | {alias: each for each in known.values() for alias in each.aliases}


@cache
def _raw() -> dict[str, dict[str, Any]]:
    return _content(FILE)


def _content(path: Path) -> dict[str, Any]:
    content = read_yaml(path, CatalogError)
    if not isinstance(content, dict):
        raise CatalogError(f"{path}: expected fields such as `base: yolov5`, got {type(content).__name__}")
    return content


def _detector(fields: Mapping[str, Any], catalog: Mapping[str, Mapping[str, Any]], file: str) -> Detector:
    own = dict(fields)
    while base := own.pop("base", None):
        if not isinstance(base, str) or base not in catalog:
            raise CatalogError(f"{file}: {own['name']}: base {base!r} is not in the catalog")
        left = {"aliases", "stock"} if own.keys() & OF_STOCK else {"aliases"}
        own = {**{name: value for name, value in catalog[base].items() if name not in left}, **own}
        if "base" in catalog[base]:
            own["base"] = catalog[base]["base"]
    matching = own.get("matching")
    rule = matching.get("rule") if isinstance(matching, dict) else None
    try:
        return msgspec.convert(own, Detector if rule in CELL_RULES else AnchorDetector)
    except msgspec.ValidationError as error:
        raise CatalogError(f"{file}: {own['name']}: {str(error).replace('`', '')}") from None
