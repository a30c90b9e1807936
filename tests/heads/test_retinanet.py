from __future__ import annotations

import copy
import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, nn
from torch.testing import assert_close
from torchvision.models.detection import retinanet as torchvision_retinanet
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from detect.heads.retinanet import HeadOutput, RetinaNetHead

ODD_SIZES = [(13, 9), (7, 5), (4, 3), (2, 2), (1, 1)]


def random_maps(channels, sizes, batch=2, seed=0, dtype=torch.float32):
    generator = Generator().manual_seed(seed)
    return [torch.randn(batch, channels, *hw, generator=generator, dtype=dtype) for hw in sizes]


def small_head(num_anchors=3, num_classes=4, **options):
    options = {"in_channels": 6, "num_convs": 2, "generator": Generator().manual_seed(1)} | options
    return RetinaNetHead(num_anchors=num_anchors, num_classes=num_classes, **options)


def enlarge_weights(head, factor=20.0):
    """So that outputs differ by more than the tolerance: with the weights of the start they are nearly constant."""
    with torch.no_grad():
        for name, parameter in head.named_parameters():
            if "convs" in name or "outputs" in name:
                parameter.mul_(factor)
    return head


def same_outputs(ours, theirs, **tolerance):
    assert_close(tuple(ours), tuple(theirs), **tolerance)


# by hand


@pytest.mark.parametrize("num_anchors", [3, (3, 3), (3, 2)])
def test_rows_are_in_the_order_level_row_column_anchor(num_anchors):
    # no towers; feature 0 tells the place, 100 * level + 10 * row + column; the last convolution passes its centre on to
    # every output, and a bias tells the output: .1 * anchor + .01 * class (or delta)
    head = small_head(num_anchors, num_classes=4, num_convs=0, in_channels=2)
    with torch.no_grad():
        for outputs, per_anchor in ((head.class_outputs, 4), (head.box_outputs, 4)):
            for conv in outputs:
                channel = torch.arange(conv.out_channels)
                conv.weight.zero_()[:, 0, 1, 1] = 1.0
                conv.bias.copy_(0.1 * (channel // per_anchor) + 0.01 * (channel % per_anchor))
    sizes, counts = [(2, 3), (1, 2)], [3, 3] if num_anchors == 3 else num_anchors
    maps = [torch.zeros(1, 2, *hw) for hw in sizes]
    expected = []
    for level, (h, w) in enumerate(sizes):
        for row in range(h):
            for column in range(w):
                place = 100.0 * level + 10.0 * row + column
                maps[level][0, 0, row, column] = place
                anchors = range(counts[level])
                expected += [[place + 0.1 * anchor + 0.01 * output for output in range(4)] for anchor in anchors]
    same_outputs(head(maps), [torch.tensor(expected)[None]] * 2)


def test_the_classes_start_rare_and_the_boxes_as_the_anchors():
    # section 4.1: bias -ln((1 - .01) / .01) = -ln 99 = -4.59512; every weight from a normal of deviation .01
    head = RetinaNetHead(256, 9, 2, generator=Generator().manual_seed(0))
    assert_close(head.class_outputs[0].bias, torch.full((18,), -4.59512))
    for name, parameter in head.named_parameters():
        if name.endswith("weight"):
            assert_close(
                [parameter.mean(), parameter.std()], [torch.tensor(0.0), torch.tensor(0.01)], atol=3e-4, rtol=0
            )
        elif not name.startswith("class_outputs"):
            assert not parameter.any()
    # no features: the biases alone
    logits, deltas = small_head(prior=0.2)([torch.zeros(1, 6, 2, 2)])
    assert_close(logits.sigmoid(), torch.full((1, 12, 4), 0.2))
    assert not deltas.any()


def test_names_of_weights_are_those_that_checkpoints_have():
    tower = ["convs.0.weight", "convs.0.bias"]
    outputs = ["class_outputs.0.weight", "class_outputs.0.bias", "box_outputs.0.weight", "box_outputs.0.bias"]
    names = [f"{subnet}_tower.{name}" for subnet in ("class", "box") for name in tower]
    assert list(small_head(num_convs=1).state_dict()) == names + outputs
    assert list(small_head((3, 3), num_convs=1).state_dict()) == names + outputs
    assert {"class_outputs.1.bias", "box_outputs.1.bias"} <= set(small_head((3, 2)).state_dict())
    with_group = set(small_head(in_channels=32, norm="group").state_dict())
    assert "class_tower.norms.1.weight" in with_group
    assert "class_tower.convs.1.bias" not in with_group
    with_batch = set(small_head((3, 3), norm="batch").state_dict())
    assert "box_tower.norms.1.0.running_mean" in with_batch
    assert "box_tower.convs.1.bias" not in with_batch


# against torchvision


def torchvision_head(norm, channels, num_anchors, num_classes, seed):
    """Theirs with random weights and ours with the same ones."""
    theirs = torchvision_retinanet.RetinaNetHead(
        channels, num_anchors, num_classes, norm_layer=partial(nn.GroupNorm, 32) if norm else None
    )
    ours = RetinaNetHead(channels, num_anchors, num_classes, norm=norm)
    generator = Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            scale = 1 / math.sqrt(parameter[0].numel()) if parameter.dim() > 1 else 0.5
            parameter.normal_(mean=1.0 if name.endswith("1.weight") else 0.0, std=scale, generator=generator)
    weights = {}
    for name, value in theirs.state_dict().items():
        subnet = "class" if name.startswith("classification_head") else "box"
        module, _, kind = name.split(".", 1)[1].rpartition(".")
        if module.startswith("conv."):
            _, index, part = module.split(".")
            weights[f"{subnet}_tower.{'norms' if part == '1' else 'convs'}.{index}.{kind}"] = value
        else:
            weights[f"{subnet}_outputs.0.{kind}"] = value
    ours.load_state_dict(weights)
    return theirs, ours


@pytest.mark.parametrize(("norm", "channels"), [(None, 8), ("group", 64)])
@settings(max_examples=10)
@given(
    st.lists(st.tuples(st.integers(1, 17), st.integers(1, 17)), min_size=1, max_size=5),
    st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 5)),
    st.sampled_from([torch.channels_last, torch.contiguous_format]),
)
def test_outputs_are_torchvisions_with_the_same_weights(norm, channels, sizes, counts, memory_format):
    batch, num_anchors, num_classes = counts
    theirs, ours = torchvision_head(norm, channels, num_anchors, num_classes, seed=len(sizes))
    # in float64: group norm over the two values of a level of one cell amplifies rounding
    maps = random_maps(channels, sizes, batch, dtype=torch.float64)
    expected = theirs.double()(maps)
    output = ours.double()([cells.contiguous(memory_format=memory_format) for cells in maps])
    assert isinstance(output, HeadOutput)
    same_outputs(output, expected.values())


