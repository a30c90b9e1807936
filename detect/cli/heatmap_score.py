"""``detect heatmaps score``: predicted points against true ones, of COCO files or of tables, in images or volumes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import detect
from detect.cli import options
from detect.cli.heatmap_peaks import along_axes
from detect.cli.output import check_not_given, length, note, numbers, print_answer, print_first, show
from detect.errors import CocoError, ConfigError

if TYPE_CHECKING:
    from detect.evaluation.table_scores import TableEvaluation

MAX_RADIUS = 100_000.0


def score(
    *,
    results: Annotated[
        Path,
        typer.Option(
            help="COCO results: a list of image_id, category_id, score, and keypoints (or bbox). Or points in a CSV, as "
            "`peaks` writes them, also of volumes, or a folder of these; FILES are then such tables too."
        ),
    ],
    radius: Annotated[
        list[str] | None,
        typer.Option(
            help="Distance within which a point is found, in image pixels, or for tables in micrometres, as in 0.5um; "
            "repeatable."
        ),
    ] = None,
    spacing: Annotated[
        str | None, typer.Option(help="Micrometres per pixel, one number or x,y[,z], for a --radius in micrometres.")
    ] = None,
    threshold: options.Threshold = None,
    choose: Annotated[
        options.Goal | None,
        typer.Option(
            help="Choose the threshold on this data: best F1 (at the one --radius, else 3 px), or smallest count error."
        ),
    ] = None,
    oks_sigmas: Annotated[
        str | None,
        typer.Option(help="One sigma per keypoint, such as .026,.025: add COCO's keypoint metrics, by pycocotools."),
    ] = None,
    unlabelled: options.UnlabelledScore = "ignore",
    points: options.PointOptions,
    dataset: options.DatasetFiles,
    json: options.AsJson = False,
) -> None:
    """Score predicted points: precision, recall, F1, distance error, AP, count error.

    `detect heatmaps score instances.json --results results.json --radius 3 --choose f1`

    `detect heatmaps score labelled.csv --results points/spots.csv --spacing 0.1,0.1,0.3 --radius 0.5um` for volumes

    Points of an image and type are paired one to one, as many as possible within the radius: 1, 2, 3 and 5 px unless
    --radius is given. Predictions in crowds and on objects whose keypoint has no label do not count, unless a true point is
    near. A keypoint 0, 0, 0 is not predicted; a third number between 0 and 1 is its confidence. The error is the mean
    distance of the pairs, AP the average precision over all scores, and presence AUC how well an image's highest score tells
    whether it has a point.
    """
    from detect.data.formats.point_tables import is_point_table

    if threshold is not None and choose:
        raise ConfigError("--threshold and --choose: give one of the two")
    how: dict[str, Any] = {"threshold": threshold, "choose": choose}
    if is_point_table(results):
        coco = {"oks_sigmas": oks_sigmas is not None, "unlabelled": unlabelled != "ignore"}
        _check_options(coco, points, dataset)
        _score_tables(results, radius, spacing, points, dataset, json=json, **how)
        return
    if spacing is not None:
        raise ConfigError(f"--spacing: for tables of points; {results} is none, and its points are in pixels")
    radii, is_physical = _radii(radius)
    if is_physical:
        raise ConfigError("--radius: in pixels; micrometres are for tables of points, with --spacing")
    if oks_sigmas and points.source != "keypoints":
        raise ConfigError(f"--oks-sigmas: OKS needs keypoints, got --from {points.source}")
    sigmas = None if oks_sigmas is None else numbers(oks_sigmas, "--oks-sigmas", least=1e-6)
    _score_coco(results, radii, points, dataset, json=json, oks_sigmas=sigmas, unlabelled=unlabelled, **how)


def _score_coco(
    results: Path,
    radii: list[float] | None,
    points: options.PointOptions,
    dataset: options.DatasetFiles,
    *,
    json: bool,
    **how: Any,
) -> None:
    from detect.cli.evaluation_results import check_invalid, choose_radius, evaluate_results, print_evaluation

    landmarks = points.read(dataset)
    predicted = detect.read_results(results, landmarks.dataset)
    how |= {"radii": radii, "choose_radius": choose_radius(radii), "source": points.source}
    evaluation = evaluate_results(predicted, landmarks.dataset, landmarks, **how)
    evaluation = check_invalid(evaluation, predicted, str(results), dataset)
    print_answer(json, evaluation.to_dict, lambda: print_evaluation(evaluation))


def _score_tables(
    results: Path,
    radius: list[str] | None,
    spacing: str | None,
    points: options.PointOptions,
    dataset: options.DatasetFiles,
    *,
    json: bool,
    threshold: float | None,
    choose: str | None,
) -> None:
    """Score a table of found points against labels in tables, in images or volumes."""
    from detect.cli.evaluation_results import check_threshold, choose_radius
    from detect.data.read_dataset import read_point_files
    from detect.evaluation.points import RADII_PX
    from detect.evaluation.table_scores import evaluate_tables

    check_threshold(threshold)
    radii, is_physical = _radii(radius)
    truth, predicted = (read_point_files(each, pixel_origin=points.pixel_origin) for each in (dataset.files, results))
    if is_physical and spacing is None:
        raise ConfigError("--radius in micrometres: give the size of a pixel too, as in --spacing 0.1,0.1,0.3")
    if spacing is not None and not is_physical:
        raise ConfigError("--spacing: for a --radius in micrometres, as in --radius 0.5um")
    if choose == "f1" and is_physical and len(radii or ()) > 1:
        raise ConfigError("--choose f1: give the one --radius to choose at")
    how: dict[str, Any] = {"threshold": threshold, "choose": choose, "choose_radius": choose_radius(radii)}
    if spacing is not None:
        how |= {"spacing": along_axes(spacing, "--spacing", truth.points.shape[1]), "unit": "um"}
    evaluation = evaluate_tables(predicted, truth, radii=radii or RADII_PX, merge=points.merge, **how)
    _list_left_out(evaluation, dataset)
    if not predicted.has_scores:
        note(f"note: {results}: no column score: every point counts as sure")
    print_answer(json, evaluation.to_dict, lambda: _print_tables(evaluation))


def _check_options(others: dict[str, bool], points: options.PointOptions, dataset: options.DatasetFiles) -> None:
    """Raise ConfigError if an option is given that tables of points have no use for."""
    others |= {"from": points.source != "keypoints", "orientation": points.orientation != "none"}
    others |= {name: bool(getattr(dataset, name)) for name in ("images", "exif", "ignore_category")}
    others["bbox"] = dataset.bbox != "xywh"
    check_not_given(others, "tables of points")


def _list_left_out(evaluation: TableEvaluation, dataset: options.DatasetFiles) -> None:
    """List the rows that are left out if the options ask for it; with strict options, or if all are, one is an error."""
    left_out = (*evaluation.invalid_labels, *evaluation.invalid)
    if dataset.strict and left_out:
        raise CocoError(str(left_out[0]))
    if evaluation.invalid and len(evaluation.invalid) == evaluation.num_results:
        raise CocoError(f"{evaluation.invalid[0]}; no other result is valid either")
    for each in left_out if dataset.findings else ():
        note(f"invalid: {each}")


def _print_tables(evaluation: TableEvaluation) -> None:
    from detect.cli.evaluation_results import best_scores, point_tables, print_tables
    from detect.wording import listed, plural

    print_first("invalid among the labels", evaluation.invalid_labels)
    print_first("invalid among the results", evaluation.invalid)
    first, without = evaluation.overall[0], evaluation.without_results
    if without:
        show(
            f"without results, so that all their points are missed: {plural(len(without), 'image')} ({listed(without)})"
        )
    counts = plural(first.num_images, "image"), plural(first.num_truth, "labelled point")
    show(f"points ({evaluation.axes}): {', '.join((*counts, plural(evaluation.num_results, 'result')))}")
    best = best_scores(evaluation.by_score)
    print_tables(point_tables(evaluation.overall, evaluation.by_type, best, unit=evaluation.unit))


def _radii(texts: list[str] | None) -> tuple[list[float] | None, bool]:
    """The radii, and whether they are in micrometres."""
    found = [length(text, "--radius", least=0.01) for text in texts or ()]
    if any(value > MAX_RADIUS for value, _ in found):
        raise ConfigError(f"--radius: expected at most {MAX_RADIUS:,.0f}, got {', '.join(texts or ())}")
    units = {is_physical for _, is_physical in found}
    if len(units) > 1:
        raise ConfigError(f"--radius: pixels and micrometres together: {', '.join(texts or ())}")
    return [value for value, _ in found] or None, True in units
