"""Objects beside levels: which effective fields span them, by hand, and in agreement with advice."""

from __future__ import annotations

import pytest
from builders import instances_of
from torch import nn

from detect.advice.advise import advise
from detect.advice.lost_objects import least_px
from detect.anchors.instances import ResizedInstances
from detect.catalog.detectors import load_detector
from detect.data import read_coco
from detect.errors import FitError
from detect.inspection.level_profile import growth_in_words, notes_on, profile_model, profile_objects
from detect.inspection.models import model_of
from detect.samples import sample_annotations


class TwoLevels(nn.Module):
    """Levels of strides 8 and 16, of fields of 8 and 48 pixels, which all have the same influence."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(1, 1, 8, stride=8), nn.Conv2d(1, 1, 48, stride=16, padding=16)
        for layer in (self.fine, self.coarse):
            nn.init.constant_(layer.weight, 1.0)

    def forward(self, images):
        return [self.fine(images), self.coarse(images)]


@pytest.fixture(scope="module")
def profile():
    return profile_model(model_of("two", TwoLevels()))


def test_fields_and_effective_fields_of_both_levels(profile):
    assert [(field.name, field.size, field.stride) for field in profile.levels] == [
        ("C3", (8, 8), (8, 8)),
        ("C4", (48, 48), (16, 16)),
    ]
    assert profile.effective["C3"] == (8, 8)
    assert profile.effective["C4"] == pytest.approx((46, 46), abs=1)  # 95 % of 48, by symmetric steps of two


def test_objects_by_level_by_hand(profile):
    # 8 x 8 suits C3; 40 x 40 suits C4; 4 x 4 is too small; 60 x 60 too long; 40 x 2: root 8.9 is under C4's cell of 16
    boxes = [[0, 0, 8, 8], [0, 0, 40, 40], [0, 0, 4, 4], [0, 0, 60, 60], [0, 0, 40, 2]]
    objects = profile_objects(profile, instances_of(boxes, image_wh=(128, 128)))
    fine, coarse = objects.levels
    assert fine.spans.tolist() == [True, False, True, False, False]
    assert fine.suits.tolist() == [True, False, False, False, False]
    assert coarse.suits.tolist() == [False, True, False, False, False]
    assert objects.unsuited.tolist() == [False, False, True, True, True]
    last = objects.in_words()[-1]
    assert last.startswith("3 objects (60.0%) suit no level: 1 under 8 px")
    assert "1 longer than" in last
    assert last.endswith("1 long and thin, or between the fields of two levels.")


def test_small_objects_are_those_of_the_advice():
    dataset = read_coco(sample_annotations("nuclei"))
    detector = load_detector("yolo11")
    advice = advise(dataset, detector, size=128)
    profile = profile_model(model_of("two", TwoLevels()), effective=False)
    objects = profile_objects(profile, ResizedInstances.of(dataset, advice.rule))
    assert least_px([8]) == least_px(detector.strides)
    assert dataset.instances.ids[objects.too_small].tolist() == list(advice.sums.small)
    assert objects.in_words(detector)[0] == "two has levels of strides 8, 16, and yolo11 of 8, 16, 32."


def test_without_effective_fields_whole_ones_count():
    profile = profile_model(model_of("two", TwoLevels()), effective=False)
    objects = profile_objects(profile, instances_of([[0, 0, 48, 48]], image_wh=(128, 128)))
    assert objects.in_words()[-1] == "Every object suits a level."


def test_notes_name_what_sees_the_whole_image_and_growth_the_strides():
    net = nn.Sequential(nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.GroupNorm(2, 4), nn.Conv2d(4, 4, 3, padding=1))
    profile = profile_model(model_of("normed", net), effective=False)
    assert notes_on(profile) == ["Units also see the whole image, by group norm; the fields are those without it."]
    assert growth_in_words(profile.layers) == "Largest field by stride: 7 px at stride 2."


def test_no_objects_are_an_error(profile):
    with pytest.raises(FitError, match="no usable boxes"):
        profile_objects(profile, instances_of([], image_wh=(128, 128)))
