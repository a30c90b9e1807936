"""Paths are text or ``pathlib.Path``, in every public function that takes one."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import pkgutil
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

import detect
from detect.advice.advise import advise
from detect.anchors.anchor_readers import read_anchors
from detect.anchors.anchor_set import AnchorSet, SourceFile
from detect.anchors.instances import ResizedInstances
from detect.anchors.known import load_anchors
from detect.anchors.metrics import AnchorMetrics, anchor_metrics
from detect.catalog.detectors import load_detector as load_known
from detect.data import CocoDataset, read_coco, read_results
from detect.data.coco_reader import read_rows
from detect.data.formats.point_tables import is_point_table
from detect.data.image_names import name_hint, why_left_out
from detect.data.images import open_image
from detect.data.parquet_to_coco import write_coco
from detect.data.parquet_writer import write_parquet, write_parts
from detect.data.read_dataset import read_dataset
from detect.data.resize import parse_resize
from detect.data.volumes import open_array
from detect.detectors.pretrained_weights import load_checkpoint
from detect.errors import TrainingError
from detect.files import (
    exists,
    is_file,
    is_folder,
    locked,
    open_regular,
    read_small_text,
    temporary_folder,
    write_files,
    write_folder,
    write_whole,
)
from detect.inspection.models import build_model
from detect.loading.dataset import DetectionData
from detect.loading.image_files import dataset_from_files
from detect.loading.labels import LabelMap
from detect.ops.tensor_files import read_tensor_file
from detect.report.advice_page import detector_part
from detect.report.anchor_page import anchor_page, worst_block, worst_pictures
from detect.report.object_pictures import object_pictures
from detect.samples import sample_annotations
from detect.text_formats import read_yaml
from detect.training.builder import build_detector
from detect.training.checkpoints import (
    Checkpoint,
    check_same_data,
    check_same_run,
    checkpoint_file,
    fitting_parts,
    load_detector,
    read_checkpoint,
    save_checkpoint,
)
from detect.training.config import parse_config, read_train_config
from detect.training.inputs import read_labels
from detect.training.logs import STEPS, RunLog, read_log
from detect.training.tile_journal import identity_of, open_journal

NAMES = {"path", "paths", "folder", "name_or_path"}
IN_ANOTHER_PROCESS = {"detect.detectors.onnx.export_onnx"}  # tests/detectors/test_export.py calls it with text
SAMPLE = sample_annotations("nuclei")
LABELS = LabelMap((1,), ("nucleus",))


def public_callables(module: Any) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Functions, constructors and methods of a module; constructors of results, which callers do not call, aside."""
    for name, found in vars(module).items():
        if name.startswith("_") or getattr(found, "__module__", None) != module.__name__:
            continue
        if inspect.isfunction(found):
            yield f"{module.__name__}.{name}", found
        elif inspect.isclass(found):
            for inner, method in vars(found).items():
                made = inner == "__init__" and not dataclasses.is_dataclass(found)
                plain = method.__func__ if isinstance(method, classmethod | staticmethod) else method
                if inspect.isfunction(plain) and (made or not inner.startswith("_")):
                    yield f"{module.__name__}.{name}.{inner}".removesuffix(".__init__"), plain


def path_parameters() -> dict[str, list[str]]:
    """The annotations of parameters that are paths, by the name of what takes them."""
    taken: dict[str, list[str]] = {}
    for module in pkgutil.walk_packages(detect.__path__, "detect."):
        if module.name.startswith(("detect.cli", "detect.__main__")):
            continue  # there typer makes the paths
        for name, function in public_callables(importlib.import_module(module.name)):
            for parameter in inspect.signature(function).parameters.values():
                kind = parameter.annotation
                text = kind if isinstance(kind, str) else inspect.formatannotation(kind)
                if "Path" in text or parameter.name in NAMES:
                    taken.setdefault(name, []).append(text)
    return taken


