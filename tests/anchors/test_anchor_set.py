from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
import yaml
from numpy.testing import assert_allclose, assert_array_equal

from detect.anchors.anchor_set import (
    AnchorSet,
    SourceFile,
    deal_by_rank,
    level_name,
    levels_of_shapes,
    place_shapes,
    strides_of,
)
from detect.anchors.grid_iou import grid_iou_by_level
from detect.data.resize import parse_resize
from detect.errors import AnchorFileError, FitError

GOOD = "format: 1\nresize: none\nlevels: [{name: P3, stride: 8, shapes: [[10, 20]]}]\n"


def test_what_is_saved_is_read_back(tmp_path):
    anchors = AnchorSet.of(
        [[(10.25, 20), (1 / 3, 20)], [(60, 60)]],
        strides=(8, 16),
        resize="letterbox:640",
        center_offset=0.0,
        name=str(tmp_path / "anchors.yaml"),
        scores={"average_iou": 0.5},
        sources=(SourceFile("a.json", "0" * 64),),
        command="detect anchors fit a.json",
        version="0.1.0",
    )
    anchors.save(tmp_path / "anchors.yaml")
    assert AnchorSet.load(tmp_path / "anchors.yaml") == anchors
    assert [path.name for path in tmp_path.iterdir()] == ["anchors.yaml"]  # nothing left beside it


def test_equal_sets_have_the_same_text():
    made = AnchorSet.of([[(8, 8)]], strides=(8,))
    text = made.to_yaml()
    assert "center_offset" not in text
    assert AnchorSet.from_yaml(f"{text}center_offset: 0.5\n").to_yaml() == text
    assert "center_offset: 0.25" in AnchorSet.from_yaml(f"{text}center_offset: 0.25\n").to_yaml()


def test_the_file_is_plain_yaml_with_a_shape_a_line(tmp_path):
    text = AnchorSet.of([[(10, 20)]], strides=[8], scores={"average_iou": 2 / 3}).to_yaml()
    assert "average_iou: 0.666667\n" in text
    assert yaml.safe_load(text)["levels"] == [{"name": "P3", "stride": 8, "shapes": [[10.0, 20.0]]}]
    assert "  - [10.0, 20.0]\n" in text


def test_levels_are_sorted_by_stride_and_shapes_by_area():
    anchors = AnchorSet.of([[(60, 60)], [(10, 20), (5, 5)]], strides=(16, 8))
    assert [level.stride for level in anchors.levels] == [8, 16]
    assert_allclose(anchors.shapes, [[5, 5], [10, 20], [60, 60]])
    assert anchors.levels[0].shapes == [(10.0, 20.0), (5.0, 5.0)]  # the order of channels is kept


def test_the_resize_rule_is_taken_as_text_or_as_an_object():
    sets = [
        AnchorSet.of([[(10, 20)]], strides=[8], resize=rule)
        for rule in ("letterbox:640", parse_resize("letterbox:640"))
    ]
    assert sets[0] == sets[1]
    assert sets[0].resize == "letterbox:640"


def test_names_of_levels():
    assert [level_name(stride) for stride in (1, 4, 8, 128, 12)] == ["P0", "P2", "P3", "P7", "stride12"]


def test_a_source_is_told_by_its_digest(tmp_path):
    (tmp_path / "a.json").write_bytes(b"abc")
    assert SourceFile.of(str(tmp_path / "a.json")).sha256 == hashlib.sha256(b"abc").hexdigest()


