"""The exported forms of detectors find, in fixed shapes, what the detectors find."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from builders import random_images
from numpy.testing import assert_allclose
from torch import nn
from torch.testing import assert_close

from detect.anchors.anchor_set import AnchorSet
from detect.data.resize import parse_resize
from detect.detectors.backbones import build_backbone
from detect.detectors.exported import ExportedBoxes, ExportedPoints, Results
from detect.detectors.landmarks import LandmarkDetector
from detect.detectors.retinanet import RetinaNetDetector
from detect.evaluation.angles import angle_errors
from detect.heads.postprocess import PostProcess
from detect.keypoints.orientations import NO_ORIENTATION, PER_TURN, angles_between, directions, in_degrees
from detect.loading.transforms import resize_transform


def box_detector() -> RetinaNetDetector:
    detector = RetinaNetDetector(
        build_backbone("tiny", strides=(4, 8), in_channels=1, seed=0),
        AnchorSet.of([[(8, 8), (12, 9)], [(16, 16)]], strides=(4, 8)),
        2,
        post_process=PostProcess(detections_per_image=40),
        seed=0,
    )
    random = torch.Generator().manual_seed(0)
    for output in detector.head.class_outputs:
        nn.init.normal_(output.weight, std=0.1, generator=random)
    return detector.eval()


def landmark_detector(orientation: str = NO_ORIENTATION) -> LandmarkDetector:
    backbone = build_backbone("tiny", strides=(2, 4), in_channels=1, seed=0)
    detector = LandmarkDetector(backbone, 2, prior=0.3, orientation=orientation, seed=0)
    nn.init.normal_(detector.head.heatmap_output.weight, std=0.2, generator=torch.Generator().manual_seed(0))
    if detector.head.orientation_output is not None:
        nn.init.normal_(detector.head.orientation_output.weight, generator=torch.Generator().manual_seed(1))
    return detector.eval()


def placed(rule: str, wh: tuple[int, int]) -> tuple[torch.Tensor, ...]:
    """An image of this size on its canvas, its image_hw, content and original_hw."""
    moved = parse_resize(rule).resize_images(np.array([wh]))
    start, end = moved.offset_xy, moved.offset_xy + np.array([wh]) * moved.scale_xy
    image_hw = (moved.offset_xy + moved.content_wh)[:, ::-1].astype(np.int64)
    content = torch.from_numpy(np.concatenate([start, end], axis=1))
    images = random_images(1, 1, *moved.canvas_wh[0, ::-1].tolist())
    return images, torch.from_numpy(image_hw.copy()), content, torch.tensor([wh[::-1]])


def valid_of(outputs: tuple[torch.Tensor, ...]) -> list[np.ndarray]:
    *columns, valid = (each[0].numpy() for each in outputs[:4])
    return [each[valid] for each in columns]


# letterbox:64 makes of 101 x 67 a height of 42.46, of which 42 pixels are content, from row 11 on
RULES = [("letterbox:64", (101, 67)), ("stretch:64x48", (101, 67)), ("shortest:40:64", (101, 67)), ("none", (64, 48))]


@pytest.mark.parametrize(("rule", "wh"), RULES)
def test_boxes_in_original_pixels_are_those_that_predict_restores(rule, wh):
    images, image_hw, content, original_hw = placed(rule, wh)
    with torch.no_grad():
        outputs = ExportedBoxes(box_detector())(images, content=content, original_hw=original_hw)
    (found,) = box_detector().detect(images, image_hw)
    wanted = resize_transform(parse_resize(rule), wh).invert_boxes(found.boxes.double().numpy())
    inside = (wanted[:, 2:] > wanted[:, :2]).all(axis=1)
    boxes, scores, classes = valid_of(outputs)
    assert inside.sum() > 10
    assert_allclose(boxes, wanted[inside], atol=1e-4)
    assert_allclose(scores, found.scores[inside], atol=1e-6)
    assert (classes == found.classes.numpy()[inside]).all()


@pytest.mark.parametrize(("rule", "wh"), RULES)
@pytest.mark.parametrize("pixel_origin", ["center", "corner"])
def test_points_in_original_pixels_are_those_of_the_image_and_a_cell_around_it(rule, wh, pixel_origin):
    images, image_hw, content, original_hw = placed(rule, wh)
    exported = ExportedPoints(landmark_detector(), pixel_origin=pixel_origin)
    with torch.no_grad():
        outputs = exported(images, content=content, original_hw=original_hw)
    peaks = landmark_detector().detect(images, image_hw)
    order = peaks.scores.argsort(descending=True, stable=True)
    transform = resize_transform(parse_resize(rule), wh)
    points, margin = transform.invert_points(peaks.cells.double().numpy() + 0.5), 2 / np.array(transform.scale_xy)
    inside = ((points >= -margin) & (points <= wh + margin)).all(axis=1)
    rows = [row for row in order.tolist() if inside[row]]
    found, scores, types = valid_of(outputs)
    assert len(rows) > 10
    assert_allclose(found, points[rows] - (0.5 if pixel_origin == "center" else 0), atol=1e-3)
    assert_allclose(scores, peaks.scores[rows], atol=1e-6)
    assert (types == peaks.types.numpy()[rows]).all()


@pytest.mark.parametrize(("rule", "wh"), RULES)
@pytest.mark.parametrize("orientation", PER_TURN)
def test_angles_in_the_original_image_are_those_that_predict_restores(rule, wh, orientation):
    images, image_hw, content, original_hw = placed(rule, wh)
    exported, period = ExportedPoints(landmark_detector(orientation)), 360 / PER_TURN[orientation]
    with torch.no_grad():
        outputs = dict(zip(exported.outputs, exported(images, content=content, original_hw=original_hw), strict=True))
        on_canvas = dict(zip(exported.outputs, exported(images, image_hw), strict=True))
    peaks = landmark_detector(orientation).detect(images, image_hw)
    (order,) = on_canvas["scores"].argsort(descending=True, stable=True)
    own = peaks.scores.argsort(descending=True, stable=True)
    canvas = on_canvas["angles"][0, order[: len(own)]]
    assert_allclose(angle_errors(canvas, peaks.angles[own].rad2deg(), period=period), 0, atol=1e-2)
    points = peaks.cells[own].double().numpy()
    transform, turned = resize_transform(parse_resize(rule), wh), directions(peaks.angles[own].double().numpy())
    restored = in_degrees(
        angles_between(transform.invert_points(points), transform.invert_points(points + turned)), orientation
    )
    valid, start = outputs["valid"][0], content[0, :2].numpy() - 0.5
    end = content[0, 2:].numpy() - 0.5
    inside = ((points >= start - 2) & (points <= end + 2)).all(axis=1)
    found = outputs["angles"][0, valid].double().numpy()
    assert inside.sum() > 10
    assert_allclose(angle_errors(found, restored[inside], period=period), 0, atol=1e-2)
    assert (found >= (-180 if orientation == "directed" else 0)).all()
    assert (found < 180).all()
    assert not outputs["angles"][0, ~valid].any()


def test_without_a_place_results_are_in_pixels_of_the_canvas():
    images, image_hw = random_images(2, 1, 48, 64), torch.tensor([[48, 64], [40, 30]])
    for exported in (ExportedBoxes(box_detector()), ExportedPoints(landmark_detector())):
        with torch.no_grad():
            outputs = exported(images, image_hw)
        for number, own in enumerate(exported.detect(images, image_hw)):
            positions, scores, _ = valid_of(tuple(each[number : number + 1] for each in outputs))
            order = own.scores[0].argsort(descending=True, stable=True)
            assert len(scores) > 10
            assert_allclose(positions, own.positions[0, order], atol=1e-3)
    with pytest.raises(ValueError, match="need image_hw, or content and original_hw"):
        exported(images)


def test_a_box_in_the_padding_is_no_result():
    found = Results(
        torch.tensor([[[0.0, 0.0, 4.0, 4.0], [6.0, 12.0, 20.0, 30.0]]]),
        torch.tensor([[0.9, 0.8]]),
        torch.tensor([[1, 0]]),
        torch.tensor([[True, True]]),
    )
    content, original_hw = torch.tensor([[4.0, 8.0, 24.0, 28.0]]).double(), torch.tensor([[40, 40]])
    moved = ExportedBoxes(box_detector()).in_original(found, content, original_hw)
    # (6 - 4) * 2, (12 - 8) * 2, (20 - 4) * 2, and (30 - 8) * 2 = 44, clipped to 40
    assert_close(moved.positions, torch.tensor([[[0.0, 0.0, 0.0, 0.0], [4.0, 8.0, 32.0, 40.0]]]))
    assert moved.valid.tolist() == [[False, True]]
    assert moved.kinds.tolist() == [[0, 0]]
