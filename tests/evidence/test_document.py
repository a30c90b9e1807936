"""What the document says of made-up rows."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree as ET

import evidence
import numpy as np
import pytest
from evidence_parts import correlations, costs, drawing, gathered, plan, records

from detect.anchors.assignment import Assignment
from detect.anchors.instances import ResizedInstances
from detect.data import read_coco


def a_row(variant: str, seed: int, ap: float, epochs: int = 20, **more: float) -> records.Row:
    known = {"average_iou": ap, "grid_average_iou": ap, "grid_recall": ap, "anchors": 100.0, "epoch_seconds": 2.0}
    return records.Row("nuclei", variant, epochs, seed, ap=ap, ap50=ap + 0.2, **{**known, **more})


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    """A document of made-up rows: three seeds of two variants, one seed of a third, curves, heatmap and slots."""
    output = tmp_path_factory.mktemp("docs")
    table, folder = output / "evidence" / "runs.csv", output / "evidence" / "detections"
    rows = [a_row("fitted", seed, 0.5 + seed / 10) for seed in range(3)]
    rows += [a_row("default", seed, 0.1 + seed / 10, epoch_seconds=4.0) for seed in range(3)]
    rows += [a_row("single", 0, 0.7), a_row("fitted", 0, 0.6, 45), a_row("free-predictors", 0, 0.4, 45)]
    rows += [records.Row("nuclei", "heatmap", 40, seed, f1_3px=0.5, f1_5px=0.75, count_mae=0.5) for seed in range(2)]
    rows += [records.Row("nuclei", "slots", 40, seed, f1_3px=0.25, f1_5px=0.5, count_mae=1.0) for seed in range(2)]
    truth = read_coco("data/nuclei/nuclei_val.json")
    found = [np.arange(142), np.ones(142, np.int64), np.ones(142), np.tile([0.0, 0, 9, 9], (142, 1))]
    counts = np.tile([4, 4, 2, 3], (142, 1))
    nothing = records.box_results(*(column[:0] for column in found))
    perfect = records.box_results(
        truth.instances.image_rows,
        truth.instances.category_ids,
        np.ones(len(truth.instances)),
        truth.instances.boxes_xywh,
    )
    for row in rows:
        records.append_row(table, row)
        if row.ap is None:
            arrays = {"counts": counts if row.variant == "heatmap" else counts - [0, 1, 1, 1]}
        else:
            curve = np.array([[10, 10 * row.epoch_seconds, row.ap / 2], [20, 20 * row.epoch_seconds, row.ap]])
            arrays = {**records.packed_boxes(nothing if row.variant == "default" else perfect), "curve": curve}
        records.save_arrays(folder / f"{row.run.key}.npz", arrays)
    costs.save_costs(output / "evidence" / "costs.csv", {("nuclei", "default"): 2.0, ("nuclei", "fitted"): 1.0})
    assert evidence.main(["--report", "-o", str(output)]) == 0
    return output


def test_the_document_gives_means_deviations_and_differences(report):
    text = (report / "evidence.md").read_text("utf-8")
    (line,) = [each for each in text.splitlines() if each.startswith("| default: ") and "± 0.100" in each]
    cells = [cell.strip() for cell in line.split("|")[2:-1]]
    # means of .1, .2, .3 and of .5, .6, .7; on all resamples AP is 0 against 1
    assert cells[:2] == ["3", "0.200 ± 0.100"]
    assert cells[2] == "0.000 to 0.000"
    assert cells[3] == "0.400 ± 0.100"
    assert cells[4] == "-0.400 (-1.000 to -1.000)"
    assert cells[5] == "worse"
    assert "better by more than the noise: none; worse by more than the noise: default; within noise: single." in text


def test_the_questions_are_answered_in_one_table(report):
    text = (report / "evidence.md").read_text("utf-8")
    assert "|  | nuclei, 20 epochs | nuclei, 45 epochs |\n" in text  # nothing was run on the other dataset
    # means of .5, .6, .7 less .1, .2, .3; AP of 1 less 0 on all resamples
    assert "| fitted anchors, instead of RetinaNet's own | +0.400 (+1.000 to +1.000), better | - |" in text
    assert "| free predictors by predicted IoU, instead of anchors | - | -0.200 (+0.000" in text
    assert "- heatmaps, instead of fixed slots (nuclei): +0.250 (+0.179 to +0.179), better; -0.500 (-1.000" in text


def test_the_document_compares_at_equal_time(report):
    text = (report / "evidence.md").read_text("utf-8")
    # a step of default takes twice that of fitted: after the 20 epochs of fitted it has done 10, and half its AP
    assert "| default | 2.00 | 10.0 | 0.100 ± 0.050 | 0.200 ± 0.100 |" in text
    assert "| fitted | 1.00 | 20.0 | 0.600 ± 0.100 | 0.600 ± 0.100 |" in text
    assert "| single | 2" not in text  # its cost is not known


def test_the_document_tells_of_free_predictors_given_time(report):
    text = (report / "evidence.md").read_text("utf-8")
    assert "free-predictors less fitted: not known yet after 20 epochs; -0.200 (+0.000 to +0.000) AP" in text


def test_the_document_compares_landmarks(report):
    text = (report / "evidence.md").read_text("utf-8")
    # counts: 2 * 2 / 8 = .5 less 2 * 1 / 7 in every resample; the rows say .5 and .25
    assert "F1 at 3 px +0.250 (+0.214 to +0.214), better" in text
    assert "count MAE -0.500 (-1.000 to -1.000), better" in text


def test_the_document_tells_what_is_missing(report):
    text = (report / "evidence.md").read_text("utf-8")
    assert "- nuclei/single, 20 epochs: seeds 1 and 2" in text
    assert "- nuclei/otsu\n" in text
    assert "## bccd\n\nNothing has been run yet." in text
    assert f"Of 119 planned runs, {119 - 13} are not in the tables. One seed is planned, for a first look, of" in text
    assert "fitted-banded, bccd with 36 epochs and bccd-lite0 with 12 epochs; 3 of the others.\n" in text
    assert "- nuclei/aligned, 20 epochs: seed 0\n" in text


def test_correlations_are_of_the_anchors_that_overlap_matches(report):
    rows = records.read_rows(report / "evidence" / "runs.csv")
    for number, variant in enumerate(("stride-rule", "kmeans", "by-size", "free-predictors")):
        for name in (variant, f"{variant}-balanced")[: 1 + (variant != "free-predictors")]:
            rows.append(a_row(name, 0, 0.1 * number, average_iou=0.9 - 0.1 * number, grid_recall=0.1 * number))
    found = gathered.gather(plan.NUCLEI, rows, report / "evidence" / "detections")
    assignments = dict.fromkeys(("default", "fitted", "single", "stride-rule", "kmeans", "by-size"), an_assignment())
    files: dict[str, str] = {}
    text = correlations.correlation_section(found, 20, files, assignments)
    assert "positives as they are (6 configurations) |" in text  # no free predictors, and nothing that was not assigned
    for name in ("share", "evenness", "S"):
        assert f"| {name} | " in text
    (picture,) = files.values()
    assert len(ET.fromstring(picture).findall(".//{*}circle")) >= 6  # noqa: S314


def an_assignment() -> Assignment:
    """One category with 4 positives and 2, another with 1: 7/3 on average."""
    content = {
        "images": [{"id": 1, "width": 64, "height": 64}],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
        "annotations": [{"id": n, "image_id": 1, "category_id": 1 + (n == 3), "bbox": [n, n, 8, 8]} for n in (1, 2, 3)],
    }
    instances = ResizedInstances.of(read_coco(content), "none")
    counts = np.array([[4], [2], [1]])
    return Assignment(instances, ("P3",), counts, counts, counts, *np.zeros((3, 1), int))


def test_an_empty_table_is_told_to_be_empty(tmp_path):
    assert evidence.main(["--report", "-o", str(tmp_path)]) == 0
    text = (tmp_path / "evidence.md").read_text("utf-8")
    assert "## nuclei\n\nNothing has been run yet." in text
    assert "Of 119 planned runs, 119 are not in the tables." in text


def test_drawings_put_points_where_their_values_are():
    text = drawing.draw([drawing.Series("a & b", [(0.0, 0.0), (1.0, 2.0)])], x_title="x", y_title="y")
    dots = re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', text)
    assert dots[:2] == [("60.0", "350.0"), ("440.0", "20.0")]  # the corners of the plot
    assert "a &amp; b" in text


def test_a_variant_has_one_colour_with_weights_and_without():
    names = ("single", "fitted-balanced", "fitted", "single-balanced")
    text = drawing.draw([drawing.Series(name, [(0.0, 0.0)]) for name in names], x_title="x", y_title="y")
    single, balanced, fitted, other = re.findall(r'stroke="(#\w+)" fill', text)[::2]  # a point, and its key
    assert single == other != balanced == fitted
