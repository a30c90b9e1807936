"""Train the matrix of runs and write docs/evidence.md: python tools/evidence.py [--list] [--report].

Each finished run is a row of docs/evidence/runs.csv and a small file of its detections. Finished runs are not repeated, and
an interrupted run resumes from its last epoch.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from evidence_parts.costs import read_costs, relative_costs, save_costs
from evidence_parts.document import build_document
from evidence_parts.gathered import gather
from evidence_parts.plan import (
    BCCD,
    DATASETS,
    SEEDS,
    VARIANTS,
    Dataset,
    Run,
    estimated_seconds,
    planned_runs,
    with_epochs,
    with_images,
)
from evidence_parts.records import append_row, read_rows, save_arrays
from evidence_parts.training_runs import execute

from detect.cli.output import reading_bar
from detect.errors import DetectError
from detect.files import write_whole

WORK = Path("runs/evidence")


class Evidence:
    """The files of an output folder, and the runs they lack."""

    def __init__(self, output: Path, datasets: Sequence[Dataset], planned: Sequence[Run]) -> None:
        self.output = output
        self.table = output / "evidence" / "runs.csv"
        self.detections = output / "evidence" / "detections"
        self.costs = output / "evidence" / "costs.csv"
        self.datasets = {dataset.name: dataset for dataset in datasets}
        self.planned = planned

    def missing(self) -> list[Run]:
        """Planned runs without a row, or without their detections."""
        done = {row.run for row in read_rows(self.table)}
        return [run for run in self.planned if run not in done or not self._arrays_of(run).exists()]

    def do(self, run: Run, work: Path) -> None:
        """Execute a run, with a progress bar on stderr, and save its results."""
        with reading_bar() as on_progress:
            outcome = execute(run, self.datasets[run.dataset], work=work, on_progress=on_progress)
        save_arrays(self._arrays_of(run), outcome.arrays)
        append_row(self.table, outcome.row)

    def seconds(self, runs: Sequence[Run]) -> list[float]:
        """Estimate the seconds of each run."""
        known = {(row.dataset, row.variant): row.epoch_seconds for row in read_rows(self.table) if row.epoch_seconds}
        return [estimated_seconds(run, self.datasets[run.dataset], known) for run in runs]

    def time_steps(self) -> None:
        """Time a training step of every variant of every dataset."""
        costs = read_costs(self.costs)
        for dataset in self.datasets.values():
            with reading_bar() as on_progress:
                found = relative_costs(dataset, on_progress=on_progress)
            costs |= {(dataset.name, variant): cost for variant, cost in found.items()}
            save_costs(self.costs, costs)

    def report(self) -> None:
        """Write the document and its pictures."""
        rows = read_rows(self.table)
        with reading_bar() as on_progress:
            found = [gather(each, rows, self.detections, on_progress=on_progress) for each in self.datasets.values()]
        for name, text in build_document(found, self.planned, self.missing(), read_costs(self.costs)).items():
            write_whole(self.output / name, text)
        print(f"{self.output / 'evidence.md'}: of {len(rows)} runs")

    def _arrays_of(self, run: Run) -> Path:
        return self.detections / f"{run.key}.npz"


def main(arguments: Sequence[str] | None = None) -> int:
    """Execute the missing runs, list them, or only write the document."""
    options = _parser().parse_args(arguments)
    datasets = [with_images(each, options.bccd) if _needs_images(each) and options.bccd else each for each in DATASETS]
    if options.epochs is not None:
        datasets = [with_epochs(each, options.epochs) for each in datasets]
    planned = planned_runs(datasets, seeds=options.seeds, only=options.only)
    if not planned:
        print(
            f"evidence: no run is called {', '.join(options.only)}, or not with these seeds; see --list",
            file=sys.stderr,
        )
        return 2
    evidence = Evidence(options.output, datasets, planned)
    if options.list:
        _print_plan(evidence)
        return 0
    if options.costs:
        kept = [each for each in datasets if options.bccd or not _needs_images(each)]
        Evidence(options.output, kept, ()).time_steps()
    done = (
        options.report or options.costs or _run_missing(evidence, has_bccd=options.bccd is not None, work=options.work)
    )
    Evidence(options.output, datasets, planned_runs(datasets, seeds=options.seeds)).report()
    return 0 if done else 2


def _run_missing(evidence: Evidence, *, has_bccd: bool, work: Path) -> bool:
    """Execute the missing runs; a run that fails is reported, the others continue. Returns whether all succeeded."""
    all_well = True
    left = evidence.missing()
    runs = [run for run in left if has_bccd or not _needs_images(evidence.datasets[run.dataset])]
    if len(runs) < len(left):
        print(f"{len(left) - len(runs)} runs on blood cells need --bccd FOLDER and are left out", file=sys.stderr)
    for place, run in enumerate(runs):
        if run not in evidence.missing():
            continue  # another process has done it
        hours = sum(evidence.seconds(runs[place:])) / 3600
        print(
            f"{place + 1} of {len(runs)}: {run.dataset}/{run.variant}, {run.epochs} epochs, seed {run.seed}; about "
            f"{hours:.1f} h left",
            file=sys.stderr,
        )
        try:
            evidence.do(run, work)
        except DetectError as error:
            all_well = False
            print(f"evidence: {run.key}: {error}", file=sys.stderr)
    return all_well


def _needs_images(dataset: Dataset) -> bool:
    """Whether the images of a dataset are not in the checkout."""
    return dataset.config == BCCD.config


def _print_plan(evidence: Evidence) -> None:
    missing = evidence.missing()
    seconds = dict(zip(missing, evidence.seconds(missing), strict=True))
    for run in evidence.planned:
        state = f"missing, about {seconds[run] / 60:.0f} min" if run in seconds else "done"
        name = f"{run.dataset}/{run.variant}"
        print(f"{name:28} {run.epochs:3} epochs  seed {run.seed}  {state:24} {VARIANTS[run.variant].words}")
    hours = sum(seconds.values()) / 3600
    print(f"{len(missing)} of {len(evidence.planned)} runs are missing: about {hours:.1f} h")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", nargs="+", default=[], metavar="DATASET[/VARIANT]", help="only these runs")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS), help="seeds of the runs (default 0 1 2)")
    parser.add_argument("--epochs", type=int, help="replace the budgets, for a trial with its own --output")
    parser.add_argument(
        "--bccd", type=Path, metavar="FOLDER", help="folder of BCCD's images; without it bccd is left out"
    )
    parser.add_argument("--list", action="store_true", help="print the plan and what is missing, run nothing")
    parser.add_argument("--costs", action="store_true", help="only time the variants' steps, and write the document")
    parser.add_argument("--report", action="store_true", help="only write the document")
    parser.add_argument("--output", "-o", type=Path, default=Path("docs"), help="folder of evidence.md (default docs)")
    parser.add_argument("--work", type=Path, default=WORK, help="folder of unfinished runs (default runs/evidence)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