@dataclasses.dataclass(frozen=True)
class Files:
    """One file of each kind, and what goes with them."""

    folder: Path
    dataset: CocoDataset
    score: AnchorMetrics
    checkpoint: Checkpoint

    def __truediv__(self, name: str) -> Path:
        return self.folder / name


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Files:
    folder = tmp_path_factory.mktemp("files")
    dataset = read_coco(SAMPLE)
    anchors = AnchorSet.of([[(8, 8)], [(16, 16)]], strides=(4, 8))
    anchors.save(folder / "anchors.yaml")
    (folder / "results.json").write_text(json.dumps([{"image_id": 1, "category_id": 1, "score": 0.5}]), "utf-8")
    (folder / "rows.yaml").write_text("anchors: [[10,13, 16,30], [30,61, 62,45], [116,90, 156,198]]\n", "utf-8")
    (folder / "mine.yaml").write_text("base: yolov5\n", "utf-8")
    (folder / "fit.yaml").write_text("k: 5\n", "utf-8")
    fields = {"data": {"train": [str(SAMPLE)], "images": str(SAMPLE.parent / "images"), "channels": 1}}
    config = parse_config(fields)
    (folder / "train.yaml").write_text(config.to_yaml(), "utf-8")
    weights = build_detector(config, LABELS, anchors=anchors, mean=(0.5,), std=(0.5,)).state_dict()
    checkpoint = Checkpoint(config, LABELS, anchors, weights, 1, {})
    save_checkpoint(folder / "last.pt", checkpoint)
    torch.save({"weight": torch.ones(1)}, folder / "weights.pt")
    np.save(folder / "map.npy", np.zeros((3, 4)))
    with RunLog(folder / "log", tensorboard=False) as log:
        log.write(STEPS, 1, {"loss": 0.5})
    score = anchor_metrics(ResizedInstances.of(dataset, parse_resize("none")), anchors)
    return Files(folder, dataset, score, checkpoint)


def written(path: Path, write: Callable[[], None]) -> bytes:
    path.unlink(missing_ok=True)
    write()
    return path.read_bytes()


def logged(folder: Path, given: str | Path) -> list[str]:
    with RunLog(given, tensorboard=False) as log:
        log.write(STEPS, 1, {"loss": 0.25})
    return sorted(path.name for path in folder.iterdir())


def folder_written(folder: Path, as_: Callable[[Path], Any]) -> list[bytes]:
    shutil.rmtree(folder, ignore_errors=True)
    write_folder(as_(folder), [("a/b.txt", b"text")])
    return [path.read_bytes() for path in folder.rglob("*.txt")]


def files_written(folder: Path, given: str | Path) -> str:
    write_files(given, {"own.txt": "text"})
    return (folder / "own.txt").read_text("utf-8")


def lock_held(path: str | Path) -> bool:
    with locked(path, ValueError):
        return Path(path).exists()


def parent_used(parent: str | Path) -> Path:
    with temporary_folder(parent) as folder:
        return folder.parent


def misfit_reported(path: str | Path) -> str:
    with pytest.raises(TrainingError) as caught, fitting_parts(path, "reason"):
        raise KeyError("part")
    return str(caught.value)


As = Callable[[Path], Any]
IMAGES = SAMPLE.parent / "images"


def parquet_written(files: Files, as_: As) -> int:
    shutil.rmtree(files / "parquet", ignore_errors=True)
    write_parquet([str(SAMPLE)], as_(files / "parquet"), on_progress=lambda *_: None)
    return len(read_dataset(files / "parquet").annotations)


def parts_written(files: Files, as_: As) -> int:
    shutil.rmtree(files / "parts", ignore_errors=True)
    tables = pa.table({"id": [1]}), pa.table({name: [1] for name in ("id", "image_id", "category_id")})
    write_parts(as_(files / "parts"), [tables], {"categories": []})
    return len(read_dataset(files / "parts").images)


def coco_written(files: Files, as_: As) -> int:
    shutil.rmtree(files / "coco", ignore_errors=True)
    parquet_written(files, as_)
    write_coco(str(files / "parquet"), as_(files / "coco"), on_progress=lambda *_: None)
    return len(read_coco(files / "coco" / "annotations.json").annotations)


