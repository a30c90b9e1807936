"""What ``detect anchors fit`` is asked for, and how it is done: by shape, or as the anchors will lie on the grid."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from detect.anchors.anchor_set import AnchorSet
from detect.anchors.grid_convention import as_convention
from detect.anchors.instances import ResizedInstances, instance_weights
from detect.cli.output import reading_bar
from detect.errors import ConfigError
from detect.fitting.fit import FEW_BOXES, KCurve, fit_anchors, k_curve
from detect.fitting.objective import Objective

if TYPE_CHECKING:  # these import scipy, which fits by shape do without
    from detect.anchors.stability import Generalisation, Stability
    from detect.fitting.structured import StructuredFit

FREE = "free"  # the layout without one
PROVED = 0.01  # how close to the best few boxes are proved to be fitted by shape
PROVED_PLACED = 0.02  # as placed on the grid, where a proof takes longer


@dataclass(frozen=True)
class Fitted:
    """Anchors, among what their upper bound is the highest, and what sizes by ratios cost."""

    anchors: AnchorSet
    among: str
    layouts: tuple[StructuredFit, ...] = ()


@dataclass(frozen=True)
class Request:
    """What to fit, as the options say."""

    objective: Objective
    strides: tuple[int, ...]
    k: int
    per_level: int | None
    max_anchors: int | None
    price: float
    max_strides: float | None
    layout: str
    scales: int
    ratios: int
    grid: str
    fixed: tuple[tuple[float, float], ...]
    balance: str
    factors: dict[str, float]
    method: str
    certify: float | None
    clustering: dict[str, Any]

    def __post_init__(self) -> None:
        if self.objective.on_grid and (self.method != "optimal" or self.fixed):
            raise ConfigError("--method and --fixed are for shapes alone: --objective shape")
        if not self.objective.on_grid and (self.layout != FREE or self.max_anchors or self.max_strides is not None):
            raise ConfigError(
                "--layout, --max-anchors and --max-strides are for anchors as placed on the grid: --objective placed"
            )
        given = [self.per_level is not None, self.max_anchors is not None, self.layout != FREE]
        if sum(given) > 1:
            raise ConfigError("--per-level, --max-anchors and --layout each say how many shapes a level has: give one")

    def fit(self, instances: ResizedInstances, *, prove: bool = True) -> Fitted:
        """The anchors for a dataset."""
        certify = self._effort(len(instances)) if prove else None
        return self._fit_placed(instances, certify) if self.objective.on_grid else self._fit_shapes(instances, certify)

    def _fit_shapes(self, instances: ResizedInstances, certify: float | None) -> Fitted:
        anchors = fit_anchors(
            instances,
            k=self.k,
            per_level=self.per_level,
            method=self.method,
            strides=self.strides,
            certify=certify,
            objective=self.objective,
            fixed=self.fixed,
            weights=self._weights(instances),
            **self.clustering,
        )
        return Fitted(anchors, f"for k = {anchors.num_anchors}")

    def _fit_placed(self, instances: ResizedInstances, certify: float | None) -> Fitted:
        from detect.fitting.fit_levels import fit_levels

        per_level = self.scales * self.ratios if self.layout != FREE else self.per_level
        total = self.k if per_level is None and self.max_anchors is None else None
        convention = as_convention(self.grid)
        fit = fit_levels(
            instances,
            self.strides,
            per_level=per_level,
            total=total,
            at_most=self.max_anchors,
            price=self.price,
            max_strides=self.max_strides,
            objective=self.objective,
            layout=self.layout,
            scales=self.scales,
            ratios=self.ratios,
            weights=self._weights(instances),
            stride_mode=convention.stride_mode,
            center_offset=convention.center_offset,
            certify=certify,
        )
        return Fitted(fit.anchors, f"with {fit.numbers}", fit.layouts)

    def curve(self, instances: ResizedInstances) -> KCurve:
        """Average IoU by shape over the number of shapes."""
        options = ("covariance_type", "shrinkage")
        mixture = {name: self.clustering[name] for name in options} if self.method == "mixture" else None
        return k_curve(instances.histogram, seed=self.clustering["seed"], mixture=mixture)

    def stability(self, instances: ResizedInstances, resamples: int) -> Stability:
        """How shapes and scores move with the choice of images."""
        from detect.anchors.stability import bootstrap

        with reading_bar() as on_progress:
            done = itertools.count()

            def refit(drawn: ResizedInstances) -> AnchorSet:
                on_progress("fitting to resamples", next(done), resamples + 1)
                return self.fit(drawn, prove=False).anchors

            return bootstrap(instances, refit, resamples=resamples, convention=self.grid)

    def generalisation(
        self, train: ResizedInstances, validation: ResizedInstances, anchors: AnchorSet
    ) -> Generalisation:
        """How the anchors do on other images."""
        from detect.anchors.stability import train_and_validation

        validation.require_boxes()
        return train_and_validation(train, validation, anchors=anchors, convention=self.grid)

    def _weights(self, instances: ResizedInstances) -> Any:
        if self.balance == "none" and not self.factors:
            return None
        return instance_weights(instances, balance=self.balance, factors=self.factors)

    def _effort(self, num_boxes: int) -> float | None:
        """How close to prove: nothing where it was not asked for and takes long."""
        few, proved = FEW_BOXES, PROVED
        if self.objective.on_grid:
            from detect.fitting import any_position

            few, proved = any_position.FEW_BOXES, PROVED_PLACED
        certify = self.certify
        if certify is None:
            certify = proved if num_boxes <= few else 1.0
        return certify if certify < 1 else None
