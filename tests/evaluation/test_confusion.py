"""Confusion matrices: by hand, sums that add up, and a plain loop."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from detect.data import CocoResults, read_coco
from detect.evaluation.boxes import evaluate_boxes
from detect.evaluation.confusion import ImageMatches, box_confusions, count_confusions, point_confusions

CATEGORIES = [{"id": 3, "name": "cell"}, {"id": 7, "name": "speck"}]


def dataset_of(*objects: tuple[int, int, list[float], int]):
    """Two images of 100 x 100; objects are (image id, category, box, iscrowd)."""
    images = [{"id": number, "width": 100, "height": 100, "file_name": f"{number}.png"} for number in (10, 20)]
    annotations = [
        {"id": number, "image_id": image, "category_id": category, "bbox": box, "iscrowd": crowd, "area": 1.0}
        for number, (image, category, box, crowd) in enumerate(objects, 1)
    ]
    return read_coco({"images": images, "categories": CATEGORIES, "annotations": annotations})


def results_of(*found: tuple[int, int, list[float], float]) -> CocoResults:
    """Results are (image row, category, box, score)."""
    rows, categories, boxes, scores = zip(*found, strict=True) if found else ((), (), (), ())
    columns = np.array(rows, np.int64), np.array(categories, np.int64), np.array(scores, float)
    boxes = np.array(boxes, float).reshape(-1, 4)
    return CocoResults(np.arange(len(rows)), *columns, boxes, tuple(np.zeros((0, 3)) for _ in rows), ())


def test_boxes_by_hand():
    truth = dataset_of(
        (10, 3, [0, 0, 10, 10], 0), (10, 3, [40, 0, 10, 10], 0), (10, 7, [80, 0, 10, 10], 0),
        (20, 7, [0, 0, 10, 10], 0), (20, 3, [50, 50, 50, 50], 1),
    )  # fmt: skip
    found = results_of(
        (0, 3, [0, 0, 10, 9], 0.9),  # right
        (0, 3, [0, 0, 10, 10], 0.4),  # overlaps more, and takes its place
        (0, 3, [80, 0, 10, 10], 0.8),  # a speck taken for a cell
        (0, 7, [60, 60, 10, 10], 0.7),  # made up
        (1, 7, [0, 0, 10, 10], 0.2),  # below the threshold: missed
        (1, 3, [60, 60, 10, 10], 0.6),  # in the crowd
    )
    matrix = box_confusions(found, truth, threshold=0.3)
    assert matrix.names == ("cell", "speck", "background")
    assert_array_equal(matrix.counts, [[1, 0, 1], [1, 0, 1], [1, 1, 0]])
    assert matrix.num_ignored == 1
    assert matrix.to_dict()["counts"] == matrix.counts.tolist()


def test_of_boxes_that_agree_equally_the_right_category_is_matched():
    truth = dataset_of((10, 3, [0, 0, 10, 10], 0))
    found = results_of((0, 7, [0, 0, 10, 10], 0.9), (0, 3, [0, 0, 10, 10], 0.8))
    assert_array_equal(box_confusions(found, truth, threshold=0.0).counts, [[1, 0, 0], [0, 0, 0], [0, 1, 0]])


def test_points_by_hand():
    # two types in one image: the point at 0 is found, that at 20 is taken for the other type, (50, 50) is 6 px off
    truth = [np.array([[0.0, 0.0]]), np.array([[20.0, 0.0], [50.0, 50.0]])]
    found = [np.array([[0.0, 3.0], [21.0, 0.0]]), np.array([[50.0, 56.0]])]
    scores = [np.array([0.9, 0.8]), np.array([0.7])]
    matrix = point_confusions(found, truth, scores=scores, names=["head", "tail"], radius=5.0, threshold=0.3)
    assert_array_equal(matrix.counts, [[1, 0, 0], [1, 0, 1], [0, 1, 0]])
    assert matrix.at == "within 5 px"


@settings(deadline=None)
@given(st.integers(0, 10**6))
def test_rows_add_up_to_the_truth_and_columns_to_the_predictions(seed):
    draws = np.random.default_rng(seed)
    images, true, predicted = [], np.zeros(3, int), np.zeros(3, int)
    for _ in range(3):
        n, m = draws.integers(0, 7, 2)
        image = ImageMatches(
            draws.integers(0, 5, (n, m)) / 4, draws.integers(0, 3, n), draws.integers(0, 3, m), np.zeros(n, bool)
        )
        images.append(image)
        np.add.at(true, image.truth, 1)
        np.add.at(predicted, image.predicted, 1)
    matrix = count_confusions(images, least=0.5, names=["a", "b", "c"], threshold=0.0, at="")
    assert_array_equal(matrix.counts.sum(axis=1)[:3], true)
    assert_array_equal(matrix.counts.sum(axis=0)[:3], predicted)
    assert matrix.counts[3, 3] == 0
    wanted = sum(map(matched_by_loop, images))
    assert matrix.counts[:3, :3].sum() == wanted


def matched_by_loop(image: ImageMatches) -> int:
    """The best agreement that is left, again and again."""
    table, count = image.agreement.copy(), 0
    while table.size and table.max() >= 0.5:
        best = np.argwhere(table == table.max())
        same = [at for at in best if image.predicted[at[0]] == image.truth[at[1]]]
        row, column = (same or list(best))[0]
        table[row], table[:, column] = -1, -1
        count += 1
    return count


@pytest.mark.parametrize("min_score", [None, 0.5])
def test_an_evaluation_counts_at_the_best_threshold_unless_told(min_score):
    truth = dataset_of((10, 3, [0, 0, 10, 10], 0), (20, 7, [0, 0, 10, 10], 0))
    found = results_of((0, 3, [0, 0, 10, 10], 0.9), (1, 7, [0, 0, 10, 10], 0.4), (1, 7, [50, 0, 10, 10], 0.2))
    evaluation = evaluate_boxes(found, truth, min_score=min_score)
    assert evaluation.confusion.threshold == pytest.approx(0.3 if min_score is None else 0.5)
    assert evaluation.confusion.counts[:2, :2].trace() == (2 if min_score is None else 1)


def test_nothing_found_and_nothing_there():
    matrix = box_confusions(results_of(), dataset_of(), threshold=0.3)
    assert_array_equal(matrix.counts, np.zeros((3, 3)))
