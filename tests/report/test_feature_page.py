"""The pictures and the page of one network or of two."""

from __future__ import annotations

import io
import math

import numpy as np
import torch
from PIL import Image

from detect.inspection.activations import FilterBank, LevelDifference, LevelMaps
from detect.report.feature_page import NetworkView, feature_columns, feature_page, feature_pictures, feature_rows


def view(name="one", *, channels=6, first=(4, 3, 3, 3), seed=0):
    random = torch.Generator().manual_seed(seed)
    levels = [
        LevelMaps("C2", torch.rand(channels, 8, 8, generator=random), 4),
        LevelMaps("C3", torch.randn(channels, 4, 4, generator=random), 8),
    ]
    banks = [FilterBank("stem", torch.randn(*first, generator=random)), FilterBank("late", torch.randn(9, 1, 3, 3))]
    return NetworkView(name, levels, banks)


def picture(shown):
    return np.asarray(Image.open(io.BytesIO(shown.png)))


IMAGE = Image.new("RGB", (32, 32), "grey")


def test_one_network_has_its_input_filters_and_two_pictures_of_each_level():
    found = feature_pictures(IMAGE, [view()], num_channels=4)
    assert [each.name for each in found] == [
        *("input", "filters_first", "filters_late"),
        *("C2", "C2_overlay", "C3", "C3_overlay"),
    ]
    assert "The 4 channels of 6" in found[3].caption
    assert "as colours" in found[1].caption
    assert all(picture(each).size for each in found)


def test_two_equal_networks_side_by_side_are_two_equal_halves():
    found = feature_pictures(IMAGE, [view("a"), view("a")], num_channels=4)
    drawn = picture(next(each for each in found if each.name == "C2"))
    half = (drawn.shape[1] - 12) // 2
    assert (drawn[:, 12:half] == drawn[:, half + 12 : 2 * half]).all()
    assert "The channels are the same, both networks in the same scale." in found[3].caption


def test_own_scales_show_a_network_whose_values_are_small():
    weak = view("b")
    weak = NetworkView("b", [LevelMaps(each.name, each.cells / 100, each.stride) for each in weak.levels], weak.filters)
    common, own = (
        picture(feature_pictures(IMAGE, [view("a"), weak], num_channels=4, own_scales=each)[3])
        for each in (False, True)
    )
    right = slice(common.shape[1] // 2, None)
    bright = [int((each[40:-60, right].max(axis=2) > 150).sum()) for each in (common, own)]
    assert bright[0] < bright[1]


def test_networks_of_other_widths_and_without_some_levels_are_drawn():
    other = view("b", channels=3, first=(2, 1, 5, 5))
    other = NetworkView("b", other.levels[:1], other.filters[:1])
    found = feature_pictures(IMAGE, [view(), other], num_channels=4)
    assert "Each network has its own channels" in found[3].caption
    assert len(found) == 7


def test_rows_have_the_similarity_of_the_levels_that_have_one():
    views = [view(), view(seed=1)]
    rows = feature_rows(views, [LevelDifference("C3", 0.25, math.nan)])
    assert len(rows[0]) == len(feature_columns(views)) == 8
    assert rows[0][:4] == ["C2", "4", "8 x 8", "6"]
    assert rows[0][6:] == ["-", "-"]
    assert rows[1][6:] == ["0.250", "-"]


def test_the_page_holds_all_pictures_and_escapes_names():
    views = [view("<script>")]
    pictures = feature_pictures(IMAGE, views, num_channels=2)
    text = feature_page(views, pictures, [], image_name="<i>.png")
    assert text.count('<img src="data:image/png;base64,') == len(pictures)
    assert "<script>alert" not in text
    assert "<bdi>&lt;script&gt;</bdi>" in text
