from __future__ import annotations

import itertools
import warnings

import jaxtyping
import numpy as np
import pytest
import sklearn.utils.estimator_checks as checks
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.cluster import KMeans

from detect.errors import FitError
from detect.fitting.clustering import EuclideanKMeans, IoUKMeans
from detect.fitting.kmeans import UPDATES, Members
from detect.fitting.mixture import LogGaussianMixture
from detect.ops.box_arrays import best_shape_iou, shape_iou

SEEDS = [0, 1, 7]
LEFT_OUT = {
    "check_estimators_dtypes": "its integer data hold zeros, and a box of zero width is no shape",
    "check_clustering": "it standardises its data, so that half of them are negative",
}


@pytest.fixture
def shapes() -> np.ndarray:
    random = np.random.default_rng(3)
    groups = [(12, 16), (40, 30), (90, 120), (200, 60)]
    return np.concatenate([np.array(group) * np.exp(random.normal(0, 0.2, (50, 2))) for group in groups])


@pytest.mark.parametrize("estimator", [IoUKMeans(3), EuclideanKMeans(3), LogGaussianMixture(3)], ids=repr)
def test_scikit_learns_own_checks_on_positive_data(estimator, monkeypatch):
    enforce = checks._enforce_estimator_tags_X

    def strictly_positive(estimator, X, *args, **kwargs):
        """scikit-learn shifts its data to start at zero; shapes start above it."""
        X = enforce(estimator, X, *args, **kwargs)
        numeric = isinstance(X, np.ndarray) and X.dtype.kind in "fiu" and X.size
        return X + 1 if numeric and X.min() <= 0 else X

    monkeypatch.setattr(checks, "_enforce_estimator_tags_X", strictly_positive)
    # one of the checks gives the constructor values of other types, and wants it to store them
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the checks provoke warnings on purpose
        results = checks.check_estimator(estimator, on_fail=None, on_skip=None, expected_failed_checks=LEFT_OUT)
    failed = {result["check_name"]: str(result["exception"]) for result in results if result["status"] == "failed"}
    assert failed == {}
    assert sum(result["status"] == "passed" for result in results) >= 45


def test_starts_one_by_one_are_scikit_learns_own_starts():
    shapes = np.exp(np.random.default_rng(0).normal(3, 0.8, (300, 2)))
    own = KMeans(7, n_init=10, random_state=3).fit(np.unique(shapes, axis=0))  # distinct shapes, in order
    found = EuclideanKMeans(7, random_state=3).fit(shapes).cluster_centers_
    assert_allclose(np.sort(found, axis=0), np.sort(own.cluster_centers_, axis=0), rtol=1e-12)


def test_planted_shapes_are_found_again(shapes):
    centers = IoUKMeans(4).fit(shapes).cluster_centers_
    # medians of 50 samples with a spread of 20 %: within about 3 * 1.25 * .2 / sqrt(50) = 11 % of what was planted
    assert_allclose(centers, [(12, 16), (40, 30), (90, 120), (200, 60)], rtol=0.11)


def test_two_clusters_reach_the_optimum_of_an_exhaustive_search():
    random = np.random.default_rng(0)
    shapes = np.exp(random.uniform(2, 5, (9, 2)))
    # the best shapes have widths and heights of the data, where the derivative of IoU jumps
    candidates = np.array(list(itertools.product(shapes[:, 0], shapes[:, 1])))
    iou = np.stack([shape_iou(shapes, candidate) for candidate in candidates])
    best = max(np.maximum(iou[i], iou[j]).sum() for i, j in itertools.combinations(range(len(iou)), 2))
    model = IoUKMeans(2, n_init=50).fit(shapes)
    assert_allclose(len(shapes) - model.inertia_, best, rtol=1e-3)
    assert len(shapes) - model.inertia_ <= best * (1 + 1e-9)


def test_weights_of_the_median_are_the_derivatives_of_iou():
    shapes, center = np.array([[10.0, 40.0], [30.0, 20.0], [25.0, 50.0]]), np.array([20.0, 30.0])
    # numeric derivatives of IoU in ln w: by symmetry of the median only their sizes matter
    step = 1e-6
    numeric = [
        (shape_iou(shapes, center * [np.exp(step), 1]) - shape_iou(shapes, center * [np.exp(-step), 1])) / (2 * step)
    ]
    slopes = np.abs(numeric[0])
    order = np.argsort(shapes[:, 0])
    reach = np.cumsum(slopes[order])
    expected = shapes[order][np.searchsorted(reach, reach[-1] / 2), 0]
    members = Members(shapes, np.ones(3))
    update = UPDATES["weighted_median"](members, np.zeros(3, np.int64), center[None])
    assert update[0, 0] == expected


