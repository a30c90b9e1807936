"""AP and positives by category, of made-up detections and real anchors."""

from __future__ import annotations

import numpy as np
import pytest
from evidence_parts import categories, gathered, plan, records, resampling, training_runs

from detect.data.coco_dataset import image_sources


def a_row(variant: str, positives: float) -> records.Row:
    return records.Row("bccd", variant, 12, 0, ap=1 / 3, ap50=1 / 3, positives=positives)


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> str:
    """The section of variants that find every white cell.

    One finds the platelets too. The positives of one are not its anchors'.
    """
    folder = tmp_path_factory.mktemp("runs")
    known = {"default": 34.2386, "single": 8.5377, "stride-rule": 8.99669, "by-size": 9.9, "free-predictors": 1.0}
    rows = [a_row(variant, positives) for variant, positives in known.items()]
    config = training_runs.config_of(rows[0].run, plan.BCCD, folder)
    truth = training_runs.split(config)[1]
    ids = {name: key for key, name in truth.categories.items()}
    for row in rows:
        wanted = [ids["WBC"], ids["Platelets"]] if row.variant == "stride-rule" else [ids["WBC"]]
        own = np.flatnonzero(np.isin(truth.instances.category_ids, wanted))
        columns = (truth.instances.image_rows[own], truth.instances.category_ids[own], np.ones(len(own)))
        detections = records.packed_boxes(records.box_results(*columns, truth.instances.boxes_xywh[own]))
        records.save_arrays(folder / f"{row.run.key}.npz", detections)
    few = resampling.Draws.of(image_sources(truth), resamples=2)  # the section has no intervals
    found = gathered.gather(plan.BCCD, rows, folder, draws=few)
    return categories.category_section(found, 12, categories.assignments_of(found, 12))


def test_each_category_has_its_score_and_its_positives(text):
    assert "|  | WBC | RBC | Platelets | share |" in text
    assert "| default | 1.000; 36.3 | 0.000; 36.6 | 0.000; 4.3 | 0.118 |" in text
    assert "| stride-rule | 1.000; 9.2 | 0.000; 9.1 | 1.000; 7.1 | 0.774 |" in text
    assert "| free-predictors | 1.000; - | 0.000; - | 0.000; - | - |" in text


def test_the_score_of_the_category_with_fewest_positives_is_ranked_with_its_share(text):
    assert "Platelets: the fewest positives." in text
    assert (
        "its share of positives is +0.87; " in text
    )  # shares .118, .110, .774 and AP 0, 0, 1: ranks 2, 1, 3 and 1.5, 1.5, 3
    assert "on the grid is not defined yet " in text  # the others' AP are equal


def test_positives_of_other_anchors_than_those_of_the_run_are_left_out(text):
    assert "| by-size | 1.000; - | 0.000; - | 0.000; - | - |" in text


def test_one_category_needs_no_table(tmp_path):
    rows = [records.Row("nuclei", "default", 20, 0, ap=0.5, ap50=0.5, positives=1.0)]
    nothing = records.box_results(*(np.zeros(0, np.int64),) * 2, np.zeros(0), np.zeros((0, 4)))
    records.save_arrays(tmp_path / f"{rows[0].run.key}.npz", records.packed_boxes(nothing))
    truth = training_runs.split(training_runs.config_of(rows[0].run, plan.NUCLEI, tmp_path))[1]
    few = resampling.Draws.of(image_sources(truth), resamples=2)
    found = gathered.gather(plan.NUCLEI, rows, tmp_path, draws=few)
    assert found.groups["default", 20].category_ap[0].tolist() == [0.0]
    assert categories.category_section(found, 20, {}) == ""
