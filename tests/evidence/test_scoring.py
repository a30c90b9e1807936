"""Scores of images drawn more or less often, against pycocotools on copies of them."""

from __future__ import annotations

import numpy as np
import pytest
from evidence_parts import records, scoring
from numpy.testing import assert_allclose

from detect.data import read_coco
from detect.evaluation.boxes import evaluate_boxes


@pytest.fixture
def made():
    """Images 1 to 12 with boxes of two categories, and detections near some of them."""
    random = np.random.default_rng(3)
    annotations, columns = [], []
    for image in range(12):
        for _ in range(random.integers(0, 5)):
            box = [*random.integers(0, 50, 2).tolist(), *random.integers(8, 30, 2).tolist()]
            category = int(random.integers(1, 3))
            entry = {"id": len(annotations) + 1, "image_id": image + 1, "category_id": category, "bbox": box}
            annotations.append(entry | {"iscrowd": 0, "area": box[2] * box[3]})
            if random.random() < 0.8:
                moved = (np.array(box) + random.integers(-3, 4, 4)).tolist()
                columns.append((image, category, random.random(), moved))
        columns.append((image, 1, random.random(), [*random.integers(0, 50, 2).tolist(), 9, 9]))
    images = [{"id": n, "file_name": f"{n}.png", "width": 100, "height": 100} for n in range(1, 13)]
    categories = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    rows, of_category, scores, boxes = (np.array(column) for column in zip(*columns, strict=True))
    return content, records.box_results(rows, of_category, scores, boxes.astype(float))


def test_average_precision_is_that_of_pycocotools(made):
    content, results = made
    dataset = read_coco(content)
    wanted = evaluate_boxes(results, dataset).overall
    assert_allclose(scoring.BoxMatches.of(dataset, results).average_precision(), (wanted.ap, wanted.ap50), atol=1e-12)


def test_average_precision_of_each_category_is_that_of_pycocotools(made):
    content, results = made
    dataset = read_coco(content)
    wanted = [scores.ap for scores in evaluate_boxes(results, dataset).by_category.values()]
    assert len(wanted) == 2
    assert_allclose(scoring.BoxMatches.of(dataset, results).by_category(), wanted, atol=1e-12)


def test_a_weight_stands_for_copies_of_an_image(made):
    content, results = made
    weights = np.array([0, 1, 2, 3, 1, 1, 0, 2, 1, 1, 4, 0])
    copies = np.repeat(np.arange(12), weights)
    annotations, parts = [], []
    for row, image in enumerate(copies.tolist()):
        own = [each for each in content["annotations"] if each["image_id"] == image + 1]
        annotations += [each | {"image_id": row + 1, "id": len(annotations) + n} for n, each in enumerate(own, 1)]
        parts.append(np.flatnonzero(results.image_rows == image))
    images = [{"id": n + 1, "file_name": f"{n}.png", "width": 100, "height": 100} for n in range(len(copies))]
    dataset = read_coco(content | {"images": images, "annotations": annotations})
    taken = np.concatenate(parts)
    rows = np.repeat(np.arange(len(copies)), [len(part) for part in parts])
    columns = (results.category_ids[taken], results.scores[taken], results.boxes_xywh[taken])
    wanted = evaluate_boxes(records.box_results(rows, *columns), dataset).overall
    found = scoring.BoxMatches.of(read_coco(content), results).average_precision(weights.astype(float))
    assert_allclose(found, (wanted.ap, wanted.ap50), atol=1e-12)


def test_no_detections_at_all_score_nothing(made):
    dataset = read_coco(made[0])
    nothing = records.box_results(*np.zeros((2, 0), np.int64), np.zeros(0), np.zeros((0, 4)))
    assert scoring.BoxMatches.of(dataset, nothing).average_precision() == (0.0, 0.0)
