"""The moving average of weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from detect.training.averaging import WeightAverage


def linear(value: float) -> nn.Linear:
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(value)
    return model


def test_by_hand():
    model = linear(0.0)
    average = WeightAverage(model, decay=0.15)
    model.weight.data.fill_(1.0)
    average.update(model)  # d = 1 / 10: .9
    average.update(model)  # d = min(.15, 2 / 11): .15 * .9 + .85 = .985
    assert_close(average.model.weight, torch.full((1, 1), 0.985))


def test_without_decay_it_is_the_model():
    model = linear(0.0)
    average = WeightAverage(model, decay=0.0)
    model.weight.data.fill_(3.0)
    average.update(model)
    assert_close(average.model.weight, model.weight, rtol=0, atol=0)


def test_in_the_long_run_it_is_torchs_own():
    model = linear(0.0)
    average = WeightAverage(model, decay=0.9)
    average.num_updates = 1000  # past the start
    torchs = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    torchs.update_parameters(model)  # its first call copies
    for value in (1.0, -2.0, 5.0):
        model.weight.data.fill_(value)
        average.update(model)
        torchs.update_parameters(model)
    assert_close(average.model.weight, torchs.module.weight)


def test_buffers_are_copied_and_the_copy_is_in_evaluation():
    model = nn.Sequential(nn.BatchNorm1d(2))
    average = WeightAverage(model, decay=0.9)
    model(torch.randn(8, 2, generator=torch.Generator().manual_seed(0)))
    average.update(model)
    assert_close(average.model[0].running_mean, model[0].running_mean, rtol=0, atol=0)
    assert not average.model.training
    assert model.training


def test_a_saved_one_goes_on_as_if_never_stopped():
    model, other = linear(0.0), linear(7.0)
    average, resumed = WeightAverage(model, decay=0.5), WeightAverage(other, decay=0.5)
    for value in (1.0, 2.0, 3.0):
        model.weight.data.fill_(value)
        average.update(model)
    resumed.load_state_dict(average.state_dict())
    model.weight.data.fill_(9.0)
    average.update(model)
    resumed.update(model)
    assert_close(resumed.model.weight, average.model.weight, rtol=0, atol=0)
    assert resumed.num_updates == 4


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_out_of_its_range(decay):
    with pytest.raises(ValueError, match="0 <= decay < 1"):
        WeightAverage(linear(0.0), decay=decay)