def test_the_digest_of_a_folder_is_that_of_its_label_files(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"abc")
    before = SourceFile.of(tmp_path)
    (tmp_path / "a.png").write_bytes(b"no label")
    assert SourceFile.of(tmp_path) == before
    (tmp_path / "b.txt").write_bytes(b"")
    assert SourceFile.of(tmp_path) != before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not an anchors file: Expected object"),
        ("a: [", "not YAML"),
        ("- 1\n", "Expected object, got array"),
        (GOOD.replace("format: 1", "format: 2"), "format 2, this version reads format 1"),
        (GOOD.replace("stride: 8", "stride: 0"), r"Expected int >= 1.*levels\[0\].stride"),
        (GOOD.replace("[[10, 20]]", "[[10]]"), r"length 2.*levels\[0\].shapes\[0\]"),
        (GOOD.replace("[[10, 20]]", "[[-10, 20]]"), r"> 0.*shapes\[0\]\[0\]"),
        (GOOD.replace("[[10, 20]]", "[[.nan, 20]]"), r"shapes\[0\]\[0\]"),
        (GOOD.replace("resize: none", "resize: big"), "resize rule 'big' is not known"),
        (GOOD.replace("resize: none\n", ""), "missing required field resize"),
        (GOOD + "colour: red\n", "unknown field colour"),
        (GOOD.replace("[{name: P3, stride: 8, shapes: [[10, 20]]}]", "[]"), "levels"),
        (GOOD.replace("[[10, 20]]", "[]"), "level P3 has no shapes"),
        (GOOD.replace("]]}]", "]]}, {name: P4, stride: 8, shapes: [[9, 9]]}]"), r"different strides.* got \[8, 8\]"),
        (GOOD.replace("]]}]", "]]}, {name: P2, stride: 4, shapes: [[9, 9]]}]"), r"different strides.* got \[8, 4\]"),
        ("!!python/object/apply:os.system ['true']", "not YAML"),
    ],
)
def test_a_broken_file_gets_one_line_that_names_it(tmp_path, text, message):
    path = tmp_path / "anchors.yaml"
    path.write_text(text, "utf-8")
    with pytest.raises(AnchorFileError, match=message) as caught:
        AnchorSet.load(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("shapes", "strides", "message"),
    [
        ([[(1, 1)], [(2, 2)]], [8, 8], r"different strides, fine to coarse, got \[8, 8\]"),
        ([[], [(1, 1)]], [8, 16], "level P3 has no shapes"),
        ([], [], "length >= 1 - at \\$.levels"),
        ([[(1, 1)]], [0], "int >= 1"),
        *(([[(side, 1)]], [8], "Expected float") for side in (0, -1, math.nan, math.inf)),
    ],
)
def test_a_set_that_could_not_be_read_again_is_not_written(tmp_path, shapes, strides, message):
    anchors = AnchorSet.of(shapes, strides=strides)
    with pytest.raises(AnchorFileError, match=message):
        anchors.save(tmp_path / "anchors.yaml")
    assert list(tmp_path.iterdir()) == []


def test_shapes_go_to_the_level_of_their_size_and_never_by_rank():
    # 4 strides in size: 32 px to stride 8, 64 to 16; smaller than all: the finest. A thin one by its short side:
    # 400 x 30 has size 109.5, which alone would be stride 16; the short side, 2 strides, allows 15
    shapes = np.array([[20.0, 20.0], [32.0, 32.0], [63.0, 63.0], [64.0, 64.0], [600.0, 600.0], [400.0, 30.0]])
    assert_array_equal(levels_of_shapes(shapes, (8, 16, 32)), [0, 0, 0, 1, 2, 0])
    all_small = place_shapes(np.array([[9.0, 9.0], [10.0, 10.0], [11.0, 11.0]]), (8, 16, 32))
    assert [(level.name, len(level.shapes)) for level in all_small.levels] == [("P3", 3)]


def test_by_size_covers_more_on_the_grid_than_by_rank(nuclei):
    shapes = np.array([[9.0, 9.0], [11.0, 12.0], [13.0, 17.0], [17.0, 13.0], [22.0, 22.0], [46.0, 51.0]])
    by_size = place_shapes(shapes, (4, 8, 16))
    by_rank = deal_by_rank(shapes, (4, 8, 16))
    best = [grid_iou_by_level(nuclei.boxes, nuclei.canvas_wh, each).max(axis=1) for each in (by_size, by_rank)]
    assert (best[0] >= 0.5).mean() > (best[1] >= 0.5).mean() + 0.05


@pytest.mark.parametrize(
    ("levels", "strides"), [("p3-p7", (8, 16, 32, 64, 128)), ("P4, p2", (4, 16)), ("14,7", (7, 14)), ("p0", (1,))]
)
def test_levels_and_strides_are_read(levels, strides):
    assert strides_of(levels) == strides


@pytest.mark.parametrize("levels", ["", "p7-p3", "p3,p3", "p21", "p3-", "8;16", "0", "x", "p3-p99"])
def test_other_levels_are_refused_by_name(levels):
    with pytest.raises(FitError, match="levels"):
        strides_of(levels)


def test_shapes_are_dealt_out_by_area_and_no_level_has_more_than_another():
    shapes = np.random.default_rng(0).uniform(5, 300, (9, 2))
    levels = deal_by_rank(shapes, (32, 8, 16)).levels
    assert [(level.stride, len(level.shapes)) for level in levels] == [(8, 3), (16, 3), (32, 3)]
    areas = [width * height for level in levels for width, height in level.shapes]
    assert areas == sorted(areas)
    with pytest.raises(FitError, match="9 shapes cannot be dealt out evenly over 2 levels"):
        deal_by_rank(shapes, (8, 16))
