"""Sources and seeds, drawn with replacement."""

from __future__ import annotations

import numpy as np
from evidence_parts import resampling
from numpy.testing import assert_allclose, assert_array_equal


def test_resamples_draw_sources_as_a_whole():
    draws = resampling.Draws.of(np.array([0, 0, 1, 2]), resamples=50)
    assert_array_equal(draws.weights[:, 0], draws.weights[:, 1])
    assert_array_equal(draws.weights[:, [0, 2, 3]].sum(axis=1), np.full(50, 3))


def test_seeds_are_drawn_in_pairs():
    draws = resampling.Draws.of(np.arange(4), resamples=200)
    scores = {seed: np.full(200, float(seed)) for seed in range(3)}
    others = {seed: scores[seed] - 0.1 for seed in range(3)}
    spread = draws.mean_over_seeds(scores)
    assert spread.min() < 0.5
    assert spread.max() > 1.5
    gap = draws.difference(0.1, scores, others)
    assert_allclose((gap.low, gap.high), (0.1, 0.1))
    assert gap.side == 1
    assert draws.difference(0.1, scores, {7: scores[0]}) is None
