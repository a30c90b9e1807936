"""The focal losses: by hand, at their limits, against torchvision."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional
from torch.testing import assert_close
from torchvision import ops

from detect.conventions import BACKGROUND, IGNORE
from detect.losses import focal, focal_loss, quality_focal_loss

LN2, LN3 = math.log(2), math.log(3)
SETTINGS = [{}, {"gamma": 0.0}, {"gamma": 0.5}, {"gamma": 1.5, "alpha": 0.6}, {"gamma": 3, "alpha": 1}, {"alpha": 0.0}]
SETTINGS += [{"alpha": -1}, {"alpha": -1, "gamma": 0.7}]


def random_heads(seed: int, shape: tuple[int, int, int] = (2, 40, 5)) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(shape, generator=random, dtype=torch.float64) - 1
    return logits, torch.randint(IGNORE, shape[2], shape[:2], generator=random)


def one_hot(classes: Tensor, logits: Tensor) -> Tensor:
    return functional.one_hot(classes.clamp(min=0), logits.shape[2]).to(logits) * (classes >= 0)[..., None]


def slopes(loss: Callable[..., Tensor], values: Tensor, *args: Tensor, **options: float) -> Tensor:
    values = values.detach().clone().requires_grad_()
    return torch.autograd.grad(loss(values, *args, **options).sum(), values)[0]


def test_focal_loss_by_hand():
    # logits ln 3 and -ln 3: p = 3/4 and 1/4
    logits = torch.tensor([[[LN3, -LN3], [LN3, -LN3]], [[-LN3, LN3], [LN3, LN3]]])
    classes = torch.tensor([[0, BACKGROUND], [0, IGNORE]])
    sure, unsure = math.log(4 / 3) / 16, 9 * math.log(4) / 16  # (1/4)^2 * -ln 3/4 and (3/4)^2 * -ln 1/4
    # image 0: a positive found, a negative let be; then a false alarm, a negative let be. Image 1: a miss and a false alarm
    first = 0.25 * sure + 0.75 * sure + 0.75 * unsure + 0.75 * sure
    second = 0.25 * unsure + 0.75 * unsure
    assert_close(focal_loss(logits, classes), torch.tensor([first, second]))


@pytest.mark.parametrize("options", SETTINGS)
def test_torchvision_finds_the_same_focal_loss_and_slopes(options):
    logits, classes = random_heads(1)
    counted = (classes != IGNORE)[..., None]

    def reference(logits):
        return (ops.sigmoid_focal_loss(logits, one_hot(classes, logits), **options) * counted).sum(dim=(1, 2))

    assert_close(focal_loss(logits, classes, **options), reference(logits))
    assert_close(slopes(focal_loss, logits, classes, **options), slopes(reference, logits))
    assert_close(focal_loss(logits.float(), classes, **options), reference(logits).float())
    assert_close(slopes(focal_loss, logits.float(), classes, **options), slopes(reference, logits).float())


@pytest.mark.parametrize("elements", [1, 5, 7, 20, 35, 1000])
def test_chunks_do_not_show(monkeypatch, elements):
    logits, classes = random_heads(3, (2, 11, 5))
    classes[:, ::4] = 4  # the first and the last row of chunks
    classes[:, 3::4] = IGNORE
    value, slope = focal_loss(logits, classes), slopes(focal_loss, logits, classes)
    monkeypatch.setitem(focal.CHUNK_ELEMENTS, "cpu", elements)
    assert_close(focal_loss(logits, classes), value)
    assert_close(slopes(focal_loss, logits, classes), slope)


@given(st.integers(0, 999))
def test_images_are_summed_each_by_itself(seed):
    logits, classes = random_heads(seed, (3, 6, 2))
    alone = [focal_loss(logits[image : image + 1], classes[image : image + 1]) for image in range(3)]
    assert_close(focal_loss(logits, classes), torch.cat(alone))
    scales = torch.tensor([2.0, 0.0, -1.0], dtype=torch.float64)
    together = slopes(lambda values: focal_loss(values, classes) * scales, logits)
    assert_close(together, scales[:, None, None] * slopes(focal_loss, logits, classes))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 3.0])
def test_ignored_anchors_add_nothing_whatever_their_logits(value):
    logits, classes = random_heads(4)
    clean = logits.clone()
    logits[classes == IGNORE] = value
    assert_close(focal_loss(logits, classes), focal_loss(clean, classes))
    slope, ignored = slopes(focal_loss, logits, classes), classes == IGNORE
    assert_close(slope[ignored], torch.zeros_like(slope[ignored]), rtol=0, atol=0)
    assert_close(slope, slopes(focal_loss, clean, classes))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_positive_weights_are_factors_of_the_target_one_alone(dtype):
    logits, classes = random_heads(6)
    logits = logits.to(dtype)
    weights = torch.rand(classes.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 9
    own = one_hot(classes, logits).bool()

    def reference(logits):
        every = ops.sigmoid_focal_loss(logits.double(), own.double()) * (classes != IGNORE)[..., None]
        return torch.where(own, weights[..., None] * every, every).sum(dim=(1, 2))

    rounding = {"rtol": 0.02, "atol": 1e-3} if dtype == torch.bfloat16 else {"rtol": 1e-9, "atol": 1e-12}
    found = focal_loss(logits, classes, positive_weights=weights)
    assert_close(found.double(), reference(logits), **rounding)
    slope = slopes(focal_loss, logits, classes, positive_weights=weights)
    assert_close(slope.double(), slopes(reference, logits).double(), **rounding)
    sure = torch.ones_like(weights)  # with full quality it is the focal loss without its balance
    quality = quality_focal_loss(logits, classes, quality=sure, positive_weights=weights)
    assert_close(quality, 2 * focal_loss(logits, classes, alpha=0.5, positive_weights=weights), **rounding)
    with pytest.raises(ValueError, match="one positive weight for each of"):
        focal_loss(logits, classes, positive_weights=weights[:, :1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_logits_of_a_hundred_stay_finite(dtype, gamma):
    logits = torch.tensor([[[100.0, -100.0], [100.0, -100.0]]], dtype=dtype)
    classes = torch.tensor([[1, BACKGROUND]])
    # a miss of 100 at .25, and two false alarms of 100 at .75; the right answers cost nothing
    expected = torch.tensor([25.0 + 150.0], dtype=torch.promote_types(dtype, torch.float32))
    slope = torch.tensor([[[0.75, -0.25], [0.75, 0.0]]], dtype=dtype)
    assert_close(focal_loss(logits, classes, gamma=gamma), expected)
    assert_close(slopes(focal_loss, logits, classes, gamma=gamma), slope)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once(dtype):
    logits, classes = random_heads(6)
    logits = logits.to(dtype)
    assert_close(focal_loss(logits, classes), focal_loss(logits.float(), classes))
    exact, slope = (slopes(lambda own: 1000 * focal_loss(own, classes), each) for each in (logits.double(), logits))
    assert slope.dtype == dtype
    assert_close(slope, exact.to(dtype))


def test_scaling_saves_small_slopes_of_half_precision():
    # p = 1/1000: the slope .75 p^2 (p + 2 p) = 2.2e-9 is below float16's least number, 6e-8, but not 65,536 times it
    logits, classes = torch.full((1, 1, 1), -math.log(999), dtype=torch.float16), torch.tensor([[BACKGROUND]])
    p = torch.sigmoid(logits.double()).item()
    slope = slopes(lambda values: 65_536 * focal_loss(values, classes), logits)
    expected = 65_536 * 0.75 * p**2 * (p + 2 * (1 - p) * -math.log(1 - p))
    assert_close(slope, torch.full((1, 1, 1), expected, dtype=torch.float16), rtol=1e-3, atol=0)


def test_autocast_changes_nothing():
    logits, classes = random_heads(7)
    logits = logits.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value, slope = focal_loss(logits, classes), slopes(focal_loss, logits, classes)
    assert_close(value, focal_loss(logits, classes))
    assert_close(slope, slopes(focal_loss, logits, classes))


def test_a_second_backward_pass_finds_the_same():
    logits, classes = random_heads(8)
    logits.requires_grad_()
    loss = focal_loss(logits, classes)
    first, second = (torch.autograd.grad(loss.sum(), logits, retain_graph=True)[0] for _ in range(2))
    assert_close(first, second)
    doubled = torch.autograd.grad(2 * loss.sum(), logits)[0]
    assert_close(doubled, 2 * first)
    twice = focal_loss(logits, classes) + focal_loss(logits, classes)
    twice.sum().backward()
    assert_close(logits.grad, 2 * first)


def test_arguments_are_left_as_they_were_and_may_be_views():
    logits, classes = random_heads(9)
    before, classes_before = logits.clone(), classes.clone()
    expected = focal_loss(logits, classes), slopes(focal_loss, logits, classes)
    channels_first = logits.transpose(1, 2).contiguous().transpose(1, 2)
    columns = classes.T.contiguous().T
    assert_close(focal_loss(channels_first, columns), expected[0])
    assert_close(
        slopes(lambda values: focal_loss(values.transpose(1, 2), columns), logits.transpose(1, 2)).mT, expected[1]
    )
    assert_close(logits, before, rtol=0, atol=0)
    assert_close(classes, classes_before, rtol=0, atol=0)


@pytest.mark.parametrize("gamma", [0.0, 1.0, 1.5, 2.0])
def test_slopes_of_the_focal_losses_are_those_of_the_values(gamma):
    logits, classes = random_heads(10, (2, 5, 3))
    logits = (logits / 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda values: focal_loss(values, classes, gamma=gamma), logits)


@pytest.mark.parametrize("shape", [(0, 4, 3), (2, 0, 3), (2, 4, 0)])
def test_no_images_anchors_or_classes_are_ordinary(shape):
    logits, classes = torch.zeros(shape, requires_grad=True), torch.full(shape[:2], BACKGROUND)
    sums = focal_loss(logits, classes)
    assert_close(sums, torch.zeros(shape[0]), check_stride=False)
    sums.sum().backward()
    assert logits.grad is not None
    assert logits.grad.shape == shape


@pytest.mark.parametrize("options", [{"alpha": 1.5}, {"alpha": -0.5}, {"gamma": -0.5}, {"gamma": math.nan}])
def test_balance_and_focus_out_of_range_are_refused(options):
    logits, classes = random_heads(0)
    with pytest.raises(ValueError, match=r"need 0 <= alpha <= 1, or -1 for no alpha, and gamma >= 0, got alpha="):
        focal_loss(logits, classes, **options)


def test_a_class_out_of_range_is_refused():
    # below 0, -3 would be taken for background
    least = r"class -3 is out of range: below 0 are only -1 \(background\) and -2 \(ignored\)"
    for wrong, message in ((3, "class 3 is out of range: the logits have classes 0 to 2"), (-3, least)):
        with pytest.raises(ValueError, match=message):
            focal_loss(torch.zeros(1, 2, 3), torch.tensor([[0, wrong]]))


@pytest.mark.usefixtures("unchecked")
def test_arrays_of_other_shapes_do_not_broadcast():
    logits, classes = torch.zeros(2, 4, 3), torch.zeros(2, 4, dtype=torch.int64)
    for call, message in (
        (lambda: focal_loss(logits, classes[:, :1]), r"their targets are \(2, 1\)"),
        (lambda: focal_loss(logits, classes[:, 0]), r"their targets are \(2,\)"),
        (lambda: quality_focal_loss(logits, classes, quality=logits[:, 0, 0]), r"their targets are \(2,\)"),
        (lambda: quality_focal_loss(logits, classes, quality=logits), r"their targets are \(2, 4, 3\)"),
    ):
        with pytest.raises(ValueError, match=rf"logits are \(2, 4, 3\), .*{message}"):
            call()


def test_what_a_compiler_is_told_of_the_operator_is_so():
    logits, classes = random_heads(12, (2, 9, 4))
    weights = torch.rand(2, 9, generator=torch.Generator().manual_seed(0)).double()
    for positive, wants_slopes in ((weights, True), (weights[:, :1], False)):
        given = (logits, classes, weights[:, 1:2], positive, 2.0, wants_slopes)
        torch.library.opcheck(torch.ops.detect.focal_sums.default, given, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.slow
def test_a_compiled_graph_has_the_focal_loss_whole(fresh_python):
    program = """
