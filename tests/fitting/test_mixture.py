from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.covariance import ledoit_wolf_shrinkage, oas
from sklearn.mixture import GaussianMixture

from detect.errors import FitError
from detect.fitting.mixture import LogGaussianMixture, _ledoit_wolf, _oas

ONE_WIDTH = np.stack([np.full(40, 16.0), np.concatenate([np.linspace(9, 11, 20), np.linspace(38, 46, 20)])], axis=1)


@pytest.fixture
def shapes() -> np.ndarray:
    random = np.random.default_rng(5)
    groups = [((12, 16), (0.1, 0.3)), ((80, 60), (0.3, 0.1))]
    return np.concatenate([np.array(mean) * np.exp(random.normal(0, spread, (150, 2))) for mean, spread in groups])


def test_with_weights_of_one_it_is_scikit_learns_mixture(shapes):
    model = LogGaussianMixture(2, reg_covar=1e-6).fit(shapes)
    logs = np.log(shapes)
    reference = GaussianMixture(2, reg_covar=1e-6, n_init=3, random_state=0, max_iter=1000).fit(logs)
    means = reference.means_[np.argsort(reference.means_.sum(axis=1))]
    assert_allclose(model.cluster_centers_, np.exp(means), rtol=1e-3)
    assert_allclose(model.bic_, reference.bic(logs), rtol=1e-4)


def test_a_weight_is_so_many_copies(shapes):
    weights = np.random.default_rng(1).integers(1, 4, len(shapes))
    weighted = LogGaussianMixture(2).fit(shapes, sample_weight=weights)
    copied = LogGaussianMixture(2).fit(np.repeat(shapes, weights, axis=0))
    assert_allclose(weighted.cluster_centers_, copied.cluster_centers_, rtol=1e-9)
    assert_allclose(weighted.bic_, copied.bic_, rtol=1e-9)


@pytest.mark.parametrize(
    "remedy",
    [
        {},
        {"shrinkage": "ledoit-wolf"},
        {"shrinkage": "oas"},
        {"covariance_type": "diag"},
        {"covariance_type": "spherical"},
        {"covariance_type": "tied"},
    ],
    ids=str,
)
def test_boxes_of_one_width_do_not_break_it(remedy):
    model = LogGaussianMixture(2, **remedy).fit(ONE_WIDTH)
    assert_allclose(model.cluster_centers_, [[16, 10], [16, 42]], rtol=0.02)
    assert np.isfinite(model.bic_)


def test_without_a_load_on_the_diagonal_the_same_data_are_singular():
    bare = GaussianMixture(2, reg_covar=0.0, random_state=0).fit(np.log(ONE_WIDTH))
    assert np.linalg.cond(bare.covariances_).max() > 1e12
    assert np.linalg.cond(LogGaussianMixture(2).fit(ONE_WIDTH).mixture_.covariances_).max() < 1e3


def test_shrinkage_is_scikit_learns(shapes):
    centred = np.log(shapes) - np.log(shapes).mean(axis=0)
    scatter = centred.T @ centred / len(centred)
    ones = np.ones(len(centred))
    assert_allclose(_ledoit_wolf(centred, ones, scatter), ledoit_wolf_shrinkage(centred, assume_centered=True))
    assert_allclose(_oas(centred, ones, scatter), oas(centred, assume_centered=True)[1])


def test_bic_finds_the_planted_number(shapes):
    curve = {k: LogGaussianMixture(k, n_init=1).fit(shapes).bic_ for k in range(1, 6)}
    assert min(curve, key=curve.__getitem__) == 2


def test_bad_parameters_are_named(shapes):
    with pytest.raises(ValueError, match="shrinkage='lasso'"):
        LogGaussianMixture(2, shrinkage="lasso").fit(shapes)
    with pytest.raises(FitError, match="shrinkage is for covariance_type='full'"):
        LogGaussianMixture(2, shrinkage="oas", covariance_type="diag").fit(shapes)
