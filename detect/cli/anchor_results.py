"""Reading, scoring and writing that the ``detect anchors`` commands share."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detect.anchors.anchor_set import AnchorSet, SourceFile
from detect.anchors.fitting import KCurve
from detect.anchors.instances import ResizedInstances
from detect.anchors.known import load_anchors
from detect.anchors.metrics import THRESHOLDS, AnchorMetrics, anchor_metrics
from detect.anchors.objective import UPPER_BOUND
from detect.cli import anchor_tables, output
from detect.cli.fit_options import Fitted
from detect.cli.options import layout_of
from detect.data import CocoDataset
from detect.data.resize import parse_resize

if TYPE_CHECKING:
    from detect.anchors.assignment import Assignment
    from detect.anchors.stability import Generalisation, Stability
    from detect.anchors.structured import StructuredFit

MAX_LISTED = 1000  # findings and ids in a JSON object; their counts are always complete


def load_all(names: Sequence[str]) -> list[AnchorSet]:
    """Anchors by name or path."""
    return [load_anchors(name) for name in names]


def score_all(instances: ResizedInstances, sets: Sequence[AnchorSet], convention: str = "exact") -> list[AnchorMetrics]:
    """The metrics of each set on the instances, placed by a framework's convention."""
    return [anchor_metrics(instances, each, **layout_of(convention)) for each in sets]


def score_by_own_rules(dataset: CocoDataset, sets: Sequence[AnchorSet], convention: str) -> list[AnchorMetrics]:
    """The metrics of each set on the dataset under the resize rule that the set was made for."""
    by_rule = {each.resize: ResizedInstances.of(dataset, parse_resize(each.resize)) for each in sets}
    return [score for each in sets for score in score_all(by_rule[each.resize], [each], convention)]


def start_hashing(dataset: CocoDataset) -> Future[tuple[SourceFile, ...]]:
    """The digests of a dataset's files, computed in another thread."""
    thread = ThreadPoolExecutor(max_workers=1)
    sources = thread.submit(lambda: tuple(SourceFile.of(path) for path in dataset.files))
    thread.shutdown(wait=False)
    return sources


def assigned(score: AnchorMetrics, convention: str, assigner: str) -> Assignment:
    """The anchors that a matcher gives to each instance."""
    from detect.anchors.assignment import assign  # loads torch
    from detect.anchors.generator import AnchorGenerator
    from detect.ops.matcher import Atss

    generator = AnchorGenerator(score.anchors, **layout_of(convention))
    return assign(score.instances, generator, Atss() if assigner == "atss" else None)


def print_fit(scores: Sequence[AnchorMetrics], fitted: Fitted, curve: KCurve | None) -> None:
    """Print fitted anchors (first) beside those they are compared with."""
    console, first = output.console(), scores[0]
    output.print_dataset(first.instances.dataset, str(first.instances.rule), console)
    anchor_tables.print_levels(first, console)
    anchor_tables.print_scores(scores, console)
    anchor_tables.print_bounds(first, fitted.among, console)
    if fitted.layouts:
        anchor_tables.print_layouts(fitted.layouts, console)
    if curve:
        anchor_tables.print_knee(curve, console)
    for score in scores:
        anchor_tables.warn_if_grid_loses(score)


def fit_object(scores: Sequence[AnchorMetrics], fitted: Fitted, curve: KCurve | None, *, method: str) -> dict[str, Any]:
    """A fit as a JSON object."""
    content = score_object(scores[0]) | {"method": method} | _proof(scores[0])
    if fitted.layouts:
        content["layouts"] = [_layout(each) for each in fitted.layouts]
    if curve:
        content |= curve_object(curve)
    if scores[1:]:
        content["compare"] = [{"name": score.anchors.name} | score_object(score) for score in scores[1:]]
    return content


def curve_object(curve: KCurve) -> dict[str, Any]:
    """Mean best IoU for each k, and the knee."""
    return {"k_curve": {str(k): value for k, value in curve.average_iou.items()}, "knee": curve.knee}


def stability_object(
    score: AnchorMetrics, stability: Stability | None, generalisation: Generalisation | None
) -> dict[str, Any]:
    """The stability of a fit as a JSON object."""
    parts = {"stability": stability, "generalisation": generalisation}
    return score_object(score) | {name: part.to_dict() for name, part in parts.items() if part}


