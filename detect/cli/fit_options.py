"""The options of a fit, which several commands share, and the fit that they ask for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

import detect
from detect.cli.options import Balance, Convention, Layout, Method, TimeLimit, expert
from detect.cli.output import busy, note
from detect.errors import ConfigError

if TYPE_CHECKING:
    from detect.anchors.detector_score import DetectorSums
    from detect.anchors.fit_boxes import BoxStatistics, FitBoxes
    from detect.catalog.detectors import AnchorDetector
    from detect.fitting.structured import StructuredFit
    from detect.ops.time_limit import TimeLimit as SearchLimit

FREE = "free"  # the layout of free (w, h) lists
LEVELS = "p3-p7"
MAX_ANCHORS = 1000
DEFAULT_K = 9
PROVED = 0.01  # default certificate of a fit by shape
MANY_BOXES, FEW_ROUNDS = 100_000, 4  # four rounds take about four seconds for 100,000 boxes, and prove about 2 %
TIME_LIMIT_S = 60.0
PROVED_PLACED = 0.02  # on the grid, where a proof takes longer


@dataclass(frozen=True)
class Fitted:
    """Fitted anchors, the family that their upper bound covers, in words, and the cost of each layout."""

    anchors: detect.AnchorSet
    among: str
    layouts: tuple[StructuredFit, ...] = ()
    detectors: tuple[DetectorSums, ...] = ()
    """Under the rule of the detector that the anchors are for: their score, and that of its stock anchors."""
    start: str | None = None
    stopped_after_s: float | None = None
    """The limit on the time of the search, if that ended it: another run may find other anchors."""

    @property
    def stopped(self) -> str:
        """That the search was stopped, in words: after how long, and how close to the best possible it was."""
        proofs = list(self.anchors.proofs.values())
        gap = f"within {proofs[0].gap:.2%} of the best" if proofs else "without a proof"
        return f"stopped after {self.stopped_after_s:g} s (--time-limit), {gap}: another run may end elsewhere"

    @property
    def gained(self) -> tuple[float, float] | None:
        """The score of the start and that of the fit; None without a start."""
        from detect.anchors.anchor_set import START

        scores = self.anchors.scores
        pairs = [(scores[START + name], score) for name, score in scores.items() if START + name in scores]
        return pairs[0] if pairs else None


@dataclass(frozen=True)
class FitOptions:
    """The options of a fit, which ``fit`` and ``stability`` share."""

    k: Annotated[
        int | None,
        typer.Option("-k", min=1, max=1000, help="Shapes over all levels. Default: 9, or --start's."),
    ] = None
    levels: Annotated[
        str | None,
        typer.Option(help=f"Pyramid levels (p3-p7, p2,p4) or strides in pixels (8,16,32). Default: {LEVELS}."),
    ] = None
    per_level: Annotated[str | None, typer.Option(help="Instead of -k: shapes on each level, 3 or 4,6,6.")] = None
    objective: Annotated[
        str | None,
        expert(
            help="grid: mean best IoU with the anchors on the grid; shape: mean best IoU if they shared the box's "
            "centre. Also recall@0.5 or `0.8*iou+0.2*recall@0.5`, optionally after shape: or grid:; ratio or "
            "`0.8*ratio+0.2*recall@0.25`: the side ratio that YOLOv5 and YOLOv7 match by. Default: grid if levels, "
            "numbers per level or a layout are given, else shape."
        ),
    ] = None
    start: Annotated[str | None, typer.Option(help="Anchors to improve: a known name or a file.")] = None
    convention: Convention = "exact"
    max_per_level: Annotated[
        int | None, expert(min=1, max=1000, help="Instead of -k: maximum number on each level.")
    ] = None
    penalty: Annotated[
        float,
        expert(
            min=0,
            max=1,
            help="Score that a shape on every level must add to pay for its operations (objectives on the grid).",
        ),
    ] = 0.01
    max_strides: Annotated[
        float | None,
        expert(
            help="A box uses a level only if sqrt(area) <= max-strides * stride; the coarsest level takes all boxes. 4 "
            "makes the numbers of positive anchors of small and large boxes more equal. Default: no limit."
        ),
    ] = None
    layout: Annotated[
        Layout,
        expert(
            help="free: any (w, h) list; or sizes x ratios: octaves (mmdetection), grid (detectron2, torchvision), "
            "level-grids (ratios for each level)."
        ),
    ] = "free"
    scales: Annotated[int, expert(min=1, max=30, help="Sizes on each level of a layout.")] = 3
    ratios: Annotated[int, expert(min=1, max=30, help="Ratios on each level of a layout.")] = 3
    balance: Annotated[Balance, expert(help="Give every category, or every size range, the same total weight.")] = (
        "none"
    )
    weight: Annotated[
        list[str] | None,
        expert(help="NAME=FACTOR: multiply the weight of a category, or of small, medium or large; repeatable."),
    ] = None
    fixed: Annotated[list[str] | None, expert(help="WxH: a shape to keep among the k; repeatable.")] = None
    method: Annotated[Method, expert(help="optimal and kmeans maximise IoU; the others are baselines.")] = "optimal"
    certify: Annotated[
        float | None,
        expert(
            min=0,
            max=1,
            help="Prove that the anchors are this close to the best possible; 1: no proof. Default: 0.01 by shape, about "
            "0.02 above 20,000 boxes, no proof above 100,000; on the grid 0.02 up to 5,000 boxes.",
        ),
    ] = None
    time_limit: TimeLimit = TIME_LIMIT_S
    seed: Annotated[int, expert(min=0, max=2**32 - 1, help="Seed of random starts; optimal does not use it.")] = 0

    def check(self) -> detect.Objective:
        """The parsed objective; options that exclude each other, or do not parse, are a ConfigError."""
        layout = None if self.layout == FREE else self.layout
        placed = (self.per_level, self.max_per_level, self.max_strides, layout)
        on_grid = self.method == "optimal" and _num_given(self.levels, *placed) > 0
        objective = detect.Objective.parse(self.objective or ("grid" if on_grid else "shape"), on_grid=on_grid)
        if objective.on_grid and (self.method != "optimal" or self.fixed):
            raise ConfigError("--method and --fixed need an objective by shape: --objective shape")
        if not objective.on_grid and _num_given(self.max_per_level, self.max_strides, layout):
            raise ConfigError(
                "--layout, --max-per-level and --max-strides need an objective on the grid: --objective grid"
            )
        if _num_given(self.k, self.per_level, self.max_per_level, layout) > 1:
            raise ConfigError("-k, --per-level, --max-per-level and --layout each set the number of shapes: give one")
        if not layout and (self.scales, self.ratios) != (FitOptions.scales, FitOptions.ratios):
            raise ConfigError(
                "--scales and --ratios are the numbers of a layout: --layout octaves, grid or level-grids"
            )
        if not objective.on_grid and isinstance(_numbers(self.per_level), tuple):
            raise ConfigError("--per-level with several numbers needs an objective on the grid: --objective grid")
        _factors(self.weight)
        _shapes(self.fixed)
        if self.start:
            detect.load_anchors(self.start)
        return objective

    @property
    def resize(self) -> str | None:
        """The resize rule of the start, if there is one."""
        return detect.load_anchors(self.start).resize if self.start else None

    def changes_to(self, detector: AnchorDetector) -> dict[str, Any]:
        """The fields of a detector that these options change; options that a detector leaves no room for are errors."""
        from detect.anchors.anchor_set import strides_of

        defaults, own = FitOptions(), "it sets them itself; --per-level and --levels change the numbers"
        for name in ("k", "objective", "max_per_level", "fixed", "method", "penalty"):
            if getattr(self, name) != getattr(defaults, name):
                flag = f"--{name.replace('_', '-')}" if len(name) > 1 else f"-{name}"
                raise ConfigError(f"{flag} does not go with --for {detector.name}: {own}")
        changes: dict[str, Any] = {}
        if self.levels is not None:
            changes["strides"] = list(strides_of(self.levels))
        if (numbers := _numbers(self.per_level)) is not None:
            changes["per_level"] = numbers if isinstance(numbers, int) else list(numbers)
        if self.layout != FREE:
            changes |= {"layout": self.layout, "scales": self.scales, "per_level": self.scales * self.ratios}
        if self.max_strides is not None:
            changes["max_strides"] = self.max_strides
        if self.convention != defaults.convention:
            changes["convention"] = self.convention
        return changes

    def weights(self, instances: detect.ResizedInstances) -> Any:
        """The weight of each instance; None for equal weights."""
        if not self.is_weighted:
            return None
        return detect.instance_weights(instances, balance=self.balance, factors=_factors(self.weight))

    @property
    def is_weighted(self) -> bool:
        """Whether groups of boxes have different weights."""
        return self.balance != "none" or bool(self.weight)

    def of_statistics(self, statistics: BoxStatistics) -> FitBoxes:
        """The boxes of a fit with their weights, from counts."""
        return statistics.fit_boxes(balance=self.balance, factors=_factors(self.weight))

    def fit(self, instances: detect.ResizedInstances | FitBoxes, *, prove: bool = True) -> Fitted:
        """The anchors for a dataset."""
        from detect.anchors.anchor_set import strides_of
        from detect.anchors.fit_boxes import FitBoxes

        if not isinstance(instances, FitBoxes):
            instances = FitBoxes.of(instances, self.weights(instances))
        objective = self.check()
        common: dict[str, Any] = {
            "strides": strides_of(self.levels or LEVELS),
            "objective": objective,
            **(self.proof(objective, instances.num_boxes) if prove else {}),
            "start": detect.load_anchors(self.start) if self.start else None,
        }
        with self.limited() as limit:
            fitted = (
                self._fit_on_grid(instances, common) if objective.on_grid else self._fit_by_shape(instances, common)
            )
        return replace(fitted, stopped_after_s=limit.stopped_after_s)

    @contextmanager
    def limited(self) -> Iterator[SearchLimit]:
        """A search within its time, whose steps are shown."""
        from detect.ops.time_limit import time_limit

        with busy("fitting anchors") as on_step, time_limit(self.time_limit, on_step) as limit:
            yield limit

    def _fit_by_shape(self, instances: FitBoxes, common: dict[str, Any]) -> Fitted:
        own: dict[str, Any] = {
            "per_level": _numbers(self.per_level),
            "method": self.method,
            "fixed": _shapes(self.fixed),
        }
        anchors = detect.fit_anchors(instances, k=self.k, seed=self.seed, **own, **common)
        return Fitted(anchors, f"for k = {anchors.num_anchors}", start=self.start)

    def fit_each(self, fits: list[Fitted]) -> Callable[[detect.ResizedInstances | FitBoxes], detect.AnchorSet]:
        """A function that fits anchors without a proof, and adds each fit to a list for :func:`stopped_searches`."""

        def fit(instances: detect.ResizedInstances | FitBoxes) -> detect.AnchorSet:
            fits.append(self.fit(instances, prove=False))
            return fits[-1].anchors

        return fit

    def _fit_on_grid(self, instances: FitBoxes, common: dict[str, Any]) -> Fitted:
        per_level = self.scales * self.ratios if self.layout != FREE else _numbers(self.per_level)
        start = common["start"]
        k = self.k or (start.num_anchors if start else DEFAULT_K)
        own = ("max_per_level", "penalty", "max_strides", "convention", "layout", "scales", "ratios")
        fit = detect.fit_levels(
            instances,
            per_level=per_level,
            num_anchors=k if per_level is None and self.max_per_level is None else None,
            **{name: getattr(self, name) for name in own},
            **common,
        )
        return Fitted(fit.anchors, f"with {fit.numbers}", fit.layouts, start=self.start)

    def proof(self, objective: detect.Objective, num_boxes: int) -> dict[str, Any]:
        """The gap to prove and the rounds that a proof may take, as arguments of a fit; nothing for no proof."""
        if self.certify is not None:
            return {"certify": self.certify} if self.certify < 1 else {}
        if objective.on_grid:
            from detect.anchors.fit_boxes import FEW_PLACED

            return {"certify": PROVED_PLACED} if num_boxes <= FEW_PLACED else {}
        from detect.anchors.fit_boxes import FEW_BOXES
        from detect.fitting.search import ROUNDS

        if num_boxes > MANY_BOXES:
            return {}
        return {"certify": PROVED, "rounds": ROUNDS if num_boxes <= FEW_BOXES else FEW_ROUNDS}


def stopped_searches(fits: Sequence[Fitted]) -> dict[str, Any]:
    """How many of some fits their time ended, for JSON; it is noted if there are any."""
    stopped = [fit.stopped_after_s for fit in fits if fit.stopped_after_s is not None]
    if stopped:
        of = f"{len(stopped)} of {len(fits)} searches for anchors"
        note(f"note: {of} stopped after {stopped[0]:g} s (--time-limit): another run may end elsewhere")
    return {"searches_stopped": len(stopped)}


def _num_given(*options: object) -> int:
    """How many of some options are given."""
    return sum(option is not None for option in options)


def _numbers(text: str | None) -> int | tuple[int, ...] | None:
    """One number of shapes, or one for each level; None without text."""
    if text is None:
        return None
    try:
        numbers = tuple(map(int, text.split(",")))
    except ValueError:
        numbers = (0,)
    if not all(1 <= number <= MAX_ANCHORS for number in numbers):
        raise ConfigError(f"--per-level: expected numbers from 1 to {MAX_ANCHORS} such as 3 or 4,6,6, got {text!r}")
    return numbers if len(numbers) > 1 else numbers[0]


def _shapes(texts: list[str] | None) -> tuple[tuple[float, float], ...]:
    shapes = []
    for text in texts or []:
        try:
            width, height = (float(side) for side in text.lower().split("x"))
        except ValueError:
            width = height = 0.0
        if not (0 < width < math.inf and 0 < height < math.inf):
            raise ConfigError(f"--fixed: expected a width and a height in pixels such as 32x64, got {text!r}")
        shapes.append((width, height))
    return tuple(shapes)


def _factors(texts: list[str] | None) -> dict[str, float]:
    factors = {}
    for text in texts or []:
        name, _, factor = text.rpartition("=")
        try:
            factors[name] = float(factor)
        except ValueError:
            factors[name] = -1.0
        if not name or not 0 <= factors[name] < math.inf:
            raise ConfigError(f"--weight: expected a name and a factor from 0 such as platelets=5, got {text!r}")
    return factors
