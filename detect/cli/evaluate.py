"""``detect evaluate``: how good a trained detector, or a file of results, is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from detect.cli.evaluation_subject import Subject

Task = Literal["boxes", "landmarks"]
Pixel = Literal["center", "corner"]


def evaluate(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="[RUN] FILES",
            help="A run's folder or a checkpoint, then COCO annotation files; without files those the run validates on. "
            "With --results only annotation files.",
        ),
    ],
    results: Annotated[Path | None, typer.Option(help="COCO results to score, instead of running a detector.")] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of the images.")] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Folder for metrics.json, curves.csv, report.html, results.json."),
    ] = None,
    task: Annotated[
        Task | None, typer.Option(help="What results are; by default boxes, unless they have keypoints and no boxes.")
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(help="Keypoints of this score or more count; by default the detector's own, of results all."),
    ] = None,
    radii: Annotated[str, typer.Option(help="A landmark is found within so many image pixels.")] = "1,2,3,5",
    pixel_origin: Annotated[
        Pixel, typer.Option(help="With --results, of keypoints: pixel i has its centre at i, or its left corner.")
    ] = "center",
    batch_size: Annotated[int, typer.Option(min=1, max=65_536, help="Images at once.")] = 16,
    device: Annotated[str, typer.Option(help="To run the detector on, such as cuda.")] = "cpu",
    pictures: Annotated[int, typer.Option(min=0, max=400, help="How many images the report shows.")] = 12,
    picture_score: Annotated[float, typer.Option(min=0, max=1, help="Results of this score or more are drawn.")] = 0.3,
    skip_broken: Annotated[
        bool | None,
        typer.Option(
            help="Leave out images that cannot be read, and say which; by default as the run's data.on_broken."
        ),
    ] = None,
    strict: Annotated[
        bool, typer.Option(help="Make the first annotation or result that cannot be used an error.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
) -> None:
    """Score a detector: COCO's twelve numbers for boxes, F1, AP and counts for landmarks.

    `detect evaluate runs/nuclei val.json --images images -o evaluation` runs the best checkpoint of a run over the images;
    `detect evaluate --results results.json val.json` scores what any detector has found. Numbers of boxes are pycocotools'.
    """
    from detect.cli import evaluation_results, evaluation_subject
    from detect.cli.output import console, numbers, print_json, save
    from detect.errors import CocoError

    at = numbers(radii, "--radii", least=0.01)
    if results is not None:
        subject = evaluation_subject.of_results(
            results, paths, images, task=task, pixel_origin=pixel_origin, strict=strict
        )
    else:
        subject = evaluation_subject.of_detector(
            paths, images, device=device, batch_size=batch_size, strict=strict, skip_broken=skip_broken
        )
    evaluation = subject.evaluate(at, threshold)
    if strict and evaluation.invalid:
        raise CocoError(str(evaluation.invalid[0]))
    if json:
        print_json(evaluation.to_dict())
    else:
        evaluation_results.print_evaluation(evaluation, console())
    if output:
        source = evaluation_results.Source(subject.name, subject.images, pictures, picture_score)
        made = evaluation_results.files_of(evaluation, source, subject.drawer(picture_score))
        save(output, {**_found(subject, results is None), **made})


def _found(subject: Subject, by_detector: bool) -> dict[str, str | bytes]:
    from detect.data.coco_results import results_json

    return {"results.json": results_json(subject.results, subject.dataset)} if by_detector else {}
