"""scikit-learn's Gaussian mixture over (ln w, ln h), with weights and with covariances that stay regular.

When all boxes of a component share a width, its covariance is singular. Four remedies: ``reg_covar`` on the diagonal,
always; shrinkage towards a multiple of the identity, by the amount that Ledoit and Wolf (2004) or Chen et al. (2010, OAS)
derive from the data; diagonal covariances; spherical ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float64
from numpy import ndarray
from sklearn.mixture import GaussianMixture

from detect.errors import FitError
from detect.fitting.clustering import PerRow, Rows, ShapeClustering
from detect.ops.time_limit import is_over

COVARIANCE_TYPES = ("full", "tied", "diag", "spherical")
Shrinkage = Callable[[Rows, PerRow, Float64[ndarray, "d d"]], float]


class LogGaussianMixture(ShapeClustering):
    """Shapes as the geometric means of a Gaussian mixture's components in log space.

    Args:
        n_clusters: number of components.
        covariance_type: ``"full"``, ``"tied"``, ``"diag"`` or ``"spherical"``.
        shrinkage: ``"ledoit-wolf"``, ``"oas"`` or None; for full covariances.
        reg_covar: added to each variance of (ln w, ln h); 1e-4 is a spread of 1 % in size.
        n_init: number of starts.
        max_iter: maximum number of updates of one start.
        random_state: seed of the starts.

    >>> one_width = np.array([[16.0, 10.0], [16.0, 11.0], [16.0, 40.0], [16.0, 44.0]])
    >>> LogGaussianMixture(n_clusters=2).fit(one_width).cluster_centers_.round(1)
    array([[16. , 10.5],
           [16. , 42. ]])
    """

    def __init__(
        self,
        n_clusters: int = 9,
        *,
        covariance_type: str = "full",
        shrinkage: str | None = None,
        reg_covar: float = 1e-4,
        n_init: int = 3,
        max_iter: int = 1000,
        random_state: Any = 0,
    ) -> None:
        self.n_clusters = n_clusters
        self.covariance_type = covariance_type
        self.shrinkage = shrinkage
        self.reg_covar = reg_covar
        self.n_init = n_init
        self.max_iter = max_iter
        self.random_state = random_state

    def _fit_distinct(self, shapes: Rows, weights: PerRow) -> Float64[ndarray, "k d"]:
        if self.shrinkage not in (None, *_SHRINKAGES):
            raise FitError(f"shrinkage={self.shrinkage!r} is not one of {[None, *_SHRINKAGES]}")
        if self.covariance_type not in COVARIANCE_TYPES:
            raise FitError(f"covariance_type={self.covariance_type!r} is not one of {list(COVARIANCE_TYPES)}")
        if self.shrinkage and self.covariance_type != "full":
            raise FitError(f"shrinkage is for covariance_type='full', got {self.covariance_type!r}")
        if len(shapes) < 2:
            raise FitError(f"a mixture needs at least 2 distinct shapes, got n_samples = {len(shapes)}")
        parameters = self.get_params()
        parameters["n_components"] = parameters.pop("n_clusters")
        mixture = _WeightedMixture(weights, **parameters)
        self.mixture_ = mixture.fit(np.log(shapes))
        self.n_iter_ = mixture.n_iter_
        self.lower_bound_ = float(mixture.lower_bound_)
        self.bic_ = mixture.weighted_bic()
        return np.exp(mixture.means_)


class _WeightedMixture(GaussianMixture):  # type: ignore[misc]
    """scikit-learn's mixture with weights of rows and shrinkage of covariances.

    Overrides the two steps of EM and the first guess, as scikit-learn's own mixtures do; some of its releases pass
    ``**kwargs`` through.
    """

    def __init__(self, row_weights: PerRow, *, shrinkage: str | None, **parameters: Any) -> None:
        super().__init__(**parameters)
        self.row_weights = row_weights
        self.shrinkage = shrinkage

    def weighted_bic(self) -> float:
        total = self.row_weights.sum()
        return float(-2 * self.lower_bound_ * total + self._n_parameters() * np.log(total))

    def _initialize(self, X: Rows, resp: Float64[ndarray, "n k"], **kwargs: Any) -> None:
        super()._initialize(X, resp * self.row_weights[:, None], **kwargs)
        self.weights_: Float64[ndarray, " k"] = self.weights_ / self.weights_.sum()

    def _e_step(self, X: Rows, **_: Any) -> tuple[float, Float64[ndarray, "n k"]]:
        if is_over():
            self.tol = np.inf  # whatever this update changes, it is the last
        log_prob, log_resp = self._estimate_log_prob_resp(X)
        return float(np.average(log_prob, weights=self.row_weights)), log_resp

    def _m_step(self, X: Rows, log_resp: Float64[ndarray, "n k"], **kwargs: Any) -> None:
        super()._m_step(X, log_resp + np.log(self.row_weights)[:, None], **kwargs)
        if self.shrinkage:
            resp = np.exp(log_resp) * self.row_weights[:, None]
            self._shrink(X, resp, _SHRINKAGES[self.shrinkage])

    def _shrink(self, X: Rows, resp: Float64[ndarray, "n k"], amount_of: Shrinkage) -> None:
        identity = np.eye(X.shape[1])
        for component, (mean, covariance) in enumerate(zip(self.means_, self.covariances_, strict=True)):
            scatter = covariance - self.reg_covar * identity
            amount = amount_of(X - mean, resp[:, component], scatter)
            level = np.trace(scatter) / len(scatter)
            self.covariances_[component] = covariance + amount * (level * identity - scatter)
        self.precisions_cholesky_ = np.linalg.inv(np.linalg.cholesky(self.covariances_)).swapaxes(1, 2)


def _ledoit_wolf(centred: Rows, weights: PerRow, scatter: Float64[ndarray, "d d"]) -> float:
    """Ledoit and Wolf (2004), lemma 3.2 to 3.5: the share of the target that minimises the expected squared error."""
    total = weights.sum()
    distance = _squared_norm(scatter) - np.trace(scatter) ** 2 / len(scatter)
    fourth = weights @ (centred**2).sum(axis=1) ** 2 / total
    error = (fourth - _squared_norm(scatter)) / total
    return float(min(max(error, 0.0), distance) / distance) if distance > 0 else 0.0


def _oas(_: Rows, weights: PerRow, scatter: Float64[ndarray, "d d"]) -> float:
    """Oracle approximating shrinkage: Chen et al. (2010), eq. 23, without its 2 / d, as in scikit-learn."""
    squared_trace = np.trace(scatter) ** 2
    above = _squared_norm(scatter) + squared_trace
    below = (weights.sum() + 1) * (_squared_norm(scatter) - squared_trace / len(scatter))
    return float(min(above / below, 1.0)) if below > 0 else 1.0


def _squared_norm(matrix: Float64[ndarray, "d d"]) -> float:
    return float((matrix**2).sum())


_SHRINKAGES: dict[str, Shrinkage] = {"ledoit-wolf": _ledoit_wolf, "oas": _oas}
