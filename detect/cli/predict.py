"""``detect predict``: what a trained detector finds in image files, as COCO results and pictures."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from detect.cli.heatmap_peaks import PointFormat
from detect.cli.options import AsJson, BatchSize, Checkpoint, Confidence, Device, PictureScore, Slice, Turns
from detect.cli.output import note, print_answer, progress_over, save, show, warn_of_older
from detect.wording import plural

if TYPE_CHECKING:
    from detect.cli.detectors import ResultMarks
    from detect.loading.dataset import DetectionData
    from detect.training.checkpoints import TrainedDetector


def predict(
    checkpoint: Checkpoint,
    images: Annotated[list[Path], typer.Argument(help="Image files, and folders of them; or one slide.")],
    output: Annotated[
        Path,
        typer.Option("-o", "--output", help="Folder for results.json, images.json and pictures, or for points."),
    ] = Path("predictions"),
    picture_score: PictureScore = None,
    num_pictures: Annotated[
        int | None, typer.Option(min=0, help="Number of images to draw the results on. Default: all.")
    ] = None,
    on_broken: Annotated[
        Literal["fail", "skip"], typer.Option(help="Images that cannot be read: fail, or skip them and print which.")
    ] = "fail",
    confidence: Confidence = 0.9,
    count_file: Annotated[
        Path | None,
        typer.Option(
            "--counts",
            help="Calibration of counts, as `detect evaluate` writes it: counts.json or its folder. Default: the run's own.",
        ),
    ] = None,
    tiles: Slice = None,
    turns: Turns = False,
    to: Annotated[
        PointFormat | None,
        typer.Option("--to", help="Format of a slide's points: csv (the default), napari, geojson (QuPath), coco."),
    ] = None,
    batch_size: BatchSize = 16,
    device: Device = "cpu",
    json: AsJson = False,
) -> None:
    """Find objects in images: COCO results and pictures.

    `detect predict runs/nuclei photos -o predictions` writes `results.json`, COCO results with all scores above the model's
    threshold, `images.json`, the images and categories they refer to, and `pictures/`, images with the boxes or points
    found in them. Images are turned upright as their EXIF orientation says, and coordinates are those of the upright image.

    If the counts of a run on landmarks are calibrated, which evaluating it does, `counts.csv` has the number of
    points in each image and in all together, with intervals, and the probability that an image has any.

    A slide (zarr, OME-TIFF, or a TIFF too large to open) is read in tiles by a run on landmarks: `detect predict runs/nuclei
    slide.zarr --to geojson -o points`. The points are those of the whole slide if the network's answer depends on pixels
    nearby, which is measured and said. The same command continues a run that was interrupted.
    """
    from detect.cli import counts
    from detect.cli.detectors import ResultMarks, load_on, open_images, run_detector
    from detect.cli.predict_slides import predict_slide, slide_among
    from detect.data.coco_results import results_json
    from detect.loading.image_files import dataset_from_files, images_json

    of_images = {
        "turns": turns,
        "on_broken": on_broken != "fail",
        "confidence": confidence != 0.9,
        "counts": count_file,
    }
    slide = slide_among(images, to, **of_images, picture_score=picture_score, num_pictures=num_pictures)
    trained = load_on(checkpoint, device)
    if slide is not None:
        predict_slide(
            trained,
            slide,
            output,
            to=to or "csv",
            tiles=tiles,
            shown=_picture_score(None, trained),
            device=device,
            json=json,
        )
        return
    saved = counts.SavedCounts.find(trained, count_file, counts.reading_of(tiles, turned=turns), confidence=confidence)
    dataset, folder = dataset_from_files(images, trained.labels)
    data = open_images(trained, dataset, folder, on_broken=on_broken)
    results = run_detector(trained, data, device=device, batch_size=batch_size, tiles=tiles, turned=turns)
    files = {"results.json": results_json(results, dataset), "images.json": images_json(data.without_broken().files)}
    counted = counts.count_found(results, data.dataset, data.image_rows, trained.labels, saved, confidence=confidence)
    save(output, {**files, **counted.files()})
    picture_score, reason = _picture_score(picture_score, trained)
    if num_pictures != 0:
        own = trained.config.data
        marks = ResultMarks(dataset, results, picture_score, None, own.pixel_origin, own.orientation)
        _draw(output / "pictures", data, marks, num_pictures or len(data))
    found = {"images": len(data), "skipped": len(data.broken), "results": len(results.scores)}
    drawn = int((results.scores >= picture_score).sum())
    text = (
        f"{plural(found['results'], 'result')} in {plural(found['images'], 'image')}, {drawn:,} of score "
        f"{picture_score:.3g} or more{reason}"
    )
    content = {**found, "picture_score": picture_score, "output": str(output), **counted.to_dict()}
    print_answer(json, lambda: content, lambda: show(text, soft_wrap=True))
    if not json:
        counted.show()


def _picture_score(given: float | None, trained: TrainedDetector) -> tuple[float, str]:
    """The lowest score of drawn results, and where it is from."""
    from detect.evaluation.precision_recall import USUAL_SCORE

    if given is not None:
        return given, ""
    if trained.best_threshold is None:
        return USUAL_SCORE, "; the run has no best threshold"
    return trained.best_threshold, ", the threshold of the highest F1 on the run's validation data"


def _draw(folder: Path, data: DetectionData, marks: ResultMarks, count: int) -> None:
    """Draw and write one picture after the other, of images evenly spread over the data."""
    from detect.cli.detectors import spread_evenly
    from detect.report.pictures import detection_picture

    names = picture_names(data.dataset.images.file_names)
    rows = spread_evenly(data.image_rows, count)
    for row in progress_over(rows, "drawing"):
        stream = io.BytesIO()
        detection_picture(data.files.open(row), marks.predicted(row)).save(stream, "PNG")
        save(folder, {names[row]: stream.getvalue()}, quiet=True)
    note(f"wrote {plural(len(rows), 'picture')} to {folder}")
    warn_of_older(folder, "**/*.png", {names[row] for row in rows})


def picture_names(file_names: Sequence[str]) -> list[str]:
    """Names that end in .png; images that would share a name keep their own ending too.

    >>> picture_names(["a/cell.jpg", "a/cell.tif", "b/cell.jpg"])
    ['a/cell.jpg.png', 'a/cell.tif.png', 'b/cell.png']
    """
    short = [PurePosixPath(name).with_suffix(".png").as_posix() for name in file_names]
    times = Counter(short)
    return [each if times[each] == 1 else f"{name}.png" for each, name in zip(short, file_names, strict=True)]
