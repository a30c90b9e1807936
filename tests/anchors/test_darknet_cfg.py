"""Anchors of darknet's .cfg files: masks, strides that follow the layers, cells of YOLOv2."""

from __future__ import annotations

import pytest
from builders import read_edited_anchors
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from detect.anchors.anchor_readers import parse_anchors
from detect.anchors.darknet_cfg import parse_darknet
from detect.anchors.known import load_anchors
from detect.errors import AnchorFileError

ANCHORS = "anchors = 10,14,  23,27,  37,58,  81,82,  135,169,  344,319"
POOLED = "[convolutional]\nfilters=16\nstride=1\n\n[maxpool]\nsize=2\nstride=2\n\n"
# cfg/yolov3-tiny.cfg, without the fields that say nothing of strides
TINY = f"""\
[net]
# Testing
width=416
height=320

{POOLED * 4}[convolutional]
stride=1

[maxpool]
size=2
stride=2

[convolutional]

[maxpool]
size=2
stride=1

[convolutional]
[convolutional]
[convolutional]
[convolutional]

[yolo]
mask = 3,4,5
{ANCHORS}
num=6

[route]
layers = -4

[convolutional]

[upsample]
stride=2

[route]
layers = -1, 8

[convolutional]
[convolutional]

[yolo]
mask = 0,1,2
{ANCHORS}
num=6
"""


def test_each_section_has_the_shapes_of_its_mask_at_the_stride_of_its_layer():
    anchors = parse_darknet(TINY)
    assert [(level.stride, level.shapes) for level in anchors.levels] == [
        (16, [(10.0, 14.0), (23.0, 27.0), (37.0, 58.0)]),
        (32, [(81.0, 82.0), (135.0, 169.0), (344.0, 319.0)]),
    ]
    assert anchors.resize == "stretch:416x320"
    assert anchors.assumed == ()


def test_sections_alone_are_on_levels_down_to_stride_32_by_their_sizes():
    sections = TINY[TINY.index("[yolo]") : TINY.index("[route]")] + TINY[TINY.rindex("[yolo]") :]
    anchors = parse_darknet(sections)
    assert anchors.levels == parse_darknet(TINY).levels
    assert anchors.resize == ""
    assert anchors.assumed == ("strides 16, 32, by the number of [yolo] sections",)


def test_four_sections_alone_begin_at_stride_8():
    text = "".join(f"[yolo]\nmask={n}\nanchors=9,9, 20,20, 50,50, 99,99\n" for n in (3, 2, 1, 0))
    assert [(level.stride, level.shapes) for level in parse_darknet(text).levels] == [
        (8, [(9.0, 9.0)]),
        (16, [(20.0, 20.0)]),
        (32, [(50.0, 50.0)]),
        (64, [(99.0, 99.0)]),
    ]


def test_yolov2s_anchors_are_in_cells_of_32_pixels():
    text = "[net]\nwidth=416\nheight=416\n[region]\nanchors =  0.57273, 0.677434, 1.87446, 2.06253\nbias_match=1\n"
    (level,) = parse_darknet(text).levels
    assert level.stride == 32
    assert_allclose(level.shapes, [(18.3274, 21.6779), (59.9827, 66.001)], rtol=1e-5)


def test_what_detect_prints_for_darknet_says_which_file_it_is():
    assert parse_anchors(TINY, name="yolov3-tiny.cfg").name == "yolov3-tiny.cfg"
    assert load_anchors("yolov3-darknet").num_anchors == 9


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[yolo]\nmask=0", r"\[yolo\] anchors: 0 numbers, not pairs"),
        ("[yolo]\nanchors=1,2,3", r"\[yolo\] anchors: 3 numbers, not pairs"),
        ("[yolo]\nanchors=1,x", r"\[yolo\] anchors is not a list of numbers"),
        ("[yolo]\nmask=2\nanchors=1,2, 3,4", r"\[yolo\] mask 2 is not of its 2 anchors"),
        ("[yolo]\nmask=0.5\nanchors=1,2, 3,4", r"\[yolo\] mask 0.5 is not of its 2 anchors"),
        ("[net]\nwidth=4.5\nheight=4\n[yolo]\nanchors=1,2", r"\[net\] width is not a whole number"),
        ("[convolutional]\n[route]\nlayers=-5\n[yolo]\nanchors=1,2", r"\[route\] layers=-5: there is no such layer"),
        ("[convolutional]\n[convolutional]", "no anchors in it"),
    ],
)
def test_a_wrong_section_is_named(text: str, message: str):
    with pytest.raises(AnchorFileError, match=f"^some.cfg: {message}"):
        parse_anchors(text, name="some.cfg")


@given(edits=st.lists(st.tuples(st.integers(0, 700), st.text(max_size=4)), min_size=1, max_size=3))
def test_no_edit_raises_anything_else(edits: list[tuple[int, str]]):
    read_edited_anchors(TINY, edits, "some.cfg")
