"""Few images learned by heart, or not."""

from __future__ import annotations

from detect.training.overfitting import overfit


def test_few_images_are_learned_by_heart_but_not_at_a_rate_of_nothing(tiny):
    config = tiny("optimisation.learning_rate=5e-3")
    assert overfit(config, 2, num_steps=60).passed
    slow = overfit(tiny("optimisation.learning_rate=1e-9"), 2, num_steps=5)
    assert not slow.passed
    assert any("too small" in finding for finding in slow.diagnosis.findings)
