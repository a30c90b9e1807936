"""Converted weights against torchvision's own networks, and against detectron2's and mmdetection's written from theirs."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from retinanets import (
    MEAN_RGB,
    STD_RGB,
    State,
    assert_same,
    built,
    noted,
    resnet18_retinanet,
    tiny,
    torchvision_outputs,
    unfilled,
    with_weights,
)
from torch import nn
from torch.testing import assert_close

from detect.errors import ConvertError
from detect.heads.retinanet import RetinaNetHead
from detect.interop.torchvision import grid_of, import_head
from detect.interop.weight_names import COCO_IDS, FRAMEWORKS
from detect.interop.weights import convert_weights

NAMES = tuple(FRAMEWORKS)


# --- by hand ---


def test_anchors_of_two_sizes_and_three_ratios_change_places() -> None:
    # detectron2 counts anchors size by size: s0r0 s0r1 s0r2 s1r0 s1r1 s1r2 are 0 to 5, and here class 1 of a is 100a + 1.
    # torchvision counts ratio by ratio: r0s0 r0s1 r1s0 r1s1 r2s0 r2s1 are detectron2's 0 3 1 4 2 5.
    converted = convert_weights(
        tiny("detectron2", anchors=6, classes=2), "torchvision", num_sizes=2, num_ratios=3
    ).state
    expected = [0, 1, 300, 301, 100, 101, 400, 401, 200, 201, 500, 501]
    assert converted["head.classification_head.cls_logits.bias"].tolist() == expected
    assert converted["head.classification_head.cls_logits.weight"][:, 1, 0, 0].tolist() == expected
    assert converted["head.regression_head.bbox_reg.bias"].reshape(6, 4)[:, 3].tolist() == [3, 303, 103, 403, 203, 503]
    back = convert_weights(converted, "detectron2", num_sizes=2, num_ratios=3).state
    assert back["head.cls_score.bias"].tolist() == tiny("detectron2", 6, 2)["head.cls_score.bias"].tolist()


def test_class_rows_go_from_category_ids_to_their_order_and_back() -> None:
    state = tiny("torchvision", anchors=9, classes=91)
    rows = convert_weights(state, "mmdet").state["bbox_head.retina_cls.bias"].reshape(9, 80)
    # row 0 is category 1; no category is 12, so row 11 is 13; the last is 90. Anchor 2 has 200 added
    assert rows[0, [0, 10, 11, 79]].tolist() == [1, 11, 13, 90]
    assert rows[2, [0, 10, 11, 79]].tolist() == [201, 211, 213, 290]
    back = convert_weights(convert_weights(state, "mmdet").state, "torchvision").state
    slots = back["head.classification_head.cls_logits.bias"].reshape(9, 91)
    assert slots[2, [1, 13, 90]].tolist() == [201, 213, 290]
    assert_close(slots[:, [0, 12, 83]].sigmoid(), torch.full((9, 3), 0.01))
    weights = back["head.classification_head.cls_logits.weight"].reshape(9, 91, 2)
    assert weights[:, [0, 12, 83]].abs().max() == 0
    assert weights[2, 13].tolist() == [213, 213]


def test_stem_sees_the_same_pixel_in_blue_green_red() -> None:
    # weights (1, 2, 3) for R, G, B in units of 1/58.395, 1/57.12, 1/57.375 of the pixel less the mean, then B, G, R
    converted = convert_weights(tiny("torchvision", 9, 91), "detectron2").state["backbone.bottom_up.stem.conv1.weight"]
    assert_close(converted[0].flatten(), torch.tensor([3 / 57.375, 2 / 57.12, 1 / 58.395]))


def test_eps_goes_into_the_scale_of_a_batch_norm() -> None:
    # scale / sqrt(3e-5 + 0) with eps 0 is scale * sqrt(4e-5 / 3e-5) / sqrt(3e-5 + 1e-5) with eps 1e-5; 1e-12 likewise
    state = tiny("torchvision", 9, 91)
    state["backbone.body.bn1.weight"] = torch.tensor([2.0, 2.0])
    state["backbone.body.bn1.running_var"] = torch.tensor([3e-5, 1e-12])
    converted = convert_weights(state, "ours", source_eps=0.0)
    expected = 2 * torch.tensor([math.sqrt(4 / 3), math.sqrt(10_000_001.0)])
    assert_close(converted.state["backbone.bn1.weight"], expected)
    assert_close(converted.state["backbone.bn1.running_var"], state["backbone.body.bn1.running_var"], rtol=0, atol=0)
    assert noted(converted.notes, "sqrt((var + 1e-05) / (var + 0))")
    state["backbone.body.bn1.running_var"] = torch.tensor([1.0, 0.0])
    with pytest.raises(ConvertError, match="no variance"):
        convert_weights(state, "ours", source_eps=0.0)


# --- whole networks ---


@pytest.mark.parametrize("name", ["torchvision v1", "torchvision v2", "detectron2", "mmdet GN"])
@pytest.mark.parametrize("to", NAMES)
def test_there_and_back_is_the_identity(name: str, to: str) -> None:
    source = name.partition(" ")[0]
    state = dict(built(name)[1])
    outputs = FRAMEWORKS[source].outputs
    if source == "torchvision":  # rows of no category come back as they are when nothing is learnt
        for kind, fill in (("weight", 0.0), ("bias", -math.log(99))):
            key = f"{outputs[0]}.{kind}"
            state[key] = state[key].clone()
            state[key].unflatten(0, (9, 91))[:, sorted(set(range(91)) - set(COCO_IDS))] = fill
    back = convert_weights(convert_weights(state, to).state, source).state
    stem = f"{FRAMEWORKS[source].body('conv1')}.weight"
    assert_close(back[stem], state[stem], rtol=3e-7, atol=0)  # two roundings, where it was scaled
    assert_same(back | {stem: state[stem]}, state)


@pytest.mark.parametrize("name", ["torchvision v1", "torchvision v2"])
def test_torchvision_loads_what_comes_back_from_all_others_and_computes_the_same(name: str) -> None:
    model, state = built(name)
    image = 255 * torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        logits, deltas = torchvision_outputs(with_weights(model, state), image)
        assert logits.std() > 0.1
        round_trip = state
        for via in ("detectron2", "ours", "mmdet"):
            round_trip = convert_weights(convert_weights(round_trip, via).state, "torchvision").state
        same_logits, same_deltas = torchvision_outputs(with_weights(model, round_trip), image)
    assert_close(same_logits[..., COCO_IDS], logits[..., COCO_IDS], rtol=1e-4, atol=1e-4)
    assert_close(same_deltas, deltas, rtol=1e-4, atol=1e-4)


def test_every_framework_computes_the_same_from_the_same_pixels() -> None:
    model, state = built("torchvision 18")
    image = 255 * torch.rand(3, 64, 96, generator=torch.Generator().manual_seed(2))
    # detectron2's anchor of size s and ratio r is 3s + r, torchvision's 3r + s
    orders = {"ours": range(9), "mmdet": range(9), "detectron2": [3 * s + r for r in range(3) for s in range(3)]}
    with torch.inference_mode():
        logits, deltas = torchvision_outputs(with_weights(model, state), image)
        assert logits.std() > 0.1
        for name, order in orders.items():
            other = with_weights(unfilled(f"{name} 18"), convert_weights(state, name).state)
            their_logits, their_deltas = other(image)
            assert_close(their_logits[:, list(order)], logits[..., COCO_IDS], rtol=1e-4, atol=1e-4)
            assert_close(their_deltas[:, list(order)], deltas, rtol=1e-4, atol=1e-4)


def imported_model(state: State) -> nn.Module:
    """torchvision's RetinaNet on a ResNet-18 with weights of torchvision's, and this package's head with its own."""
    model = with_weights(resnet18_retinanet(), state)
    head = RetinaNetHead(256, 9, 91, norm=None)
    random = torch.Generator().manual_seed(0)
    for parameter in head.parameters():
        nn.init.uniform_(parameter, -0.1, 0.1, generator=random)
    return import_head(model, head, grid_of(model.anchor_generator)).eval()


