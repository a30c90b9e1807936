"""``detect evaluate``: scores of a trained detector, or of a file of results."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

import detect
from detect.cli import options
from detect.cli.output import note, print_answer, reading_bar, save
from detect.errors import ConfigError
from detect.files import is_folder
from detect.wording import plural

if TYPE_CHECKING:
    from detect.cli.detectors import ResultMarks
    from detect.report.evaluation_page import ScoreRow
    from detect.training.checkpoints import TrainedDetector

Task = Literal["boxes", "landmarks"]
MISSING_SHARE, BEYOND_SHARE = 0.1, 0.5  # warn above these shares: images without a result, boxes beyond their image
READ_AS = ("bbox", "exif", "ignore_category")  # options of how files are read


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
    unlabelled: options.UnlabelledScore = "ignore",
    pixel_origin: options.PixelOrigin = "center",
    confidence: options.Confidence = 0.9,
    empty_images: options.EmptyImages = "apart",
    microns_per_pixel: options.MicronsPerPixel = None,
    orientation: options.Orientation = "none",
    tiles: options.Slice = None,
    turns: options.Turns = False,
    baseline: Annotated[
        bool,
        typer.Option(
            "--baseline",
            help="Add a row without learning, fitted to the run's training images: blobs, or Otsu components.",
        ),
    ] = False,
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
    images, exactly as predict does; `detect evaluate val.json --results results.json` scores the results of any
    detector. Numbers of boxes are pycocotools' own; landmarks are scored at 1, 2, 3 and 5 px unless --radius is given, as
    `heatmaps score` does. Counts of landmarks get calibrated intervals, tested on images that they were not made on; the run
    keeps those of its own validation images, in `counts.json`, for `predict`.
    """
    from detect.cli import evaluation_results
    from detect.cli.counts import CountReport, keep_counts, reading_of
    from detect.data.coco_results import results_json

    run, dataset = _run_and_files(run, results, dataset, baseline=baseline)
    trained, images, name = None, dataset.images, str(results)
    if run is None:
        marks = _read_marks(results or Path(), dataset, task, pixel_origin=pixel_origin, orientation=orientation)
    else:
        how: dict[str, Any] = {"device": device, "batch_size": batch_size, "tiles": tiles, "turned": turns}
        trained, images, marks = _run_marks(run, dataset, on_broken, **how)
        name, picture_score = trained.name, trained.best_threshold if picture_score is None else picture_score
    scored: dict[str, Any] = {"radii": radius, **_of_landmarks(marks, unlabelled=unlabelled)}
    evaluation = evaluation_results.evaluate_results(
        marks.results, marks.dataset, marks.landmarks, threshold=threshold, min_score=picture_score, **scored
    )
    marks = replace(marks, min_score=evaluation.confusion.threshold)
    evaluation = evaluation_results.check_invalid(evaluation, marks.results, name, dataset)
    tables, content = evaluation_results.tables_of(evaluation), evaluation.to_dict()
    counted = CountReport.of(
        marks,
        unlabelled=unlabelled,
        confidence=confidence,
        empty=empty_images,
        microns_per_pixel=microns_per_pixel,
        threshold=threshold,
    )
    tables, content = tables + counted.tables, content | counted.content
    if baseline and trained:
        rows, content["baseline"] = _baseline(trained, marks, images or Path(), **scored)
        tables[0] = replace(tables[0], rows=tables[0].rows + rows)
    print_answer(
        json, lambda: content, lambda: evaluation_results.print_evaluation(evaluation, tables, counted.lines())
    )
    files = {} if trained is None else counted.files(trained, marks, reading_of(tiles, turned=turns))
    if trained and not dataset.files:
        keep_counts(trained, files)
    if output:
        files |= {"results.json": results_json(marks.results, marks.dataset)} if trained else {}
        files |= evaluation_results.files_of(
            evaluation,
            marks,
            name=name,
            images=images,
            num_pictures=num_pictures,
            tables=tables,
            metrics=content,
            counts_by_image=counted.panels(),
        )
        save(output, files)


def _of_landmarks(marks: ResultMarks, *, unlabelled: str) -> dict[str, str]:
    """Options of scores for landmarks alone."""
    if marks.landmarks is None and unlabelled != "ignore":
        raise ConfigError("--unlabelled: only for landmarks")
    return {} if marks.landmarks is None else {"unlabelled": unlabelled}


def _run_and_files(
    run: Path | None, results: Path | None, files: OptionalFiles, *, baseline: bool
) -> tuple[Path | None, OptionalFiles]:
    """The run, which may stand before the files, and the files after it; without a run, results are scored."""
    if run is not None and results is not None:
        raise ConfigError("--run and --results: give one of the two")
    if run is None and results is None:
        first = files.files[0] if files.files else ""
        if not first or not (is_folder(first) or first.endswith(".pt")):
            words = f"{first} is neither a run's folder nor a checkpoint (.pt): " if first else ""
            raise ConfigError(f"{words}give --run RUN, or --results FILE to score results")
        return Path(first), replace(files, files=files.files[1:])
    if run is None and baseline:
        raise ConfigError(
            "--baseline: is fitted to a run's training images: give --run RUN; see detect heatmaps baseline"
        )
    return run, files


