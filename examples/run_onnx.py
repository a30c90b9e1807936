"""Run a detector on photos without PyTorch: ``python run_onnx.py exported photo.jpg ...`` prints COCO results.

``exported`` is what ``detect export RUN --original -o exported`` wrote; the results are those of ``detect predict``.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def place(rule: dict, wh: np.ndarray) -> tuple:
    """Where the resize rule puts an image of this size: (size, canvas size, offset, scale), each (x, y)."""
    scale, offset, canvas, kind = np.ones(2), np.zeros(2), wh, rule["kind"]
    if kind == "shortest":
        size = np.floor(wh * min(rule["short"] / wh.min(), rule["long"] / wh.max()) + rule["rounding"]).clip(1)
        return size, -(-size // rule["multiple"]) * rule["multiple"], offset, size / wh
    if kind != "none":
        canvas = np.array([rule["width"], rule["height"]])
    if kind in ("stretch", "letterbox"):
        scale = canvas / wh if kind == "stretch" else np.repeat((canvas / wh).min(), 2)
    size = np.rint(wh * scale).clip(1)
    if kind == "letterbox":
        offset = np.rint((canvas - size) / 2 - 0.1)
    return size, canvas, offset, scale


def detect(session: onnxruntime.InferenceSession, about: dict, path: str) -> list[dict]:
    image = ImageOps.exif_transpose(Image.open(path))
    wh = np.array(image.size)
    size, canvas, offset, scale = place(about["resize"], wh)
    (width, height), (x, y) = size.astype(int), offset.astype(int)
    bands = [band.resize((width, height), Image.BILINEAR) for band in image.convert(about["image"]["mode"]).split()]
    pixels = np.zeros((1, len(bands), *canvas[::-1].astype(int)), np.float32)
    pixels[0, :, y : y + height, x : x + width] = np.stack(bands) / np.float32(255)
    content = np.concatenate([offset, offset + wh * scale])
    inputs = {"images": pixels, "content": content[None], "original_hw": wh[None, ::-1]}
    positions, scores, kinds, valid = (each[0] for each in session.run(None, inputs)[:4])
    boxes, results = about["task"] == "boxes", []
    for (x0, y0, *end), score, kind in zip(
        positions[valid].tolist(), scores[valid].tolist(), kinds[valid], strict=True
    ):
        found = {"bbox": [x0, y0, end[0] - x0, end[1] - y0]} if boxes else {"keypoints": [x0, y0, 1]}
        named = about["classes" if boxes else "keypoint_types"][kind]
        results.append({"file_name": path, "category_id": named["category_id"], **found, "score": score})
    return results


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    session = onnxruntime.InferenceSession(folder / "detector.onnx")
    about = json.loads((folder / "detector.json").read_text())
    print(json.dumps([result for path in sys.argv[2:] for result in detect(session, about, path)]))
