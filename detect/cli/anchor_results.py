"""What the ``detect anchors`` commands share: read, score, and write results down."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from detect.anchors.anchor_set import AnchorSet, SourceFile
from detect.anchors.instances import ResizedInstances
from detect.anchors.known import load_anchors
from detect.anchors.metrics import THRESHOLDS, AnchorMetrics, anchor_metrics
from detect.cli import anchor_tables, output
from detect.data import CocoDataset, read_coco
from detect.data.resize import parse_resize

if TYPE_CHECKING:
    from detect.anchors.assignment import Assignment

MAX_LISTED = 1000  # findings in a JSON object; their number is always whole


def read_instances(files: Sequence[str], resize: str, *, strict: bool, list_findings: bool) -> ResizedInstances:
    """The instances of the files under a resize rule."""
    rule = parse_resize(resize)  # before a long read, not after it
    return ResizedInstances.of(read_dataset(files, strict=strict, list_findings=list_findings), rule)


def read_dataset(files: Sequence[str], *, strict: bool, list_findings: bool) -> CocoDataset:
    """What is in the files."""
    with output.reading_bar() as on_progress:
        dataset = read_coco(list(files), strict=strict, on_progress=on_progress)
    if list_findings:
        output.list_findings(dataset)
    return dataset


def load_all(names: Sequence[str]) -> list[AnchorSet]:
    """Anchors by name or path."""
    return [load_anchors(name) for name in names]


def score_all(instances: ResizedInstances, sets: Sequence[AnchorSet], grid: str = "exact") -> list[AnchorMetrics]:
    """Each set on the instances, whatever rule it was made for, laid as a framework lays anchors."""
    return [anchor_metrics(instances, each, convention=grid) for each in sets]


def score_by_own_rules(dataset: CocoDataset, sets: Sequence[AnchorSet], grid: str = "exact") -> list[AnchorMetrics]:
    """Each set on the dataset under the resize rule that it was made for."""
    by_rule = {each.resize: ResizedInstances.of(dataset, parse_resize(each.resize)) for each in sets}
    return [score for each in sets for score in score_all(by_rule[each.resize], [each], grid)]


def start_hashing(dataset: CocoDataset) -> Future[tuple[SourceFile, ...]]:
    """The digests of the files of a dataset, made beside other work."""
    with_thread = ThreadPoolExecutor(max_workers=1)
    sources = with_thread.submit(lambda: tuple(SourceFile.of(path) for path in dataset.files))
    with_thread.shutdown(wait=False)
    return sources


def with_provenance(score: AnchorMetrics, sources: tuple[SourceFile, ...]) -> AnchorSet:
    """The anchors of a score, told how good they are and where they come from."""
    by_shape = {"average_iou": score.average_iou} | {f"recall_at_{t}": score.recall(t) for t in THRESHOLDS}
    placed = {"grid_average_iou": score.grid_average_iou, "grid_recall_at_0.5": score.grid_recall(0.5)}
    return replace(
        score.anchors,
        scores={name: round(value, 6) for name, value in (dict(score.anchors.scores) | by_shape | placed).items()},
        sources=sources,
        command=shlex.join(["detect", *sys.argv[1:]]),
        version=version("detect-heads"),
    )


def assigned(score: AnchorMetrics, grid: str, assigner: str) -> Assignment:
    """What a matcher does with the anchors of a score."""
    from detect.anchors.assignment import assign  # which needs torch
    from detect.anchors.generator import AnchorGenerator
    from detect.ops.matcher import Atss

    generator = AnchorGenerator(score.anchors, convention=grid)
    return assign(score.instances, generator, Atss() if assigner == "atss" else None)


def print_score(scores: Sequence[AnchorMetrics], worst: int, assignments: Sequence[Assignment] = ()) -> None:
    """Sets of anchors side by side, then each in detail, for people; assignments are none, or one for each set."""
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
        anchor_tables.warn_if_parted(score)


def print_score_objects(scores: Sequence[AnchorMetrics], assignments: Sequence[Assignment] = ()) -> None:
    """Scores, for machines."""
    objects = [{"name": each.anchors.name, "method": "given"} | score_object(each) for each in scores]
    for content, assignment in zip(objects, assignments, strict=False):
        content["assignment"] = assignment_object(assignment)
    output.print_json({"anchors": objects})


def assignment_object(assignment: Assignment) -> dict[str, Any]:
    """What a matcher does, for machines."""
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
    """A score for machines; no file names in it, so that shards of a dataset give what the whole gives."""
    dataset = score.instances.dataset
    return {
        "boxes": len(score.instances),
        "refused": len(dataset.invalid),
        "odd": len(dataset.suspicious),
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
