"""``detect export`` as a user types it; the exporter itself runs in a process of its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from detect.anchors.anchor_set import AnchorSet
from detect.cli.detector_json import describe_resize
from detect.data import read_coco
from detect.data.images import open_image
from detect.data.resize import parse_resize
from detect.loading.dataset import DetectionData, collate
from detect.samples import sample_annotations
from detect.training.checkpoints import load_detector, read_checkpoint, save_checkpoint

NUCLEI = sample_annotations("nuclei")
STEPS = 20
IMAGES = NUCLEI.parent / "images"
ONE: dict[str, Any] = {"names": {1: "nucleus"}, "threshold": 0.0095}


EXAMPLE = Path(__file__).parents[2] / "examples" / "run_onnx.py"

# in a process of its own: what is exported is the code without the tests' checks of shapes
COMMANDS = """
import json, sys
from detect.cli.app import main
for line in json.loads(sys.argv[1]):
    sys.argv = ["detect", *line]
    try:
        main()
    except SystemExit as stop:
        assert not stop.code, line
"""


@pytest.fixture
def run_commands(fresh_python) -> Callable[..., str]:
    """Run command lines in one other process; return what they print."""
    return lambda *lines: fresh_python(COMMANDS, json.dumps([[*map(str, line)] for line in lines]))


@pytest.fixture
def run_example(fresh_python) -> Callable[..., list[dict[str, Any]]]:
    """Run the example on an exported detector and images."""
    code = f"import runpy; runpy.run_path({str(EXAMPLE)!r}, run_name='__main__')"
    return lambda *arguments: json.loads(fresh_python(code, *arguments))


@pytest.fixture
def photos(tmp_path) -> Path:
    """Six images of odd sizes, three in colour."""
    folder = tmp_path / "photos"
    folder.mkdir()
    random = np.random.default_rng(0)
    names = sorted(path.name for path in IMAGES.iterdir())
    for number, (name, wh) in enumerate(
        zip(names[5::13], [(101, 67), (64, 97), (333, 257), (128, 128), (151, 149), (47, 90)], strict=True)
    ):
        grey = np.asarray(open_image(IMAGES, name).convert("L"), float)[..., None]
        image = Image.fromarray((grey * random.uniform(0.5, 1, 3)).astype(np.uint8)).resize(wh)
        (image if number % 2 else image.convert("L")).save(folder / f"{number}.png")
    return folder


def learnt(run: Path) -> Path:
    """Train a run's detector for some steps: with scores that are all alike, rounding decides what suppression keeps."""
    trained, checkpoint = load_detector(run), read_checkpoint(run / "best.pt")
    data = DetectionData(read_coco(NUCLEI, keypoints=True), IMAGES, resize="none", channels=trained.channels)
    batch = collate([data[place] for place in range(0, 80, 20)])
    angles = torch.rand(len(batch.keypoints.points), generator=torch.Generator().manual_seed(0))
    model = trained.model.train()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(STEPS):
        targets = batch.targets if trained.task == "boxes" else replace(batch.keypoints, angles=angles)
        loss = torch.stack(list(model.losses(batch.images, targets))).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    save_checkpoint(run / "best.pt", replace(checkpoint, weights=model.state_dict()))
    return run


def assert_example_is_predict(printed: list[dict[str, Any]], predicted: Path, photos: Path) -> int:
    """Compare what the example prints with the results of predict; return their number."""
    images = json.loads((predicted / "images.json").read_text("utf-8"))["images"]
    wanted = json.loads((predicted / "results.json").read_text("utf-8"))
    paths = sorted(map(str, photos.iterdir()))
    file_of = {image["id"]: str(photos / image["file_name"]) for image in images}
    for path in paths:
        groups = [
            [
                # a tenth of the angle: a tenth of a degree counts as a hundredth of a pixel
                [
                    row["category_id"] * 1000,
                    *row.get("bbox", row.get("keypoints")),
                    row["score"],
                    row.get("angle", 0) / 10,
                ]
                for row in rows
            ]
            for rows in (
                [row for row in wanted if file_of[row["image_id"]] == path],
                [row for row in printed if row["file_name"] == path],
            )
        ]
        assert len(groups[0]) == len(groups[1]) > 0, path
        apart = np.abs(np.array(groups[0])[:, None] - np.array(groups[1])[None]).max(axis=2)
        assert max(apart.min(axis=0).max(), apart.min(axis=1).max()) < 0.01, path  # pixels
    return len(printed)


