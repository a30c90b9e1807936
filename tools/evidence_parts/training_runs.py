"""Execute a planned run: choose anchors, train a detector, score its detections in the validation images."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from numpy import ndarray

from detect.anchors.anchor_set import AnchorSet
from detect.anchors.assign import assign
from detect.anchors.generator import AnchorGenerator
from detect.anchors.head_cost import HeadSize, level_costs
from detect.anchors.instances import ResizedInstances
from detect.anchors.known import load_anchors
from detect.anchors.metrics import anchor_metrics
from detect.anchors.positive_weights import assign_sample
from detect.data import CocoDataset, CocoResults, read_coco
from detect.detectors.backbones import build_backbone
from detect.detectors.blob_detector import fit_blob_detector
from detect.detectors.component_detector import SIGMAS_PX, TUNINGS, Components, Tuning, find_all, find_components
from detect.detectors.retinanet import RetinaNetDetector
from detect.fitting.fit import fit_anchors
from detect.fitting.fit_levels import fit_levels
from detect.keypoints.coco_keypoints import coco_keypoints
from detect.loading.dataset import DetectionData
from detect.loading.labels import LabelMap
from detect.ops.matcher import Matcher
from detect.training.builder import BACKBONE_STRIDES, Detector, build_detector, matching_rule, training_anchors
from detect.training.checkpoints import LAST, read_checkpoint
from detect.training.config import POINTS as POINTS_AS_ANCHORS
from detect.training.config import TrainConfig, read_train_config
from detect.training.inference import find_objects
from detect.training.inputs import Inputs, hold_out, read_inputs
from detect.training.logs import read_log
from detect.training.loop import train
from evidence_parts.free_predictors import ResponsiblePredictor, free_priors
from evidence_parts.plan import BANDED, BLOBS, BOXES, FREE, POINTS, SLOTS, SORTED_SLOTS, VARIANTS, Dataset, Run
from evidence_parts.records import Arrays, Row, box_results, packed_boxes, unpacked_boxes
from evidence_parts.scoring import RADII_PX, BoxMatches, point_counts, point_scores
from evidence_parts.size_bands import BandedCriterion, SizeBands
from evidence_parts.slots import SlotDetector

PER_CELL = 3
VALIDATIONS = 5  # per run, evenly spaced
COVERED = 0.5
FITS: dict[str, dict[str, Any]] = {
    "single": {"per_level": 1},
    "by-size": {"per_level": 3, "max_strides": 4.0},
}

Progress = Callable[[str, int, int], None]
Images = Sequence[Float64[ndarray, "_ _"]]


@dataclass(frozen=True, eq=False)
class Outcome:
    """The row of a finished run, and the arrays of its detections."""

    row: Row
    arrays: Arrays


def execute(run: Run, dataset: Dataset, *, work: Path, on_progress: Progress | None = None) -> Outcome:
    """Execute a run, or resume it from its last epoch. Its folder inside ``work`` is deleted at the end.

    Raises:
        DetectError: the data or the configuration is invalid.
    """
    if not VARIANTS[run.variant].trained:
        return _without_learning(run, dataset)
    folder = work / run.key
    config = config_of(run, dataset, folder)
    known: dict[str, Any] = {}
    bands = None
    if config.task == BOXES:
        config, known, bands = _prepared(run, dataset, folder)
    built: list[Detector] = []
    build = partial(build_variant, run.variant, built, bands=bands)
    train(config, resume=True, on_progress=on_progress, build=build)
    inputs, detector = read_inputs(config), built[0]
    detector.load_state_dict(dict(read_checkpoint(folder / LAST).weights))
    if inputs.val is None:
        raise ValueError(f"{run.dataset}: nothing to validate on")
    results = find_objects(detector.eval(), inputs.val, labels=inputs.labels, pixel_origin=config.data.pixel_origin)
    scores, arrays = _scored(config.task, inputs, results)
    seconds = median(row["seconds"] for row in read_log(folder / "epochs.csv"))
    row = Row(
        run.dataset,
        run.variant,
        run.epochs,
        run.seed,
        **scores,
        **known,
        epoch_seconds=seconds,
        threads=torch.get_num_threads(),
    )
    arrays["curve"] = _curve(folder, config.task)
    shutil.rmtree(folder)
    return Outcome(row, arrays)


def _prepared(run: Run, dataset: Dataset, folder: Path) -> tuple[TrainConfig, dict[str, Any], SizeBands | None]:
    """The configuration of a run on boxes with its anchors, their numbers, and weights by size if it has any."""
    config = config_of(run, dataset, folder)
    training, validation = split(config)
    anchors = anchors_of_run(run, dataset, training)
    anchors.save(folder / "start.yaml")
    if config.model.anchors == POINTS_AS_ANCHORS:
        config = config_of(run, dataset, folder, f"model.levels={','.join(map(str, dataset.strides))}")
    else:
        config = config_of(run, dataset, folder, f"model.anchors={folder / 'start.yaml'}")
    rule = rule_of_run(run, config)
    known = anchor_numbers(anchors, ResizedInstances.of(validation, config.data.resize), config, rule)
    known["detail"] = ", ".join(f"{each.name}: {len(each.shapes)}" for each in anchors.levels if each.shapes)
    is_banded = run.variant.endswith(BANDED)
    bands = SizeBands.of(assign_sample(training, anchors, rule, resize=config.data.resize)) if is_banded else None
    return config, known, bands


def config_of(run: Run, dataset: Dataset, folder: Path, *overrides: str) -> TrainConfig:
    """The configuration of a run."""
    path = dataset.landmarks if VARIANTS[run.variant].task == POINTS else dataset.config
    if path is None:
        raise ValueError(f"{dataset.name} has no landmarks")
    fields = [
        *dataset.overrides,
        *VARIANTS[run.variant].overrides,
        f"seed={run.seed}",
        f"optimisation.epochs={max(run.epochs, 1)}",
        f"output.folder={folder}",
        f"output.validate_epochs={max(run.epochs // VALIDATIONS, 1)}",
        "output.tensorboard=false",
        *overrides,
    ]
    return read_train_config(path, fields)


def split(config: TrainConfig) -> tuple[CocoDataset, CocoDataset]:
    """The training and the validation dataset."""
    keypoints = config.task == "landmarks"
    training = read_coco(config.data.train, keypoints=keypoints)
    if config.data.val_share:
        return hold_out(training, config.data.val_share)
    return training, read_coco(config.data.val, keypoints=keypoints)


def anchors_of_run(run: Run, dataset: Dataset, training: CocoDataset) -> AnchorSet:
    """The anchors of a run on boxes, for its training data."""
    config = config_of(run, dataset, Path("unused"), f"model.levels={','.join(map(str, dataset.strides))}")
    if config.model.anchors == POINTS_AS_ANCHORS and (points := training_anchors(config, training)):
        return points
    instances = ResizedInstances.of(training, config.data.resize)
    return choose_anchors(VARIANTS[run.variant].anchors or run.variant, dataset, instances)


def rule_of_run(run: Run, config: TrainConfig) -> Matcher:
    """How the anchors of a run on boxes are matched."""
    return ResponsiblePredictor() if run.variant == FREE else matching_rule(config)


def choose_anchors(variant: str, dataset: Dataset, instances: ResizedInstances) -> AnchorSet:
    """The anchors of a box variant, for the training instances."""
    resize = str(instances.rule)
    if variant == "default":
        return replace(load_anchors("retinanet"), resize=resize)
    if variant == FREE:
        return free_priors(dataset.strides, PER_CELL, resize=resize)
    if variant == "stride-rule":
        return _by_stride(dataset.rule_strides, resize)
    if variant == "kmeans":
        return fit_anchors(instances, k=9, method="kmeans", strides=dataset.strides)
    return fit_levels(instances, dataset.strides, **FITS.get(variant, {"per_level": PER_CELL})).anchors


def _by_stride(strides: Sequence[int], resize: str) -> AnchorSet:
    """Sizes of 2, 2.5 and 3.2 strides by three ratios."""
    sizes = [[2 * stride * 2 ** (step / 3) for step in range(3)] for stride in strides]
    return replace(
        AnchorGenerator.of_sizes(sizes, (0.5, 1.0, 2.0), strides, convention="effdet").anchors, resize=resize
    )


def anchor_numbers(
    anchors: AnchorSet, instances: ResizedInstances, config: TrainConfig, matcher: Matcher
) -> dict[str, Any]:
    """Numbers of the anchors that are known before training, on the validation instances; points have no overlaps."""
    canvas_wh = instances.rule.resize_images(instances.dataset.images.wh).canvas_wh
    costs = level_costs(canvas_wh, anchors, _head_size(instances.dataset, config))
    overlaps: dict[str, Any] = {}
    if config.model.anchors != POINTS_AS_ANCHORS:
        score = anchor_metrics(instances, anchors)
        names = ("average_iou", "grid_average_iou")
        overlaps = {name: getattr(score, name) for name in names} | {"grid_recall": score.grid_recall(COVERED)}
    return {
        **overlaps,
        "positives": assign(instances, AnchorGenerator(anchors), matcher).overall.positives,
        "anchors": sum(cost.anchors for cost in costs),
        "gflops": sum(cost.flops for cost in costs) / 1e9,
    }


def _head_size(dataset: CocoDataset, config: TrainConfig) -> HeadSize:
    model = config.model
    return HeadSize(len(dataset.categories), in_channels=model.pyramid_channels, num_convs=model.num_convs)


def build_variant(
    variant: str,
    built: list[Detector],
    config: TrainConfig,
    labels: LabelMap,
    *,
    bands: SizeBands | None = None,
    **options: Any,
) -> Detector:
    """Build the detector of a variant and append it to ``built``."""
    if variant in {SLOTS, SORTED_SLOTS}:
        with torch.random.fork_rng(devices=[]):
            backbone = build_backbone(
                config.model.backbone, strides=BACKBONE_STRIDES, in_channels=config.data.channels, seed=config.seed
            )
        normalised = {"mean": options["mean"], "std": options["std"]}
        is_sorted = variant == SORTED_SLOTS
        detector: Detector = SlotDetector(backbone, is_sorted=is_sorted, **normalised, seed=config.seed + 1)
    else:
        detector = build_detector(config, labels, **options)
    if isinstance(detector, RetinaNetDetector):
        if variant == FREE:
            detector.criterion.matcher = ResponsiblePredictor()
        if bands:
            detector.criterion = BandedCriterion(detector.criterion, bands)
    built.append(detector)
    return detector


def _scored(task: str, inputs: Inputs, results: CocoResults) -> tuple[dict[str, Any], Arrays]:
    """The scores of a row, and the arrays they are computed from."""
    if inputs.val is None:
        raise ValueError("nothing to validate on")
    if task == BOXES:
        arrays = packed_boxes(results)
        ap, ap50 = BoxMatches.of(inputs.val.dataset, unpacked_boxes(arrays)).average_precision()
        return {"ap": ap, "ap50": ap50}, arrays
    counts = point_counts(coco_keypoints(inputs.val.dataset), results)
    return dict(zip(("f1_3px", "f1_5px", "count_mae"), point_scores(counts), strict=True)), {
        "counts": counts.astype(np.uint16)
    }


def _curve(folder: Path, task: str) -> Any:
    """Rows of epoch, seconds of training until its end, and AP or F1 at 5 px; every epoch counts as the median epoch."""
    seconds = median(row["seconds"] for row in read_log(folder / "epochs.csv"))
    name = "ap" if task == BOXES else "f1_5px"
    rows = [(row["epoch"], row["epoch"] * seconds, row.get(name, 0.0)) for row in read_log(folder / "validation.csv")]
    return np.array(rows, np.float32)


def _without_learning(run: Run, dataset: Dataset) -> Outcome:
    """A classical method, tuned on the training images alone."""
    config = config_of(run, dataset, Path("unused"), "augment.enabled=false")
    inputs = read_inputs(config)
    if inputs.val is None:
        raise ValueError(f"{run.dataset}: nothing to validate on")
    results, detail = (_blobs if run.variant == BLOBS else _otsu)(
        config, inputs, _grey(inputs.train), _grey(inputs.val)
    )
    scores, arrays = _scored(config.task, inputs, results)
    return Outcome(Row(run.dataset, run.variant, run.epochs, run.seed, **scores, detail=detail), arrays)


def _grey(data: DetectionData) -> list[Float64[ndarray, "_ _"]]:
    return [data[row].image.mean(dim=0).double().numpy() for row in range(len(data))]


def _otsu(config: TrainConfig, inputs: Inputs, training: Images, validation: Images) -> tuple[CocoResults, str]:
    """Otsu's method with the blur and smallest area of the highest AP, or of the highest F1 at 5 px."""
    by_sigma = {sigma: [find_components(image, sigma) for image in training] for sigma in SIGMAS_PX}

    def score(tuning: Tuning) -> float:
        found = [each.at_least(tuning.least_area_px) for each in by_sigma[tuning.sigma_px]]
        return _tuned_for(config.task, inputs.train, _results(inputs.labels, found))

    best = max(TUNINGS, key=score)
    return _results(inputs.labels, find_all(validation, best)), str(best)


