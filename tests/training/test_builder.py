"""From a configuration to anchors and a detector."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch.testing import assert_close

from detect.anchors.anchor_set import AnchorSet
from detect.anchors.instances import ResizedInstances
from detect.anchors.metrics import anchor_metrics
from detect.data import read_coco
from detect.data.resize import parse_resize
from detect.detectors.backbones import build_backbone
from detect.detectors.landmarks import LandmarkDetector
from detect.errors import AnchorFileError, ConfigError, FitError
from detect.fitting.fit_levels import fit_levels
from detect.heads.prediction_matchers import SimOta, TaskAligned
from detect.loading.labels import LabelMap
from detect.losses import batch_normalizer
from detect.ops.boxes import BoxCoder, DistanceCoder
from detect.ops.matcher import Atss, MaxIoU
from detect.training.builder import build_detector, check_backbone, training_anchors

LABELS = LabelMap((7,), ("square",))


@pytest.fixture
def dataset(squares):
    return read_coco(squares / "annotations.json", keypoints=True)


def test_fitted_anchors_have_the_levels_asked_for_and_their_score(dataset, tiny):
    fields = ("model.anchors=fit", "model.levels=p2-p3", "model.per_level=2", "data.resize=stretch:64x64")
    anchors = training_anchors(tiny(*fields), dataset)
    assert [(level.stride, len(level.shapes)) for level in anchors.levels] == [(4, 2), (8, 2)]
    assert anchors.resize == "stretch:64x64"
    instances = ResizedInstances.of(dataset, parse_resize("stretch:64x64"))
    # another computation of the same score, after the same resize
    assert_allclose(next(iter(anchors.scores.values())), anchor_metrics(instances, anchors).grid_average_iou)
    limited = fit_levels(instances, (4, 8), per_level=2, max_strides=4).anchors
    by_size = training_anchors(tiny(*fields, "model.max_strides=4"), dataset)
    assert by_size.levels == limited.levels != anchors.levels


def test_anchors_come_from_a_file_or_by_name(dataset, tiny, squares):
    assert training_anchors(tiny(), dataset).levels == AnchorSet.load(squares / "anchors.yaml").levels
    assert training_anchors(tiny("model.anchors=retinanet"), dataset).num_anchors == 45
    with pytest.raises(AnchorFileError, match="known by name"):
        training_anchors(tiny("model.anchors=resnet"), dataset)


def test_anchors_made_for_another_resize_rule_are_refused(dataset, tiny):
    with pytest.raises(ConfigError, match="made for resize none, the run resizes by letterbox:64"):
        training_anchors(tiny("data.resize=letterbox:64"), dataset)


def test_the_seed_decides_the_weights_and_torchs_own_generator_does_not_move(tiny, dataset):
    anchors = training_anchors(tiny(), dataset)
    state = torch.get_rng_state()
    one, same, other = (build_detector(tiny(f"seed={seed}"), LABELS, anchors=anchors) for seed in (1, 1, 2))
    assert_close(torch.get_rng_state(), state, rtol=0, atol=0)
    assert_close(one.state_dict(), same.state_dict(), rtol=0, atol=0)
    first = next(iter(one.backbone.parameters()))
    assert (first != next(iter(other.backbone.parameters()))).any()


def test_the_fields_reach_the_detector(tiny, dataset):
    config = tiny(
        *("model.fg_iou_thresh=.6", "model.bg_iou_thresh=.3", "model.allow_low_quality_matches=false"),
        *("model.box_loss=ciou", "model.box_weight=3", "model.alpha=.4", "model.gamma=1", "model.score_threshold=.2"),
        *("model.iou_threshold=.7", "model.class_loss=quality_focal"),
    )
    detector = build_detector(config, LABELS, anchors=training_anchors(config, dataset), mean=[0.25], std=[0.125])
    matcher, criterion, post = detector.criterion.matcher, detector.criterion, detector.post_process
    assert matcher == MaxIoU(fg_iou_thresh=0.6, bg_iou_thresh=0.3, allow_low_quality_matches=False)
    assert criterion.box_loss.__name__ == "ciou_loss"
    assert (criterion.box_weight, criterion.alpha, criterion.gamma) == (3, 0.4, 1)
    assert (criterion.class_loss, criterion.normalizer) == ("quality_focal", batch_normalizer)
    assert (post.score_threshold, post.iou_threshold) == (0.2, 0.7)
    soft = tiny(
        "model.nms=gaussian",
        "model.sigma=.3",
        "model.class_agnostic=true",
        "model.score_threshold=[.1]",
        "model.alpha=-1",
    )
    detector_of_soft = build_detector(soft, LABELS, anchors=training_anchors(config, dataset))
    post = detector_of_soft.post_process
    assert (post.nms, post.sigma, post.class_agnostic, post.score_threshold) == ("gaussian", 0.3, True, [0.1])
    assert detector_of_soft.criterion.alpha == -1
    adaptive = build_detector(tiny("model.assigner=atss"), LABELS, anchors=training_anchors(tiny(), dataset))
    assert adaptive.criterion.matcher == Atss()
    for name, matcher in (("task_aligned", TaskAligned()), ("simota", SimOta())):
        other = build_detector(tiny(f"model.assigner={name}"), LABELS, anchors=training_anchors(tiny(), dataset))
        assert other.criterion.matcher == matcher
        assert isinstance(other.criterion.coder, BoxCoder)
    assert_close(detector.normalise(torch.full((1, 1, 1, 1), 0.5)), torch.full((1, 1, 1, 1), 2.0))
    config = tiny("model.stride=8", "model.sigma_cells=1.5", "model.threshold=.4", task="landmarks")
    landmarks = build_detector(config, LabelMap((7,), ("square",), ("square",), {7: (0,)}))
    assert isinstance(landmarks, LandmarkDetector)
    assert (landmarks.stride, landmarks.sigma_cells, landmarks.threshold) == (8, 1.5, 0.4)


def test_points_are_one_location_in_each_cell_by_task_aligned_assignment(tiny, dataset):
    config = tiny("model.anchors=points", "model.levels=p2-p4")
    anchors = training_anchors(config, dataset)
    assert (anchors.name, anchors.resize) == ("points", "none")
    assert [level.shapes for level in anchors.levels] == [[(4, 4)], [(8, 8)], [(16, 16)]]
    detector = build_detector(config, LABELS, anchors=anchors)
    assert detector.criterion.matcher == TaskAligned()
    assert detector.criterion.coder == detector.post_process.coder == DistanceCoder()
    output, placed = detector(torch.rand(1, 1, 32, 32)), detector.grid.generate([(8, 8), (4, 4), (2, 2)])
    boxes = DistanceCoder().decode(output.deltas[0].detach(), placed.boxes)
    strides = (boxes[:, 2:] - boxes[:, :2]) / (placed.boxes[:, 2:] - placed.boxes[:, :2])
    assert 1.5 < float(strides.mean()) < 2.5  # at first: a distance of a stride to each side


@pytest.mark.parametrize("assigner", ["max_iou", "atss"])
def test_points_have_no_shape_to_compare(tiny, assigner):
    with pytest.raises(ConfigError, match=f"points have no shape that assigner={assigner} could compare"):
        tiny("model.anchors=points", f"model.assigner={assigner}")


def test_channels_that_do_not_fit_are_one_line(tiny, dataset):
    config = tiny("model.pyramid_channels=48")
    with pytest.raises(ConfigError, match="multiple of 32"):
        build_detector(config, LABELS, anchors=training_anchors(config, dataset))
    with pytest.raises(ConfigError, match="model: 2 score thresholds for 1 classes"):
        build_detector(tiny("model.score_threshold=[.1, .2]"), LABELS, anchors=training_anchors(config, dataset))


def test_of_no_boxes_nothing_is_fitted(tiny):
    empty = read_coco({"images": [], "categories": [{"id": 1, "name": "a"}], "annotations": []})
    assert np.size(empty.images.ids) == 0
    with pytest.raises(FitError, match="no usable boxes"):
        training_anchors(tiny("model.anchors=fit"), empty)


def test_a_download_is_told_before_the_backbone_is_built(tiny, monkeypatch):
    told: list[str] = []

    def build(name, **_):
        told.append(f"building {name}")
        return build_backbone("tiny", strides=(32,))

    monkeypatch.setattr("detect.training.builder.build_backbone", build)
    fields = ("model.backbone=torchvision:resnet18", "model.pretrained=true", "data.channels=3")
    check_backbone(tiny(*fields), told.append)
    assert [line.partition(": the")[0] for line in told] == ["torchvision:resnet18", "building torchvision:resnet18"]
    check_backbone(tiny(*fields[:1]), told.append)
    assert len(told) == 3
