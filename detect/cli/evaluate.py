"""``detect evaluate``: scores of a trained detector, or of a file of results."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from detect.cli.options import (
    AsJson,
    BatchSize,
    DatasetFiles,
    Device,
    Images,
    NumPictures,
    Output,
    PictureScore,
    PixelOrigin,
    Radius,
    Threshold,
)
from detect.errors import ConfigError

if TYPE_CHECKING:
    from detect.cli.detectors import ResultMarks
    from detect.data import CocoDataset, CocoResults
    from detect.keypoints.keypoints import CocoKeypoints
    from detect.training.checkpoints import TrainedDetector

Task = Literal["boxes", "landmarks"]
OnBroken = Literal["fail", "skip"]
CURVE_MIN_SCORE = 0.05  # landmarks of this score or more make the curves; counts use the detector's threshold


@dataclass(frozen=True)
class OptionalFiles(DatasetFiles):
    """Annotation files that a run may stand in for."""

    files: Annotated[
        list[str],
        typer.Argument(metavar="FILES", help="COCO annotation files or patterns. Default: the run's validation files."),
    ] = ()  # type: ignore[assignment]


def evaluate(
    *,
    run: Annotated[
        Path | None,
        typer.Option(help="A run's folder or a checkpoint; also accepted before FILES, without --run."),
    ] = None,
    results: Annotated[Path | None, typer.Option(help="COCO results to score instead of running a detector.")] = None,
    images: Images = None,
    output: Output = None,
    task: Annotated[
        Task | None, typer.Option(help="Kind of --results. Default: boxes, unless they have keypoints and no boxes.")
    ] = None,
    threshold: Threshold = None,
    radius: Radius = None,
    pixel_origin: PixelOrigin = "center",
    batch_size: BatchSize = 16,
    device: Device = "cpu",
    num_pictures: NumPictures = 12,
    picture_score: PictureScore = 0.3,
    on_broken: Annotated[
        OnBroken | None, typer.Option(help="Images that cannot be read: fail, or skip them. Default: as the run does.")
    ] = None,
    dataset: OptionalFiles,
    json: AsJson = False,
) -> None:
    """Score a detector: COCO's twelve numbers for boxes; F1, AP and counts for landmarks.

    `detect evaluate val.json --run runs/nuclei --images images -o evaluation` runs the best checkpoint of a run over the
    images; `detect evaluate val.json --results results.json` scores the results of any detector. Numbers of boxes are
    pycocotools' own; landmarks are scored at 1, 2, 3 and 5 px unless --radius is given, as `heatmaps score` does.
    """
    from detect.cli import evaluation_results
    from detect.cli.output import console, print_json, save
    from detect.data.coco_results import results_json

    if run is None and results is None:
        run, files = _run_before_files(dataset.files)
        dataset = replace(dataset, files=files)
    if run is not None and results is not None:
        raise ConfigError("--run and --results: give one of the two")
    if results is not None:
        name, own_threshold = str(results), None
        marks = _read_marks(results, dataset, task=task, pixel_origin=pixel_origin, min_score=picture_score)
    else:
        trained, images, marks = _run_marks(
            run, dataset, images, device, batch_size, on_broken=on_broken, min_score=picture_score
        )
        name = trained.name
        own_threshold = None if marks.landmarks is None else float(trained.config.model.threshold)
    evaluation = evaluation_results.evaluate_results(
        marks.results,
        marks.dataset,
        marks.landmarks,
        threshold=own_threshold if threshold is None else threshold,
        radii=radius,
    )
    evaluation_results.check_invalid(evaluation, marks.results, name, dataset)
    if json:
        print_json(evaluation.to_dict())
    else:
        evaluation_results.print_evaluation(evaluation, console())
    if output:
        made = evaluation_results.files_of(evaluation, marks, name=name, images=images, num_pictures=num_pictures)
        own = {"results.json": results_json(marks.results, marks.dataset)} if results is None else {}
        save(output, {**own, **made})


def _run_before_files(files: list[str]) -> tuple[Path, list[str]]:
    """A run's folder or a checkpoint, given as the first of the files, and the others."""
    if files and (Path(files[0]).is_dir() or files[0].endswith(".pt")):
        return Path(files[0]), files[1:]
    first = f"{files[0]} is neither a run's folder nor a checkpoint (.pt): " if files else ""
    raise ConfigError(f"{first}give --run RUN, or --results FILE to score results")


def _read_marks(
    path: Path, files: DatasetFiles, *, task: Task | None, pixel_origin: str, min_score: float
) -> ResultMarks:
    """The results of a file beside their dataset."""
    from detect.cli.detectors import ResultMarks
    from detect.data import read_results
    from detect.keypoints.keypoints import coco_keypoints

    if not files.files:
        raise ConfigError("--results: needs the annotation files as well: detect evaluate FILES --results FILE")
    dataset = files.read(keypoints=task == "landmarks")
    results = read_results(path, dataset)
    if task is None and _are_points(results):
        task, dataset = "landmarks", files.read(keypoints=True)
    landmarks = coco_keypoints(dataset, pixel_origin=pixel_origin) if task == "landmarks" else None
    return ResultMarks(dataset, results, min_score, landmarks, pixel_origin if landmarks else "center")


def _are_points(results: CocoResults) -> bool:
    import numpy as np

    return any(map(len, results.keypoints)) and bool(np.isnan(results.boxes_xywh).all())


def _run_marks(
    run: Path | None,
    files: DatasetFiles,
    images: Path | None,
    device: str,
    batch_size: int,
    *,
    on_broken: str | None,
    min_score: float,
) -> tuple[TrainedDetector, Path, ResultMarks]:
    """The detector of a run, the folder of the images, and what the detector finds there."""
    from detect.cli.detectors import ResultMarks, load_on, open_images, run_detector
    from detect.training.inputs import validation_folder

    trained = load_on(run or Path(), device)
    if files.files and images is None:
        raise ConfigError("--images: needed, the folder of the images that the annotation files name")
    dataset = (
        files.read(keypoints=trained.task == "landmarks") if files.files else _validation_data(trained, files.strict)
    )
    trained.labels.check_names(dataset)
    folder = images or validation_folder(trained.config)
    landmarks = _learned_landmarks(trained, dataset)
    data = open_images(trained, dataset, folder, on_broken=on_broken, landmarks=landmarks).without_broken()
    floor = None if landmarks is None else min(CURVE_MIN_SCORE, float(trained.config.model.threshold))
    results = run_detector(trained, data, device=device, batch_size=batch_size, score_threshold=floor)
    pixel_origin = "center" if landmarks is None else landmarks.pixel_origin
    return trained, folder, ResultMarks(data.dataset, results, min_score, data.keypoints, pixel_origin)


def _validation_data(trained: TrainedDetector, strict: bool) -> CocoDataset:
    from detect.cli.output import reading_bar
    from detect.training.inputs import read_validation

    with reading_bar() as on_progress:
        dataset = read_validation(trained.config, strict=strict, on_progress=on_progress)
    if dataset is None:
        raise ConfigError(f"{trained.name}: the run has no validation data: give annotation files")
    return dataset


def _learned_landmarks(trained: TrainedDetector, dataset: CocoDataset) -> CocoKeypoints | None:
    """The points of a dataset, numbered as the detector learned them; None for a detector of boxes."""
    from detect.keypoints.keypoints import coco_keypoints

    if trained.task != "landmarks":
        return None
    points = coco_keypoints(dataset, pixel_origin=trained.config.data.pixel_origin)
    return points.with_types(trained.labels.type_names, trained.labels.category_types)
