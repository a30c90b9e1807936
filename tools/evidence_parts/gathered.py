"""The finished runs of a dataset, grouped for the document: means over seeds, intervals, differences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from detect.data import CocoDataset
from detect.data.coco_dataset import image_sources
from evidence_parts.plan import BALANCED, BOXES, POINTS, REFERENCE, VARIANTS, Dataset, Run, weighed
from evidence_parts.records import Arrays, Row, load_arrays, unpacked_boxes
from evidence_parts.resampling import Draws, Interval, mean_and_deviation, value_at
from evidence_parts.scoring import BoxMatches, point_scores
from evidence_parts.training_runs import config_of, split

METRICS = {BOXES: ("ap", "ap50"), POINTS: ("f1_3px", "f1_5px", "count_mae")}

Progress = Callable[[str, int, int], None]


@dataclass(eq=False)
class Group:
    """The seeds of one variant with one number of epochs."""

    variant: str
    epochs: int
    rows: list[Row]
    arrays: dict[int, Arrays]
    """By seed; a seed whose file is missing is left out."""
    scores: dict[str, dict[int, Float64[ndarray, " r"]]]
    """By metric and seed, on each resample."""
    category_ap: dict[int, Float64[ndarray, " c"]] = field(default_factory=dict)
    """By seed, for box variants."""

    def values(self, name: str) -> dict[int, float]:
        """A column by seed, where it is defined."""
        values = {row.seed: getattr(row, name) for row in self.rows}
        return {seed: float(value) for seed, value in values.items() if value is not None}

    def mean(self, name: str) -> float | None:
        """Mean of a column over seeds."""
        values = self.values(name)
        return mean(values.values()) if values else None

    def spread(self, name: str) -> tuple[float, float | None] | None:
        """Mean and deviation of a column over seeds."""
        values = self.values(name)
        return mean_and_deviation(list(values.values())) if values else None

    def after(self, epochs: float) -> list[float]:
        """The score of each seed after these epochs, if they lie between two of its validations."""
        found = [value_at(each["curve"], epochs) for each in self.arrays.values() if "curve" in each]
        return [value for value in found if value is not None]


@dataclass(eq=False)
class Gathered:
    """The finished runs of a dataset; made by :func:`gather`."""

    dataset: Dataset
    groups: dict[tuple[str, int], Group]
    draws: Draws
    truth: CocoDataset
    num_sources: int

    def group(self, variant: str, epochs: int) -> Group | None:
        """The seeds of a variant, None if there are none."""
        return self.groups.get((variant, epochs))

    def of_task(self, task: str, epochs: int | None = None) -> list[Group]:
        """Select the groups with these epochs, and untrained ones, in the order of the plan."""
        return [
            group
            for (variant, own), group in self.groups.items()
            if VARIANTS[variant].task == task and (epochs is None or own in {0, epochs})
        ]

    @cached_property
    def budgets(self) -> list[int]:
        """The epochs of box runs, in rising order."""
        own = {epochs for name, epochs in self.dataset.budgets if VARIANTS[name].task == BOXES and epochs}
        return sorted(own)

    def interval(self, group: Group, metric: str) -> Interval | None:
        """The interval of a mean over seeds."""
        value = group.mean(metric)
        return None if value is None else self.draws.interval(value, group.scores.get(metric, {}))

    def difference(self, group: Group, other: Group, metric: str) -> Interval | None:
        """Subtract the second from the first over their common seeds; an untrained variant is compared with every seed."""
        values, others = _facing(group, other, group.values(metric), other.values(metric))
        scores, of_other = _facing(group, other, group.scores.get(metric, {}), other.scores.get(metric, {}))
        common = sorted(set(values) & set(others) & set(scores) & set(of_other))
        if not common:
            return None
        value = mean(values[seed] - others[seed] for seed in common)
        return self.draws.difference(value, *({seed: each[seed] for seed in common} for each in (scores, of_other)))

    def against_reference(self, group: Group, epochs: int) -> Interval | None:
        """Subtract the AP of the reference with the same epochs and weights; None for the reference itself."""
        reference = self.group(f"{REFERENCE}{BALANCED}" if weighed(group.variant) else REFERENCE, epochs)
        return None if reference is None or reference is group else self.difference(group, reference, "ap")


def gather(
    dataset: Dataset, rows: list[Row], folder: Path, *, draws: Draws | None = None, on_progress: Progress | None = None
) -> Gathered:
    """Collect the rows and files of a dataset's runs.

    Args:
        dataset: whose annotations are read, but no images.
        rows: of any datasets.
        folder: of the runs' arrays.
        draws: by default of the validation images' sources.
        on_progress: called as ``on_progress(what, done, total)``.
    """
    truth = split(config_of(Run(dataset.name, dataset.budgets[0][0], 1, 0), dataset, Path("unused")))[1]
    sources = image_sources(truth)
    draws = draws or Draws.of(sources)
    own = {row.run: row for row in rows if row.dataset == dataset.name}
    groups: dict[tuple[str, int], Group] = {}
    done = 0
    for variant, epochs in dataset.budgets:
        of_group = sorted(
            (row for run, row in own.items() if (run.variant, run.epochs) == (variant, epochs)),
            key=lambda row: row.seed,
        )
        group = Group(variant, epochs, of_group, {}, {name: {} for name in METRICS[VARIANTS[variant].task]})
        for row in of_group:
            path = folder / f"{row.run.key}.npz"
            if path.exists():
                group.arrays[row.seed] = load_arrays(path)
                _add_scores(group, row.seed, truth, draws)
            done += 1
            if on_progress:
                on_progress(f"resampling {row.run.key}", done, len(own))
        if of_group:
            groups[variant, epochs] = group
    return Gathered(dataset, groups, draws, truth, int(sources.max(initial=-1)) + 1)


def _add_scores(group: Group, seed: int, truth: CocoDataset, draws: Draws) -> None:
    """Score a run on each resample."""
    arrays = group.arrays[seed]
    score: Callable[[Any], tuple[float, ...]]
    if VARIANTS[group.variant].task == BOXES:
        matches = BoxMatches.of(truth, unpacked_boxes(arrays))
        group.category_ap[seed] = matches.by_category()
        score = matches.average_precision
    else:
        counts = arrays["counts"].astype(np.int64)

        def score(weights: Any) -> tuple[float, ...]:
            return point_scores(counts, weights)

    table = np.array([score(weights) for weights in draws.weights])
    for name, column in zip(group.scores, table.T, strict=True):
        group.scores[name][seed] = column


def _facing(group: Group, other: Group, of_group: Any, of_other: Any) -> tuple[Any, Any]:
    """Pair values by seed; the single run of an untrained variant is repeated for every seed of the other."""
    if not VARIANTS[group.variant].trained:
        return {seed: of_group[0] for seed in of_other if 0 in of_group}, of_other
    if not VARIANTS[other.variant].trained:
        return of_group, {seed: of_other[0] for seed in of_group if 0 in of_other}
    return of_group, of_other