@pytest.mark.parametrize("seed", SEEDS)
def test_order_and_copies_and_weights_change_nothing(shapes, seed):
    model = IoUKMeans(5, random_state=seed, n_init=2)
    plain = clone(model).fit(shapes).cluster_centers_
    shuffled = np.random.default_rng(seed).permutation(len(shapes))
    assert_array_equal(clone(model).fit(shapes[shuffled]).cluster_centers_, plain)
    weights = np.random.default_rng(seed).integers(0, 4, len(shapes))
    weighted = clone(model).fit(shapes, sample_weight=weights)
    copied = clone(model).fit(np.repeat(shapes, weights, axis=0))
    assert_array_equal(weighted.cluster_centers_, copied.cluster_centers_)
    assert_allclose(weighted.inertia_, copied.inertia_, rtol=1e-12)


@pytest.mark.parametrize("update", ["weighted_median", "median", "mean"])
def test_scaled_weights_and_scaled_shapes_change_nothing_else(shapes, update):
    model = IoUKMeans(3, update=update, n_init=3)
    plain = clone(model).fit(shapes)
    heavy = clone(model).fit(shapes, sample_weight=np.full(len(shapes), 4.0))
    assert_allclose(heavy.cluster_centers_, plain.cluster_centers_, rtol=1e-9)
    large = clone(model).fit(shapes * 2)
    assert_allclose(large.cluster_centers_, plain.cluster_centers_ * 2, rtol=1e-9)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_weighted_median_beats_the_median_and_the_mean(bccd, seed):
    scores = {
        update: IoUKMeans(5, update=update, random_state=seed).fit(bccd.shapes).score(bccd.shapes)
        for update in ("weighted_median", "median", "mean")
    }
    assert scores["weighted_median"] > scores["median"] > scores["mean"]


def test_score_inertia_and_labels_agree(shapes):
    model = IoUKMeans(4).fit(shapes)
    best, labels = best_shape_iou(shapes, model.cluster_centers_)
    assert_array_equal(model.labels_, labels)
    assert_array_equal(model.predict(shapes), labels)
    assert_allclose(model.inertia_, (1 - best).sum())
    assert_allclose(model.score(shapes), best.mean())


def test_as_many_clusters_as_shapes_give_the_shapes():
    shapes = np.array([[10.0, 10.0], [10.0, 10.0], [20.0, 5.0], [1.0, 900.0]])
    model = IoUKMeans(3).fit(shapes)
    assert_array_equal(model.cluster_centers_, [[10.0, 10.0], [20.0, 5.0], [1.0, 900.0]])
    assert model.inertia_ == 0.0


def test_shapes_that_differ_by_one_rounding_error_are_still_told_apart():
    shapes = np.array([[10.0, 10.0], [np.nextafter(10.0, 11.0), 10.0], [50.0, 50.0]])
    assert IoUKMeans(3).fit(shapes).cluster_centers_.shape == (3, 2)


@pytest.mark.parametrize("estimator", [IoUKMeans(3), EuclideanKMeans(3), LogGaussianMixture(3)], ids=repr)
def test_fewer_distinct_shapes_than_clusters_is_an_error(estimator):
    with pytest.raises(FitError, match="3 clusters need 3 distinct shapes, got 2"):
        estimator.fit(np.array([[10.0, 10.0], [10.0, 10.0], [20.0, 5.0]]))


def test_bad_parameters_are_named(shapes):
    with pytest.raises(ValueError, match="update='mode'"):
        IoUKMeans(2, update="mode").fit(shapes)
    with pytest.raises(ValueError, match="init='random'"):
        IoUKMeans(2, init="random").fit(shapes)
    with pytest.raises(ValueError, match=r"\(2, 2\) positive extents"):
        IoUKMeans(2, init=[[1.0, 2.0]]).fit(shapes)
    with pytest.raises(ValueError, match="Zero values in data passed to IoUKMeans: shapes are positive; row 1"):
        IoUKMeans(2).fit([[1.0, 1.0], [0.0, 1.0], [3.0, 3.0]])


def test_an_emptied_cluster_is_filled_again(shapes):
    # two starting centres far from all data: both would stay empty for ever
    start = np.array([[30.0, 30.0], [150.0, 90.0], [1e6, 1e6], [1e7, 1e7]])
    model = IoUKMeans(4, init=start).fit(shapes)
    assert (np.bincount(model.labels_, minlength=4) > 0).all()


def test_three_dimensions_work_alike():
    volumes = np.array([[10.0, 10.0, 4.0], [11.0, 10.0, 4.0], [12.0, 10.0, 4.0], [60.0, 50.0, 20.0]])
    assert_array_equal(IoUKMeans(2).fit(volumes).cluster_centers_, [[11.0, 10.0, 4.0], [60.0, 50.0, 20.0]])


def test_euclidean_is_scikit_learns_k_means(shapes):
    reference = KMeans(4, n_init=10, random_state=0).fit(shapes[np.lexsort(shapes.T[::-1])]).cluster_centers_
    reference = reference[np.argsort(reference.prod(axis=1))]
    assert_allclose(EuclideanKMeans(4).fit(shapes).cluster_centers_, reference, rtol=1e-9)
    in_logs = EuclideanKMeans(4, log=True).fit(shapes).cluster_centers_
    assert_allclose(in_logs, [(12, 16), (40, 30), (90, 120), (200, 60)], rtol=0.11)
