"""The plan, and the tool as a whole on tiny runs."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import evidence
import numpy as np
import pytest
from evidence_parts import costs, plan, records, training_runs
from PIL import Image

from detect.data import read_coco
from detect.errors import FitError
from detect.samples import sample_annotations


def test_the_plan_has_every_variant_and_no_run_twice():
    runs = plan.planned_runs(plan.DATASETS)
    # of the nuclei ten variants with three seeds and two with one, three for longer, three of keypoints, three untrained;
    # of the cells eighteen with three seeds and four with one, four for longer; four from pretrained weights
    assert len(runs) == len(set(runs)) == (10 * 3 + 2 + 3 * 3 + 3 * 3 + 3) + (18 * 3 + 4 + 4) + 4
    assert {run.variant for run in runs} == set(plan.VARIANTS)
    # weights are by category, of which the nuclei have one
    assert not any(run.variant.endswith(plan.BALANCED) for run in runs if run.dataset == "nuclei")
    explored = {(run.dataset, run.variant, run.epochs) for run in runs} - {
        (run.dataset, run.variant, run.epochs) for run in runs if run.seed > 0
    }
    assert ("nuclei", "aligned", 20) in explored
    assert ("bccd", "default-balanced", 36) in explored
    assert ("bccd", "default-balanced", 12) not in explored
    assert not plan.planned_runs(plan.DATASETS, seeds=[1], only=["bccd/by-size-balanced", "bccd-lite0"])
    assert [run.key for run in plan.planned_runs([plan.NUCLEI], only=["nuclei/otsu"])] == ["nuclei-otsu-0-0"]


def test_an_unknown_name_is_refused(capsys):
    assert evidence.main(["--only", "nuclei/nothing", "--list"]) == 2
    assert "no run is called nuclei/nothing" in capsys.readouterr().err


def test_anchors_of_all_variants_fit_the_data():
    few = read_coco(sample_annotations("nuclei"))
    shapes = {}
    for variant in (
        "default",
        "single",
        "by-size",
        "stride-rule",
        "kmeans",
        "free-predictors",
        "atss",
        "points-aligned",
    ):
        anchors = training_runs.anchors_of_run(plan.Run("nuclei", variant, 20, 0), plan.NUCLEI, few)
        shapes[variant] = [(level.stride, len(level.shapes)) for level in anchors.levels]
    assert shapes["default"] == [(stride, 9) for stride in (8, 16, 32, 64, 128)]
    assert shapes["single"] == shapes["points-aligned"] == [(4, 1), (8, 1), (16, 1)]
    assert shapes["by-size"] == shapes["atss"] == shapes["free-predictors"] == [(4, 3), (8, 3), (16, 3)]
    assert shapes["stride-rule"] == [(4, 9), (8, 9), (16, 9), (32, 9)]
    assert sum(count for _, count in shapes["kmeans"]) == 9


def test_balanced_variants_differ_in_their_weights_alone():
    for name in plan.WEIGHED:
        one, other = (
            training_runs.config_of(plan.Run("bccd", variant, 12, 0), plan.BCCD, Path("unused"))
            for variant in (name, f"{name}-balanced")
        )
        assert (one.model.positive_weights, other.model.positive_weights) == ("none", "category")
        assert one.model.model_copy(update={"positive_weights": "category"}) == other.model


def test_the_stride_rule_by_hand():
    (first, *_) = training_runs._by_stride((4, 8), "none").levels
    # 2 * 4 * 2^(1/3) = 10.08; of height / width 1/2: 10.08 * sqrt 2 by 10.08 / sqrt 2
    wanted = (8 * 2 ** (1 / 3) * math.sqrt(2), 8 * 2 ** (1 / 3) / math.sqrt(2))
    assert any(np.allclose(shape, wanted, atol=1e-4) for shape in first.shapes)  # noqa: TID251
    assert training_runs._by_stride((4, 8), "none").center_offset == 0.5


@pytest.fixture
def tiny_matrix(tmp_path, monkeypatch) -> Path:
    """The nuclei replaced by eight images of bright squares, with small networks."""
    random = np.random.default_rng(0)
    images, annotations = [], []
    for number in range(1, 9):
        pixels = random.integers(0, 40, (32, 32)).astype(np.uint8)
        for _ in range(1 + number % 2):
            x, y, side = (int(value) for value in random.integers([0, 0, 8], [16, 16, 15]))
            pixels[y : y + side, x : x + side] = 200
            entry = {"id": len(annotations) + 1, "image_id": number, "category_id": 1, "bbox": [x, y, side, side]}
            point = {"keypoints": [x + (side - 1) / 2, y + (side - 1) / 2, 2], "num_keypoints": 1}
            annotations.append(entry | point | {"iscrowd": 0, "area": side * side})
        source = {"source": f"s{number // 3}"}
        images.append({"id": number, "file_name": f"{number}.png", "width": 32, "height": 32} | source)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    categories = [{"id": 1, "name": "square", "keypoints": ["centre"], "skeleton": []}]
    file = tmp_path / "a.json"
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    overrides = [f"data.train=[{file}]", f"data.val=[{file}]", f"data.images={tmp_path}", "optimisation.batch_size=4"]
    small = replace(plan.NUCLEI, overrides=(*overrides, "model.num_convs=0", "model.pyramid_channels=32"))
    monkeypatch.setattr(evidence, "DATASETS", (small, plan.BCCD))
    return tmp_path


def test_steps_of_all_variants_are_timed_in_turns(tiny_matrix):
    (small, _) = evidence.DATASETS
    steps = costs.relative_costs(replace(small, budgets=(("points-simota", 1), ("stride-rule", 1))), rounds=2)
    assert steps.keys() == {"fitted", "points-simota", "stride-rule"}
    assert steps["fitted"] == 1
    assert all(0.05 < cost < 20 for cost in steps.values())
    costs.save_costs(tiny_matrix / "costs.csv", {("nuclei", name): cost for name, cost in steps.items()})
    read = costs.read_costs(tiny_matrix / "costs.csv")
    assert read["nuclei", "points-simota"] == pytest.approx(steps["points-simota"], abs=0.001)


def test_points_are_run_and_have_positives_and_no_overlaps(tiny_matrix):
    line = ["--only", "nuclei/points-aligned", "--seeds", "0", "--epochs", "1"]
    assert evidence.main([*line, "-o", str(tiny_matrix / "docs"), "--work", str(tiny_matrix / "work")]) == 0
    (row,) = records.read_rows(tiny_matrix / "docs" / "evidence" / "runs.csv")
    assert (row.anchors, row.grid_recall, row.average_iou) == (64 + 16 + 4, None, None)
    assert 1 < row.positives <= 13


def test_a_small_matrix_is_run_once_and_reported(tiny_matrix, capsys):
    names = ["fitted", "free-predictors", "heatmap", "slots", "otsu", "otsu-points", "blobs"]
    line = ["--only", *(f"nuclei/{name}" for name in names), "--seeds", "0", "--epochs", "1"]
    line += ["-o", str(tiny_matrix / "docs"), "--work", str(tiny_matrix / "work")]
    assert evidence.main(line) == 0
    rows = {row.variant: row for row in records.read_rows(tiny_matrix / "docs" / "evidence" / "runs.csv")}
    assert set(rows) == set(names)
    assert rows["fitted"].anchors == 3 * (64 + 16 + 4)
    assert rows["fitted"].positives > 0
    assert rows["fitted"].epoch_seconds > 0
    assert rows["free-predictors"].positives == 1
    assert rows["otsu"].ap > 0.5  # bright squares, some of which overlap
    assert rows["otsu-points"].f1_3px > 0.5
    assert rows["blobs"].f1_3px > 0.5
    assert not list((tiny_matrix / "work").iterdir())
    capsys.readouterr()
    assert evidence.main(line) == 0
    assert " of 7" not in capsys.readouterr().err  # nothing was left to run
    text = (tiny_matrix / "docs" / "evidence.md").read_text("utf-8")
    assert "### Boxes, 1 epochs" in text


def test_a_run_that_fails_is_told_and_the_others_are_done(tiny_matrix, capsys, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise FitError("no boxes")

    monkeypatch.setattr(training_runs, "choose_anchors", fail)
    line = ["--only", "nuclei/fitted", "nuclei/otsu", "--seeds", "0", "-o", str(tiny_matrix / "docs")]
    assert evidence.main([*line, "--work", str(tiny_matrix / "work")]) == 2
    assert "evidence: nuclei-fitted-20-0: no boxes" in capsys.readouterr().err
    assert [row.variant for row in records.read_rows(tiny_matrix / "docs" / "evidence" / "runs.csv")] == ["otsu"]


def test_a_run_without_its_detections_is_run_again(tiny_matrix):
    line = ["--only", "nuclei/otsu", "-o", str(tiny_matrix / "docs")]
    assert evidence.main(line) == 0
    (kept,) = (tiny_matrix / "docs" / "evidence" / "detections").iterdir()
    kept.unlink()
    assert evidence.main(line) == 0
    assert kept.exists()
    assert len(records.read_rows(tiny_matrix / "docs" / "evidence" / "runs.csv")) == 1
