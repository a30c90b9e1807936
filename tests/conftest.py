"""What tests share: the samples inside the package, a tiny data set of bright squares, and runs on it that take a second."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import pytest
from fresh_python import FreshPython
from fresh_python import fresh_python as start_fresh_python
from hypothesis import settings
from PIL import Image

from detect.anchors.anchor_set import AnchorSet
from detect.anchors.instances import ResizedInstances
from detect.data import read_coco
from detect.data.resize import parse_resize
from detect.samples import sample_annotations
from detect.training.config import TrainConfig, parse_config, with_overrides

settings.register_profile("detect", deadline=None, derandomize=True, max_examples=20)
settings.register_profile("thorough", max_examples=200)  # for `make slow`
settings.load_profile("detect")


@pytest.fixture(scope="session")
def fresh_python(tmp_path_factory) -> Iterator[FreshPython]:
    """Programs for a process of their own."""
    with start_fresh_python(tmp_path_factory.mktemp("fresh_python")) as run:
        yield run


@pytest.fixture(scope="session")
def bccd() -> ResizedInstances:
    """Blood cells, as a YOLO-sized detector sees them."""
    return ResizedInstances.of(read_coco(sample_annotations("bccd")), parse_resize("letterbox:640"))


@pytest.fixture(scope="session")
def nuclei() -> ResizedInstances:
    """Nuclei, in pixels of their own small images."""
    return ResizedInstances.of(read_coco(sample_annotations("nuclei")), parse_resize("none"))


@pytest.fixture(scope="session")
def dask_client() -> Iterator[Any]:
    """A local cluster of two processes."""
    pytest.importorskip("distributed")
    from detect.distributed import connect

    with connect(workers=2) as (client, _):
        yield client


NUM_IMAGES, SIZE = 8, 32


@pytest.fixture(scope="session")
def squares(tmp_path_factory) -> Path:
    """A folder with ``annotations.json``, ``anchors.yaml`` and eight images of one or two bright squares."""
    folder = tmp_path_factory.mktemp("squares")
    random = np.random.default_rng(0)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(1, NUM_IMAGES + 1):
        pixels = random.integers(0, 40, (SIZE, SIZE)).astype(np.uint8)
        for _ in range(1 + number % 2):
            x, y, side = (int(value) for value in random.integers([0, 0, 8], [16, 16, 15]))
            pixels[y : y + side, x : x + side] = 200
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": 7,
                    "bbox": [x, y, side, side],
                    "area": side * side,
                    "iscrowd": 0,
                    "keypoints": [x + (side - 1) / 2, y + (side - 1) / 2, 2],
                    "num_keypoints": 1,
                }
            )
        images.append({"id": number, "file_name": f"{number}.png", "width": SIZE, "height": SIZE})
        Image.fromarray(pixels).save(folder / f"{number}.png")
    categories = [{"id": 7, "name": "square", "keypoints": ["centre"], "skeleton": []}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(content))
    AnchorSet.of([[(8, 8)], [(12, 12)]], strides=(4, 8)).save(folder / "anchors.yaml")
    return folder


@pytest.fixture
def tiny(squares, tmp_path) -> Callable[..., TrainConfig]:
    """The configuration of a run on the squares: two epochs of four steps, with fields set over it."""

    def config(*overrides: str, task: str = "boxes") -> TrainConfig:
        file = str(squares / "annotations.json")
        fields = {
            "task": task,
            "data": {"train": [file], "val": [file], "images": str(squares), "channels": 1},
            "model": {"anchors": str(squares / "anchors.yaml"), "pyramid_channels": 32, "num_convs": 1, "stride": 4},
            "optimisation": {"epochs": 2, "batch_size": 2, "warmup_steps": 2},
            "output": {"folder": str(tmp_path / "run"), "validate_epochs": 1, "tensorboard": False},
        }
        return parse_config(with_overrides(fields, overrides))

    return config


@pytest.fixture
def locked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders called ``locked`` cannot be listed, also not by root."""
    listed = os.scandir

    def scandir(place: str) -> Any:
        if str(place).endswith("locked"):
            raise PermissionError(errno.EACCES, "Permission denied", str(place))
        return listed(place)

    monkeypatch.setattr(os, "scandir", scandir)


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Annotations are not checked, as in a user's process: what is refused is refused by the code itself."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