def _blobs(config: TrainConfig, inputs: Inputs, training: Images, validation: Images) -> tuple[CocoResults, str]:
    """A Laplacian of Gaussian with the scale, polarity and threshold of the highest F1 at 5 px."""
    truth = coco_keypoints(inputs.train.dataset, pixel_origin=config.data.pixel_origin).landmarks.per_image()
    detector = fit_blob_detector(training, truth, radius=RADII_PX[1], pixel_origin=config.data.pixel_origin)
    found = [detector.predict(image) for image in validation]
    components = [Components(np.zeros((len(xy), 4)), xy, scores, np.zeros(len(xy))) for xy, scores in found]
    detail = f"{detector.polarity} blobs, sigma {detector.sigma:.3g} px, threshold {detector.threshold:.3g}"
    return _results(inputs.labels, components), detail


def _tuned_for(task: str, data: Any, results: CocoResults) -> float:
    if task == BOXES:
        return BoxMatches.of(data.dataset, results).average_precision()[0]
    return point_scores(point_counts(coco_keypoints(data.dataset), results))[1]


def _results(labels: LabelMap, found: list[Components]) -> CocoResults:
    """Results of the images of a dataset, in its order; images are not resized."""
    counts = [len(each.scores) for each in found]
    rows = np.repeat(np.arange(len(found)), counts)
    boxes = np.concatenate([each.boxes for each in found])
    boxes[:, 2:] -= boxes[:, :2]
    scores = np.concatenate([each.scores for each in found])
    results = box_results(rows, np.full(len(rows), labels.category_ids[0]), scores, boxes)
    centroids = np.concatenate([each.centroids for each in found])
    points = tuple(np.array([[x, y, 1.0]]) for x, y in centroids.tolist())
    return replace(results, keypoints=points)
