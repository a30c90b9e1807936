"""The examples run, and are as short as they claim to be."""

from __future__ import annotations

from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
CHECKS = {
    "custom_detector": """
m.torch.manual_seed(0)
detector = m.Detector(num_classes=1)
truth = m.detect.ImageTargets(m.torch.tensor([[30.0, 40.0, 52.0, 60.0]]), m.torch.tensor([0]))
optimizer, images = m.torch.optim.Adam(detector.parameters(), 3e-4), m.torch.rand(1, 3, 128, 128)
losses = []
for _ in range(12):
    loss = detector(images, [truth])
    optimizer.zero_grad(), loss.backward(), optimizer.step()
    losses.append(loss.item())
assert min(losses[-3:]) < 0.95 * losses[0], losses
assert len(detector.eval()(images)) == 1
""",
    "torchvision_retinanet": """
import torch
images, targets = [torch.rand(3, 64, 64)], [{"boxes": torch.tensor([[5.0, 5, 40, 40]]), "labels": torch.tensor([1])}]
m.model.transform.min_size, m.model.transform.max_size = (128,), 128
assert set(m.model.train()(images, targets)) == {"classification", "bbox_regression"}
assert set(m.model.eval()(images)[0]) == {"boxes", "scores", "labels"}
assert m.model.head.num_anchors == tuple(m.grid.num_anchors)
""",
}


@pytest.mark.parametrize(("name", "most_lines"), [("custom_detector", 40), ("torchvision_retinanet", 20)])
def test_an_example_runs_and_its_detector_learns(name, most_lines, fresh_python):
    path = EXAMPLES / f"{name}.py"
    assert sum(bool(line.strip()) for line in path.read_text().splitlines()) < most_lines
    code = f"import runpy, types; m = types.SimpleNamespace(**runpy.run_path({str(path)!r}))\n{CHECKS[name]}"
    fresh_python(code)
