"""Resolve the sections of a run from parsed TOML: types, rules, absolute paths, errors in words."""

import difflib
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Union

from pydantic import BaseModel, ValidationError

from megatron_rl.config.rules import check_rules
from megatron_rl.config.sections import RunConfig
from megatron_rl.errors import ConfigError


def resolve_sections(data: dict[str, Any]) -> RunConfig:
    """Build and check a RunConfig, but for what its stages change."""
    try:
        config = RunConfig.model_validate(data)
    except ValidationError as error:
        raise ConfigError("\n".join(explain(item) for item in error.errors())) from error
    check_rules(config)
    resolved: RunConfig = with_absolute_paths(config)
    return resolved


def explain(item: Any) -> str:
    """Return what is wrong with one key, and the nearest valid one, of an error of pydantic's."""
    location = _setting_at([str(part) for part in item["loc"]])
    key = ".".join(location)
    if item["type"] == "extra_forbidden":
        valid = _section_at(location[:-1]).model_fields
        close = difflib.get_close_matches(location[-1], valid, n=1, cutoff=0.5)
        where = ".".join(location[:-1])
        hint = (
            f"did you mean {'.'.join([*location[:-1], close[0]])}?"
            if close
            else f"valid keys of {where or 'the file'}: {', '.join(valid)}"
        )
        return f"unknown key {key}; {hint}"
    if item["type"] == "missing":
        return f"missing key {key}"
    return f"{key} = {item['input']!r}: {item['msg']}"


def _setting_at(location: Sequence[str]) -> Sequence[str]:
    """Drop the alternative that pydantic appends to the key of a union."""
    found: list[str] = []
    section: type[BaseModel] | None = RunConfig
    is_list = False
    for name in location:
        if is_list:
            # Before the number of an entry there may be an alternative as well.
            is_list = not name.isdecimal()
            found += [] if is_list else [name]
            continue
        if section is None:
            break
        found.append(name)
        field = section.model_fields.get(name)
        section, is_list = (None, False) if field is None else _section_type(field.annotation)
    return found


def _section_at(location: Sequence[str]) -> type[BaseModel]:
    section: type[BaseModel] = RunConfig
    for name in location:
        if name.isdecimal():
            continue
        inner, _ = _section_type(section.model_fields[name].annotation)
        assert inner is not None, location
        section = inner
    return section


def _section_type(annotation: Any) -> tuple[type[BaseModel] | None, bool]:
    """Return the section that a field holds, None for a plain value, and whether it holds a list
    of them."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is None:
        is_section = isinstance(annotation, type) and issubclass(annotation, BaseModel)
        return (annotation if is_section else None), False
    if origin is tuple:
        return _section_type(arguments[0])[0], True
    if origin is typing.Annotated:
        return _section_type(arguments[0])
    options = arguments if origin in (types.UnionType, Union) else ()
    found = (_section_type(option) for option in options)
    return next((pair for pair in found if pair[0] is not None), (None, False))


def with_absolute_paths(section: Any) -> Any:
    """Resolve every Path against the working folder, so that a resumed run finds its files."""
    values: dict[str, Any] = {}
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, Path):
            # An interpreter in a virtual environment is a link that must not be followed.
            values[name] = value.expanduser().absolute()
        elif isinstance(value, BaseModel):
            values[name] = with_absolute_paths(value)
        elif isinstance(value, tuple) and any(isinstance(entry, BaseModel) for entry in value):
            values[name] = tuple(with_absolute_paths(entry) for entry in value)
    return section.model_copy(update=values)
