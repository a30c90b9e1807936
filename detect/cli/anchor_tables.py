"""Tables of anchors and of how well they cover a dataset, for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console

from detect.anchors.coverage import Coverage, Group
from detect.anchors.fitting import UPPER_BOUND, KCurve
from detect.cli import output

if TYPE_CHECKING:
    from detect.anchors.levels import LevelPreference  # which needs torch: seconds, for commands that do without
    from detect.anchors.sweep import Setting

PARTED = 0.05  # recall lost between shape and grid that is worth a warning


def print_scores(scores: Sequence[Coverage], console: Console) -> None:
    """Sets of anchors side by side, then by size of object."""
    table = output.table(
        "", "anchors", "average IoU", "recall .5", ".6", ".7", ".8", ".9", "placed IoU", "placed .5", "ratio<4"
    )
    for score in scores:
        recalls = (score.recall(t) for t in (0.5, 0.6, 0.7, 0.8, 0.9))
        placed = (score.placed_average_iou, score.placed_recall(0.5), score.ratio_recall)
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


def print_bound(score: Coverage, console: Console) -> None:
    """How close the fitted shapes are to the best there can be, where it was proved."""
    bound = score.anchors.scores.get(UPPER_BOUND)
    if bound is not None:
        console.print(
            f"average IoU {score.average_iou:.4f}, at most {bound:.4f} possible for k = {score.anchors.num_anchors}: within "
            f"{bound / score.average_iou - 1:.2%} of the best"
        )


def print_groups(score: Coverage, console: Console, *, most: int = 20) -> None:
    """One set of anchors by size, ratio and category."""
    for title, groups in (("size", score.by_size), ("ratio", score.by_ratio), ("category", score.by_category)):
        kept = sorted(groups, key=lambda group: -group.count)[:most] if len(groups) > most else groups
        table = output.table(f"by {title}", "boxes", "average IoU", "recall .5", ".7", ".9")
        for group in kept:
            table.add_row(output.plain(group.name), f"{group.count:,}", *_group_numbers(group))
        console.print(table)
        if len(kept) < len(groups):
            console.print(f"  the {most} categories with most boxes, of {len(groups)}", style="dim")


def _group_numbers(group: Group) -> list[str]:
    if not group.count:
        return ["-"] * 4
    return [f"{value:.3f}" for value in (group.average_iou, group.recall[0.5], group.recall[0.7], group.recall[0.9])]


def print_levels(score: Coverage, console: Console) -> None:
    """The shapes of a set, level by level."""
    table = output.table("level", "stride", "shapes, width x height")
    for level in score.anchors.levels:
        table.add_row(level.name, str(level.stride), "  ".join(f"{w:.4g}x{h:.4g}" for w, h in level.shapes))
    console.print(table)


def print_worst(score: Coverage, count: int, console: Console) -> None:
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
            f"{score.placed_best_iou[row]:.3f}",
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


def warn_if_parted(score: Coverage) -> None:
    """Say so where the grid loses what the shapes promise."""
    by_shape, placed = score.recall(0.5), score.placed_recall(0.5)
    if by_shape - placed > PARTED:
        finest = score.anchors.levels[0]
        output.note(
            f"warning: {score.anchors.name}: by shape {by_shape:.3f} of the boxes reach IoU .5, but only {placed:.3f} where "
            f"the grid puts the anchors: its cells are too far apart for the small ones. Placed coverage is what average "
            f"precision follows; add a finer level than {finest.name} (stride {finest.stride}), or enlarge the input."
        )


def print_preference(preference: LevelPreference, console: Console) -> None:
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
    table = output.table("resize", "placed IoU", "placed .5", "uncovered", *small, "anchors", "GFLOPs")
    for each in settings:
        coverage = f"{each.placed_average_iou:.3f}", f"{each.placed_recall:.3f}", f"{len(each.uncovered):,}"
        shares = (f"{share:.1%}" for share in each.under_px)
        table.add_row(each.resize, *coverage, *shares, f"{each.num_anchors:,.0f}", f"{each.flops / 1e9:.1f}")
    console.print(table)
    console.print("placed: where the grid puts the anchors; operations of RetinaNet's head, for an image", style="dim")
