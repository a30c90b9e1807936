"""The questions of the evidence, and one table with the answer of each dataset."""

from __future__ import annotations

from collections.abc import Sequence

from evidence_parts.gathered import Gathered
from evidence_parts.plan import (
    BALANCED,
    BANDED,
    BLOBS,
    BOXES,
    FREE,
    HEATMAP,
    OTSU_BOXES,
    OTSU_POINTS,
    REFERENCE,
    SLOTS,
    SORTED_SLOTS,
    weighed,
)
from evidence_parts.wording import NOTHING, signed, table, verdict

QUESTIONS = {  # question: (variant, variant that is subtracted)
    "fitted anchors, instead of RetinaNet's own": (REFERENCE, "default"),
    "fitted anchors, instead of sizes of 2 to 3.2 strides by three ratios, nine a cell": (REFERENCE, "stride-rule"),
    "fitted anchors, instead of nine k-means shapes on the levels of their sizes": (REFERENCE, "kmeans"),
    "three anchors a cell, instead of one": (REFERENCE, "single"),
    "each level for instances of at most four of its strides, instead of any size": ("by-size", REFERENCE),
    "ATSS, instead of maximum IoU": ("atss", REFERENCE),
    "task-aligned assignment, instead of maximum IoU": ("aligned", REFERENCE),
    "a point in each cell by task-aligned assignment, instead of anchors": ("points-aligned", REFERENCE),
    "a point in each cell by SimOTA, instead of anchors": ("points-simota", REFERENCE),
    "free predictors by predicted IoU, instead of anchors": (FREE, REFERENCE),
    "learning, instead of blur, Otsu and components": (REFERENCE, OTSU_BOXES),
}
POINT_QUESTIONS = {
    "heatmaps, instead of fixed slots": (HEATMAP, SLOTS),
    "heatmaps, instead of fixed slots sorted from left to right": (HEATMAP, SORTED_SLOTS),
    "heatmaps, instead of blur, Otsu and components": (HEATMAP, OTSU_POINTS),
    "heatmaps, instead of a Laplacian of Gaussian": (HEATMAP, BLOBS),
}


def summary_section(of_datasets: Sequence[Gathered]) -> str:
    """A row for each question, a column for each dataset, number of epochs and kind of weights; empty without runs."""
    columns = [
        (gathered, epochs, suffix)
        for gathered in of_datasets
        for epochs in gathered.budgets
        for suffix in ("", BALANCED)
        if not suffix or gathered.group(REFERENCE + suffix, epochs)
    ]
    rows = [[words, *(_answer(*column, pair) for column in columns)] for words, pair in QUESTIONS.items()]
    kept = [number for number, _ in enumerate(columns, 1) if any(row[number] != NOTHING for row in rows)]
    parts = ["## In short\n\nDifferences of AP, with their intervals:\n"]
    if not kept:
        return ""
    headers = ["", *(_title(*columns[at - 1]) for at in kept)]
    parts.append(table(headers, ([row[0], *(row[at] for at in kept)] for row in rows)))
    lines = [
        line for gathered in of_datasets for epochs in gathered.budgets for line in _weight_lines(gathered, epochs)
    ]
    parts += ["\nWeights of positives, differences of AP:\n", *lines] if lines else []
    points = [line for gathered in of_datasets for line in _point_lines(gathered)]
    if points:
        parts.append("\nLandmarks, differences of F1 within 5 pixels and of the mean error of the count:\n")
        parts += points
    return "\n".join(parts) + "\n"


def _title(gathered: Gathered, epochs: int, suffix: str) -> str:
    return f"{gathered.dataset.name}, {epochs} epochs{', weighed' if suffix else ''}"


def _answer(gathered: Gathered, epochs: int, suffix: str, pair: tuple[str, str]) -> str:
    """The difference of the pair, and its verdict."""
    group, other = (gathered.group(name + suffix, epochs) or gathered.group(name, 0) for name in pair)
    gap = gathered.difference(group, other, "ap") if group and other else None
    return f"{signed(gap)}, {verdict(gap)}" if gap else NOTHING


def _weight_lines(gathered: Gathered, epochs: int) -> list[str]:
    """What weights change for each variant."""
    lines = []
    for group in gathered.of_task(BOXES, epochs):
        other = gathered.group(group.variant + BALANCED, epochs)
        gap = gathered.difference(other, group, "ap") if other else None
        if gap:
            where = f"({gathered.dataset.name}, {epochs} epochs)"
            lines.append(f"- {group.variant}, by category instead of equally {where}: {signed(gap)}, {verdict(gap)}")
    banded = gathered.group(REFERENCE + BANDED, epochs)
    other = gathered.group(REFERENCE + BALANCED, epochs) or gathered.group(REFERENCE, epochs)
    gap = gathered.difference(banded, other, "ap") if banded and other else None
    if gap and other:
        instead = "by category" if weighed(other.variant) else "equally"
        lines.append(
            f"- {REFERENCE}, by thirds of each category's areas instead of {instead} "
            f"({gathered.dataset.name}, {epochs} epochs): {signed(gap)}, {verdict(gap)}"
        )
    return lines


def _point_lines(gathered: Gathered) -> list[str]:
    own = {variant: group for (variant, _), group in gathered.groups.items()}
    lines = []
    for words, (name, other) in POINT_QUESTIONS.items():
        if name in own and other in own:
            f1, count = (gathered.difference(own[name], own[other], metric) for metric in ("f1_5px", "count_mae"))
            answer = f"{signed(f1)}, {verdict(f1)}; {signed(count)}, {verdict(count, more_is_better=False)}"
            lines.append(f"- {words} ({gathered.dataset.name}): {answer}")
    return lines
