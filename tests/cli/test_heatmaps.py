"""``detect heatmaps`` as a user types it: what is written, what is counted, and what a mistake looks like."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from builders import points_dataset, written
from PIL import Image
from rods import dataset_of

from detect.samples import sample_annotations

NUCLEI = sample_annotations("nuclei")
IMAGES = NUCLEI.parent / "images"
CONTENT = json.loads(NUCLEI.read_text("utf-8"))


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
def pred(tmp_path) -> Path:
    return written(tmp_path / "pred.json", predictions())


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
    path = written(tmp_path / "truth.json", points_dataset(annotations=[annotation]))
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


@pytest.fixture
def ants(tmp_path) -> Path:
    """Ants of three named keypoints, and one of which only the head is written."""
    places = [(20, 20), (60, 40), (80, 70)]
    keypoints = [[value for step in (0, 6, 12) for value in (x + step, y, 2)] for x, y in places]
    keypoints.append([40, 80, 2])
    content = {
        "images": [{"id": 1, "file_name": "1.png", "width": 120, "height": 90}],
        "categories": [{"id": 1, "name": "ant", "keypoints": ["head", "waist", "tail"]}],
        "annotations": [
            {
                "id": number,
                "image_id": 1,
                "category_id": 1,
                "keypoints": each,
                "bbox": [each[0] - 2, each[1] - 2, 16, 4],
            }
            for number, each in enumerate(keypoints, 1)
        ],
    }
    results = [{"image_id": 1, "category_id": 1, "score": 0.9, "keypoints": each} for each in keypoints[:3]]
    written(tmp_path / "results.json", results)
    return written(tmp_path / "ants.json", content)


TYPES = ["ant: head", "ant: waist", "ant: tail"]


def test_keypoint_types_have_their_names_everywhere(detect, tmp_path, ants):
    results = ("--results", tmp_path / "results.json")
    scored = detect("heatmaps", "score", ants, *results, "--oks-sigmas", ".05,.05,.05", "--json").json
    assert list(scored["by_type"]) == TYPES
    assert scored["confusion"]["names"] == [*TYPES, "background"]
    assert scored["oks"]["ap"] == 1  # the short annotation is ignored, and does not stop the file
    oracle = ("heatmaps", "oracle", ants, "--strides", 2, "--sigmas", 1)
    assert detect(*oracle, "--json").json["points"] == dict.fromkeys(TYPES, 3)
    assert "9 points (3 of ant: head, 3 of ant: waist, 3 of ant: tail)" in detect(*oracle).out
    render = ("heatmaps", "render", ants, "--stride", 2)
    assert detect(*render, "--json").json["type_names"] == TYPES
    assert "9 points drawn in 1 image, 3 maps each (ant: head, ant: waist, ant: tail)" in detect(*render).out
    pages = ("evaluate", ants, *results, "--task", "landmarks"), oracle
    for number, command in enumerate(pages):
        detect(*command, "-o", tmp_path / str(number))
        page = (tmp_path / str(number) / "report.html").read_text("utf-8")
        assert all(name in page for name in TYPES)


def test_a_short_annotation_is_listed_and_the_others_are_used(detect, ants):
    result = detect("heatmaps", "render", ants)
    assert "annotation 4, image 1: 1 keypoint where most of its category have 3: its region is ignored" in result.out
    assert "9 points drawn" in result.out


def test_points_with_x_and_y_exchanged_are_named_by_image_and_size(detect, tmp_path):
    table = tmp_path / "points.csv"
    table.write_text("image,x,y\n" + "".join(f"a.png,{number},{95 + number}\n" for number in range(9)), "utf-8")
    Image.new("L", (120, 90)).save(tmp_path / "a.png")
    result = detect("heatmaps", "oracle", table, "--images", tmp_path)
    assert result.code == 2
    assert "labels swap x and y? 9 of 9 labelled points lie outside their images, none of them if" in result.err
    assert "line 2: annotation 1, image 1: its keypoint (0, 95) lies outside its 120x90 image" in result.err


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
    assert [reason[:8] for reason in reasons] == [f"entry {place} " for place in range(4)]  # NaN is not predicted
    assert "has 1 keypoint in the truth, this has 2" in reasons[1]
    result = detect(*arguments, "--findings")
    assert "4 invalid among the results:" in result.out
    assert result.err.count(f"invalid: {path}: ") == 4
    strict = detect(*arguments, "--strict")
    assert (strict.code, strict.out, strict.err.count("\n")) == (2, "", 1)


MISTAKES = [
    ("render none.json -o out", "none.json: No such file"),
    ("render text.json -o out", "text.json: starts with 'nothing'"),
    ("render pred.json -o out", "pred.json: a results file (a list of detections with scores)"),
    ("render bare.json -o out", "bare.json: no annotation has a labelled keypoint"),
    ("render bare.json --from boxes -o out", "bare.json: no valid boxes"),
    ("render truth.json --images nowhere -o out", "nowhere: not a folder of images"),
    ("render truth.json -o text.json", "text.json: cannot be written"),
    ("render truth.json -o text.json --num-pictures 0", "text.json: cannot be written"),
    ("render truth.json --config none.yaml -o out", "none.yaml: No such file"),
    ("render truth.json --config wrong.yaml -o out", "wrong.yaml: sigma: Input should be a valid number"),
    ("oracle bare.json", "bare.json: no annotation has a labelled keypoint"),
    ("oracle truth.json --strides 2,x", "--strides: expected numbers of 0.25 or more between commas, got '2,x'"),
    ("oracle truth.json --sigmas nan", "--sigmas: expected numbers of 0.05 or more"),
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
    written(tmp_path / "bare.json", points_dataset(annotations=[]))
    written(tmp_path / "wrong.yaml", "sigma: wide\n")
    written(tmp_path / "strangers.json", [{**each, "image_id": 9} for each in predictions()])
    written(tmp_path / "nan.json", [{**each, "score": float("nan")} for each in predictions()])
    return tmp_path


@pytest.mark.parametrize(("line", "message"), MISTAKES, ids=[line for line, _ in MISTAKES])
def test_a_mistake_is_one_line_and_exit_code_2_and_leaves_no_file(refused, faulty, line, message):
    before = sorted(faulty.iterdir())
    assert message in refused("heatmaps", *line.split())
    assert sorted(faulty.iterdir()) == before


def test_angles_are_scored_in_text_and_json(detect, refused, tmp_path):
    """Heads and tails 20 px apart; the one result points 30 degrees past the truth, or 150 short of the other end."""
    content = dataset_of({"keypoints": [30, 10, 2, 10, 10, 2]})
    content["categories"] = content["categories"][:1]
    truth = written(tmp_path / "truth.json", content)
    entry = {"image_id": 1, "category_id": 1, "keypoints": [20, 10, 1], "score": 0.9, "angle": 150.0}
    command = ("heatmaps", "score", truth, "--results", written(tmp_path / "results.json", [entry]), "--radius", 3)
    for orientation, wanted in (("directed", 150.0), ("axis", 30.0)):
        own = json.loads(detect(*command, "--orientation", orientation, "--json").out)
        assert own["overall"][0]["angle"] == {"mean": wanted, "median": wanted, "num_pairs": 1}
        told = detect(*command, "--orientation", orientation).out
        assert "angle error, deg" in told
        assert f"{wanted:.3f}" in told
    run = detect(*command)
    assert (run.code, "angle" in run.out) == (2, False)  # two keypoints in the truth, one in the result
    assert "'rod' has 1 keypoint and no annotation a number in angle, rotation," in refused(
        *command, "--orientation", "axis", "--from", "boxes"
    )
