"""From boxes to an AnchorSet for pyramid levels: shapes and their levels, fitted on the grid.

The numbers of shapes on levels are given, follow from utility and cost, or are sizes times ratios.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from detect.anchors.anchor_set import START, AnchorSet, Proof
from detect.anchors.fit_boxes import FitBoxes
from detect.anchors.grid_convention import Convention
from detect.anchors.head_cost import HeadSize
from detect.anchors.instances import ResizedInstances, tells_left_out
from detect.errors import FitError
from detect.fitting.any_position import boxes_on_grid
from detect.fitting.candidates import MAX_ANCHORS
from detect.fitting.gains import Boxes, levels_by_size
from detect.fitting.grid_fit import PENALTY, GridFit, fit_on_grid, shape_costs
from detect.fitting.objective import Objective
from detect.fitting.own_positions import OwnPositions
from detect.fitting.structured import LAYOUTS, StructuredFit, fit_layouts
from detect.wording import plural

FREE = "free"


@dataclass(frozen=True)
class Numbers:
    """The number of shapes: ``per_level`` is exact, ``num_anchors`` and ``max_per_level`` are maxima.

    ``per_level`` is one number for all levels, or one for each. Below a maximum, a shape is added only if it raises the
    objective by more than its cost. A shape on every level costs ``penalty`` in all, shared among the levels in proportion
    to the head's operations there.
    """

    num_anchors: int | None = None
    per_level: int | tuple[int, ...] | None = None
    max_per_level: int | None = None
    penalty: float = PENALTY

    def __post_init__(self) -> None:
        given = [number for number in (self.num_anchors, self.per_level, self.max_per_level) if number is not None]
        each = [number for numbers in given for number in np.atleast_1d(numbers).tolist()]
        valid = each and min(each) >= 1 and sum(each) <= MAX_ANCHORS and 0 <= self.penalty < np.inf
        if len(given) != 1 or not valid:
            raise FitError(
                f"give one of num_anchors, per_level and max_per_level, from 1 to {MAX_ANCHORS}, "
                f"and a penalty from 0, got {self}"
            )

    @property
    def priced(self) -> bool:
        """Whether shapes have costs, so that fewer than the limit may be fitted."""
        return self.per_level is None and self.penalty > 0

    def __str__(self) -> str:
        if self.num_anchors is not None:
            return f"{'at most ' * self.priced}{plural(self.num_anchors, 'shape')} on any of the levels"
        if self.max_per_level is not None:
            return f"at most {plural(self.max_per_level, 'shape')} on each level"
        if isinstance(self.per_level, int):
            return f"{plural(self.per_level, 'shape')} on each level"
        return f"{', '.join(map(str, self.per_level or ()))} shapes on the levels"

    def of_levels(self, num_levels: int) -> int | tuple[int, ...] | None:
        """The number for each level, exact or at most; None for a number over all levels."""
        if isinstance(self.per_level, tuple) and len(self.per_level) != num_levels:
            raise FitError(f"{num_levels} levels need {num_levels} numbers of shapes, got {self}")
        return self.per_level if self.max_per_level is None else self.max_per_level


@dataclass(frozen=True)
class LevelFit:
    """Anchors for levels; made by :func:`fit_levels`."""

    anchors: AnchorSet
    """The anchors; their ``scores`` and ``proofs`` hold the objective."""
    numbers: Numbers
    free: GridFit
    layouts: tuple[StructuredFit, ...] = ()
    """With sizes and ratios: the narrowest layout first, the layout of the anchors last."""


@tells_left_out
def fit_levels(
    instances: ResizedInstances | FitBoxes,
    strides: Sequence[int],
    *,
    per_level: int | Sequence[int] | None = None,
    num_anchors: int | None = None,
    max_per_level: int | None = None,
    penalty: float = PENALTY,
    objective: str | Objective = "grid",
    layout: str = FREE,
    scales: int = 3,
    ratios: int = 3,
    weights: Float64[ndarray, " n"] | None = None,
    convention: str | Convention = "exact",
    max_strides: float | None = None,
    start: AnchorSet | None = None,
    certify: float | None = None,
    draft: int | None = None,
) -> LevelFit:
    """Fit anchor shapes and their pyramid levels together, with the anchors on the detector's grid.

    Give one of ``per_level``, ``num_anchors`` and ``max_per_level``.

    Args:
        instances: boxes after the detector's resize rule, or what fits need of them.
        strides: strides of the pyramid levels, in pixels, from fine to coarse.
        per_level: exact number of shapes on each level, or one number for each stride; with a layout, ``scales * ratios``.
            Where boxes need fewer, the rest are the usual shapes of a level: from four strides on.
        num_anchors: maximum number of shapes over all levels.
        max_per_level: maximum number of shapes on each level.
        penalty: see :class:`Numbers`. With 0, all ``num_anchors`` shapes are fitted, on the finest level.
        objective: an objective on the grid, by default the mean IoU; see :meth:`Objective.parse`.
        layout: ``"free"`` shapes, or one of ``LAYOUTS``; the result then has the layout's penalty against free shapes.
        scales: number of sizes on each level of a layout.
        ratios: number of ratios on each level of a layout.
        weights: weight of each instance, see :func:`detect.anchors.instances.instance_weights`.
        convention: the framework that generates the anchors.
        max_strides: a box uses a level only if sqrt(area) <= max_strides * stride; the coarsest level takes all boxes.
            Large boxes then do not have many times the positive anchors of small ones. Levels without boxes get no
            shapes, unless their number is exact. No limit by default.
        start: anchors to improve, on some of the strides and within the numbers: the result is not inferior, and its
            ``scores`` hold theirs as ``start_...``. A layout is compared with them; it is not inferior if they have it.
        certify: relative gap to prove between the fit and the best possible one, within a few rounds.
        draft: without ``certify``, choose on at most this many boxes, spread over all sizes, and polish on all: many shapes
            on many levels take a tenth of the time.

    Raises:
        FitError: there are no usable boxes, the objective is by shape, the layout is unknown or needs other numbers, or
            ``max_strides`` is not positive, there is not one number for each stride, or the start has other strides or
            larger numbers.

    >>> from detect.data import read_coco
    >>> from detect.samples import sample_annotations
    >>> instances = ResizedInstances.of(read_coco(sample_annotations("nuclei")), "none")
    >>> fit = fit_levels(instances, (4, 8, 16), per_level=1)
    >>> [(level.name, len(level.shapes)) for level in fit.anchors.levels], round(fit.free.score, 2)
    ([('P2', 1), ('P3', 1), ('P4', 1)], 0.6)
    """
    exact = per_level if per_level is None or isinstance(per_level, int) else tuple(per_level)
    parsed, numbers = Objective.parse(objective, on_grid=True), Numbers(num_anchors, exact, max_per_level, penalty)
    _check(parsed, layout, numbers, scales * ratios)
    if max_strides is not None and not 0 < max_strides < np.inf:
        raise FitError(f"max_strides is above 0, got {max_strides:g}")
    given = FitBoxes.of(instances, weights)
    given.require_boxes()
    strides = sorted(set(strides))
    of_levels = numbers.of_levels(len(strides))
    _check_start(start, strides)
    if exact is None:
        smallest = np.array([given.smallest.wh], float).T
        served = levels_by_size(smallest, strides, max_strides)
        strides = [stride for stride, own in zip(strides, served, strict=True) if own.any()]
    boxes = boxes_on_grid(given, strides, objective=parsed, convention=convention, max_strides=max_strides)
    head = HeadSize.of_dataset(given.counts)
    costs = shape_costs(given.canvases, strides, head, penalty=penalty) if numbers.priced else None
    start = start and replace(start, levels=tuple(level for level in start.levels if level.stride in strides))
    how: dict[str, Any] = {"start": start, "draft": draft}
    free = fit_on_grid(boxes, per_level=of_levels, num_anchors=num_anchors, costs=costs, certify=certify, **how)
    how |= {"scales": scales, "ratios": ratios}
    widest = () if layout == FREE else fit_layouts(boxes, widest=layout, free=free, **how)
    anchors, score = (widest[-1].anchors, widest[-1].score) if widest else (free.anchors, free.score - free.cost)
    name = parsed.score_name(weighted=given.weighted, priced=numbers.priced)
    name = name_on_grid(name, boxes, max_strides)
    proofs = {name: Proof(score, free.proof.upper_bound)} if free.proof else {}
    scores = {name: score} | ({f"{START}{name}": free.start_score} if free.start_score is not None else {})
    fitted = replace(anchors, resize=given.resize, name="fitted", scores=scores, proofs=proofs)
    return LevelFit(fitted, numbers, free, widest)


def name_on_grid(name: str, boxes: Boxes, max_strides: float | None) -> str:
    """The name of a score in ``anchors.yaml``, with what it is an expectation over or limited to."""
    name = name if isinstance(boxes, OwnPositions) else f"expected_{name}"
    return name if max_strides is None else f"{name}_up_to_{max_strides:g}_strides"


def _check_start(start: AnchorSet | None, strides: Sequence[int]) -> None:
    for level in start.levels if start else ():
        if level.stride not in strides:
            told = ", ".join(map(str, strides))
            raise FitError(f"the start {start and start.name} has anchors on stride {level.stride}, the fit on {told}")


def _check(objective: Objective, layout: str, numbers: Numbers, per_level: int) -> None:
    if not objective.on_grid:
        raise FitError("levels are fitted on the grid; for an objective by shape use fit_anchors")
    if layout not in {FREE, *LAYOUTS}:
        raise FitError(f"layout {layout!r} is not one of {', '.join([FREE, *LAYOUTS])}")
    if layout != FREE and numbers.per_level != per_level:
        raise FitError(f"layout {layout} needs scales * ratios = {per_level} shapes on each level, got {numbers}")
