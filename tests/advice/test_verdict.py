"""The verdict: lines that say what is lost, what to set and what makes small objects larger."""

from __future__ import annotations

import msgspec
import pytest
from builders import dataset_of

from detect.advice.advise import advise
from detect.advice.verdict import reason_in_words, share_text, verdict
from detect.catalog.detectors import load_detector
from detect.data import read_coco
from detect.samples import sample_annotations

FINE = [[40.0 * number, 40, 30, 30] for number in range(10)]


def test_where_nothing_is_lost_it_says_so_and_stops():
    usual = [
        [30 + 140.0 * column, 30 + 20 * row, 60 + row + 7 * column, 90 - row]
        for row in range(20)
        for column in range(3)
    ]
    assert verdict(advise(dataset_of(usual), "yolo11")) == (
        "yolo11 at letterbox:640 loses none of 60 objects by its rules and limits.",
    )


def test_a_change_is_worded_as_the_framework_spells_it():
    lines = verdict(advise(dataset_of(FINE + [[5, 5, 3, 3]] * 1), "yolo11-8.3"))
    assert lines[0] == ("yolo11-8.3 at letterbox:640: of 11 objects, at least 1 (9.1%) gets no cell in any assignment.")
    assert lines[1].startswith("Set imgsz=")
    assert "to lose 0 objects instead of 1, at" in lines[1]
    assert lines[2].startswith("1 object (9.1%) is under 8 px after the resize: imgsz=")


def test_without_a_change_that_is_worth_it_the_settings_are_kept():
    detector = msgspec.structs.replace(load_detector("yolo11"), resize="none", nms=None)
    dataset = dataset_of([[100, 100, 620, 620], *FINE], side=2000)
    detector = msgspec.structs.replace(detector, reg_max=4)
    lines = verdict(advise(dataset, detector))
    assert "1 (9.1%) is too large for reg_max 4: no cell reaches every side" in lines[0]
    assert lines[0].startswith("yolo11 without a resize: ")
    assert lines[1].startswith("Set reg_max: ")
    kept = verdict(advise(dataset, detector, share=0.5))
    assert kept[1] == "Keep the settings: no other value saves enough objects to be worth its cost."


def test_the_cheaper_of_a_larger_input_and_tiles_is_named():
    boxes = [[100.0 * number, 100.0 * number, 12, 12] for number in range(20)]
    lines = verdict(advise(dataset_of(boxes, side=2560), "yolo11"))
    # 12 px are 3 of 640, and 9 of 1,920; 25 tiles of 640 px cost 25 times the compute
    assert (
        lines[-1]
        == "20 objects (100.0%) are under 8 px after the resize: imgsz=1920 leaves 0%, at 9 times the compute."
    )
    tiny = [[400.0 * number, 400.0 * number, 9, 9] for number in range(20)]
    lines = verdict(advise(dataset_of(tiny, side=8192), "yolo11"))  # 2.8 px of 2,560: larger inputs do not help
    assert "tiles of 640 px that overlap by" in lines[-1]
    assert "show objects 12.8 times larger" in lines[-1]


def test_what_helps_small_objects_goes_on_from_the_change_that_is_advised():
    dataset = read_coco(sample_annotations("nuclei"))
    for name in ("fcos", "yolo11-8.3"):
        advice = advise(dataset, name, size=128)
        _, change, small = verdict(advice)
        best = advice.curves[0].best
        offered = next(each for each in advice.curves[0].options if f": {each.text} leaves" in small)
        assert f"Set {best.text} to lose" in change
        assert (offered.cost >= best.cost, offered.finer >= best.finer) == (True, True)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("rf-detr", "have no query: an image has 300"),
        ("centernet", "share their peak with another object of the category"),
        ("fcos", "get no cell"),
        ("yolov5", "get no anchor"),
    ],
)
def test_the_words_follow_the_matching_rule(name, words):
    advice = advise(dataset_of(FINE), name)
    (loss,) = [each for each in advice.losses if each.reason == "no positive"]
    assert reason_in_words(advice.detector, loss) == words


def test_shares_have_more_digits_the_smaller_they_are():
    assert [share_text(*each) for each in ((1, 2), (1, 1000), (0, 0), (5, 500))] == ["50.0%", "0.10%", "0%", "1.0%"]
