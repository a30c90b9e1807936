"""How well numbers of the anchors, known before training, predict the AP of the detector."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from evidence_parts.drawing import Series, draw
from evidence_parts.gathered import Gathered, Group
from evidence_parts.plan import BOXES, FREE
from evidence_parts.resampling import CONFIDENCE, Interval, rank_correlation
from evidence_parts.wording import number, signed

PREDICTORS = {"grid_recall": "recall at .5 on the grid", "average_iou": "average IoU by shape"}
FEWEST = 3


def correlation_section(gathered: Gathered, epochs: int, files: dict[str, str]) -> str:
    """AP over each of ``PREDICTORS``, and the rank correlations."""
    groups = [group for group in gathered.of_task(BOXES, epochs) if group.epochs and _known(group)]
    matched = [group for group in groups if group.variant != FREE]  # the variants whose anchors are matched by IoU
    name, title = gathered.dataset.name, f"### Which number predicts AP, {gathered.dataset.name}\n"
    if not groups:
        return ""
    parts = [title]
    if len(matched) < FEWEST:
        parts.append(f"Too few configurations have been run: {len(matched)}.\n")
    for column, words in PREDICTORS.items():
        file = f"evidence/{name}-{column.replace('_', '-')}.svg"
        files[file] = draw([_series(gathered, group, column) for group in groups], x_title=words, y_title="AP")
        rho = _correlation(matched, column)
        correlation = "not defined yet" if rho is None else f"{rho:+.2f} over {len(matched)} configurations"
        aside = (
            f" ({FREE}, hollow, is left out: its priors are not matched by overlap)"
            if len(matched) < len(groups)
            else ""
        )
        parts.append(
            f"![AP over {words}]({file})\n\nAP over {words}: Spearman's rank correlation {correlation}{aside}.\n"
        )
    parts.append(_compared(gathered, matched))
    return "\n".join(parts)


def _known(group: Group) -> bool:
    return all(group.mean(column) is not None for column in ("ap", *PREDICTORS))


def _series(gathered: Gathered, group: Group, column: str) -> Series:
    interval = gathered.interval(group, "ap")
    point = (group.mean(column) or 0.0, group.mean("ap") or 0.0)
    spread = [(interval.low, interval.high)] if interval else []
    return Series(group.variant, [point], spread, hollow=group.variant == FREE)


def _correlation(groups: Sequence[Group], column: str) -> float | None:
    return rank_correlation((group.mean(column) or 0.0, group.mean("ap") or 0.0) for group in groups)


def _compared(gathered: Gathered, groups: Sequence[Group]) -> str:
    """The difference of the two correlations, and its interval over resamples of images and seeds."""
    first, second = (_correlation(groups, column) for column in PREDICTORS)
    scored = all(group.scores["ap"] for group in groups)
    if first is None or second is None or not scored:
        return ""
    moved = np.stack([gathered.draws.mean_over_seeds(group.scores["ap"]) for group in groups])
    differences = []
    for resample in moved.T.tolist():
        pair = [rank_correlation(zip((g.mean(c) or 0.0 for g in groups), resample, strict=True)) for c in PREDICTORS]
        if pair[0] is not None and pair[1] is not None:
            differences.append(pair[0] - pair[1])
    if not differences:
        return ""
    low, high = np.quantile(differences, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]).tolist()
    interval = Interval(first - second, low, high)
    names = list(PREDICTORS.values())
    words = {
        1: f"{names[0]} orders these configurations better than {names[1]}",
        -1: f"{names[1]} orders these configurations better than {names[0]}",
        0: f"the difference between {names[0]} and {names[1]} is within noise",
    }[interval.side]
    return (
        f"Over resamples of images and seeds, {words}: difference of the correlations {signed(interval)}. The "
        f"{number(len(groups), 0)} configurations were chosen, not drawn at random: others may give another order.\n"
    )
