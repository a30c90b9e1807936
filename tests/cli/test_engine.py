"""``--engine dask``: the same bytes as without it, and what is not so."""

from __future__ import annotations

import json

import pytest
from builders import part_content, split_by_image, written

from detect.samples import sample_annotations

PARTS = 3


@pytest.fixture
def files(tmp_path):
    """A sixth of the nuclei in three files."""
    content = part_content("nuclei", step=6)
    parts = split_by_image(content, [number % PARTS for number in range(len(content["images"]))])
    return [written(tmp_path / f"{number}.json", part) for number, part in enumerate(parts)]


@pytest.fixture
def on_dask(dask_client):
    """The options that send a command to the cluster."""
    return ("--engine", "dask", "--scheduler", dask_client.scheduler.address)


@pytest.mark.parametrize(
    "command",
    [
        ("fit", "-k", 3),
        ("fit", "--levels", "p2-p4", "--per-level", 1, "--balance", "size", "--compare", "retinanet"),
        ("fit", "--for", "yolov5"),
        ("score", "--anchors", "retinanet", "--resize", "none", "--assigner", "max-iou"),
        ("score", "--anchors", "yolov5", "--for", "yolov3-darknet"),
        ("levels", "--anchors", "faster-rcnn-fpn", "--resize", "none"),
    ],
    ids=lambda command: " ".join(map(str, command[:3])),
)
def test_json_is_the_same_byte_for_byte(detect, files, on_dask, command):
    name, *options = command
    plain = detect("anchors", name, *files, *options, "--json")
    dask = detect("anchors", name, *files[::-1], *options, "--json", *on_dask)
    assert (plain.code, dask.code) == (0, 0)
    assert plain.out == dask.out
    assert "Dask scheduler tcp://" in dask.err


@pytest.mark.parametrize("names", ["yolo11,rf-detr", "yolov5"])
def test_advice_is_the_same_byte_for_byte_with_its_files(detect, files, on_dask, tmp_path, names):
    command = ("--for", names, "--size", 128, "--val", files[0])
    plain = detect("advise", *files, *command, "-o", tmp_path / "plain")
    dask = detect("advise", *files[::-1], *command, "-o", tmp_path / "dask", *on_dask)
    assert (plain.code, dask.code, plain.out) == (0, 0, dask.out)
    assert "validation images have the name and size of a training image" in dask.out
    for name in ("advice.json", "lost.csv", "report.html"):
        assert (tmp_path / "plain" / name).read_bytes() == (tmp_path / "dask" / name).read_bytes()


def test_advice_of_bad_shards_ends_or_counts_them_out(detect, files, on_dask, tmp_path):
    command = ("--for", "yolo11", "--size", 128, "--json")
    wanted = detect("advise", *files[1:], *command).json
    alien = json.loads(files[1].read_text("utf-8"))
    alien["categories"][0]["name"] = "ship"
    for image in alien["images"]:
        image["id"] += 10_000
    for each in alien["annotations"]:
        each["image_id"] += 10_000
    nothing = {"images": [], "categories": [], "annotations": []}
    alien, empty = written(tmp_path / "alien.json", alien), written(tmp_path / "empty.json", nothing)
    files[0].write_text('{"images": [')
    run = detect("advise", *files, *command, *on_dask)
    assert (run.code, run.out) == (2, "")
    assert run.err.splitlines()[-1].startswith(f"detect: {files[0]}: ")
    run = detect("advise", *files, alien, empty, *command, *on_dask, "--bad-shards", "skip")
    assert run.code == 3
    assert {each["shard"] for each in run.json["left_out_shards"]} == {str(files[0]), str(alien)}
    assert {**run.json, "left_out_shards": None} == {**wanted, "left_out_shards": None}
    assert "2 of 5 shards were left out" in run.err


def test_advice_on_shards_has_no_model_and_no_pictures(detect, files, on_dask, tmp_path):
    run = detect("advise", *files, "--for", "yolo11", "--model", "timm:resnet18", *on_dask)
    assert (run.code, "--engine dask: not for --model" in run.err) == (2, True)
    images = sample_annotations("nuclei").parent / "images"
    run = detect("advise", *files, "--for", "yolo11", "--images", images, "-o", tmp_path / "advice", *on_dask)
    assert run.code == 0
    assert "note: report.html has no pictures" in run.err


def test_what_is_printed_and_written_is_the_same_but_for_the_page(detect, files, on_dask, tmp_path):
    command = ("anchors", "fit", *files, "-k", 2)
    plain = detect(*command, "-o", tmp_path / "plain")
    dask = detect(*command, "-o", tmp_path / "dask", *on_dask)
    assert plain.out == dask.out
    assert "no report.html" in dask.err
    assert [path.name for path in (tmp_path / "dask").iterdir()] == ["anchors.yaml"]
    one, other = ((tmp_path / each / "anchors.yaml").read_text("utf-8") for each in ("plain", "dask"))
    assert one.partition("\ncommand:")[0] == other.partition("\ncommand:")[0]
    assert all(str(file) in other for file in files)


def test_bad_shards_end_the_command_or_are_counted_out(detect, files, on_dask):
    wanted = detect("anchors", "fit", *files[1:], "-k", 2, "--json").json
    files[0].write_text('{"images": [')
    run = detect("anchors", "fit", *files, "-k", 2, "--json", *on_dask)
    assert run.code == 2
    assert run.err.splitlines()[-1].startswith(f"detect: {files[0]}: ")
    run = detect("anchors", "fit", *files, "-k", 2, "--json", *on_dask, "--bad-shards", "skip")
    assert run.code == 3
    (left_out,) = run.json["left_out_shards"]
    assert left_out["shard"] == str(files[0])
    assert {**run.json, "left_out_shards": None} == {**wanted, "left_out_shards": None}
    assert f"warning: left out: {files[0]}: " in run.err
    assert "1 of 3 shards were left out" in run.err


def test_other_formats_and_options_without_the_engine_are_errors(detect, refused, files, tmp_path, on_dask):
    run = detect("anchors", "fit", *files, "-k", 2, "--bad-shards", "skip")
    assert (run.code, run.err) == (
        2,
        "detect: --scheduler, --workers, --worker-memory and --bad-shards need --engine dask\n",
    )
    assert "not for --per-level by shape" in refused(
        "anchors", "fit", *files, "--method", "kmeans", "--per-level", 2, *on_dask
    )
    table = tmp_path / "points.csv"
    table.write_text("image,x,y\na.png,1,2\n")
    assert "shards are COCO JSON files or parts of a Parquet dataset, not points" in refused(
        "anchors", "fit", table, "-k", 1, *on_dask
    )
