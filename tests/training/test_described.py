"""A training configuration as the catalog describes detectors."""

from __future__ import annotations

import pytest
from builders import dataset_of

from detect.advice.unlearned import unlearned_objects
from detect.anchors.instances import ResizedInstances
from detect.catalog.detectors import Nms
from detect.catalog.matching import AtssRule, MaxIoURule
from detect.errors import ConfigError
from detect.training.described import anchors_of, described

FITTED = ("model.anchors=fit", "model.levels=p3-p5", "model.per_level=2", "data.resize=letterbox:96")


def test_levels_matching_suppression_and_limits_are_those_of_the_configuration(tiny):
    config = tiny(*FITTED, "model.fg_iou_thresh=0.6", "model.iou_threshold=0.4", "model.detections_per_image=50")
    found = described(config, "mine")
    assert (found.name, found.strides, found.numbers, found.resize) == ("mine", [8, 16, 32], [2, 2, 2], "letterbox:96")
    assert found.matching == MaxIoURule(fg_iou_thresh=0.6, bg_iou_thresh=config.model.bg_iou_thresh)
    assert (found.nms, found.max_det) == (Nms(0.4), 50)
    assert found.keys["size"] == "data.resize=letterbox:{}"
    assert found.finer.text == "model.levels=p2,p3,p4,p5"
    # cells at strides 4 to 32 / those at 8 to 32: 1/16 + 1/64 + 1/256 + 1/1024 over 1/64 + 1/256 + 1/1024
    assert found.finer.cost == pytest.approx(85 / 21)


def test_soft_suppression_removes_nothing_and_agnostic_suppression_meets_all(tiny):
    assert described(tiny(*FITTED, "model.nms=linear"), "mine").nms is None
    assert described(tiny(*FITTED, "model.class_agnostic=true"), "mine").nms.across == "all"
    assert described(tiny(*FITTED, "model.assigner=atss"), "mine").matching == AtssRule(per_shape=True)


def test_known_anchors_bring_their_own_levels(tiny):
    found = described(tiny("model.anchors=retinanet"), "mine")
    assert (found.strides, found.numbers, found.finer) == ([8, 16, 32, 64, 128], [9] * 5, None)


def test_anchors_are_fitted_to_the_levels_asked_for(tiny):
    config = tiny(*FITTED)
    detector = described(config, "mine")
    instances = ResizedInstances.of(
        dataset_of([[9, 9, 100, 50], [200, 300, 40, 90], [50, 50, 300, 300]]), "letterbox:96"
    )
    anchors = anchors_of(config, instances, detector)
    assert [level.stride for level in anchors.levels] == [8, 16, 32]
    assert unlearned_objects(instances, detector, anchors).num_lost == 0


def test_points_by_task_aligned_assignment_are_cells_that_own_objects(tiny):
    found = described(tiny("model.anchors=points", "model.levels=p3-p4"), "mine")
    assert (found.strides, found.rule, found.matching.top_k) == ([8, 16], "center-in-box", 13)
    instances = ResizedInstances.of(dataset_of([[1, 1, 2, 2], [32, 32, 60, 60]]), "none")
    assert unlearned_objects(instances, found).num_lost == 1  # no centre of a cell is inside the first


@pytest.mark.parametrize(
    "fields", [("model.anchors=points", "model.assigner=simota"), (*FITTED, "model.assigner=task_aligned")]
)
def test_matching_that_advice_does_not_know_is_refused(tiny, fields):
    with pytest.raises(ConfigError, match="mine: advice does not know assigner="):
        described(tiny(*fields), "mine")


def test_landmarks_are_refused(tiny):
    with pytest.raises(ConfigError, match="mine: advice is for detectors of boxes"):
        described(tiny("task=landmarks"), "mine")
