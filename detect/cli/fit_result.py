"""The result of ``detect anchors fit``: printed for people, as an object for machines, and written as files."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detect.anchors.anchor_set import SourceFile
from detect.anchors.metrics import AnchorMetrics
from detect.cli import anchor_results, anchor_tables, output
from detect.fitting.fit import KCurve

if TYPE_CHECKING:
    from detect.anchors.stability import Generalisation, Stability
    from detect.fitting.structured import StructuredFit


@dataclass(frozen=True)
class FitResult:
    """Scores of the fitted anchors and of those they are compared with, and what else was asked for."""

    scores: Sequence[AnchorMetrics]
    among: str
    """What an upper bound is the highest of, in words."""
    method: str = "optimal"
    layouts: Sequence[StructuredFit] = ()
    curve: KCurve | None = None
    stability: Stability | None = None
    generalisation: Generalisation | None = None

    def print(self, *, whole_curve: bool = False) -> None:
        """For people; of the curve over k the knee, or all of it."""
        console, fitted = output.console(), self.scores[0]
        output.print_dataset(fitted.instances.dataset, str(fitted.instances.rule), console)
        anchor_tables.print_levels(fitted, console)
        anchor_tables.print_scores(self.scores, console)
        anchor_tables.print_bounds(fitted, self.among, console)
        if self.layouts:
            anchor_tables.print_layouts(self.layouts, console)
        if self.stability:
            anchor_tables.print_stability(self.stability, console)
        if self.generalisation:
            anchor_tables.print_generalisation(self.generalisation, console)
        if self.curve:
            anchor_tables.print_knee(self.curve, console, whole=whole_curve)
        for score in self.scores:
            anchor_tables.warn_if_parted(score)

    def print_object(self) -> None:
        """For machines."""
        fitted = self.scores[0]
        content = anchor_results.score_object(fitted) | {"method": self.method} | self._proof()
        if self.layouts:
            content["layouts"] = [_layout(each) for each in self.layouts]
        if self.curve:
            content["k_curve"] = {str(k): value for k, value in self.curve.average_iou.items()}
            content["knee"] = self.curve.knee
            content["bic"] = {str(k): value for k, value in self.curve.bic.items()}
        if self.stability:
            content["stability"] = self.stability.to_dict()
        if self.generalisation:
            content["generalisation"] = self.generalisation.to_dict()
        if self.scores[1:]:
            others = ({"name": score.anchors.name} | anchor_results.score_object(score) for score in self.scores[1:])
            content["compare"] = list(others)
        output.print_json(content)

    def save(
        self,
        folder: Path,
        sources: Future[tuple[SourceFile, ...]],
        *,
        title: str = "Anchors fitted to data",
        with_page: bool = True,
        images: Path | None = None,
    ) -> None:
        """Write ``anchors.yaml``, ``report.html``, and ``findings.csv`` where something was refused or odd."""
        dataset = self.scores[0].instances.dataset
        files = {"anchors.yaml": anchor_results.with_provenance(self.scores[0], sources.result()).to_yaml()}
        if dataset.invalid or dataset.suspicious:
            files["findings.csv"] = output.findings_csv(dataset)
        if with_page:
            from detect.report.anchor_page import anchor_page

            files["report.html"] = anchor_page(
                self.scores,
                self.curve,
                title=title,
                images=images,
                stability=self.stability,
                generalisation=self.generalisation,
            )
        output.save(folder, files)

    def _proof(self) -> dict[str, Any]:
        """What was fitted for, and how close to the best it is; all None of baselines."""
        anchors = self.scores[0].anchors
        for name, proof in anchors.proofs.items():
            return {"objective": name, "upper_bound": proof.upper_bound, "gap": proof.gap}
        return {"objective": next(iter(anchors.scores), None), "upper_bound": None, "gap": None}


def _layout(fit: StructuredFit) -> dict[str, Any]:
    return {
        "layout": fit.layout,
        "sizes": [list(sizes) for sizes in fit.sizes],
        "ratios": [list(ratios) for ratios in fit.ratios],
        "score": fit.score,
        "price": fit.price,
        "free_score": fit.free.score,
        "default_score": fit.default_score,
        "default_factor": fit.default_factor,
    }
