"""Found points in tables against labelled ones: by brute force, by image and type, and what is left out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.optimize import linear_sum_assignment

from detect.data.formats.point_tables import PointTable, read_points
from detect.errors import CocoError
from detect.evaluation.table_scores import evaluate_tables


def table(points: Any, *, scores: Any = None, image: Any = 0, kind: Any = 0, **names: Any) -> PointTable:
    points = np.array(points, float)
    points = points.reshape(-1, 3) if points.ndim < 2 else points
    count = len(points)
    rows = [np.broadcast_to(np.array(each, np.int64), (count,)) for each in (image, kind, 0, np.arange(2, count + 2))]
    values = np.ones(count) if scores is None else np.array(scores, float)
    fields: dict[str, Any] = {"files": ("a.csv",), "images": ("a",), "type_names": ("spot",), **names}
    return PointTable(**fields, **dict(zip(("image_rows", "types", "file_rows", "lines"), rows, strict=True)),
        points=points, scores=values, invalid=(), has_scores=True)  # fmt: skip


def brute_force(found: np.ndarray, truth: np.ndarray, radius: float, spacing: np.ndarray) -> tuple[int, float]:
    """Number and total distance of the best matching, by a dense solver: a pair too far costs more than all others."""
    apart = np.sqrt((((found[:, None] - truth[None]) * spacing) ** 2).sum(axis=2))
    costs = np.where(apart <= radius, apart, 1 + radius * (1 + min(apart.shape)))
    pairs = linear_sum_assignment(costs)
    own = apart[pairs][apart[pairs] <= radius]
    return len(own), float(own.sum())


@given(st.integers(0, 10_000), st.sampled_from([(1.0, 1.0, 1.0), (0.1, 0.1, 0.3), (0.5, 0.25, 2.0)]))
def test_scores_in_volumes_are_those_of_a_dense_solver(seed, spacing):
    draws = np.random.default_rng(seed)
    truth = draws.random((draws.integers(0, 25), 3)) * [20, 20, 6]
    found = np.concatenate(
        [truth[: len(truth) // 2] + draws.normal(0, 1, (len(truth) // 2, 3)), draws.random((8, 3)) * [20, 20, 6]]
    )
    radii = [each * spacing[0] for each in (1.0, 2.5, 6.0)]
    scored = evaluate_tables(table(found), table(truth), radii=radii, spacing=spacing, unit="um").overall
    for radius, scores in zip(radii, scored, strict=True):
        count, total = brute_force(found, truth, radius, np.array(spacing))
        assert scores.num_matched == count
        assert_allclose(scores.micro.f1, 2 * count / (len(found) + len(truth)))
        assert_allclose((scores.micro.precision, scores.micro.recall), (count / len(found), count / max(len(truth), 1)))
        assert scores.count.mae == abs(len(found) - len(truth))
        if count:
            assert_allclose(scores.error.mean, total / count)


def test_a_slice_is_farther_than_a_pixel_by_hand():
    # one slice of .3 and one pixel of .1: both pairs are 1 apart in pixels, in micrometres one is within .2
    found, truth = table([[0, 0, 0], [9, 9, 9]]), table([[0, 0, 1], [9, 8, 9]])
    assert evaluate_tables(found, truth, radii=[1.0]).overall[0].num_matched == 2
    physical = evaluate_tables(found, truth, radii=[0.2, 0.3], spacing=(0.1, 0.1, 0.3), unit="um")
    assert [each.num_matched for each in physical.overall] == [1, 2]
    assert physical.overall[1].error.mean == pytest.approx(0.2)
    assert physical.by_score[0].at == "within 0.3 um"


def test_images_and_types_are_told_by_their_names():
    names = {"images": ("a", "b"), "type_names": ("spot", "cell")}
    truth = table([[1, 1, 1], [2, 2, 2], [3, 3, 3]], image=[0, 1, 1], kind=[0, 0, 1], **names)
    names = {"images": ("b", "c"), "type_names": ("cell", "dust", "spot")}
    found = table([[2, 2, 2], [3, 3, 3], [1, 1, 1], [5, 5, 5]], image=[0, 0, 1, 0], kind=[2, 0, 2, 1], **names)
    scored = evaluate_tables(found, truth, radii=[0.5])
    assert (scored.overall[0].num_matched, scored.overall[0].num_truth, scored.overall[0].num_images) == (2, 3, 2)
    assert {name: own[0].num_matched for name, own in scored.by_type.items()} == {"spot": 1, "cell": 1}
    assert [str(each) for each in scored.invalid] == [
        "a.csv, line 4: no labels of its image 'c'",
        "a.csv, line 5: no label has its type 'dust', only spot, cell: --merge takes all types as one",
    ]
    assert (scored.without_results, scored.num_results) == (("a",), 4)
    merged = evaluate_tables(found, truth, radii=[0.5], merge=True)
    assert (list(merged.by_type), merged.overall[0].num_predicted, len(merged.invalid)) == (["point"], 3, 1)


def test_one_image_and_one_type_need_no_name():
    scored = evaluate_tables(table([[1, 1, 1]], images=("b",), type_names=("point",)), table([[1, 1, 1]]), radii=[0.5])
    assert (scored.overall[0].num_matched, scored.invalid, scored.without_results) == (1, (), ())


def test_a_threshold_is_given_or_chosen():
    # the two right ones have the scores .9 and .6
    found, truth = table([[0, 0, 0], [5, 5, 5], [9, 9, 0]], scores=[0.9, 0.6, 0.2]), table([[0, 0, 0], [5, 5, 5]])
    assert evaluate_tables(found, truth, threshold=0.7).overall[0].num_predicted == 1
    for goal in ("f1", "count"):
        assert evaluate_tables(found, truth, choose=goal).threshold == pytest.approx(0.4)
    with pytest.raises(ValueError, match="a threshold or a goal"):
        evaluate_tables(found, truth, choose="f1", threshold=0.5)
    assert evaluate_tables(found, truth).to_dict()["best_threshold"] == pytest.approx(0.4)


def test_no_points_are_ordinary():
    none, some = table([], type_names=()), table([[1, 1, 1]])
    assert evaluate_tables(none, none).overall[0].micro.f1 == 1
    assert evaluate_tables(none, some).overall[0].micro.recall == 0
    wrong = evaluate_tables(some, none)
    assert (wrong.overall[0].micro.precision, wrong.invalid) == (0, ())
    assert wrong.best_f1 is None


def test_points_of_images_are_not_those_of_volumes():
    flat = table([[1.0, 1.0]], files=("flat.csv",))
    with pytest.raises(
        CocoError, match=r"flat\.csv: points \(x, y\), those of a\.csv are \(x, y, z\): both are of images, or"
    ):
        evaluate_tables(flat, table([[1, 1, 1]]))
    assert evaluate_tables(flat, flat).overall[0].num_matched == 1


def test_labels_of_no_image_or_of_others_are_refused(tmp_path):
    names = {"images": ("b", "c")}
    with pytest.raises(CocoError, match="found points of b, c, but labels of a: no image has both"):
        evaluate_tables(table([[1, 1, 1]], **names), table([[1, 1, 1]]))
    (tmp_path / "a.csv").write_text("image,x,y,z\n", "utf-8")
    nothing = read_points([str(tmp_path / "a.csv")])
    with pytest.raises(CocoError, match="no labelled points, and no column of images"):
        evaluate_tables(nothing, nothing)
