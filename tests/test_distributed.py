"""Shards on a local cluster of two processes; what is computed on them is tested beside its numbers."""

from __future__ import annotations

import sys
from functools import partial

import pytest
import shard_work
from builders import coco_content, written

from detect.data import read_coco
from detect.data.dataset_counts import DatasetCounts
from detect.data.read_dataset import read_shard
from detect.distributed import FAN_IN, Shards, connect
from detect.errors import CocoError, ConfigError, MissingExtraError

NUM_SHARDS = 2 * FAN_IN + 3  # so that results of results are added


def shard_content(number: int) -> dict:
    """Two boxes in an image of its own, one of them without an extent."""
    return coco_content([(0, 0, 9 + number, 9), (0, 0, 0, 9)], ids=[2 * number, 2 * number + 1], image_ids=[number] * 2)


@pytest.fixture
def files(tmp_path):
    return [written(tmp_path / f"{number:02}.json", shard_content(number)) for number in range(1, NUM_SHARDS + 1)]


def reduced(client, files, work=shard_work.count, **options):
    shards = Shards(client, [str(file) for file in files], read_shard, **options)
    return shards.reduce(work), shards


def test_any_order_gives_what_the_whole_gives(dask_client, files):
    told = []
    counts, shards = reduced(dask_client, files, on_progress=lambda *done: told.append(done))
    assert counts == reduced(dask_client, files[::-1])[0]
    whole = DatasetCounts.of(read_coco(files))
    assert (counts.num_images, counts.boxes_of, counts.findings) == (whole.num_images, whole.boxes_of, whole.findings)
    assert told[-1] == ("reading shards", NUM_SHARDS, NUM_SHARDS)
    assert (shards.bad, shards.warnings, shards.categories) == ({}, [], {1: "type 1"})


def test_a_worker_killed_in_the_middle_changes_nothing(dask_client, files, tmp_path):
    marker = tmp_path / "killed"
    counts, shards = reduced(dask_client, files, partial(shard_work.count_and_die_once, marker=str(marker)))
    assert marker.exists()
    assert (counts, shards.bad) == (reduced(dask_client, files)[0], {})


def test_a_shard_that_fails_is_tried_again(dask_client, files, tmp_path):
    marker = tmp_path / "failed"
    counts, shards = reduced(dask_client, files[:2], partial(shard_work.fail_once, marker=str(marker)))
    assert marker.exists()
    assert (counts.num_images, shards.bad) == (2, {})


def test_bad_shards_are_named_or_counted_out(dask_client, files, tmp_path):
    text = files[0].read_text("utf-8")
    truncated = tmp_path / "truncated.json"
    truncated.write_text(text[: len(text) // 2])
    unreadable = tmp_path / "missing.json"
    alien = shard_content(90)
    alien["categories"][0]["name"] = "ship"
    alien = written(tmp_path / "alien.json", alien)
    empty = written(tmp_path / "empty.json", {**coco_content([]), "images": []})
    bad = {
        truncated: "the file is truncated",
        unreadable: "No such file",
        alien: "category id 1 is 'ship', in other shards 'type 1'",
    }
    for file, reason in bad.items():
        with pytest.raises(CocoError) as caught:
            reduced(dask_client, [*files[:2], file])
        assert str(file) in str(caught.value)
        assert reason in str(caught.value)
    counts, shards = reduced(dask_client, [*bad, *files[:2], empty], skip=True)
    assert set(shards.bad) == set(map(str, bad))
    assert all(reason in shards.bad[str(file)] for file, reason in bad.items())
    wanted = DatasetCounts.of(read_coco(files[:2]))
    assert (counts.num_images, counts.boxes_of, len(counts.invalid)) == (2, wanted.boxes_of, 2)
    assert shards.reduce(shard_work.count) == counts  # a second reading leaves them out
    with pytest.raises(CocoError, match="none of 1 shards could be read"):
        reduced(dask_client, [truncated], skip=True)


@pytest.mark.slow
def test_a_shard_that_kills_every_worker_is_named(dask_client, files):
    counts, shards = reduced(dask_client, files[:3], partial(shard_work.die_on, name="02.json"), skip=True)
    assert counts.num_images == 2
    assert shards.bad == {str(files[1]): "its workers died, perhaps for want of memory"}


def test_a_shard_that_breaks_between_two_readings_is_an_error(dask_client, files):
    counts, shards = reduced(dask_client, files[:2], skip=True)
    assert counts.num_images == 2
    files[1].write_text("{")
    with pytest.raises(CocoError, match=r"02.json.* now, though it could be read before"):
        shards.reduce(shard_work.count)


def test_an_annotation_may_use_a_category_that_another_shard_lists(dask_client, tmp_path):
    one, other = shard_content(1), shard_content(2)
    other["categories"] = [{"id": 7, "name": "type 7"}]  # its boxes are of category 1
    paths = [written(tmp_path / f"{name}.json", each) for name, each in (("one", one), ("other", other))]
    counts, shards = reduced(dask_client, paths)
    whole = DatasetCounts.of(read_coco(paths))
    assert (counts.boxes_of, counts.findings) == ({1: 2}, whole.findings)
    assert shards.categories == {1: "type 1", 7: "type 7"}


def test_images_lie_in_one_shard_and_repeated_annotation_ids_are_told(dask_client, files, tmp_path):
    again = written(tmp_path / "again.json", shard_content(2))
    with pytest.raises(CocoError, match=r"image 2 is in .*02.json and in .*again.json: all annotations of an image"):
        reduced(dask_client, [*files[:3], again])
    content = coco_content([(0, 0, 9, 9)], ids=[2], image_ids=[77])
    _, shards = reduced(dask_client, [*files[:3], written(tmp_path / "ids.json", content)])
    (warning,) = shards.warnings
    assert warning.startswith("ids of annotations repeat between shards, such as 2 in ")


def test_a_mistake_in_the_program_keeps_its_traceback(dask_client, files):
    with pytest.raises(ZeroDivisionError, match="a mistake in the program"):
        reduced(dask_client, files[:2], shard_work.mistake, skip=True)


def test_a_cluster_that_cannot_be_had_is_one_line(monkeypatch):
    with pytest.raises(ConfigError, match="--worker-memory much: "), connect(memory="much"):
        pass
    with pytest.raises(ConfigError, match="--scheduler nowhere: no scheduler answers"), connect("nowhere"):
        pass
    monkeypatch.setitem(sys.modules, "distributed", None)
    with (
        pytest.raises(MissingExtraError, match=r"--engine dask needs Dask: pip install 'detect-heads\[scale\]'"),
        connect(),
    ):
        pass