@pytest.mark.parametrize("wrapped", ["", "module.", "_orig_mod.", "module._orig_mod.", "model."])
def test_an_imported_model_computes_the_same_as_torchvision_s_own(wrapped: str) -> None:
    model = imported_model(built("torchvision 18")[1])
    image = 255 * torch.rand(3, 64, 96, generator=torch.Generator().manual_seed(2))
    state = {wrapped + key: tensor for key, tensor in model.state_dict().items()}
    state |= {wrapped + "criterion.normalizer.average": torch.ones(())} | (
        {} if wrapped else {"n_averaged": torch.ones(())}
    )
    with torch.inference_mode():
        expected = model.head(list(model.backbone(((image / 255 - MEAN_RGB) / STD_RGB)[None]).values()))
        converted = convert_weights(state, "torchvision")
        logits, deltas = torchvision_outputs(with_weights(unfilled("torchvision 18"), converted.state), image)
        back = convert_weights(converted.state, "imported").state
    assert logits.std() > 0.1
    assert_close(logits, expected.logits.reshape(logits.shape), rtol=1e-4, atol=1e-4)
    assert_close(deltas, expected.deltas.reshape(deltas.shape), rtol=1e-4, atol=1e-4)
    assert_same(back, model.state_dict())


def test_wrapped_parts_are_found_and_two_networks_in_one_state_are_refused() -> None:
    state = tiny("torchvision", 9, 91)
    inner = {key.replace("backbone.", "backbone._orig_mod."): tensor for key, tensor in state.items()}
    assert_same(convert_weights(inner, "ours").state, convert_weights(state, "ours").state)
    twice = state | {f"module.{key}": tensor for key, tensor in state.items()}
    with pytest.raises(ConvertError, match=r"^'(.+)' and 'module\.\1' are both '\1': give the tensors of one network"):
        convert_weights(twice, "ours")


