"""Commands take ``--config``: a YAML file whose fields are their options, checked as the command line checks them."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from detect.errors import ConfigError

NOT_FIELDS = ("--config", "--help")


def hyphens(text: str) -> str:
    """The form in which options and choices are compared: ``max_iou`` means ``max-iou``."""
    return text.replace("_", "-")


def register(app: typer.Typer, command: Callable[..., None]) -> Callable[..., None]:
    """Add a function to an app as a command that also takes ``--config``.

    A parameter whose type is a dataclass stands for the options that are its fields: several commands can share them.
    """
    parameters = inspect.signature(command, eval_str=True).parameters
    shared: dict[str, Any] = {
        name: each.annotation for name, each in parameters.items() if dataclasses.is_dataclass(each.annotation)
    }

    def run(**given: Any) -> None:
        del given["config"]  # its callback has made its fields the defaults
        for name, kind in shared.items():
            given[name] = kind(**{field.name: given.pop(field.name) for field in dataclasses.fields(kind)})
        command(**given)

    options = {each.name: each for each in _options(command)}
    options["config"] = inspect.Parameter("config", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Config)
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__annotations__ = {name: each.annotation for name, each in options.items()}
    run.__signature__ = inspect.Signature(list(options.values()))  # type: ignore[attr-defined]
    app.command()(run)
    return command


def _options(command: Callable[..., None]) -> Iterator[inspect.Parameter]:
    for each in inspect.signature(command, eval_str=True).parameters.values():
        if not dataclasses.is_dataclass(each.annotation):
            yield each.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            continue
        hints = get_type_hints(each.annotation, include_extras=True)
        for field in dataclasses.fields(each.annotation):
            default = inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default
            yield inspect.Parameter(
                field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hints[field.name]
            )


def read_config(context: typer.Context, path: str | Path) -> dict[str, Any]:
    """The values that a YAML file sets, by parameter of the context's command; null sets nothing.

    Raises:
        ConfigError: the file cannot be read, or a field is unknown, of the wrong type or out of range.
    """
    import yaml

    try:
        content = yaml.safe_load(Path(path).read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: not YAML ({' '.join(str(error).split())})") from None
    if content is not None and not isinstance(content, dict):
        raise ConfigError(f"{path}: expected fields such as 'k: 9', got {type(content).__name__}")
    given = {str(field): value for field, value in (content or {}).items() if value is not None}
    return dict(_checked(context, path, field, value) for field, value in given.items())


def _checked(context: typer.Context, path: str | Path, field: str, value: Any) -> tuple[str, Any]:
    """The name of a field's parameter, and the value as text, checked."""
    parameters = {hyphens(name): each for name, each in _fields(context.command)}
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
        parameter.process_value(context, given)
    except typer.BadParameter as error:
        raise ConfigError(f"{path}: {field}: {error.message}") from None
    return parameter.name, given


def _fields(command: Any) -> Iterator[tuple[str, Any]]:
    """The names that fields have, as they are typed but for the dashes."""
    for each in command.params:
        names = [each.name] if each.param_type_name == "argument" else each.opts
        yield from ((name.lstrip("-"), each) for name in names if name not in NOT_FIELDS)


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
