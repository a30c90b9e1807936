"""What commands print: tables and notes for people, objects for machines, progress on stderr."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

if TYPE_CHECKING:
    from detect.anchors.coverage import Coverage, Group
    from detect.anchors.fitting import KCurve
    from detect.coco import CocoDataset

BAR_AFTER_S = 1.0
SHOWN_FINDINGS = 5
PARTED = 0.05  # recall lost between shape and grid that is worth a warning


def print_json(content: Any) -> None:
    """One object on stdout; NaN, where there is nothing to average, is null."""
    print(json.dumps(_finite(content), allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and value != value else value  # noqa: PLR0124 - only NaN differs from itself


def note(text: str) -> None:
    """A line for people, on stderr."""
    Console(stderr=True, soft_wrap=True, highlight=False).print(text, markup=False)


@contextmanager
def reading_bar() -> Iterator[Any]:
    """A progress callback that shows a bar on stderr once a second has gone by."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    started = time.monotonic()
    tasks: list[TaskID] = []

    def progress(what: str, done: int, total: int) -> None:
        if not tasks and time.monotonic() - started < BAR_AFTER_S:
            return
        if not tasks:
            bar.start()
            tasks.append(bar.add_task(what))
        bar.update(tasks[0], description=what, completed=done, total=total)

    try:
        yield progress
    finally:
        if tasks:
            bar.stop()


def print_dataset(dataset: CocoDataset, resize: str, console: Console) -> None:
    """What was read, and what was wrong with it."""
    crowd = f", {len(dataset.crowd):,} crowd regions left out" if len(dataset.crowd) else ""
    console.print(
        f"{len(dataset.instances):,} boxes in {len(dataset.images):,} images, {len(dataset.categories):,} "
        f"categories{crowd}; resize {resize}",
        markup=False,
    )
    for kind, findings in (("refused", dataset.refused), ("odd but kept", dataset.odd)):
        if findings:
            console.print(f"{len(findings):,} {kind}:", style="yellow")
            for finding in findings[:SHOWN_FINDINGS]:
                console.print(f"  {finding}", markup=False)
            if len(findings) > SHOWN_FINDINGS:
                console.print(f"  and {len(findings) - SHOWN_FINDINGS:,} more: --findings lists them all")


def print_scores(scores: Sequence[Coverage], console: Console) -> None:
    """Sets of anchors side by side, then by size of object."""
    table = _table(
        "", "anchors", "average IoU", "recall .5", ".6", ".7", ".8", ".9", "placed IoU", "placed .5", "ratio<4"
    )
    for score in scores:
        recalls = (score.recall(t) for t in (0.5, 0.6, 0.7, 0.8, 0.9))
        placed = (score.placed_average_iou, score.placed_recall(0.5), score.ratio_recall)
        numbers = (score.average_iou, *recalls, *placed)
        table.add_row(
            _plain(score.anchors.name), str(score.anchors.num_anchors), *(f"{value:.3f}" for value in numbers)
        )
    console.print(table)
    console.print(
        "by shape, sharing a centre; placed: where the grid puts them; ratio<4: YOLOv5's 'best possible recall', a test of "
        "ratios and not of IoU",
        style="dim",
    )


def print_groups(score: Coverage, console: Console, *, most: int = 20) -> None:
    """One set of anchors by size, ratio and category."""
    for title, groups in (("size", score.by_size), ("ratio", score.by_ratio), ("category", score.by_category)):
        kept = sorted(groups, key=lambda group: -group.count)[:most] if len(groups) > most else groups
        table = _table(f"by {title}", "boxes", "average IoU", "recall .5", ".7", ".9")
        for group in kept:
            table.add_row(_plain(group.name), f"{group.count:,}", *_group_numbers(group))
        console.print(table)
        if len(kept) < len(groups):
            console.print(f"  the {most} categories with most boxes, of {len(groups)}", style="dim")


def _group_numbers(group: Group) -> list[str]:
    if not group.count:
        return ["-"] * 4
    return [f"{value:.3f}" for value in (group.average_iou, group.recall[0.5], group.recall[0.7], group.recall[0.9])]


def print_levels(score: Coverage, console: Console) -> None:
    """The shapes of a set, level by level."""
    table = _table("level", "stride", "shapes, width x height")
    for level in score.anchors.levels:
        table.add_row(level.name, str(level.stride), "  ".join(f"{w:.4g}x{h:.4g}" for w, h in level.shapes))
    console.print(table)


def print_worst(score: Coverage, count: int, console: Console) -> None:
    """The instances that a set covers worst."""
    annotations, images = score.instances.dataset.instances, score.instances.dataset.images
    table = _table("worst covered", "image", "category", "width x height", "best IoU", "placed")
    for row in score.worst(count):
        width, height = score.instances.shapes[row]
        table.add_row(
            f"annotation {annotations.ids[row]}",
            _plain(images.file_names[annotations.image_rows[row]]),
            _plain(score.instances.dataset.category_name(int(annotations.category_ids[row]))),
            f"{width:.4g}x{height:.4g}",
            f"{score.best_iou[row]:.3f}",
            f"{score.placed_best_iou[row]:.3f}",
        )
    console.print(table)


def print_k_curve(curve: KCurve, console: Console) -> None:
    """Average IoU for each number of shapes, its knee marked; and the BIC of mixtures, its least marked."""
    table = _table("k", "average IoU", *(["BIC"] if curve.bic else []))
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
        note(
            f"warning: {score.anchors.name}: by shape {by_shape:.3f} of the boxes reach IoU .5, but only {placed:.3f} where "
            f"the grid puts the anchors: its cells are too far apart for the small ones. Placed coverage is what average "
            f"precision follows; add a finer level than {finest.name} (stride {finest.stride}), or enlarge the input."
        )


def _table(*headers: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column(headers[0], no_wrap=len(headers) > 3)
    for header in headers[1:]:
        table.add_column(header, justify="left" if header in ("image", "category") or "shapes" in header else "right")
    return table


def _plain(text: str) -> str:
    return text.replace("[", "\\[")  # names come from files: no markup of theirs