@pytest.mark.parametrize("name", ["detectron2", "detectron2 101", "detectron2 18", "mmdet", "mmdet 18"])
def test_every_depth_of_resnet_is_read_from_its_keys(name: str) -> None:
    state = unfilled(name).state_dict()
    ours = convert_weights(state, "ours").state
    assert len(ours) == len(state)
    back = convert_weights(ours, name.partition(" ")[0]).state
    assert {key: tensor.shape for key, tensor in back.items()} == {key: tensor.shape for key, tensor in state.items()}


def test_group_norms_move_into_detectron2_with_biases_of_zero_and_out_again() -> None:
    converted = convert_weights(built("torchvision v2")[1], "detectron2")
    assert converted.state.keys() == unfilled("detectron2 GN").state_dict().keys()
    assert converted.state["head.cls_subnet.9.bias"].abs().max() == 0
    assert noted(converted.notes, "added as zeros", "8 biases before a GroupNorm")
    assert noted(converted.notes, "MODEL.RETINANET.NORM: GN")
    ours = convert_weights(built("torchvision v2")[1], "ours").state
    assert ours.keys() == unfilled("ours GN").state_dict().keys()
    assert noted(convert_weights(converted.state, "mmdet").notes, "dropped", "8 biases before a GroupNorm")
    biased = dict(converted.state) | {"head.cls_subnet.9.bias": torch.ones(256)}
    with pytest.raises(ConvertError, match=r"head.class_tower.convs.3.bias .* not zero: torchvision has no bias"):
        convert_weights(biased, "torchvision")