def weights_read(files: Files, as_: As) -> list[str]:
    torch.save({"layer": torch.ones(1)}, files / "weights.pt")
    return [*load_checkpoint(as_(files / "weights.pt"))]


def model_filled(files: Files, as_: As) -> str:
    torch.save({"weight": torch.ones(1)}, files / "scale.pt")
    model = build_model("torch.nn:PReLU", weights=as_(files / "scale.pt"))
    return model.name


def regular_opened(files: Files, as_: As) -> bytes:
    with open_regular(as_(files / "fit.yaml")) as stream:
        return stream.readline()


def journal_opened(files: Files, as_: As) -> int:
    with open_journal(as_(files / "tiles"), "some") as journal:
        return len(journal)


CALLS: dict[str, Callable[[Files, As], Any]] = {
    "detect.anchors.anchor_set.AnchorSet.load": lambda files, as_: AnchorSet.load(as_(files / "anchors.yaml")),
    "detect.anchors.anchor_set.AnchorSet.save": lambda files, as_: written(
        files / "saved.yaml", lambda: load_anchors("yolov2-voc").save(as_(files / "saved.yaml"))
    ),
    "detect.anchors.anchor_set.SourceFile.of": lambda files, as_: SourceFile.of(as_(files / "fit.yaml")),
    "detect.anchors.known.load_anchors": lambda files, as_: load_anchors(as_(files.folder)),
    "detect.data.coco_dataset.read_coco": lambda _, as_: len(read_coco([as_(SAMPLE)]).instances),
    "detect.data.coco_reader.read_rows": lambda _, as_: len(read_rows(as_(SAMPLE)).images),
    "detect.data.formats.point_tables.is_point_table": lambda files, as_: is_point_table(as_(files / "anchors.yaml")),
    "detect.data.coco_results.read_results": lambda files, as_: read_results(
        as_(files / "results.json"), files.dataset
    ).scores.tolist(),
    "detect.anchors.anchor_readers.read_anchors": lambda files, as_: read_anchors(as_(files / "rows.yaml")).num_anchors,
    "detect.catalog.detectors.load_detector": lambda files, as_: load_known(as_(files / "mine.yaml")).strides,
    "detect.text_formats.read_yaml": lambda files, as_: read_yaml(as_(files / "train.yaml"), ValueError)["task"],
    "detect.files.exists": lambda files, as_: exists(as_(files / "mine.yaml")),
    "detect.files.is_file": lambda files, as_: is_file(as_(files / "mine.yaml")),
    "detect.files.is_folder": lambda files, as_: is_folder(as_(files.folder)),
    "detect.files.read_small_text": lambda files, as_: read_small_text(as_(files / "mine.yaml"), ValueError),
    "detect.data.read_dataset.read_dataset": lambda _, as_: (
        read_dataset(as_(SAMPLE), images=as_(IMAGES)).images.file_names
    ),
    "detect.files.temporary_folder": lambda files, as_: parent_used(as_(files / "inside")),
    "detect.ops.tensor_files.read_tensor_file": lambda files, as_: read_tensor_file(as_(files / "last.pt"), ValueError)[
        "step"
    ],
    "detect.training.checkpoints.fitting_parts": lambda files, as_: misfit_reported(as_(files / "last.pt")),
    "detect.files.locked": lambda files, as_: lock_held(as_(files / "lock")),
    "detect.files.write_files": lambda files, as_: files_written(files / "several", as_(files / "several")),
    "detect.files.write_folder": lambda files, as_: folder_written(files / "written", as_),
    "detect.files.write_whole": lambda files, as_: written(
        files / "whole.txt", lambda: write_whole(as_(files / "whole.txt"), "text")
    ),
    "detect.data.parquet_writer.write_parquet": parquet_written,
    "detect.data.parquet_writer.write_parts": parts_written,
    "detect.data.parquet_to_coco.write_coco": coco_written,
    "detect.data.images.open_image": lambda files, as_: (
        open_image(as_(IMAGES), files.dataset.images.file_names[0]).size
    ),
    "detect.data.volumes.open_array": lambda files, as_: open_array(as_(files / "map.npy")).extents,
    "detect.training.tile_journal.identity_of": lambda files, as_: identity_of(
        as_(files / "last.pt"), as_(files / "map.npy"), {}
    ),
    "detect.training.tile_journal.open_journal": journal_opened,
    "detect.files.open_regular": regular_opened,
    "detect.data.image_names.why_left_out": lambda _, as_: why_left_out(as_(IMAGES)),
    "detect.data.image_names.name_hint": lambda files, as_: name_hint(as_(IMAGES), "a\\b.png"),
    "detect.report.anchor_page.anchor_page": lambda files, as_: anchor_page(
        [files.score], None, title="Anchors", images=as_(IMAGES)
    ),
    "detect.report.anchor_page.worst_block": lambda files, as_: worst_block(files.score, as_(IMAGES)),
    "detect.report.anchor_page.worst_pictures": lambda files, as_: len(worst_pictures(files.score, as_(IMAGES)).drawn),
    "detect.report.object_pictures.object_pictures": lambda files, as_: len(
        object_pictures(files.score.instances.dataset, [0], as_(IMAGES)).drawn
    ),
    "detect.report.advice_page.detector_part": lambda files, as_: (
        detector_part(
            advise(files.dataset, "tood", size=64),
            0,
            images=as_(IMAGES),
            instances=ResizedInstances.of(files.dataset, "shortest:64:106:mmdet"),
        ).parts
    ),
    "detect.training.checkpoints.check_same_data": lambda files, as_: check_same_data(
        as_(files / "last.pt"), files.checkpoint, labels=LABELS, num_images=1
    ),
    "detect.training.checkpoints.check_same_run": lambda files, as_: check_same_run(
        as_(files / "last.pt"), before=files.checkpoint.config, now=files.checkpoint.config
    ),
    "detect.training.checkpoints.checkpoint_file": lambda files, as_: checkpoint_file(as_(files.folder)),
    "detect.training.checkpoints.load_detector": lambda files, as_: load_detector(as_(files.folder)).name,
    "detect.training.checkpoints.read_checkpoint": lambda files, as_: read_checkpoint(as_(files / "last.pt")).step,
    "detect.training.checkpoints.save_checkpoint": lambda files, as_: written(
        files / "saved.pt", lambda: save_checkpoint(as_(files / "saved.pt"), files.checkpoint)
    ),
    "detect.training.inputs.read_labels": lambda files, as_: (
        read_labels(files.checkpoint.config, [str(SAMPLE)], as_(IMAGES)).images.file_names
    ),
    "detect.detectors.pretrained_weights.load_checkpoint": weights_read,
    "detect.training.config.read_train_config": lambda files, as_: read_train_config(as_(files / "train.yaml")),
    "detect.inspection.models.build_model": model_filled,
    "detect.loading.dataset.DetectionData": lambda files, as_: (
        DetectionData(files.dataset, as_(IMAGES), resize=parse_resize("none"), channels=1).files.folder
    ),
    "detect.loading.image_files.dataset_from_files": lambda _, as_: dataset_from_files([as_(IMAGES)], LABELS)[1],
    "detect.training.logs.RunLog": lambda files, as_: logged(files / "other", as_(files / "other")),
    "detect.training.logs.read_log": lambda files, as_: read_log(as_(files / "log" / "steps.csv")),
}


def test_whatever_takes_a_path_says_that_it_takes_text_too():
    taken = path_parameters()
    assert {name: kinds for name, kinds in taken.items() if not all("str" in kind for kind in kinds)} == {}
    assert {name: kinds for name, kinds in taken.items() if not all("Path" in kind for kind in kinds)} == {}


def test_whatever_takes_a_path_is_called_below():
    assert set(path_parameters()) - IN_ANOTHER_PROCESS == set(CALLS)


@pytest.mark.parametrize("name", CALLS)
def test_text_does_what_a_path_does(name, files):
    of_path = CALLS[name](files, Path)
    assert CALLS[name](files, str) == of_path
