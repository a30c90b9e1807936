"""The AP of each category, and its positive anchors per instance."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from detect.anchors.assign import assign
from detect.anchors.assignment import Assignment
from detect.anchors.generator import AnchorGenerator
from detect.anchors.instances import ResizedInstances
from evidence_parts.gathered import Gathered, Group
from evidence_parts.plan import BALANCED, BANDED, BOXES, Run, weighed
from evidence_parts.resampling import mean_and_deviation, rank_correlation
from evidence_parts.training_runs import anchors_of_run, config_of, rule_of_run, split
from evidence_parts.wording import NOTHING, number, table, with_deviation

SAME = 1e-3  # relative: a row has six digits, and another version may fit a shape a little elsewhere

ABOUT = (
    "Each entry is AP; positive anchors per instance of the category in the validation images. The share divides the fewest "
    "positives of a category by the most: 1 if all categories have the same number, near 0 if one is hardly learned. It is "
    "known before training."
)


def category_section(gathered: Gathered, epochs: int, assignments: Mapping[str, Assignment]) -> str:
    """AP and positives of each category, and their rank correlation; empty for a single category."""
    names = [name for _, name in sorted(gathered.truth.categories.items())]
    groups = [group for group in gathered.of_task(BOXES, epochs) if group.epochs and group.category_ap]
    if len(names) < 2 or not groups:
        return ""
    positives = {name: _by_category(assignment, names) for name, assignment in assignments.items()}
    shares = {name: min(own) / max(own) for name, own in positives.items()}
    unweighed = {name for name in positives if not weighed(name)}
    rows = [
        [group.variant, *_cells(group, positives.get(group.variant)), number(shares.get(group.variant))]
        for group in groups
    ]
    parts = [f"### Categories, {epochs} epochs\n\n{ABOUT}\n", table(["", *names, "share"], rows), ""]
    if plain := [group for group in groups if group.variant in unweighed]:
        parts.append(f"{_correlations(plain, positives, names)}\n")
    return "\n".join(parts)


def _by_category(assignment: Assignment, names: list[str]) -> list[float]:
    of_category = {each.name: each.positives for each in assignment.by_category}
    return [of_category[name] for name in names]


def _correlations(groups: list[Group], positives: dict[str, list[float]], names: list[str]) -> str:
    """Rank correlations of the AP of the category with the fewest positives, and of the other categories."""
    least = int(np.argmin(np.sum([np.array(own) / max(own) for own in positives.values()], axis=0)))
    positives = {group.variant: positives[group.variant] for group in groups}
    ap = {group.variant: np.stack(list(group.category_ap.values())).mean(axis=0) for group in groups}
    own = [(positives[name][least] / max(positives[name]), ap[name][least]) for name in ap]
    others = [(group.mean("grid_recall") or 0.0, np.delete(ap[group.variant], least).mean()) for group in groups]
    return (
        f"{names[least]}: the fewest positives. Over {len(groups)} configurations whose positives are not weighed, "
        f"Spearman's rank correlation of its AP with its share of positives is {_rho(own)}; that of the mean AP of the "
        f"others with recall at .5 on the grid is {_rho(others)} (those matched by predictions are left out)."
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


def assignments_of(gathered: Gathered, epochs: int) -> dict[str, Assignment]:
    """What the anchors of the variants that match by overlap learn in the validation images.

    Anchors are chosen again; variants whose positives differ from those of their rows are left out, and so are weights by
    size, whose anchors another variant has.
    """
    dataset = gathered.dataset
    config = config_of(Run(dataset.name, dataset.budgets[0][0], 1, 0), dataset, Path("unused"))
    training, validation = split(config)
    instances = ResizedInstances.of(validation, config.data.resize)
    found: dict[str, Assignment] = {}
    for group in gathered.of_task(BOXES, epochs):
        run, positives = Run(dataset.name, group.variant, 1, 0), group.mean("positives")
        matcher = rule_of_run(run, config_of(run, dataset, Path("unused")))
        if positives is None or not group.epochs or matcher.uses_predictions or group.variant.endswith(BANDED):
            continue
        plain = found.get(group.variant.removesuffix(BALANCED))
        assigned = plain or assign(instances, AnchorGenerator(anchors_of_run(run, dataset, training)), matcher)
        if math.isclose(assigned.overall.positives, positives, rel_tol=SAME):
            found[group.variant] = assigned
    return found
