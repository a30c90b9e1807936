"""Every field of a training configuration, for people who write one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from json import dumps
from typing import Any

import typer

Schema = Mapping[str, Any]
BOUNDS = (
    ("minimum", "from {}"),
    ("exclusiveMinimum", "above {}"),
    ("maximum", "to {}"),
    ("exclusiveMaximum", "below {}"),
)
KINDS = {"null": "null", "boolean": "true | false", "string": "text"}


def show_fields(wanted: bool) -> None:
    """Print the fields and leave, if they are wanted: the callback of an option."""
    if not wanted:
        return
    from detect.cli.output import console, plain, table
    from detect.training.config import TrainConfig

    rows = table("field", "default", "takes", "what it is")
    for column in rows.columns[1:]:
        column.justify = "left"
    for name, field in fields_of(TrainConfig.model_json_schema()):
        default = dumps(field["default"]).strip('"') if "default" in field else "needed"
        rows.add_row(name, *map(plain, (default, takes(field), field.get("description", ""))))
    console().print(rows)
    raise typer.Exit


def fields_of(schema: Schema) -> Iterator[tuple[str, Schema]]:
    """Names as they are set on the command line, ``section.field``, and what JSON Schema says of each."""
    for name, field in schema["properties"].items():
        if "$ref" not in field:
            yield name, field
            continue
        section = schema["$defs"][field["$ref"].rpartition("/")[2]]
        for inner, each in section["properties"].items():
            yield f"{name}.{inner}", each


def takes(field: Schema) -> str:
    """The values that a field takes, in words.

    >>> takes({"type": "integer", "minimum": 1, "maximum": 9}), takes({"enum": ["l1", "giou"], "type": "string"})
    ('from 1 to 9', 'l1 | giou')
    >>> takes({"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"type": "null"}]})
    'above 0 | null'
    """
    if "anyOf" in field:
        return " | ".join(map(takes, field["anyOf"]))
    if "enum" in field:
        return " | ".join(map(str, field["enum"]))
    kind = field["type"]
    if kind == "array":
        inner = field.get("items") or field["prefixItems"][0]
        return f"[{takes(inner)}, ...]" if "items" in field else f"[low, high], {takes(inner)}"
    bounds = [words.format(f"{field[bound]:,}".removesuffix(".0")) for bound, words in BOUNDS if bound in field]
    return " ".join(bounds) or ("path" if field.get("format") == "path" else KINDS.get(kind, str(kind)))
