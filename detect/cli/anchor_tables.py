"""Printed tables of anchors and their metrics on a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console

from detect.anchors.metrics import AnchorMetrics, GroupMetrics
from detect.cli import output
from detect.fitting.fit import KCurve

if TYPE_CHECKING:
    from detect.anchors.assignment import Assignment
    from detect.anchors.levels import LevelReport  # which needs torch: seconds, for commands that do without
    from detect.anchors.stability import Generalisation, Stability
    from detect.anchors.sweep import Setting
    from detect.fitting.structured import StructuredFit

MAX_GROUPS = 20  # rows of a table by category
FEW_POSITIVES = (
    "categories with few are hardly learned in a short training: fit with --max-strides 4, or use ATSS, for more equal "
    "numbers"
)
MAX_GRID_LOSS = 0.05  # recall by shape minus recall on the grid, above which a warning is printed


def print_scores(scores: Sequence[AnchorMetrics], console: Console) -> None:
    """Sets of anchors side by side."""
    table = output.table(
        "", "anchors", "average IoU", "recall .5", ".6", ".7", ".8", ".9", "placed IoU", "placed .5", "ratio<4"
    )
    for score in scores:
        recalls = (score.recall(t) for t in (0.5, 0.6, 0.7, 0.8, 0.9))
        placed = (score.grid_average_iou, score.grid_recall(0.5), score.ratio_recall)
        numbers = (score.average_iou, *recalls, *placed)
        table.add_row(
            output.plain(score.anchors.name), str(score.anchors.num_anchors), *(f"{value:.3f}" for value in numbers)
        )
    console.print(table)
    console.print(
        "by shape: box and anchor share a centre; placed: anchors on the grid; ratio<4: YOLOv5's 'best possible recall', "
        "which tests ratios and not IoU",
        style="dim",
    )


def print_bounds(score: AnchorMetrics, among: str, console: Console) -> None:
    """The gap between the fitted anchors and the best possible ones, if it was proved."""
    for name, proof in score.anchors.proofs.items():
        gap = f"within {proof.gap:.2%} of the best"
        console.print(f"{_words(name)} {proof.score:.4f}, at most {proof.upper_bound:.4f} possible {among}: {gap}")


def _words(score_name: str) -> str:
    return score_name.replace("_", " ").replace("iou", "IoU")


def print_layouts(layouts: Sequence[StructuredFit], console: Console) -> None:
    """Scores of layouts beside default anchors and free shapes, and what each loses against free shapes."""
    table = output.table("layout", "score", "penalty", "sizes on each level", "ratios, h/w")
    one, free = layouts[0], layouts[0].free
    table.add_row(
        f"default x {one.default_factor:.3g}", f"{one.default_score:.4f}", f"{free.score - one.default_score:.4f}"
    )
    for each in layouts:
        sizes = " | ".join(" ".join(f"{size:.4g}" for size in sorted(level)) for level in each.sizes)
        ratios = " | ".join(dict.fromkeys(" ".join(f"{ratio:.3g}" for ratio in sorted(level)) for level in each.ratios))
        table.add_row(each.layout, f"{each.score:.4f}", f"{each.penalty:.4f}", sizes, ratios)
    table.add_row("free", f"{free.score:.4f}", "0")
    console.print(table)
    console.print("price: score lost against the same number of free shapes on each level", style="dim")


def print_stability(stability: Stability | None, generalisation: Generalisation | None, console: Console) -> None:
    """Bootstrap intervals of shapes and scores, then scores on the fitted images and on others."""
    if stability:
        _print_intervals(stability, console)
    if generalisation:
        _print_generalisation(generalisation, console)


def _print_intervals(stability: Stability, console: Console) -> None:
    table = output.table("refitted", "width", "from", "to", "height", "from", "to", "found again")
    for number, shape in enumerate(stability.shapes, start=1):
        sides = (f"{value:.4g}" for side in (shape.width, shape.height) for value in (side.value, side.low, side.high))
        table.add_row(f"shape {number}", *sides, f"{shape.found:.0%}")
    console.print(table)
    table = output.table("score", "value", "from", "to", "on images left out", "from", "to")
    for name, interval in stability.scores.items():
        other = stability.out_of_bag[name]
        numbers = (interval.value, interval.low, interval.high, other.value, other.low, other.high)
        table.add_row(_words(name), *(f"{value:.3f}" for value in numbers))
    console.print(table)
    failed = f"; {stability.failed} had too few distinct shapes" if stability.failed else ""
    console.print(f"95 % intervals over {stability.resamples} resamples of the images{failed}", style="dim")


def _print_generalisation(generalisation: Generalisation, console: Console) -> None:
    table = output.table("score", "train", "validation", "loss", "from", "to")
    for name, loss in generalisation.loss.items():
        sides = (generalisation.train[name].value, generalisation.validation[name].value)
        table.add_row(_words(name), *(f"{value:.3f}" for value in (*sides, loss.value, loss.low, loss.high)))
    console.print(table)
    names = ", ".join(_words(name) for name in generalisation.overfitted)
    console.print(f"overfitted: {names} lower on the validation images" if names else "no overfitting found")


def print_groups(score: AnchorMetrics, console: Console) -> None:
    """The metrics of one set of anchors by size, ratio, category and level."""
    kinds = (
        ("by size", score.by_size),
        ("by ratio", score.by_ratio),
        ("by category", score.by_category),
        ("best anchor on", score.by_level),
    )
    for title, groups in kinds:
        rows = _largest([group.count for group in groups])
        table = output.table(title, "boxes", "average IoU", "recall .5", ".7", ".9", "on the grid", "recall .5")
        for row in rows:
            table.add_row(output.plain(groups[row].name), f"{groups[row].count:,}", *_group_numbers(groups[row]))
        console.print(table)
        if len(rows) < len(groups):
            console.print(f"  the {MAX_GROUPS} largest of {len(groups)} categories", style="dim")


def print_assignment(assignment: Assignment, console: Console) -> None:
    """Positive anchors by level, then by size, ratio and category of their boxes."""
    table = output.table("matching", "anchors", "positives", "by threshold", "ignored", "ambiguous")
    for level in assignment.by_level:
        numbers = (level.num_anchors, level.positives, level.by_threshold, level.ignored, level.ambiguous)
        table.add_row(level.name, *(f"{number:,}" for number in numbers))
    console.print(table)
    kinds = (("size", assignment.by_size), ("ratio", assignment.by_ratio), ("category", assignment.by_category))
    for title, groups in (("", (assignment.overall,)), *kinds):
        head = f"matched, by {title}" if title else "matched"
        table = output.table(head, "boxes", "positives per box", "low quality only", "none", "ambiguous")
        for row in _largest([group.count for group in groups]):
            group = groups[row]
            positives = f"{group.positives:.2f}" if group.count else "-"
            counts = (group.low_quality_only, group.unassigned, group.ambiguous_lost)
            table.add_row(output.plain(group.name), f"{group.count:,}", positives, *(f"{each:,}" for each in counts))
        console.print(table)
    console.print(
        "low quality only: all anchors of the box are below the threshold; none: no anchor learns the box; ambiguous: "
        "anchors above the threshold for several boxes, which learn only one of them",
        style="dim",
    )
    if assignment.neglected:
        console.print(f"{output.plain(assignment.neglect_in_words() or '')}; {FEW_POSITIVES}", style="yellow")


def _largest(counts: Sequence[int]) -> list[int]:
    """All rows in their order; if there are more than ``MAX_GROUPS``, the largest ones by falling count."""
    rows = range(len(counts))
    return sorted(rows, key=lambda row: -counts[row])[:MAX_GROUPS] if len(counts) > MAX_GROUPS else list(rows)


def _group_numbers(group: GroupMetrics) -> list[str]:
    if not group.count:
        return ["-"] * 6
    by_shape = (group.average_iou, group.recall[0.5], group.recall[0.7], group.recall[0.9])
    return [f"{value:.3f}" for value in (*by_shape, group.grid_average_iou, group.grid_recall[0.5])]


def print_levels(score: AnchorMetrics, console: Console) -> None:
    """The shapes on each level."""
    table = output.table("level", "stride", "shapes, width x height")
    for level in score.anchors.levels:
        table.add_row(level.name, str(level.stride), "  ".join(f"{w:.4g}x{h:.4g}" for w, h in level.shapes))
    console.print(table)


def print_worst(score: AnchorMetrics, count: int, console: Console) -> None:
    """The instances of lowest best IoU by shape."""
    annotations, images = score.instances.dataset.instances, score.instances.dataset.images
    table = output.table("lowest IoU", "image", "category", "width x height", "best IoU", "placed")
    for row in score.worst(count):
        width, height = score.instances.shapes[row]
        table.add_row(
            f"annotation {annotations.ids[row]}",
            output.plain(images.file_names[annotations.image_rows[row]]),
            output.plain(score.instances.dataset.category_name(int(annotations.category_ids[row]))),
            f"{width:.4g}x{height:.4g}",
            f"{score.best_iou[row]:.3f}",
            f"{score.grid_best_iou[row]:.3f}",
        )
    console.print(table)


def print_k_curve(curve: KCurve, console: Console) -> None:
    """The mean best IoU for each number of shapes, with the knee marked."""
    table = output.table("k", "average IoU")
    for k, value in curve.average_iou.items():
        table.add_row(str(k), f"{value:.3f}{' knee' if k == curve.knee else ''}")
    console.print(table)
    print_knee(curve, console)


def print_knee(curve: KCurve, console: Console) -> None:
    """The number of shapes after which more add little."""
    at_knee = curve.average_iou[curve.knee]
    console.print(f"more than k = {curve.knee} shapes add little to its average IoU of {at_knee:.3f}")


def warn_if_grid_loses(score: AnchorMetrics) -> None:
    """Warn if recall on the grid is far below recall by shape."""
    by_shape, placed = score.recall(0.5), score.grid_recall(0.5)
    if by_shape - placed > MAX_GRID_LOSS:
        finest = score.anchors.levels[0]
        output.note(
            f"warning: {score.anchors.name}: by shape {by_shape:.3f} of the boxes reach IoU .5, on the grid only "
            f"{placed:.3f}: its cells are too far apart for the others. A detector matches anchors on the grid: add a "
            f"finer level than {finest.name} (stride {finest.stride}), or enlarge the input."
        )


def print_level_report(report: LevelReport, console: Console) -> None:
    """The use, cost and loss of each level, and the levels to keep."""
    output.print_dataset(report.score.instances.dataset, str(report.score.instances.rule), console)
    table = output.table("level", "stride", "shapes", "best for", "positives", "anchors", "GFLOPs", "lost without it")
    lost = [f"{len(without.lost):,}" for without in report.without_each] or ["-"]
    for level, without in zip(report.levels, lost, strict=True):
        shares = (f"{level.preferred:.1%}", f"{level.positives:.1%}")
        costs = (f"{level.cost.anchors:,.0f}", f"{level.cost.flops / 1e9:.1f}")
        table.add_row(level.name, str(level.stride), str(level.num_shapes), *shares, *costs, without)
    console.print(table)
    for line in report.advice:
        console.print(line, markup=False)


def print_sweep(settings: Sequence[Setting], console: Console) -> None:
    """One row for each input size."""
    from detect.anchors.sweep import SMALL_PX

    small = [f"under {size} px" for size in SMALL_PX]
    table = output.table("resize", "placed IoU", "placed .5", "missed", *small, "anchors", "GFLOPs")
    for each in settings:
        covered = f"{each.grid_average_iou:.3f}", f"{each.grid_recall:.3f}", f"{len(each.missed):,}"
        shares = (f"{share:.1%}" for share in each.under_px)
        table.add_row(each.resize, *covered, *shares, f"{each.num_anchors:,.0f}", f"{each.flops / 1e9:.1f}")
    console.print(table)
    console.print("placed: anchors on the grid; GFLOPs: of RetinaNet's head, per image", style="dim")
