"""The same data give the same answer, to the last digit: whatever the machine's settings and wherever the code runs."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any

import determinism_work
import numpy as np
import pytest
from builders import split_by_image, written
from numpy.testing import assert_allclose, assert_array_equal

from detect.data.parquet_writer import write_parquet
from detect.samples import sample_annotations

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
NUM_IMAGES = 100  # of the blood cells
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
USUAL = {**dict.fromkeys(THREADS, "1"), "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "0"}


def numpy_features() -> str:
    """The CPU features by which NumPy chooses its loops on this machine."""
    from numpy._core import _multiarray_umath as loops

    known: Mapping[str, bool] = loops.__cpu_features__
    return " ".join(name for name in loops.__cpu_dispatch__ if known.get(name))


def another_locale() -> str:
    """A locale with other rules for numbers and letters, if one is installed, else that of C without UTF-8."""
    installed = subprocess.run(["locale", "-a"], capture_output=True, text=True, check=False).stdout.split()
    return next((name for name in installed if name.startswith(("tr_TR", "de_DE", "fr_FR"))), "C")


SETTINGS: dict[str, Callable[[], dict[str, str]]] = {
    "again": dict,
    "two threads": lambda: dict.fromkeys(THREADS, "2"),
    "locale": lambda: {"LC_ALL": another_locale()},
    "hash seed": lambda: {"PYTHONHASHSEED": "1"},
}
CPU_FEATURES: dict[str, Callable[[], dict[str, str]]] = {
    "none": lambda: {
        "ATEN_CPU_CAPABILITY": "default",
        "NPY_DISABLE_CPU_FEATURES": numpy_features(),
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
        "OPENBLAS_CORETYPE": "Nehalem",
    },
    "AVX2": lambda: {"ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2", "OPENBLAS_CORETYPE": "Haswell"},
}


def shuffled(content: Mapping[str, Any], seed: int) -> dict[str, Any]:
    order = random.Random(seed)
    return {name: order.sample(rows, len(rows)) if isinstance(rows, list) else rows for name, rows in content.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Labels and results, and the same in another order, as two files and as two parts of a Parquet dataset."""
    made = tmp_path_factory.mktemp("data")
    for name in ("order", "shards"):
        (made / name).mkdir()
    boxes, nuclei = (json.loads(sample_annotations(name).read_text("utf-8")) for name in ("bccd", "nuclei"))
    boxes["images"] = boxes["images"][:NUM_IMAGES]
    kept = {image["id"] for image in boxes["images"]}
    boxes["annotations"] = [each for each in boxes["annotations"] if each["image_id"] in kept]
    for name, content in (("boxes", boxes), ("nuclei", nuclei)):
        written(made / f"{name}.json", content)
        written(made / "order" / f"{name}.json", shuffled(content, 1))
        for number, shard in enumerate(split_by_image(content, [row % 2 for row in range(len(content["images"]))])):
            written(made / "shards" / f"{name}{number}.json", shard)
    write_parquet(
        [str(made / "shards" / f"boxes{number}.json") for number in (0, 1)],
        made / "parquet",
        on_progress=lambda *_: None,
    )
    noise = random.Random(2)
    for name, file in (("results", "boxes"), ("points", "nuclei")):
        content = json.loads((made / f"{file}.json").read_text("utf-8"))
        found = [predicted(each, noise) for each in content["annotations"]]
        written(made / f"{name}.json", found)
        written(made / "order" / f"{name}.json", noise.sample(found, len(found)))
    return made


def predicted(entry: Mapping[str, Any], noise: random.Random) -> dict[str, Any]:
    """A result near an annotation."""
    found = {name: entry[name] for name in ("image_id", "category_id")} | {"score": noise.random()}
    if "keypoints" in entry:
        x, y, _ = entry["keypoints"]
        return {**found, "keypoints": [x + noise.gauss(0, 2), y + noise.gauss(0, 2), found["score"]]}
    return {**found, "bbox": [side + noise.uniform(0, 4) for side in entry["bbox"]]}


def commands(boxes: list[Path], nuclei: list[Path], *, results: Path, output: Path) -> dict[str, list[str]]:
    """Command lines over anchors, targets, evaluation and advice."""
    found = {
        "fit": ["anchors", "fit", *boxes, "-k", 5, "--resize", "letterbox:320"],
        "fit of a detector": ["anchors", "fit", *boxes, "--for", "mmdet-retinanet"],
        "score": ["anchors", "score", *boxes, "--anchors", "retinanet", "--resize", "shortest:800:1333"],
        "advice": ["advise", *boxes, "--for", "yolo11,rf-detr,retinanet", "--size", 320],
        "targets": ["heatmaps", "render", *nuclei, "-o", output],
        "oracle": ["heatmaps", "oracle", *nuclei, "--strides", "2,4"],
        "boxes": ["evaluate", *boxes, "--results", results / "results.json"],
        "points": ["heatmaps", "score", *nuclei, "--results", results / "points.json"],
    }
    return {name: [*map(str, words), "--json"] for name, words in found.items()}


