"""``detect anchors fit``, ``stability`` and ``curve``, and ``detect demo``, as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from detect import read_coco
from detect.samples import sample_annotations

BCCD = str(sample_annotations("bccd"))
NUCLEI = str(sample_annotations("nuclei"))


def cut(path: str, folder: Path, count: int) -> list[str]:
    """Shards of a file: every image with its annotations to one of them."""
    content = json.loads(Path(path).read_text("utf-8"))
    names = []
    for number in range(count):
        images = content["images"][number::count]
        ids = {image["id"] for image in images}
        part = content | {
            "images": images,
            "annotations": [entry for entry in content["annotations"] if entry["image_id"] in ids],
        }
        names.append(str(folder / f"shard{number}.json"))
        Path(names[-1]).write_text(json.dumps(part), "utf-8")
    return names


def test_fit_prints_one_object_with_the_promised_fields(detect):
    result = detect("anchors", "fit", BCCD, "-k", 5, "--resize", "letterbox:640", "--json")
    assert result.code == 0
    content = result.json
    assert content["boxes"] == 4886
    assert content["invalid"] == 2
    assert content["method"] == "optimal"
    assert content["average_iou"] < content["upper_bound"] <= content["average_iou"] * 1.01
    assert content["gap"] == pytest.approx(content["upper_bound"] / content["average_iou"] - 1)
    assert content["resize"] == "letterbox:640"
    areas = [w * h for w, h in content["shapes"]]
    assert len(areas) == 5
    assert areas == sorted(areas)
    assert set(content["recall"]) == {"0.5", "0.6", "0.7", "0.8", "0.9"}
    assert content["average_iou"] > 0.84


def test_fit_is_the_same_twice_and_from_shards_in_any_order(detect, tmp_path):
    arguments = ("-k", 9, "--resize", "letterbox:640", "--method", "kmeans", "--json")
    whole = detect("anchors", "fit", BCCD, *arguments).out
    assert detect("anchors", "fit", BCCD, *arguments).out == whole
    shards = cut(BCCD, tmp_path, 7)
    assert detect("anchors", "fit", *shards, *arguments).out == whole
    assert detect("anchors", "fit", *shards[::-1], *arguments).out == whole
    assert detect("anchors", "fit", str(tmp_path / "shard*.json"), *arguments).out == whole


def test_strict_makes_the_first_refusal_the_error_and_writes_nothing(refused, tmp_path):
    assert "annotation 3951" in refused("anchors", "fit", BCCD, "--strict", "-o", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_curve_has_a_score_for_each_k_and_a_knee(detect):
    content = detect("anchors", "curve", NUCLEI, "--json").json
    assert list(content["k_curve"]) == [str(k) for k in range(1, 16)]
    assert list(content["k_curve"].values()) == sorted(content["k_curve"].values())
    (marked,) = [line for line in detect("anchors", "curve", NUCLEI).out.splitlines() if line.endswith("knee")]
    assert marked.split()[0] == str(content["knee"])


def test_without_a_resize_rule_it_says_what_that_means(detect):
    assert "--resize none: shapes are in pixels of the original images" in detect("anchors", "fit", NUCLEI, "-k", 2).err
    assert "--resize none" not in detect("anchors", "fit", BCCD, "-k", 2, "--resize", "letterbox:640").err


def test_the_python_interface_gives_what_the_command_gives(detect):
    from detect import ResizedInstances, anchor_metrics, fit_anchors, parse_resize

    content = detect("anchors", "fit", BCCD, "-k", 5, "--resize", "letterbox:640", "--certify", 1, "--json").json
    instances = ResizedInstances.of(read_coco(BCCD), parse_resize("letterbox:640"))
    anchors = fit_anchors(instances, k=5)
    np.testing.assert_array_equal(anchors.shapes, content["shapes"])
    assert anchor_metrics(instances, anchors).average_iou == content["average_iou"]


def test_stability_gives_intervals_and_scores_on_other_images(detect, tmp_path):
    train, validation = cut(NUCLEI, tmp_path, 2)
    arguments = (
        "anchors",
        "stability",
        train,
        "-k",
        2,
        "--method",
        "kmeans",
        "--resamples",
        8,
        "--validation",
        validation,
    )
    content = detect(*arguments, "--json").json
    width = content["stability"]["shapes"][0]["width"]
    assert width["low"] <= width["value"] <= width["high"]
    assert content["stability"]["resamples"] == 8
    measured = detect("anchors", "fit", validation, "-k", 2, "--fixed", "8x8", "--json").json["boxes"]
    assert measured + content["boxes"] == 318
    generalisation = content["generalisation"]
    assert generalisation["train"]["average_iou"]["value"] == pytest.approx(content["average_iou"])
    result = detect(*arguments, "-o", tmp_path / "out")
    assert "95 % intervals over 8 resamples of the images" in result.out
    assert "overfit" in result.out
    assert "validation" in (tmp_path / "out" / "report.html").read_text("utf-8")
    assert "generalisation" not in detect(*arguments[:-2], "--json").json
    nothing = detect("anchors", "stability", train, "--resamples", 0)
    assert (nothing.code, nothing.err) == (
        2,
        "detect: nothing to do: give --resamples from 1, --validation FILES or both\n",
    )


def test_the_demo_fits_scores_and_draws(detect, tmp_path):
    run = detect("demo", "-o", tmp_path / "demo")
    assert run.code == 0
    for sample in ("bccd", "nuclei"):
        folder = tmp_path / "demo" / sample
        assert (folder / "anchors.yaml").exists()
        assert (folder / "report.html").stat().st_size > 1_000_000  # plotly is inside
    assert "retinanet" in run.out
    assert "yolov3-coco" in run.out
    assert "average IoU" in run.out
    assert "report.html" in run.out
