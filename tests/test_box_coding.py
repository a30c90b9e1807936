from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from detect.box_coding import MAX_LOG_SCALE, BoxCoder
from detect.interop.torchvision import import_torchvision

import_torchvision()

from torchvision.models.detection._utils import BoxCoder as TorchvisionBoxCoder  # noqa: E402 - after the import above

extents = st.floats(0.5, 500)
places = st.floats(-200, 1000)


def boxes(seed: int, count: int = 50, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    corner, size = torch.rand(count, 2, generator=random) * 500, torch.rand(count, 2, generator=random) * 200 + 1
    return torch.cat([corner, corner + size], dim=1).to(dtype)


def test_offsets_by_hand():
    anchor, box = torch.tensor([[10.0, 10.0, 30.0, 50.0]]), torch.tensor([[20.0, 20.0, 60.0, 40.0]])
    # centres (20, 30) and (40, 30); sizes (20, 40) and (40, 20): dx = 20 / 20, dy = 0, dw = ln 2, dh = -ln 2
    assert_close(BoxCoder().encode(box, anchor), torch.tensor([[1.0, 0.0, math.log(2), -math.log(2)]]))
    weighted = BoxCoder(weights=(10.0, 10.0, 5.0, 5.0))
    assert_close(weighted.encode(box, anchor), torch.tensor([[10.0, 0.0, 5 * math.log(2), -5 * math.log(2)]]))


@given(st.tuples(places, places, extents, extents), st.tuples(places, places, extents, extents))
def test_decoding_undoes_encoding(box_xywh, anchor_xywh):
    coder = BoxCoder(weights=(10.0, 10.0, 5.0, 5.0), max_log_scale=20)
    box, anchor = (torch.tensor([[x, y, x + w, y + h]], dtype=torch.float64) for x, y, w, h in (box_xywh, anchor_xywh))
    assert_close(coder.decode(coder.encode(box, anchor), anchor), box, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)])
def test_it_is_torchvisions_coder(weights):
    ours, theirs = BoxCoder(weights), TorchvisionBoxCoder(weights)
    truth, anchors = boxes(0), boxes(1)
    assert_close(ours.encode(truth, anchors), theirs.encode_single(truth, anchors))
    deltas = torch.randn(50, 4, generator=torch.Generator().manual_seed(2)) * 5  # some are beyond the clamp
    assert_close(ours.decode(deltas, anchors), theirs.decode_single(deltas, anchors))


def test_large_scales_are_cut_above_and_in_mmdetections_way_below():
    anchor = torch.tensor([[0.0, 0.0, 16.0, 16.0]])
    huge = torch.tensor([[0.0, 0.0, 50.0, -50.0]])
    assert_close(BoxCoder().decode(huge, anchor), torch.tensor([[-492.0, 8.0, 508.0, 8.0]]))  # 16 px become 1000
    below = BoxCoder(clamp_below=True).decode(huge, anchor)
    assert_close(below[0, 3] - below[0, 1], torch.tensor(16 * math.exp(-MAX_LOG_SCALE)), rtol=1e-4, atol=0)


def test_leading_axes_broadcast_and_halves_are_computed_in_single():
    anchors, deltas = boxes(0), torch.randn(2, 50, 4, generator=torch.Generator().manual_seed(1)) * 0.3
    decoded = BoxCoder().decode(deltas, anchors)
    assert decoded.shape == (2, 50, 4)
    assert_close(decoded[1], BoxCoder().decode(deltas[1], anchors))
    half = BoxCoder().decode(deltas.half(), anchors)
    assert half.dtype == torch.float32
    assert_close(half, BoxCoder().decode(deltas.half().float(), anchors))
    assert BoxCoder().encode(torch.zeros(0, 4), torch.zeros(0, 4)).shape == (0, 4)


def test_decoding_is_differentiable():
    anchors = boxes(0, 5, torch.float64)
    deltas = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda values: BoxCoder().decode(values, anchors), deltas)
