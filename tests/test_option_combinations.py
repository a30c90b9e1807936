"""Any options within their documented ranges, on boxes of any kind: a result, or the reason in one line; soon, if asked to.

Options and ranges are those of the commands themselves, so that a new option is drawn as well.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

import pytest
from builders import coco_content, commands
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from detect.cli.app import main

COMMANDS = commands()
SEARCHING = ("anchors fit", "anchors stability", "anchors sweep", "anchors levels")
OTHERS = ("anchors score", "anchors curve", "advise", "heatmaps oracle", "heatmaps render")
TEXTS = {  # of options whose values are texts; those of any other option are in ODD
    "levels": ["p3-p7", "p2", "8,16,32", "p0-p20", "7,14"],
    "per_level": ["1", "3", "1000", "4,6,6", "1,1,1,1,1"],
    "objective": [
        "grid",
        "shape",
        "recall@0.5",
        "grid:recall@1",
        "0.8*iou+0.2*recall@0.5",
        "ratio",
        "0.5*ratio+0.5*recall@0.25",
    ],
    "resize": ["none", "letterbox:640", "stretch:65536x1", "shortest:8:9", "tiles:64:0.5", "letterbox:1"],
    "start": ["yolov5", "retinanet", "10,13 16,30"],
    "anchors": ["yolov5", "retinanet", "10,13 16,30", "1,1 100000,10"],
    "compare": ["yolov5", "retinanet"],
    "fixed": ["32x64", "0.001x0.001", "100000x10"],
    "weight": ["type 1=0", "type 1=5", "small=1e300", "large=0"],
    "sizes": ["1", "320,640", "65536"],
    "detector": ["yolov5", "torchvision-ssd300", "retinanet", "faster-rcnn", "yolov2", "efficientdet"],
    "names": ["yolo11", "yolov5", "retinanet,fcos", "rf-detr", "torchvision-ssd300", "centernet", "yolov3"],
    "strides": ["2,4,8", "0.25", "10000"],
    "sigmas": ["1,2", "0.05", "10000"],
    "max_strides": ["0", "0.001", "4", "1e300", "-1", "nan"],
    "ignore_category": ["type 1"],
}
ODD = ["x", "0", "-1", "nan", "1e999", "9" * 5000, "a,b", "ü"]
LEFT_OUT = {"help", "config", "output", "files", "engine", "scheduler", "workers", "worker_memory", "model", "images"}
LIGHT = {"time_limit": ["0", "0.05"], "resamples": ["0", "1", "2"], "radius": ["0.01", "3", "100000"]}


def datasets() -> dict[str, Any]:
    """A few boxes of each hard kind."""
    many = [[3.0 * n, 2.0 * n, 4.0 + 3 * n, 30.0 - n] for n in range(12)]
    return {
        "thin": coco_content([[0, 0, 100_000, 10]], image_wh=(100_000, 1000)),
        "equal": coco_content([[5, 5, 20, 30]] * 6),
        "one": coco_content([[5, 5, 20, 30]]),
        "smallest": coco_content([[5, 5, 1e-3, 1e-3], [9, 9, 2e-3, 1e-3]]),
        "many": coco_content(many, image_wh=(200, 100), category_ids=[1, 2] * 6),
        "none": coco_content([]),
        "invalid": coco_content([[5, 5, -1, 30]]),
    }


def values(option: Any) -> st.SearchStrategy[list[str]]:
    """The arguments that give an option a value within its range."""
    kind, name = option.type_descriptor.annotation, option.opts[-1]
    if option.is_flag:
        return st.sampled_from([[each] for each in (name, *option.secondary_opts)])
    if option.name in LIGHT | TEXTS:
        drawn = st.sampled_from((LIGHT | TEXTS)[option.name])
    elif get_origin(kind) is Literal:
        drawn = st.sampled_from(list(map(str, get_args(kind))))
    elif option.min is not None:
        ends = [option.min, option.min + 1000 if option.max is None else option.max]
        within = st.integers(*ends) if kind is int else st.floats(*ends)
        drawn = (st.sampled_from(ends) | within).map(str)
    else:
        drawn = st.sampled_from(ODD)
    return drawn.map(lambda value: [f"{name}={value}"] if name.startswith("--") else [name, value])


@st.composite
def arguments(draw: st.DrawFn, command: str) -> list[str]:
    options = {each.name: each for each in COMMANDS[command].params if each.name not in LEFT_OUT}
    required = [name for name, each in options.items() if each.required]
    chosen = draw(st.lists(st.sampled_from(sorted(options)), max_size=4, unique=True))
    names = dict.fromkeys([*required, *chosen])
    given_ = [argument for name in names for argument in draw(values(options[name]))]
    return given_ + (["--time-limit=0.05"] if "time_limit" in options and "time_limit" not in names else [])


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Any:
    folder = tmp_path_factory.mktemp("boxes")
    for name, content in datasets().items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


@contextlib.contextmanager
def typed(*words: str) -> Iterator[None]:
    before, sys.argv = sys.argv, ["detect", *words]
    try:
        yield
    finally:
        sys.argv = before


@pytest.mark.parametrize("command", [*SEARCHING, *OTHERS])
@settings(max_examples=settings.default.max_examples // 2, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_options_give_a_result_or_one_line(command, folder, data):
    name = data.draw(st.sampled_from(sorted(datasets())))
    words = [*command.split(), str(folder / f"{name}.json"), *data.draw(arguments(command))]
    out, err = io.StringIO(), io.StringIO()
    with typed(*words), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
            code: Any = 0
        except SystemExit as ended:
            code = ended.code or 0
    assert code in (0, 2)
    reasons = [line for line in err.getvalue().splitlines() if line.startswith("detect: ")]
    assert len(reasons) == (code == 2)
    assert "Traceback" not in err.getvalue()


@pytest.mark.parametrize("command", SEARCHING)
def test_each_command_that_searches_takes_a_limit_on_its_time(command):
    assert "time_limit" in {option.name for option in COMMANDS[command].params}
