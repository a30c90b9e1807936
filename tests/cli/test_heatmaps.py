"""``detect heatmaps`` as a user types it: what is written, what is counted, and what a mistake looks like."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from detect.keypoints.targets import render_heatmaps
from detect.samples import sample_annotations

NUCLEI = sample_annotations("nuclei")
IMAGES = NUCLEI.parent / "images"
CONTENT = json.loads(NUCLEI.read_text("utf-8"))
POINTS = {  # of each image, in the order of annotation ids, straight from the file
    image["id"]: [entry["keypoints"][:2] for entry in CONTENT["annotations"] if entry["image_id"] == image["id"]]
    for image in CONTENT["images"]
}


def written(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
    return path


def cells(**changes: Any) -> dict[str, Any]:
    """Four images with two points, one, none, and one that lies in a crowd of 40 x 40 pixels."""
    points = {1: [(10, 10), (50, 50)], 2: [(20, 20)], 4: [(30, 30)]}
    rows = [(image, [x, y, 2], [x - 5, y - 4, 10, 8], 0) for image, own in points.items() for x, y in own]
    rows.append((4, [0, 0, 0], [0, 0, 40, 40], 1))
    annotations = [
        {"id": number, "image_id": image, "category_id": 1, "keypoints": keypoints, "bbox": box, "iscrowd": crowd}
        for number, (image, keypoints, box, crowd) in enumerate(rows, 1)
    ]
    return {
        "images": [{"id": number, "width": 100, "height": 100, "file_name": f"{number}.png"} for number in range(1, 5)],
        "categories": [{"id": 1, "name": "cell"}],
        "annotations": annotations,
        **changes,
    }


def predictions() -> list[dict[str, Any]]:
    """Three that are right by 3 pixels, 0, 2 and 1 off; three false ones; one in the crowd, far from its point."""
    rows = [
        (1, 10, 10, 0.9),
        (1, 52, 50, 0.8),
        (2, 20, 29, 0.4),
        (3, 5, 5, 0.3),
        (4, 31, 30, 0.6),
        (4, 80, 80, 0.2),
        (4, 5, 5, 0.95),
    ]
    return [
        {"image_id": image, "category_id": 1, "score": score, "keypoints": [x, y, 1], "bbox": [x - 3, y - 3, 6, 6]}
        for image, x, y, score in rows
    ]


@pytest.fixture
def truth(tmp_path) -> Path:
    return written(tmp_path / "truth.json", cells())


@pytest.fixture
def pred(tmp_path) -> Path:
    return written(tmp_path / "pred.json", predictions())


# render


@pytest.mark.parametrize("pack", ["npz", "pt"])
def test_shards_hold_the_maps_of_all_images_and_are_read_without_running_code(detect, tmp_path, pack):
    out = tmp_path / "out"
    assert detect("heatmaps", "render", NUCLEI, "-o", out, "--per-shard", 30, "--pack", pack, "--stride", 2).code == 0
    names = [f"targets-{number:05}.{pack}" for number in range(3)]
    assert sorted(path.name for path in out.iterdir()) == ["overlays.png", *names, "targets.json"]
    seen: list[int] = []
    for name in names:
        path = out / name
        shard = torch.load(path, weights_only=True) if pack == "pt" else np.load(path, allow_pickle=False)
        ids = shard["image_ids"].tolist()
        expected = render_heatmaps([np.array(POINTS[own]).reshape(-1, 2) for own in ids], (128, 128), stride=2)
        assert_array_equal(np.asarray(shard["heatmaps"]), expected.heatmaps)
        assert_array_equal(np.asarray(shard["positives"]), expected.positives)
        assert_array_equal(np.asarray(shard["offsets"]), expected.offsets)
        assert list(shard["type_names"]) == ["nucleus"]
        assert (float(shard["stride"]), str(shard["pixel_origin"])) == (2.0, "center")
        seen += ids
    assert sorted(seen) == sorted(POINTS)


def test_rows_of_a_shard_belong_to_their_annotations(detect, tmp_path):
    detect("heatmaps", "render", NUCLEI, "-o", tmp_path, "--num-pictures", 0, "--per-shard", 20)
    by_id = {entry["id"]: entry for entry in CONTENT["annotations"]}
    shard = np.load(tmp_path / "targets-00002.npz")
    names = {image["id"]: image["file_name"] for image in CONTENT["images"]}
    assert [names[own] for own in shard["image_ids"].tolist()] == shard["file_names"].tolist()
    place = shard["positives"][:, :1:-1] + shard["offsets"]  # column, row
    assert len(place) > 50
    for own, cell, size in zip(shard["annotation_ids"].tolist(), place, shard["sizes"], strict=True):
        x, y = by_id[own]["keypoints"][:2]
        assert_allclose(cell, [(x + 0.5) / 4 - 0.5, (y + 0.5) / 4 - 0.5], atol=1e-5)
        assert_allclose(size, np.array(by_id[own]["bbox"][2:]) / 4)


def test_crowds_have_weight_0_but_for_the_points_in_them(detect, tmp_path, truth):
    detect("heatmaps", "render", truth, "-o", tmp_path / "out", "--shape", "pixel")
    shard = np.load(tmp_path / "out" / "targets-00000.npz")
    assert_array_equal(shard["weights"][:3], 1)
    expected = np.ones((25, 25))
    expected[:11, :11] = 0  # box 0 to 40 - .5 for pixel indices: cell 10 covers 40 to 44, its edge is touched at most
    expected[7, 7] = 1  # the point (30, 30)
    found = shard["weights"][3, 0]
    assert_array_equal(found[:10, :10], expected[:10, :10])
    assert_array_equal(found[11:], 1)
    assert_array_equal(found[:, 11:], 1)


def test_the_index_counts_what_is_in_the_files(detect, tmp_path):
    content = cells()
    content["annotations"][0]["keypoints"] = [10, 10, 1]  # hidden
    content["annotations"][1]["keypoints"] = [120, 50, 2]  # outside
    content["images"][2]["width"] = 60  # a file of its own
    path = written(tmp_path / "a.json", content)
    printed = detect("heatmaps", "render", path, "-o", tmp_path / "out", "--occluded", "ignore", "--json").json
    index = json.loads((tmp_path / "out" / "targets.json").read_text("utf-8"))
    assert printed == index
    assert {
        name: index[name] for name in ("images", "drawn", "outside", "ignored", "unlabelled", "ignored_regions")
    } == {
        "images": 4,
        "drawn": 2,
        "outside": 1,
        "ignored": 1,
        "unlabelled": 0,
        "ignored_regions": 1,
    }
    assert sorted((each["images"], each["map_hw"]) for each in index["files"]) == [(1, [25, 15]), (3, [25, 25])]
    for each in index["files"]:
        shard = np.load(tmp_path / "out" / each["file"])
        assert list(shard["heatmaps"].shape) == [each["images"], 1, *each["map_hw"]]
        assert len(shard["positives"]) == each["drawn"]


def test_boxes_are_points_of_their_categories_with_bells_of_their_size(detect, tmp_path, truth):
    detect(
        "heatmaps", "render", truth, "--from", "boxes", "--sigma-of-size", 0.5, "--sigma", 0.5, "-o", tmp_path / "out"
    )
    shard = np.load(tmp_path / "out" / "targets-00000.npz")
    assert str(shard["pixel_origin"]) == "corner"
    # the box (5, 6) to (15, 14): centre (10, 10), in cells 2; sigmas .5 * (10, 8) / 4 = 1.25, 1
    row, column = np.mgrid[:5, :5]
    bell = np.exp(-(((column - 2) / 1.25) ** 2 + (row - 2) ** 2) / 2)
    assert_allclose(shard["heatmaps"][0, 0, :5, :5], bell, rtol=1e-5)


def test_pictures_show_images_and_maps(detect, tmp_path):
    detect("heatmaps", "render", NUCLEI, "--images", IMAGES, "-o", tmp_path / "with", "--num-pictures", 5)
    detect("heatmaps", "render", NUCLEI, "-o", tmp_path / "without", "--num-pictures", 5)
    sheets = [np.asarray(Image.open(tmp_path / name / "overlays.png")) for name in ("with", "without")]
    assert sheets[0].shape == sheets[1].shape == (2 * 520 + 8, 4 * 520 + 8, 3)
    assert (sheets[0] != sheets[1]).mean() > 0.3
    assert (sheets[1] == 70).mean() > 0.3  # the grey ground


@pytest.mark.parametrize(("source", "x"), [("keypoints", 10.5), ("boxes", 10.0)])
def test_pictures_mark_points_where_they_are_in_continuous_pixels(detect, tmp_path, source, x):
    path = written(tmp_path / "one.json", cells(annotations=cells()["annotations"][:1]))  # at pixel (10, 10)
    detect("heatmaps", "render", path, "--from", source, "-o", tmp_path / "out")
    picture = np.asarray(Image.open(tmp_path / "out" / "overlays.png"))[8:508, 8:508]  # enlarged 5 times
    for places in np.nonzero((picture == 255).all(axis=2)):
        assert (places.min() + places.max() + 1) / 2 == pytest.approx(x * 5, abs=0.5)


def test_without_a_folder_it_counts_and_writes_nothing(detect, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = detect("heatmaps", "render", NUCLEI)
    assert "318 points drawn in 80 images, 1 map each; 0 share the cell" in result.out
    assert list(tmp_path.iterdir()) == []


def test_files_of_another_run_are_told(detect, tmp_path, truth):
    assert "another run" not in detect("heatmaps", "render", truth, "-o", tmp_path / "out", "--per-shard", 1).err
    again = detect("heatmaps", "render", truth, "-o", tmp_path / "out", "--per-shard", 2)
    assert "also holds 2 files of another run, such as targets-00002.npz" in again.err


# oracle


def test_a_perfect_network_finds_the_nuclei_at_stride_4_and_not_at_8(detect, tmp_path):
    arguments = ("heatmaps", "oracle", NUCLEI, "--strides", "4,8", "--sigmas", "2")
    content = detect(*arguments, "--json", "-o", tmp_path).json
    fine, coarse = content["settings"]
    assert fine["micro"]["f1"] >= 0.995 > coarse["micro"]["f1"]
    assert fine["merged"] < coarse["merged"]
    assert content["coarsest_good"] == {"stride": 4, "sigma": 2}
    assert "What a perfect network would reach" in (tmp_path / "report.html").read_text("utf-8")


def test_the_table_marks_the_coarsest_good_one_or_warns(detect, truth):
    result = detect("heatmaps", "oracle", truth, "--strides", "2,4", "--sigmas", "1,2")
    (marked,) = [line for line in result.out.splitlines() if line.endswith("<- coarsest good one")]
    assert marked.split()[:3] == ["4", "2", "1.0000"]
    assert result.err == ""
    coarse = detect("heatmaps", "oracle", truth, "--strides", "64", "--sigmas", "1", "--no-split", "--radius", 1)
    assert "warning: no setting reaches an F1 of 0.995" in coarse.err


# score


def test_scores_by_hand(detect, truth, pred):
    arguments = ("heatmaps", "score", truth, "--results", pred, "--radius", 1.5, "--radius", 3)
    content = detect(*arguments, "--json").json
    close, every = content["overall"]
    # 6 count, for the one far off in the crowd does not; 3 of them are within 3 pixels of 3 of the 4 points
    assert [every[name] for name in ("num_predicted", "num_matched", "num_truth", "num_images")] == [6, 3, 4, 4]
    assert every["micro"] == pytest.approx({"precision": 3 / 6, "recall": 3 / 4, "f1": 2 * 3 / (6 + 4)})
    assert every["error"]["mean"] == pytest.approx((0 + 2 + 1) / 3)
    assert every["count"] == pytest.approx({"mae": 0.5, "rmse": math.sqrt(0.5), "bias": 0.5})  # 0, 0, +1, +1
    # by falling score: within 3 right, right, right, 3 wrong; within 1.5 right, wrong, right
    found = [each["mean_average_precision"] for each in (close, every)]
    assert found == pytest.approx([(1 + 2 / 3) / 4, 3 / 4])
    assert every["presence_auc"] == 1.0  # .9, .4 and .6 where there are points, .3 where there is none
    assert content["in_ignored_regions"] == 1
    assert content["invalid_results"] == []
    assert list(content["by_type"]) == ["cell"]
    assert " 1 in ignored regions" in detect(*arguments).out


def at_3_px(content: dict[str, Any]) -> dict[str, Any]:
    """The scores at the third of the default radii."""
    (own,) = [each for each in content["overall"] if each["radius"] == 3]
    return own


# F1 is best with the three right ones, 6 / 7: half-way from .6 to .4; the count with .4 too, half-way from it to .3
@pytest.mark.parametrize(("goal", "expected"), [("f1", (0.5, 3, 3, -0.25)), ("count", (0.35, 4, 3, 0))])
def test_a_threshold_is_chosen_by_f1_or_count(detect, truth, pred, goal, expected):
    every = at_3_px(detect("heatmaps", "score", truth, "--results", pred, "--choose", goal, "--json").json)
    found = (every["threshold"], every["num_predicted"], every["num_matched"], every["count"]["bias"])
    assert found == pytest.approx(expected)


def test_a_threshold_drops_the_predictions_below(detect, truth, pred):
    every = at_3_px(detect("heatmaps", "score", truth, "--results", pred, "--threshold", 0.6, "--json").json)
    assert (every["num_predicted"], every["micro"]["precision"]) == (3, 1.0)


def test_boxes_are_scored_by_their_centres(detect, truth, pred):
    content = detect("heatmaps", "score", truth, "--results", pred, "--from", "boxes", "--json").json
    assert [at_3_px(content)[name] for name in ("num_predicted", "num_matched", "num_truth")] == [6, 3, 4]


def test_the_truth_as_prediction_is_perfect_and_nothing_is_nothing(detect, tmp_path):
    exact = [{**entry, "score": 0.5} for entry in CONTENT["annotations"]]
    arguments = ("heatmaps", "score", NUCLEI, "--oks-sigmas", 0.1, "--json", "--results")
    content = detect(*arguments, written(tmp_path / "exact.json", exact)).json
    assert at_3_px(content)["micro"] == {"precision": 1.0, "recall": 1.0, "f1": 1.0}
    assert at_3_px(content)["error"]["mean"] == 0
    assert content["oks"]["ap"] == pytest.approx(1)
    content = detect(*arguments, written(tmp_path / "nothing.json", [])).json
    assert at_3_px(content)["micro"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0}
    assert at_3_px(content)["error"] is None
    assert content["oks"]["ap"] == 0
    assert at_3_px(content)["count"]["bias"] == pytest.approx(-318 / 80)


def test_points_of_several_types_are_scored_by_type(detect, tmp_path):
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [5, 5, 50, 50], "keypoints": [10, 10, 2, 40, 40, 1]}
    result = {"image_id": 1, "category_id": 1, "score": 0.5, "keypoints": [11, 10, 1, 10, 10, 1]}  # second: wrong place
    path = written(tmp_path / "truth.json", cells(annotations=[annotation]))
    pred = written(tmp_path / "pred.json", [result])
    content = detect("heatmaps", "score", path, "--results", pred, "--json").json
    assert {name: [each["num_matched"] for each in own] for name, own in content["by_type"].items()} == {
        "cell 0": [1, 1, 1, 1],
        "cell 1": [0, 0, 0, 0],
    }
    assert at_3_px(content)["num_images"] == 4
    assert "cell 1, 3 px" in detect("heatmaps", "score", path, "--results", pred).out
    merged = detect("heatmaps", "score", path, "--results", pred, "--merge", "--json").json
    assert list(merged["by_type"]) == ["cell 0 / cell 1"]


def test_results_that_cannot_be_used_are_listed_by_their_place_in_the_file(detect, tmp_path, truth):
    suspicious = predictions()
    suspicious[0]["keypoints"] = [1, 2]
    suspicious[1]["keypoints"] = [1, 2, 3, 4, 5, 6]
    suspicious[2]["image_id"] = 77
    suspicious[3]["score"] = float("nan")
    suspicious[4]["keypoints"][0] = float("nan")
    path = written(tmp_path / "odd.json", suspicious)
    arguments = ("heatmaps", "score", truth, "--results", path)
    reasons = sorted(each["reason"] for each in detect(*arguments, "--json").json["invalid_results"])
    assert [reason[:8] for reason in reasons] == [f"entry {place} " for place in range(5)]
    assert "has 1 keypoints in the truth, this has 2 that are finite" in reasons[1]
    result = detect(*arguments, "--findings")
    assert "5 invalid results:" in result.out
    assert result.err.count(f"invalid: {path}: ") == 5
    strict = detect(*arguments, "--strict")
    assert (strict.code, strict.out, strict.err.count("\n")) == (2, "", 1)


# mistakes


def broken_images(kind: str, folder: Path) -> Path:
    shutil.copytree(IMAGES, folder)
    for image in CONTENT["images"]:
        path = folder / image["file_name"]
        if kind == "missing":
            path.unlink()
        elif kind == "broken":
            path.write_bytes(path.read_bytes()[:200])
        else:
            Image.new("L", (50, 60)).save(path)
    return folder


@pytest.mark.parametrize(
    ("kind", "message"),
    [("missing", "No such file"), ("broken", "truncated"), ("small", "is 50x60, its annotations say 128x128")],
)
def test_images_that_cannot_be_shown_stop_it_before_anything_is_written(detect, tmp_path, kind, message):
    folder = broken_images(kind, tmp_path / "images")
    result = detect("heatmaps", "render", NUCLEI, "--images", folder, "-o", tmp_path / "out")
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert message in result.err
    assert not (tmp_path / "out").exists()


def test_a_file_name_may_not_lead_out_of_the_folder(detect, tmp_path, truth):
    Image.new("L", (100, 100)).save(tmp_path / "1.png")
    content = cells()
    content["images"][0]["file_name"] = "../1.png"
    (tmp_path / "images").mkdir()
    path = written(tmp_path / "up.json", content)
    result = detect("heatmaps", "render", path, "--images", tmp_path / "images", "-o", tmp_path / "out")
    assert result.code == 2
    assert "file name '../1.png' leads to no file in" in result.err
    assert not (tmp_path / "out").exists()


MISTAKES = [
    ("render none.json -o out", "none.json: No such file"),
    ("render text.json -o out", "text.json: not JSON"),
    ("render pred.json -o out", "pred.json: a results file (a list of detections with scores)"),
    ("render bare.json -o out", "bare.json: no annotation has a labelled keypoint"),
    ("render bare.json --from boxes -o out", "bare.json: no boxes"),
    ("render truth.json --images nowhere -o out", "nowhere/1.png: No such file"),
    ("render truth.json -o text.json", "text.json: cannot be written"),
    ("render truth.json -o text.json --num-pictures 0", "text.json: cannot be written"),
    ("render truth.json --config none.yaml -o out", "none.yaml: No such file"),
    ("render truth.json --config wrong.yaml -o out", "wrong.yaml: sigma: Input should be a valid number"),
    ("oracle bare.json", "bare.json: no annotation has a labelled keypoint"),
    ("oracle truth.json --strides 2,x", "--strides: expected numbers of 0.25 or more between commas, got '2,x'"),
    ("oracle truth.json --strides 4,0", "--strides: expected"),
    ("oracle truth.json --sigmas nan", "--sigmas: expected numbers of 0.05 or more"),
    ("oracle truth.json --sigmas 1,", "--sigmas: expected"),
    ("score none.json --results pred.json", "none.json: No such file"),
    ("score truth.json --results none.json", "none.json: No such file"),
    ("score truth.json --results truth.json", "truth.json: a dataset, not results"),
    ("score truth.json --results text.json", "text.json: not JSON"),
    ("score truth.json --results strangers.json", "image 9: entry 0 of the results: no image has this id; no other"),
    ("score truth.json --results nan.json", "score nan is not finite; no other"),
    ("score truth.json --results pred.json --threshold nan", "--threshold: expected a number, got nan"),
    ("score truth.json --results pred.json --threshold .5 --choose f1", "give one of the two"),
    ("score truth.json --results pred.json --oks-sigmas .1,.2", "one sigma for each of 1 keypoints of 'cell', got 2"),
    ("score truth.json --results pred.json --oks-sigmas .1 --from boxes", "OKS needs keypoints, got --from boxes"),
]


@pytest.fixture
def faulty(tmp_path, monkeypatch, truth, pred) -> Path:
    """The folder worked in, with the files that the mistakes are made with."""
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "text.json", "nothing")
    written(tmp_path / "bare.json", cells(annotations=[]))
    written(tmp_path / "wrong.yaml", "sigma: wide\n")
    written(tmp_path / "strangers.json", [{**each, "image_id": 9} for each in predictions()])
    written(tmp_path / "nan.json", [{**each, "score": float("nan")} for each in predictions()])
    return tmp_path


@pytest.mark.parametrize(("line", "message"), MISTAKES, ids=[line for line, _ in MISTAKES])
def test_a_mistake_is_one_line_and_exit_code_2_and_leaves_no_file(detect, faulty, line, message):
    before = sorted(faulty.iterdir())
    result = detect("heatmaps", *line.split())
    assert (result.code, result.out) == (2, "")
    assert result.err.count("\n") == 1
    assert result.err.startswith("detect: ")
    assert message in result.err
    assert sorted(faulty.iterdir()) == before


# configuration, help


def test_a_configuration_names_options_as_the_command_line_does(detect, tmp_path, truth, pred):
    fields = {"files": [str(truth)], "results": str(pred), "from": "boxes", "radius": 3, "json": True}
    path = written(tmp_path / "score.yaml", yaml.safe_dump(fields))
    by_file = detect("heatmaps", "score", "--config", path)
    typed = detect("heatmaps", "score", truth, "--results", pred, "--from", "boxes", "--radius", 3, "--json")
    assert by_file.json == typed.json
    assert detect("heatmaps", "score", "--config", path, "--threshold", 0.6).json["overall"][0]["num_predicted"] == 3


@pytest.mark.parametrize("command", ["render", "oracle", "score"])
def test_help_imports_nothing_heavy_and_shows_a_line_to_type(command):
    code = (
        "import sys\n"
        "from detect.cli.app import app\n"
        f"try: app(['heatmaps', {command!r}, '--help'])\n"
        "except SystemExit: pass\n"
        "print('HEAVY', [name for name in ('torch', 'scipy', 'plotly', 'PIL', 'numpy') if name in sys.modules])\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "HEAVY []"
    assert f"detect heatmaps {command} " in run.stdout