def test_gradients_are_torchvisions_too():
    theirs, ours = torchvision_head("group", 64, 3, 4, seed=0)
    maps = [cells.requires_grad_() for cells in random_maps(64, ODD_SIZES[:3])]
    gradients, expected = [], theirs(maps)
    assert expected["cls_logits"].std() > 0.3  # the weights matter
    same_outputs(ours(maps), expected.values(), rtol=1e-5, atol=1e-5)  # in single precision
    for logits, deltas in (expected.values(), ours(maps)):
        ((logits**2).sum() + (deltas**2).sum()).backward()
        gradients.append([cells.grad.clone() for cells in maps])
        for cells in maps:
            cells.grad = None
    assert_close(*gradients, rtol=1e-4, atol=1e-4)
    their_last, our_last = theirs.classification_head.conv[0][0], ours.class_tower.convs[0]
    assert_close(our_last.weight.grad, their_last.weight.grad, rtol=1e-4, atol=1e-3)


def test_a_levels_rows_are_a_view_until_they_are_put_together(monkeypatch):
    seen = []
    concatenate = torch.cat
    monkeypatch.setattr(torch, "cat", lambda rows, dim: seen.extend(rows) or concatenate(rows, dim=dim))
    head = small_head()
    head(random_maps(6, ODD_SIZES))
    assert all(conv.weight.is_contiguous(memory_format=torch.channels_last) for conv in head.class_tower.convs)
    assert len(seen) == 2 * len(ODD_SIZES)
    assert all(rows._base is not None for rows in seen)


# levels


def test_any_number_of_levels_runs_where_all_weights_are_shared():
    maps = random_maps(6, ODD_SIZES)
    for num_anchors in (3, (3,) * 5):
        head = enlarge_weights(small_head(num_anchors))
        whole = head(maps)
        last = 3 * sum(h * w for h, w in ODD_SIZES[3:])
        same_outputs(head(maps[3:]), [whole.logits[:, -last:], whole.deltas[:, -last:]])


