"""What a pretrained start is worth: python tools/pretrained.py train|time|report [--bccd FOLDER] [-o docs].

``train`` trains lite0 from ImageNet weights and small from random ones on nuclei and blood cells, in two seeds each, adding
a row for each validation to docs/pretrained/runs.csv; finished runs are not repeated. ``time`` measures an epoch of each
on this machine, alone. ``report`` writes docs/pretrained.md: AP by epoch, and by the seconds that an epoch took.
"""

from __future__ import annotations

import argparse
import csv
import io
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from detect.files import write_whole
from detect.training.config import TrainConfig, read_train_config
from detect.training.logs import EPOCHS, VALIDATION, read_log
from detect.training.loop import train

EPOCHS_OF = {"nuclei": 12, "bccd": 15}
SEEDS = (0, 1)
STARTS = {
    "lite0": ("model.backbone=lite0", "model.pretrained=true", "optimisation.learning_rate=1e-3"),
    "small": ("model.backbone=tiny", "model.pretrained=false", "optimisation.learning_rate=2e-3"),
}
FORMER_SETTINGS = {  # what the shipped configurations set otherwise by now
    "nuclei": ("model.nms=hard",),
    "bccd": (
        *("data.resize=stretch:320x240", "optimisation.batch_size=16", "model.nms=hard"),
        *("model.max_strides=4", "model.positive_weights=none"),
    ),
}
CONFIGS = {"nuclei": "configs/nuclei_retinanet.yaml", "bccd": "configs/bccd_retinanet.yaml"}
FIELDS = ("device", "dataset", "start", "seed", "epoch", "ap", "ap50", "seconds")


class Case(NamedTuple):
    """A run of the comparison."""

    dataset: str
    start: str
    seed: int

    def config(self, folder: Path, *overrides: str, bccd: Path | None) -> TrainConfig:
        """The configuration with this start, a shorter schedule and validations every three epochs."""
        fields = [
            *FORMER_SETTINGS[self.dataset],
            *STARTS[self.start],
            f"seed={self.seed}",
            f"optimisation.epochs={EPOCHS_OF[self.dataset]}",
            f"output.folder={folder / '-'.join(map(str, self))}",
            "output.validate_epochs=3",
            "output.tensorboard=false",
        ]
        fields += [f"data.images={bccd}"] if self.dataset == "bccd" and bccd else []
        return read_train_config(CONFIGS[self.dataset], [*fields, *overrides])


def cases(bccd: Path | None) -> list[Case]:
    """All runs whose images are at hand."""
    datasets = [name for name in CONFIGS if name != "bccd" or bccd]
    return [Case(dataset, start, seed) for dataset in datasets for seed in SEEDS for start in STARTS]


def validations(case: Case, work: Path, bccd: Path | None, *overrides: str) -> Iterator[dict[str, Any]]:
    """Train, and give the AP after each validated epoch and the seconds of training until then."""
    config = case.config(work, *overrides, bccd=bccd)
    device = "a CPU" if config.optimisation.accelerator == "cpu" else torch.cuda.get_device_name()
    train(config, resume=True, log=print)
    seconds = [row["seconds"] for row in read_log(config.output.folder / f"{EPOCHS}.csv")]
    for row in read_log(config.output.folder / f"{VALIDATION}.csv"):
        epoch = int(row["epoch"])
        yield {
            "device": device,
            **case._asdict(),
            "epoch": epoch,
            "ap": f"{row['ap']:.4f}",
            "ap50": f"{row['ap50']:.4f}",
            "seconds": f"{sum(seconds[:epoch]):.1f}",
        }


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a table, none if there is no table yet."""
    return list(csv.DictReader(io.StringIO(path.read_text("utf-8")))) if path.exists() else []


def write_rows(path: Path, fields: Sequence[str], rows: list[dict[str, Any]]) -> None:
    """Write a table whole."""
    stream = io.StringIO()
    table = csv.DictWriter(stream, fields, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write_whole(path, stream.getvalue())


TIMES = ("dataset", "start", "threads", "seconds")


def time_epochs(bccd: Path | None) -> Iterator[dict[str, Any]]:
    """The seconds of an epoch of each start on this machine's CPU: the second of two."""
    for dataset in CONFIGS:
        for start in STARTS if dataset != "bccd" or bccd else ():
            with tempfile.TemporaryDirectory() as folder:
                case = Case(dataset, start, SEEDS[0])
                overrides = (
                    "optimisation.epochs=2",
                    "output.validate_epochs=1000",
                    "data.val=[]",
                    "data.val_share=0.2",
                )
                config = case.config(Path(folder), *overrides, bccd=bccd)
                train(config)
                seconds = read_log(config.output.folder / f"{EPOCHS}.csv")[-1]["seconds"]
            threads = torch.get_num_threads()
            yield {"dataset": dataset, "start": start, "threads": threads, "seconds": f"{seconds:.1f}"}


