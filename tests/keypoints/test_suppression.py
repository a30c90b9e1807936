import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from detect import coco_keypoints, find_peaks, read_coco, render_heatmaps, score_points
from detect.keypoints.local_maxima import LocalMaxima, find_local_maxima
from detect.keypoints.suppression import noise_level, suppress_explained, suppress_near
from detect.samples import sample_annotations


def maxima_at(cells, scores, number=None) -> LocalMaxima:
    at = torch.tensor(cells)
    number = torch.zeros(len(at), dtype=torch.int64) if number is None else torch.tensor(number)
    return LocalMaxima(number, at, at.double(), torch.tensor(scores), torch.full((len(at),), math.inf))


def test_a_maximum_stays_if_noise_does_not_explain_it():
    # a Gaussian of height 1 and sigma 2 is exp(-4^2 / 8) = .1353 four cells away; noise of .02 explains .1 more
    for height, stays in ((0.234, False), (0.237, True)):
        maxima = maxima_at([[3, 3], [7, 3]], [1.0, height])
        assert suppress_explained(maxima, torch.tensor([0.02]), [2.0, 2.0]).tolist() == [True, stays]


def test_sigma_is_that_of_each_axis():
    maxima = maxima_at([[10, 10], [14, 10], [10, 14]], [1.0, 0.3, 0.3])
    assert suppress_explained(maxima, torch.tensor([0.02]), [2.0, 3.0]).tolist() == [True, True, False]


def test_maps_do_not_suppress_one_another_and_have_their_own_noise():
    maxima = maxima_at([[3, 3], [5, 3], [3, 3], [5, 3]], [1.0, 0.7, 1.0, 0.7], number=[0, 0, 1, 2])
    noise = torch.tensor([0.02, 0.0, 0.2])  # .7 is not above 5 * .2
    assert suppress_explained(maxima, noise, [2.0, 2.0]).tolist() == [True, False, True, False]


@given(st.integers(0, 2**31), st.floats(0.5, 4), st.floats(0, 0.1), st.floats(0.5, 20))
def test_suppression_is_greedy_from_the_highest_down(seed, sigma, noise, min_distance):
    maps = torch.rand(2, 12, 14, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    maxima = find_local_maxima(maps, 0.5)
    at, score, number = maxima.at.double(), maxima.scores, maxima.map
    near, explained = [], []
    for row in score.argsort(descending=True, stable=True).tolist():
        apart = torch.where(number == number[row], (at - at[row]).norm(dim=1), math.inf)
        if (apart[near] >= min_distance).all():
            near.append(row)
        gaussians = score * torch.exp(-(apart**2) / 2 / sigma**2)
        if score[row] - max(gaussians[explained].tolist(), default=0.0) > 5 * noise:
            explained.append(row)
    assert suppress_near(maxima, min_distance).nonzero()[:, 0].tolist() == sorted(near)
    stays = suppress_explained(maxima, torch.full((2,), noise, dtype=torch.float64), [sigma, sigma])
    assert stays.nonzero()[:, 0].tolist() == sorted(explained)


@pytest.mark.parametrize("extents", [(300, 300), (40, 50, 45), (2, 20_000)])
def test_noise_is_estimated_beside_gaussians(extents):
    noise = 0.03 * torch.randn(1, *extents, generator=torch.Generator().manual_seed(0))
    points = np.random.default_rng(0).uniform(0, extents[::-1], (100, len(extents)))
    maps = torch.from_numpy(render_heatmaps([points], extents, stride=1, sigma=2).heatmaps[0])
    assert_close(noise_level(noise + maps), torch.tensor([0.03]), rtol=0.06, atol=0)
    assert_close(noise_level(10 * noise.half()), 10 * noise_level(noise), rtol=0.01, atol=0)


@pytest.mark.parametrize("sigma", [1.0, 2.0, 3.0])
def test_points_of_a_crowd_are_not_taken_for_noise(sigma):
    side = math.ceil(60 / (2.5 * sigma))  # 2.5 sigmas apart: no cell is outside all Gaussians
    points = np.stack(np.meshgrid(*[np.arange(side)] * 2), axis=-1).reshape(-1, 2) * 2.5 * sigma + 1.3
    maps = torch.from_numpy(render_heatmaps([points], (64, 64), stride=1, sigma=sigma).heatmaps)
    assert len(find_peaks(maps, threshold=0.3, sigma=sigma).cells) == len(points)


@pytest.mark.parametrize("sigma", [1.0, 2.0, 3.0])
@pytest.mark.parametrize("noise", [0.02, 0.05, 0.1])
def test_known_sigma_is_as_good_as_the_best_distance(sigma, noise):
    nuclei = coco_keypoints(read_coco(sample_annotations("nuclei"), keypoints=True)).take(range(0, 80, 2))
    clean = torch.from_numpy(render_heatmaps(nuclei.landmarks, (128, 128), stride=4, sigma=sigma).heatmaps)
    maps = clean + noise * torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))

    def f1(**options: float) -> float:
        points, scores = find_peaks(maps, threshold=0.3, **options).per_image(stride=4)
        return score_points(points, nuclei.landmarks.per_image(), scores=scores, radius=3.0).micro.f1

    assert f1(sigma=sigma) >= np.max([f1(min_distance=distance) for distance in (2.0, 4.0, 7.5)]) - 0.01
