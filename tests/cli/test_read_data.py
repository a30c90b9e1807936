"""The dataset of a command; that both kinds give the same numbers is in tests/cli/test_engine.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from builders import coco_content, written

from detect import load_anchors, load_detector
from detect.anchors.anchor_set import SourceFile
from detect.anchors.known import stock_anchors
from detect.catalog.detectors import with_anchors
from detect.cli.fit_options import FitOptions
from detect.cli.options import DatasetFiles
from detect.cli.read_data import PlainData, ShardedData, sources_of
from detect.data.read_dataset import read_shard
from detect.distributed import Shards
from detect.errors import ConfigError


@pytest.fixture
def files(tmp_path):
    contents = [
        coco_content([(0, 0, 9, 9 + n), (0, 0, 0, 9)], ids=[2 * n, 2 * n + 1], image_ids=[n, n]) for n in (1, 2)
    ]
    return [str(written(tmp_path / f"{n}.json", content)) for n, content in enumerate(contents)]


def test_a_dataset_at_hand_keeps_what_pages_are_drawn_from(files):
    data = PlainData(DatasetFiles(files).read())
    anchors, detector = load_anchors("yolov5"), with_anchors(load_detector("yolov5"))
    (sums,) = data.metric_sums([anchors], ["none"], "exact")
    assert [each.average_iou for each in data.metrics] == [sums.average_iou]
    (matched,) = data.matching([stock_anchors(detector)], detector)
    assert [each.score for each in data.matched] == [matched.score]
    assert data.fit_boxes("none", FitOptions()).num_boxes == 2
    assert data.start_hashing().result() == sources_of(files) == tuple(map(SourceFile.of, files))
    assert [kind for kind, _ in data.findings] == ["invalid", "invalid"]
    assert data.left_out() == {}


def test_shards_that_change_between_two_readings_are_an_error(dask_client, files):
    data = ShardedData(Shards(dask_client, files, read_shard), DatasetFiles(files))
    assert data.findings == []
    assert data.fit_boxes("none", FitOptions()).num_boxes == 2
    assert len(data.findings) == 2
    written(Path(files[0]), coco_content([(0, 0, 9, 9)] * 3))
    with pytest.raises(ConfigError, match="the shards have changed while they were read"):
        data.metric_sums([load_anchors("yolov5")], ["none"], "exact")
