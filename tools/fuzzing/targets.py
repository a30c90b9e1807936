"""What is fuzzed: functions of a file that succeed or raise a DetectError. The seeds of each are in tests/data/fuzz.

A file is called ``input`` and lies in a folder with what it needs: images, labels, anchors.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from detect.cli.terminal import silence_warnings
from detect.errors import DetectError
from detect.wording import printable

MAX_SECONDS = 10  # of CPU time for one file
MAX_SECONDS_OF_COMMAND = 90  # a search ends after 60 s, if --time-limit does not say otherwise
COCO = {
    "images": [{"id": 1, "file_name": "input.png", "width": 64, "height": 48}, {"id": 2, "width": 10, "height": 10}],
    "categories": [{"id": 1, "name": "cell", "keypoints": ["head", "tail"]}, {"id": 3, "name": "a b"}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 30, 20], "keypoints": [3, 4, 2, 20, 15, 1]},
        {"id": 2, "image_id": 1, "category_id": 3, "bbox": [40.5, 10, 9, 30.25], "area": 200, "iscrowd": 1},
        {"id": 5, "image_id": 2, "category_id": 3, "bbox": [0, 0, 10, 10]},
    ],
}
RESULTS = [{"image_id": 1, "category_id": 1, "bbox": [1, 2, 30, 20], "score": 0.9, "keypoints": [3, 4, 2, 20, 15, 1]}]


class TooLong(BaseException):
    """Not an Exception, which what reads a file might take for a fault of the file."""


@dataclass(frozen=True)
class Target:
    """A function of a file, the weight of its share of all executions, and the suffix of its files."""

    run: Callable[[Path], object]
    share: int
    suffix: str = ""
    max_seconds: float = MAX_SECONDS


def execute(target: Target, data: bytes, folder: Path) -> str:
    """Run a target on a file with this content; what the DetectError said, nothing if there was none.

    Raises:
        Exception: any other error, a warning, or an error without a message.
    """
    path = folder / f"input{target.suffix}"
    path.write_bytes(data)
    try:
        with _limited_time(target.max_seconds), warnings.catch_warnings():
            warnings.simplefilter("error")
            silence_warnings()
            target.run(path)
    except DetectError as error:
        said = printable(str(error))
        if not said.strip():
            raise ValueError("an error without a message") from error
        return said
    return ""


def prepare(folder: Path) -> Path:
    """Write what the files of targets need beside them."""
    import numpy as np
    from PIL import Image

    from detect.anchors.anchor_set import AnchorSet

    folder.mkdir(parents=True, exist_ok=True)
    Image.new("L", (64, 48), 90).save(folder / "input.png")
    (folder / "coco.json").write_text(json.dumps(COCO))
    (folder / "results.json").write_text(json.dumps(RESULTS))
    (folder / "points.csv").write_text("image,x,y,category\ninput.png,3,4,cell\ninput.png,40,30,cell\n")
    (folder / "list.txt").write_text("input.png\n")
    (folder / "options.yaml").write_text("json: true\n")
    np.save(folder / "maps.npy", np.eye(9, dtype=np.float32))
    (folder / "broken.json").write_text('{"images": [')
    AnchorSet.of([[(8, 8)], [(20, 12)]], strides=(8, 16), resize="letterbox:64").save(folder / "anchors.yaml")
    return folder


@contextmanager
def _limited_time(seconds: float) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TooLong(f"more than {seconds} s of CPU time")

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


@contextmanager
def small_blocks() -> Iterator[None]:
    """COCO files are read in blocks so short that small files, too, consist of several."""
    with patch("detect.data.coco_blocks.BLOCK_BYTES", 256):
        yield


def _read_labels(path: Path) -> object:
    from detect.data.read_dataset import read_dataset

    return read_dataset(path, keypoints=True).instances


def _read_label_text(path: Path) -> object:
    path.write_bytes(path.read_bytes().replace(b" /", b" ./"))  # `train: /` would read every folder of the machine
    return _read_labels(path)


def _read_angles(path: Path) -> object:
    from detect.data.read_dataset import read_dataset
    from detect.keypoints.coco_keypoints import coco_keypoints

    return coco_keypoints(read_dataset(path, keypoints=True, angles=True), orientation="directed")


def _convert_to_parquet(path: Path) -> None:
    from detect.data.parquet_to_coco import write_coco
    from detect.data.parquet_writer import write_parquet
    from detect.data.read_dataset import read_dataset

    parquet, coco = path.with_name("parquet"), path.with_name("coco")
    for made in (parquet, coco):
        shutil.rmtree(made, ignore_errors=True)
    write_parquet([str(path)], parquet, on_progress=lambda *_: None)
    write_coco(str(parquet), coco, on_progress=lambda *_: None)
    read_dataset(parquet, keypoints=True)


def _read_parquet(path: Path) -> None:
    """A part of annotations, or the description of the dataset."""
    from detect.data.parquet_to_coco import write_coco
    from detect.data.parquet_writer import write_parquet
    from detect.data.read_dataset import read_dataset

    whole, damaged, coco = (path.with_name(name) for name in ("whole", "damaged", "coco"))
    if not whole.exists():
        write_parquet([str(path.with_name("coco.json"))], whole, on_progress=lambda *_: None)
    for made in (damaged, coco):
        shutil.rmtree(made, ignore_errors=True)
    shutil.copytree(whole, damaged)
    is_part = path.read_bytes().startswith(b"PAR1")
    path.replace(damaged / ("annotations/part-00000.parquet" if is_part else "dataset.json"))
    read_dataset(damaged, keypoints=True, angles=True)
    write_coco(str(damaged), coco, on_progress=lambda *_: None)


def _read_results(path: Path) -> object:
    from detect.data.coco_dataset import read_coco
    from detect.data.coco_results import read_results, results_json

    dataset = read_coco(COCO, keypoints=True)
    return results_json(read_results(path, dataset), dataset)


def _read_anchors(path: Path) -> object:
    from detect.anchors.anchor_readers import read_anchors

    return read_anchors(path).to_yaml()


def _read_train_config(path: Path) -> object:
    from detect.training.config import read_train_config

    return read_train_config(path).to_yaml()


def _read_catalog(path: Path) -> object:
    from detect.catalog.detectors import load_detector

    return load_detector(path)


def _read_checkpoint(path: Path) -> object:
    from detect.training.checkpoints import read_checkpoint

    return read_checkpoint(path)


def _read_checkpoint_content(path: Path) -> object:
    """The content of a checkpoint as JSON, in which lists below ``weights`` are tensors."""
    import torch

    from detect.training.checkpoints import load_detector

    try:
        content = json.loads(path.read_bytes())
        content["weights"] = {name: torch.tensor(values) for name, values in content["weights"].items()}
        content["labels"]["category_types"] = {
            int(key): each for key, each in content["labels"]["category_types"].items()
        }
    except Exception:
        return None  # nothing that becomes tensors
    torch.save(content, path)
    return load_detector(path)


def _read_weights(path: Path) -> object:
    from detect.detectors.pretrained_weights import load_checkpoint

    return load_checkpoint(path)


def _read_image(path: Path) -> object:
    from detect.data.image_sizes import read_headers
    from detect.data.images import open_image

    read_headers([str(path)])
    return open_image(path.parent, path.name).convert("RGB")


def _read_array(path: Path) -> object:
    from detect.data.volumes import open_array

    array = open_array(path)
    return array.read([slice(0, 4)] * len(array.space))


def _read_zarr(path: Path) -> object:
    """The description of a zarr folder, which has an array ``0``."""
    import zarr

    folder = path.with_name("zarr")
    if not folder.exists():
        zarr.create_array(folder / "0", shape=(5, 6), chunks=(5, 6), dtype="float32")
    path.replace(folder / "zarr.json")
    return _read_array(folder)


def _read_journal(path: Path) -> None:
    from detect.training.tile_journal import NAME, open_journal

    folder = path.with_name("journal")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    path.replace(folder / NAME)
    with open_journal(folder, "a") as journal:
        for number in range(len(journal)):
            if number in journal:
                journal[number]


def _run_with_options(path: Path) -> None:
    """Options of a command from YAML."""
    run_command(["anchors", "fit", "coco.json", "--config", path.name], path.parent)


def _run_command_line(path: Path) -> None:
    """A command with an argument in each line, in a folder of its own that begins the same each time."""
    lines, folder = path.read_text("utf-8", "surrogateescape").splitlines(), path.with_name("commands")
    shutil.rmtree(folder, ignore_errors=True)
    if not (made := path.with_name("made")).exists():
        _prepare_run(prepare(made) / "run" / "best.pt")
    shutil.copytree(made, folder)
    run_command(lines, folder)


def _prepare_run(checkpoint: Path) -> None:
    """A detector of boxes with small weights."""
    from detect.anchors.anchor_set import AnchorSet
    from detect.loading.labels import LabelMap
    from detect.training.builder import build_detector
    from detect.training.checkpoints import Checkpoint, save_checkpoint
    from detect.training.config import parse_config

    data = {"train": ["coco.json"], "images": ".", "channels": 1}
    model = {"pyramid_channels": 32, "num_convs": 0, "score_threshold": 0.009}
    config, labels = parse_config({"data": data, "model": model}), LabelMap((1, 3), ("cell", "a b"))
    anchors = AnchorSet.of([[(12, 12)], [(24, 24)]], strides=(8, 16))
    weights = build_detector(config, labels, anchors=anchors).state_dict()
    save_checkpoint(checkpoint, Checkpoint(config, labels, anchors, weights, 0, {}))


def run_command(arguments: list[str], folder: Path) -> None:
    """Run a command in this process and in a folder; raise RuntimeError if it ends in another way than it should."""
    from detect.cli.app import main

    out, before, argv = io.StringIO(), Path.cwd(), sys.argv
    code: Any = 0
    os.chdir(folder)
    sys.argv = ["detect", *arguments]
    try:
        with redirect_stdout(out), redirect_stderr(out):
            main()
    except SystemExit as ended:
        code = ended.code or 0
    finally:
        os.chdir(before)
        sys.argv = argv
    if code not in (0, 2, 3) or "Traceback" in out.getvalue():
        raise RuntimeError(f"exit code {code!r}: {out.getvalue()[-500:]}")
    if code == 2:
        raise DetectError(out.getvalue()[-300:])


TARGETS = {  # shares of 1,000; the slowest first
    "command-lines": Target(_run_command_line, 10, ".txt", MAX_SECONDS_OF_COMMAND),
    "coco": Target(_read_labels, 200, ".json"),
    "angles": Target(_read_angles, 60, ".json"),
    "results": Target(_read_results, 110, ".json"),
    "labels-json": Target(_read_labels, 120, ".json"),
    "labels-xml": Target(_read_labels, 120, ".xml"),
    "labels-text": Target(_read_label_text, 90, ".txt"),
    "anchors": Target(_read_anchors, 100, ".yaml"),
    "train-config": Target(_read_train_config, 50, ".yaml"),
    "catalog": Target(_read_catalog, 40, ".yaml"),
    "images": Target(_read_image, 30, ".png"),
    "arrays": Target(_read_array, 20),
    "zarr": Target(_read_zarr, 6),
    "weights": Target(_read_weights, 10, ".safetensors"),
    "checkpoint": Target(_read_checkpoint, 8, ".pt"),
    "checkpoint-content": Target(_read_checkpoint_content, 3, ".pt"),
    "journal": Target(_read_journal, 8),
    "parquet": Target(_read_parquet, 7),
    "parquet-conversion": Target(_convert_to_parquet, 5, ".json"),
    "options": Target(_run_with_options, 3, ".yaml", MAX_SECONDS_OF_COMMAND),
}