def test_the_example_reproduces_predict_with_boxes_after_two_resize_rules(
    tmp_path, photos, trained, run_commands, run_example
):
    assert sum(bool(line.strip()) for line in EXAMPLE.read_text().splitlines()) < 50
    letterbox, stretch = "letterbox:160x128", "stretch:160x128"
    run = learnt(trained("boxes", data={"resize": letterbox, "channels": 3}, names={1: "nucleus"}, threshold=0.05))
    checkpoint = read_checkpoint(run / "best.pt")
    config = checkpoint.config.model_copy(
        update={"data": checkpoint.config.data.model_copy(update={"resize": stretch})}
    )
    save_checkpoint(tmp_path / "stretch" / "best.pt", replace(checkpoint, config=config))
    out, same = tmp_path / "out", tmp_path / "same"
    run_commands(
        ["export", run, "--original", "-o", out, "--images", photos],
        ["predict", run, photos, "-o", tmp_path / "found", "--num-pictures", 0],
        ["predict", tmp_path / "stretch", photos, "-o", tmp_path / "stretched", "--num-pictures", 0],
    )
    about = json.loads((out / "detector.json").read_text("utf-8"))
    assert {each["name"]: (each["dtype"], each["shape"]) for each in about["inputs"]} == {
        "images": ("float32", ["batch", 3, 128, 160]),
        "content": ("float64", ["batch", 4]),
        "original_hw": ("int64", ["batch", 2]),
    }
    assert [each["name"] for each in about["outputs"]] == ["boxes", "scores", "classes", "valid"]
    assert about["verified"]["images"] == 6
    assert about["verified"]["results"] > 5
    assert about["verified"]["largest_difference_px"] < 0.05
    assert assert_example_is_predict(run_example(out, *sorted(photos.iterdir())), tmp_path / "found", photos) > 5
    # the file is the same for every rule with this canvas: only the example places images otherwise
    same.mkdir()
    (same / "detector.onnx").hardlink_to(out / "detector.onnx")
    about["resize"] = describe_resize(parse_resize(stretch))
    (same / "detector.json").write_text(json.dumps(about), "utf-8")
    assert assert_example_is_predict(run_example(same, *sorted(photos.iterdir())), tmp_path / "stretched", photos) > 5


