"""``detect heatmaps baseline``: landmarks found without learning, as the score that a trained detector has to beat."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detect.cli.options import AsJson, DatasetFiles, Output, PointOptions, Radius
from detect.cli.output import print_answer, progress_over, save, show
from detect.errors import ConfigError

if TYPE_CHECKING:
    from numpy import ndarray

    from detect.data import CocoDataset, CocoResults


def baseline(
    *,
    validation: Annotated[list[str], typer.Option(help="Labels of the images to score on; repeatable.")],
    val_images: Annotated[
        Path | None, typer.Option(help="Folder of the validation images. Default: that of the training images.")
    ] = None,
    radius: Radius = None,
    points: PointOptions,
    output: Output = None,
    dataset: DatasetFiles,
    json: AsJson = False,
) -> None:
    """Score a blob detector without learning: a Laplacian of Gaussian, fitted on training images, scored on others.

    `detect heatmaps baseline train.json --images images --validation val.json -o baseline`

    Scale, polarity and threshold are those of the highest F1 on the training images, at the one --radius, else at 3 px; all
    points are one type. Scores are those of `heatmaps score`, and -o writes `results.json`, which that command reads.
    """
    from detect.cli.evaluation_results import choose_radius, evaluate_results, print_evaluation
    from detect.data.coco_results import results_json
    from detect.detectors.blob_detector import fit_blob_detector

    images = dataset.images
    if images is None:
        raise ConfigError("--images: needed, the folder of the training images")
    points = replace(points, merge=True)
    train, truth = points.read(dataset), points.read(replace(dataset, files=validation, images=val_images or images))
    grey, places = _grey_images(train.dataset, images), train.landmarks.per_image()
    detector = fit_blob_detector(grey, places, radius=choose_radius(radius), pixel_origin=train.pixel_origin)
    category = next(iter(truth.category_types))
    found = [detector.candidates(image) for image in _grey_images(truth.dataset, val_images or images)]
    results = _as_results(found, category)
    truth = replace(truth, category_types={category: (0,)})  # one point per result, whatever the annotations have
    evaluation = evaluate_results(results, truth.dataset, truth, radii=radius, threshold=detector.threshold)
    content = {"detector": asdict(detector), **evaluation.to_dict()}
    print_answer(json, lambda: content, lambda: print_evaluation(evaluation))
    if not json:
        blobs = f"{detector.polarity} blobs of sigma {detector.sigma:.3g} px"
        show(f"{blobs}, F1 {detector.f1:.4f} on the training images")
    if output:
        save(output, {"results.json": results_json(results, truth.dataset)})


def _grey_images(dataset: CocoDataset, folder: Path) -> list[ndarray]:
    import numpy as np

    from detect.data.images import ImageFiles

    grey, files = [], ImageFiles(dataset, folder)
    for row in progress_over(range(len(dataset.images)), "reading images"):
        image = files.open(row)
        deep = image.mode.startswith(("I", "F"))  # more than 8 bits, which L would cut off
        grey.append(np.asarray(image.convert("F" if deep else "L"), np.float32))
    return grey


def _as_results(found: list[tuple[ndarray, ndarray]], category: int) -> CocoResults:
    import numpy as np

    from detect.data import CocoResults

    rows = np.repeat(np.arange(len(found)), [len(scores) for _, scores in found])
    scores = np.concatenate([scores for _, scores in found])
    keypoints = tuple(np.array([[x, y, 1.0]]) for xy, _ in found for x, y in xy.tolist())
    categories, no_boxes = np.full(len(rows), category), np.full((len(rows), 4), np.nan)
    return CocoResults(np.arange(len(rows)), rows, categories, scores, no_boxes, keypoints, ())