def fit_files(
    scores: Sequence[AnchorMetrics],
    curve: KCurve | None,
    sources: tuple[SourceFile, ...],
    *,
    title: str = "Anchors fitted to data",
    with_page: bool = True,
    images: Path | None = None,
) -> dict[str, str]:
    """``anchors.yaml``, ``report.html``, and ``findings.csv`` if something was invalid or suspicious."""
    dataset = scores[0].instances.dataset
    files = {"anchors.yaml": _with_provenance(scores[0], sources).to_yaml()}
    if dataset.invalid or dataset.suspicious:
        files["findings.csv"] = output.findings_csv(dataset)
    if with_page:
        from detect.report.anchor_page import anchor_page

        files["report.html"] = anchor_page(scores, curve, title=title, images=images)
    return files


def _with_provenance(score: AnchorMetrics, sources: tuple[SourceFile, ...]) -> AnchorSet:
    """The anchors with their scores, source files, command and version."""
    by_shape = {"average_iou": score.average_iou} | {f"recall_at_{t}": score.recall(t) for t in THRESHOLDS}
    placed = {"grid_average_iou": score.grid_average_iou, "placed_recall_at_0.5": score.grid_recall(0.5)}
    return replace(
        score.anchors,
        scores={name: round(value, 6) for name, value in (dict(score.anchors.scores) | by_shape | placed).items()},
        sources=sources,
        command=shlex.join(["detect", *sys.argv[1:]]),
        version=version("detect-heads"),
    )


def _proof(score: AnchorMetrics) -> dict[str, Any]:
    """The objective that was maximised and its proved gap; None for baselines."""
    proofs = anchor_tables.proofs(score)
    if not proofs:
        names = [name for name in score.anchors.scores if not name.endswith(UPPER_BOUND)]
        return {"objective": names[0] if names else None, "upper_bound": None, "gap": None}
    name, reached, bound = proofs[0]
    return {"objective": name, "upper_bound": bound, "gap": bound / reached - 1}


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


def print_score(scores: Sequence[AnchorMetrics], worst: int, assignments: Sequence[Assignment] = ()) -> None:
    """Print sets of anchors side by side, then each in detail; assignments are none, or one for each set."""
    console = output.console()
    rules = ", ".join(dict.fromkeys(str(score.instances.rule) for score in scores))
    output.print_dataset(scores[0].instances.dataset, rules, console)
    anchor_tables.print_scores(scores, console)
    for number, score in enumerate(scores):
        console.print(f"\n{score.anchors.name}", style="bold", markup=False)
        anchor_tables.print_groups(score, console)
        if assignments:
            anchor_tables.print_assignment(assignments[number], console)
        if worst:
            anchor_tables.print_worst(score, worst, console)
    for score in scores:
        anchor_tables.warn_if_grid_loses(score)


def score_objects(scores: Sequence[AnchorMetrics], assignments: Sequence[Assignment] = ()) -> dict[str, Any]:
    """Scores as a JSON object."""
    objects = [{"name": each.anchors.name, "method": "given"} | score_object(each) for each in scores]
    for content, assignment in zip(objects, assignments, strict=False):
        content["assignment"] = _assignment_object(assignment)
    return {"anchors": objects}


def _assignment_object(assignment: Assignment) -> dict[str, Any]:
    ids = assignment.instances.dataset.instances.ids
    groups = {"by_size": assignment.by_size, "by_ratio": assignment.by_ratio, "by_category": assignment.by_category}
    return {
        "overall": asdict(assignment.overall),
        "levels": [asdict(level) for level in assignment.by_level],
        **{name: [asdict(group) for group in of_kind] for name, of_kind in groups.items()},
        "low_quality_only_ids": ids[assignment.low_quality_only][:MAX_LISTED].tolist(),
        "unassigned_ids": ids[assignment.unassigned][:MAX_LISTED].tolist(),
    }


def score_object(score: AnchorMetrics) -> dict[str, Any]:
    """A score as a JSON object; without file names, so that shards of a dataset give the same as the whole file."""
    dataset = score.instances.dataset
    return {
        "boxes": len(score.instances),
        "invalid": len(dataset.invalid),
        "suspicious": len(dataset.suspicious),
        "crowd": len(dataset.crowd),
        "resize": str(score.instances.rule),
        "shapes": score.anchors.shapes.tolist(),
        "levels": [
            {"name": level.name, "stride": level.stride, "shapes": [list(shape) for shape in level.shapes]}
            for level in score.anchors.levels
        ],
        "average_iou": score.average_iou,
        "recall": {str(t): score.recall(t) for t in THRESHOLDS},
        "grid_average_iou": score.grid_average_iou,
        "grid_recall": {str(t): score.grid_recall(t) for t in THRESHOLDS},
        "yolov5_ratio_recall": score.ratio_recall,
        "findings": [
            {"kind": kind, "annotation_id": each.annotation_id, "image_id": each.image_id, "reason": each.reason}
            for kind, each in output.findings_of(dataset)[:MAX_LISTED]
        ],
    }