@pytest.mark.slow
def test_the_example_reproduces_predict_with_landmarks_and_the_file_has_their_heatmaps(
    tmp_path, photos, trained, run_commands, run_example
):
    import onnxruntime

    run = learnt(trained("landmarks", names={1: "nucleus"}, threshold=0.05, data={"resize": "letterbox:96"}))
    out = tmp_path / "out"
    printed = run_commands(
        ["export", run, "--original", "-o", out, "--images", photos, "--json"],
        ["predict", run, photos, "-o", tmp_path / "found", "--num-pictures", 0],
    )
    about = json.loads((out / "detector.json").read_text("utf-8"))
    assert about == json.loads(printed.splitlines()[0])
    assert about["keypoint_types"] == [{"name": "nucleus", "category_id": 1, "place": 0, "num_keypoints": 1}]
    assert (about["image"]["mode"], about["stride"], about["coordinates"]["frame"]) == ("L", 2, "original")
    assert assert_example_is_predict(run_example(out, *sorted(photos.iterdir())), tmp_path / "found", photos) > 5
    images = np.random.default_rng(0).random((1, 1, 96, 96), np.float32)
    inputs = {"images": images, "content": np.array([[0.0, 0, 96, 96]]), "original_hw": np.array([[96, 96]])}
    (heatmaps,) = onnxruntime.InferenceSession(str(out / "detector.onnx")).run(["heatmaps"], inputs)
    with torch.no_grad():
        wanted = load_detector(run).model(torch.from_numpy(images)).logits.sigmoid()
    torch.testing.assert_close(torch.from_numpy(heatmaps), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("own", [("directed", "stretch:96x64"), ("axis", "shortest:64:128")])
def test_the_example_reproduces_the_angles_of_predict(tmp_path, photos, trained, run_commands, run_example, own):
    own = dict(zip(("orientation", "resize"), own, strict=True))
    settings = {
        "names": {1: "nucleus"},
        "threshold": 0.05,
        "orientation_weight": 0.01,
    }  # learn points rather than angles
    run, out = learnt(trained("landmarks", data=own, **settings)), tmp_path / "out"
    run_commands(
        ["export", run, "--original", "-o", out, "--images", photos],
        ["predict", run, photos, "-o", tmp_path / "found", "--num-pictures", 0],
    )
    about = json.loads((out / "detector.json").read_text("utf-8"))
    assert [each["name"] for each in about["outputs"]] == ["points", "scores", "types", "valid", "angles", "heatmaps"]
    assert about["verified"]["largest_difference_deg"] < 0.1
    assert about["why_fixed_size"] is None
    printed = run_example(out, *sorted(photos.iterdir()))
    assert len({round(each["angle"], 3) for each in printed}) > 5
    assert assert_example_is_predict(printed, tmp_path / "found", photos) > 5


@pytest.mark.slow
def test_after_a_rule_of_many_canvases_the_file_takes_images_of_any_size(
    tmp_path, photos, trained, run_commands, run_example
):
    run = learnt(
        trained("boxes", data={"resize": "shortest:64:128", "channels": 3}, names={1: "nucleus"}, threshold=0.05)
    )
    run_commands(
        ["export", run, "--original", "-o", tmp_path / "out", "--images", photos],
        ["predict", run, photos, "-o", tmp_path / "found", "--num-pictures", 0],
    )
    about = json.loads((tmp_path / "out" / "detector.json").read_text("utf-8"))
    assert (about["inputs"][0]["shape"], about["why_fixed_size"]) == (["batch", 3, "height", "width"], None)
    assert about["verified"]["images"] == 6
    assert (
        assert_example_is_predict(run_example(tmp_path / "out", *sorted(photos.iterdir())), tmp_path / "found", photos)
        > 5
    )


@pytest.mark.slow
def test_boxes_go_to_a_file_checked_on_the_validation_images(tmp_path, trained, run_commands):
    run_commands(["export", trained("boxes", **ONE), "-o", tmp_path / "out", "--num-images", 4])
    about = json.loads((tmp_path / "out" / "detector.json").read_text("utf-8"))
    assert about["why_fixed_size"] == "data.resize=none does not bring images to one size"
    assert (about["verified"]["images"], about["verified"]["results"] > 0) == (4, True)
    assert [each["name"] for each in about["inputs"]] == ["images", "image_hw"]
    assert about["coordinates"]["frame"] == "canvas"
    assert about["classes"] == [{"category_id": 1, "name": "nucleus"}]


def test_torchvision_s_weights_load_into_its_own_retinanet(detect, tmp_path, trained):
    from detect.ops.torchvision_import import import_torchvision

    import_torchvision()
    from torchvision.models import resnet18
    from torchvision.models.detection import RetinaNet
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
    from torchvision.ops.feature_pyramid_network import LastLevelP6P7

    strides = (8, 16, 32, 64, 128)
    anchors = AnchorSet.of([[(4 * stride, 4 * stride)] for stride in strides], strides=strides)
    fields = {"backbone": "torchvision:resnet18", "num_convs": 4, "pyramid_channels": 256, "norm": None}
    folder = trained("boxes", anchors=anchors, data={"channels": 3}, **ONE, **fields)
    run = detect("export", folder, "--to", "torchvision", "-o", tmp_path)
    assert run.code == 0, run.err
    extractor = _resnet_fpn_extractor(resnet18(), 5, returned_layers=[2, 3, 4], extra_blocks=LastLevelP6P7(512, 256))
    sizes = AnchorGenerator(tuple((4 * stride,) for stride in strides), ((1.0,),) * 5)
    model = RetinaNet(extractor, 1, anchor_generator=sizes)
    missing = model.load_state_dict(torch.load(tmp_path / "torchvision.pt", weights_only=True), strict=False)
    assert [name for name in missing.missing_keys if "num_batches_tracked" not in name] == []
    assert [name for name in missing.unexpected_keys if ".fc." not in name] == []
    assert any("image_mean" in note for note in json.loads((tmp_path / "detector.json").read_text("utf-8"))["notes"])


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("boxes", ["--to", "torchvision"], "ResNets"),
        ("landmarks", ["--to", "torchvision"], "no landmark detector"),
        ("boxes", ["--to", "torchvision", "--original"], "--original: only for --to onnx"),
        ("boxes", ["--images", "nowhere"], "nowhere: No such file"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_no_file(refused, tmp_path, task, options, message, trained):
    assert message in refused("export", trained(task, **ONE), "-o", tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()
