"""The AP of each category, and its positive anchors per instance."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from detect.anchors.assign import assign
from detect.anchors.generator import AnchorGenerator
from detect.anchors.instances import ResizedInstances
from evidence_parts.gathered import Gathered, Group
from evidence_parts.plan import BOXES, FREE, Run
from evidence_parts.resampling import mean_and_deviation, rank_correlation
from evidence_parts.training_runs import anchors_of_run, config_of, rule_of_run, split
from evidence_parts.wording import NOTHING, number, table, with_deviation

SAME = 1e-4  # relative; a row has six digits

ABOUT = (
    "Each entry is AP; positive anchors per instance of the category in the validation images. The share divides the fewest "
    "positives of a category by the most: 1 if all categories have the same number, near 0 if one is hardly learned. It is "
    "known before training."
)


def category_section(gathered: Gathered, epochs: int) -> str:
    """AP and positives of each category, and their rank correlation; empty for a single category."""
    names = [name for _, name in sorted(gathered.truth.categories.items())]
    groups = [group for group in gathered.of_task(BOXES, epochs) if group.epochs and group.category_ap]
    if len(names) < 2 or not groups:
        return ""
    positives = _positives(gathered, groups, names)
    shares = {name: min(own) / max(own) for name, own in positives.items()}
    rows = [
        [group.variant, *_cells(group, positives.get(group.variant)), number(shares.get(group.variant))]
        for group in groups
    ]
    return "\n".join(
        [
            f"### Categories, {epochs} epochs\n\n{ABOUT}\n",
            table(["", *names, "share"], rows),
            f"\n{_correlations([group for group in groups if group.variant in positives], positives, names)}\n",
        ]
    )


def _correlations(groups: list[Group], positives: dict[str, list[float]], names: list[str]) -> str:
    """Rank correlations of the AP of the category with the fewest positives, and of the other categories."""
    if not groups:
        return "No configuration has known positives."
    least = int(np.argmin(np.sum([np.array(own) / max(own) for own in positives.values()], axis=0)))
    ap = {group.variant: np.stack(list(group.category_ap.values())).mean(axis=0) for group in groups}
    own = [(positives[name][least] / max(positives[name]), ap[name][least]) for name in ap]
    others = [(group.mean("grid_recall") or 0.0, np.delete(ap[group.variant], least).mean()) for group in groups]
    return (
        f"{names[least]}: the fewest positives. Over {len(groups)} configurations, Spearman's rank correlation of its "
        f"AP with its share of positives is {_rho(own)}; that of the mean AP of the other categories with recall at .5 on "
        f"the grid is {_rho(others)} ({FREE} is left out: one predictor learns each instance)."
    )


def _rho(pairs: list[tuple[float, float]]) -> str:
    rho = rank_correlation(pairs)
    return "not defined yet" if rho is None else f"{rho:+.2f}"


def _cells(group: Group, positives: list[float] | None) -> list[str]:
    """AP and positives of each category."""
    of_seeds = np.stack(list(group.category_ap.values()))
    scores = [with_deviation(mean_and_deviation(column)) for column in of_seeds.T.tolist()]
    counts = [number(each, 1) for each in positives] if positives else [NOTHING] * len(scores)
    return [f"{ap}; {count}" for ap, count in zip(scores, counts, strict=True)]


def _positives(gathered: Gathered, groups: list[Group], names: list[str]) -> dict[str, list[float]]:
    """Positives of each category by variant, from anchors chosen again; left out if they differ from those of its rows."""
    dataset = gathered.dataset
    config = config_of(Run(dataset.name, groups[0].variant, 1, 0), dataset, Path("unused"))
    training, validation = split(config)
    instances = ResizedInstances.of(validation, config.data.resize)
    found = {}
    for group in groups:
        if group.variant == FREE:
            continue
        run = Run(dataset.name, group.variant, 1, 0)
        own = config_of(run, dataset, Path("unused"))
        generator = AnchorGenerator(anchors_of_run(run, dataset, training))
        assigned = assign(instances, generator, rule_of_run(run, own))
        if math.isclose(assigned.overall.positives, group.mean("positives") or 0.0, rel_tol=SAME):
            of_category = {each.name: each.positives for each in assigned.by_category}
            found[group.variant] = [of_category[name] for name in names]
    return found
