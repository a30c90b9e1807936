"""Single training steps: the same in parts, in half precision, and without effect if a gradient is not finite."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from numpy.testing import assert_allclose
from torch.testing import assert_close

from detect.errors import TrainingError
from detect.loading.dataset import collate
from detect.training.builder import Detector, build_detector, training_anchors
from detect.training.config import TrainConfig
from detect.training.inputs import Inputs, read_inputs
from detect.training.step import Stepper, launch


def stepper_of(config: TrainConfig, **options: Any) -> tuple[Stepper, Inputs]:
    inputs = read_inputs(config)
    anchors = training_anchors(config, inputs.train.dataset)
    return Stepper(config, launch(config), inputs=inputs, anchors=anchors, **options), inputs


@pytest.mark.parametrize("task", ["boxes", "landmarks"])
def test_a_batch_in_parts_is_the_same_step(tiny, task):
    config = tiny(task=task)
    (whole, inputs), (parted, _) = stepper_of(config), stepper_of(config)
    for step in range(3):
        samples = [inputs.train[step, place] for place in range(4)]
        one = whole.training_step([collate(samples)], rate=2e-3, step=step)
        two = parted.training_step([collate(samples[::2]), collate(samples[1::2])], rate=2e-3, step=step)
        assert_allclose(list(two.values()), list(one.values()), rtol=1e-3, atol=1e-5)
        assert one["loss"] > 0


@pytest.mark.parametrize("class_loss", ["focal", "quality_focal"])
def test_half_precision_learns_too(tiny, class_loss):
    stepper, inputs = stepper_of(tiny("optimisation.precision=bf16-mixed", f"model.class_loss={class_loss}"))
    batch = collate([inputs.train[place] for place in range(4)])
    losses = [stepper.training_step([batch], rate=2e-3, step=step)["loss"] for step in range(6)]
    assert 0 < losses[-1] < losses[0] < 10


def test_a_gradient_that_is_not_finite_does_not_reach_the_weights(tiny):
    def build(*arguments: Any, **options: Any) -> Detector:
        detector = build_detector(*arguments, **options)
        next(detector.head.parameters()).register_hook(lambda gradient: gradient * float("nan"))
        return detector

    stepper, inputs = stepper_of(tiny(), build=build)
    before = {name: value.clone() for name, value in stepper.detector.state_dict().items()}
    with pytest.raises(TrainingError, match=r"the gradient is not finite \(loss .*\) on the batch of 1.png, 2.png"):
        stepper.training_step([collate([inputs.train[0], inputs.train[1]])], rate=1e-3)
    assert_close(stepper.detector.state_dict(), before, rtol=0, atol=0)
    assert all(parameter.grad is None for parameter in stepper.detector.parameters())


def test_a_restored_stepper_continues_exactly(tiny):
    (first, inputs), (restored, _) = stepper_of(tiny()), stepper_of(tiny("seed=5"))
    batches = [collate([inputs.train[step, place] for place in range(2)]) for step in range(3)]
    for step, batch in enumerate(batches[:2]):
        first.training_step([batch], rate=1e-3, step=step)
    restored.load_state_dict(copy.deepcopy(first.state_dict()))
    restored.config = first.config  # the seed of random layers
    numbers = [each.training_step([batches[2]], rate=1e-3, step=2) for each in (first, restored)]
    assert numbers[0] == numbers[1]
    assert_close(restored.state_dict(), first.state_dict(), rtol=0, atol=0)
    averages = [each.averaged_detector.state_dict() for each in (first, restored)]
    assert_close(averages[1], averages[0], rtol=0, atol=0)
