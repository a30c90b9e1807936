"""``detect evaluate``: scores of a trained detector, or of a file of results."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

import detect
from detect.cli import options
from detect.cli.output import print_answer, reading_bar, save
from detect.errors import ConfigError

if TYPE_CHECKING:
    from detect.cli.detectors import ResultMarks
    from detect.training.checkpoints import TrainedDetector

Task = Literal["boxes", "landmarks"]


@dataclass(frozen=True)
class OptionalFiles(options.DatasetFiles):
    """Annotation files that a run may stand in for."""

    files: Annotated[
        list[str],
        typer.Argument(metavar="FILES", help="Labels: files, folders or patterns. Default: the run's validation data."),
    ] = ()  # type: ignore[assignment]


def evaluate(
    *,
    run: Annotated[
        Path | None, typer.Option(help="A run's folder or a checkpoint; also accepted before FILES, without --run.")
    ] = None,
    results: Annotated[Path | None, typer.Option(help="COCO results to score instead of running a detector.")] = None,
    output: options.Output = None,
    task: Annotated[
        Task | None, typer.Option(help="Kind of --results. Default: boxes, unless they have keypoints and no boxes.")
    ] = None,
    threshold: options.Threshold = None,
    radius: options.Radius = None,
    pixel_origin: options.PixelOrigin = "center",
    tiles: options.Slice = None,
    batch_size: options.BatchSize = 16,
    device: options.Device = "cpu",
    num_pictures: options.NumPictures = 12,
    picture_score: options.PictureScore = None,
    on_broken: Annotated[
        Literal["fail", "skip"] | None,
        typer.Option(help="Images that cannot be read: fail, or skip them. Default: as the run does."),
    ] = None,
    dataset: OptionalFiles,
    json: options.AsJson = False,
) -> None:
    """Score a detector: COCO's twelve numbers for boxes; F1, AP and counts for landmarks.

    `detect evaluate val.json --run runs/nuclei --images images -o evaluation` runs the best checkpoint of a run over the
    images, exactly as `detect predict` does; `detect evaluate val.json --results results.json` scores the results of any
    detector. Numbers of boxes are pycocotools' own; landmarks are scored at 1, 2, 3 and 5 px unless --radius is given, as
    `heatmaps score` does.
    """
    from detect.cli import evaluation_results
    from detect.data.coco_results import results_json

    if run is None and results is None:
        first = dataset.files[0] if dataset.files else ""
        if not first or not (Path(first).is_dir() or first.endswith(".pt")):
            words = f"{first} is neither a run's folder nor a checkpoint (.pt): " if first else ""
            raise ConfigError(f"{words}give --run RUN, or --results FILE to score results")
        run, dataset = Path(first), replace(dataset, files=dataset.files[1:])
    if run is not None and results is not None:
        raise ConfigError("--run and --results: give one of the two")
    if run is None:
        name, images = str(results), dataset.images
        marks = _read_marks(results or Path(), dataset, task, pixel_origin)
    else:
        trained, images, marks = _run_marks(run, dataset, on_broken, device=device, batch_size=batch_size, tiles=tiles)
        name = trained.name
        picture_score = trained.best_threshold if picture_score is None else picture_score
    evaluation = evaluation_results.evaluate_results(
        marks.results, marks.dataset, marks.landmarks, threshold=threshold, radii=radius, min_score=picture_score
    )
    marks = replace(marks, min_score=evaluation.confusion.threshold)
    evaluation_results.check_invalid(evaluation, marks.results, name, dataset)
    print_answer(json, evaluation.to_dict, lambda: evaluation_results.print_evaluation(evaluation))
    if output:
        made = evaluation_results.files_of(evaluation, marks, name=name, images=images, num_pictures=num_pictures)
        own = {"results.json": results_json(marks.results, marks.dataset)} if results is None else {}
        save(output, {**own, **made})


def _read_marks(path: Path, files: options.DatasetFiles, task: Task | None, pixel_origin: str) -> ResultMarks:
    import numpy as np

    from detect.cli.detectors import ResultMarks

    if not files.files:
        raise ConfigError("--results: needs the annotation files as well: detect evaluate FILES --results FILE")
    dataset = files.read(keypoints=task == "landmarks")
    results = detect.read_results(path, dataset)
    if task is None and any(map(len, results.keypoints)) and np.isnan(results.boxes_xywh).all():
        task, dataset = "landmarks", files.read(keypoints=True)
    landmarks = detect.coco_keypoints(dataset, pixel_origin=pixel_origin) if task == "landmarks" else None
    return ResultMarks(dataset, results, 0.0, landmarks, pixel_origin if landmarks else "center")


def _run_marks(
    run: Path,
    files: options.DatasetFiles,
    on_broken: str | None,
    *,
    device: str,
    **how: Any,
) -> tuple[TrainedDetector, Path, ResultMarks]:
    """The detector of a run, the folder of the images, and what the detector finds there."""
    from detect.cli.detectors import ResultMarks, load_on, open_images, run_detector
    from detect.training.inputs import read_validation, validation_folder

    trained = load_on(run, device)
    if files.files:
        if files.images is None:
            raise ConfigError("--images: needed, the folder of the images that the annotation files name")
        dataset = files.read(keypoints=trained.task == "landmarks")
    else:
        with reading_bar() as on_progress:
            validation = read_validation(trained.config, strict=files.strict, on_progress=on_progress)
        if validation is None:
            raise ConfigError(f"{trained.name}: the run has no validation data: give annotation files")
        dataset = validation
    trained.labels.check_names(dataset)
    folder = files.images or validation_folder(trained.config)
    landmarks = None
    if trained.task == "landmarks":  # numbered as the detector learned them
        points = detect.coco_keypoints(dataset, pixel_origin=trained.config.data.pixel_origin)
        landmarks = points.with_types(trained.labels.type_names, trained.labels.category_types)
    data = open_images(trained, dataset, folder, on_broken=on_broken, landmarks=landmarks).without_broken()
    results = run_detector(trained, data, device=device, **how)
    pixel_origin = landmarks.pixel_origin if landmarks else "center"
    return trained, folder, ResultMarks(data.dataset, results, 0.0, data.keypoints, pixel_origin)
