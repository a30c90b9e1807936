"""A limit on the time of searches: nothing depends on it until it is reached; then there is a result, and a mark."""

from __future__ import annotations

import itertools
from functools import cache
from threading import Thread

import numpy as np
import pytest
from builders import instances_of
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy import ndarray
from numpy.testing import assert_array_equal

from detect.anchors.histogram import ShapeHistogram
from detect.anchors.known import load_anchors
from detect.catalog.detectors import load_detector
from detect.fitting.any_position import AnyPosition
from detect.fitting.clustering import EuclideanKMeans, IoUKMeans
from detect.fitting.fit import fit_anchors
from detect.fitting.fit_levels import fit_levels
from detect.fitting.for_detector import fit_for
from detect.fitting.mixture import LogGaussianMixture
from detect.fitting.search import optimal_anchors
from detect.fitting.ssd import fit_ssd
from detect.ops.time_limit import best_until, is_over, tell, time_limit

WH = np.exp(np.random.default_rng(0).normal(3, 0.7, (60, 2)))
SHAPES = ShapeHistogram.of(WH, cells_per_octave=64)
BOXES = instances_of([[5, 5, *wh] for wh in WH], image_wh=(300, 300))
SSD = load_anchors("torchvision-ssd300")


def score(shapes) -> float:
    """The mean best IoU of some shapes."""
    both = np.minimum(WH[:, None], shapes).prod(axis=2)
    return float((both / (WH.prod(axis=1)[:, None] + shapes.prod(axis=1) - both)).max(axis=1).mean())


SEARCHES = {
    "by shape": lambda: optimal_anchors(SHAPES, 4, certify=0.001).shapes,
    "by side ratio": lambda: optimal_anchors(SHAPES, 4, objective="0.5*ratio+0.5*recall@0.5", certify=0.01).shapes,
    "k-means": lambda: fit_anchors(BOXES, k=4, method="kmeans").shapes,
    "Euclidean": lambda: EuclideanKMeans(4).fit(WH).cluster_centers_,
    "IoU": lambda: IoUKMeans(4).fit(WH).cluster_centers_,
    "mixture": lambda: LogGaussianMixture(4).fit(WH).cluster_centers_,
    "on the grid": lambda: fit_levels(BOXES, (8, 16), per_level=2, certify=0.02).anchors.shapes,
    "layouts": lambda: fit_levels(BOXES, (8, 16), per_level=4, layout="level-grids", scales=2, ratios=2).anchors.shapes,
    "ssd": lambda: fit_ssd(AnyPosition.of(SHAPES, [level.stride for level in SSD.levels]), SSD).shapes,
    "a detector": lambda: fit_for(BOXES, load_detector("yolov5")).anchors.shapes,
}


@cache
def found(kind: str) -> ndarray:
    """The shapes of a search without a limit."""
    return SEARCHES[kind]()


def test_without_a_limit_no_time_is_over_and_nobody_is_told():
    tell("a step")
    assert not is_over()


def test_the_limit_of_the_block_around_the_call_counts_and_is_marked_once_it_is_reached():
    now = [0.0]
    with time_limit(5, clock=lambda: now[0]) as outer:
        now[0] = 4.9
        assert not is_over()
        with time_limit(1, clock=lambda: now[0]) as inner:
            now[0] = 5.9  # 4.9 + 1
            assert is_over()
        assert (inner.stopped_after_s, outer.stopped_after_s) == (1, None)
        assert is_over()
    assert outer.stopped_after_s == 5
    assert not is_over()


def test_other_threads_have_limits_of_their_own():
    answers = []
    with time_limit(0):
        thread = Thread(target=lambda: answers.append(is_over()))
        thread.start()
        thread.join()
    assert answers == [False]


def test_steps_are_told():
    steps: list[str] = []
    with time_limit(1e9, steps.append):
        optimal_anchors(SHAPES, 2, certify=0.01)
    assert "start 1 of" in steps[0]
    assert steps[-1].startswith("proof, round ")


def test_the_best_until_then_is_the_first_at_least():
    with time_limit(2, clock=itertools.count().__next__):
        assert best_until([1, 5, 9], lambda value: value) == 5  # the clock says 1 after the first, 2 after the second
    assert best_until([3, 1, 3], lambda value: value) == 3


@pytest.mark.parametrize("seconds", [-1, float("nan")])
def test_what_is_no_time_is_refused(seconds):
    with pytest.raises(ValueError, match="need seconds >= 0"), time_limit(seconds):
        pass


@pytest.mark.parametrize("kind", SEARCHES)
def test_a_limit_that_is_not_reached_changes_nothing(kind):
    with time_limit(1e9) as limit:
        limited = SEARCHES[kind]()
    assert limit.stopped_after_s is None
    assert_array_equal(limited, found(kind))


@pytest.mark.parametrize("kind", SEARCHES)
@settings(max_examples=4)
@given(checks=st.integers(0, 60))
def test_a_search_that_is_cut_anywhere_ends_at_once_with_as_many_shapes(kind, checks):
    clock = itertools.count()
    with time_limit(checks, clock=clock.__next__) as limit:
        cut = SEARCHES[kind]()
    whole = found(kind)
    assert cut.shape == whole.shape
    assert (np.isfinite(cut) & (cut > 0)).all()
    if limit.stopped_after_s is None:
        assert_array_equal(cut, whole)
    else:
        assert next(clock) < checks + 100  # whoever asks ends: few are left to ask


@settings(max_examples=6)
@given(checks=st.integers(0, 600))
def test_the_bound_of_a_proof_that_is_cut_anywhere_holds(checks):
    best = score(found("by shape"))
    with time_limit(checks, clock=itertools.count().__next__):
        cut = optimal_anchors(SHAPES, 4, certify=1e-3, rounds=4)
    assert cut.proof is None or cut.proof.upper_bound >= best - 1e-6
    assert abs(cut.score - score(cut.shapes)) < 0.01  # of cells, not of the boxes
