"""The rows and the detections that are kept of a run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from evidence_parts import plan, records
from numpy.testing import assert_allclose


def test_kept_detections_are_the_best_hundred_to_a_tenth_of_a_pixel():
    scores = np.linspace(0, 1, 120)
    boxes = np.tile([1.04, 2.26, 3.0, 4.0], (121, 1))
    boxes[-1] = [-0.5, 3000, 0.04, 300]
    results = records.box_results(np.repeat([0, 2], [120, 1]), np.full(121, 7), np.append(scores, 0.5), boxes)
    found = records.unpacked_boxes(records.packed_boxes(results))
    assert np.bincount(found.image_rows).tolist() == [100, 0, 1]
    assert_allclose(found.boxes_xywh[-1], [-0.5, 3000, 0, 300])
    assert_allclose(found.scores[:100], scores[:19:-1], atol=1 / 65535)
    assert_allclose(found.boxes_xywh[0], [1.0, 2.3, 3.0, 4.0])
    assert found.category_ids[-1] == 7


def test_kept_detections_are_counted_by_category_as_coco_counts_them():
    results = records.box_results(np.zeros(180, np.int64), np.repeat([3, 5], 90), np.ones(180), np.ones((180, 4)))
    assert len(records.unpacked_boxes(records.packed_boxes(results)).scores) == 180


def test_no_detections_are_kept_too():
    nothing = records.box_results(*np.zeros((2, 0), np.int64), np.zeros(0), np.zeros((0, 4)))
    found = records.unpacked_boxes(records.packed_boxes(nothing))
    assert (found.scores.shape, found.boxes_xywh.shape) == ((0,), (0, 4))


def test_rows_are_appended_and_read_again(tmp_path):
    path = tmp_path / "new" / "runs.csv"
    assert records.read_rows(path) == []
    first = records.Row("nuclei", "fitted", 20, 0, ap=0.5, threads=2, detail="P2: 3, P3: 3")
    other = records.Row("nuclei", "otsu", 0, 0, ap50=0.25)
    records.append_row(path, first)
    records.append_row(path, other)
    assert records.read_rows(path) == [first, other]
    assert len(path.read_text("utf-8").splitlines()) == 3
    assert [each.name for each in path.parent.iterdir()] == ["runs.csv"]


def test_a_row_that_cannot_be_written_leaves_the_table_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "runs.csv"
    records.append_row(path, records.Row("nuclei", "fitted", 20, 0, ap=0.5))
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        records.append_row(path, records.Row("nuclei", "fitted", 20, 1, ap=0.6))
    assert path.read_bytes() == before


def test_the_table_of_the_project_is_read_and_its_runs_are_planned():
    rows = records.read_rows(Path(__file__).parents[2] / "docs" / "evidence" / "runs.csv")
    assert {row.run for row in rows} <= set(plan.planned_runs(plan.DATASETS, seeds=range(4)))
    boxes = [row for row in rows if plan.VARIANTS[row.variant].task == plan.BOXES and row.epochs]
    assert all(0 < row.grid_recall <= 1 for row in boxes if "points" not in row.variant)
