"""The results of ``detect heatmaps oracle``: computed for a grid of settings, printed, as a JSON object."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from detect.cli.output import note, print_findings, reading_bar, show, show_table
from detect.data import CocoDataset
from detect.evaluation.oracle import GOOD_F1, OracleScores, coarsest_good, oracle_round_trip
from detect.keypoints.keypoints import CocoKeypoints
from detect.report.oracle_page import oracle_cells


def round_trips(
    landmarks: CocoKeypoints, strides: Sequence[float], sigmas: Sequence[float], **options: Any
) -> list[OracleScores]:
    """Scores for each stride and sigma; the options are those of :func:`oracle_round_trip`."""
    settings = [(stride, sigma) for stride in strides for sigma in sigmas]
    num_images = len(landmarks.dataset.images)
    scores: list[OracleScores] = []
    with reading_bar() as on_progress:

        def advance(num_done: int) -> None:
            on_progress("drawing and finding", len(scores) * num_images + num_done, len(settings) * num_images)

        for stride, sigma in settings:
            scores.append(oracle_round_trip(landmarks, stride=stride, sigma=sigma, on_progress=advance, **options))
    return scores


def print_oracle(scores: Sequence[OracleScores], dataset: CocoDataset) -> None:
    """Print one row for each stride and sigma, with the recommended one marked."""
    print_findings(dataset)
    best, first = coarsest_good(scores), scores[0].scores
    headers = ("stride", "sigma", "F1", "precision", "recall", "error px", "merged", "same cell", "outside", "")
    show_table(headers, ([*oracle_cells(each), "<- coarsest good one" if each is best else ""] for each in scores))
    show(
        f"{first.num_truth:,} points, found within {first.radius:g} px by a perfect network; merged: points inside the "
        "image that share another point's peak",
        style="dim",
    )
    if best is None:
        note(
            f"warning: no setting reaches an F1 of {GOOD_F1:g}, even with perfectly learned targets; "
            "try a finer stride or another sigma"
        )


def oracle_object(scores: Sequence[OracleScores]) -> dict[str, Any]:
    """The scores as a JSON object."""
    best = coarsest_good(scores)
    own = ("stride", "sigma", "merged", "collisions", "outside")
    rows = [{name: getattr(each, name) for name in own} | each.scores.to_dict() for each in scores]
    return {"settings": rows, "coarsest_good": best and {"stride": best.stride, "sigma": best.sigma}}
