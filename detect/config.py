"""Pydantic models of the YAML files that commands take with ``--config``: each option of a command is a field here.

A field's name, default and range are the command's own; a test holds the two equal.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from detect.errors import ConfigError


class _Config(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class FitConfig(_Config):
    """Options of ``detect anchors fit``."""

    files: list[str] = Field(default=[], description="annotation files or patterns, read as shards of one dataset")
    k: int = Field(default=9, ge=1, le=1000, description="number of anchor shapes in all")
    levels: str | None = Field(default=None, description="pyramid levels, or strides in pixels")
    per_level: int | None = Field(default=None, ge=1, le=1000, description="just so many on each level")
    max_anchors: int | None = Field(default=None, ge=1, le=1000, description="so many on each level at most")
    price: float = Field(default=0.01, ge=0, le=1, description="what a shape on every level must add to the score")
    max_strides: float | None = Field(
        default=None, gt=0, description="a level is for instances of up to so many strides"
    )
    layout: Literal["free", "octaves", "grid", "level-grids"] = "free"
    scales: int = Field(default=3, ge=1, le=30, description="sizes on each level, of a layout")
    ratios: int = Field(default=3, ge=1, le=30, description="ratios on each level, of a layout")
    objective: str | None = Field(default=None, description="shape, placed, recall@0.5, ...")
    balance: Literal["none", "category", "size"] = "none"
    weight: list[str] = Field(default=[], description="NAME=FACTOR of a category or size")
    fixed: list[str] = Field(default=[], description="WxH in pixels after the resize rule")
    grid: Literal["exact", "torchvision", "detectron2", "mmdet", "effdet"] = "exact"
    method: Literal["optimal", "kmeans", "euclidean", "log-euclidean", "mixture"] = "optimal"
    certify: float | None = Field(default=None, ge=0, le=1, description="how close to the best; 1: no proof")
    resize: str = Field(default="none", description="the detector's resize rule")
    seed: int = Field(default=0, ge=0, lt=2**32)
    covariance: Literal["full", "tied", "diag", "spherical"] = "full"
    shrinkage: Literal["none", "ledoit-wolf", "oas"] = "none"
    compare: list[str] = Field(default=[], description="anchors to score beside the fitted ones")
    suggest_k: bool = False
    bootstrap: int = Field(default=0, ge=0, le=10_000, description="resamples of the images to fit to")
    validation: list[str] = Field(default=[], description="annotation files of other images")
    images: Path | None = Field(default=None, description="folder of the images")
    output: Path | None = Field(default=None, description="folder for anchors.yaml and report.html")
    report: bool = True
    findings: bool = False
    strict: bool = False
    json_: bool = Field(default=False, alias="json")


class ScoreConfig(_Config):
    """Options of ``detect anchors score``."""

    files: list[str] = []
    anchors: list[str] = []
    resize: str | None = Field(
        default=None, description="the detector's resize rule; each set's own, where none is given"
    )
    grid: Literal["exact", "torchvision", "detectron2", "mmdet", "effdet"] = "exact"
    assigner: Literal["max-iou", "atss"] | None = None
    worst: int = Field(default=10, ge=0, le=10_000)
    images: Path | None = Field(default=None, description="folder of the images")
    output: Path | None = None
    findings: bool = False
    strict: bool = False
    json_: bool = Field(default=False, alias="json")


class RenderConfig(_Config):
    """Options of ``detect heatmaps render``."""

    files: list[str] = []
    output: Path | None = None
    images: Path | None = Field(default=None, description="folder of the images")
    source: Literal["keypoints", "boxes"] = Field(default="keypoints", validation_alias="from")
    stride: float = Field(default=4.0, ge=0.25, le=10_000, description="image pixels to a cell")
    sigma: float = Field(default=2.0, ge=0.05, le=10_000, description="in cells")
    sigma_of_size: float | None = Field(default=None, ge=0.001, le=10, description="sigma as a fraction of the box")
    shape: Literal["gaussian", "disc", "pixel"] = "gaussian"
    blend: Literal["max", "sum"] = "max"
    occluded: Literal["draw", "ignore"] = "draw"
    pixel_origin: Literal["center", "corner"] = "center"
    merge: bool = False
    pack: Literal["npz", "pt"] = "npz"
    per_shard: int = Field(default=64, ge=1, le=100_000)
    pictures: int = Field(default=12, ge=0, le=400)
    findings: bool = False
    strict: bool = False
    json_: bool = Field(default=False, alias="json")


class CeilingConfig(_Config):
    """Options of ``detect heatmaps oracle``."""

    files: list[str] = []
    source: Literal["keypoints", "boxes"] = Field(default="keypoints", validation_alias="from")
    strides: str = Field(default="2,4,8", coerce_numbers_to_str=True, description="image pixels to a cell")
    sigmas: str = Field(default="1,1.5,2,3", coerce_numbers_to_str=True, description="in cells")
    radius: float = Field(default=3.0, ge=0.01, le=100_000, description="image pixels within which a point is found")
    threshold: float = Field(default=0.3, ge=0.001, le=0.999)
    split: bool = True
    pixel_origin: Literal["center", "corner"] = "center"
    merge: bool = False
    output: Path | None = None
    findings: bool = False
    strict: bool = False
    json_: bool = Field(default=False, alias="json")


class ScorePointsConfig(_Config):
    """Options of ``detect heatmaps score``."""

    truth: list[str] = Field(default=[], validation_alias="gt")
    pred: Path | None = None
    source: Literal["keypoints", "boxes"] = Field(default="keypoints", validation_alias="from")
    radius: float = Field(default=3.0, ge=0.01, le=100_000, description="image pixels within which a point is found")
    radii: str | None = Field(default=None, coerce_numbers_to_str=True, description="of average precision")
    threshold: float | None = Field(default=None, allow_inf_nan=False)
    choose: Literal["f1", "count"] | None = None
    oks_sigmas: str | None = Field(default=None, coerce_numbers_to_str=True, description="one for each keypoint")
    pixel_origin: Literal["center", "corner"] = "center"
    merge: bool = False
    findings: bool = False
    strict: bool = False
    json_: bool = Field(default=False, alias="json")


AnyConfig = TypeVar("AnyConfig", bound=_Config)


def read_config(path: str | Path, model: type[AnyConfig]) -> dict[str, Any]:
    """The fields that a YAML file sets, checked against a model.

    Raises:
        ConfigError: the file cannot be read, or a field is unknown, of the wrong type or out of range; all such fields are
            named in one line.
    """
    try:
        content = yaml.safe_load(Path(path).read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: not YAML ({' '.join(str(error).split())})") from None
    if content is not None and not isinstance(content, dict):
        raise ConfigError(f"{path}: expected fields such as 'k: 9', got {type(content).__name__}")
    try:
        checked = model.model_validate(content or {})
    except ValidationError as error:
        faults = "; ".join(_fault(fault) for fault in error.errors())
        raise ConfigError(f"{path}: {faults}") from None
    return checked.model_dump(exclude_unset=True, by_alias=True)


def _fault(fault: Mapping[str, Any]) -> str:
    name = ".".join(map(str, fault["loc"]))
    return f"no option {name!r}" if fault["type"] == "extra_forbidden" else f"{name}: {fault['msg']}"
