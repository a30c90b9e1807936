"""The best pairs of anchor and class: above the threshold of their class, the best of each level."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from detect.heads.best_pairs import best_pairs, thresholds_of, top_pairs


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("threshold", [0.001, 0.05, 0.3, 0.5, 0.99])
@pytest.mark.parametrize("others", [(), (0.0, 0.4)])
def test_pairs_are_those_whose_sigmoid_is_above_the_threshold(threshold, others, dtype):
    at_threshold = torch.tensor(threshold, dtype=torch.float64).logit().to(dtype)
    ulps = torch.arange(-40, 41) * torch.finfo(dtype).eps * at_threshold.abs().clamp(min=1)
    logits = (at_threshold + ulps).to(dtype).reshape(1, -1, 3)
    scores = logits.to(torch.promote_types(dtype, torch.float32)).sigmoid()
    thresholds = (threshold, *others)
    anchor, classes = (scores[0] > torch.tensor(thresholds, dtype=scores.dtype)).nonzero(as_tuple=True)
    pairs = best_pairs(logits, [27], thresholds=thresholds, topk_per_level=1000)
    found = zip(pairs.anchor.tolist(), pairs.classes.tolist(), strict=True)
    assert sorted(found) == list(zip(anchor.tolist(), classes.tolist(), strict=True))
    assert_close(pairs.scores, scores[0, pairs.anchor, pairs.classes])  # vectors and single numbers round differently


@given(
    st.integers(0, 1000),
    st.integers(1, 30),
    st.sampled_from([(0.05,), (0.5,), (0.5, 0.2, 0.7), (0.0, 0.9, 0.0)]),
    st.sampled_from([(5, 4), (9, 0), (9,), (3, 3, 3)]),
)
def test_both_forms_are_a_sort_of_every_pair(seed, topk, thresholds, num_per_level):
    logits = (torch.randn(2, 9, 3, generator=torch.Generator().manual_seed(seed)) * 2).round(decimals=1)  # some equal
    pairs = best_pairs(logits, num_per_level, thresholds=thresholds, topk_per_level=topk)
    anchor, classes, scores = top_pairs(
        logits, num_per_level, thresholds=thresholds, topk_per_level=topk, most=sum(num_per_level) * 3
    )
    least = torch.tensor(thresholds).expand(3)
    for image in range(2):
        start, expected = 0, []
        for count in num_per_level:
            level = [(-logits[image, a, c].item(), a, c) for a in range(start, start + count) for c in range(3)]
            above = [pair for pair in level if torch.tensor(-pair[0]).sigmoid() > least[pair[2]]]
            expected += sorted(above)[:topk]
            start += count
        own = pairs.image == image
        found = list(zip(pairs.anchor[own].tolist(), pairs.classes[own].tolist(), strict=True))
        assert found == [pair[1:] for pair in expected]
        valid = scores[image] > 0
        padded = logits[image, anchor[image, valid], classes[image, valid]]
        assert padded.tolist() == [
            -pair[0] for pair in sorted(expected)
        ]  # of equals at the edge of the top k, topk takes any


def test_thresholds_of_classes():
    scores = torch.zeros(3, dtype=torch.float64)
    assert thresholds_of(torch.tensor([1, 0, 1]), (0.25,), scores) == 0.25
    assert thresholds_of(torch.tensor([1, 0, 1]), (0.25, 0.5), scores).tolist() == [0.5, 0.25, 0.5]