def _baseline(
    trained: TrainedDetector, marks: ResultMarks, images: Path, **scored: Any
) -> tuple[tuple[ScoreRow, ...], dict[str, Any]]:
    """The rows of a method without learning below those of the detector, and the same for JSON."""
    from detect.cli.baselines import without_learning
    from detect.cli.evaluation_results import evaluate_results, tables_of

    method, results = without_learning(trained, marks.dataset, images, marks.landmarks)
    evaluation = evaluate_results(results, marks.dataset, marks.landmarks, **scored)
    note(f"without learning: {method}")
    own = tables_of(evaluation)[0].rows
    rows = tuple((f"{name}, without learning", *scores) for name, *scores in own)
    return rows, {"method": method, **evaluation.to_dict()}


def _read_marks(path: Path, files: options.DatasetFiles, task: Task | None, **how: Any) -> ResultMarks:
    import numpy as np

    from detect.cli.detectors import ResultMarks

    if not files.files:
        raise ConfigError("--results: needs the annotation files as well: detect evaluate FILES --results FILE")
    of_points = {"keypoints": True, "angles": how["orientation"] != "none"}
    dataset = files.read(**of_points) if task == "landmarks" else files.read()
    results = detect.read_results(path, dataset)
    if task is None and any(map(len, results.keypoints)) and np.isnan(results.boxes_xywh).all():
        task, dataset = "landmarks", files.read(**of_points)
    if not results.invalid:  # they are reported later, and are the likelier cause
        _note_odd(results, dataset)
    landmarks = options.note_angles(detect.coco_keypoints(dataset, **how)) if task == "landmarks" else None
    return ResultMarks(dataset, results, 0.0, landmarks, how["pixel_origin"] if landmarks else "center")


def _note_odd(results: detect.CocoResults, dataset: detect.CocoDataset) -> None:
    """Name what usually is a mistake in a file of results, though each entry can be read."""
    import numpy as np

    labelled = np.unique(dataset.annotations.image_rows)
    missing = len(np.setdiff1d(labelled, results.image_rows))
    if missing > MISSING_SHARE * len(labelled):
        note(f"warning: {missing:,} of {plural(len(labelled), 'image')} with annotations have no result")
    ends = results.boxes_xywh[:, :2] + results.boxes_xywh[:, 2:]
    beyond = int((ends > dataset.images.wh[results.image_rows] + 1).any(axis=1).sum())
    if beyond > BEYOND_SHARE * len(ends):
        note(
            f"warning: {beyond:,} of {plural(len(ends), 'box')} end beyond their image: results hold x, y, width, height, "
            "not corners"
        )


def _own_validation(trained: TrainedDetector, *, strict: bool) -> detect.CocoDataset:
    """The images that the run validates on."""
    from detect.training.inputs import read_validation, validation_files

    options.note_fetched(validation_files(trained.config))
    with reading_bar() as on_progress:
        validation = read_validation(trained.config, strict=strict, on_progress=on_progress)
    if validation is None:
        raise ConfigError(f"{trained.name}: the run has no validation data: give annotation files")
    return validation


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
    from detect.training.inputs import IGNORE_OPTION, validation_folder

    trained = load_on(run, device)
    own = trained.config.data
    if files.files:
        if files.images is None:
            raise ConfigError("--images: needed, the folder of the images that the annotation files name")
        of_points = trained.task == "landmarks"
        columns = {"keypoints": of_points, "angles": of_points and own.orientation != "none"}
        dataset = replace(files, exif=files.exif or own.exif).read(**columns)
        dataset = dataset.without_categories(own.ignore_categories, IGNORE_OPTION)
    else:
        if given := [name for name in READ_AS if getattr(files, name) != getattr(OptionalFiles, name)]:
            names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            raise ConfigError(
                f"{names}: the run's own validation data is read as in training; give FILES to read others"
            )
        dataset = _own_validation(trained, strict=files.strict)
    trained.labels.check_names(dataset)
    folder = files.images or validation_folder(trained.config)
    landmarks = None
    if trained.task == "landmarks":  # numbered as the detector learned them
        points = detect.coco_keypoints(dataset, pixel_origin=own.pixel_origin, orientation=own.orientation)
        landmarks = options.note_angles(points).with_types(trained.labels.type_names, trained.labels.category_types)
    data = open_images(trained, dataset, folder, on_broken=on_broken, landmarks=landmarks).without_broken()
    results = run_detector(trained, data, device=device, **how)
    pixel_origin = landmarks.pixel_origin if landmarks else "center"
    return trained, folder, ResultMarks(data.dataset, results, 0.0, data.keypoints, pixel_origin)