def test_names_of_old_torchvision_checkpoints_are_read() -> None:
    state = unfilled("torchvision v1").state_dict()
    old = {re.sub(r"(_blocks\.\d)\.0", r"\1", key): tensor for key, tensor in state.items()}
    for index in range(4):
        old = {key.replace(f"_head.conv.{index}.0.", f"_head.conv.{2 * index}."): tensor for key, tensor in old.items()}
    assert "head.classification_head.conv.6.weight" in old
    assert "backbone.fpn.layer_blocks.2.bias" in old
    assert_same(convert_weights(old, "ours").state, convert_weights(state, "ours").state)


# --- properties and limits ---


@given(sizes=st.integers(1, 4), ratios=st.integers(1, 4), classes=st.integers(1, 5), to=st.sampled_from(NAMES))
def test_any_numbers_of_sizes_ratios_and_classes_come_back(sizes: int, ratios: int, classes: int, to: str) -> None:
    state = tiny("detectron2", sizes * ratios, classes)
    there = convert_weights(state, to, num_sizes=sizes, num_ratios=ratios).state
    back = convert_weights(there, "detectron2", num_sizes=sizes, num_ratios=ratios).state
    assert_same(back, state, rtol=3e-7)


@pytest.mark.parametrize(
    ("source", "rows", "to", "asked", "expected"),
    [
        ("torchvision", 91, "detectron2", None, 80),
        ("torchvision", 91, "detectron2", 91, 91),
        ("torchvision", 91, "ours", None, 91),
        ("torchvision", 91, "ours", 80, 80),
        ("ours", 80, "torchvision", None, 91),
        ("ours", 91, "mmdet", None, 80),
        ("detectron2", 80, "torchvision", 80, 80),
        ("detectron2", 91, "mmdet", None, 91),  # 91 classes of its own
        ("torchvision", 80, "detectron2", None, 80),
        ("mmdet", 3, "torchvision", None, 3),
    ],
)
def test_rows_of_classes_follow_the_frameworks_and_the_wish(
    source: str, rows: int, to: str, asked: int | None, expected: int
) -> None:
    converted = convert_weights(tiny(source, 9, rows), to, num_classes=asked)
    assert len(converted.state[f"{FRAMEWORKS[to].outputs[0]}.bias"]) == 9 * expected


def test_inputs_are_not_mutated_and_unchanged_tensors_are_shared() -> None:
    state = tiny("torchvision", 9, 91)
    before = {key: tensor.clone() for key, tensor in state.items()}
    converted = convert_weights(state, "detectron2", source_eps=0.0).state
    assert_same(state, before)
    assert converted["backbone.fpn_lateral3.bias"] is state["backbone.fpn.inner_blocks.0.0.bias"]


def test_half_precision_stays_half() -> None:
    state = {key: tensor.half() for key, tensor in tiny("torchvision", 9, 80).items()}
    assert {tensor.dtype for tensor in convert_weights(state, "detectron2").state.values()} == {torch.float16}


def test_buffers_that_are_made_again_are_dropped_with_a_count() -> None:
    state = tiny("detectron2", 9, 80)
    state |= {f"anchor_generator.cell_anchors.{level}": torch.ones(9, 4) for level in range(5)}
    state |= {"pixel_mean": torch.ones(3, 1, 1), "pixel_std": torch.ones(3, 1, 1)}
    assert noted(convert_weights(state, "ours").notes, "dropped: 5 anchor_generator, 1 pixel_mean, 1 pixel_std")


def test_counters_of_batches_are_dropped_and_added() -> None:
    there = convert_weights(unfilled("torchvision v1").state_dict(), "detectron2")
    assert noted(there.notes, "dropped: 53 num_batches_tracked")  # 1 + 3 * 16 + 4 batch norms
    back = convert_weights(there.state, "mmdet")
    assert noted(back.notes, "added as zeros: 53 num_batches_tracked")
    assert back.state["backbone.bn1.num_batches_tracked"].dtype == torch.int64
    assert not any("num_batches" in key for key in convert_weights(there.state, "ours").state)