@pytest.mark.parametrize(
    "options",
    [
        {"num_anchors": (3, 1, 2, 1, 3)},
        {"num_anchors": (1, 2, 3, 3, 3), "norm": "batch"},
        {"num_anchors": (2,) * 5},
    ],
)
@pytest.mark.parametrize("levels", [(2, 3, 4), (1,), (4, 0)])
def test_selected_levels_give_the_rows_that_they_gave_before(options, levels):
    head = enlarge_weights(small_head(**options))
    maps = random_maps(6, ODD_SIZES)
    if options.get("norm"):
        head.train()(random_maps(6, [(h + 2, w + 2) for h, w in ODD_SIZES]))  # statistics that differ by level
    whole = head.eval()(maps)
    counts = [a * h * w for a, (h, w) in zip(options["num_anchors"], ODD_SIZES, strict=True)]
    parts = [list(rows.split(counts, dim=1)) for rows in whole]
    expected = [torch.cat([rows[level] for level in levels], dim=1) for rows in parts]
    selected = head.select_levels(levels)
    assert selected.num_anchors == tuple(options["num_anchors"][level] for level in levels)
    same_outputs(selected([maps[level] for level in levels]), expected)


def test_a_selection_is_a_copy():
    head = small_head((3, 2, 1), norm="batch").eval()
    selected = head.select_levels((1, 2))
    assert not selected.training
    before = copy.deepcopy(head.state_dict())
    with torch.no_grad():
        for parameter in selected.parameters():
            parameter.zero_()
    assert_close(dict(head.state_dict()), dict(before))
    shared = small_head(3)
    same_outputs(shared.select_levels((0, 4))(maps := random_maps(6, ODD_SIZES)), shared(maps))


def test_batch_norm_keeps_statistics_of_each_level():
    # one convolution that passes feature 0 on; level 0 is all 2, level 1 all 6. With momentum .1 a step from mean 0 leaves
    # .1 * 2 = .2 and .1 * 6 = .6; both normalise to 0, so nothing is left of the difference
    head = small_head((1, 1), norm="batch", in_channels=1, num_convs=1)
    with torch.no_grad():
        for tower in (head.class_tower, head.box_tower):
            tower.convs[0].weight.zero_()[:, :, 1, 1] = 1.0
    maps = [torch.full((2, 1, 2, 2), 2.0), torch.full((2, 1, 1, 2), 6.0)]
    _, deltas = head(maps)
    assert_close(deltas, torch.zeros_like(deltas))
    for tower in (head.class_tower, head.box_tower):
        assert_close([norm.running_mean for norm in tower.norms[0]], [torch.tensor([0.2]), torch.tensor([0.6])])


# other anchors


def same_weights(ours, theirs, names):
    ours, theirs = ours.state_dict(), theirs.state_dict()
    assert_close({name: ours[name] for name in names}, {name: theirs[name] for name in names}, rtol=0, atol=0)


def test_other_anchors_leave_the_towers():
    head = small_head(3, prior=0.1).double().eval()
    for num_anchors, expected in ((5, 5), ([5, 5], (5, 5)), ((1, 2, 3), (1, 2, 3))):
        other = head.with_anchors(num_anchors, generator=Generator().manual_seed(3))
        same_weights(other, head, [name for name in head.state_dict() if "tower" in name])
        assert other.num_anchors == expected
    assert not other.training
    rows = sum(count * h * w for count, (h, w) in zip((1, 2, 3), ODD_SIZES, strict=False))
    assert other(random_maps(6, ODD_SIZES[:3], dtype=torch.float64)).deltas.shape == (2, rows, 4)
    assert 0.008 < other.class_outputs[2].weight.std() < 0.012
    assert_close(other.class_outputs[2].bias, torch.full((12,), -math.log(9), dtype=torch.float64))


def test_one_number_of_anchors_for_a_head_of_known_levels_keeps_them():
    head = small_head((3, 2), norm="batch").with_anchors(5)
    assert head.num_anchors == (5, 5)
    assert head.eval()(random_maps(6, ODD_SIZES[:2])).logits.shape == (2, 5 * (13 * 9 + 7 * 5), 4)


def test_what_torchvisions_pyramid_returns_is_read():
    pyramid = FeaturePyramidNetwork([4, 8], 6, extra_blocks=LastLevelP6P7(6, 6))
    maps = pyramid({"c4": torch.rand(1, 4, 8, 8), "c5": torch.rand(1, 8, 4, 4)})
    assert list(maps) == ["c4", "c5", "p6", "p7"]
    head = small_head()
    same_outputs(head(maps), head(list(maps.values())), rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"6 channels, got \[5, 5, 5, 5\]"):
        head({name: cells[:, :5] for name, cells in maps.items()})


