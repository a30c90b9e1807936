"""Heads and post-processing compiled and exported: each in a process of its own.

The checks of shapes that tests run with are not to be part of a graph.
"""

from __future__ import annotations

from importlib.util import find_spec

import pytest

HEAD_COMPILED = """
import onnxruntime, torch
from torch import Generator, nn
from torch.export import Dim
from torch.testing import assert_close
from detect.heads.fpn import FeaturePyramid
from detect.heads.retinanet import HeadOutput, RetinaNetHead

class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.pyramid = FeaturePyramid((4, 6), 64)
        self.head = RetinaNetHead(64, (2, 2, 1, 1), 3, num_convs=1, norm="group")

    def forward(self, c4, c5):
        return self.head(self.pyramid([c4, c5]))

def inputs(batch, height, width):
    draws = Generator().manual_seed(height)
    halved = -(-height // 2), -(-width // 2)
    return tuple(torch.randn(batch, *shape, generator=draws) for shape in ((4, height, width), (6, *halved)))

network = Network().eval()
sizes = (1, 16, 16), (3, 9, 31)
free = {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}

compiled = torch.compile(network, fullgraph=True, dynamic=True, backend="eager")
program = torch.export.export(network, inputs(2, 10, 14), dynamic_shapes=(free, free))
onnx = torch.onnx.export(program, dynamo=True, verbose=False).model_proto
session = onnxruntime.InferenceSession(onnx.SerializeToString())
for size in sizes:
    expected = network(*inputs(*size))
    for run in (compiled, program.module()):
        output = run(*inputs(*size))
        assert isinstance(output, HeadOutput)
        assert_close(tuple(output), tuple(expected))
    feed = {node.name: value.numpy() for node, value in zip(session.get_inputs(), inputs(*size), strict=True)}
    output = [torch.from_numpy(array) for array in session.run(None, feed)]
    assert_close(output, list(expected), rtol=1e-4, atol=1e-5)
"""


@pytest.mark.slow  # whole detectors are exported in tests/detectors/test_onnx.py
def test_a_heads_outputs_are_the_same_compiled_exported_and_as_onnx_at_any_size(fresh_python):
    fresh_python(HEAD_COMPILED)


DETECTIONS_EXPORTED = """
import sys, warnings
import torch
from detect.anchors.generator import GridAnchors
from detect.heads.postprocess import PostProcess
from detect.heads.retinanet import HeadOutput
from detect.ops.grid_matcher import LevelGrid
warnings.simplefilter("ignore")

random = torch.Generator().manual_seed(0)
corner = torch.rand(120, 2, generator=random) * 100
boxes = torch.cat([corner, corner + 10 + torch.rand(120, 2, generator=random) * 50], dim=1)
anchors = GridAnchors(boxes, tuple(LevelGrid(1, 1, (1.0, 1.0), level) for level in boxes.split([100, 20])))
options = {} if sys.argv[1] == "hard" else {"class_agnostic": True, "score_threshold": [0.05, 0.1, 0.2]}
# mmdetection drops boxes before suppression
post = PostProcess(convention="mmdet", detections_per_image=40, nms=sys.argv[1], **options)


class Model(torch.nn.Module):
    def forward(self, logits, deltas, image_hw, original_hw):
        sizes = {"image_hw": image_hw, "original_hw": original_hw}
        return post.padded(HeadOutput(logits, deltas), anchors, **sizes, max_candidates=90)


def inputs(b):
    logits, deltas = torch.randn(b, 120, 3, generator=random) - 1.5, torch.randn(b, 120, 4, generator=random) * 0.3
    logits[-1] -= 3  # fewer than 40 in this image
    sizes = torch.randint(60, 130, (2, b, 2), generator=random)
    return logits, deltas, sizes[0], sizes[1]


def check(run):
    for b in (1, 3):
        values = inputs(b)
        expected = model(*values)
        assert expected.valid.any() and not expected.valid.all()
        for found, wanted in zip(run(*values), expected, strict=True):
            torch.testing.assert_close(torch.as_tensor(found), wanted)


model, batch = Model(), torch.export.Dim("b")
program = torch.export.export(model, inputs(2), dynamic_shapes=({0: batch},) * 4)
check(program.module())
if len(sys.argv) > 2:
    import onnxruntime
    torch.onnx.export(program, dynamo=True, verbose=False).save(sys.argv[2])
    session = onnxruntime.InferenceSession(sys.argv[2])
    names = [value.name for value in session.get_inputs()]
    check(lambda *values: session.run(None, {name: value.numpy() for name, value in zip(names, values)}))
"""