def report(rows: list[dict[str, str]], times: Mapping[tuple[str, str], float]) -> str:
    """The document."""
    lines = [
        "# What a pretrained start is worth\n",
        "AP on validation images of the configurations with hard suppression, positives of equal weight, blood cells in "
        "320 x 240 and a shorter schedule, from ImageNet weights (`lite0`, learning rate .001) and from random ones "
        "(`small`, .002, the network of the shipped configurations); the mean of "
        f"seeds {' and '.join(map(str, SEEDS))}, in brackets each. Made by tools/pretrained.py on "
        f"{' and '.join(dict.fromkeys(row['device'] for row in rows))}; "
        "seconds are those of training on two CPU cores, from an epoch timed there alone.\n",
    ]
    for dataset in dict.fromkeys(row["dataset"] for row in rows):
        lines += [
            f"## {dataset}\n",
            "| epoch | lite0: AP | seconds | small: AP | seconds |",
            "|---:|---:|---:|---:|---:|",
        ]
        for epoch in sorted({int(row["epoch"]) for row in rows if row["dataset"] == dataset}):
            cells = [str(epoch)]
            for start in STARTS:
                found = [
                    float(row["ap"])
                    for row in rows
                    if (row["dataset"], row["start"], int(row["epoch"])) == (dataset, start, epoch)
                ]
                each = ", ".join(f"{ap:.3f}" for ap in found)
                cells += [f"{statistics.mean(found):.3f} ({each})" if found else "-"]
                cells += [f"{times[dataset, start] * epoch:.0f}" if (dataset, start) in times else "-"]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    """Train, time or report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("what", choices=("train", "time", "report"))
    parser.add_argument("overrides", nargs="*", metavar="FIELD=VALUE", help="fields of all runs")
    parser.add_argument("--bccd", type=Path, help="folder of BCCD's images; without it only nuclei are trained")
    parser.add_argument("--only", nargs=3, metavar=("DATASET", "START", "SEED"), help="only this run")
    parser.add_argument("--work", type=Path, default=Path("runs/pretrained"), help="folder of the runs")
    parser.add_argument("--output", "-o", type=Path, default=Path("docs"))
    options = parser.parse_intermixed_args()
    table, times = (options.output / "pretrained" / name for name in ("runs.csv", "seconds.csv"))
    if options.what == "time":
        write_rows(times, TIMES, list(time_epochs(options.bccd)))
    elif options.what == "train":
        wanted = [case for case in cases(options.bccd) if not options.only or [*map(str, case)] == options.only]
        for case in wanted:
            done = read_rows(table)
            if not any(tuple(row[name] for name in Case._fields) == tuple(map(str, case)) for row in done):
                found = list(validations(case, options.work, options.bccd, *options.overrides))
                write_rows(table, FIELDS, [*read_rows(table), *found])
    else:
        seconds = {(row["dataset"], row["start"]): float(row["seconds"]) for row in read_rows(times)}
        write_whole(options.output / "pretrained.md", report(read_rows(table), seconds))


if __name__ == "__main__":
    main()
