"""Run what `detect export RUN --original -o exported` wrote: `python run_onnx.py exported photo.jpg ...` prints results."""

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def place(rule: dict, wh: np.ndarray) -> tuple:
    """Where the resize rule puts an image of this size: (size, canvas size, offset, scale), each (x, y)."""
    scale, offset, kind = np.ones(2), np.zeros(2), rule["kind"]
    if kind == "shortest":
        size = np.floor(wh * min(rule["short"] / wh.min(), rule["long"] / wh.max()) + rule["rounding"]).clip(1)
        return size, -(-size // rule["multiple"]) * rule["multiple"], offset, size / wh
    canvas = wh if kind == "none" else np.array([rule["width"], rule["height"]])
    if kind in ("stretch", "letterbox"):
        scale = canvas / wh if kind == "stretch" else np.repeat((canvas / wh).min(), 2)
    size = np.rint(wh * scale).clip(1)
    if kind == "letterbox":
        offset = np.rint((canvas - size) / 2 - 0.1)
    return size, canvas, offset, scale


def detect(session: onnxruntime.InferenceSession, about: dict, path: str) -> Iterator[dict]:
    image = ImageOps.exif_transpose(Image.open(path))
    size, canvas, offset, scale = place(about["resize"], wh := np.array(image.size))
    (width, height), (x, y) = size.astype(int), offset.astype(int)
    bands = [band.resize((width, height), Image.BILINEAR) for band in image.convert(about["image"]["mode"]).split()]
    pixels = np.zeros((1, len(bands), *canvas[::-1].astype(int)), np.float32)
    pixels[0, :, y : y + height, x : x + width] = np.stack(bands) / np.float32(255)
    content = np.concatenate([offset, offset + wh * scale])
    inputs = {"images": pixels, "content": content[None], "original_hw": wh[None, ::-1]}
    names = [each["name"] for each in about["outputs"]]
    found = {name: each[0] for name, each in zip(names, session.run(names, inputs), strict=True)}
    columns = [found.get(name, found["scores"]) for name in (names[0], "scores", names[2], "angles")]
    for (left, top, *end), score, kind, angle in zip(*(each[found["valid"]].tolist() for each in columns), strict=True):
        named = about["classes" if end else "keypoint_types"][kind]
        if end:
            shape = {"bbox": [left, top, end[0] - left, end[1] - top]}
        else:  # the others of its category are not predicted
            before, after = named["place"], named["num_keypoints"] - named["place"] - 1
            shape = {"keypoints": [0, 0, 0] * before + [left, top, 1] + [0, 0, 0] * after}
            shape |= {"angle": angle} if "angles" in found else {}
        yield {"file_name": path, "category_id": named["category_id"], **shape, "score": score}


if __name__ == "__main__":
    text, network = (Path(sys.argv[1], name).read_bytes() for name in ("detector.json", "detector.onnx"))
    if hashlib.sha256(network).hexdigest() != (about := json.loads(text))["sha256"]:
        sys.exit(f"{sys.argv[1]}/detector.onnx: damaged, or of another export than detector.json")
    session = onnxruntime.InferenceSession(network)
    print("[" + ",\n ".join(json.dumps(each) for path in sys.argv[2:] for each in detect(session, about, path)) + "]")
