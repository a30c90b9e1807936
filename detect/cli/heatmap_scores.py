"""Ceilings and scores of points, for people and for machines."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from detect.cli import output
from detect.data import CocoDataset, Finding, read_results
from detect.errors import CocoError, ConfigError
from detect.evaluation.coco_points import PointResults, oks_of, point_results
from detect.evaluation.oracle import GOOD_F1, OracleScores, coarsest_good, oracle_round_trip
from detect.evaluation.points import PointScores, score_points
from detect.evaluation.precision_recall import choose_threshold
from detect.keypoints.keypoints import CocoKeypoints


def ceilings_of(
    found: CocoKeypoints, strides: Sequence[float], sigmas: Sequence[float], **options: Any
) -> list[OracleScores]:
    """One for each stride and sigma; the options are those of :func:`detect.evaluation.oracle.ceiling`."""
    grid = [(stride, sigma) for stride in strides for sigma in sigmas]
    num_images = len(found.dataset.images)
    ceilings: list[OracleScores] = []
    with output.reading_bar() as on_progress:

        def tell(num_done: int) -> None:
            on_progress("drawing and finding", len(ceilings) * num_images + num_done, len(grid) * num_images)

        for stride, sigma in grid:
            ceilings.append(oracle_round_trip(found, stride=stride, sigma=sigma, on_progress=tell, **options))
    return ceilings


def print_ceilings(ceilings: Sequence[OracleScores], dataset: CocoDataset, console: Console) -> None:
    """A row for each stride and sigma, the recommended one marked."""
    output.print_findings(dataset, console)
    best = coarsest_good(ceilings)
    names = ("stride", "sigma", "F1", "precision", "recall", "error px", "merged", "same cell", "outside", "")
    table = output.table(*names)
    for each in ceilings:
        rates, error = each.scores.micro, each.scores.error
        values = [*map(_rate, (rates.f1, rates.precision, rates.recall)), _length(error.mean if error else None)]
        counts = [f"{count:,}" for count in (each.merged, each.collisions, each.outside)]
        mark = "<- coarsest good one" if each is best else ""
        table.add_row(f"{each.stride:g}", f"{each.sigma:g}", *values, *counts, mark)
    console.print(table)
    first = ceilings[0].scores
    console.print(
        f"of {first.num_truth:,} points, found within {first.radius:g} image pixels by a perfect network; merged: inside, "
        "but sharing another's peak",
        style="dim",
    )
    if best is None:
        output.note(
            f"warning: none of these reaches an F1 of {GOOD_F1:g}, learned perfectly: try a finer stride or another sigma"
        )


def ceilings_object(ceilings: Sequence[OracleScores]) -> dict[str, Any]:
    """Ceilings for machines."""
    best = coarsest_good(ceilings)
    own = ("stride", "sigma", "merged", "collisions", "outside")
    rows = [{name: getattr(each, name) for name in own} | each.scores.to_dict() for each in ceilings]
    return {"ceilings": rows, "coarsest_good": best and {"stride": best.stride, "sigma": best.sigma}}


@dataclass(frozen=True)
class Scoring:
    """How predictions are scored; what cannot go together is refused at once."""

    source: str
    radius: float
    radii: Sequence[float] | None
    threshold: float | None
    choose: str | None
    oks_sigmas: Sequence[float] | None

    def __post_init__(self) -> None:
        if self.threshold is not None and not math.isfinite(self.threshold):
            raise ConfigError(f"--threshold: expected a number, got {self.threshold}")
        if self.threshold is not None and self.choose:
            raise ConfigError("--threshold and --choose: give one of the two")
        if self.oks_sigmas and self.source != "keypoints":
            raise ConfigError(f"--oks-sigmas: OKS is of keypoints, not of {self.source}")

    def of(self, points: PointResults, threshold: float | None) -> PointScores:
        """Of these points, with a threshold that may have been chosen on more."""
        return score_points(
            points.predicted,
            points.truth,
            scores=points.scores,
            radius=self.radius,
            radii=self.radii,
            threshold=threshold,
        )


def score_file(
    found: CocoKeypoints, pred: Path, scoring: Scoring, *, strict: bool, list_findings: bool
) -> dict[str, Any]:
    """Scores of all points, of each landmark type where there are several, and by OKS where sigmas are given."""
    results = read_results(pred, found.dataset)
    points = point_results(results, found, source=scoring.source, radius=scoring.radius)
    _check_refused(points, pred, strict=strict, list_findings=list_findings)
    threshold = scoring.threshold
    if scoring.choose:
        columns = points.predicted, points.truth
        goal, radius = scoring.choose, scoring.radius
        threshold = choose_threshold(*columns, scores=points.scores, goal=goal, radius=radius).threshold
    every = scoring.of(points, threshold).to_dict() | {"num_images": len(found.dataset.images)}  # not times types
    scored: dict[str, Any] = {"all": every}
    if points.num_types > 1:
        types = enumerate(found.type_names)
        scored["by_type"] = {name: scoring.of(points.of_type(each), threshold).to_dict() for each, name in types}
    if scoring.oks_sigmas:
        scored["oks"] = oks_of(results, found, sigmas=scoring.oks_sigmas).to_dict()
    invalid = [{"image_id": each.image_id, "reason": each.reason} for each in points.invalid]
    return scored | {"in_ignored_regions": points.num_ignored, "refused_results": invalid}


def _check_refused(points: PointResults, pred: Path, *, strict: bool, list_findings: bool) -> None:
    """An error where nothing is left, or of the first where ``strict``; else a line for each if they are asked for."""
    nothing_left = not points.num_ignored and not any(map(len, points.predicted))
    for finding in points.invalid:
        message = str(replace(finding, file=str(pred)))
        if strict or nothing_left:
            raise CocoError(message if strict else f"{message}; nor can any other result be used")
        if list_findings:
            output.note(f"refused: {message}")


def print_scored(scored: Mapping[str, Any], dataset: CocoDataset, console: Console) -> None:
    """Scores, for people."""
    output.print_findings(dataset, console)
    _print_refused(scored["refused_results"], console)
    table = output.table("", "points", "found", "wrong", "precision", "recall", "F1", "error px", "AP")
    for name, each in {"all": scored["all"], **scored.get("by_type", {})}.items():
        table.add_row(output.plain(name), *_cells(each))
    console.print(table)
    every = scored["all"]
    count, threshold = every["count"], every["threshold"]
    kept = "all predictions" if threshold is None else f"threshold {threshold:.4g}"
    each = "an image and type" if "by_type" in scored else "an image"
    console.print(
        f"within {every['radius']:g} px, {kept}; error of the count of {each}: mean {count['mae']:.3f}, root mean square "
        f"{count['rmse']:.3f}, bias {count['bias']:+.3f}; presence AUC {_rate(every['presence_auc'])}"
    )
    if scored["in_ignored_regions"]:
        console.print(f"{scored['in_ignored_regions']:,} predictions in ignored regions left out")
    if "oks" in scored:
        table = output.table("OKS", *scored["oks"])
        table.add_row("", *map(_rate, scored["oks"].values()))
        console.print(table)


def _print_refused(invalid: Sequence[Mapping[str, Any]], console: Console) -> None:
    if invalid:
        console.print(f"{len(invalid):,} results refused:", style="yellow")
    for each in invalid[: output.SHOWN_FINDINGS]:
        console.print(f"  {Finding('', None, **each)}", markup=False)
    if len(invalid) > output.SHOWN_FINDINGS:
        console.print(f"  and {len(invalid) - output.SHOWN_FINDINGS:,} more: --findings lists them all")


def _cells(scores: Mapping[str, Any]) -> list[str]:
    """A row of the table of scores, after its name."""
    wrong = scores["num_predicted"] - scores["num_matched"]
    counts = [f"{count:,}" for count in (scores["num_truth"], scores["num_matched"], wrong)]
    rates = [_rate(scores["micro"][rate]) for rate in ("precision", "recall", "f1")]
    error = scores["error"]
    return [*counts, *rates, _length(error["mean"] if error else None), _rate(scores["mean_average_precision"])]


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _length(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
