"""The programs that are run from a checkout."""

from __future__ import annotations

import importlib.util
import json
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import detect
from detect import read_coco
from detect.samples import sample_annotations

ROOT = Path(__file__).resolve().parents[1]


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def bench(monkeypatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "tools")
    module = load("bench")
    monkeypatch.setattr(module, "__file__", str(ROOT / "tools" / "bench.py"))
    return module


def test_bench_makes_a_coco_file_that_pycocotools_reads_too(bench, tmp_path, capsys):
    from pycocotools.coco import COCO

    path = tmp_path / "made" / "coco.json"
    bench.modules("anchors")[0].make_coco_file(path, num_annotations=500, num_images=70)
    dataset = read_coco(path)
    assert len(dataset.annotations) == 500
    assert dataset.invalid == ()
    reference = COCO(str(path))
    assert len(reference.anns) == 500
    polygon = reference.anns[1]["segmentation"][0]
    assert 2 * 9 <= len(polygon) <= 2 * 42
    size = path.stat().st_size / 500
    assert 300 < size < 700  # as in the files it stands for: 436 MB for 860,001


def test_bench_measures_in_processes_of_their_own_and_gives_ratios(bench, tmp_path):
    path = tmp_path / "coco.json"
    bench.modules("anchors")[0].make_coco_file(path, num_annotations=300, num_images=40)
    reading = bench.Table("Reading", path, {"read_ours": "ours", "read_json": "theirs"})
    rows = [line.split("|")[1:-1] for line in bench.compare("anchors", reading, rounds=1).splitlines()[4:]]
    assert [row[0].strip() for row in rows] == ["ours", "theirs"]
    assert float(rows[0][2]) == 1.0
    assert all(0 <= float(row[3]) < 60 for row in rows)  # CPU seconds
    assert all(10 < float(row[4]) < 1000 for row in rows)  # megabytes of a Python process


def test_bench_says_what_could_not_be_measured(bench, tmp_path, capsys):
    assert bench.measure("anchors", "fit_ours", tmp_path / "missing.npy") is None
    assert "fit_ours: not measured" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["heads", "heatmaps"])
def test_every_row_of_the_tables_is_a_known_piece_of_work(bench, kind):
    modules = bench.modules(kind)
    rows = {work for module in modules for table in module.tables() for work in table.names}
    assert rows == {work for module in modules for work in module.WORK}


def test_a_piece_of_work_with_tensors_is_measured(bench, tmp_path):
    assert bench.measure("heads", "match_ours_20", tmp_path).seconds > 0


def test_samples_are_made_from_their_sources(tmp_path, monkeypatch):
    tool = load("make_samples")
    monkeypatch.setattr(tool, "SAMPLES", tmp_path / "samples")
    monkeypatch.setattr(tool, "NUM_NUCLEI_IMAGES", 10)
    source = tmp_path / "source"
    source.mkdir()
    shutil.copy(sample_annotations("bccd"), source / "bccd_coco.json")
    shutil.copy(sample_annotations("bccd").parent / "LICENSE", source / "LICENSE")
    shutil.copy(sample_annotations("nuclei"), source / "nuclei_train.json")
    shutil.copytree(sample_annotations("nuclei").parent / "images", source / "images")
    tool.make_bccd(source)
    tool.make_nuclei(source)
    assert (tmp_path / "samples/bccd/annotations.json").read_bytes() == sample_annotations("bccd").read_bytes()
    made = json.loads((tmp_path / "samples/nuclei/annotations.json").read_text("utf-8"))
    names = {image["file_name"] for image in made["images"]}
    assert len(names) == 10
    assert {path.name for path in (tmp_path / "samples/nuclei/images").iterdir()} == names
    assert {entry["image_id"] for entry in made["annotations"]} <= {image["id"] for image in made["images"]}


