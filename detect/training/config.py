"""What a training run is: one YAML file of five sections, each field with its unit, default and range.

    task: boxes or landmarks        data: files, images, resize rule        model: backbone, anchors, head
    augment: what images undergo    optimisation: steps and their size      output: folder, and what is saved when

A field may be set over the file's as ``section.field=value``, the value being YAML.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from detect.anchors.anchor_set import strides_of
from detect.data.resize import parse_resize
from detect.errors import ConfigError, FitError, ResizeError

FIT = "fit"

Factor = Annotated[float, Field(gt=0, le=100)]
PathText = Annotated[str, BeforeValidator(lambda given: str(given) if isinstance(given, Path) else given)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=(), frozen=True, allow_inf_nan=False)


class DataConfig(_Section):
    """Which images and annotations, and how they come to the network."""

    train: list[PathText] = Field(min_length=1, description="COCO files or patterns, shards of one dataset")
    val: list[PathText] = Field(default=[], description="likewise, to validate on")
    val_share: float = Field(
        default=0.0, ge=0, le=0.5, description="without val: this share of the images, evenly spaced, is held out"
    )
    images: Path = Field(description="folder of the images")
    val_images: Path | None = Field(default=None, description="folder of the validation images, if another")
    resize: str = Field(default="none", description="the detector's resize rule, as of the anchors")
    channels: Literal[1, 3, 4] = Field(default=3, description="of the network's input")
    pixel_origin: Literal["center", "corner"] = Field(
        default="center", description="of keypoints: pixel i has its centre at i, or its left corner"
    )
    mean: list[float] | None = Field(default=None, description="of each channel, in 0..1; measured where not given")
    std: list[float] | None = Field(default=None, description="likewise")
    on_broken: Literal["fail", "skip"] = Field(default="fail", description="what to do about unreadable images")
    repeat_threshold: float | None = Field(
        default=None, gt=0, le=1, description="images of categories rarer than this share come more often (LVIS)"
    )
    num_workers: int = Field(default=0, ge=0, le=256, description="processes that read images")

    @field_validator("resize")
    @classmethod
    def _parses(cls, text: str) -> str:
        try:
            return str(parse_resize(text))
        except ResizeError as error:
            raise ValueError(str(error)) from None

    @model_validator(mode="after")
    def _one_validation(self) -> DataConfig:
        if self.val and self.val_share:
            raise ValueError("give val or val_share, not both")
        return self

    @model_validator(mode="after")
    def _of_each_channel(self) -> DataConfig:
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and len(values) != self.channels:
                raise ValueError(f"{name} has {len(values)} numbers for {self.channels} channels")
        if (self.mean is None) != (self.std is None):
            raise ValueError("give both mean and std, or neither")
        if self.std is not None and min(self.std) <= 0:
            raise ValueError("std is above 0")
        return self


class ModelConfig(_Section):
    """Backbone, pyramid and head, and what the head learns; fields of the other task are not read."""

    backbone: str = Field(default="tiny", description="tiny, timm:NAME or torchvision:NAME")
    pretrained: bool = Field(default=False, description="start from weights of ImageNet")
    pyramid_channels: int = Field(default=64, ge=1, le=4096, description="of every level, and of the head")
    num_convs: int = Field(default=2, ge=0, le=16, description="of a tower of the head, before the last")
    norm: Literal["group", "batch"] | None = Field(default="group", description="of the towers")
    # boxes
    anchors: PathText = Field(default=FIT, description="fit, a known name or an anchors.yaml")
    levels: str = Field(default="p2-p4", description="for fit: pyramid levels, or strides in pixels")
    per_level: int = Field(default=3, ge=1, le=100, description="for fit: shapes on each level")
    max_strides: float | None = Field(
        default=None, gt=0, le=1000, description="for fit: a level is for instances of up to so many of its strides"
    )
    assigner: Literal["max_iou", "atss"] = Field(default="max_iou", description="what matches anchors to instances")
    foreground: float = Field(default=0.5, gt=0, le=1, description="of max_iou: from this IoU on an anchor is positive")
    background: float = Field(default=0.4, gt=0, le=1, description="of max_iou: below this IoU it is background")
    low_quality: Literal["own", "forced"] | None = Field(
        default="own", description="of max_iou: an instance's best anchors are positive however low their IoU"
    )
    box_loss: Literal["l1", "smooth_l1", "giou", "diou", "ciou"] = Field(
        default="giou", description="the first two of deltas, the others of decoded boxes"
    )
    box_weight: float = Field(default=2.0, gt=0, le=1000, description="factor of the box loss")
    class_loss: Literal["focal", "quality_focal"] = Field(
        default="focal", description="quality_focal teaches the IoU of the predicted box (Li et al. 2020)"
    )
    alpha: float = Field(default=0.25, gt=0, lt=1, description="weight of positives in the focal loss")
    gamma: float = Field(
        default=2.0, ge=0, le=10, description="of both losses: the higher, the less easy anchors count"
    )
    score_threshold: float = Field(default=0.05, ge=0, lt=1, description="a detection is above it")
    iou_threshold: float = Field(default=0.5, ge=0, le=1, description="of suppression")
    topk_per_level: int = Field(default=1000, ge=1, description="pairs of anchor and class that a level may give")
    detections_per_image: int = Field(
        default=300, ge=1, description="the best are kept; COCO's numbers look at 100 of each category"
    )
    # landmarks
    stride: int = Field(default=2, ge=1, le=64, description="of landmarks: image pixels to a cell of the heatmap")
    sigma_cells: float = Field(default=2.0, ge=0.05, le=100, description="of a landmark's bell in the heatmap")
    threshold: float = Field(default=0.3, gt=0, lt=1, description="a peak of the heatmap is higher")

    @field_validator("levels")
    @classmethod
    def _are_levels(cls, text: str) -> str:
        try:
            strides_of(text)
        except FitError as error:
            raise ValueError(str(error)) from None
        return text

    @model_validator(mode="after")
    def _thresholds_in_order(self) -> ModelConfig:
        if self.background > self.foreground:
            raise ValueError(f"background {self.background} is above foreground {self.foreground}")
        return self


class OptimisationConfig(_Section):
    """AdamW; the learning rate after a linear warm-up along a cosine, or in steps."""

    epochs: int = Field(default=45, ge=1, le=100_000, description="times that all images are seen")
    batch_size: int = Field(default=16, ge=1, le=65_536, description="images of a step, over all devices")
    accumulate: int = Field(default=1, ge=1, le=1024, description="parts that a step's batch is computed in")
    learning_rate: float = Field(default=2e-3, gt=0, le=10, description="the highest")
    weight_decay: float = Field(default=0.01, ge=0, le=10, description="of weights of two axes or more")
    warmup_steps: int = Field(default=50, ge=0, le=1_000_000, description="in which the rate rises from near 0")
    schedule: Literal["cosine", "step"] = Field(default="cosine", description="how the rate falls")
    milestones: list[float] = Field(
        default=[2 / 3, 8 / 9], description="of step: shares of the run after which the rate falls to a tenth"
    )
    clip_norm: float = Field(default=5.0, gt=0, le=1e6, description="of all gradients together")
    ema_decay: float = Field(default=0.995, ge=0, lt=1, description="of the averaged weights; 0: none")
    patience: int | None = Field(
        default=None, ge=1, description="stop after so many validations without a better metric"
    )
    flat_epochs: int = Field(
        default=10, ge=1, description="a loss that has not fallen for so many epochs is looked into"
    )
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = Field(default="cpu", description="what to train on")
    devices: int = Field(default=1, ge=1, le=4096, description="of one machine; beneath torchrun its processes")
    precision: Literal["32-true", "bf16-mixed"] = Field(default="32-true", description="of the network's numbers")

    @field_validator("milestones")
    @classmethod
    def _rise(cls, shares: list[float]) -> list[float]:
        if shares != sorted(set(shares)) or not all(0 < share < 1 for share in shares):
            raise ValueError("shares of the run between 0 and 1, rising")
        return shares


class AugmentConfig(_Section):
    """What training images undergo: the arguments of :class:`detect.loading.augment.Augment`."""

    enabled: bool = Field(default=True, description="whether anything is done")
    flips: bool = Field(default=True, description="mirror left and right, up and down")
    turns: bool = Field(default=True, description="turn by quarters")
    zoom: tuple[Factor, Factor] = Field(default=(0.75, 1.4), description="enlarge by a factor in this range")
    min_visible: float = Field(default=0.4, ge=0, le=1, description="a box keeps this part of its area or is ignored")
    gain: tuple[Factor, Factor] = Field(default=(0.7, 1.4), description="intensities times a factor in this range")
    gamma: tuple[Factor, Factor] = Field(default=(0.7, 1.4), description="intensities to a power in this range")
    noise: float = Field(default=0.1, ge=0, le=10, description="the most, of the picture's own deviation")
    blur_px: float = Field(default=1.0, ge=0, le=100, description="the most, sigma in pixels of the network's input")

    @field_validator("zoom", "gain", "gamma")
    @classmethod
    def _rises(cls, limits: tuple[float, float]) -> tuple[float, float]:
        if limits[0] > limits[1]:
            raise ValueError(f"a range of factors from low to high, got {limits[0]} to {limits[1]}")
        return limits


class OutputConfig(_Section):
    """Where a run is written, and how often."""

    folder: Path = Field(default=Path("runs/run"), description="last.pt, best.pt, epochs.csv, steps.csv, TensorBoard")
    validate_epochs: int = Field(default=5, ge=1, description="epochs between validations; the last is one always")
    save_steps: int | None = Field(default=None, ge=1, description="save within an epoch too, every so many steps")
    tensorboard: bool = Field(default=True, description="write its files too, if it is installed")


class TrainConfig(_Section):
    """A whole training run."""

    task: Literal["boxes", "landmarks"] = Field(default="boxes", description="what is to be found")
    seed: int = Field(default=0, ge=0, lt=2**31, description="of weights, order and augmentation")
    data: DataConfig
    model: ModelConfig = ModelConfig()
    augment: AugmentConfig = AugmentConfig()
    optimisation: OptimisationConfig = OptimisationConfig()
    output: OutputConfig = OutputConfig()

    def to_yaml(self) -> str:
        """The text of a file that gives this configuration, every field spelled out."""
        return str(yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, width=120))


def read_train_config(path: str | Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """The configuration of a YAML file with fields set over it, such as ``optimisation.epochs=8``.

    Raises:
        ConfigError: the file cannot be read, an override has no ``=``, or a field is unknown, missing, of the wrong type or
            out of range; all such fields are named in one line.
    """
    try:
        fields = yaml.safe_load(Path(path).read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: not YAML ({' '.join(str(error).split())})") from None
    if not isinstance(fields or {}, dict):
        raise ConfigError(f"{path}: expected sections such as 'data:', got {type(fields).__name__}")
    return parse_config(with_overrides(fields or {}, overrides), source=str(path))


def parse_config(fields: Mapping[str, Any], *, source: str = "configuration") -> TrainConfig:
    """Fields checked; ``source`` begins the message.

    >>> config = parse_config({"data": {"train": ["a.json"], "images": "images"}})
    >>> config.optimisation.learning_rate, config.model.anchors
    (0.002, 'fit')

    Raises:
        ConfigError: a field is unknown, missing, of the wrong type or out of range.
    """
    try:
        return TrainConfig.model_validate(fields)
    except ValidationError as error:
        raise ConfigError(f"{source}: {'; '.join(_fault(fault) for fault in error.errors())}") from None


def with_overrides(fields: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of nested fields with some set: ``a.b=value``, the value read as YAML.

    >>> with_overrides({"optimisation": {"epochs": 45}}, ["optimisation.epochs=8", "data.train=[a.json, b.json]"])
    {'optimisation': {'epochs': 8}, 'data': {'train': ['a.json', 'b.json']}}

    Raises:
        ConfigError: no ``=``, a value that is not YAML, or a field within something that is not a section.
    """
    result: dict[str, Any] = {key: dict(value) if isinstance(value, dict) else value for key, value in fields.items()}
    for text in overrides:
        name, equals, value = text.partition("=")
        *sections, field = name.strip().split(".")
        if not equals or not field:
            raise ConfigError(f"{text!r}: to set a field write section.field=value, such as optimisation.epochs=8")
        inner = result
        for section in sections:
            inner = inner.setdefault(section, {})
            if not isinstance(inner, dict):
                raise ConfigError(f"{text!r}: {section!r} is no section")
        try:
            inner[field] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"{text!r}: the value is not YAML ({' '.join(str(error).split())})") from None
    return result


def _fault(fault: Mapping[str, Any]) -> str:
    name = ".".join(map(str, fault["loc"]))
    if fault["type"] == "extra_forbidden":
        return f"no field {name!r} (detect train --fields lists them)"
    if fault["type"] == "missing":
        return f"{name}: missing"
    return f"{name}: {str(fault['msg']).removeprefix('Value error, ')}".removeprefix(": ")
