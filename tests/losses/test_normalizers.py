"""What divides the losses: by hand, and over two processes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from detect.losses import EmaNormalizer, batch_normalizer, image_normalizer


def test_divisors_by_hand():
    sums, positives = torch.tensor([6.0, 8.0, 5.0]), torch.tensor([3, 4, 0])
    # per image: the mean of 6 / 3, 8 / 4 and 5 / 1; per batch: 19 / (3 + 4 + 1); moving: 19 / (.9 * 100 + .1 * 7)
    assert_close((sums / image_normalizer(positives)).sum(), torch.tensor((2.0 + 2 + 5) / 3))
    assert_close((sums / batch_normalizer(positives)).sum(), torch.tensor(19 / 8))
    assert_close((sums / EmaNormalizer()(positives)).sum(), torch.tensor(19 / 90.7))


def test_the_moving_average_counts_an_empty_batch_as_one():
    normalizers, average = EmaNormalizer(initial=10, momentum=0.5), 10.0
    for positives in ([4, 2], [0, 0], [100, 0]):
        average = 0.5 * average + 0.5 * max(1, sum(positives))
        assert_close(normalizers(torch.tensor(positives)), torch.full((2,), average))


def test_a_checkpoint_keeps_the_moving_average():
    normalizers = EmaNormalizer()
    before = normalizers(torch.tensor([300]))
    again = EmaNormalizer()
    again.load_state_dict(normalizers.state_dict())
    assert_close(again(torch.tensor([7])), normalizers(torch.tensor([7])))
    assert_close(before, torch.tensor([120.0]))  # what was goal out does not move with the average


def test_the_moving_average_rests_in_evaluation():
    normalizers = EmaNormalizer().eval()
    assert_close(normalizers(torch.tensor([5, 5])), torch.tensor([100.0, 100.0]))
    assert_close(normalizers.average, torch.tensor(100.0))


@pytest.mark.parametrize("normalizers", [image_normalizer, batch_normalizer, EmaNormalizer()])
def test_no_images_have_no_divisors(normalizers):
    assert normalizers(torch.zeros(0, dtype=torch.int64)).shape == (0,)


@pytest.mark.parametrize("options", [{"initial": 0}, {"momentum": 1}, {"momentum": -0.1}])
def test_a_moving_average_that_cannot_move_is_refused(options):
    with pytest.raises(ValueError, match="need initial > 0 and 0 <= momentum < 1"):
        EmaNormalizer(**options)


PROCESS = """
import os
import sys
from datetime import timedelta
import torch
from torch import distributed, nn
from detect.losses import EmaNormalizer, batch_normalizer

def gradient_of(normalizers):
    model = nn.parallel.DistributedDataParallel(nn.Linear(3, 1, bias=False))
    nn.init.ones_(model.module.weight)
    for _ in range(2):
        model.zero_grad()
        (model(values)[:, 0].square() / normalizers(positives)).sum().backward()
    return model.module.weight.grad

store, answer = sys.argv[1:]
child = os.fork()  # both have imported by then
rank = int(child == 0)
os.environ["GLOO_SOCKET_IFNAME"] = "lo"
options = {"init_method": f"file://{store}", "timeout": timedelta(seconds=120)}
distributed.init_process_group("gloo", **options, rank=rank, world_size=2)
values, positives = torch.load(answer + ".data")
values, positives = values[2 * rank : 2 * rank + 2], positives[2 * rank : 2 * rank + 2]
answers = [gradient_of(normalizers) for normalizers in (batch_normalizer, EmaNormalizer(initial=50.0))]
if rank == 1:
    torch.save(answers, answer)
distributed.barrier()
failed = child and os.waitpid(child, 0)[1]
os._exit(bool(failed))  # gloo's threads can abort an interpreter that takes itself down beneath them
"""


def test_two_processes_train_as_one_with_the_whole_batch(tmp_path: Path, fresh_python):
    random = torch.Generator().manual_seed(0)
    values, positives = torch.randn(4, 3, generator=random), torch.tensor([3, 40, 0, 500])
    answer = tmp_path / "answer"
    torch.save((values, positives), f"{answer}.data")
    fresh_python(PROCESS, tmp_path / "store", answer)
    # the average of a process moves from 50 by its share of the positives: the whole batch's from 100
    for normalizers, ours in zip((batch_normalizer, EmaNormalizer(initial=100)), torch.load(answer), strict=True):
        model = nn.Linear(3, 1, bias=False)
        nn.init.ones_(model.weight)
        for _ in range(2):
            model.zero_grad()
            (model(values)[:, 0].square() / normalizers(positives)).sum().backward()
        assert_close(ours, model.weight.grad)
