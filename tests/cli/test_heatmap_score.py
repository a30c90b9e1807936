"""``detect heatmaps score`` of tables, as a user types it; that of COCO files is in ``test_heatmaps.py``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

LABELS = [(20.0, 20.0, 3.0), (24.0, 20.0, 3.0), (40.0, 30.0, 9.0)]


@pytest.fixture
def labelled(tmp_path) -> Path:
    (tmp_path / "labelled.csv").write_text("x,y,z\n" + "".join(f"{x},{y},{z}\n" for x, y, z in LABELS), "utf-8")
    return tmp_path / "labelled.csv"


@pytest.fixture
def found(tmp_path) -> Path:
    """Two right points, one of them a slice away, and a wrong one."""
    rows = [(20, 20, 4, 0.9), (40, 30, 9, 0.8), (5, 5, 5, 0.4)]
    text = "x,y,z,score,type,pixel_origin\n" + "".join(f"{x},{y},{z},{score},point,center\n" for x, y, z, score in rows)
    (tmp_path / "found.csv").write_text(text, "utf-8")
    return tmp_path / "found.csv"


@pytest.mark.parametrize("to", ["csv", "napari"])
def test_what_peaks_finds_in_a_volume_is_scored(detect, labelled, tmp_path, to):
    z, y, x = np.mgrid[:12, :40, :60]
    volume = np.max([np.exp(-((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2) / 4.5) for a, b, c in LABELS], axis=0)
    np.save(tmp_path / "spots.npy", volume.astype(np.float32))
    assert detect("heatmaps", "peaks", tmp_path / "spots.npy", "--to", to, "-o", tmp_path / "points").code == 0
    arguments = ("heatmaps", "score", labelled, "--results", tmp_path / "points", "--radius", 0.1)
    run = detect(*arguments)
    assert "points (x, y, z): 1 image, 3 labelled points, 3 results" in run.out
    assert "0.1 px  1.000" in run.out
    content = detect(*arguments, "--json").json
    assert (content["axes"], content["overall"][0]["micro"]["f1"]) == ("x, y, z", 1.0)


def test_micrometres_count_slices_as_far_as_they_are(detect, labelled, found):
    arguments = ("heatmaps", "score", labelled, "--results", found, "--json", "--spacing", "0.1,0.1,0.3")
    content = detect(*arguments, "--radius", "0.2um", "--radius", "0.3um").json
    assert [each["num_matched"] for each in content["overall"]] == [1, 2]
    assert content["unit"] == "um"
    assert content["overall"][1]["error"]["mean"] == pytest.approx(0.15)
    assert content["overall"][1]["count"] == {"mae": 0.0, "rmse": 0.0, "bias": 0.0}
    assert detect(*arguments, "--radius", "0.3um", "--choose", "f1").json["threshold"] == pytest.approx(0.6)
    assert "error, um" in detect(*arguments[:5], *arguments[6:], "--radius", "0.3um").out


def test_what_is_left_out_is_counted_and_listed(detect, labelled, found):
    found.write_text(found.read_text("utf-8") + "7,7,,0.5,point,center\n", "utf-8")
    labelled.write_text(labelled.read_text("utf-8") + "seven,7,7\n", "utf-8")
    arguments = ("heatmaps", "score", labelled, "--results", found)
    run = detect(*arguments, "--findings")
    assert "1 invalid among the labels:" in run.out
    assert "found.csv, line 5: '' is not a number" in run.out
    assert "4 results" in run.out
    assert run.err.count("invalid: ") == 2
    strict = detect(*arguments, "--strict")
    assert (strict.code, strict.err.count("\n"), strict.out) == (2, 1, "")
    assert len(detect(*arguments, "--json").json["invalid_labels"]) == 1


def test_images_without_results_and_tables_without_scores_are_named(detect, tmp_path):
    (tmp_path / "labelled.csv").write_text("image,x,y\na.png,3,4\nb.png,5,6\n", "utf-8")
    (tmp_path / "found.csv").write_text("image,x,y\na.tif,3,4\n", "utf-8")
    run = detect("heatmaps", "score", tmp_path / "labelled.csv", "--results", tmp_path / "found.csv", "--radius", 1)
    assert "without results, so that all their points are missed: 1 image (b)" in run.out
    assert "no column score: every point counts as sure" in run.err


MISTAKES = [
    ("labelled.csv --results flat.csv", "flat.csv: points (x, y), those of labelled.csv are (x, y, z)"),
    ("truth.json --results found.csv", "truth.json: no table of points"),
    ("labelled.csv --results results.json", "labelled.csv: points with three axes, which images do not have"),
    ("labelled.csv --results found.csv --radius 1um", "--radius in micrometres: give the size of a pixel too"),
    ("labelled.csv --results found.csv --spacing 1", "--spacing: for a --radius in micrometres"),
    ("labelled.csv --results found.csv --spacing 1,2 --radius 1um", "--spacing: expected one number, or 3 for x, y, z"),
    ("labelled.csv --results found.csv --radius 1um --radius 2", "--radius: pixels and micrometres together: 1um, 2"),
    ("labelled.csv --results found.csv --radius 1,2", "--radius: expected one number of 0.01 or more, got '1,2'"),
    ("labelled.csv --results found.csv --radius 0", "--radius: expected one number of 0.01 or more"),
    ("labelled.csv --results found.csv --radius 1e9", "--radius: expected at most 100,000, got 1e9"),
    ("labelled.csv --results found.csv --threshold nan", "--threshold: expected a number, got nan"),
    ("labelled.csv --results found.csv --from boxes --images .", "--from, --images: not for tables of points"),
    (
        "labelled.csv --results found.csv --spacing 1 --radius 1um --radius 2um --choose f1",
        "--choose f1: give the one --radius",
    ),
    ("truth.json --results results.json --spacing 1", "--spacing: for tables of points; results.json is none"),
    ("truth.json --results results.json --radius 1um", "--radius: in pixels; micrometres are for tables of points"),
    ("labelled.csv --results broken.csv", "broken.csv, line 2: 'a' is not a number; no other result is valid either"),
]


@pytest.mark.usefixtures("labelled", "found", "truth")
@pytest.mark.parametrize(("line", "message"), MISTAKES, ids=[line for line, _ in MISTAKES])
def test_a_mistake_is_one_line(refused, tmp_path, monkeypatch, line, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "flat.csv").write_text("x,y\n1,2\n", "utf-8")
    (tmp_path / "broken.csv").write_text("x,y,z\na,b,c\n", "utf-8")
    (tmp_path / "results.json").write_text("[]", "utf-8")
    assert message in refused("heatmaps", "score", *line.split())
