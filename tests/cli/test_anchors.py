"""The commands as a user types them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from detect import AnchorSet, read_coco
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


def test_what_fit_writes_is_read_back_and_scores_the_same(detect, tmp_path):
    fit = detect("anchors", "fit", NUCLEI, "-k", 4, "--levels", "p2-p4", "-o", tmp_path / "out", "--json").json
    anchors = AnchorSet.load(tmp_path / "out" / "anchors.yaml")
    assert anchors.shapes.tolist() == fit["shapes"]
    assert anchors.sources[0].path == NUCLEI
    assert anchors.command.startswith(f"detect anchors fit {NUCLEI} -k 4")
    assert anchors.scores["average_iou"] == pytest.approx(fit["average_iou"], abs=1e-6)
    score = detect("anchors", "score", NUCLEI, "--anchors", tmp_path / "out", "--json").json["anchors"][0]
    assert score["average_iou"] == fit["average_iou"]
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert f"{fit['average_iou']:.3f}" in page
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["anchors.yaml", "report.html"]


def test_findings_are_named_printed_and_written(detect, tmp_path):
    result = detect("anchors", "fit", BCCD, "--resize", "letterbox:640", "-o", tmp_path, "--no-report", "--findings")
    assert "annotation 3951, image 300: width 0 and height 0 are not positive" in result.out
    assert "invalid: " in result.err
    with (tmp_path / "findings.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["kind"], row["annotation_id"]) for row in rows] == [("invalid", "3951"), ("invalid", "4005")]
    assert not (tmp_path / "report.html").exists()


def test_strict_makes_the_first_refusal_the_error_and_writes_nothing(detect, tmp_path):
    result = detect("anchors", "fit", BCCD, "--strict", "-o", tmp_path / "out")
    assert result.code == 2
    assert result.err.count("\n") == 1
    assert "annotation 3951" in result.err
    assert not (tmp_path / "out").exists()


def test_score_compares_sets_side_by_side(detect):
    result = detect(
        "anchors",
        "score",
        BCCD,
        "--anchors",
        "retinanet",
        "--anchors",
        "yolov3-coco",
        "--resize",
        "letterbox:640",
        "--json",
    )
    sets = result.json["anchors"]
    assert [each["name"] for each in sets] == ["retinanet", "yolov3-coco"]
    assert [len(each["shapes"]) for each in sets] == [45, 9]
    assert {each["resize"] for each in sets} == {"letterbox:640"}


def test_score_uses_each_sets_own_rule_unless_told(detect):
    sets = detect("anchors", "score", BCCD, "--anchors", "retinanet", "--anchors", "yolov3-coco", "--json").json[
        "anchors"
    ]
    assert [each["resize"] for each in sets] == ["shortest:800:1333", "stretch:416x416"]


def test_score_lists_groups_and_the_worst_instances(detect):
    out = detect("anchors", "score", BCCD, "--anchors", "yolov3-coco", "--resize", "letterbox:640", "--worst", 3).out
    assert "by size" in out
    assert "by category" in out
    assert "Platelets" in out
    assert out.count("annotation ") >= 3
    assert "BloodImage_00002.jpg" in out


@pytest.mark.parametrize("method", ["euclidean", "log-euclidean"])
def test_other_methods(detect, method):
    content = detect("anchors", "fit", NUCLEI, "-k", 3, "--method", method, "--json").json
    assert content["method"] == method
    assert len(content["shapes"]) == 3


def test_the_curve_has_a_score_for_each_k_and_a_knee(detect):
    content = detect("anchors", "curve", NUCLEI, "--json").json
    assert list(content["k_curve"]) == [str(k) for k in range(1, 16)]
    assert list(content["k_curve"].values()) == sorted(content["k_curve"].values())
    (marked,) = [line for line in detect("anchors", "curve", NUCLEI).out.splitlines() if line.endswith("knee")]
    assert marked.split()[0] == str(content["knee"])


def test_shapes_and_grid_parting_is_warned_of(detect):
    result = detect("anchors", "fit", NUCLEI, "-k", 5, "--levels", "p4-p5")
    assert "warning: fitted: by shape" in result.err
    assert "finer level than P4" in result.err
    assert "precision" not in result.err  # which did not follow coverage on the grid in docs/evidence.md
    assert "warning" not in detect("anchors", "fit", NUCLEI, "-k", 5, "--levels", "p2-p4").err


def test_without_a_resize_rule_it_says_what_that_means(detect):
    assert "--resize none: shapes are in pixels of the original images" in detect("anchors", "fit", NUCLEI, "-k", 2).err
    assert detect("anchors", "fit", BCCD, "-k", 2, "--resize", "letterbox:640").err == ""


@pytest.mark.parametrize("to", ["torchvision", "detectron2", "mmdet", "mmdet-yolo", "yolov5", "json"])
def test_convert_prints_text_alone_on_stdout(detect, to):
    result = detect("anchors", "convert", "yolov3-coco", "--to", to)
    assert result.code == 0
    assert "116" in result.out or "-62, -83" in result.out
    assert result.err == ""


def test_convert_prints_notes_on_stderr(detect):
    plain, result = (detect("anchors", "convert", "yolov3-coco", "--to", to) for to in ("yolov5", "ultralytics-yaml"))
    assert (result.code, result.out) == (0, plain.out)
    assert result.err.startswith("note: the ultralytics package reads no anchors")
    assert result.err.count("\n") == 1


def test_convert_tells_on_stderr_what_it_changed(detect, tmp_path):
    detect("anchors", "fit", BCCD, "-k", 9, "--resize", "letterbox:640", "-o", tmp_path, "--no-report")
    result = detect("anchors", "convert", tmp_path, "--to", "yolov5")
    rows = yaml.safe_load(result.out)["anchors"]
    assert len({len(row) for row in rows}) == 1
    assert "filled up" in result.err


def test_known_lists_names(detect):
    assert "retinanet         45 shapes on P3, P4, P5, P6, P7; shortest:800:1333" in detect("anchors", "known").out


def test_a_configuration_file_sets_options_and_the_command_line_wins(detect, tmp_path):
    path = tmp_path / "fit.yaml"
    path.write_text(yaml.safe_dump({"files": [NUCLEI], "k": 4, "levels": "p2-p4", "json": True}), "utf-8")
    content = detect("anchors", "fit", "--config", path).json
    assert len(content["shapes"]) == 4
    assert content["levels"][0]["name"] == "P2"
    assert len(detect("anchors", "fit", "--config", path, "-k", 2).json["shapes"]) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fit", "nothing.json"), "nothing.json: No such file"),
        (("fit", "no*.json"), "no*.json: no file matches this pattern"),
        (("fit", NUCLEI, "--resize", "big"), "resize rule 'big' is not known: use none, stretch"),
        (("fit", NUCLEI, "--levels", "p9-p1"), "levels 'p9-p1'"),
        (("fit", NUCLEI, "-k", "999"), "clusters asked of"),
        (("fit", NUCLEI, "--compare", "yolov9"), "yolov9: no such file; known by name"),
        (("score", NUCLEI), "no anchors given"),
        (("score", NUCLEI, "--anchors", "yolov9"), "yolov9: no such file"),
        (("convert", "yolov9", "--to", "json"), "yolov9: no such file"),
        (("fit", "--config", "nothing.yaml"), "nothing.yaml: No such file"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(detect, arguments, message):
    result = detect("anchors", *arguments)
    assert result.code == 2
    assert result.out == ""
    lines = [line for line in result.err.splitlines() if not line.startswith("note:")]
    assert len(lines) == 1
    assert lines[0].startswith("detect: ")
    assert message in lines[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kk: 3", "no option 'kk'"),
        ("levls: p3", "no option 'levls', did you mean 'levels'?"),
        ("k: 3.7", "k: Input should be a valid integer"),
        ("weight: {cell: 2}", "weight: expected a value, got {'cell': 2}"),
        ("k: many", "k: Input should be a valid integer"),
        ("k: 0", "k: Input should be greater than or equal to 1"),
        ("method: magic", "method: Value error, 'magic' is not one of 'optimal', 'kmeans'"),
        ("[1]", "expected fields such as 'k: 9', got list"),
        ("k: [", "not YAML"),
    ],
)
def test_a_wrong_configuration_names_the_field(detect, tmp_path, text, message):
    (tmp_path / "fit.yaml").write_text(text, "utf-8")
    result = detect("anchors", "fit", NUCLEI, "--config", tmp_path / "fit.yaml")
    assert result.code == 2
    assert message in result.err
    assert result.err.count("\n") == 1


def test_a_place_that_cannot_be_written_is_named(detect, tmp_path):
    (tmp_path / "taken").write_text("", "utf-8")
    result = detect("anchors", "fit", NUCLEI, "-k", 2, "--resize", "none", "-o", tmp_path / "taken")
    assert result.code == 2
    assert "cannot be written" in result.err


def test_names_from_the_file_are_printed_as_they_are(detect, tmp_path):
    content = json.loads(Path(NUCLEI).read_text("utf-8"))
    content["categories"][0]["name"] = "[red]cell[/red]"
    path = tmp_path / "markup.json"
    path.write_text(json.dumps(content), "utf-8")
    assert "[red]cell[/red]" in detect("anchors", "score", path, "--anchors", "retinanet").out


def test_the_python_interface_gives_what_the_command_gives(detect):
    from detect import ResizedInstances, anchor_metrics, fit_anchors, parse_resize

    content = detect("anchors", "fit", BCCD, "-k", 5, "--resize", "letterbox:640", "--json").json
    instances = ResizedInstances.of(read_coco(BCCD), parse_resize("letterbox:640"))
    anchors = fit_anchors(instances, k=5)
    np.testing.assert_array_equal(anchors.shapes, content["shapes"])
    assert anchor_metrics(instances, anchors).average_iou == content["average_iou"]


def test_levels_are_told_in_words_and_as_an_object(detect):
    arguments = ("anchors", "levels", BCCD, "--anchors", "retinanet", "--resize", "letterbox:640")
    result = detect(*arguments)
    assert result.code == 0
    assert "keep P3, P4, P5: 1 instance is lost: annotation 4133" in " ".join(result.out.split())
    content = detect(*arguments, "--convention", "torchvision", "--assigner", "atss", "--json").json
    assert [level["name"] for level in content["levels"]] == ["P3", "P4", "P5", "P6", "P7"]
    assert sum(level["positives"] for level in content["levels"]) == pytest.approx(1)
    assert content["suggested"] == [0, 1, 2]


def test_a_sweep_shows_what_a_larger_input_buys(detect):
    arguments = ("anchors", "sweep", BCCD, "--sizes", "320,640", "--anchors", "retinanet", "--resize", "letterbox:640")
    small, large = detect(*arguments, "--json").json["settings"]
    assert (small["resize"], large["resize"]) == ("letterbox:320", "letterbox:640")
    assert large["flops"] == pytest.approx(4 * small["flops"], rel=0.01)  # but for cells at the edge
    assert small["uncovered"] > large["uncovered"]
    lines = detect(*arguments).out.splitlines()
    assert [line.split()[0] for line in lines if line.startswith("letterbox")] == ["letterbox:320", "letterbox:640"]
    ending = ("--levels", "p2-p4", "--resize", "letterbox:640", "--json")
    fitted = detect("anchors", "sweep", NUCLEI, "--sizes", "128,256", "-k", 3, *ending).json
    shapes = [[shape for level in each["levels"] for shape in level["shapes"]] for each in fitted["settings"]]
    np.testing.assert_allclose(2 * np.array(shapes[0]), shapes[1], rtol=0.02)  # twice the size, the same shapes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sweep", BCCD, "--sizes", "320,x"), "--sizes: expected numbers of 1 or more between commas, got '320,x'"),
        (("sweep", BCCD, "--sizes", "320", "--resize", "none"), "resize rule 'none' has no size to change"),
        (("levels", BCCD, "--anchors", "nothing"), "nothing"),
    ],
)
def test_mistakes_in_levels_and_sweeps_are_one_line(detect, arguments, message):
    result = detect("anchors", *arguments)
    assert result.code == 2
    assert message in result.err
    assert len(result.err.splitlines()) == 1


def test_tiles_are_a_resize_rule(detect):
    content = detect("anchors", "score", BCCD, "--anchors", "retinanet", "--resize", "tiles:320:64", "--json").json
    assert content["anchors"][0]["boxes"] > 4886  # a box in several tiles counts in each


def test_levels_are_fitted_as_placed_and_beat_shapes_alone(detect):
    arguments = ("anchors", "fit", NUCLEI, "--levels", "p2-p4")
    placed = detect(*arguments, "--per-level", 2, "--json").json
    assert [len(level["shapes"]) for level in placed["levels"]] == [2, 2, 2]
    assert placed["objective"] == "placed_average_iou"
    assert placed["grid_average_iou"] <= placed["upper_bound"] <= placed["grid_average_iou"] * 1.02
    by_shape = detect(*arguments, "-k", 6, "--objective", "shape", "--json").json
    free = detect(*arguments, "-k", 6, "--penalty", 0, "--json").json
    assert by_shape["objective"] == "average_iou"
    assert by_shape["average_iou"] > free["average_iou"]
    assert by_shape["grid_average_iou"] < free["grid_average_iou"] - 0.005
    told = detect(*arguments, "--per-level", 2).out
    assert f"at most {placed['upper_bound']:.4f} possible with 2 shapes on each level: within" in told


def test_a_layout_prints_its_price(detect):
    arguments = ("anchors", "fit", NUCLEI, "--levels", "p2-p3", "--layout", "grid", "--scales", 2, "--ratios", 1)
    octaves, grid = detect(*arguments, "--certify", 1, "--json").json["layouts"]
    assert (octaves["layout"], grid["layout"]) == ("octaves", "grid")
    assert [len(sizes) for sizes in grid["sizes"]] == [2, 2]
    assert grid["price"] == pytest.approx(grid["free_score"] - grid["score"])
    assert grid["default_score"] <= octaves["score"] <= grid["score"] <= grid["free_score"]
    lines = detect(*arguments, "--certify", 1).out.splitlines()
    (row,) = [line.split() for line in lines if line.startswith("grid")]
    assert row[1:3] == [f"{grid['score']:.4f}", f"{grid['price']:.4f}"]


def test_rare_categories_can_be_made_to_count_alike(detect):
    arguments = ("anchors", "fit", BCCD, "-k", 1, "--resize", "letterbox:640", "--certify", 1)
    alike = detect(*arguments, "--json").json
    balanced = detect(*arguments, "--balance", "category", "--json").json
    heavy = detect(*arguments, "--weight", "Platelets=50", "--json").json
    assert balanced["objective"] == "weighted_average_iou"
    areas = [np.prod(each["shapes"][0]) for each in (alike, balanced, heavy)]
    assert areas[1] > 1.05 * areas[0]  # white cells, which are few, are larger than the red ones, of which most are
    assert areas[2] < 0.5 * areas[0]  # platelets are far smaller


def test_fixed_shapes_are_kept(detect):
    content = detect("anchors", "fit", NUCLEI, "-k", 3, "--fixed", "33x44", "--json").json
    assert [33.0, 44.0] in content["shapes"]
    assert len(content["shapes"]) == 3


def test_stability_gives_intervals_and_scores_on_other_images(detect, tmp_path):
    train, validation = cut(NUCLEI, tmp_path, 2)
    arguments = ("anchors", "stability", train, "-k", 2, "--resamples", 8, "--validation", validation)
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


@pytest.mark.parametrize("assigner", ["max-iou", "atss"])
def test_scores_tell_what_a_matcher_would_do(detect, assigner):
    arguments = ("anchors", "score", NUCLEI, "--anchors", "retinanet", "--assigner", assigner, "--resize", "none")
    (content,) = detect(*arguments, "--convention", "torchvision", "--json").json["anchors"]
    told = content["assignment"]
    levels, overall = told["levels"], told["overall"]
    assert sum(level["positives"] for level in levels) == pytest.approx(overall["positives"] * overall["count"])
    assert sum(group["count"] for group in told["by_size"]) == overall["count"] == 318
    assert overall["low_quality_only"] == len(told["low_quality_only_ids"])
    out = detect(*arguments).out
    assert "positives per box" in out
    assert "best anchor on" in out


def test_scores_warn_of_categories_that_few_anchors_learn(detect):
    arguments = ("anchors", "score", BCCD, "--anchors", "retinanet", "--resize", "stretch:320x240", "--assigner")
    out = " ".join(detect(*arguments, "max-iou").out.split())
    assert (
        "unevenly shared: positive anchors a box Platelets 4.0, on average 34.2; categories with few are hardly learned"
        in out
    )
    assert "unevenly" not in detect(*arguments, "atss").out


def test_a_convention_moves_placed_scores_but_not_those_by_shape(detect):
    arguments = ("anchors", "score", NUCLEI, "--anchors", "retinanet", "--resize", "none", "--json")
    (exact,), (rounded,) = (
        detect(*arguments, "--convention", convention).json["anchors"] for convention in ("exact", "torchvision")
    )
    assert exact["average_iou"] == rounded["average_iou"]
    assert exact["grid_average_iou"] != rounded["grid_average_iou"]


def test_levels_write_a_page(detect, tmp_path):
    result = detect("anchors", "levels", NUCLEI, "--anchors", "retinanet", "-o", tmp_path / "out")
    assert result.code == 0
    assert "P3" in (tmp_path / "out" / "report.html").read_text("utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--fixed", "3y4"), "--fixed: expected a width and a height in pixels such as 32x64, got '3y4'"),
        (("--fixed", "0x4"), "--fixed: expected a width and a height"),
        (("--weight", "cell"), "--weight: expected a name and a factor from 0 such as platelets=5, got 'cell'"),
        (("--weight", "dog=2"), "no category or size is named 'dog'"),
        (("--objective", "area"), "objective 'area' is not iou, recall@T"),
        (("--objective", "placed", "--fixed", "3x4"), "--method and --fixed need an objective by shape"),
        (("--objective", "shape", "--layout", "grid"), "--layout, --max-per-level and --max-strides need a placed"),
        (("--per-level", "2", "--max-per-level", "3"), "--per-level, --max-per-level and --layout each set"),
        (("--method", "kmeans", "--balance", "size"), "weights need the method optimal"),
    ],
)
def test_options_that_do_not_go_together_are_one_line(detect, arguments, message):
    result = detect("anchors", "fit", NUCLEI, "--resize", "stretch:128x128", *arguments)
    assert result.code == 2
    assert message in result.err
    assert len(result.err.splitlines()) == 1