@pytest.mark.parametrize(
    ("tool", "command"),
    [("generate_heatmaps", ["heatmaps", "render"]), ("cluster_anchors", ["anchors", "fit"]), ("train", ["train"])],
)
def test_a_tool_of_the_checkout_is_a_command(monkeypatch, tool, command):
    lines: list[list[str]] = []
    monkeypatch.setattr("detect.cli.app.main", lambda: lines.append(sys.argv))
    monkeypatch.setattr(sys, "argv", [tool, "a.json", "--stride", "8"])
    runpy.run_path(str(ROOT / "tools" / f"{tool}.py"), run_name="__main__")
    assert lines == [[tool, *command, "a.json", "--stride", "8"]]


def test_generated_boxes_are_read_from_parquet_and_coco(tmp_path):
    generate = load("generate_boxes")
    generate.main([str(tmp_path / "parts"), "--boxes", "1001", "--parts", "3"])
    generate.main([str(tmp_path / "again"), "--boxes", "1001", "--parts", "3"])
    generate.main([str(tmp_path / "a.json"), "--gigabytes", "0.0005"])
    first, again, coco = (detect.read_dataset(tmp_path / name) for name in ("parts", "again", "a.json"))
    assert (len(first.annotations), first.invalid, first.suspicious) == (1001, (), ())
    assert first.annotations.boxes_xywh.tolist() == again.annotations.boxes_xywh.tolist()
    assert len(list((tmp_path / "parts" / "annotations").iterdir())) == 3
    assert (len(coco.annotations), coco.invalid, coco.suspicious) == (926, (), ())
    assert 0.4e6 < (tmp_path / "a.json").stat().st_size < 0.7e6


def test_samples_are_whole():
    content = json.loads(sample_annotations("nuclei").read_text("utf-8"))
    folder = sample_annotations("nuclei").parent / "images"
    assert {image["file_name"] for image in content["images"]} == {path.name for path in folder.iterdir()}
    assert 60 <= len(content["images"]) <= 100
    for name in ("bccd", "nuclei"):
        assert (sample_annotations(name).parent / "LICENSE").exists()
        assert "Licence" in (sample_annotations(name).parent / "README.md").read_text("utf-8")


def test_make_compat_names_tests_that_exist():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    names = re.findall(r"tests/\S+", makefile)
    assert "tests/interop" in names
    assert [name for name in names if not (ROOT / name).exists()] == []


def test_chaos_has_a_case_for_every_command_that_writes(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tools")
    chaos = load("chaos")
    assert chaos.writing_commands() == {case.command for case in chaos.CASES}
    assert {"train", "predict", "anchors fit", "heatmaps render"} <= chaos.writing_commands()


def test_chaos_tells_half_a_checkpoint_from_a_whole_one(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(ROOT / "tools")
    files = load("chaos_files")
    (tmp_path / "half.pt").write_bytes(b"PK\x03\x04" + bytes(1000))
    assert not files.is_whole(tmp_path / "half.pt", b"", [])
    assert files.is_whole(tmp_path / "a.csv", b"step\n1\n", [b"step\n1\n2\n"])
    assert not files.is_whole(tmp_path / "a.csv", b"step\n1\n7\n", [b"step\n1\n2\n"])


def test_offline_refuses_and_lists_connections_also_of_processes_that_are_started():
    fetch = (
        "from urllib.request import urlopen\ntry: urlopen('http://host.example')\nexcept OSError as error: print(error)"
    )
    started = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {fetch!r}])"
    here = (
        "import socket; s = socket.create_server(('127.0.0.1', 0)); socket.create_connection(s.getsockname()).close()"
    )
    for program, code in ((here, 0), (started, 1)):
        command = [sys.executable, str(ROOT / "tools" / "offline.py"), "-c", program]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        assert run.returncode == code, run.stderr
        assert f"attempts to reach other machines: {code}\n" in run.stderr
        assert ("socket.getaddrinfo host.example" in run.stderr) == bool(code)
