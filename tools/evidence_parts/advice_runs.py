"""Detectors trained at settings for which advice differs, with what is lost at each."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

from detect.errors import DetectError
from detect.files import write_whole

if TYPE_CHECKING:
    from detect.data import CocoDataset
    from detect.training.config import TrainConfig

TABLE = Path("evidence/advice.csv")
WORK = Path("runs/advice")
SEEDS = (0, 1, 2)
SUPPRESSION = (0.3, 0.4, 0.5, 0.6, 0.7, 0.85)  # thresholds at which each network is evaluated
TRAINED_AT = 0.5
FIXED = ("optimisation.batch_size=16", "model.nms=hard", "model.positive_weights=none")
DATA = {
    "nuclei": ("configs/nuclei_retinanet.yaml", 16, ("model.levels=p3-p5", *FIXED)),
    "bccd": ("configs/bccd_retinanet.yaml", 14, ("model.max_strides=4", *FIXED)),
}


@dataclass(frozen=True)
class Setting:
    """A dataset and what differs from its configuration."""

    data: str
    size: int
    levels: str


SETTINGS = (
    *(Setting("nuclei", size, "p3-p5") for size in (64, 96, 128, 192, 256)),
    *(Setting("nuclei", size, "p2-p5") for size in (64, 128)),
    *(Setting("nuclei", size, "p4-p6") for size in (128, 256)),
    *(Setting("bccd", size, "p3-p5") for size in (96, 160, 240, 320, 640)),
    *(Setting("bccd", size, "p2-p5") for size in (96, 160)),
    *(Setting("bccd", size, "p4-p6") for size in (96, 160, 320)),
)


@dataclass(frozen=True)
class Row:
    """One network evaluated at one threshold of suppression."""

    data: str
    size: int
    levels: str
    seed: int
    iou: float
    no_anchor: float  # share of the training objects that no anchor learns, by the trainer's own matching
    no_cell: float  # that have no cell of their own
    small: float  # that are under 8 px, or a cell
    suppressed: float  # share of the validation objects that suppression removes though predicted perfectly
    ap: float
    ap50: float
    recall: float  # share of the validation objects found at IoU .5, at any score


def train_setting(setting: Setting, seed: int, *, device: str, images: str | None) -> list[Row]:
    """Train one network, and evaluate it at each threshold."""
    from detect.detectors.retinanet import RetinaNetDetector
    from detect.evaluation.boxes import evaluate_boxes
    from detect.training.checkpoints import load_detector
    from detect.training.config import read_train_config
    from detect.training.inference import find_objects
    from detect.training.inputs import read_inputs
    from detect.training.loop import train

    file, epochs, overrides = DATA[setting.data]
    folder = WORK / f"{setting.data}-{setting.size}-{setting.levels}-{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    config = read_train_config(
        file,
        [
            *overrides,
            f"data.resize=letterbox:{setting.size}",
            f"model.levels={setting.levels}",
            f"seed={seed}",
            f"optimisation.epochs={epochs}",
            f"optimisation.accelerator={device}",
            f"output.folder={folder}",
            f"output.validate_epochs={epochs}",
            "output.tensorboard=false",
            *([f"data.images={images}"] if images and setting.data == "bccd" else []),
        ],
    )
    train(config)
    trained, inputs = load_detector(folder, device), read_inputs(config)
    if inputs.val is None:
        raise ValueError(f"{setting.data}: no validation data")
    shares, suppressed = predicted(config, inputs.train.dataset, inputs.val.dataset)
    rows = []
    model = trained.model
    if not isinstance(model, RetinaNetDetector):
        raise TypeError(f"{file} trains no detector of boxes")
    model.to(device).eval()
    for iou in SUPPRESSION:
        model.post_process = replace(model.post_process, iou_threshold=iou)
        results = find_objects(model, inputs.val, labels=inputs.labels, device=device)
        evaluation = evaluate_boxes(results, inputs.val.dataset)
        found = evaluation.by_score[0].recall
        measured = (
            evaluation.overall.ap or 0.0,
            evaluation.overall.ap50 or 0.0,
            float(found[-1]) if len(found) else 0.0,
        )
        known = (*shares, suppressed[iou])
        rows.append(Row(setting.data, setting.size, setting.levels, seed, iou, *known, *measured))
    shutil.rmtree(folder)
    return rows


def predicted(
    config: TrainConfig, train: CocoDataset, val: CocoDataset
) -> tuple[tuple[float, float, float], dict[float, float]]:
    """Predict losses: shares of the training objects, and by IoU the share of the validation objects that NMS removes."""
    import msgspec
    import numpy as np

    from detect.advice.lost_objects import lost_to_nms, small_objects
    from detect.advice.overlaps import overlapping_pairs
    from detect.advice.unlearned import unlearned_objects
    from detect.anchors.instances import ResizedInstances
    from detect.catalog.detectors import load_detector
    from detect.training.described import anchors_of, described

    detector = described(config, "own")
    objects, truth = (ResizedInstances.of(dataset, config.data.resize) for dataset in (train, val))
    anchors = anchors_of(config, objects, detector)
    cells = msgspec.structs.replace(load_detector("yolo11-8.3"), strides=detector.strides)
    lost = (
        unlearned_objects(objects, detector, anchors).num_lost,
        unlearned_objects(objects, cells).num_lost,
        len(small_objects(objects, detector.strides)),
    )
    own = truth.dataset.instances
    groups = np.unique(np.stack([own.image_rows, own.category_ids]), axis=1, return_inverse=True)[1].ravel()
    pairs = overlapping_pairs(truth.boxes, groups)
    by_iou = {iou: lost_to_nms(pairs, iou).num_lost / len(truth) for iou in SUPPRESSION}
    no_anchor, no_cell, small = (number / len(objects) for number in lost)
    return (no_anchor, no_cell, small), by_iou


def read_rows(path: Path) -> list[Row]:
    """The finished runs."""
    if not path.exists():
        return []
    kinds = {field.name: {"str": str, "int": int, "float": float}[str(field.type)] for field in fields(Row)}
    with path.open(encoding="utf-8") as stream:
        return [Row(**{name: kinds[name](text) for name, text in row.items()}) for row in csv.DictReader(stream)]


def run_missing(output: Path, *, device: str, processes: int, images: str | None) -> None:
    """Train what the table lacks, several networks at once, and add a row for each threshold."""
    path = output / TABLE
    rows = read_rows(path)
    done = {(row.data, row.size, row.levels, row.seed) for row in rows}
    tasks = [
        (each, seed) for seed in SEEDS for each in SETTINGS if (each.data, each.size, each.levels, seed) not in done
    ]
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        train_one = partial(train_setting, device=device, images=images)
        waiting = {pool.submit(train_one, setting, seed): (setting, seed) for setting, seed in tasks}
        for number, task in enumerate(as_completed(waiting), 1):
            setting, seed = waiting[task]
            try:
                rows += task.result()
            except DetectError as error:
                print(f"{setting} seed {seed}: {error}", flush=True)
                continue
            rows.sort(key=lambda row: (row.data, row.levels, row.size, row.seed, row.iou))
            write_whole(path, table_text(rows))
            print(f"{number} of {len(tasks)}: {setting.data} {setting.size} {setting.levels} seed {seed}", flush=True)


def table_text(rows: Sequence[Row]) -> str:
    """The rows as CSV."""
    lines = [",".join(field.name for field in fields(Row))]
    for row in rows:
        values = asdict(row).values()
        lines.append(",".join(f"{value:.6g}" if isinstance(value, float) else f"{value}" for value in values))
    return "\n".join(lines) + "\n"
