"""Commands take ``--config``: a YAML file whose fields are their options, checked as the command line checks them."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from detect.cli.output import busy
from detect.cli.terminal import CHECKED
from detect.errors import ConfigError


def hyphens(text: str) -> str:
    """The form in which options and choices are compared: ``max_iou`` means ``max-iou``."""
    return text.replace("_", "-")


def register(app: typer.Typer, command: Callable[..., None]) -> None:
    """Add a function to an app as a command that also takes ``--config``.

    A parameter whose type is a dataclass stands for the options that are its fields: several commands can share them.
    """
    options: list[inspect.Parameter] = []
    shared: dict[str, Any] = {}
    for name, each in inspect.signature(command, eval_str=True).parameters.items():
        if dataclasses.is_dataclass(each.annotation):
            shared[name] = each.annotation
            hints = get_type_hints(each.annotation, include_extras=True)
            own = inspect.signature(shared[name]).parameters.values()
            options += [field.replace(kind=field.KEYWORD_ONLY, annotation=hints[field.name]) for field in own]
        else:
            options.append(each.replace(kind=each.KEYWORD_ONLY))
    options.append(inspect.Parameter("config", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Config))

    words = " ".join(dict.fromkeys(["detect", app.info.name or "detect", command.__name__]))  # as it is typed

    def run(**given: Any) -> None:
        del given["config"]  # its callback has made its fields the defaults
        for name, kind in shared.items():
            given[name] = kind(**{field.name: given.pop(field.name) for field in dataclasses.fields(kind)})
        with busy(words):
            command(**given)

    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__annotations__ = {each.name: each.annotation for each in options}
    run.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
    app.command()(run)


def read_config(context: typer.Context, path: str | Path) -> dict[str, Any]:
    """The values that a YAML file sets, by parameter of the context's command; null sets nothing."""
    from detect.text_formats import read_yaml

    content = read_yaml(path, ConfigError)
    if content is not None and not isinstance(content, dict):
        raise ConfigError(f"{path}: expected fields such as 'k: 9', got {type(content).__name__}")
    given = {str(field): value for field, value in (content or {}).items() if value is not None}
    return dict(_checked(context, path, field, value) for field, value in given.items())


def _checked(context: typer.Context, path: str | Path, field: str, value: Any) -> tuple[str, Any]:
    """The name of a field's parameter, and the value as text, checked."""
    parameters: dict[str, Any] = {}
    for each in context.command.params:
        names = [str(each.name)] if each.param_type_name == "argument" else each.opts
        parameters |= {hyphens(name.lstrip("-")): each for name in names if name not in ("--config", "--help")}
    parameter = parameters.get(hyphens(field))
    if parameter is None:
        close = difflib.get_close_matches(hyphens(field), parameters, n=1)
        raise ConfigError(f"{path}: no option {field!r}{f', did you mean {close[0]!r}?' if close else ''}")
    items = [str(each) for each in (value if isinstance(value, list) else [value])]
    several = parameter.nargs == -1 or getattr(parameter, "multiple", False)
    given = items if several else ",".join(items)  # text, so that k: 3.7 is as wrong as -k 3.7
    try:
        if isinstance(value, dict):
            raise typer.BadParameter(f"expected a value, got {value!r}")
        if not all(each.strip() for each in items):
            raise typer.BadParameter("an empty text")
        parameter.process_value(context, given)
    except typer.BadParameter as error:
        raise ConfigError(f"{path}: {field}: {error.message.removeprefix(CHECKED)}") from None
    return parameter.name, given


def _use(context: typer.Context, path: Path | None) -> Path | None:
    if path is not None and not context.resilient_parsing:
        context.default_map = read_config(context, path)
    return path


Config = Annotated[
    Path | None,
    typer.Option(
        callback=_use, is_eager=True, help="YAML file with any of these options as fields; the command line wins."
    ),
]
