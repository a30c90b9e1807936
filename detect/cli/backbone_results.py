"""Fields and layers of a model, printed as tables, as JSON objects and as CSV."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from detect.cli.output import show, show_table
from detect.errors import ConfigError
from detect.inspection.layers import Layer, LayerTable
from detect.inspection.level_profile import (
    LEVEL_TITLES,
    ModelProfile,
    ObjectProfile,
    growth_in_words,
    level_cells,
    notes_on,
)
from detect.inspection.receptive_field import MapField
from detect.text_formats import csv_text
from detect.wording import plural, significant

MAX_SHAPES = 3  # of the maps of one layer, in a printed table
LAYER_COLUMNS = ("name", "kind", "inputs", "outputs", "kernel", "parameters", "formula", "flops", "activation_bytes")


def print_profile(profile: ModelProfile, objects: ObjectProfile | None) -> None:
    """Print the table of levels, what else is known, and the objects beside the levels."""
    show(profile.name, style="bold")
    show_table(LEVEL_TITLES, [level_cells(profile, field) for field in profile.levels])
    if profile.layers:
        show(growth_in_words(profile.layers))
    for line in notes_on(profile):
        show(line)
    if objects is not None:
        show(f"\n{plural(len(objects.instances), 'object')}, resize {objects.instances.rule}", style="bold")
        for line in objects.in_words():
            show(line)


def profile_object(profile: ModelProfile, objects: ObjectProfile | None) -> dict[str, Any]:
    """A profile as one JSON object; pairs are (height, width) in pixels."""
    content: dict[str, Any] = {
        "model": profile.name,
        "image_hw": profile.tracked.image_hw,
        "levels": [_field_object(field, profile) for field in profile.levels],
        "layers": [_field_object(field, profile) for field in profile.layers],
        "sees_whole_image_by": list(profile.tracked.whole),
        "unknown_operators": list(profile.tracked.unknown),
        "notes": notes_on(profile),
    }
    return content if objects is None else {**content, "objects": objects_object(objects)}


def objects_object(objects: ObjectProfile) -> dict[str, Any]:
    """The objects beside the levels as one JSON object."""
    levels = [
        {
            "level": level.field.name,
            "stride": level.field.stride[0],
            "least_px": level.least_px,
            "effective_px": level.effective_px,
            "spans": int(level.spans.sum()),
            "suits": int(level.suits.sum()),
        }
        for level in objects.levels
    ]
    return {
        "objects": len(objects.instances),
        "resize": str(objects.instances.rule),
        "levels": levels,
        "suit_no_level": int(objects.unsuited.sum()),
        "too_small": int(objects.too_small.sum()),
        "too_long": int(objects.too_long.sum()),
        "annotation_ids": objects.instances.dataset.instances.ids[objects.unsuited].tolist(),
        "in_words": objects.in_words(),
    }


def _field_object(field: MapField, profile: ModelProfile) -> dict[str, Any]:
    own = {**asdict(field), "overlap": field.overlap, "units_apart": field.units_apart}
    effective = profile.effective.get(field.name)
    return own if effective is None else {**own, "effective": effective}


def parse_image_size(text: str, channels: int) -> tuple[int, ...]:
    """The (channels, height, width) of a text such as ``224x224``, ``1x28x28`` or ``224``.

    Raises:
        ConfigError: it is no such text.
    """
    if not re.fullmatch(r"[1-9]\d{0,4}(x[1-9]\d{0,4}){0,2}", text):
        raise ConfigError(f"--size: expected HEIGHTxWIDTH or CHANNELSxHEIGHTxWIDTH, such as 224x224, got {text!r}")
    numbers = [int(part) for part in text.split("x")]
    numbers = numbers * 2 if len(numbers) == 1 else numbers
    return tuple(numbers if len(numbers) == 3 else [channels, *numbers])


def print_layers(table: LayerTable, layers: Sequence[Layer], *, explain: bool) -> None:
    """Print the layers and the totals of the whole network."""
    show_table(
        (
            "layer",
            "kind",
            "input shapes",
            "output shapes",
            "kernel",
            "parameters",
            "= formula",
            "MFLOPs",
            "activations",
        ),
        [_layer_row(layer) for layer in layers],
    )
    if explain:
        _explain(layers)
    image = "x".join(map(str, table.image_chw))
    frozen = table.parameters - table.trainable
    note = f" ({frozen:,} of them frozen)" if frozen else ""
    costs = f"{significant(table.flops / 1e9, 3)} GFLOPs and {_bytes(table.activation_bytes)} of activations"
    show(f"\n{table.parameters:,} parameters{note}, {costs} for an image of {image}", style="bold")


def _explain(layers: Sequence[Layer]) -> None:
    """Print how output sizes follow, and why filters are as deep as they are."""
    show(
        "\nOutput size: (n + 2p - k)/s + 1 for size n, padding p, kernel k (a dilated one spans d(k - 1) + 1), stride s"
    )
    for layer in layers:
        for line in (*layer.sizes, *([layer.depth] if layer.depth else [])):
            show(f"  {layer.name}: {line}", soft_wrap=True)


def _layer_row(layer: Layer) -> list[str]:
    return [
        layer.name,
        layer.kind,
        _shapes(layer.inputs),
        _shapes(layer.outputs),
        layer.kernel,
        f"{layer.parameters:,}",
        layer.formula,
        f"{layer.flops / 1e6:,.1f}" if layer.flops else "",
        _bytes(layer.activation_bytes) if layer.activation_bytes else "",
    ]


def _shapes(shapes: Sequence[tuple[int, ...]]) -> str:
    shown = ["x".join(map(str, shape)) or "1" for shape in shapes[:MAX_SHAPES]]
    return ", ".join(shown) + (f", and {len(shapes) - MAX_SHAPES} more" if len(shapes) > MAX_SHAPES else "")


def _bytes(count: int) -> str:
    """A number of bytes in the unit that suits it.

    >>> _bytes(3_211_264), _bytes(40)
    ('3.1 MiB', '40 B')
    """
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"


def layers_object(table: LayerTable, layers: Sequence[Layer]) -> dict[str, Any]:
    """The layers and totals as one JSON object."""
    totals = ("parameters", "trainable", "flops", "activation_bytes")
    return {
        "image_chw": table.image_chw,
        "layers": [asdict(layer) for layer in layers],
        **{name: getattr(table, name) for name in totals},
    }


def layers_csv(layers: Sequence[Layer]) -> str:
    """The text of ``layers.csv``."""

    def cell(value: Any) -> Any:
        return " ".join("x".join(map(str, shape)) for shape in value) if isinstance(value, tuple) else value

    return csv_text(LAYER_COLUMNS, [[cell(getattr(layer, name)) for name in LAYER_COLUMNS] for layer in layers])
