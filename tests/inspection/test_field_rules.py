"""Rules of operators: each against pixels that are not a number, and what no rule is known for."""

from __future__ import annotations

import pytest
import torch
from supports import assert_fields_are_exact
from torch import nn
from torch.nn import functional

from detect.inspection.models import NamedMaps, Tap
from detect.inspection.receptive_field import track_maps


class Called(nn.Module):
    """A function after a convolution, so that channels are mixed and fields are not single pixels."""

    def __init__(self, function) -> None:
        super().__init__()
        self.conv, self.function = nn.Conv2d(2, 4, 3, stride=2, padding=1), function

    def forward(self, images):
        return self.function(self.conv(images))


def tokens(cells):
    return cells.flatten(2).transpose(1, 2)


def windowed(cells):
    """Attention within windows of 3 x 3 after a shift, as in Swin."""
    cells = torch.roll(cells, (-1, -1), (2, 3))
    b, c, h, w = cells.shape
    parts = cells.view(b, c, h // 3, 3, w // 3, 3).permute(0, 2, 4, 3, 5, 1).reshape(-1, 9, c)
    mixed = functional.scaled_dot_product_attention(parts, parts, parts)
    back = mixed.view(b, h // 3, w // 3, 3, 3, c).permute(0, 5, 1, 3, 2, 4).reshape(b, c, h, w)
    return torch.roll(back, (1, 1), (2, 3))


def chunks(cells):
    first, second = cells.chunk(2, dim=1)
    return torch.cat([first, functional.max_pool2d(second, 3, 1, 1)], 1)


def by_hand(cells):
    """Attention over all tokens by matrix products."""
    rows = tokens(cells)
    return ((rows @ rows.transpose(1, 2)).softmax(dim=-1) @ rows).transpose(1, 2).reshape(cells.shape)


FUNCTIONS = {
    "relu in place": torch.relu_,
    "hardswish in place": lambda x: functional.hardswish(x, inplace=True),
    "gate": lambda x: x * torch.sigmoid(x.mean((2, 3), keepdim=True)),
    "strip": lambda x: x * x.mean(3, keepdim=True),
    "cat of slices": lambda x: torch.cat([x[:, :2, 1:], x[:, 2:, :-1]], 1),
    "chunks": chunks,
    "unbind": lambda x: torch.stack(x.unbind(1)[::-1], 1),
    "split": lambda x: torch.cat(x.split([1, x.shape[2] - 1], dim=2)[::-1], 2),
    "roll": lambda x: torch.roll(x, (2, -1), (2, 3)),
    "flip": lambda x: x.flip(2),
    "reflect": lambda x: functional.pad(x, (2, 1, 0, 2), mode="reflect"),
    "replicate": lambda x: functional.pad(x, (2, 1, 0, 2), mode="replicate"),
    "pad and crop": lambda x: functional.max_pool2d(functional.pad(x, (1, -1, -2, 1)), 3),
    "pixel shuffle": lambda x: functional.pixel_shuffle(x, 2),
    "pixel unshuffle": lambda x: functional.pixel_unshuffle(x[..., :8, :8], 2),
    "tokens": lambda x: (tokens(x) * 2).transpose(1, 2).reshape(x.shape),
    "linear over channels": lambda x: functional.linear(x.permute(0, 2, 3, 1), torch.ones(3, 4)).permute(0, 3, 1, 2),
    "windowed attention": windowed,
    "attention": by_hand,
    "einsum": lambda x: torch.einsum("bchw,dc->bdhw", x, torch.ones(2, 4)),
    "adaptive pooling": lambda x: functional.adaptive_avg_pool2d(x, (3, 4)),
    "space to depth by slices": lambda x: (
        torch.cat([x[..., ::2, :8:2], x[..., 1::2, 1:8:2]], 1) if x.shape[2] % 2 == 0 else x
    ),
    "depthwise by groups": lambda x: functional.conv2d(x, torch.ones(8, 1, 3, 3), groups=4),
    "maximum over channels": lambda x: x.amax(1, keepdim=True),
    "instance norm": functional.instance_norm,
    "group norm": lambda x: functional.group_norm(x, 2),
    "two images": lambda x: x - x.flip(3),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_field_holds_exactly_what_an_operator_reads(name):
    maps = NamedMaps(Called(FUNCTIONS[name]).eval(), [Tap(("",), "{}", "C")], in_channels=2)
    assert_fields_are_exact(maps, (18, 18), units="corners")


def test_windowed_attention_is_local_and_its_windows_are_hulls():
    maps = NamedMaps(Called(windowed).eval(), [Tap(("",), "{}", "C")], in_channels=2)
    tracked = track_maps(maps, (60, 60))
    assert (tracked.whole, tracked.unknown) == ((), ())
    reach = tracked.reach("C1", 0, "local")
    assert (reach.first[4], reach.last[4]) == (2 * 4 - 1, 2 * 6 + 1)  # the window of units 4 to 6, each of 3 pixels


def test_weights_that_depend_on_the_image_are_taken_to_see_it():
    def dynamic(cells):
        return functional.conv2d(cells, cells.mean((2, 3)).view(1, 4, 1, 1))

    tracked = track_maps(NamedMaps(Called(dynamic).eval(), [Tap(("",), "{}", "C")], in_channels=2), (18, 18))
    assert tracked.fields["C1"].sees_all
    assert tracked.unknown == ("convolution",)