def test_coco_v1_is_taken_to_have_an_eps_of_zero() -> None:
    frozen = {key: tensor for key, tensor in built("torchvision v1")[1].items() if "num_batches" not in key}
    converted = convert_weights(frozen, "ours")
    assert noted(converted.notes, "eps of the source taken as 0")
    same = convert_weights(frozen, "torchvision").state
    assert_same({key: same[key] for key in frozen}, frozen)
    variance, scale = (frozen[f"backbone.body.bn1.{what}"] for what in ("running_var", "weight"))
    mine = converted.state["backbone.bn1.weight"] / (variance + 1e-5).sqrt()
    assert_close(mine, scale / variance.sqrt(), rtol=1e-6, atol=0)
    assert_same(
        convert_weights(frozen, "ours", source_eps=1e-5, num_classes=91).state,
        converted.state
        | {
            key: frozen[key.replace("backbone.", "backbone.body.")]
            for key in converted.state
            if key.startswith("backbone.")
        },
    )


def test_a_stem_of_caffe_in_mmdetection_is_told_by_the_caller() -> None:
    state = tiny("mmdet", 9, 80)
    there = convert_weights(state, "detectron2", source_input="bgr").state["backbone.bottom_up.stem.conv1.weight"]
    assert_close(there, state["backbone.conv1.weight"], rtol=0, atol=0)
    assert noted(convert_weights(state, "ours", source_input="bgr").notes, "taken to want BGR")


# --- refusals ---


@pytest.mark.parametrize(
    ("state", "options", "message"),
    [
        ({"fc.weight": torch.ones(1)}, {}, r"not a RetinaNet of a known framework: saw fc.weight; looked for"),
        ({}, {}, "saw no keys"),
        (tiny("ours", 9, 80), {"to": "keras"}, "to='keras'"),
        (tiny("ours", 9, 80), {"source": "keras"}, "source='keras'"),
        (tiny("ours", 9, 80), {"source_input": "grey"}, "source_input='grey'"),
        (tiny("ours", 9, 80), {"source": "torchvision"}, "not a ResNet RetinaNet as torchvision names it"),
        (tiny("ours", 9, 80), {"num_sizes": 2}, "720 outputs for classes and 36 for boxes do not fit 6 anchors"),
        (tiny("ours", 9, 80), {"num_sizes": 0}, "do not fit 0 anchors"),
        (tiny("ours", 9, 80), {"num_classes": 20}, "80 rows of classes cannot become 20"),
        (tiny("ours", 9, 3), {"num_classes": 91}, "3 rows of classes cannot become 91"),
        (tiny("ours", 9, 80) | {"head.class_outputs.1.weight": torch.ones(2)}, {}, "head.class_outputs.1.weight"),
        (tiny("ours", 9, 80) | {"backbone.conv1.weight": torch.ones(2, 1, 1, 1)}, {}, "the stem takes 1 channels"),
    ],
)
def test_what_cannot_be_converted_is_refused(state: State, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConvertError, match=message):
        convert_weights(state, **({"to": "torchvision"} | options))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("given", "name", "kind"),
    [
        ({"model": tiny("ours", 9, 80), "epoch": 3}, "model", "dict"),
        ({key: tensor.numpy() for key, tensor in tiny("ours", 9, 80).items()}, "backbone.conv1.weight", "ndarray"),
        ("weights.pth", "the state", "str"),
    ],
)
def test_a_checkpoint_that_is_no_state_dict_is_named_with_what_reads_it(given: Any, name: str, kind: str) -> None:
    with pytest.raises(ConvertError, match=f"^{name} is of type {kind}, not a tensor: .* load_checkpoint"):
        convert_weights(given, "torchvision")