# limits


def test_an_empty_batch_is_no_special_case():
    for options in ({}, {"in_channels": 64, "norm": "group"}, {"num_anchors": (3,) * 5, "norm": "batch"}):
        head = small_head(**options).eval()
        rows = 3 * sum(h * w for h, w in ODD_SIZES)
        logits, deltas = head(random_maps(head.in_channels, ODD_SIZES, batch=0))
        assert logits.shape == (0, rows, 4)
        assert deltas.shape == (0, rows, 4)


def test_inputs_are_not_written_to():
    for num_convs in (0, 1):
        maps = random_maps(6, ODD_SIZES)
        maps = [cells.contiguous(memory_format=torch.channels_last) for cells in maps]
        before = copy.deepcopy(maps)
        small_head(num_convs=num_convs)(maps)
        assert_close(maps, before, rtol=0, atol=0)


def test_gradients_reach_every_weight():
    for options in (
        {"in_channels": 32, "norm": "group"},
        {"num_anchors": (3, 2), "norm": "batch"},
        {"hidden_channels": 9},
    ):
        head = enlarge_weights(small_head(**options))
        logits, deltas = head(random_maps(head.in_channels, [(5, 4), (3, 2)]))
        (logits.square().sum() + deltas.square().sum()).backward()
        assert all(parameter.grad.any() for parameter in head.parameters())


def test_a_generator_decides_the_weights():
    first, second = (small_head(generator=Generator().manual_seed(5)) for _ in range(2))
    same_weights(first, second, list(first.state_dict()))
    assert (first.class_tower.convs[0].weight != first.box_tower.convs[0].weight).all()


# refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 0}, r"num_classes.* from 1.*got 6, 3, 0, 6, 2 and 0\.01"),
        ({"num_anchors": 0}, "got 6, 0, 4"),
        ({"num_anchors": (3, 0)}, r"got 6, \(3, 0\), 4"),
        ({"num_anchors": ()}, r"got 6, \(\), 4"),
        ({"in_channels": 0}, "got 0, 3, 4"),
        ({"hidden_channels": 0}, "got 6, 3, 4, 0"),
        ({"num_convs": -1}, "-1 and"),
        ({"prior": 0.0}, "and 0.0"),
        ({"prior": 1.0}, "and 1.0"),
        ({"norm": "layer"}, "'group' or 'batch', got 'layer'"),
        ({"norm": "group"}, "multiple of 32 channels, got 6"),
        ({"norm": "batch"}, r"give num_anchors as \(3,\) \* 5"),
    ],
)
def test_arguments_that_build_no_head_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        small_head(**options)


def test_maps_of_another_width_or_number_are_refused():
    maps = random_maps(6, ODD_SIZES)
    with pytest.raises(ValueError, match=r"6 channels, got \[6, 5\]"):
        small_head()([maps[0], maps[1][:, :5]])
    with pytest.raises(ValueError, match=r"6 channels, got \[\]"):
        small_head()([])
    with pytest.raises(ValueError, match=r"4 levels, with \(3, 3, 3, 3\) anchors, got 5 feature maps"):
        small_head((3,) * 4)(maps)
    for head in (small_head((3, 3, 3, 3, 2)), small_head((3,) * 5, norm="batch")):
        with pytest.raises(ValueError, match=r"5 levels, .*got 4 feature maps: see its select_levels"):
            head(maps[:4])


def test_anchors_that_are_not_the_heads_are_refused():
    small_head(3).check_anchors([3, 3])
    small_head((3, 2)).check_anchors([3, 2])
    for head, counts in ((small_head(3), (3, 9)), (small_head((3, 2)), (3, 3)), (small_head((3, 3)), (3, 3, 3))):
        with pytest.raises(ValueError, match=rf"got \({str(counts)[1:-1]}\): see its with_anchors"):
            head.check_anchors(counts)


@pytest.mark.parametrize("levels", [(), (0, 0), (5,), (-1,)])
def test_levels_that_the_head_does_not_have_are_refused(levels):
    with pytest.raises(ValueError, match="different levels of 5, got"):
        small_head((3,) * 5).select_levels(levels)
    if levels != (5,):
        with pytest.raises(ValueError, match="different levels of any, got"):
            small_head(3).select_levels(levels)


def test_batch_norm_refuses_another_number_of_levels():
    with pytest.raises(ValueError, match=r"statistics for 2 levels, got num_anchors=\(3, 3, 3\)"):
        small_head((3, 3), norm="batch").with_anchors((3, 3, 3))
