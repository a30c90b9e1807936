"""Printed tables of anchors and their metrics on a dataset."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import astuple
from typing import TYPE_CHECKING

from detect.anchors.metric_sums import GroupedMetrics, MetricSums, WorstInstance
from detect.cli.detector_fit import MAX_GROUPS, largest, print_for_detector, print_matching, say_if_cut
from detect.cli.output import note, print_dataset, show, show_table
from detect.data.dataset_counts import DatasetCounts
from detect.fitting.fit import KCurve
from detect.wording import listed

if TYPE_CHECKING:
    from detect.anchors.assignment_sums import AssignmentSums
    from detect.anchors.detector_score import DetectorSums
    from detect.anchors.instances import ResizedInstances
    from detect.anchors.levels import LevelReport  # which needs torch: seconds, for commands that do without
    from detect.anchors.stability import Generalisation, Stability
    from detect.anchors.sweep import Setting
    from detect.cli.fit_options import Fitted
    from detect.fitting.structured import StructuredFit

EVENNESS = "how far each box has half the positives of the mean box, a mean over categories"
FEW_POSITIVES = "in a sum of losses the others outvote them: `detect train` weighs positives by category"
MAX_GRID_LOSS = 0.05  # recall by shape minus recall on the grid, above which a warning is printed


def print_fit(scores: Sequence[MetricSums], fitted: Fitted, curve: KCurve | None) -> None:
    """Print the fitted anchors, the first, and the sets they are compared with."""
    anchors = scores[0].anchors
    print_dataset(scores[0].dataset, scores[0].resize)
    shapes = ["  ".join(f"{w:.4g}x{h:.4g}" for w, h in level.shapes) for level in anchors.levels]
    rows = [(level.name, str(level.stride), own) for level, own in zip(anchors.levels, shapes, strict=True)]
    show_table(("level", "stride", "shapes, width x height"), rows)
    _print_scores(scores)
    for name, proof in anchors.proofs.items():
        gap = f"within {proof.gap:.2%} of the best"
        show(f"{_words(name)} {proof.score:.4f}, at most {proof.upper_bound:.4f} possible {fitted.among}: {gap}")
    if fitted.stopped_after_s is not None:
        show(fitted.stopped, style="yellow")
    if fitted.gained:
        before, after = fitted.gained
        show(f"start {fitted.start}: {before:.4f} -> {after:.4f} ({after - before:+.4f})")
    if fitted.layouts:
        _print_layouts(fitted.layouts)
    if fitted.detectors:
        print_for_detector(fitted.detectors)
        return
    if curve:
        _print_knee(curve)
    _warn_if_grid_loses(scores)


def print_score(
    scores: Sequence[MetricSums],
    assignments: Sequence[AssignmentSums] = (),
    matched: Sequence[DetectorSums] = (),
) -> None:
    """Print sets of anchors side by side, then each in detail; assignments and matched are none, or one for each set."""
    print_dataset(scores[0].dataset, ", ".join(dict.fromkeys(score.resize for score in scores)))
    if assignments:
        _print_even_coverage(scores, assignments)
    _print_scores(scores)
    if matched:
        print_matching(matched)
    for number, score in enumerate(scores):
        show(f"\n{score.anchors.name}", style="bold")
        if score.groups:
            _print_groups(score.groups)
        if assignments:
            _print_assignment(assignments[number])
        if score.groups and score.groups.worst.most:
            _print_worst(score, score.groups.worst)
    _warn_if_grid_loses(scores)


def _print_even_coverage(scores: Sequence[MetricSums], assignments: Sequence[AssignmentSums]) -> None:
    rows = []
    for score, each in zip(scores, assignments, strict=True):
        numbers = _decimals(score.grid_average_iou * each.evenness, each.evenness, score.grid_average_iou)
        rows.append([score.anchors.name, *numbers, f"{each.overall.positives:.2f}"])
    show_table(("", "even coverage", "evenness", "grid IoU", "positives per box"), rows)
    show(f"even coverage: evenness times grid IoU; evenness: {EVENNESS}", style="dim")


def _print_scores(scores: Sequence[MetricSums]) -> None:
    by_recall = ("recall .5", ".6", ".7", ".8", ".9")
    headers = ("", "anchors", "average IoU", *by_recall, "grid IoU", "grid .5", "ratio<4")
    rows = []
    for score in scores:
        by_shape = (score.average_iou, *(score.recall(t) for t in (0.5, 0.6, 0.7, 0.8, 0.9)))
        on_grid = (score.grid_average_iou, score.grid_recall(0.5), score.ratio_recall)
        rows.append([score.anchors.name, str(score.anchors.num_anchors), *_decimals(*by_shape, *on_grid)])
    show_table(headers, rows)
    show(
        "by shape: box and anchor share a centre; grid: anchors on the grid; ratio<4: YOLOv5's 'best possible recall', "
        "which tests ratios and not IoU",
        style="dim",
    )


def _words(score_name: str) -> str:
    return score_name.replace("_", " ").replace("iou", "IoU")


def _decimals(*values: float) -> list[str]:
    return [f"{value:.3f}" for value in values]


def _print_layouts(layouts: Sequence[StructuredFit]) -> None:
    one, free = layouts[0], layouts[0].free_score
    rows = [[f"default x {one.default_factor:.3g}", f"{one.default_score:.4f}", f"{free - one.default_score:.4f}"]]
    for each in layouts:
        sizes = " | ".join(" ".join(f"{size:.4g}" for size in sorted(level)) for level in each.sizes)
        ratios = " | ".join(dict.fromkeys(" ".join(f"{ratio:.3g}" for ratio in sorted(level)) for level in each.ratios))
        rows.append([each.layout, f"{each.score:.4f}", f"{each.penalty:.4f}", sizes, ratios])
    rows.append(["free", f"{free:.4f}", "0"])
    show_table(("layout", "score", "penalty", "sizes on each level", "ratios, h/w"), rows)
    show("penalty: score lost against the same number of free shapes on each level", style="dim")


def print_stability(score: MetricSums, stability: Stability | None, generalisation: Generalisation | None) -> None:
    """Print fitted anchors, bootstrap intervals of their shapes and scores, and their scores on other images."""
    print_dataset(score.dataset, score.resize)
    _print_scores([score])
    if stability:
        rows = []
        for number, shape in enumerate(stability.shapes, start=1):
            sides = (f"{value:.4g}" for side in (shape.width, shape.height) for value in astuple(side))
            rows.append([f"shape {number}", *sides, f"{shape.found:.0%}"])
        show_table(("refitted", "width", "from", "to", "height", "from", "to", "found again"), rows)
        pairs = {name: (interval, stability.out_of_bag[name]) for name, interval in stability.scores.items()}
        rows = [[_words(name), *_decimals(*astuple(own), *astuple(other))] for name, (own, other) in pairs.items()]
        show_table(("score", "value", "from", "to", "on images left out", "from", "to"), rows)
        failed = f"; {stability.failed} had too few distinct shapes" if stability.failed else ""
        show(f"95 % intervals over {stability.resamples} resamples of the images{failed}", style="dim")
    if generalisation:
        rows = []
        for name, loss in generalisation.loss.items():
            both = (generalisation.train[name].value, generalisation.validation[name].value)
            rows.append([_words(name), *_decimals(*both, *astuple(loss))])
        show_table(("score", "train", "validation", "loss", "from", "to"), rows)
        names = ", ".join(map(_words, generalisation.overfitted))
        show(f"overfitted: {names} lower on the validation images" if names else "no overfitting found")


def _print_groups(grouped: GroupedMetrics) -> None:
    kinds = {"by size": grouped.by_size, "by ratio": grouped.by_ratio, "by category": grouped.by_category}
    for title, groups in {**kinds, "best anchor on": grouped.by_level}.items():
        rows = []
        for group in largest(groups):
            by_shape = (group.average_iou, group.recall[0.5], group.recall[0.7], group.recall[0.9])
            numbers = _decimals(*by_shape, group.grid_average_iou, group.grid_recall[0.5])
            rows.append([group.name, f"{group.count:,}", *(numbers if group.count else ["-"] * 6)])
        show_table((title, "boxes", "average IoU", "recall .5", ".7", ".9", "on the grid", "recall .5"), rows)
        say_if_cut(groups)


def _print_assignment(assignment: AssignmentSums) -> None:
    rows = []
    for level in () if assignment.by_predictions else assignment.by_level:
        counts = (level.num_anchors, level.positives, level.by_threshold, level.ignored, level.ambiguous)
        rows.append([level.name, *(f"{number:,}" for number in counts)])
    if rows:
        show_table(("matching", "anchors", "positives", "by threshold", "ignored", "ambiguous"), rows)
    kinds = {"matched": (assignment.overall,), "matched, by size": assignment.by_size}
    kinds |= {"matched, by ratio": assignment.by_ratio, "matched, by category": assignment.by_category}
    for title, groups in kinds.items():
        rows = []
        for group in largest(groups):
            positives = f"{group.positives:.2f}" if group.count else "-"
            others = (group.low_quality_only, group.unassigned, group.ambiguous_lost)
            rows.append([group.name, f"{group.count:,}", positives, *(f"{number:,}" for number in others)])
        show_table((title, "boxes", "positives per box", "low quality only", "none", "ambiguous"), rows)
        say_if_cut(groups)
    if len(assignment.by_category) > 1:
        weights = zip(assignment.by_category, assignment.positive_weights().values(), strict=True)
        named = [f"{group.name} {weight:.2f}" for group, weight in weights]
        show(f"weights that `detect train` would give positives of these data: {listed(named, most=MAX_GROUPS)}")
    show(
        "low quality only: all anchors of the box are below the threshold; none: no anchor learns the box; ambiguous: "
        "anchors above the threshold for several boxes, which learn only one of them",
        style="dim",
    )
    if assignment.neglected:
        show(f"{assignment.neglect_in_words()}; {FEW_POSITIVES}", style="yellow")


def _print_worst(score: MetricSums, worst: Iterable[WorstInstance]) -> None:
    rows = []
    for each in worst:
        category = score.dataset.category_name(each.category_id)
        size, ious = f"{each.width:.4g}x{each.height:.4g}", _decimals(each.best_iou, each.grid_best_iou)
        rows.append([f"annotation {each.annotation_id}", each.file_name, category, size, *ious])
    show_table(("lowest IoU", "image", "category", "width x height", "best IoU", "on the grid"), rows)


def print_k_curve(instances: ResizedInstances, curve: KCurve) -> None:
    """Print the mean best IoU for each number of shapes, with the knee marked."""
    print_dataset(DatasetCounts.of(instances.dataset), instances.rule)
    marks = {curve.knee: " knee"}
    rows = [(str(k), f"{value:.3f}{marks.get(k, '')}") for k, value in curve.average_iou.items()]
    show_table(("k", "average IoU"), rows)
    _print_knee(curve)


def _print_knee(curve: KCurve) -> None:
    at_knee = curve.average_iou[curve.knee]
    show(f"more than k = {curve.knee} shapes add little to its average IoU of {at_knee:.3f}")


def _warn_if_grid_loses(scores: Sequence[MetricSums]) -> None:
    for score in scores:
        by_shape, on_grid, finest = score.recall(0.5), score.grid_recall(0.5), score.anchors.levels[0]
        if by_shape - on_grid > MAX_GRID_LOSS:
            note(
                f"warning: {score.anchors.name}: by shape {by_shape:.3f} of the boxes reach IoU .5, on the grid only "
                f"{on_grid:.3f}: its cells are too far apart for the others. A detector matches anchors on the grid: add a "
                f"finer level than {finest.name} (stride {finest.stride}), or enlarge the input."
            )


def print_level_report(report: LevelReport) -> None:
    """Print the use, cost and loss of each level, and the levels to keep."""
    print_dataset(report.sums.dataset, report.sums.resize)
    lost = [f"{len(without.lost):,}" for without in report.without_each] or ["-"]
    rows = []
    for level, without in zip(report.levels, lost, strict=True):
        shares = (f"{level.preferred:.1%}", f"{level.positives:.1%}")
        costs = (f"{level.cost.anchors:,.0f}", f"{level.cost.flops / 1e9:.1f}")
        rows.append([level.name, str(level.stride), str(level.num_shapes), *shares, *costs, without])
    show_table(("level", "stride", "shapes", "best for", "positives", "anchors", "GFLOPs", "lost without it"), rows)
    for line in report.advice:
        show(line)


def print_sweep(settings: Sequence[Setting]) -> None:
    """Print one row for each input size."""
    from detect.anchors.sweep import SMALL_PX

    rows = []
    for each in settings:
        covered = f"{each.grid_average_iou:.3f}", f"{each.grid_recall:.3f}", f"{len(each.missed):,}"
        shares = (f"{share:.1%}" for share in each.under_px)
        rows.append([each.resize, *covered, *shares, f"{each.num_anchors:,.0f}", f"{each.flops / 1e9:.1f}"])
    small = (f"under {size} px" for size in SMALL_PX)
    show_table(("resize", "IoU on the grid", "recall .5", "missed", *small, "anchors", "GFLOPs"), rows)
    show("GFLOPs: of RetinaNet's head, per image", style="dim")


def print_known(*, every: bool = False) -> None:
    """Print one row for each detector of the catalog that has anchors, or for every one."""
    from detect.anchors.anchor_set import level_name
    from detect.catalog.detectors import AnchorDetector, detectors

    rows = []
    for name, each in detectors().items():
        if not every and not isinstance(each, AnchorDetector):
            continue
        levels = ", ".join(map(level_name, each.strides))
        numbers = each.per_level if isinstance(each, AnchorDetector) else "no anchors"
        per_cell = ", ".join(map(str, numbers)) if isinstance(numbers, list) else str(numbers)
        rows.append((name, each.about, levels, per_cell, each.resize, each.rule))
    show_table(("name", "detector", "levels", "per cell", "resize", "matching"), rows, left=True)
