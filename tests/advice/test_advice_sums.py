"""Advice on shards is that on the whole dataset, to the last digit, in any split and any order."""

from __future__ import annotations

import json
from functools import partial

import msgspec
import numpy as np
import pytest
from builders import dataset_of, read_shards, sharded
from hypothesis import given, settings
from hypothesis import strategies as st

from detect.advice import image_sample, lost_sums
from detect.advice.advice_sums import AdviceSums, FirstLook, seen_by
from detect.advice.advise import Advice, Ask, advise, advise_by
from detect.catalog.detectors import load_detector
from detect.cli.advice_results import advice_object, labels_object, notes
from detect.data import CocoDataset, read_coco
from detect.errors import FitError
from detect.ops.exact_sums import add_up
from detect.samples import sample_annotations

DETECTORS = ("yolo11", "yolov8-8.3", "mmdet-fcos", "rf-detr", "ultralytics-rt-detr", "centernet", "yolov3-darknet")
RULES = ("letterbox:64", "letterbox:16", "shortest:48:96", "tiles:32:8", "none")


def in_shards(shards: list[CocoDataset]) -> Ask:
    return lambda work, _: add_up(work(each) for each in shards)


def told(advice: Advice) -> str:
    found = [advice_object(advice), labels_object(advice), notes(advice), *map(repr, advice.losses)]
    return json.dumps(found)


@settings(max_examples=20, deadline=None)
@given(sharded(), sharded(), st.sampled_from(DETECTORS), st.sampled_from(RULES), st.sampled_from([2, 10, 10**5]))
def test_advice_on_shards_is_that_on_the_whole(data, others, name, rule, most):
    whole, shards = read_shards(data)
    val, val_shards = read_shards(others)
    detector = msgspec.structs.replace(load_detector(name), resize=rule, max_det=3, max_truth=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(image_sample, "MAX_BOXES", most)
        patch.setattr(lost_sums, "MAX_OBJECTS", most)
        if not len(whole.instances):
            with pytest.raises(FitError, match="no usable boxes"):
                advise_by(in_shards(shards), detector)
            return
        found = advise_by(in_shards(shards), detector, validation=in_shards(val_shards))
        wanted = advise(whole, detector, validation=val)
        assert told(found) == told(wanted)
        assert found.num_objects == len(seen_by(whole, rule))


@pytest.mark.parametrize("name", ["yolo11", "fcos", "yolov5", "retinanet"])
def test_halves_of_blood_cells_add_up(name):
    whole = read_coco(sample_annotations("bccd")).take_images(np.arange(0, 364, 4))
    shards = [whole.take_images(np.arange(first, 91, 2)) for first in (1, 0)]
    assert told(advise_by(in_shards(shards), name, size=320)) == told(advise(whole, name, size=320))


def test_tiles_have_the_ids_of_their_images():
    dataset = dataset_of([[5, 5, 30, 30]], [[70, 70, 9, 9]], side=96)
    tiles = seen_by(dataset, "tiles:64:0").dataset
    assert tiles.images.ids.tolist() == [1] * 4 + [2] * 4
    assert len(FirstLook.of(dataset, resize="tiles:64:0").files.ids) == 0


def test_suppression_across_categories_is_counted_beside_that_within():
    content = {
        "images": [{"id": 1, "width": 64, "height": 64}],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
        "annotations": [
            {"id": n, "image_id": 1, "category_id": kind, "bbox": [x, 0, 20, 20]}
            for n, (kind, x) in enumerate([(1, 0), (2, 1), (1, 40), (1, 41)])
        ],
    }
    advice = advise(read_coco(content), "yolo11")
    (within,) = [each.num_lost for each in advice.losses if each.reason == "suppressed"]
    assert (within, advice.across_categories) == (1, 2)
    one = advise(dataset_of([[0, 0, 9, 9]]), "yolo11")
    assert one.across_categories is None


def test_sums_are_of_bounded_size():
    boxes = [[5.0 + 8 * (n % 70), 5 + 8 * (n // 70), 3, 3] for n in range(3000)]
    seen = []

    def ask(work: partial, _: str) -> AdviceSums | FirstLook:
        seen.append(work(dataset_of(boxes)))
        return seen[-1]

    advise_by(ask, "yolo11-8.3")
    assert isinstance(seen[1], AdviceSums)
    assert (len(seen[1].small), len(seen[1].small.items)) == (3000, lost_sums.MAX_IDS)
