"""Tables of anchors and of how well they cover a dataset, for people."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console

from detect.anchors.metrics import AnchorMetrics
from detect.cli import output
from detect.fitting.fit import KCurve

if TYPE_CHECKING:
    from detect.anchors.assignment import Assignment
    from detect.anchors.levels import LevelReport  # which needs torch: seconds, for commands that do without
    from detect.anchors.stability import Generalisation, Stability
    from detect.anchors.sweep import Setting
    from detect.fitting.structured import StructuredFit

MOST_GROUPS = 20
NEGLECT = (
    "what has few is hardly learned in a short training: --max-strides 4 in the fit, or ATSS, shares them more evenly"
)
PARTED = 0.05  # recall lost between shape and grid that is worth a warning


def print_scores(scores: Sequence[AnchorMetrics], console: Console) -> None:
    """Sets of anchors side by side, then by size of object."""
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
        "by shape, sharing a centre; placed: where the grid puts them; ratio<4: YOLOv5's 'best possible recall', a test of "
        "ratios and not of IoU",
        style="dim",
    )


def print_bounds(score: AnchorMetrics, among: str, console: Console) -> None:
    """How close the fitted anchors are to the best there can be, where it was proved."""
    for name, proof in score.anchors.proofs.items():
        gap = f"within {proof.gap:.2%} of the best"
        console.print(f"{_words(name)} {proof.score:.4f}, at most {proof.upper_bound:.4f} possible {among}: {gap}")


def _words(score_name: str) -> str:
    return score_name.replace("_", " ").replace("iou", "IoU")


def print_layouts(layouts: Sequence[StructuredFit], console: Console) -> None:
    """What sizes by ratios reach, beside default anchors and free shapes, and what they cost against these."""
    table = output.table("layout", "score", "price", "sizes on each level", "ratios, h/w")
    one, free = layouts[0], layouts[0].free
    table.add_row(
        f"default x {one.default_factor:.3g}", f"{one.default_score:.4f}", f"{free.score - one.default_score:.4f}"
    )
    for each in layouts:
        sizes = " | ".join(" ".join(f"{size:.4g}" for size in sorted(level)) for level in each.sizes)
        ratios = " | ".join(dict.fromkeys(" ".join(f"{ratio:.3g}" for ratio in sorted(level)) for level in each.ratios))
        table.add_row(each.layout, f"{each.score:.4f}", f"{each.price:.4f}", sizes, ratios)
    table.add_row("free", f"{free.score:.4f}", "0")
    console.print(table)
    console.print("price: what the structure loses against as many free shapes on each level", style="dim")


def print_stability(stability: Stability, console: Console) -> None:
    """How far shapes and scores move with the choice of images."""
    table = output.table("stable to", "width", "from", "to", "height", "from", "to", "found again")
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
    failed = f"; {stability.failed} of them had too few distinct shapes" if stability.failed else ""
    console.print(f"of {stability.resamples} resamples of the images, 95 % lie between{failed}", style="dim")


def print_generalisation(generalisation: Generalisation, console: Console) -> None:
    """Scores on the images fitted to, and on others."""
    table = output.table("score", "train", "validation", "loss", "from", "to")
    for name, loss in generalisation.loss.items():
        sides = (generalisation.train[name].value, generalisation.validation[name].value)
        table.add_row(_words(name), *(f"{value:.3f}" for value in (*sides, loss.value, loss.low, loss.high)))
    console.print(table)
    names = ", ".join(_words(name) for name in generalisation.overfitted)
    verdict = f"over-fitted: {names} surely lower on the validation images" if names else "no over-fitting is seen"
    console.print(verdict)


def print_groups(score: AnchorMetrics, console: Console, *, most: int = MOST_GROUPS) -> None:
    """One set of anchors by size, ratio, category and level: by shape, then as placed."""
    kinds = (
        ("size", score.by_size),
        ("ratio", score.by_ratio),
        ("category", score.by_category),
    )
    for title, groups in kinds:
        rows = _largest([group.count for group in groups], most)
        table = output.table(f"by {title}", "boxes", "average IoU", "recall .5", ".7", ".9", "placed IoU", "placed .5")
        for row in rows:
            group = groups[row]
            numbers = [
                *_numbers(group.average_iou, group.recall),
                *_numbers(group.grid_average_iou, group.grid_recall)[:2],
            ]
            table.add_row(output.plain(group.name), f"{group.count:,}", *numbers)
        console.print(table)
        if len(rows) < len(groups):
            console.print(f"  the {most} categories with most boxes, of {len(groups)}", style="dim")
    table = output.table("best anchor on", "boxes", "placed IoU", "placed .5", ".7", ".9")
    for group in score.by_level:
        table.add_row(group.name, f"{group.count:,}", *_numbers(group.grid_average_iou, group.grid_recall))
    console.print(table)


def print_assignment(assignment: Assignment, console: Console, *, most: int = MOST_GROUPS) -> None:
    """Which anchors learn what: by level, then by size, ratio and category."""
    table = output.table("matching", "anchors", "positives", "by threshold", "ignored", "ambiguous")
    for level in assignment.by_level:
        numbers = (level.num_anchors, level.positives, level.by_threshold, level.ignored, level.ambiguous)
        table.add_row(level.name, *(f"{number:,}" for number in numbers))
    console.print(table)
    kinds = (("size", assignment.by_size), ("ratio", assignment.by_ratio), ("category", assignment.by_category))
    for title, groups in (("", (assignment.overall,)), *kinds):
        head = f"matched, by {title}" if title else "matched"
        table = output.table(head, "boxes", "positives a box", "low quality only", "none", "ambiguous lost")
        for row in _largest([group.count for group in groups], most):
            group = groups[row]
            positives = f"{group.positives:.2f}" if group.count else "-"
            counts = (group.low_quality_only, group.unassigned, group.ambiguous_lost)
            table.add_row(output.plain(group.name), f"{group.count:,}", positives, *(f"{each:,}" for each in counts))
        console.print(table)
    console.print(
        "low quality only: boxes whose positive anchors are all below the threshold; none: boxes without a positive anchor; "
        "ambiguous lost: anchors that are candidates for a box and learn another box",
        style="dim",
    )
    if assignment.neglected:
        console.print(f"{output.plain(assignment.neglect_in_words() or '')}; {NEGLECT}", style="yellow")


def _largest(counts: Sequence[int], most: int) -> list[int]:
    """All rows in their order; of more than so many, the largest first."""
    every = range(len(counts))
    return sorted(every, key=lambda row: -counts[row])[:most] if len(counts) > most else list(every)


def _numbers(average_iou: float, recall: Mapping[float, float]) -> list[str]:
    values = (average_iou, recall[0.5], recall[0.7], recall[0.9])
    return ["-" if math.isnan(value) else f"{value:.3f}" for value in values]


def print_levels(score: AnchorMetrics, console: Console) -> None:
    """The shapes of a set, level by level."""
    table = output.table("level", "stride", "shapes, width x height")
    for level in score.anchors.levels:
        table.add_row(level.name, str(level.stride), "  ".join(f"{w:.4g}x{h:.4g}" for w, h in level.shapes))
    console.print(table)


def print_worst(score: AnchorMetrics, count: int, console: Console) -> None:
    """The instances that a set covers worst."""
    annotations, images = score.instances.dataset.instances, score.instances.dataset.images
    table = output.table("worst covered", "image", "category", "width x height", "best IoU", "placed")
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
    """Average IoU for each number of shapes, its knee marked; and the BIC of mixtures, its least marked."""
    table = output.table("k", "average IoU", *(["BIC"] if curve.bic else []))
    least = min(curve.bic, key=curve.bic.__getitem__) if curve.bic else None
    for k, value in curve.average_iou.items():
        bic = [f"{curve.bic[k]:.0f}{' least' if k == least else ''}"] if curve.bic else []
        table.add_row(str(k), f"{value:.3f}{' knee' if k == curve.knee else ''}", *bic)
    console.print(table)


def print_knee(curve: KCurve, console: Console, *, whole: bool) -> None:
    """Where more shapes begin to buy little; or the whole curve."""
    if whole:
        print_k_curve(curve, console)
    else:
        at_knee = curve.average_iou[curve.knee]
        console.print(f"more shapes buy little beyond k = {curve.knee}, average IoU {at_knee:.3f} (--suggest-k)")


def warn_if_parted(score: AnchorMetrics) -> None:
    """Say so where the grid loses what the shapes promise."""
    by_shape, placed = score.recall(0.5), score.grid_recall(0.5)
    if by_shape - placed > PARTED:
        finest = score.anchors.levels[0]
        output.note(
            f"warning: {score.anchors.name}: by shape {by_shape:.3f} of the boxes reach IoU .5, but only {placed:.3f} where "
            f"the grid puts the anchors: its cells are too far apart for the others. A detector matches anchors where they "
            f"lie: add a finer level than {finest.name} (stride {finest.stride}), or enlarge the input."
        )


def print_preference(preference: LevelReport, console: Console) -> None:
    """What each level takes and costs, what is left without it, and what to keep, in words."""
    output.print_dataset(preference.score.instances.dataset, str(preference.score.instances.rule), console)
    table = output.table("level", "stride", "shapes", "best for", "positives", "anchors", "GFLOPs", "lost without it")
    lost = [f"{len(without.lost):,}" for without in preference.without_each] or ["-"]
    for level, without in zip(preference.levels, lost, strict=True):
        shares = (f"{level.preferred:.1%}", f"{level.positives:.1%}")
        costs = (f"{level.cost.anchors:,.0f}", f"{level.cost.flops / 1e9:.1f}")
        table.add_row(level.name, str(level.stride), str(level.num_shapes), *shares, *costs, without)
    console.print(table)
    for line in preference.advice:
        console.print(line, markup=False)


def print_sweep(settings: Sequence[Setting], console: Console) -> None:
    """A row for each input size."""
    from detect.anchors.sweep import SMALL_PX

    small = [f"under {size} px" for size in SMALL_PX]
    table = output.table("resize", "placed IoU", "placed .5", "missed", *small, "anchors", "GFLOPs")
    for each in settings:
        covered = f"{each.grid_average_iou:.3f}", f"{each.grid_recall:.3f}", f"{len(each.missed):,}"
        shares = (f"{share:.1%}" for share in each.under_px)
        table.add_row(each.resize, *covered, *shares, f"{each.num_anchors:,.0f}", f"{each.flops / 1e9:.1f}")
    console.print(table)
    console.print("placed: where the grid puts the anchors; operations of RetinaNet's head, for an image", style="dim")
