"""Single training steps: the same in parts, in half precision, and without effect if a gradient is not finite."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from process_groups import IN_PROCESSES
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.testing import assert_close

from detect.errors import TrainingError
from detect.loading.dataset import collate
from detect.training.builder import Detector, build_detector, training_anchors
from detect.training.config import TrainConfig
from detect.training.devices import launch
from detect.training.inputs import Inputs, read_inputs
from detect.training.step import Stepper, average_weights, make_optimizer, rate_factor


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


def test_biases_and_norms_do_not_decay():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.GroupNorm(1, 2))
    decaying, others = make_optimizer(model, learning_rate=0.5, weight_decay=0.25).param_groups
    assert [tuple(each.shape) for each in decaying["params"]] == [(2, 1, 3, 3)]
    assert [tuple(each.shape) for each in others["params"]] == [(2,), (2,), (2,)]
    assert (decaying["weight_decay"], others["weight_decay"], decaying["lr"]) == (0.25, 0.0, 0.5)


def test_cosine_is_torchs():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = CosineAnnealingLR(optimizer, T_max=20)
    for step in range(20):
        optimizer.step()
        scheduler.step()
        assert_allclose(rate_factor(step, 20), scheduler.get_last_lr()[0], atol=1e-12)


@given(st.integers(1, 500), st.integers(0, 600), st.sampled_from(["cosine", "step"]))
def test_it_rises_then_falls_and_never_exceeds_one(num_steps, warmup, schedule):
    found = [rate_factor(step, num_steps, warmup_steps=warmup, schedule=schedule) for step in range(num_steps)]
    rising, falling = found[: warmup or 1], found[max(warmup - 1, 0) :]
    assert all(0 <= factor <= 1 for factor in found)
    assert rising == sorted(rising)
    assert falling == sorted(falling, reverse=True)


def linear(value: float) -> nn.Linear:
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(value)
    return model


def test_an_average_by_hand():
    model = linear(0.0)
    average = average_weights(model, decay=0.15)
    model.weight.data.fill_(1.0)
    average.update_parameters(model)  # d = 1 / 10: .9
    average.update_parameters(model)  # d = min(.15, 2 / 11): .15 * .9 + .85 = .985
    assert_close(average.module.weight, torch.full((1, 1), 0.985))


def test_without_decay_the_average_is_the_model():
    model = linear(0.0)
    average = average_weights(model, decay=0.0)
    model.weight.data.fill_(3.0)
    average.update_parameters(model)
    assert_close(average.module.weight, model.weight, rtol=0, atol=0)


def test_in_the_long_run_the_average_is_torchs_own():
    model = linear(0.0)
    average = average_weights(model, decay=0.9)
    average.n_averaged.fill_(1000)  # past the start
    torchs = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    torchs.update_parameters(model)  # its first call copies
    for value in (1.0, -2.0, 5.0):
        model.weight.data.fill_(value)
        average.update_parameters(model)
        torchs.update_parameters(model)
    assert_close(average.module.weight, torchs.module.weight)


def test_buffers_are_copied_and_the_copy_is_in_evaluation_mode():
    model = nn.Sequential(nn.BatchNorm1d(2))
    average = average_weights(model, decay=0.9)
    model(torch.randn(8, 2, generator=torch.Generator().manual_seed(0)))
    average.update_parameters(model)
    assert_close(average.module[0].running_mean, model[0].running_mean, rtol=0, atol=0)
    assert not average.module.training
    assert model.training


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to allocate"
        ),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    ],
)
def test_too_little_memory_is_one_line_with_the_fields_that_help(tiny, error):
    stepper, inputs = stepper_of(tiny())

    def fail(*_: Any) -> None:
        raise error

    stepper.detector.head.register_forward_pre_hook(fail)
    parts = [collate([inputs.train[place] for place in places]) for places in ((0, 1), (2, 3))]
    with pytest.raises(TrainingError) as caught:
        stepper.training_step(parts, rate=1e-3)
    message = str(caught.value)
    assert message.startswith("not enough memory for a batch of 4 images of 32x32 pixels in 2 parts: raise ")
    assert all(name in message for name in ("optimisation.accumulate", "optimisation.batch_size", "data.resize"))


def test_other_errors_keep_their_traceback(tiny):
    stepper, inputs = stepper_of(tiny())

    def fail(*_: Any) -> None:
        raise RuntimeError("a bug")

    stepper.detector.head.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="a bug"):
        stepper.training_step([collate([inputs.train[0]])], rate=1e-3)


SHARED = """
import torch
from types import SimpleNamespace
from detect.training.step import Stepper

def body(rank):
    norm = torch.nn.BatchNorm2d(1)
    norm(torch.full((1, 1, 2, 2), float(rank + 1)))
    norm.num_batches_tracked += rank
    Stepper.share_average(SimpleNamespace(fabric=SimpleNamespace(world_size=2), averaged_detector=norm))
    say((round(norm.running_mean.item(), 6), norm.num_batches_tracked.item()))
    distributed.barrier()

in_processes(2, body)
"""


def test_all_processes_validate_with_the_running_statistics_of_the_main_one(fresh_python):
    assert fresh_python(IN_PROCESSES + SHARED).splitlines() == ["(0.1, 1)"] * 2  # momentum .1 of an image of ones