@pytest.mark.slow  # whole detectors are exported in tests/detectors/test_onnx.py
@pytest.mark.parametrize("nms", ["hard", "linear", "gaussian"])
def test_padded_detections_are_the_same_exported_and_as_onnx(tmp_path, nms, fresh_python):
    with_onnx = all(find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime"))
    fresh_python(DETECTIONS_EXPORTED, nms, *([str(tmp_path / "post.onnx")] if with_onnx else []))


DETECTIONS_TRACED = """
import torch
from detect import AnchorGenerator, AnchorSet, PostProcess
from detect.heads.retinanet import HeadOutput
from detect.errors import ExportError

anchors = AnchorGenerator(AnchorSet.of([[(8, 8)]], strides=(8,))).generate([(1, 1)])


def found(logits):
    return PostProcess().padded(HeadOutput(logits, torch.zeros(1, 1, 4)), anchors, image_hw=[(8, 8)])


try:
    torch.jit.trace(found, torch.zeros(1, 1, 2))
except ExportError as error:
    print(error)
"""


def test_suppression_refuses_to_be_traced(fresh_python):
    # a trace would keep the number of rounds that it took for the one input
    refusal = "suppression cannot be traced: use torch.export, or trace the head without it\n"
    assert fresh_python(DETECTIONS_TRACED) == refusal


DETECTIONS_COMPILED = """
import sys
import torch
from torch.testing import assert_close
from detect import AnchorGenerator, AnchorSet, PostProcess
from detect.heads.retinanet import HeadOutput

anchors = AnchorGenerator(AnchorSet.of([[(10, 20), (20, 10)]], strides=(8,))).generate([(8, 8)])
random = torch.Generator().manual_seed(0)


class Model(torch.nn.Module):
    def __init__(self, post):
        super().__init__()
        self.post = post

    def forward(self, logits, deltas, image_hw):
        return self.post(HeadOutput(logits * 2, deltas), anchors, image_hw=image_hw)


def batch(shift):
    logits, deltas = torch.randn(2, 128, 3, generator=random) + shift, torch.randn(2, 128, 4, generator=random) * 0.3
    return logits, deltas, torch.tensor([[64, 60], [50, 64]])


def tensors(found):
    return [tuple(vars(each).values()) for each in found] if isinstance(found, list) else list(found)


post = {"plain": PostProcess(), "padded": PostProcess().padded, "soft": PostProcess(nms="gaussian").padded}[sys.argv[1]]
model, numbers = Model(post), set()
compiled = torch.compile(model, backend="eager")
for shift in (-1.0, -3.0, 0.0, -9.0, -2.0, -2.5):
    values = batch(shift)
    expected = model(*values)
    assert_close(tensors(compiled(*values)), tensors(expected))
    torch.compiler.set_stance("fail_on_recompile")
    numbers.add(sum(len(each.scores) for each in expected) if isinstance(expected, list) else int(expected.valid.sum()))
assert len(numbers) > 3, numbers
"""


@pytest.mark.parametrize(
    "form", ["plain", *(pytest.param(form, marks=pytest.mark.slow) for form in ("padded", "soft"))]
)
def test_compiled_post_processing_is_not_compiled_again_for_another_batch(form, fresh_python):
    fresh_python(DETECTIONS_COMPILED, form)
