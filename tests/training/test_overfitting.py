"""A few images overfitted, or not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from detect.errors import ConfigError
from detect.training.diagnosis import Diagnosis, ImageStatistics
from detect.training.overfitting import OverfitVerdict, overfit


def test_few_images_are_learned_by_heart_but_not_at_a_rate_of_nothing(tiny):
    assert overfit(tiny("optimisation.learning_rate=1e-2"), 2, num_steps=40).passed
    slow = overfit(tiny("optimisation.learning_rate=1e-9"), 2, num_steps=2)
    assert not slow.passed
    assert any("too small" in finding for finding in slow.diagnosis.findings)


def test_there_must_be_enough_images_with_objects(tiny):
    with pytest.raises(ConfigError, match="--overfit 9: there are 8 images with objects"):
        overfit(tiny(), 9)


def test_the_verdict_says_what_was_reached():
    images = ImageStatistics(mean=0.0, std=1.0, minimum=-1.0, maximum=1.0)
    diagnosis = Diagnosis(0.41, 1e-3, images, 8, {}, {"head": 0.0}, ("no gradient reaches head",))
    passed = OverfitVerdict(4, 300, 2.0, 0.4, diagnosis)
    failed = replace(passed, last_loss=0.41)
    assert passed.passed
    assert not failed.passed
    assert passed.to_text() == "learned by heart: loss 2 -> 0.4 on 4 images in 300 steps\n"
    assert "NOT learned by heart" in failed.to_text()
    assert "no gradient reaches head" in failed.to_text()
