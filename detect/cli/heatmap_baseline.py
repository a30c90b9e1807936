"""``detect heatmaps baseline``: landmarks found without learning, as the score that a trained detector has to beat."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer

from detect.cli.options import AsJson, DatasetFiles, Output, PointOptions, Radius
from detect.cli.output import print_answer, save, show
from detect.errors import ConfigError


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
    from detect.cli.baselines import grey_images, results_of
    from detect.cli.evaluation_results import choose_radius, evaluate_results, print_evaluation
    from detect.data.coco_results import results_json
    from detect.detectors.blob_detector import fit_blob_detector

    images = dataset.images
    if images is None:
        raise ConfigError("--images: needed, the folder of the training images")
    points = replace(points, merge=True)
    train, truth = points.read(dataset), points.read(replace(dataset, files=validation, images=val_images or images))
    grey, places = list(grey_images(train.dataset, images)), train.landmarks.per_image()
    detector = fit_blob_detector(grey, places, radius=choose_radius(radius), pixel_origin=train.pixel_origin)
    category = next(iter(truth.category_types))
    found = [detector.candidates(image) for image in grey_images(truth.dataset, val_images or images)]
    results = results_of(category, [scores for _, scores in found], points=[xy for xy, _ in found])
    truth = replace(truth, category_types={category: (0,)})  # one point per result, whatever the annotations have
    evaluation = evaluate_results(results, truth.dataset, truth, radii=radius, threshold=detector.threshold)
    content = {"detector": asdict(detector), **evaluation.to_dict()}
    print_answer(json, lambda: content, lambda: print_evaluation(evaluation))
    if not json:
        show(f"{detector}, F1 {detector.f1:.4f} on the training images")
    if output:
        save(output, {"results.json": results_json(results, truth.dataset)})
