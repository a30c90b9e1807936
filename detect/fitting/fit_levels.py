"""From boxes to an AnchorSet for pyramid levels: which shapes, on which levels, as they will lie on the grid.

How many shapes a level gets is given, or follows from what each is worth against its cost, or every size by every ratio.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from detect.anchors.anchor_set import CENTER_OF_CELL, AnchorSet, Proof
from detect.anchors.head_cost import HeadSize
from detect.anchors.instances import ResizedInstances
from detect.errors import FitError
from detect.fitting.any_position import boxes_on_grid
from detect.fitting.candidates import MAX_ANCHORS
from detect.fitting.gains import levels_by_size
from detect.fitting.grid_fit import PRICE, GridFit, fit_on_grid, shape_costs
from detect.fitting.objective import Objective
from detect.fitting.own_positions import OwnPositions
from detect.fitting.structured import LAYOUTS, StructuredFit, fit_layouts

FREE = "free"


@dataclass(frozen=True)
class Numbers:
    """How many shapes: ``total`` or ``at_most`` on each level, as many as are worth their cost; or ``per_level``, just so.

    ``price`` is what a shape on every level must add to the mean gain; its levels share it as they share the operations.
    """

    total: int | None = None
    per_level: int | None = None
    at_most: int | None = None
    price: float = PRICE

    def __post_init__(self) -> None:
        given = [number for number in (self.total, self.per_level, self.at_most) if number is not None]
        if len(given) != 1 or not 1 <= given[0] <= MAX_ANCHORS or not 0 <= self.price < np.inf:
            raise FitError(
                f"give one of total, per_level and at_most, from 1 to {MAX_ANCHORS}, and a price from 0, got {self}"
            )

    @property
    def priced(self) -> bool:
        """Whether there may be fewer, where they are not worth their cost."""
        return self.per_level is None and self.price > 0

    def __str__(self) -> str:
        if self.total is not None:
            return f"{'at most ' * self.priced}{self.total} shapes on any of the levels"
        if self.at_most is not None:
            return f"at most {self.at_most} shapes on each level"
        return f"{self.per_level} shapes on each level"


@dataclass(frozen=True)
class LevelFit:
    """Anchors for levels; made by :func:`fit_levels`."""

    anchors: AnchorSet
    """With what was fitted for, and its upper bound, among the scores."""
    numbers: Numbers
    free: GridFit
    layouts: tuple[StructuredFit, ...] = ()
    """Where sizes and ratios were asked for: the narrowest layout first, that of the anchors last."""


def fit_levels(
    instances: ResizedInstances,
    strides: Sequence[int],
    *,
    per_level: int | None = None,
    total: int | None = None,
    at_most: int | None = None,
    price: float = PRICE,
    objective: str | Objective = "placed",
    layout: str = FREE,
    scales: int = 3,
    ratios: int = 3,
    weights: Float64[ndarray, " n"] | None = None,
    stride_mode: str = "exact",
    center_offset: float = CENTER_OF_CELL,
    max_strides: float | None = None,
    certify: float | None = None,
) -> LevelFit:
    """The anchors that cover the instances best where the grid puts them.

    Args:
        instances: boxes after the detector's resize rule.
        strides: of the pyramid's levels, in pixels.
        per_level: just so many shapes on each level; with a layout of sizes and ratios, their product.
        total: instead, so many on all levels at most, each where it is worth most against its cost.
        at_most: instead, so many on each level at most, as many as are worth their cost.
        price: what a shape on every level must add to the mean gain; its levels share it as they share the head's
            operations. With a price of 0 all shapes of a ``total`` are used, and go to the finest level.
        objective: on the grid, by default the mean IoU; see :meth:`Objective.parse`.
        layout: ``free`` shapes, or one of ``LAYOUTS``, whose price against free ones the answer tells.
        scales: sizes on each level, of a layout.
        ratios: likewise.
        weights: how much each instance counts, see :func:`detect.anchors.instances.instance_weights`.
        stride_mode: what a level's stride is, see :class:`detect.anchors.generator.Convention`.
        center_offset: where in its cell an anchor lies.
        max_strides: an instance counts on levels of whose stride its size, the root of its area, is at most so many times,
            and on the coarsest: large instances then do not get many times the positive anchors of small ones. A level of
            no instance gets no shapes. No limit by default.
        certify: prove that nothing is better by more than this share, or come as close to it as a few rounds do.

    Raises:
        FitError: no usable boxes; an objective by shape; numbers that do not go with the layout; an unknown layout; a limit
            that is not positive.

    >>> from detect.data import read_coco
    >>> from detect.data.resize import parse_resize
    >>> from detect.samples import sample_annotations
    >>> instances = ResizedInstances.of(read_coco(sample_annotations("nuclei")), parse_resize("none"))
    >>> fit = fit_levels(instances, (4, 8, 16), per_level=1)
    >>> [(level.name, len(level.shapes)) for level in fit.anchors.levels], round(fit.free.score, 2)
    ([('P2', 1), ('P3', 1), ('P4', 1)], 0.6)
    """
    parsed, numbers = Objective.parse(objective, on_grid=True), Numbers(total, per_level, at_most, price)
    _check(parsed, layout, numbers, scales * ratios)
    if max_strides is not None and not 0 < max_strides < np.inf:
        raise FitError(f"max_strides is above 0, got {max_strides:g}")
    instances.require_boxes()
    strides = sorted(set(strides))
    served = levels_by_size(instances.shapes.T, strides, max_strides)
    strides = [stride for stride, own in zip(strides, served, strict=True) if own.any()]
    boxes = boxes_on_grid(
        instances,
        strides,
        objective=parsed,
        weights=weights,
        stride_mode=stride_mode,
        center_offset=center_offset,
        max_strides=max_strides,
    )
    costs = _costs(instances, strides, price) if numbers.priced else None
    of_level = per_level if at_most is None else at_most
    free = fit_on_grid(boxes, per_level=of_level, total=total, costs=costs, certify=certify)
    widest = () if layout == FREE else fit_layouts(boxes, widest=layout, scales=scales, ratios=ratios, free=free)
    anchors, score = (widest[-1].anchors, widest[-1].score) if widest else (free.anchors, free.score - free.cost)
    name = parsed.score_name(weighted=weights is not None, priced=numbers.priced)
    name = name if isinstance(boxes, OwnPositions) else f"expected_{name}"
    name = name if max_strides is None else f"{name}_up_to_{max_strides:g}_strides"
    proofs = {name: Proof(score, free.proof.upper_bound)} if free.proof else {}
    told = replace(anchors, resize=str(instances.rule), name="fitted", scores={name: score}, proofs=proofs)
    return LevelFit(told, numbers, free, widest)


def _check(objective: Objective, layout: str, numbers: Numbers, per_level: int) -> None:
    if not objective.on_grid:
        raise FitError("levels are fitted as placed on the grid: of an objective by shape, see fit_anchors")
    if layout not in {FREE, *LAYOUTS}:
        raise FitError(f"layout {layout!r} is not one of {', '.join([FREE, *LAYOUTS])}")
    if layout != FREE and numbers.per_level != per_level:
        raise FitError(f"layout {layout} has its sizes times its ratios on each level, {per_level}, not {numbers}")


def _costs(instances: ResizedInstances, strides: Sequence[int], price: float) -> tuple[float, ...]:
    dataset = instances.dataset
    canvas_wh = instances.rule.resize_images(dataset.images.wh).canvas_wh
    return shape_costs(canvas_wh, strides, HeadSize(max(len(dataset.categories), 1)), price=price)
