"""What a training step of each variant costs, relative to that of the reference: timed in turns, in one process."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from statistics import median

from detect.data.coco_reader import Progress
from detect.files import write_whole
from detect.loading.dataset import Batch, collate
from detect.training.devices import launch
from detect.training.inputs import Inputs, read_inputs
from detect.training.step import Stepper
from evidence_parts.plan import BALANCED, BOXES, REFERENCE, VARIANTS, Dataset, Run
from evidence_parts.training_runs import anchors_of_run, build_variant, config_of

ROUNDS = 7
Costs = Mapping[tuple[str, str], float]
"""By dataset and variant, without weights of positives, which cost nothing."""


def relative_costs(dataset: Dataset, *, rounds: int = ROUNDS, on_progress: Progress | None = None) -> dict[str, float]:
    """The time of a step of each box variant / that of the reference in the same round: the median over rounds."""
    of_boxes = [name for name, _ in dataset.budgets if VARIANTS[name].task == BOXES and VARIANTS[name].trained]
    variants = tuple(dict.fromkeys([REFERENCE, *(name.removesuffix(BALANCED) for name in of_boxes)]))
    inputs = read_inputs(config_of(Run(dataset.name, REFERENCE, 1, 0), dataset, Path("unused")))
    steppers = {name: _stepper(Run(dataset.name, name, 1, 0), dataset, inputs) for name in variants}
    config = next(iter(steppers.values())).config
    batch = collate([inputs.train[0, place] for place in range(min(config.optimisation.batch_size, len(inputs.train)))])
    ratios: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(rounds + 1):
        seconds = {name: _timed(stepper, batch, number) for name, stepper in steppers.items()}
        for name in variants if number else ():  # the first round warms up
            ratios[name].append(seconds[name] / seconds[REFERENCE])
        if on_progress:
            on_progress(f"timing steps on {dataset.name}", number + 1, rounds + 1)
    return {name: median(each) for name, each in ratios.items()}


def save_costs(path: Path, costs: Costs) -> None:
    """Write a table of costs."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("dataset", "variant", "relative_cost"))
    writer.writerows((*key, f"{cost:.3f}") for key, cost in costs.items())
    write_whole(path, text.getvalue())


def read_costs(path: Path) -> dict[tuple[str, str], float]:
    """Read a table of costs; empty if the file is missing."""
    if not path.exists():
        return {}
    with path.open(encoding="utf-8", newline="") as stream:
        return {(row["dataset"], row["variant"]): float(row["relative_cost"]) for row in csv.DictReader(stream)}


def _stepper(run: Run, dataset: Dataset, inputs: Inputs) -> Stepper:
    config = config_of(run, dataset, Path("unused"), f"model.levels={','.join(map(str, dataset.strides))}")
    anchors = anchors_of_run(run, dataset, inputs.train.dataset)
    return Stepper(
        config, launch(config), inputs=inputs, anchors=anchors, build=partial(build_variant, run.variant, [])
    )


def _timed(stepper: Stepper, batch: Batch, step: int) -> float:
    start = time.perf_counter()
    stepper.training_step([batch], rate=1e-4, step=step)
    return time.perf_counter() - start
