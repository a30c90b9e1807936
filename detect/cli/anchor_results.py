"""What the ``detect anchors`` commands share: read, score, and write results down."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from detect.anchors.anchor_set import AnchorSet, SourceFile
from detect.anchors.coverage import THRESHOLDS, Coverage, coverage
from detect.anchors.fitting import UPPER_BOUND, KCurve
from detect.anchors.instances import ResizedInstances
from detect.anchors.known import load_anchors
from detect.cli import anchor_tables, output
from detect.coco import CocoDataset, read_coco
from detect.resize import parse_resize

MAX_LISTED = 1000  # findings in a JSON object; their number is always whole


def read_instances(files: Sequence[str], resize: str, *, strict: bool, list_findings: bool) -> ResizedInstances:
    """The instances of the files under a resize rule."""
    rule = parse_resize(resize)  # before a long read, not after it
    return ResizedInstances.of(read_dataset(files, strict=strict, list_findings=list_findings), rule)


def read_dataset(files: Sequence[str], *, strict: bool, list_findings: bool) -> CocoDataset:
    """What is in the files."""
    with output.reading_bar() as progress:
        dataset = read_coco(list(files), strict=strict, progress=progress)
    if list_findings:
        output.list_findings(dataset)
    return dataset


def load_all(names: Sequence[str]) -> list[AnchorSet]:
    """Anchors by name or path."""
    return [load_anchors(name) for name in names]


def score_all(instances: ResizedInstances, sets: Sequence[AnchorSet]) -> list[Coverage]:
    """Each set on the instances, whatever rule it was made for."""
    return [coverage(instances, each) for each in sets]


def score_by_own_rules(dataset: CocoDataset, sets: Sequence[AnchorSet]) -> list[Coverage]:
    """Each set on the dataset under the resize rule that it was made for."""
    by_rule = {each.resize: ResizedInstances.of(dataset, parse_resize(each.resize)) for each in sets}
    return [coverage(by_rule[each.resize], each) for each in sets]


def start_hashing(dataset: CocoDataset) -> Future[tuple[SourceFile, ...]]:
    """The digests of the files of a dataset, made beside other work."""
    with_thread = ThreadPoolExecutor(max_workers=1)
    sources = with_thread.submit(lambda: tuple(SourceFile.of(path) for path in dataset.files))
    with_thread.shutdown(wait=False)
    return sources


def with_provenance(score: Coverage, sources: tuple[SourceFile, ...]) -> AnchorSet:
    """The anchors of a score, told how good they are and where they come from."""
    by_shape = {"average_iou": score.average_iou} | {f"recall_at_{t}": score.recall(t) for t in THRESHOLDS}
    placed = {"placed_average_iou": score.placed_average_iou, "placed_recall_at_0.5": score.placed_recall(0.5)}
    return replace(
        score.anchors,
        scores={name: round(value, 6) for name, value in (by_shape | placed | dict(score.anchors.scores)).items()},
        sources=sources,
        command=shlex.join(["detect", *sys.argv[1:]]),
        version=version("detect-heads"),
    )


def page(scores: Sequence[Coverage], k_scores: KCurve | None, *, title: str) -> str:
    """The text of ``report.html``."""
    from detect.report.anchor_page import anchor_page

    return anchor_page(scores, k_scores, title=title)


def save_fit(
    folder: Path,
    scores: Sequence[Coverage],
    k_scores: KCurve | None,
    sources: Future[tuple[SourceFile, ...]],
    *,
    title: str,
    with_page: bool = True,
) -> None:
    """Write ``anchors.yaml``, ``report.html``, and ``findings.csv`` where something was refused or odd."""
    dataset = scores[0].instances.dataset
    files = {"anchors.yaml": with_provenance(scores[0], sources.result()).to_yaml()}
    if dataset.refused or dataset.odd:
        files["findings.csv"] = output.findings_csv(dataset)
    if with_page:
        files["report.html"] = page(scores, k_scores, title=title)
    output.save(folder, files)


def print_fit(scores: Sequence[Coverage], k_scores: KCurve | None, *, whole_curve: bool = False) -> None:
    """A fit, for people; of the curve over k the knee, or all of it."""
    console = output.console()
    fitted = scores[0]
    output.print_dataset(fitted.instances.dataset, str(fitted.instances.rule), console)
    anchor_tables.print_levels(fitted, console)
    anchor_tables.print_scores(scores, console)
    anchor_tables.print_bound(fitted, console)
    if k_scores and whole_curve:
        anchor_tables.print_k_curve(k_scores, console)
    elif k_scores:
        at_knee = k_scores.average_iou[k_scores.knee]
        console.print(f"more shapes buy little beyond k = {k_scores.knee}, average IoU {at_knee:.3f} (--suggest-k)")
    for score in scores:
        anchor_tables.warn_if_parted(score)


def print_score(scores: Sequence[Coverage], worst: int) -> None:
    """Sets of anchors side by side, then each in detail, for people."""
    console = output.console()
    rules = ", ".join(dict.fromkeys(str(score.instances.rule) for score in scores))
    output.print_dataset(scores[0].instances.dataset, rules, console)
    anchor_tables.print_scores(scores, console)
    for score in scores:
        console.print(f"\n{score.anchors.name}", style="bold", markup=False)
        anchor_tables.print_groups(score, console)
        if worst:
            anchor_tables.print_worst(score, worst, console)
    for score in scores:
        anchor_tables.warn_if_parted(score)


def print_fit_object(scores: Sequence[Coverage], method: str, k_scores: KCurve | None) -> None:
    """A fit, for machines."""
    bound = scores[0].anchors.scores.get(UPPER_BOUND)
    gap = None if bound is None else bound / scores[0].average_iou - 1
    content = score_object(scores[0]) | {"method": method, "upper_bound": bound, "gap": gap}
    if k_scores:
        content["k_curve"] = {str(k): value for k, value in k_scores.average_iou.items()}
        content["knee"] = k_scores.knee
        content["bic"] = {str(k): value for k, value in k_scores.bic.items()}
    if scores[1:]:
        content["compare"] = [{"name": score.anchors.name} | score_object(score) for score in scores[1:]]
    output.print_json(content)


def print_score_objects(scores: Sequence[Coverage]) -> None:
    """Scores, for machines."""
    output.print_json({"anchors": [{"name": s.anchors.name, "method": "given"} | score_object(s) for s in scores]})


def score_object(score: Coverage) -> dict[str, Any]:
    """A score for machines; no file names in it, so that shards of a dataset give what the whole gives."""
    dataset = score.instances.dataset
    return {
        "boxes": len(score.instances),
        "refused": len(dataset.refused),
        "odd": len(dataset.odd),
        "crowd": len(dataset.crowd),
        "resize": str(score.instances.rule),
        "shapes": score.anchors.shapes.tolist(),
        "levels": [
            {"name": level.name, "stride": level.stride, "shapes": [list(shape) for shape in level.shapes]}
            for level in score.anchors.levels
        ],
        "average_iou": score.average_iou,
        "recall": {str(t): score.recall(t) for t in THRESHOLDS},
        "placed_average_iou": score.placed_average_iou,
        "placed_recall": {str(t): score.placed_recall(t) for t in THRESHOLDS},
        "yolov5_ratio_recall": score.ratio_recall,
        "findings": [
            {"kind": kind, "annotation_id": each.annotation_id, "image_id": each.image_id, "reason": each.reason}
            for kind, each in output.findings_of(dataset)[:MAX_LISTED]
        ],
    }
