"""How well numbers of the anchors, known before training, order the AP of detectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from detect.anchors.assignment import Assignment
from evidence_parts.drawing import Series, draw
from evidence_parts.gathered import Gathered, Group
from evidence_parts.plan import BOXES, weighed
from evidence_parts.resampling import CONFIDENCE, Interval, rank_correlation
from evidence_parts.wording import number, signed, table

FEWEST = 4
PLACED, EVEN_COVERAGE = "average IoU on the grid", "S"
PREDICTORS = {  # what each number is, beside those of the table of anchors
    PLACED: "",
    "recall at .5 on the grid": "",
    "average IoU by shape": "",
    "positives per instance": "",
    "share": "the fewest positives per instance of a category, divided by the most",
    "evenness": "the mean over categories of the mean over instances of min(1, positives / half the mean positives of all)",
    EVEN_COVERAGE: f"evenness times {PLACED}, the even coverage that `detect anchors score --assigner` prints",
}


def predictors_of(group: Group, assignment: Assignment) -> dict[str, float]:
    """The value of each of ``PREDICTORS`` for the anchors of a variant."""
    placed = group.mean("grid_average_iou") or 0.0
    positives = [each.positives for each in assignment.by_category]
    values = (
        placed,
        group.mean("grid_recall") or 0.0,
        group.mean("average_iou") or 0.0,
        assignment.overall.positives,
        min(positives) / max(*positives, 1e-9),
        assignment.evenness,
        placed * assignment.evenness,
    )
    return dict(zip(PREDICTORS, values, strict=True))


def correlation_section(
    gathered: Gathered, epochs: int, files: dict[str, str], assignments: Mapping[str, Assignment]
) -> str:
    """Rank correlations of AP with each of ``PREDICTORS``, without weights of positives and with them."""
    groups = [
        group
        for group in gathered.of_task(BOXES, epochs)
        if group.epochs and group.variant in assignments and group.mean("grid_average_iou") is not None
    ]
    name = gathered.dataset.name
    parts = {
        "as they are": [group for group in groups if not weighed(group.variant)],
        "weighed": [group for group in groups if weighed(group.variant)],
    }
    kept = {words: own for words, own in parts.items() if len(own) >= FEWEST}
    if not kept:
        return f"### Which number predicts AP, {name}\n\nToo few configurations have been run: {len(groups)}.\n"
    values = {group.variant: predictors_of(group, assignments[group.variant]) for group in groups}
    rows = [
        [
            column,
            *(_with_interval(gathered, own, [values[group.variant][column] for group in own]) for own in kept.values()),
        ]
        for column in PREDICTORS
    ]
    heads = [f"positives {words} ({number(len(own), 0)} configurations)" for words, own in kept.items()]
    file = f"evidence/{name}-even-coverage.svg"
    series = [_series(gathered, group, values[group.variant][EVEN_COVERAGE]) for group in groups]
    files[file] = draw(series, x_title="S: evenness times average IoU on the grid", y_title="AP")
    meanings = "; ".join(f"{column} is {words}" for column, words in PREDICTORS.items() if words)
    return (
        f"### Which number predicts AP, {name}\n\nSpearman's rank correlation with AP, and its interval over resamples of "
        "images and seeds; only variants whose anchors are matched by overlap. The configurations were chosen, not drawn "
        f"at random: others may give another order. {meanings[0].upper()}{meanings[1:]}.\n\n"
        f"{table(['', *heads], rows)}\n\n![AP over S; hollow: positives weighed by category]({file})\n"
    )


def _series(gathered: Gathered, group: Group, value: float) -> Series:
    interval = gathered.interval(group, "ap")
    spread = [(interval.low, interval.high)] if interval else []
    return Series(group.variant, [(value, group.mean("ap") or 0.0)], spread, hollow=weighed(group.variant))


def _with_interval(gathered: Gathered, groups: Sequence[Group], values: Sequence[float]) -> str:
    """The correlation of AP with these values, and its interval."""
    rho = rank_correlation(zip(values, (group.mean("ap") or 0.0 for group in groups), strict=True))
    if rho is None:
        return "not defined"
    if not all(group.scores["ap"] for group in groups):
        return f"{rho:+.2f}"
    moved = np.stack([gathered.draws.mean_over_seeds(group.scores["ap"]) for group in groups])
    resampled = [rank_correlation(zip(values, resample, strict=True)) for resample in moved.T.tolist()]
    known = [each for each in resampled if each is not None]
    low, high = np.quantile(known, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]).tolist() if known else (rho, rho)
    return signed(Interval(rho, low, high))
