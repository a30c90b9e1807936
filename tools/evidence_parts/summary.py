"""The questions of the evidence, and one table with the answer of each dataset."""

from __future__ import annotations

from collections.abc import Sequence

from evidence_parts.gathered import Gathered
from evidence_parts.plan import BLOBS, FREE, HEATMAP, OTSU_BOXES, OTSU_POINTS, REFERENCE, SLOTS, SORTED_SLOTS
from evidence_parts.wording import NOTHING, signed, table, verdict

QUESTIONS = {  # question: (variant, variant that is subtracted)
    "fitted anchors, instead of RetinaNet's own": (REFERENCE, "default"),
    "levels dropped as advised, instead of all five": ("dropped", "wide"),
    "sizes by ratios, as many, instead of free shapes": ("structured-3", REFERENCE),
    "nine a cell in sizes by ratios, instead of three": ("structured-9", REFERENCE),
    "one anchor a cell, instead of three": ("single", REFERENCE),
    "free predictors instead of anchors": (FREE, REFERENCE),
    "each level for instances of at most four of its strides, instead of any size": ("by-size", REFERENCE),
    "sizes of 2 to 3.2 strides by three ratios, instead of fitted anchors": ("stride-rule", REFERENCE),
    "k-means shapes, each on the level of its size, instead of fitted anchors": ("kmeans", REFERENCE),
    "k-means shapes, assigned by rank of area, instead of fitted anchors": ("kmeans-ranked", REFERENCE),
    "learning, instead of blur, Otsu and components": (REFERENCE, OTSU_BOXES),
}
POINT_QUESTIONS = {
    "heatmaps, instead of fixed slots": (HEATMAP, SLOTS),
    "heatmaps, instead of fixed slots sorted from left to right": (HEATMAP, SORTED_SLOTS),
    "heatmaps, instead of blur, Otsu and components": (HEATMAP, OTSU_POINTS),
    "heatmaps, instead of a Laplacian of Gaussian": (HEATMAP, BLOBS),
}


def summary_section(of_datasets: Sequence[Gathered]) -> str:
    """A row for each question, a column for each dataset and number of epochs; empty without runs."""
    columns = [(gathered, epochs) for gathered in of_datasets for epochs in gathered.budgets]
    rows = [
        [words, *(_answer(gathered, epochs, pair) for gathered, epochs in columns)] for words, pair in QUESTIONS.items()
    ]
    kept = [number for number, _ in enumerate(columns, 1) if any(row[number] != NOTHING for row in rows)]
    parts = ["## In short\n\nDifferences of AP, with their intervals:\n"]
    if not kept:
        return ""
    headers = ["", *(f"{columns[at - 1][0].dataset.name}, {columns[at - 1][1]} epochs" for at in kept)]
    parts.append(table(headers, ([row[0], *(row[at] for at in kept)] for row in rows)))
    points = [line for gathered in of_datasets for line in _point_lines(gathered)]
    if points:
        parts.append("\nLandmarks, differences of F1 within 5 pixels and of the mean error of the count:\n")
        parts += points
    return "\n".join(parts) + "\n"


def _answer(gathered: Gathered, epochs: int, pair: tuple[str, str]) -> str:
    """The difference of the pair, and its verdict."""
    group, other = (gathered.group(name, 0 if name == OTSU_BOXES else epochs) for name in pair)
    gap = gathered.difference(group, other, "ap") if group and other else None
    return f"{signed(gap)}, {verdict(gap)}" if gap else NOTHING


def _point_lines(gathered: Gathered) -> list[str]:
    own = {variant: group for (variant, _), group in gathered.groups.items()}
    lines = []
    for words, (name, other) in POINT_QUESTIONS.items():
        if name in own and other in own:
            f1, count = (gathered.difference(own[name], own[other], metric) for metric in ("f1_5px", "count_mae"))
            answer = f"{signed(f1)}, {verdict(f1)}; {signed(count)}, {verdict(count, more_is_better=False)}"
            lines.append(f"- {words} ({gathered.dataset.name}): {answer}")
    return lines