import torch
from detect.losses import focal_loss
random = torch.Generator().manual_seed(0)
logits, classes = torch.randn(2, 9, 4, generator=random), torch.randint(-2, 4, (2, 9), generator=random)
plain = lambda x: 2 * focal_loss(3 * x, classes)
results = []
for function in (torch.compile(plain, backend="aot_eager", fullgraph=True), plain):
    values = logits.clone().requires_grad_()
    sums = function(values)
    (sums * torch.tensor([1.0, 0.5])).sum().backward()
    results.append((sums, values.grad))
torch.testing.assert_close(*results)
"""
    fresh_python(program)


@pytest.fixture
def quality_heads() -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(2, 40, 5, generator=random, dtype=torch.float64)
    classes = torch.randint(IGNORE, 5, (2, 40), generator=random)
    return logits, classes, torch.rand(2, 40, generator=random, dtype=torch.float64)


def written_out(logits: Tensor, classes: Tensor, quality: Tensor, gamma: float) -> Tensor:
    """abs(y - p)**gamma * cross-entropy of every logit (Li et al. 2020, equation 6)."""
    own = functional.one_hot(classes.clamp(min=0), logits.shape[2]).bool() & (classes >= 0)[..., None]
    target = torch.where(own, quality[..., None], 0.0)
    p = logits.sigmoid()
    entropy = -target * p.log() - (1 - target) * (1 - p).log()
    costs = (target - p).abs() ** gamma * entropy
    return (costs * (classes != IGNORE)[..., None]).sum(dim=(1, 2))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_quality_focal_loss_and_its_gradient_are_the_formulas(quality_heads, gamma):
    logits, classes, quality = quality_heads
    logits.requires_grad_()
    expected = written_out(logits, classes, quality, gamma)
    found = quality_focal_loss(logits, classes, quality=quality, gamma=gamma)
    assert_close(found, expected)
    scales = torch.tensor([1.0, 3.0], dtype=torch.float64)  # images are summed each by itself
    gradients = [torch.autograd.grad((sums * scales).sum(), logits)[0] for sums in (found, expected)]
    assert_close(*gradients)


def test_ignored_anchors_and_the_quality_of_background_are_not_read():
    logits = torch.tensor([[[0.0], [math.nan], [0.0]]])
    classes, quality = torch.tensor([[0, IGNORE, BACKGROUND]]), torch.tensor([[1.0, math.nan, math.nan]])
    assert_close(quality_focal_loss(logits, classes, quality=quality), torch.tensor([math.log(2) / 2]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_quality_focal_loss_of_half_precision_is_summed_in_float32(quality_heads, dtype):
    logits, classes, quality = quality_heads
    logits = logits.to(dtype)
    found = quality_focal_loss(logits, classes, quality=quality)
    assert_close(found, quality_focal_loss(logits.float(), classes, quality=quality))
    assert found.dtype == torch.float32


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_quality_focal_loss_of_logits_of_a_hundred_stays_finite(gamma):
    logits = torch.tensor([[[100.0, -100.0], [100.0, -100.0]]], requires_grad=True)
    # a miss of 100, and two false alarms of 100
    found = quality_focal_loss(logits, torch.tensor([[1, BACKGROUND]]), quality=torch.ones(1, 2), gamma=gamma)
    (slope,) = torch.autograd.grad(found.sum(), logits)
    assert_close(found, torch.tensor([300.0]))
    assert_close(slope, torch.tensor([[[1.0, -1.0], [1.0, 0.0]]]))


@pytest.mark.parametrize("shape", [(0, 4, 3), (2, 0, 3), (2, 4, 3)])
def test_without_positives_the_quality_focal_loss_is_zero(shape):
    logits = torch.full(shape, -200.0)
    classes = torch.full(shape[:2], BACKGROUND)
    assert_close(quality_focal_loss(logits, classes, quality=torch.zeros(shape[:2])), torch.zeros(shape[0]))