def answers(lines: dict[str, list[str]], tmp_path: Path, **settings: str) -> dict[str, str]:
    """What the commands print in a process with these settings, and the digests of the targets."""
    file = written(tmp_path / "lines.json", lines)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **USUAL, **settings}
    program = [sys.executable, ROOT / "tests" / "determinism_work.py", file]
    run = subprocess.run(program, env=environment, capture_output=True, text=True, check=False, timeout=600)
    assert run.returncode == 0, run.stderr[-3000:]
    found = json.loads(run.stdout)
    if "targets" in lines:
        for path in sorted(Path(lines["targets"][-2]).glob("*.npz")):
            found[path.name] = sha256(path.read_bytes()).hexdigest()
    return found


@pytest.fixture(scope="module")
def usual(folder) -> dict[str, str]:
    lines = commands([folder / "boxes.json"], [folder / "nuclei.json"], results=folder, output=folder / "targets")
    found = answers(lines, folder)
    assert len(found) == len(lines) + 2
    assert min(len(text) for text in found.values()) > 60
    return found


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_of_the_machine_change_no_digit(name, folder, usual, tmp_path):
    lines = commands([folder / "boxes.json"], [folder / "nuclei.json"], results=folder, output=tmp_path / "targets")
    assert answers(lines, tmp_path, **SETTINGS[name]()) == usual


@pytest.mark.parametrize("name", CPU_FEATURES)
def test_other_cpu_features_change_the_last_digits_of_floats_alone(name, folder, usual, tmp_path):
    # sums and logarithms by other instructions round otherwise: the bound of a fit was 1.1e-16 off
    lines = commands([folder / "boxes.json"], [folder / "nuclei.json"], results=folder, output=tmp_path / "targets")
    found = answers(lines, tmp_path, **CPU_FEATURES[name]())
    for command in lines:
        assert_near(json.loads(found[command]), json.loads(usual[command]))
    for path in sorted((tmp_path / "targets").glob("*.npz")):
        with np.load(path) as own, np.load(folder / "targets" / path.name) as expected:
            for key in expected.files:
                if expected[key].dtype.kind == "f":
                    assert_allclose(own[key], expected[key], rtol=0, atol=1e-6)
                else:
                    assert_array_equal(own[key], expected[key])


def assert_near(found: Any, expected: Any) -> None:
    """Floats to 12 digits, all else equal."""
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        assert_near(list(found.values()), list(expected.values()))
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for own, other in zip(found, expected, strict=True):
            assert_near(own, other)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-12, abs=1e-12)
    else:
        assert found == expected


def test_the_order_of_entries_changes_no_digit(folder, usual, tmp_path):
    own = folder / "order"
    lines = commands([own / "boxes.json"], [own / "nuclei.json"], results=own, output=tmp_path / "targets")
    assert answers(lines, tmp_path) == usual


@pytest.mark.parametrize("kind", ["shards", "parquet", "dask"])
def test_shards_change_no_digit(kind, folder, usual, tmp_path):
    files = [folder / "shards" / f"boxes{number}.json" for number in (1, 0)]
    points = [folder / "shards" / f"nuclei{number}.json" for number in (1, 0)]
    boxes = [folder / "parquet"] if kind == "parquet" else files
    lines = commands(boxes, points, results=folder, output=tmp_path / "targets")
    if kind == "dask":
        lines = {
            name: [*lines[name], "--engine", "dask", "--workers", "1"] for name in ("fit", "fit of a detector", "score")
        }
    found = answers(lines, tmp_path)
    assert found == {name: usual[name] for name in found}


def test_four_threads_give_what_one_gives_and_leave_stdout_alone(folder):
    alone, stdout = determinism_work.api_answers(str(folder)), sys.stdout
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(determinism_work.api_answers, [str(folder)] * 8)) == [alone] * 8
    assert sys.stdout is stdout


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_give_what_this_one_gives(method, folder):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} here")
    alone = determinism_work.api_answers(str(folder))
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(method)) as processes:
        assert list(processes.map(determinism_work.api_answers, [str(folder)] * 2, timeout=300)) == [alone] * 2
