"""Resize rules: torchvision's against torchvision, the others against tables worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose, assert_array_equal
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from detect.data.resize import FORMS, LARGEST_SIDE_PX, ResizedImages, parse_resize
from detect.errors import ResizeError

RULES = [
    *("none", "stretch:300x200", "stretch:65536x1", "letterbox:640", "letterbox:33", "letterbox:1280x736"),
    *("shortest:800:1333", "shortest:80:133", "shortest:1333:800"),
    *("shortest:800:1333:detectron2", "shortest:800:1333:mmdet"),
]

pixels = st.integers(1, LARGEST_SIDE_PX)
rule_texts = st.one_of(
    st.just("none"),
    st.builds("stretch:{}x{}".format, pixels, pixels),
    st.builds("letterbox:{}".format, pixels),
    st.tuples(pixels, pixels).filter(lambda wh: wh[0] != wh[1]).map("letterbox:{0[0]}x{0[1]}".format),
    st.builds("shortest:{}:{}".format, pixels, pixels),
    st.builds("shortest:{}:{}:{}".format, pixels, pixels, st.sampled_from(["detectron2", "mmdet"])),
)


def sizes(*image_wh: tuple[int, int]) -> np.ndarray:
    return np.array(image_wh, np.int64).reshape(-1, 2)


def resized(rule: str, *image_wh: tuple[int, int]) -> ResizedImages:
    return parse_resize(rule).resize_images(sizes(*image_wh))


@given(rule_texts, st.lists(st.tuples(pixels, pixels), max_size=5), st.integers(0, 2**32))
def test_both_corners_of_a_box_move_as_points(rule, image_wh, seed):
    images = parse_resize(rule).resize_images(sizes(*image_wh))
    boxes_xywh = np.random.default_rng(seed).normal(0, 1000, (len(image_wh), 4))
    low, high = boxes_xywh[:, :2], boxes_xywh[:, :2] + boxes_xywh[:, 2:]
    points = [corner * images.scale_xy + images.offset_xy for corner in (low, high)]
    assert_array_equal(images.move_boxes(boxes_xywh), np.concatenate(points, axis=1))


def torchvision_resize(
    image_wh: tuple[int, int], boxes: np.ndarray, size: int, largest: int
) -> tuple[list[int], list[int], np.ndarray]:
    """What torchvision makes of one image and its boxes: content (w, h), tensor (w, h), boxes."""
    transform = GeneralizedRCNNTransform(size, largest, image_mean=[0.0] * 3, image_std=[1.0] * 3).eval()
    width, height = image_wh
    image = torch.zeros(3, height, width)
    batch, targets = transform([image], [{"boxes": torch.as_tensor(boxes, dtype=torch.float32)}])
    content_hw, canvas_hw = batch.image_sizes[0], batch.tensors.shape[-2:]
    return list(content_hw[::-1]), list(canvas_hw[::-1]), targets[0]["boxes"].numpy()


def agrees_with_torchvision(image_wh: tuple[int, int], size: int, largest: int) -> None:
    width, height = image_wh
    boxes_xywh = np.array([[0, 0, width, height], [width / 3, height / 7, width / 2, height / 5]], float)
    corners = np.concatenate([boxes_xywh[:, :2], boxes_xywh[:, :2] + boxes_xywh[:, 2:]], axis=1)
    content, canvas, boxes = torchvision_resize(image_wh, corners, size, largest)
    rule = parse_resize(f"shortest:{size}:{largest}")
    ours = rule.resize_images(sizes(image_wh))
    assert_array_equal(ours.content_wh[0], content)
    assert_array_equal(ours.canvas_wh[0], canvas)
    assert_allclose(rule.resize_boxes(boxes_xywh, sizes(image_wh, image_wh)), boxes, rtol=1e-5, atol=1e-4)


# sides within the limits, so that no side of what comes out is zero, which torchvision refuses
sides_px = st.integers(20, 400)


@given(image_wh=st.tuples(sides_px, sides_px), limits=st.sampled_from([(80, 133), (96, 160), (50, 40)]))
def test_torchvision_makes_the_same_sizes_and_boxes(image_wh, limits):
    agrees_with_torchvision(image_wh, *limits)


NEAREST = [":detectron2", ":mmdet"]


@pytest.mark.parametrize(
    ("conventions", "image_wh", "content", "canvas"),
    [
        # min(800 / 427, 1333 / 640) = 800 / 427: 640 * 800 / 427 = 1199.06 -> 1199, up to 38 * 32 = 1216
        (["", *NEAREST], (640, 427), (1199, 800), (1216, 800)),
        # 640 * 800 / 480 = 1066.67 -> 1066 or 1067
        ([""], (640, 480), (1066, 800), (1088, 800)),
        (NEAREST, (640, 480), (1067, 800), (1088, 800)),
        (NEAREST, (480, 640), (800, 1067), (800, 1088)),
        # 1920 * 800 / 1080 = 1422 is too long: 1080 * 1333 / 1920 = 749.81
        ([""], (1920, 1080), (1333, 749), (1344, 768)),
        (NEAREST, (1920, 1080), (1333, 750), (1344, 768)),
        # 2000 * 800 / 1000 = 1600 is too long: 1000 * 1333 / 2000 = 666.5, and one half more is 667
        (NEAREST, (2000, 1000), (1333, 667), (1344, 672)),
        # nothing to do
        (["", *NEAREST], (1333, 800), (1333, 800), (1344, 800)),
        (NEAREST, (801, 800), (801, 800), (832, 800)),
        # 10 * 1333 / 4000 = 3.3325 -> 3
        (NEAREST, (4000, 10), (1333, 3), (1344, 32)),
        # shorter side 209: 800 / 209, so the longer is 1634 * 800 / 209 = 6254.5, over 1333. In one step the shorter side is
        # 209 * 1333 / 1634 = 170.5, up to 171; in two, 800 * (1333 / 6254.5...) comes out just under 170.5
        ([":mmdet"], (1634, 209), (1333, 171), (1344, 192)),
        ([":detectron2"], (1634, 209), (1333, 170), (1344, 192)),
    ],
)
def test_shortest_sides_by_hand(conventions, image_wh, content, canvas):
    for convention in conventions:
        ours = resized(f"shortest:800:1333{convention}", image_wh)
        assert_array_equal(ours.content_wh, [content])
        assert_array_equal(ours.canvas_wh, [canvas])
        # boxes are scaled by the sizes that came out, axis by axis
        assert_allclose(ours.scale_xy, [[content[0] / image_wh[0], content[1] / image_wh[1]]])
        assert_array_equal(ours.offset_xy, [[0, 0]])


@pytest.mark.parametrize(
    ("canvas", "image_wh", "scale", "content", "offset"),
    [
        # 640 / 1280 = .5: 960 * .5 = 480, 160 left: 80 above and below
        ("640x640", (1280, 960), 0.5, (640, 480), (0, 80)),
        # 640 / 640 = 1: 427 leaves 213: 106.5 - .1 -> 106 above, 106.5 + .1 -> 107 below
        ("640x640", (640, 427), 1.0, (640, 427), (0, 106)),
        # 425 leaves 215: 107.5 - .1 -> 107 above
        ("640x640", (640, 425), 1.0, (640, 425), (0, 107)),
        # 640 / 1280 = .5: 961 * .5 = 480.5 -> 480 (to the even), 80 above; 963 * .5 = 481.5 -> 482, 158 left: 79
        ("640x640", (1280, 961), 0.5, (640, 480), (0, 80)),
        ("640x640", (1280, 963), 0.5, (640, 482), (0, 79)),
        # 640 / 20 = 32, up as well as down
        ("640x640", (20, 10), 32.0, (640, 320), (0, 160)),
        # min(1280 / 1920, 736 / 1080) = 2 / 3: 1080 * 2 / 3 = 720, 16 left: 8 above and below
        ("1280x736", (1920, 1080), 2 / 3, (1280, 720), (0, 8)),
        # min(1280 / 1080, 736 / 1920) = .3833: 1080 * .3833 = 414, 866 left: 433 on each side
        ("1280x736", (1080, 1920), 736 / 1920, (414, 736), (433, 0)),
    ],
)
def test_yolos_letterbox_by_hand(canvas, image_wh, scale, content, offset):
    ours = resized(f"letterbox:{canvas}", image_wh)
    assert_allclose(ours.scale_xy, [[scale, scale]])  # not content / image: both axes share one factor
    assert_array_equal(ours.content_wh, [content])
    assert_array_equal(ours.offset_xy, [offset])
    assert_array_equal(ours.canvas_wh, [[int(side) for side in canvas.split("x")]])


def test_stretch_by_hand():
    rule = parse_resize("stretch:300x200")
    ours = rule.resize_images(sizes((600, 100), (150, 800)))
    assert_array_equal(ours.scale_xy, [[0.5, 2.0], [2.0, 0.25]])
    assert_array_equal(ours.content_wh, [[300, 200]] * 2)
    assert_array_equal(ours.canvas_wh, [[300, 200]] * 2)
    # (60, 10) - (180, 50) by (.5, 2); (30, 400) - (45, 440) by (2, .25)
    boxes = rule.resize_boxes(np.array([[60.0, 10, 120, 40], [30, 400, 15, 40]]), sizes((600, 100), (150, 800)))
    assert_array_equal(boxes, [[30, 20, 90, 100], [60, 100, 90, 110]])


def test_none_leaves_boxes_where_they_are():
    rule = parse_resize("none")
    boxes = rule.resize_boxes(np.array([[1.5, 2.0, 3.0, 4.0]]), sizes((7, 9)))
    assert_array_equal(boxes, [[1.5, 2.0, 4.5, 6.0]])
    assert_array_equal(rule.resize_images(sizes((7, 9))).canvas_wh, [[7, 9]])


@pytest.mark.parametrize("rule", RULES)
def test_each_image_has_its_own_factors(rule):
    image_wh = sizes((640, 480), (333, 1001), (50, 60))
    together = parse_resize(rule).resize_images(image_wh)
    for row, one in enumerate(image_wh):
        alone = parse_resize(rule).resize_images(one[None])
        for name in ("scale_xy", "offset_xy", "content_wh", "canvas_wh"):
            assert_array_equal(getattr(together, name)[row], getattr(alone, name)[0])


@pytest.mark.parametrize("rule", RULES)
def test_no_images_give_no_sizes(rule):
    ours = parse_resize(rule).resize_images(sizes())
    for name in ("scale_xy", "offset_xy", "content_wh", "canvas_wh"):
        assert getattr(ours, name).shape == (0, 2)
    assert parse_resize(rule).resize_boxes(np.zeros((0, 4)), sizes()).shape == (0, 4)


@given(
    rule=st.sampled_from(RULES),
    image_wh=arrays(np.int64, (4, 2), elements=st.integers(1, 5000)),
    parts=arrays(float, (4, 4), elements=st.floats(0, 1)),
)
def test_boxes_inside_their_image_stay_inside_the_canvas(rule, image_wh, parts):
    corner = parts[:, :2] * image_wh
    boxes_xywh = np.concatenate([corner, parts[:, 2:] * (image_wh - corner)], axis=1)
    rule = parse_resize(rule)
    boxes = rule.resize_boxes(boxes_xywh, image_wh)
    canvas_wh = rule.resize_images(image_wh).canvas_wh
    assert (boxes >= 0).all()
    assert (boxes <= np.tile(canvas_wh, 2) * (1 + 1e-12)).all()
    assert (boxes[:, 2:] >= boxes[:, :2]).all()


@given(rule=st.sampled_from(RULES), image_wh=arrays(np.int64, (4, 2), elements=st.integers(1, 5000)))
def test_content_and_offset_fit_the_canvas(rule, image_wh):
    ours = parse_resize(rule).resize_images(image_wh)
    assert (ours.content_wh >= 1).all()
    assert (ours.offset_xy >= 0).all()
    assert (ours.offset_xy + ours.content_wh <= ours.canvas_wh).all()
    # one pixel of rounding, or more where a side of less than one is raised to one
    assert (np.abs(image_wh * ours.scale_xy - ours.content_wh) <= 1).all()


@given(rule_texts)
def test_the_text_of_a_rule_names_the_rule(text):
    rule = parse_resize(text)
    assert str(rule) == text
    assert parse_resize(str(rule)) == rule


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (" Letterbox:640\n", "letterbox:640"),
        ("STRETCH:300X200", "stretch:300x200"),
        ("shortest:800:1333:MMDet", "shortest:800:1333:mmdet"),
        ("letterbox:0640", "letterbox:640"),
        ("letterbox:640x640", "letterbox:640"),
        ("tiles:640:0.2", "tiles:640:128"),
        ("tiles:100:.255", "tiles:100:26"),  # 25.5, rounded to the even
        ("tiles:640:0.0", "tiles:640:0"),
    ],
)
def test_case_and_space_do_not_matter(text, rule):
    assert str(parse_resize(text)) == rule


# fmt: off
UNKNOWN = [
    "", ":", "nothing", "none:1", "none:", "stretch", "stretch:", "stretch:300", "stretch:300x200x100", "stretch:300:200",
    "letterbox", "letterbox:640:640", "shortest", "shortest:800", "shortest:800:1333:", "shortest:800:1333:mmdet:",
    "shortest:800:1333:yolo", "shortest:800:1333:mmdet:1", "640", "640x480",
]
WRONG_SIZES = [
    "letterbox:", "letterbox:0", "letterbox:-1", "letterbox:640.0", "letterbox:six", "letterbox:65537", "letterbox:640x",
    "letterbox:99999999999999999999", "letterbox:6_40", "letterbox:+640", "letterbox: 640", "letterbox:0x480",
    "letterbox:\u0666\u0664", "letterbox:\u00b2", "stretch:0x300", "stretch:300x", "stretch:x", "stretch:300x-2",
    "shortest:0:1333", "shortest:800:", "shortest::1333", "shortest:800:0:mmdet", "shortest:8e2:1333",
    "shortest:800:detectron2", "tiles:640:-2", "tiles:x:0.2",
]
# fmt: on


@pytest.mark.parametrize("text", UNKNOWN)
def test_an_unknown_rule_is_named_with_all_forms(text):
    with pytest.raises(ResizeError) as caught:
        parse_resize(text)
    message = str(caught.value)
    assert message == f"resize rule {text!r} is not known: use {FORMS}"


@pytest.mark.parametrize("text", WRONG_SIZES)
def test_a_wrong_size_is_named_with_its_range(text):
    with pytest.raises(ResizeError) as caught:
        parse_resize(text)
    message = str(caught.value)
    assert message == f"resize rule {text!r}: sizes are whole pixels from 1 to 65536; use {FORMS}"


@pytest.mark.parametrize("overlap", ["1.0", "0.", "-0.2", "0.2.1", "."])
def test_a_wrong_share_of_tiles_is_named(overlap):
    with pytest.raises(ResizeError) as caught:
        parse_resize(f"tiles:640:{overlap}")
    ways = "the overlap of tiles is whole pixels, or a share below 1 such as 0.2"
    assert str(caught.value) == f"resize rule 'tiles:640:{overlap}': {ways}"


@given(st.text(alphabet="nonestretchletterboxshortest:x0123456789 -.\n", max_size=30))
def test_any_text_is_a_rule_or_a_resize_error(text):
    try:
        rule = parse_resize(text)
    except ResizeError as error:
        (line,) = str(error).splitlines()
        named = repr(text) in line
    else:
        named = str(rule) in text.lower() or parse_resize(str(rule)) == rule
    assert named
