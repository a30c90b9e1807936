"""Answers of detectors: each detection's anchor or cell, its logit, its sides and its IoU as functions of the image."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from builders import with_threshold
from planted import nuclei_image, shipped_landmarks, shipped_retinanet
from torch.testing import assert_close

from detect.inspection.targets import SIDES, Found, answer_of, find_answers, found_at
from detect.ops.boxes import pairwise_iou

IMAGE = nuclei_image()


@pytest.mark.parametrize("nms", ["hard", "linear"])
def test_the_anchor_of_a_detection_gives_its_class_logit_and_its_box(nms):
    detector = with_threshold(shipped_retinanet(), 0.005)
    detector.post_process = replace(detector.post_process, nms=nms)
    found = find_answers(detector, IMAGE)
    assert len(found) > 5
    assert [each.score for each in found] == sorted((each.score for each in found), reverse=True)
    first = found[0]  # whose score no other detection has lowered
    logit = answer_of(detector, first, "class", image_hw=(64, 64))(IMAGE[None])
    assert_close(logit.sigmoid().item(), first.score, rtol=1e-5, atol=0)
    for each in found[:20]:
        sides = [answer_of(detector, each, side, image_hw=(64, 64))(IMAGE[None]).item() for side in SIDES]
        assert_close(torch.tensor(sides).clamp(0, 64), torch.tensor(each.box), rtol=1e-4, atol=1e-3)


def test_the_iou_is_that_of_the_predicted_box_with_the_given_one():
    detector = with_threshold(shipped_retinanet(), 0.005)
    found = find_answers(detector, IMAGE)[0]
    sides = [answer_of(detector, found, side, image_hw=(64, 64))(IMAGE[None]).item() for side in SIDES]
    given = (2.0, 2.0, 30.0, 40.0)
    wanted = pairwise_iou(torch.tensor([sides]), torch.tensor([given])).item()
    iou = answer_of(detector, found, "iou", image_hw=(64, 64), box=given)
    assert_close(iou(IMAGE[None]).item(), wanted, rtol=1e-5, atol=0)
    same = answer_of(detector, found, "iou", image_hw=(64, 64), box=sides)
    assert_close(same(IMAGE[None]).item(), 1.0)


def test_answers_are_one_number_for_each_image_and_have_gradients():
    detector, landmarks = with_threshold(shipped_retinanet(), 0.005), with_threshold(shipped_landmarks(), 0.01)
    images = torch.stack([IMAGE, IMAGE.flip(2)]).requires_grad_()
    asked = [(detector, name) for name in ("class", *SIDES, "iou")] + [(landmarks, "peak")]
    for model, name in asked:
        found = find_answers(model, IMAGE)[0]
        larger = [side + 3 * (-1 if place < 2 else 1) for place, side in enumerate(found.box)]
        answers = answer_of(model, found, name, image_hw=(64, 64), box=larger)(images)
        assert answers.shape == (2,)
        (slope,) = torch.autograd.grad(answers[0], images)
        assert slope[0].abs().max() > 0
        assert slope[1].abs().max() == 0


def test_the_cell_of_a_peak_has_its_score_and_is_a_maximum():
    landmarks = with_threshold(shipped_landmarks(), 0.01)
    found = find_answers(landmarks, IMAGE)
    assert len(found) > 2
    logits = landmarks(IMAGE[None]).logits[0, 0]
    for each in found:
        row, column = each.place
        assert logits[row, column] == logits[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2].max()
        assert_close(logits[row, column].sigmoid().item(), each.score, rtol=1e-4, atol=0)
        x0, y0, x1, y1 = each.box
        assert_close((x1 - x0, y1 - y0), (24.0, 24.0))  # 2 * 3 sigmas of 2 cells of 2 pixels
        assert x0 < (column + 0.5) * 2 < x1
        assert y0 < (row + 0.5) * 2 < y1


def test_padding_has_no_detections_and_an_image_without_any_has_none():
    landmarks = with_threshold(shipped_landmarks(), 0.01)
    assert all(each.place[1] < 16 for each in find_answers(landmarks, IMAGE, (64, 32)))
    assert find_answers(with_threshold(landmarks, 0.999), IMAGE) == []


def test_a_point_chooses_the_first_detection_that_holds_it():
    found = [Found((0, 0, 4, 4), 0.9, 0, (0,)), Found((2, 2, 8, 8), 0.8, 0, (1,))]
    assert [found_at(found, xy) for xy in ((3.0, 3.0), (6.0, 6.0), (4.0, 0.0), (9.0, 1.0))] == [0, 1, 0, None]
    assert found_at([], (0.0, 0.0)) is None


def test_answers_that_a_detector_lacks_are_refused():
    detector, landmarks = shipped_retinanet(), shipped_landmarks()
    found = Found((0, 0, 4, 4), 0.9, 0, (0, 0))
    with pytest.raises(ValueError, match=r"^this detector answers peak, not 'left'$"):
        answer_of(landmarks, found, "left", image_hw=(64, 64))
    with pytest.raises(ValueError, match=r"^this detector answers class, left, .*iou, not 'peak'$"):
        answer_of(detector, found, "peak", image_hw=(64, 64))
    with pytest.raises(ValueError, match=r"^the IoU needs a box to compare with$"):
        answer_of(detector, replace(found, place=(0,)), "iou", image_hw=(64, 64))
