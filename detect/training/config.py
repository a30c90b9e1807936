"""The configuration of a training run: one YAML file of five sections, each field with its unit, default and range.

    task: boxes or landmarks        data: files, images, resize rule              model: backbone, anchors, head
    augment: changes of images      optimisation: steps and learning rate         output: folder, and when to save

A field can be overridden as ``section.field=value``, where the value is YAML. Names and choices may be written with hyphens
or underscores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo

from detect.anchors.anchor_set import strides_of
from detect.data.coco_entries import BoxForm
from detect.data.exif import Exif
from detect.data.resize import parse_resize
from detect.errors import ConfigError
from detect.text_formats import parse_yaml, read_yaml

FIT, POINTS = "fit", "points"

Factor = Annotated[float, Field(gt=0, le=100)]
Score = Annotated[float, Field(ge=0, lt=1)]
PathText = Annotated[str, BeforeValidator(lambda given: str(given) if isinstance(given, Path) else given)]
Files = Annotated[list[PathText], BeforeValidator(lambda given: [given] if isinstance(given, str | Path) else given)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=(), frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _current_spelling(cls, fields: Any) -> Any:
        """Accept hyphens for underscores, and the other way round."""
        if not isinstance(fields, Mapping):
            return fields
        current = {str(name).replace("-", "_"): value for name, value in fields.items()}
        return {name: _choice(cls.model_fields.get(name), value) for name, value in current.items()}


def _choice(field: FieldInfo | None, value: Any) -> Any:
    """The choice of a field that the value spells, with hyphens or underscores."""
    choices = (each for each in get_args(field.annotation if field else None) if isinstance(each, str))
    spelled = value.replace("-", "_") if isinstance(value, str) else None
    return next((each for each in choices if each.replace("-", "_") == spelled), value)


class DataConfig(_Section):
    """Annotations, images, and how images reach the network."""

    train: Files = Field(min_length=1, description="labels: files, folders or patterns, shards of one dataset")
    val: Files = Field(default=[], description="labels of the validation data")
    val_share: float = Field(
        default=0.0, ge=0, le=0.5, description="without val: share of the images, evenly spaced, to validate on"
    )
    images: Path = Field(description="folder of the images")
    val_images: Path | None = Field(default=None, description="folder of the validation images, if it differs")
    bbox: BoxForm = Field(
        default="xywh", description="numbers of a box in COCO files; normalised: as shares of the image's size"
    )
    resize: str = Field(default="none", description="resize rule of the detector, the one the anchors are made for")
    channels: Literal[1, 3, 4] = Field(default=3, description="channels of the network's input")
    pixel_origin: Literal["center", "corner"] = Field(
        default="center", description="keypoints: pixel i has its centre at i, or its left edge"
    )
    unlabelled: Literal["ignore", "background", "map"] = Field(
        default="ignore",
        description="unlabelled keypoints of partly labelled objects: ignore the object's box, learn background there, or "
        "ignore the type's whole map",
    )
    orientation: Literal["none", "directed", "axis"] = Field(
        default="none",
        description="points with angles, from a head and a tail or from the angle of one point (clockwise degrees, 0 to the "
        "right); axis: both ends are alike",
    )
    mean: list[float] | None = Field(default=None, description="mean of each channel, 0 to 1; measured by default")
    std: list[float] | None = Field(default=None, description="standard deviation of each channel; measured by default")
    exif: Exif = Field(
        default="auto",
        description="EXIF orientation: turn images upright, ignore it, or do what the annotated sizes fit",
    )
    ignore_categories: list[str] = Field(default=[], description="names of categories to leave out")
    on_broken: Literal["fail", "skip"] = Field(default="fail", description="what to do about unreadable images")
    repeat_threshold: float | None = Field(
        default=None, gt=0, le=1, description="repeat images of categories that are rarer than this share (LVIS)"
    )
    num_workers: int = Field(default=0, ge=0, le=256, description="processes that read images")

    @field_validator("resize")
    @classmethod
    def _parses(cls, text: str) -> str:
        return str(parse_resize(text))

    @model_validator(mode="after")
    def _consistent(self) -> DataConfig:
        if self.val and self.val_share:
            raise ValueError("give val or val_share, not both")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and len(values) != self.channels:
                raise ValueError(f"{name} has {len(values)} numbers for {self.channels} channels")
        if (self.mean is None) != (self.std is None):
            raise ValueError("give both mean and std, or neither")
        if self.std is not None and min(self.std) <= 0:
            raise ValueError("std must be above 0")
        return self


class ModelConfig(_Section):
    """Backbone, pyramid, head and losses; fields of the other task are ignored."""

    backbone: str = Field(default="tiny", description="tiny, lite0, timm:NAME or torchvision:NAME")
    pretrained: bool = Field(default=False, description="start from ImageNet weights; lite0's are installed")
    weights: Path | None = Field(default=None, description="start the backbone from a safetensors file or state dict")
    init: Path | None = Field(default=None, description="start from a run or its checkpoint, also of other classes")
    freeze_statistics: bool | None = Field(
        default=None,
        description="batch norms of the backbone keep their statistics; by default if it starts from weights",
    )
    freeze_stride: int = Field(
        default=0,
        ge=0,
        le=64,
        description="layers of the backbone up to this stride in pixels keep their weights; 0: none",
    )
    pyramid_channels: int = Field(default=64, ge=1, le=4096, description="channels of every level and of the head")
    num_convs: int = Field(default=2, ge=0, le=16, description="convolutions of each tower of the head")
    norm: Literal["group", "batch"] | None = Field(default="group", description="normalization in the towers")
    # boxes
    anchors: PathText = Field(
        default=FIT, description="fit, a known name, an anchors.yaml, or points: a location in each cell (FCOS, YOLOX)"
    )
    levels: str = Field(default="p2-p4", description="fit, points: pyramid levels, or strides in pixels")
    per_level: int = Field(default=3, ge=1, le=100, description="fit: anchors on each level")
    max_strides: float | None = Field(
        default=None,
        gt=0,
        le=1000,
        description="fit: a box uses a level only if sqrt(area) <= max_strides * stride; the coarsest takes all",
    )
    assigner: Literal["max_iou", "atss", "task_aligned", "simota"] | None = Field(
        default=None,
        description="how anchors match instances: max_iou by default; points take task_aligned, by default, or simota",
    )
    fg_iou_thresh: float = Field(default=0.5, gt=0, le=1, description="max_iou: an anchor is positive from this IoU on")
    bg_iou_thresh: float = Field(default=0.4, gt=0, le=1, description="max_iou: an anchor is background below this IoU")
    allow_low_quality_matches: bool = Field(
        default=True, description="max_iou: the best anchors of an instance are positive at any IoU"
    )
    low_quality_mode: Literal["own", "forced"] = Field(
        default="own", description="max_iou: such an anchor takes its own best instance, or is forced to that one"
    )
    positive_weights: Literal["category", "none"] = Field(
        default="category",
        description="category: positive anchors weigh less in categories whose objects have more of them",
    )
    box_loss: Literal["l1", "smooth_l1", "giou", "diou", "ciou"] = Field(
        default="giou", description="the first two compare deltas, the others decoded boxes"
    )
    box_weight: float = Field(default=2.0, gt=0, le=1000, description="factor of the box loss")
    class_loss: Literal["focal", "quality_focal"] = Field(
        default="focal", description="quality_focal learns the IoU of the predicted box (Li et al. 2020)"
    )
    alpha: float = Field(
        default=0.25, ge=-1, lt=1, description="weight of positives in the focal loss, above 0; -1: all weigh the same"
    )
    gamma: float = Field(default=2.0, ge=0, le=10, description="exponent that reduces the loss of easy anchors")
    score_threshold: Score | list[Score] = Field(
        default=0.05, description="detections have a higher score; a list has one number for each category"
    )
    nms: Literal["hard", "linear", "gaussian"] = Field(
        default="hard", description="overlapping boxes are removed, or lose score (soft NMS, Bodla et al. 2017)"
    )
    iou_threshold: float = Field(default=0.5, ge=0, le=1, description="IoU threshold of hard and linear NMS")
    sigma: float = Field(default=0.5, gt=0, le=100, description="gaussian NMS: scores fall by exp(-IoU**2 / sigma)")
    class_agnostic: bool = Field(default=False, description="boxes of different categories suppress each other too")
    topk_per_level: int = Field(default=1000, ge=1, description="pairs of anchor and class kept per level before NMS")
    detections_per_image: int = Field(
        default=300, ge=1, description="detections kept per image; COCO's AP uses 100 per category"
    )
    # landmarks
    stride: int = Field(default=2, ge=1, le=64, description="landmarks: image pixels per heatmap cell")
    sigma_cells: float = Field(default=2.0, ge=0.05, le=100, description="landmarks: sigma of the Gaussian targets")
    threshold: float = Field(default=0.3, gt=0, lt=1, description="landmarks: peaks have a higher value")
    orientation_weight: float = Field(
        default=1.0, gt=0, le=1000, description="landmarks with data.orientation: factor of its loss"
    )

    @property
    def starts_from_weights(self) -> bool:
        """Whether the backbone starts from other weights than random ones."""
        return self.pretrained or self.weights is not None or self.init is not None

    @property
    def matching(self) -> str:
        """The assigner, or the default one."""
        return self.assigner or ("task_aligned" if self.anchors == POINTS else "max_iou")

    @field_validator("levels")
    @classmethod
    def _are_levels(cls, text: str) -> str:
        strides_of(text)
        return text

    @field_validator("alpha")
    @classmethod
    def _is_a_weight_or_off(cls, alpha: float) -> float:
        if alpha <= 0 and alpha != -1:
            raise ValueError(f"alpha is above 0 and below 1, or -1, got {alpha}")
        return alpha

    @model_validator(mode="after")
    def _consistent(self) -> ModelConfig:
        if self.freeze_stride and not self.starts_from_weights:
            raise ValueError(
                "freeze_stride would keep random weights: set pretrained, weights or init, or freeze_stride=0"
            )
        if self.anchors == POINTS and self.matching in {"max_iou", "atss"}:
            raise ValueError(
                f"points have no shape that assigner={self.assigner} could compare: task_aligned or simota"
            )
        if self.bg_iou_thresh > self.fg_iou_thresh:
            raise ValueError(f"bg_iou_thresh {self.bg_iou_thresh} is above fg_iou_thresh {self.fg_iou_thresh}")
        return self


class OptimisationConfig(_Section):
    """AdamW with a linear warm-up, then the schedule."""

    epochs: int = Field(default=45, ge=1, le=100_000, description="passes over the training images")
    batch_size: int = Field(default=16, ge=1, le=65_536, description="images per step, over all devices")
    accumulate: int = Field(default=1, ge=1, le=1024, description="parts that a batch is computed in, to save memory")
    learning_rate: float = Field(default=2e-3, gt=0, le=10, description="highest learning rate")
    weight_decay: float = Field(default=0.01, ge=0, le=10, description="decay of weights with two axes or more")
    warmup_steps: int = Field(default=50, ge=0, le=1_000_000, description="steps of linear warm-up")
    schedule: Literal["cosine", "step", "constant"] = Field(
        default="cosine",
        description="how the learning rate falls; a run at a constant rate can be resumed for more epochs",
    )
    milestones: list[float] = Field(
        default=[2 / 3, 8 / 9], description="step: shares of the run after which the rate falls to a tenth"
    )
    clip_norm: float = Field(default=5.0, gt=0, le=1e6, description="largest norm of the gradient")
    ema_decay: float = Field(default=0.995, ge=0, lt=1, description="decay of the averaged weights; 0: no average")
    patience: int | None = Field(default=None, ge=1, description="validations without a better metric before stopping")
    flat_epochs: int = Field(default=10, ge=1, description="epochs without a lower loss before a diagnosis is written")
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = Field(default="cpu", description="device to train on")
    devices: int = Field(default=1, ge=1, le=4096, description="devices of this machine; torchrun sets its own number")
    timeout_minutes: float = Field(
        default=10.0,
        gt=0,
        le=10_000,
        description="several processes: one that lets the others wait longer ends the run",
    )
    precision: Literal["32-true", "bf16-mixed"] = Field(default="32-true", description="precision of the network")

    @field_validator("milestones")
    @classmethod
    def _rise(cls, shares: list[float]) -> list[float]:
        if shares != sorted(set(shares)) or not all(0 < share < 1 for share in shares):
            raise ValueError("milestones must rise and lie between 0 and 1")
        return shares


class AugmentConfig(_Section):
    """The arguments of :class:`detect.loading.augment.Augment`."""

    enabled: bool = Field(default=True, description="augment training images")
    flips: bool = Field(default=True, description="flip left to right")
    turns: bool = Field(default=False, description="rotate by quarter turns and flip upside down")
    zoom: tuple[Factor, Factor] = Field(default=(0.75, 1.4), description="range of the scale factor")
    min_visible: float = Field(default=0.4, ge=0, le=1, description="boxes that keep less of their area are ignored")
    gain: tuple[Factor, Factor] = Field(default=(0.7, 1.4), description="range of the factor on intensities")
    gamma: tuple[Factor, Factor] = Field(default=(0.7, 1.4), description="range of the exponent on intensities")
    noise: float = Field(default=0.1, ge=0, le=10, description="largest noise, relative to the image's deviation")
    blur_px: float = Field(default=1.0, ge=0, le=100, description="largest sigma of the blur, in pixels of the input")

    @field_validator("zoom", "gain", "gamma")
    @classmethod
    def _rises(cls, limits: tuple[float, float]) -> tuple[float, float]:
        if limits[0] > limits[1]:
            raise ValueError(f"a range of factors from low to high, got {limits[0]} to {limits[1]}")
        return limits


class OutputConfig(_Section):
    """Where a run is written, and how often."""

    folder: Path = Field(default=Path("runs/run"), description="last.pt, best.pt, epochs.csv, steps.csv, TensorBoard")
    validate_epochs: int = Field(default=5, ge=1, description="epochs between validations; the last epoch has one")
    save_steps: int | None = Field(default=None, ge=1, description="steps between checkpoints within an epoch")
    tensorboard: bool = Field(default=True, description="also write TensorBoard files, if it is installed")


class TrainConfig(_Section):
    """A training run."""

    task: Literal["boxes", "landmarks"] = Field(default="boxes", description="what to detect")
    seed: int = Field(default=0, ge=0, lt=2**31, description="seed of weights, order and augmentation")
    data: DataConfig
    model: ModelConfig = ModelConfig()
    augment: AugmentConfig = AugmentConfig()
    optimisation: OptimisationConfig = OptimisationConfig()
    output: OutputConfig = OutputConfig()

    def to_yaml(self) -> str:
        """A YAML file of this configuration, with every field."""
        return str(yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, width=120))


def read_train_config(path: str | Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """Read a YAML file, with overrides such as ``optimisation.epochs=8``.

    Raises:
        ConfigError: the file cannot be read, an override has no ``=``, or a field is unknown, missing, of the wrong type or
            out of range; one line names all such fields.
    """
    fields = read_yaml(path, ConfigError)
    if not isinstance(fields or {}, dict):
        raise ConfigError(f"{path}: expected sections such as 'data:', got {type(fields).__name__}")
    return parse_config(with_overrides(fields or {}, overrides), source=str(path))


def parse_config(fields: Mapping[str, Any], *, source: str = "configuration") -> TrainConfig:
    """Check nested fields; ``source`` begins the message of a ConfigError.

    >>> config = parse_config({"data": {"train": ["a.json"], "images": "images"}})
    >>> config.optimisation.learning_rate, config.model.anchors
    (0.002, 'fit')
    """
    try:
        return TrainConfig.model_validate(fields)
    except ValidationError as error:
        raise ConfigError(f"{source}: {'; '.join(_message(fault) for fault in error.errors())}") from None


def with_overrides(fields: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Copy nested fields and set some: ``a.b=value``, where the value is YAML.

    >>> with_overrides({"optimisation": {"epochs": 45}}, ["optimisation.epochs=8", "data.train=[a.json, b.json]"])
    {'optimisation': {'epochs': 8}, 'data': {'train': ['a.json', 'b.json']}}
    """
    result: dict[str, Any] = {key: dict(value) if isinstance(value, dict) else value for key, value in fields.items()}
    for text in overrides:
        name, equals, value = text.partition("=")
        *sections, field = name.strip().replace("-", "_").split(".")
        if not equals or not field:
            raise ConfigError(f"{text!r}: to set a field write section.field=value, such as optimisation.epochs=8")
        inner = result
        for section in sections:
            inner = inner.setdefault(section, {})
            if not isinstance(inner, dict):
                raise ConfigError(f"{text!r}: {section!r} is not a section")
        inner[field] = _value_of(text, value)
    return result


def _value_of(text: str, value: str) -> Any:
    return parse_yaml(value, lambda reason: ConfigError(f"{text!r}: the value is {reason}"))


def _message(fault: Mapping[str, Any]) -> str:
    name = ".".join(map(str, fault["loc"]))
    if fault["type"] == "extra_forbidden":
        return f"no field {name!r} (detect train --fields lists them)"
    if fault["type"] == "missing":
        return f"{name}: missing"
    return f"{name}: {str(fault['msg']).removeprefix('Value error, ')}".removeprefix(": ")
